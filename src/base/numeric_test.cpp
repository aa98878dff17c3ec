// SPDX-License-Identifier: Apache-2.0
// Checked arithmetic and wire integers.
#include "base/numeric.h"

#include <gtest/gtest.h>

#include <limits>

#include "base/endian.h"

namespace rhea::base {
namespace {

constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();

TEST(Numeric, CheckedArithmetic) {
  EXPECT_EQ(checked_add<uint64_t>(kMax, 1), std::nullopt);
  EXPECT_EQ(checked_add<uint64_t>(kMax - 1, 1), kMax);
  EXPECT_EQ(checked_add<int8_t>(127, 1), std::nullopt);
  EXPECT_EQ(checked_sub<uint32_t>(0, 1), std::nullopt);
  EXPECT_EQ(checked_mul<uint64_t>(uint64_t{1} << 32, uint64_t{1} << 32), std::nullopt);
  EXPECT_EQ(checked_mul<uint32_t>(65536, 65535), 0xffff0000u);
}

TEST(Numeric, CheckedCast) {
  EXPECT_EQ((checked_cast<uint8_t>(255)), uint8_t{255});
  EXPECT_EQ((checked_cast<uint8_t>(256)), std::nullopt);
  EXPECT_EQ((checked_cast<uint64_t>(-1)), std::nullopt);
  EXPECT_EQ((checked_cast<int64_t>(kMax)), std::nullopt);
}

TEST(Numeric, Ranges) {
  EXPECT_TRUE(range_fits(0, 10, 10));
  EXPECT_TRUE(range_fits(10, 0, 10));
  EXPECT_FALSE(range_fits(1, 10, 10));
  EXPECT_FALSE(range_fits(kMax, 2, kMax));
  EXPECT_FALSE(range_fits(5, kMax, 10));
}

TEST(Numeric, Alignment) {
  EXPECT_EQ(align_down<uint64_t>(0x1fff, 0x1000), 0x1000u);
  EXPECT_EQ((checked_align_up<uint64_t>(0x1001, 0x1000)), 0x2000u);
  EXPECT_EQ((checked_align_up<uint64_t>(kMax, 0x1000)), std::nullopt);
  EXPECT_TRUE(is_aligned<uint64_t>(0x2000, 0x1000));
}

TEST(Numeric, MasksAndScaling) {
  EXPECT_EQ(byte_mask(1), 0xffu);
  EXPECT_EQ(byte_mask(4), 0xffffffffu);
  EXPECT_EQ(byte_mask(8), kMax);
  EXPECT_EQ(mul_div(kMax, 3'000'000'000, 3'000'000'000), kMax);
  EXPECT_EQ(mul_div(1'000'000'001, 2'400'000'000, 1'000'000'000), 2'400'000'002u);
}

TEST(Endian, WireIntegersHaveTheirBytesInOrder) {
  const Le32 little = 0x11223344;
  const Be32 big = 0x11223344;
  EXPECT_EQ(std::memcmp(&little, "\x44\x33\x22\x11", 4), 0);
  EXPECT_EQ(std::memcmp(&big, "\x11\x22\x33\x44", 4), 0);
  EXPECT_EQ(little, 0x11223344u);
  EXPECT_EQ(big, 0x11223344u);
  uint8_t buffer[9] = {};
  store_le<uint64_t>(buffer + 1, 0x0102030405060708);
  EXPECT_EQ(buffer[1], 8);
  EXPECT_EQ(load_le<uint64_t>(buffer + 1), 0x0102030405060708u);
  static_assert(sizeof(Be16) == 2 && alignof(Be64) == 1);
}

}  // namespace
}  // namespace rhea::base
