// SPDX-License-Identifier: Apache-2.0
// LAPIC timer: counts are never stored, they follow from when the count was started and the machine clock.
#include "cpu/lapic_timer.h"

#include <algorithm>
#include <utility>

namespace rhea::cpu {
namespace {

// GUEST-CONTROLLED: a periodic timer of a few nanoseconds would keep the clock thread busy for nothing,
// since expiries that the guest has not yet taken merge into one request bit.
constexpr uint64_t kShortestRearmNs = 50'000;
constexpr uint64_t kNanosecondsPerSecond = 1'000'000'000;
constexpr uint64_t kFarAwayNs = uint64_t{1} << 62;
static_assert(platform::kLapicTimerHz == kNanosecondsPerSecond, "counts are taken as nanoseconds");

}  // namespace

LapicTimer::LapicTimer(io::Clock& clock, std::function<void()> expired)
    : clock_(clock), expired_(std::move(expired)), timer_(clock.create_timer([this] { on_timer(); })) {}

LapicTimer::~LapicTimer() = default;

void LapicTimer::reset() {
  const std::lock_guard lock(mutex_);
  mode_ = Mode::kOneShot;
  initial_count_ = 0;
  divide_config_ = 0;
  start_ns_ = 0;
  tsc_deadline_ = 0;
  running_ = false;
  timer_->cancel();
}

// [SDM-3A figure 11-10] 000: divide by 2 ... 110: by 128, 111: by 1.
unsigned LapicTimer::divide_shift() const {
  const unsigned code = (divide_config_ & 3) | ((divide_config_ >> 1) & 4);
  return (code + 1) & 7;
}

void LapicTimer::set_mode(Mode mode) {
  const std::lock_guard lock(mutex_);
  if (mode == mode_) return;
  const bool deadline_involved = mode == Mode::kTscDeadline || mode_ == Mode::kTscDeadline;
  mode_ = mode;
  // Entering or leaving TSC-deadline mode disarms the timer. [SDM-3A 11.5.4.1]
  if (deadline_involved) {
    initial_count_ = 0;
    tsc_deadline_ = 0;
    running_ = false;
    timer_->cancel();
    return;
  }
  if (running_) start_locked();
}

void LapicTimer::set_initial_count(uint32_t count) {
  bool due = false;
  {
    const std::lock_guard lock(mutex_);
    if (mode_ == Mode::kTscDeadline) return;
    initial_count_ = count;
    start_ns_ = clock_.now_ns();
    running_ = count != 0;
    if (running_)
      due = start_locked();
    else
      timer_->cancel();
  }
  if (due) expired_();
}

void LapicTimer::set_divide_config(uint32_t value) {
  const std::lock_guard lock(mutex_);
  value &= 0xb;
  if (value == divide_config_) return;
  const uint64_t now = clock_.now_ns();
  const uint32_t done = initial_count_ - current_count_locked(now);
  divide_config_ = value;
  if (mode_ == Mode::kTscDeadline || !running_) return;
  // The count goes on from where it stands, at the new rate.
  start_ns_ = now - (static_cast<uint64_t>(done) << divide_shift());
  start_locked();
}

void LapicTimer::set_tsc_deadline(uint64_t deadline) {
  bool due = false;
  {
    const std::lock_guard lock(mutex_);
    if (mode_ != Mode::kTscDeadline) return;
    tsc_deadline_ = deadline;
    running_ = deadline != 0;
    if (running_)
      due = start_locked();
    else
      timer_->cancel();
  }
  if (due) expired_();
}

void LapicTimer::set_tsc_adjust(uint64_t value) {
  bool due = false;
  {
    const std::lock_guard lock(mutex_);
    if (value == tsc_adjust_) return;
    tsc_adjust_ = value;
    if (mode_ == Mode::kTscDeadline && running_) due = start_locked();
  }
  if (due) expired_();
}

uint32_t LapicTimer::initial_count() const {
  const std::lock_guard lock(mutex_);
  return mode_ == Mode::kTscDeadline ? 0 : initial_count_;
}

uint32_t LapicTimer::current_count() const {
  const std::lock_guard lock(mutex_);
  return current_count_locked(clock_.now_ns());
}

uint32_t LapicTimer::divide_config() const {
  const std::lock_guard lock(mutex_);
  return divide_config_;
}

uint64_t LapicTimer::tsc_deadline() const {
  const std::lock_guard lock(mutex_);
  return mode_ == Mode::kTscDeadline ? tsc_deadline_ : 0;
}

uint32_t LapicTimer::current_count_locked(uint64_t now_ns) const {
  if (mode_ == Mode::kTscDeadline || initial_count_ == 0) return 0;
  const uint64_t ticks = (now_ns - start_ns_) >> divide_shift();
  if (mode_ == Mode::kPeriodic) return initial_count_ - static_cast<uint32_t>(ticks % initial_count_);
  return ticks >= initial_count_ ? 0 : initial_count_ - static_cast<uint32_t>(ticks);
}

bool LapicTimer::start_locked() {
  const uint64_t now = clock_.now_ns();
  if (mode_ == Mode::kTscDeadline) {
    const uint64_t tsc = guest_tsc();
    if (tsc >= tsc_deadline_) return expire_locked();
    const auto wait =
        (static_cast<unsigned __int128>(tsc_deadline_ - tsc) * kNanosecondsPerSecond + clock_.tsc_frequency_hz() - 1) /
        clock_.tsc_frequency_hz();
    timer_->arm(now + static_cast<uint64_t>(std::min<unsigned __int128>(wait, kFarAwayNs)));
    return false;
  }
  const uint64_t elapsed = now - start_ns_;
  if (elapsed >= period_ns()) return expire_locked();
  timer_->arm(now + (period_ns() - elapsed));
  return false;
}

bool LapicTimer::expire_locked() {
  if (!running_) return false;
  switch (mode_) {
    case Mode::kTscDeadline:
      tsc_deadline_ = 0;
      running_ = false;
      break;
    case Mode::kPeriodic: {
      // Missed periods merge into one expiry, as in hardware where one request bit stands for them all.
      const uint64_t period = period_ns();
      const uint64_t now = clock_.now_ns();
      const uint64_t into_period = (now - start_ns_) % period;
      start_ns_ = now - into_period;
      timer_->arm(now + std::max(period - into_period, kShortestRearmNs));
      break;
    }
    default: running_ = false; break;
  }
  return true;
}

void LapicTimer::on_timer() {
  bool due = false;
  {
    const std::lock_guard lock(mutex_);
    // A callback may be late for a timer that was stopped or moved meanwhile: start_locked() looks again.
    if (running_) due = start_locked();
  }
  if (due) expired_();
}

void LapicTimer::save(platform::LapicState& state) const {
  const std::lock_guard lock(mutex_);
  state.initial_count = initial_count_;
  state.divide_config = divide_config_;
  state.timer_start_ns = start_ns_;
  state.tsc_deadline = tsc_deadline_;
  state.tsc_adjust = tsc_adjust_;
  state.timer_running = running_;
}

void LapicTimer::load(const platform::LapicState& state, Mode mode) {
  bool due = false;
  {
    const std::lock_guard lock(mutex_);
    mode_ = mode;
    initial_count_ = state.initial_count;
    divide_config_ = state.divide_config & 0xb;
    start_ns_ = state.timer_start_ns;
    tsc_deadline_ = state.tsc_deadline;
    tsc_adjust_ = state.tsc_adjust;
    running_ = state.timer_running && (mode == Mode::kTscDeadline ? tsc_deadline_ != 0 : initial_count_ != 0);
    if (running_)
      due = start_locked();
    else
      timer_->cancel();
  }
  if (due) expired_();
}

}  // namespace rhea::cpu
