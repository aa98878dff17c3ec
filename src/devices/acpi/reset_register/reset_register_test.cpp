// SPDX-License-Identifier: Apache-2.0
// The reset control register.
#include "devices/acpi/reset_register/reset_register.h"

#include <gtest/gtest.h>

#include "testing/device_harness.h"

namespace rhea::devices {
namespace {

TEST(ResetRegister, ResetsOnTheRisingEdgeOfResetCpu) {
  int resets = 0;
  ResetRegister device({.request_reset = [&] { ++resets; }});
  device.io_write(0, 0x02, 1);
  EXPECT_EQ(resets, 0);
  device.io_write(0, 0x06, 1);
  EXPECT_EQ(resets, 1);
  device.io_write(0, 0x0e, 1);
  EXPECT_EQ(resets, 1) << "already set";
  EXPECT_EQ(device.io_read(0, 1), 0x0eu);
  device.reset();
  EXPECT_EQ(device.io_read(0, 1), 0u);
  device.io_write(0, 0xff, 1);
  EXPECT_EQ(resets, 2);
  EXPECT_EQ(device.io_read(0, 1), 0x0eu);
  const auto file = testing::DeviceHarness::save(device);
  ResetRegister copy({.request_reset = {}});
  ASSERT_TRUE(testing::DeviceHarness::load(copy, file).has_value());
  EXPECT_EQ(copy.io_read(0, 1), 0x0eu);
}

}  // namespace
}  // namespace rhea::devices
