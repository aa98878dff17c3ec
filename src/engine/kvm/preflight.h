// SPDX-License-Identifier: Apache-2.0
// Is there a /dev/kvm here that is worth using? Decides what `--engine auto` means, and says why.
#pragma once

#include <string>

namespace rhea::engine_kvm {

// Where to look; tests bring their own.
struct HostFiles {
  std::string device = "/dev/kvm";
  std::string cpuinfo = "/proc/cpuinfo";
  std::string modules = "/sys/module";
};

struct Preflight {
  enum class Verdict {
    kHardware,      // the processor's own virtualization: use it
    kSoftware,      // works, but the guest's kernel is emulated in the host's: only for those who ask for it
    kAbsent,        // no such device
    kNotPermitted,  // there, and not for this user
    kUnusable,      // there, and broken, busy or too old
  };
  Verdict verdict = Verdict::kAbsent;
  std::string reason;  // a clause, without a full stop
  std::string remedy;  // what to do about it, or empty

  bool usable() const { return verdict == Verdict::kHardware || verdict == Verdict::kSoftware; }
};

// Opens the device and creates an empty VM on it for a moment. Any thread.
Preflight examine_host(const HostFiles& files = {});

}  // namespace rhea::engine_kvm
