// SPDX-License-Identifier: Apache-2.0
// The clock of ordinary runs: the host's monotonic clock and, where it is good, the host's TSC.
//
// Threads: everything but load_state() from any thread. Timer callbacks run on the event loop's thread; a timer
// is destroyed before the clock.
#pragma once

#include <atomic>
#include <memory>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "io/clock.h"
#include "io/clock_state.h"
#include "io/device.h"
#include "io/host_tsc.h"
#include "io/timer_queue.h"

namespace rhea::io {

class HostClock final : public Clock {
 public:
  // Starts at 0 ns and a TSC near 0. Measures the TSC (10 ms).
  static Result<std::unique_ptr<HostClock>> create(base::EventLoop& loop);
  static Result<std::unique_ptr<HostClock>> create(base::EventLoop& loop, const HostTsc& tsc);
  ~HostClock() override;

  uint64_t now_ns() const override;
  uint64_t tsc() const override;
  uint64_t tsc_frequency_hz() const override { return origin_.tsc_frequency_hz; }
  int64_t wall_time_ns() const override;
  Moment tsc_reference() const override { return {origin_.reference_tsc, origin_.reference_ns}; }
  std::unique_ptr<Timer> create_timer(std::function<void()> callback) override;
  bool tsc_is_host_tsc() const override { return tsc_is_host_; }
  uint64_t tsc_offset() const override { return tsc_offset_; }

  // Time and TSC as they stand; load continues from there. The guest keeps the frequency it was told: where the
  // host's differs, tsc_is_host_tsc() turns false and the TSC is computed. Load only while no vCPU runs.
  void save_state(state::StateWriter& writer) const;
  Status load_state(state::StateReader& reader);

 private:
  explicit HostClock(base::EventLoop& loop, const HostTsc& tsc);
  void start_from(const ClockState& state);
  void program(std::optional<uint64_t> deadline_ns);

  base::EventLoop& loop_;
  HostTsc host_tsc_;
  base::UniqueFd timer_fd_;
  ClockState origin_;            // the state at the time of creation or load
  uint64_t host_origin_ns_ = 0;  // CLOCK_MONOTONIC at now_ns() == 0 (modulo 2^64)
  bool tsc_is_host_ = false;
  uint64_t tsc_offset_ = 0;
  TimerQueue timers_;
};

}  // namespace rhea::io
