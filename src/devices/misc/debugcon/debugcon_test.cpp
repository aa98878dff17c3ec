// SPDX-License-Identifier: Apache-2.0
// The debug console.
#include "devices/misc/debugcon/debugcon.h"

#include <gtest/gtest.h>

#include "testing/device_harness.h"

namespace rhea::devices {
namespace {

TEST(Debugcon, WritesGoToTheSinkAndReadsIdentify) {
  testing::DeviceHarness h;
  std::string text;
  Debugcon port({}, {.sink = [&](std::span<const std::byte> data) {
                  for (const std::byte byte : data) text += static_cast<char>(byte);
                }});
  port.map_into(h.ports);
  for (const char c : std::string("boot\n")) h.out8(0xe9, static_cast<uint8_t>(c));
  EXPECT_EQ(text, "boot\n");
  EXPECT_EQ(h.in8(0xe9), 0xe9);
  const auto file = testing::DeviceHarness::save(port);
  EXPECT_TRUE(testing::DeviceHarness::load(port, file).has_value());
}

}  // namespace
}  // namespace rhea::devices
