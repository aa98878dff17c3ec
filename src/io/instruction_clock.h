// SPDX-License-Identifier: Apache-2.0
// A deterministic clock: time is the number of instructions executed. For one vCPU; tests and bisection use it.
//
// One instruction takes Options::ns_per_instruction (1 by default: a processor of 1000 MIPS); the TSC counts
// nanoseconds, 1 GHz, so that it never stands still between two instructions. Timers fire on the vCPU thread, between
// instructions, at exact counts. The wall clock starts at a fixed moment.
//
// Threads: advance, run_due_timers and skip_to_next_deadline on the vCPU thread; the rest on any, but only what the
// vCPU thread does is deterministic.
#pragma once

#include <atomic>
#include <functional>
#include <optional>

#include "base/error.h"
#include "io/clock.h"
#include "io/clock_state.h"
#include "io/device.h"
#include "io/timer_queue.h"

namespace rhea::io {

class InstructionClock final : public Clock {
 public:
  struct Options {
    uint64_t ns_per_instruction = 1;                                 // at least 1
    int64_t wall_start_ns = int64_t{1'704'067'200} * 1'000'000'000;  // 2024-01-01 00:00:00 UTC
  };
  InstructionClock() : InstructionClock(Options{}) {}
  explicit InstructionClock(const Options& options);

  uint64_t now_ns() const override { return now_ns_.load(std::memory_order_relaxed); }
  uint64_t tsc() const override { return origin_.tsc_at(now_ns()); }
  uint64_t tsc_frequency_hz() const override { return origin_.tsc_frequency_hz; }
  int64_t wall_time_ns() const override {
    return origin_.wall_time_ns + static_cast<int64_t>(now_ns() - origin_.now_ns);
  }
  Moment tsc_reference() const override { return {origin_.reference_tsc, origin_.reference_ns}; }
  std::unique_ptr<Timer> create_timer(std::function<void()> callback) override {
    return timers_.create(std::move(callback));
  }
  bool tsc_is_host_tsc() const override { return false; }
  uint64_t tsc_offset() const override { return 0; }

  // `instructions` more were executed. Fires nothing. Inline: the translator's general-register-only code calls it.
  void advance(uint64_t instructions) {
    // One thread writes: plain additions, atomic only for those who look.
    instructions_.store(instructions_.load(std::memory_order_relaxed) + instructions, std::memory_order_relaxed);
    now_ns_.store(now_ns() + instructions * options_.ns_per_instruction, std::memory_order_relaxed);
  }
  // Called, on whatever thread arms it, when a timer is armed for earlier than all others: an engine must then grant
  // its vCPU fewer instructions. It must not call back into the clock. Set while nothing runs.
  void set_on_earlier_deadline(std::function<void()> function) { on_earlier_deadline_ = std::move(function); }
  // How many instructions may be executed before a timer is due: 0 if one is due now, nothing if none is armed.
  std::optional<uint64_t> next_deadline_instructions() const;
  // Runs the callbacks of what is due. What they arm for now is due at the next call.
  void run_due_timers() { timers_.run_due(now_ns()); }
  // HLT: moves time to the next deadline. False if no timer is armed: nothing but the world outside can wake
  // the guest then.
  bool skip_to_next_deadline();

  // Instructions counted by advance() since creation.
  uint64_t instructions() const { return instructions_.load(std::memory_order_relaxed); }

  void save_state(state::StateWriter& writer) const;
  Status load_state(state::StateReader& reader);

 private:
  Options options_;
  ClockState origin_;
  std::atomic<uint64_t> now_ns_{0};
  std::atomic<uint64_t> instructions_{0};
  std::function<void()> on_earlier_deadline_;
  TimerQueue timers_{[this](std::optional<uint64_t> deadline_ns) {
    if (deadline_ns && on_earlier_deadline_) on_earlier_deadline_();
  }};
};

}  // namespace rhea::io
