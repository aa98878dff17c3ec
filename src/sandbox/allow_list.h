// SPDX-License-Identifier: Apache-2.0
// The system calls that a running VM may make: the policy, apart from what enforces it (filter.h).
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace rhea::sandbox {

// A condition on one argument: (argument & mask) == value.
struct ArgumentRule {
  uint8_t argument;
  uint64_t mask;
  uint64_t value;
};

// One call that is allowed, under all of its conditions. A call that stands in a list several times is allowed under
// the conditions of any of its rows.
struct Rule {
  enum class Verdict : uint8_t {
    kAllow,
    kAbsent,  // fails with ENOSYS, as on an older kernel: the C library then takes another way
  };
  int call;
  const char* reason;
  std::array<ArgumentRule, 2> when{};
  uint8_t condition_count = 0;
  Verdict verdict = Verdict::kAllow;
};

// Lists for once the machine is complete and about to run. What is left to a thread that runs guest code:
std::span<const Rule> vcpu_rules();
// Beyond that, to a thread that runs an event loop or works for one: the main thread, the devices' threads.
std::span<const Rule> device_rules();
// Beyond that, to all threads, where /dev/kvm executes the guest.
std::span<const Rule> kvm_rules();
// Beyond that, where sockets of the process wait for connections (the debugger's).
std::span<const Rule> connection_rules();
// Beyond that, to the thread of a user-mode network, which acts for the guest through this host's sockets.
std::span<const Rule> network_rules();
std::span<const Rule> tap_rules();
// tgkill() takes the process's own id, which no constant table knows: arguments that equal this are replaced by it.
inline constexpr uint64_t kOwnProcess = 0x7fff'ffff'0000'0001;

}  // namespace rhea::sandbox
