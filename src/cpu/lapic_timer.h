// SPDX-License-Identifier: Apache-2.0
// The timer of a local APIC: one-shot, periodic and TSC-deadline modes over one machine timer.
// Spec: [SDM-3A 11.5.4]. Threads: registers on the vCPU thread, expiry on the clock's; own lock.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "io/clock.h"
#include "platform/x86/lapic_state.h"

namespace rhea::cpu {

class LapicTimer {
 public:
  enum class Mode : uint8_t { kOneShot = 0, kPeriodic = 1, kTscDeadline = 2, kReserved = 3 };

  // `expired` is called under no lock of ours, on the clock's thread or on the vCPU's.
  LapicTimer(io::Clock& clock, std::function<void()> expired);
  ~LapicTimer();

  void reset();
  void set_mode(Mode mode);                  // LVT timer bits 18:17
  void set_initial_count(uint32_t count);    // ignored in TSC-deadline mode
  void set_divide_config(uint32_t value);    // bits 0, 1, 3
  void set_tsc_deadline(uint64_t deadline);  // guest TSC; ignored outside TSC-deadline mode
  void set_tsc_adjust(uint64_t value);

  uint32_t initial_count() const;
  uint32_t current_count() const;
  uint32_t divide_config() const;
  uint64_t tsc_deadline() const;

  void save(platform::LapicState& state) const;
  void load(const platform::LapicState& state, Mode mode);

 private:
  unsigned divide_shift() const;
  uint64_t period_ns() const { return static_cast<uint64_t>(initial_count_) << divide_shift(); }
  uint32_t current_count_locked(uint64_t now_ns) const;
  uint64_t guest_tsc() const { return clock_.tsc() + tsc_adjust_; }
  bool start_locked();   // true: already due
  bool expire_locked();  // true: an interrupt is due now
  void on_timer();

  io::Clock& clock_;
  std::function<void()> expired_;
  mutable std::mutex mutex_;
  Mode mode_ = Mode::kOneShot;
  uint32_t initial_count_ = 0;
  uint32_t divide_config_ = 0;
  uint64_t start_ns_ = 0;  // modulo 2^64: may lie before the clock's zero; only differences from it are used
  uint64_t tsc_deadline_ = 0;
  uint64_t tsc_adjust_ = 0;
  bool running_ = false;
  std::unique_ptr<io::Timer> timer_;
};

}  // namespace rhea::cpu
