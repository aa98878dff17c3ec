// SPDX-License-Identifier: Apache-2.0
// `rhea run debian`: a Debian system made once from Debian's packages, and machines that start from it.
//
// On the host: IMAGES/debian-12/{base.raw,vmlinuz,initrd} is the system as it was made, never written again;
// IMAGES/debian-12/NAME.qcow2 holds what the machine NAME has written since. IMAGES is images_folder().
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace rhea::provision {

// Where images are kept: $XDG_DATA_HOME/rhea/images, or ~/.local/share/rhea/images. Errors: neither variable is set.
Result<std::string> images_folder();

// Whether `word` names a system that is made here ("debian", "debian:12"). Errors (kInvalidArgument): a release of
// Debian that is not. nullopt: anything else, a file for one.
Result<std::optional<std::string>> known_system(std::string_view word);

// Name of a machine: also its host name and part of a file's. Errors: kInvalidArgument.
Status check_machine_name(std::string_view name);

struct DebianOptions {
  std::string images;       // images_folder()
  std::string name;         // of the machine
  bool fresh = false;       // start with a new disk; the old one is kept as NAME.qcow2.old
  FILE* messages = stderr;  // where progress is shown
  bool terminal = false;    // and whether that is a terminal
  std::string keys_folder;  // public ssh keys are read from here, *.pub; empty: none
  std::string mirror;       // archive that packages come from, when the system is made and later; empty: Debian's
};

// What it takes to start the machine.
struct DebianMachine {
  std::string kernel, initrd, disk;  // files; the disk is qcow2
  std::string command_line;
  std::vector<std::string> oem_strings;                     // SMBIOS: texts that its systemd reads
  std::vector<std::shared_ptr<base::UniqueFd>> held_files;  // the kernel's and initrd's, if they have no name
  std::string kernel_note;             // what is to be said of the kernel that starts; empty: nothing
  size_t keys = 0, keys_left_out = 0;  // ssh keys that may log in; those that there was no room for
};

// Makes what is not there yet: the system (a minute or two), the machine's disk. Safe against others that do the same
// at the same moment. Errors say what is missing or what failed; nothing half-made stays.
Result<DebianMachine> prepare_debian(const DebianOptions& options);

// --- for tests ---
// The keys of all *.pub files but certificates, shortest first, each as "TYPE BASE64".
std::vector<std::string> public_keys(const std::string& folder);
// The percentage and the words for a line that mmdebstrap prints; nullopt for a line that says nothing of it.
struct Stage {
  int percent;
  std::string_view what;
};
std::optional<Stage> stage_of(std::string_view line);

}  // namespace rhea::provision
