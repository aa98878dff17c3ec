// SPDX-License-Identifier: Apache-2.0
// State of the 8259A pair.
#pragma once

#include <array>
#include <cstdint>

namespace rhea::platform {

// [8259A] One controller. Which initialisation command word comes next is `init_step`: 0 none, else 2, 3, 4.
struct PicChipState {
  uint8_t irr = 0;  // edge-latched requests and levels
  uint8_t imr = 0;
  uint8_t isr = 0;
  uint8_t lines = 0;            // input levels
  uint8_t elcr = 0;             // 1: level-triggered
  uint8_t vector_base = 0;      // ICW2 bits 7:3
  uint8_t lowest_priority = 7;  // IR number with the lowest priority
  uint8_t init_step = 0;
  bool expect_icw4 = false;
  bool single = false;      // ICW1 SNGL
  bool level_mode = false;  // ICW1 LTIM
  bool auto_eoi = false;
  bool rotate_on_auto_eoi = false;
  bool special_fully_nested = false;
  bool special_mask = false;
  bool poll = false;      // the next read is a poll
  bool read_isr = false;  // OCW3 read selection

  template <class Archive>
  static void describe(Archive& archive, auto& self) {
    archive.field("irr", self.irr);
    archive.field("imr", self.imr);
    archive.field("isr", self.isr);
    archive.field("lines", self.lines);
    archive.field("elcr", self.elcr);
    archive.field("vector_base", self.vector_base);
    archive.field("lowest_priority", self.lowest_priority);
    archive.field("init_step", self.init_step);
    archive.field("expect_icw4", self.expect_icw4);
    archive.field("single", self.single);
    archive.field("level_mode", self.level_mode);
    archive.field("auto_eoi", self.auto_eoi);
    archive.field("rotate_on_auto_eoi", self.rotate_on_auto_eoi);
    archive.field("special_fully_nested", self.special_fully_nested);
    archive.field("special_mask", self.special_mask);
    archive.field("poll", self.poll);
    archive.field("read_isr", self.read_isr);
  }
};

struct PicState {
  static constexpr uint32_t kStateVersion = 1;

  std::array<PicChipState, 2> chip;  // 0: primary, 1: secondary on the primary's IR2

  template <class Archive>
  static void describe(Archive& archive, auto& self) {
    archive.field("chip", self.chip);
  }
};

}  // namespace rhea::platform
