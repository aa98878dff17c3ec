// SPDX-License-Identifier: Apache-2.0
// Time as a count of instructions.
#include "io/instruction_clock.h"

#include <utility>

#include "base/check.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::io {
namespace {

constexpr uint64_t kTscFrequencyHz = 1'000'000'000;

}  // namespace

InstructionClock::InstructionClock(const Options& options)
    : options_(options), origin_{.tsc_frequency_hz = kTscFrequencyHz, .wall_time_ns = options.wall_start_ns} {
  RHEA_CHECK(options_.ns_per_instruction >= 1);
}

std::optional<uint64_t> InstructionClock::next_deadline_instructions() const {
  const auto deadline = timers_.earliest();
  if (!deadline) return std::nullopt;
  const uint64_t now = now_ns();
  if (*deadline <= now) return 0;
  const uint64_t wait = *deadline - now;
  return wait / options_.ns_per_instruction + (wait % options_.ns_per_instruction != 0 ? 1 : 0);
}

bool InstructionClock::skip_to_next_deadline() {
  const auto deadline = timers_.earliest();
  if (!deadline) return false;
  if (*deadline > now_ns()) now_ns_.store(*deadline, std::memory_order_relaxed);
  return true;
}

void InstructionClock::save_state(state::StateWriter& writer) const {
  ClockState state = origin_;
  state.now_ns = now_ns();
  state.tsc = tsc();
  state.wall_time_ns = wall_time_ns();
  state::describe_fields(writer, std::as_const(state));
}

Status InstructionClock::load_state(state::StateReader& reader) {
  ClockState state;
  state::describe_fields(reader, state);
  reader.validate(state.plausible(), "has an impossible TSC frequency");
  RHEA_TRY(reader.status());
  origin_ = state;
  now_ns_.store(state.now_ns, std::memory_order_relaxed);
  return {};
}

}  // namespace rhea::io
