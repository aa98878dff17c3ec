// SPDX-License-Identifier: Apache-2.0
// What one counter of the 8254 does: pure functions of its state and the current tick. Spec: [8254].
#pragma once

#include <cstdint>
#include <optional>

#include "platform/x86/pit_state.h"

namespace rhea::devices::pit_channel {

using platform::PitChannelState;

// Brings loads that became due by `now` into effect. The functions below expect it to have been called.
void advance(PitChannelState& channel, uint64_t now);

bool output(const PitChannelState& channel, uint64_t now);
uint16_t count(const PitChannelState& channel, uint64_t now);  // as read: in BCD if so programmed
uint8_t status(const PitChannelState& channel, uint64_t now);
// The next tick after `now` at which the output rises, if nothing is written before.
std::optional<uint64_t> next_rising_edge(const PitChannelState& channel, uint64_t now);

// Control word bits 5:0 (counter latch excepted).
void program(PitChannelState& channel, uint8_t control);
void write_count_byte(PitChannelState& channel, uint8_t value, uint64_t now);
void set_gate(PitChannelState& channel, bool gate, uint64_t now);

}  // namespace rhea::devices::pit_channel
