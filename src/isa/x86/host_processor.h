// SPDX-License-Identifier: Apache-2.0
// For tests: a traced child that executes single instructions on the host's processor. The instruction ends where its
// page does, so that a fetch from the next page shows that it is longer than what stands there; SIGILL shows that the
// processor knows no such instruction.
#pragma once

#include <signal.h>
#include <sys/user.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "isa/x86/insn.h"

namespace rhea::isa::x86 {

class HostProcessor {
 public:
  static constexpr size_t kPageBytes = 4096;
  static constexpr uint64_t kCodePage = 0x30000000;  // below 4 GiB for 32-bit code; the page after it is not mapped
  static constexpr uint64_t kDataPage = 0x31000000;  // RSP points to its middle

  enum class Outcome { kUndefined, kExecutedOrFaulted, kFailed };
  struct Probe {
    Outcome outcome = Outcome::kFailed;
    unsigned length = 0;
  };

  HostProcessor();
  ~HostProcessor();
  HostProcessor(const HostProcessor&) = delete;
  HostProcessor& operator=(const HostProcessor&) = delete;

  bool ready() const { return ready_; }

  // How many of the bytes the processor fetches before it executes, faults or finds them undefined.
  Probe probe(std::span<const uint8_t> bytes, CpuMode mode);

  // The state that instructions start from: general registers zero, arithmetic flags clear.
  user_regs_struct initial_state(CpuMode mode) const;

  // Executes one instruction from `state` (its RIP is set here) and updates it; the signal that stopped it, SIGTRAP
  // after success. Nothing if the child was lost.
  std::optional<siginfo_t> step(std::span<const uint8_t> bytes, user_regs_struct& state);

  // The data page as the child sees it.
  std::span<uint8_t> data() { return {data_, kPageBytes}; }

 private:
  bool start();
  void stop();

  uint8_t* code_ = nullptr;
  uint8_t* data_ = nullptr;
  bool ready_ = false;
  pid_t child_ = -1;
  user_regs_struct registers_{};
  user_fpregs_struct fp_registers_{};
};

}  // namespace rhea::isa::x86
