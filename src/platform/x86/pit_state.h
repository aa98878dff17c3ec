// SPDX-License-Identifier: Apache-2.0
// State of the 8254 timer and of port 0x61.
#pragma once

#include <array>
#include <cstdint>

#include "base/error.h"

namespace rhea::state {
class StateWriter;
class StateReader;
}  // namespace rhea::state

namespace rhea::platform {

inline constexpr uint64_t kPitHz = 1'193'182;

// [8254] One counter. Counts are kept in binary, 1-65536 (or 1-10000 in BCD).
struct PitChannelState {
  uint8_t access = 3;           // control word RW bits: 1 low byte, 2 high byte, 3 low then high
  uint8_t mode = 0;             // 0-5
  bool bcd = false;
  bool gate = true;
  bool null_count = true;       // written but not yet in the counting element
  bool counting = false;        // a count is loaded and running (or would, but for the gate)
  uint32_t reload = 0;          // count register; 0: nothing written since the control word
  uint32_t period = 0;          // the count the current run started from
  uint64_t start_tick = 0;      // PIT ticks when the current run started
  uint32_t frozen_count = 0;    // remaining count while the gate holds counting
  bool write_high_next = false;
  uint8_t write_low = 0;
  bool read_high_next = false;
  bool count_latched = false;
  uint16_t latched_count = 0;
  bool status_latched = false;
  uint8_t latched_status = 0;
};

struct PitState {
  std::array<PitChannelState, 3> channel;
  uint8_t port61 = 0;  // bits 0 (gate of channel 2), 1 (speaker), 2 and 3 (check enables)
};

inline constexpr uint32_t kPitStateVersion = 1;
void save(state::StateWriter& writer, const PitState& state);
Status load(state::StateReader& reader, PitState& state);

}  // namespace rhea::platform
