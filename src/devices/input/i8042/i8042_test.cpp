// SPDX-License-Identifier: Apache-2.0
// The keyboard controller as drivers probe it.
#include "devices/input/i8042/i8042.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "testing/device_harness.h"

namespace rhea::devices {
namespace {

using ::testing::ElementsAre;

class I8042Test : public ::testing::Test {
 protected:
  I8042Test() { controller_.map_into(h_.ports); }
  uint8_t status() { return h_.in8(0x64); }
  void command(uint8_t value) { h_.out8(0x64, value); }
  void data(uint8_t value) { h_.out8(0x60, value); }
  std::vector<int> answers() {  // auxiliary bytes are marked with 0x100
    std::vector<int> bytes;
    while (status() & 1) {
      const int aux = (status() & 0x20) ? 0x100 : 0;
      bytes.push_back(h_.in8(0x60) | aux);
    }
    return bytes;
  }
  std::vector<int> keyboard(uint8_t value) {
    data(value);
    return answers();
  }
  std::vector<int> mouse(uint8_t value) {
    command(0xd4);
    data(value);
    return answers();
  }

  testing::DeviceHarness h_;
  int resets_ = 0;
  bool a20_ = false;
  I8042 controller_{{.keyboard_irq = h_.line(1),
                     .mouse_irq = h_.line(12),
                     .request_reset = [this] { ++resets_; },
                     .set_a20 = [this](bool level) { a20_ = level; }}};
};

TEST_F(I8042Test, ControllerProbe) {
  EXPECT_EQ(status() & 0x11, 0x10) << "empty, not locked";
  command(0xaa);
  EXPECT_THAT(answers(), ElementsAre(0x55));
  command(0x20);
  const auto config = answers();
  ASSERT_EQ(config.size(), 1u);
  command(0x60);
  data(0x77);
  command(0x20);
  EXPECT_THAT(answers(), ElementsAre(0x77));
  command(0xab);
  EXPECT_THAT(answers(), ElementsAre(0x00));
  command(0xa9);
  EXPECT_THAT(answers(), ElementsAre(0x00));
}

TEST_F(I8042Test, AuxPortIsFoundAndIsNotAMultiplexer) {
  command(0x60);
  data(0x47);
  for (const uint8_t probe : {0x5a, 0xf0, 0x56, 0xa4}) {
    command(0xd3);
    data(probe);
    EXPECT_TRUE(h_.irqs.levels[12]);
    EXPECT_THAT(answers(), ElementsAre(0x100 | probe));
  }
  command(0xa7);
  command(0x20);
  EXPECT_THAT(answers(), ElementsAre(0x67));
  command(0xa8);
  command(0x20);
  EXPECT_THAT(answers(), ElementsAre(0x47));
}

TEST_F(I8042Test, KeyboardProbe) {
  EXPECT_THAT(keyboard(0xff), ElementsAre(0xfa, 0xaa));
  EXPECT_THAT(keyboard(0xf2), ElementsAre(0xfa, 0xab, 0x41)) << "translated";
  command(0x60);
  data(0x05);
  EXPECT_THAT(keyboard(0xf2), ElementsAre(0xfa, 0xab, 0x83));
  EXPECT_THAT(keyboard(0xed), ElementsAre(0xfa));
  EXPECT_THAT(keyboard(0x02), ElementsAre(0xfa));
  EXPECT_THAT(keyboard(0xf3), ElementsAre(0xfa));
  EXPECT_THAT(keyboard(0x00), ElementsAre(0xfa));
  EXPECT_THAT(keyboard(0xf0), ElementsAre(0xfa));
  EXPECT_THAT(keyboard(0x00), ElementsAre(0xfa, 0x02));
  EXPECT_THAT(keyboard(0xee), ElementsAre(0xee));
  EXPECT_THAT(keyboard(0xf4), ElementsAre(0xfa));
  EXPECT_THAT(keyboard(0xf5), ElementsAre(0xfa));
  EXPECT_THAT(keyboard(0xea), ElementsAre(0xfe)) << "unknown";
}

TEST_F(I8042Test, MouseProbe) {
  EXPECT_THAT(mouse(0xff), ElementsAre(0x1fa, 0x1aa, 0x100));
  EXPECT_THAT(mouse(0xf2), ElementsAre(0x1fa, 0x100));
  for (const uint8_t rate : {200, 100, 80}) {
    EXPECT_THAT(mouse(0xf3), ElementsAre(0x1fa));
    EXPECT_THAT(mouse(rate), ElementsAre(0x1fa));
  }
  EXPECT_THAT(mouse(0xf2), ElementsAre(0x1fa, 0x103)) << "a wheel";
  EXPECT_THAT(mouse(0xe9), ElementsAre(0x1fa, 0x100, 0x102, 0x150));
  EXPECT_THAT(mouse(0xf4), ElementsAre(0x1fa));
  controller_.move_mouse(5, -3, 1, 1);
  EXPECT_THAT(answers(), ElementsAre(0x129, 0x105, 0x1fd, 0x101));
}

TEST_F(I8042Test, KeysAreTranslatedAndInterrupt) {
  command(0x60);
  data(0x45);
  const uint8_t press[] = {0x1c}, release[] = {0xf0, 0x1c};
  controller_.key(press);
  EXPECT_TRUE(h_.irqs.levels[1]);
  controller_.key(release);
  const unsigned before = h_.irqs.rising_edges[1];
  EXPECT_EQ(h_.in8(0x60), 0x1e);
  EXPECT_EQ(h_.irqs.rising_edges[1] - before, 1u) << "the second byte is a new edge";
  EXPECT_EQ(h_.in8(0x60), 0x9e);
  EXPECT_FALSE(h_.irqs.levels[1]);
}

TEST_F(I8042Test, DisabledKeyboardKeepsItsBytes) {
  command(0xad);
  const uint8_t press[] = {0x1c};
  controller_.key(press);
  EXPECT_EQ(status() & 1, 0);
  command(0xae);
  EXPECT_THAT(answers(), ElementsAre(0x1e));
}

TEST_F(I8042Test, QueueOverflowDropsWhole) {
  const uint8_t press[] = {0xe0, 0x75};
  for (int i = 0; i < 1000; ++i) controller_.key(press);
  const auto bytes = answers();
  EXPECT_LE(bytes.size(), Ps2Queue::kCapacity + 1);
  EXPECT_EQ(bytes.size() % 2, 0u);
}

TEST_F(I8042Test, Resets) {
  command(0xff);
  EXPECT_EQ(resets_, 0) << "no line pulsed";
  command(0xfe);
  EXPECT_EQ(resets_, 1);
  command(0xd1);
  data(0x03);
  EXPECT_EQ(resets_, 1);
  command(0xd1);
  data(0x02);
  EXPECT_EQ(resets_, 2);
}

TEST_F(I8042Test, OutputPortAndA20) {
  command(0xd0);
  EXPECT_EQ(answers()[0] & 3, 3);
  EXPECT_TRUE(a20_) << "a reset leaves the gate open";
  command(0xd1);
  data(0x01);
  EXPECT_FALSE(a20_);
  command(0xdf);
  EXPECT_TRUE(a20_);
  command(0xdd);
  EXPECT_FALSE(a20_);
  command(0xd0);
  EXPECT_EQ(answers()[0] & 3, 1);
}

TEST_F(I8042Test, SaveAndLoad) {
  command(0x60);
  data(0x47);
  keyboard(0xed);
  const uint8_t press[] = {0x1c, 0x32};
  controller_.key(press);
  mouse(0xf4);
  controller_.move_mouse(300, 2, 0, 0);
  const auto file = testing::DeviceHarness::save(controller_);
  testing::DeviceHarness other;
  I8042 copy({.keyboard_irq = other.line(1), .mouse_irq = other.line(12), .request_reset = {}});
  ASSERT_TRUE(testing::DeviceHarness::load(copy, file).has_value());
  EXPECT_EQ(testing::DeviceHarness::save(copy), file);
  EXPECT_EQ(other.irqs.levels[1], h_.irqs.levels[1]);
  EXPECT_EQ(other.irqs.levels[12], h_.irqs.levels[12]);
}

}  // namespace
}  // namespace rhea::devices
