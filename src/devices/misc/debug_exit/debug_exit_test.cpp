// SPDX-License-Identifier: Apache-2.0
// The debug-exit port.
#include "devices/misc/debug_exit/debug_exit.h"

#include <gtest/gtest.h>

#include "testing/device_harness.h"

namespace rhea::devices {
namespace {

TEST(DebugExit, StatusIsTwiceTheValuePlusOne) {
  testing::DeviceHarness h;
  std::vector<uint32_t> statuses;
  DebugExit port({}, {.exit = [&](uint32_t status) { statuses.push_back(status); }});
  port.map_into(h.ports);
  h.out8(0xf4, 0);
  h.out8(0xf4, 0x10);
  h.out16(0xf4, 0x1234);
  h.out32(0xf4, 0x10);
  EXPECT_EQ(statuses, (std::vector<uint32_t>{1, 0x21, 0x2469, 0x21}));
  const auto file = testing::DeviceHarness::save(port);
  EXPECT_TRUE(testing::DeviceHarness::load(port, file).has_value());
}

}  // namespace
}  // namespace rhea::devices
