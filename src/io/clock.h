// SPDX-License-Identifier: Apache-2.0
// The machine's one clock, from which TSC, kvmclock, PM timer, PIT, RTC and LAPIC timer derive.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace rhea::io {

// A one-shot timer on a Clock. The callback runs on the clock's own thread (HostClock) or on the vCPU
// thread (InstructionClock); it takes the device's lock itself. Destruction waits for a running callback.
class Timer {
 public:
  virtual ~Timer() = default;
  virtual void arm(uint64_t deadline_ns) = 0;  // absolute, in Clock::now_ns() time; re-arms
  virtual void cancel() = 0;                   // a callback already running may still finish
};

class Clock {
 public:
  virtual ~Clock() = default;
  virtual uint64_t now_ns() const = 0;  // since the machine was created; never goes back
  virtual uint64_t tsc() const = 0;     // guest TSC before IA32_TSC_ADJUST
  virtual uint64_t tsc_frequency_hz() const = 0;
  virtual int64_t wall_time_ns() const = 0;  // Unix time

  // A value of the TSC and the time that goes with it, the same for the clock's whole life, saves and loads included.
  // Time computed from it, the TSC and its frequency is the same on all processors, to the last bit; it parts from
  // now_ns() as far as the TSC's real frequency differs from the one told.
  struct Moment {
    uint64_t tsc = 0, ns = 0;
  };
  virtual Moment tsc_reference() const = 0;
  virtual std::unique_ptr<Timer> create_timer(std::function<void()> callback) = 0;

  // True where rdtsc() + tsc_offset() equals tsc(): translated code may then read the host's TSC.
  virtual bool tsc_is_host_tsc() const = 0;
  virtual uint64_t tsc_offset() const = 0;
};

}  // namespace rhea::io
