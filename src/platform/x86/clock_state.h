// SPDX-License-Identifier: Apache-2.0
// The machine clock at the moment of a save: restored clocks continue from here.
#pragma once

#include <cstdint>

#include "base/error.h"

namespace rhea::state {
class StateWriter;
class StateReader;
}  // namespace rhea::state

namespace rhea::platform {

struct ClockState {
  uint64_t now_ns = 0;
  uint64_t tsc = 0;
  uint64_t tsc_frequency_hz = 0;
  int64_t wall_time_ns = 0;
};

inline constexpr uint32_t kClockStateVersion = 1;
void save(state::StateWriter& writer, const ClockState& state);
Status load(state::StateReader& reader, ClockState& state);

}  // namespace rhea::platform
