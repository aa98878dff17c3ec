// SPDX-License-Identifier: Apache-2.0
// A clock that stands still until the test moves it, and fires timers exactly on their deadlines.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>

#include "io/clock.h"
#include "io/timer_queue.h"

namespace rhea::testing {

// TSC: 1 GHz from 0. Wall time: starts at 2024-01-01 00:00:00 UTC and can be set.
class FakeClock final : public io::Clock {
 public:
  uint64_t now_ns() const override { return now_ns_; }
  uint64_t tsc() const override { return now_ns_; }
  uint64_t tsc_frequency_hz() const override { return 1'000'000'000; }
  int64_t wall_time_ns() const override { return wall_origin_ns_ + static_cast<int64_t>(now_ns()); }
  Moment tsc_reference() const override { return {}; }
  std::unique_ptr<io::Timer> create_timer(std::function<void()> callback) override {
    return timers_.create(std::move(callback));
  }
  bool tsc_is_host_tsc() const override { return false; }
  uint64_t tsc_offset() const override { return 0; }

  // Moves on by `ns`; each timer on the way fires at its own deadline, those it arms included.
  void advance(uint64_t ns) { advance_to(now_ns_ + ns); }
  void advance_to(uint64_t target_ns) {
    for (auto next = timers_.earliest(); next && *next <= target_ns; next = timers_.earliest()) {
      now_ns_ = std::max<uint64_t>(now_ns_, *next);
      timers_.run_due(now_ns_);
    }
    now_ns_ = std::max<uint64_t>(now_ns_, target_ns);
  }
  void set_wall_time_ns(int64_t unix_ns) { wall_origin_ns_ = unix_ns - static_cast<int64_t>(now_ns()); }
  // The deadline of the timer that fires next.
  std::optional<uint64_t> next_deadline() const { return timers_.earliest(); }

 private:
  std::atomic<uint64_t> now_ns_{0};
  int64_t wall_origin_ns_ = int64_t{1'704'067'200} * 1'000'000'000;
  io::TimerQueue timers_;
};

}  // namespace rhea::testing
