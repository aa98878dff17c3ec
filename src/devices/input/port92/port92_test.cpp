// SPDX-License-Identifier: Apache-2.0
// System control port A.
#include "devices/input/port92/port92.h"

#include <gtest/gtest.h>

#include "testing/device_harness.h"

namespace rhea::devices {
namespace {

TEST(Port92, A20BitIsKeptAndFastResetIsAnEdge) {
  testing::DeviceHarness h;
  int resets = 0;
  bool a20 = false;
  Port92 port({.request_reset = [&] { ++resets; }, .set_a20 = [&](bool level) { a20 = level; }});
  EXPECT_TRUE(a20) << "a reset leaves the gate open";
  port.map_into(h.ports);
  EXPECT_EQ(h.in8(0x92), 0x02);
  h.out8(0x92, 0x00);
  EXPECT_EQ(h.in8(0x92), 0x00);
  EXPECT_FALSE(a20);
  h.out8(0x92, 0xff);
  EXPECT_TRUE(a20);
  EXPECT_EQ(h.in8(0x92), 0x03);
  EXPECT_EQ(resets, 1);
  h.out8(0x92, 0x01);
  EXPECT_EQ(resets, 1);
  const auto file = testing::DeviceHarness::save(port);
  bool loaded_a20 = false;
  Port92 copy({.request_reset = {}, .set_a20 = [&](bool level) { loaded_a20 = level; }});
  ASSERT_TRUE(loaded_a20);
  ASSERT_TRUE(testing::DeviceHarness::load(copy, file).has_value());
  EXPECT_FALSE(loaded_a20);
  EXPECT_EQ(copy.io_read(0, 1), 0x01u);
}

}  // namespace
}  // namespace rhea::devices
