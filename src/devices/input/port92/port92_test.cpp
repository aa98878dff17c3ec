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
  Port92 port({.request_reset = [&] { ++resets; }});
  port.map_into(h.ports);
  EXPECT_EQ(h.in8(0x92), 0x02);
  h.out8(0x92, 0x00);
  EXPECT_EQ(h.in8(0x92), 0x00);
  h.out8(0x92, 0xff);
  EXPECT_EQ(h.in8(0x92), 0x03);
  EXPECT_EQ(resets, 1);
  h.out8(0x92, 0x01);
  EXPECT_EQ(resets, 1);
  const auto file = testing::DeviceHarness::save(port);
  Port92 copy({.request_reset = {}});
  ASSERT_TRUE(testing::DeviceHarness::load(copy, file).has_value());
  EXPECT_EQ(copy.io_read(0, 1), 0x01u);
}

}  // namespace
}  // namespace rhea::devices
