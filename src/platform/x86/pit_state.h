// SPDX-License-Identifier: Apache-2.0
// State of the 8254 timer and of port 0x61.
#pragma once

#include <array>
#include <cstdint>

namespace rhea::platform {

inline constexpr uint64_t kPitHz = 1'193'182;

// [8254] One counter. Its counting element is not kept: where it stands follows from when it was loaded.
// Ticks are those of the 1.193182 MHz clock since the machine clock's zero. Counts are numbers: 1 to 65536,
// or 1 to 10000 in BCD.
struct PitChannelState {
  static constexpr uint32_t kStateVersion = 1;

  uint8_t access = 3;  // control word RW bits: 1 low byte, 2 high byte, 3 low then high
  uint8_t mode = 0;    // 0-5
  bool bcd = false;
  bool gate = true;
  uint32_t count_register = 0;  // last count written; 0: none since the control word
  bool load_pending = false;    // count_register goes into the element at load_tick
  uint64_t load_tick = 0;
  bool running = false;         // the element has been loaded
  uint32_t count = 0;           // ... with this count,
  uint64_t start_tick = 0;      // ... which it held at this tick
  bool low_first = false;       // mode 3: the run began with the low half of the wave
  bool frozen = false;          // counting is held
  uint64_t frozen_elapsed = 0;  // ticks of the run that had passed by then
  bool write_high_next = false;
  uint8_t write_low = 0;
  bool read_high_next = false;
  bool count_latched = false;
  uint16_t latched_count = 0;
  bool status_latched = false;
  uint8_t latched_status = 0;

  template <class Archive>
  static void describe(Archive& archive, auto& self) {
    archive.field("access", self.access);
    archive.field("mode", self.mode);
    archive.field("bcd", self.bcd);
    archive.field("gate", self.gate);
    archive.field("count_register", self.count_register);
    archive.field("load_pending", self.load_pending);
    archive.field("load_tick", self.load_tick);
    archive.field("running", self.running);
    archive.field("count", self.count);
    archive.field("start_tick", self.start_tick);
    archive.field("low_first", self.low_first);
    archive.field("frozen", self.frozen);
    archive.field("frozen_elapsed", self.frozen_elapsed);
    archive.field("write_high_next", self.write_high_next);
    archive.field("write_low", self.write_low);
    archive.field("read_high_next", self.read_high_next);
    archive.field("count_latched", self.count_latched);
    archive.field("latched_count", self.latched_count);
    archive.field("status_latched", self.status_latched);
    archive.field("latched_status", self.latched_status);
  }
};

struct PitState {
  static constexpr uint32_t kStateVersion = 1;

  std::array<PitChannelState, 3> channel;
  uint8_t port61 = 0;  // bits 0 (gate of channel 2), 1 (speaker), 2 and 3 (check enables)

  template <class Archive>
  static void describe(Archive& archive, auto& self) {
    archive.field("channel", self.channel);
    archive.field("port61", self.port61);
  }
};

}  // namespace rhea::platform
