// SPDX-License-Identifier: Apache-2.0
// The host's clocks as the machine's.
#include "io/host_clock.h"

#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/check.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::io {
namespace {

constexpr uint64_t kNsPerSecond = 1'000'000'000;

uint64_t host_ns(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * kNsPerSecond + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

Result<std::unique_ptr<HostClock>> HostClock::create(base::EventLoop& loop) { return create(loop, measure_host_tsc()); }

Result<std::unique_ptr<HostClock>> HostClock::create(base::EventLoop& loop, const HostTsc& tsc) {
  std::unique_ptr<HostClock> clock(new HostClock(loop, tsc));
  clock->timer_fd_.reset(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!clock->timer_fd_) return fail(Error::from_errno(errno, "cannot create a timerfd for the machine's clock"));
  RHEA_TRY(loop.add_fd(clock->timer_fd_.get(), EPOLLIN, [self = clock.get()](uint32_t) {
    uint64_t expirations;
    (void)!::read(self->timer_fd_.get(), &expirations, sizeof expirations);
    self->timers_.run_due(self->now_ns());
  }));
  return clock;
}

HostClock::HostClock(base::EventLoop& loop, const HostTsc& tsc)
    : loop_(loop), host_tsc_(tsc), timers_([this](std::optional<uint64_t> deadline_ns) { program(deadline_ns); }) {
  start_from({.tsc_frequency_hz = std::max(tsc.frequency_hz, ClockState::kMinFrequencyHz)});
}

HostClock::~HostClock() {
  if (timer_fd_) loop_.remove_fd(timer_fd_.get());
}

void HostClock::start_from(const ClockState& state) {
  origin_ = state;
  host_origin_ns_ = host_ns(CLOCK_MONOTONIC) - state.now_ns;
  // A clock that drifts by 50 ppm against what it was announced as is what NTP corrects every day.
  const uint64_t difference = std::max(state.tsc_frequency_hz, host_tsc_.frequency_hz) -
                              std::min(state.tsc_frequency_hz, host_tsc_.frequency_hz);
  tsc_is_host_ = host_tsc_.reliable && difference <= state.tsc_frequency_hz / 1'000'000 * 50;
  tsc_offset_ = state.tsc - read_host_tsc();
}

uint64_t HostClock::now_ns() const { return host_ns(CLOCK_MONOTONIC) - host_origin_ns_; }

uint64_t HostClock::tsc() const { return tsc_is_host_ ? read_host_tsc() + tsc_offset_ : origin_.tsc_at(now_ns()); }

int64_t HostClock::wall_time_ns() const { return static_cast<int64_t>(host_ns(CLOCK_REALTIME)); }

std::unique_ptr<Timer> HostClock::create_timer(std::function<void()> callback) {
  return timers_.create(std::move(callback));
}

// Absolute time on the timerfd wakes the loop from whatever thread it is set.
void HostClock::program(std::optional<uint64_t> deadline_ns) {
  itimerspec spec{};
  if (deadline_ns) {
    // GUEST-CONTROLLED: deadlines up to 2^64-1. Those beyond the host's range of times never come.
    constexpr uint64_t kLatest = uint64_t{1} << 62;
    const uint64_t now_host = host_ns(CLOCK_MONOTONIC);
    const uint64_t now = now_host - host_origin_ns_;
    const uint64_t wait = *deadline_ns > now ? std::min(*deadline_ns - now, kLatest) : 0;
    const uint64_t at = *deadline_ns > now ? std::min(now_host + wait, kLatest) : 1;  // 0 would disarm
    spec.it_value.tv_sec = static_cast<time_t>(at / kNsPerSecond);
    spec.it_value.tv_nsec = static_cast<long>(at % kNsPerSecond);
  }
  RHEA_CHECK(::timerfd_settime(timer_fd_.get(), TFD_TIMER_ABSTIME, &spec, nullptr) == 0);
}

void HostClock::save_state(state::StateWriter& writer) const {
  ClockState state = origin_;
  state.now_ns = now_ns();
  state.tsc = tsc();
  state.wall_time_ns = wall_time_ns();
  state::describe_fields(writer, std::as_const(state));
}

Status HostClock::load_state(state::StateReader& reader) {
  ClockState state;
  state::describe_fields(reader, state);
  reader.validate(state.plausible(), "has an impossible TSC frequency");
  RHEA_TRY(reader.status());
  start_from(state);
  timers_.reprogram();
  return {};
}

}  // namespace rhea::io
