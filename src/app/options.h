// SPDX-License-Identifier: Apache-2.0
// The command line of `rhea`.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/image_command.h"
#include "base/error.h"
#include "base/fd.h"
#include "machine/registry/registry.h"

namespace rhea::app {

enum class ConsoleKind { kTty, kStdio, kFile, kNone };
enum class ClockKind { kHost, kInstructions };

struct RunOptions {
  std::string what;       // "debian", a disk image or a kernel, as the user named it; empty: only what options say
  bool snapshot = false;  // what the guest writes to disks is thrown away
  bool fresh = false;     // with a system that Rhea makes: its disk starts anew
  std::string mirror;     // with a system that Rhea makes: where its packages come from
  std::string kernel;
  std::vector<std::string> initrds;
  std::string command_line;
  std::vector<std::string> oem_strings;  // SMBIOS
  uint64_t memory_bytes = uint64_t{512} << 20;
  unsigned cpu_count = 1;
  std::string cpu_model = "max";
  std::string engine = "auto";
  std::string name;           // empty: the system's, or "rhea"
  bool memory_given = false;  // the user said how much
  std::vector<machine::DiskOptions> disks;
  std::vector<std::shared_ptr<base::UniqueFd>> held_files;  // have no name any more: disks name their descriptors
  machine::VirtioTransport transport = machine::VirtioTransport::kPci;
  std::vector<machine::NetworkOptions> networks;
  std::vector<net::Forward> forwards;  // to the first user network
  std::string capture;
  bool balloon = true;
  uint64_t balloon_size_bytes = 0;  // to which the guest shall shrink; 0: not at all
  ConsoleKind console = ConsoleKind::kStdio;
  bool virtio_console = false;  // the console is the virtio device's, not the first serial port's
  struct Port {
    std::string name, path;
  };
  std::vector<Port> ports;  // of the virtio console, beside the terminal
  std::string console_path;
  bool reboot = true;
  bool sandbox = true;
  std::string traces;
  bool statistics = false;
  bool debug_exit = false;
  std::string debugcon;  // empty: none; "stdio" or a path
  std::string gdb;
  bool gdb_wait = false;
  int dbt_opt = 1;
  uint64_t dbt_verify = 0;
  uint64_t dbt_cache_bytes = uint64_t{256} << 20;
  std::string dbt_perf_map;
  ClockKind clock = ClockKind::kHost;
};

// Does an option ask for what only the dbt engine has?
bool asks_for_dbt(const RunOptions& options);

// What the command line asks for: something to print (help, version), a VM to run, or work on a disk image.
struct Invocation {
  std::optional<RunOptions> run;
  std::optional<ImageCommand> image = std::nullopt;
  std::string print;
};

// The one that forwards lead to; null where there is none.
template <class Networks>
auto* first_user_network(Networks& networks) {
  const auto found = std::ranges::find(networks, machine::NetworkOptions::Kind::kUser, &machine::NetworkOptions::kind);
  return found == networks.end() ? nullptr : &*found;
}

// Errors (kInvalidArgument): usage, in one line, with the nearest right word where one is near.
Result<Invocation> parse_command_line(int argc, const char* const* argv);

}  // namespace rhea::app
