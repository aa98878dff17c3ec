// SPDX-License-Identifier: Apache-2.0
// One counter of the 8254.
//
// A count written at tick t is in the counting element at t + 1 (the next CLK pulse), so that mode 0's output
// rises N + 1 pulses after the write, as the data sheet has it. In modes 2 and 3 a new count waits for the end of
// the period (mode 2) or half period (mode 3); in modes 1 and 5 for the next gate edge.
#include "devices/timers/pit/pit_channel.h"

#include "devices/timers/pit/pit_regs.h"

namespace rhea::devices::pit_channel {

using namespace pit_regs;

namespace {

uint32_t modulus(const PitChannelState& channel) { return channel.bcd ? 10000 : 65536; }

bool periodic(const PitChannelState& channel) { return channel.mode == 2 || channel.mode == 3; }
bool gate_triggered(const PitChannelState& channel) { return channel.mode == 1 || channel.mode == 5; }
// Modes in which a low gate holds the counting. [8254 figure 21]
bool gate_holds(const PitChannelState& channel) { return !gate_triggered(channel); }

uint32_t from_bcd(uint32_t digits) {
  uint32_t value = 0, weight = 1;
  for (; digits != 0; digits >>= 4, weight *= 10) value += (digits & 15) * weight;
  return value;
}
uint16_t to_bcd(uint32_t value) {
  uint32_t digits = 0;
  for (unsigned shift = 0; shift < 16; shift += 4, value /= 10) digits |= (value % 10) << shift;
  return static_cast<uint16_t>(digits);
}

uint64_t elapsed(const PitChannelState& channel, uint64_t now) {
  if (channel.frozen) return channel.frozen_elapsed;
  return now > channel.start_tick ? now - channel.start_tick : 0;
}

// Mode 3: where in the wave the run stands.
struct Wave {
  bool high;
  uint32_t position;  // ticks into this half
  uint64_t half_end;  // ticks of the run at which this half ends
};
Wave wave(const PitChannelState& channel, uint64_t run) {
  const uint32_t high_ticks = (channel.count + 1) / 2;
  const uint32_t first = channel.low_first ? channel.count - high_ticks : high_ticks;
  const auto position = static_cast<uint32_t>(run % channel.count);
  const uint64_t period_start = run - position;
  if (position < first) return {!channel.low_first, position, period_start + first};
  return {channel.low_first, position - first, period_start + channel.count};
}

void load(PitChannelState& channel, uint64_t tick) {
  channel.count = channel.count_register;
  channel.start_tick = tick;
  channel.frozen_elapsed = 0;
  channel.running = true;
  channel.load_pending = false;
}

void freeze(PitChannelState& channel, uint64_t now) {
  if (channel.frozen) return;
  channel.frozen_elapsed = elapsed(channel, now);
  channel.frozen = true;
}
void thaw(PitChannelState& channel, uint64_t now) {
  if (!channel.frozen) return;
  channel.frozen = false;
  channel.start_tick = now - (channel.frozen_elapsed < now ? channel.frozen_elapsed : now);
}

bool between_count_bytes(const PitChannelState& channel) { return channel.mode == 0 && channel.write_high_next; }

}  // namespace

void advance(PitChannelState& channel, uint64_t now) {
  if (!channel.load_pending || now < channel.load_tick) return;
  const bool phase_change = channel.mode == 3 && channel.running && !channel.frozen;
  const bool next_low =
      phase_change &&
      wave(channel, elapsed(channel, channel.load_tick) - (channel.load_tick > channel.start_tick ? 1 : 0)).high;
  load(channel, channel.load_tick);
  channel.low_first = next_low;
}

bool output(const PitChannelState& channel, uint64_t now) {
  const uint64_t run = elapsed(channel, now);
  switch (channel.mode) {
    case 0: return channel.running && !channel.load_pending && !between_count_bytes(channel) && run >= channel.count;
    case 1: return !channel.running || run >= channel.count;
    case 2:
      if (!channel.running || !channel.gate) return true;
      return run % channel.count != channel.count - 1 || channel.count == 1;
    case 3:
      if (!channel.running || !channel.gate) return true;
      return wave(channel, run).high;
    default: return !channel.running || run != channel.count;
  }
}

uint16_t count(const PitChannelState& channel, uint64_t now) {
  uint32_t value = 0;
  if (channel.running) {
    const uint64_t run = elapsed(channel, now);
    if (channel.mode == 2) {
      value = channel.count - static_cast<uint32_t>(run % channel.count);
    } else if (channel.mode == 3) {
      value = (channel.count & ~1u) - 2 * wave(channel, run).position;
    } else {
      // Past zero the element wraps and goes on. [8254 "Mode Definitions"]
      const uint32_t wrap = modulus(channel);
      value = (channel.count + wrap - static_cast<uint32_t>(run % wrap)) % wrap;
    }
  }
  value %= modulus(channel);
  return channel.bcd ? to_bcd(value) : static_cast<uint16_t>(value);
}

uint8_t status(const PitChannelState& channel, uint64_t now) {
  const bool waits_for_gate = gate_triggered(channel) && (!channel.running || channel.count != channel.count_register);
  const bool null_count = channel.load_pending || channel.count_register == 0 || waits_for_gate;
  return static_cast<uint8_t>((output(channel, now) ? kStatusOutput : 0) | (null_count ? kStatusNullCount : 0) |
                              channel.access << kAccessShift | channel.mode << kModeShift |
                              (channel.bcd ? kControlBcd : 0));
}

std::optional<uint64_t> next_rising_edge(const PitChannelState& channel, uint64_t now) {
  // A load to come starts a run of its own, unless the present run rises before that.
  if (channel.load_pending && !(channel.running && periodic(channel))) {
    PitChannelState after = channel;
    advance(after, channel.load_tick);
    if (gate_holds(channel) && !channel.gate) return std::nullopt;
    return next_rising_edge(after, channel.load_tick);
  }
  if (!channel.running || channel.frozen || between_count_bytes(channel)) return std::nullopt;
  // A period of one is illegal [8254 "Mode 2"]: its output stays high until another count is loaded.
  if (periodic(channel) && channel.count == 1) {
    if (!channel.load_pending) return std::nullopt;
    PitChannelState after = channel;
    advance(after, channel.load_tick);
    return next_rising_edge(after, channel.load_tick);
  }
  const uint64_t run = elapsed(channel, now);
  switch (channel.mode) {
    case 0:
    case 1: return run < channel.count ? std::optional(channel.start_tick + channel.count) : std::nullopt;
    case 2: return channel.start_tick + (run / channel.count + 1) * channel.count;
    case 3: {
      const Wave half = wave(channel, run);
      if (!half.high) return channel.start_tick + half.half_end;
      if (channel.load_pending) {
        PitChannelState after = channel;  // the low half will be the new count's
        advance(after, channel.load_tick);
        return next_rising_edge(after, channel.load_tick);
      }
      return channel.start_tick + half.half_end + channel.count / 2;
    }
    default: return run <= channel.count ? std::optional(channel.start_tick + channel.count + 1) : std::nullopt;
  }
}

void program(PitChannelState& channel, uint8_t control) {
  const bool gate = channel.gate;
  channel = PitChannelState{};
  channel.gate = gate;
  channel.access = (control >> kAccessShift) & 3;
  channel.mode = (control >> kModeShift) & 7;
  if (channel.mode > 5) channel.mode -= 4;  // the top bit of modes 2 and 3 is a don't-care
  channel.bcd = control & kControlBcd;
}

void write_count_byte(PitChannelState& channel, uint8_t value, uint64_t now) {
  uint32_t written = value;
  if (channel.access == 2) {
    written = uint32_t{value} << 8;
  } else if (channel.access == 3) {
    if (!channel.write_high_next) {
      channel.write_low = value;
      channel.write_high_next = true;
      // The first byte stops the counting and takes the output low. [8254 "Mode 0"]
      if (channel.mode == 0) freeze(channel, now);
      return;
    }
    channel.write_high_next = false;
    written = uint32_t{value} << 8 | channel.write_low;
  }
  if (channel.bcd) written = from_bcd(written) % modulus(channel);
  channel.count_register = written == 0 ? modulus(channel) : written;

  if (gate_triggered(channel)) {
    return;  // goes into the element at the next gate edge
  }
  channel.load_pending = true;
  channel.load_tick = now + 1;
  if (periodic(channel) && channel.running && !channel.frozen) {
    const uint64_t run = elapsed(channel, now);
    channel.load_tick = channel.start_tick +
                        (channel.mode == 2 ? (run / channel.count + 1) * channel.count : wave(channel, run).half_end);
  } else {
    channel.frozen = !channel.gate;
  }
}

// [8254 figure 21] What the gate does in each mode.
void set_gate(PitChannelState& channel, bool gate, uint64_t now) {
  if (gate == channel.gate) return;
  channel.gate = gate;
  if (!gate) {
    if (gate_holds(channel)) freeze(channel, now);
    return;
  }
  switch (channel.mode) {
    case 0:
    case 4:
      if (!between_count_bytes(channel)) thaw(channel, now);
      break;
    default:
      // A rising edge starts over from the count register at the next CLK pulse.
      channel.frozen = false;
      if (channel.count_register == 0) break;
      channel.load_pending = true;
      channel.load_tick = now + 1;
      if (periodic(channel)) channel.running = false;  // ... and from the high half
      break;
  }
}

}  // namespace rhea::devices::pit_channel
