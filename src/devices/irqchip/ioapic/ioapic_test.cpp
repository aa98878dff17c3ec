// SPDX-License-Identifier: Apache-2.0
// The I/O APIC against its data sheet.
#include "devices/irqchip/ioapic/ioapic.h"

#include <gtest/gtest.h>

#include "testing/device_harness.h"

namespace rhea::devices {
namespace {

constexpr uint64_t kBase = 0xfec00000;
constexpr uint32_t kLevel = 1u << 15, kMasked = 1u << 16, kRemoteIrr = 1u << 14;

class IoapicTest : public ::testing::Test {
 protected:
  IoapicTest() {
    ioapic_.map_into(h_.physical);
    h_.router.connect_gsi_sink(&ioapic_);
    h_.router.connect_eoi_listener(&ioapic_);
  }
  uint32_t get(uint8_t index) {
    h_.write32(kBase, index);
    return h_.read32(kBase + 0x10);
  }
  void set(uint8_t index, uint32_t value) {
    h_.write32(kBase, index);
    h_.write32(kBase + 0x10, value);
  }
  void program(unsigned pin, uint32_t low, uint32_t high = 0) {
    set(static_cast<uint8_t>(0x11 + 2 * pin), high);
    set(static_cast<uint8_t>(0x10 + 2 * pin), low);
  }
  uint32_t low(unsigned pin) { return get(static_cast<uint8_t>(0x10 + 2 * pin)); }
  auto& msis() { return h_.irqs.msis; }

  testing::DeviceHarness h_;
  Ioapic ioapic_{{.router = h_.router}};
};

TEST_F(IoapicTest, ResetStateAndIdentity) {
  EXPECT_EQ(get(1), 0x00170020u);
  for (unsigned pin = 0; pin < 24; ++pin) {
    EXPECT_EQ(low(pin), kMasked);
    EXPECT_EQ(get(static_cast<uint8_t>(0x11 + 2 * pin)), 0u);
  }
  set(0, 0xffffffff);
  EXPECT_EQ(get(0), 0x0f000000u);
  EXPECT_EQ(get(0x40), 0u) << "beyond the table";
  EXPECT_EQ(h_.read32(kBase), 0x40u);
}

TEST_F(IoapicTest, OnlyDefinedBitsAreWritable) {
  program(3, 0xffffffff, 0xffffffff);
  EXPECT_EQ(low(3), 0x0001afffu);
  EXPECT_EQ(get(0x17), 0xff000000u);
}

TEST_F(IoapicTest, EdgeSendsOneMessagePerEdge) {
  program(4, 0x34, 5u << 24);
  h_.router.set_gsi(4, true);
  ASSERT_EQ(msis().size(), 1u);
  EXPECT_EQ(msis()[0].address, 0xfee05000u);
  EXPECT_EQ(msis()[0].data, 0x4034u);
  EXPECT_EQ(low(4) & kRemoteIrr, 0u);
  h_.router.set_gsi(4, false);
  h_.router.set_gsi(4, true);
  EXPECT_EQ(msis().size(), 2u);
}

TEST_F(IoapicTest, LogicalLowestPriorityDestination) {
  program(4, 0x34 | 1 << 8 | 1 << 11, 0xffu << 24);
  h_.router.set_gsi(4, true);
  ASSERT_EQ(msis().size(), 1u);
  EXPECT_EQ(msis()[0].address, 0xfeeff00cu);
  EXPECT_EQ(msis()[0].data, 0x4134u);
}

TEST_F(IoapicTest, EdgeWhileMaskedIsForgotten) {
  program(4, 0x34 | kMasked);
  h_.router.set_gsi(4, true);
  program(4, 0x34);
  EXPECT_TRUE(msis().empty());
}

TEST_F(IoapicTest, LevelWaitsForEoiAndResamples) {
  program(9, 0x39 | kLevel);
  h_.router.set_gsi(9, true);
  ASSERT_EQ(msis().size(), 1u);
  EXPECT_EQ(msis()[0].data, 0xc039u);
  EXPECT_NE(low(9) & kRemoteIrr, 0u);
  h_.router.set_gsi(9, false);
  h_.router.set_gsi(9, true);
  EXPECT_EQ(msis().size(), 1u) << "remote IRR holds it";
  h_.router.broadcast_eoi(0x38);
  EXPECT_EQ(msis().size(), 1u) << "another vector's EOI";
  h_.router.broadcast_eoi(0x39);
  EXPECT_EQ(msis().size(), 2u) << "still high: sent again";
  h_.router.set_gsi(9, false);
  h_.router.broadcast_eoi(0x39);
  EXPECT_EQ(msis().size(), 2u);
  EXPECT_EQ(low(9) & kRemoteIrr, 0u);
}

TEST_F(IoapicTest, LevelUnmaskedWhileHighIsSent) {
  program(9, 0x39 | kLevel | kMasked);
  h_.router.set_gsi(9, true);
  EXPECT_TRUE(msis().empty());
  program(9, 0x39 | kLevel);
  EXPECT_EQ(msis().size(), 1u);
  program(9, 0x39 | kLevel);
  EXPECT_EQ(msis().size(), 1u) << "rewriting the entry does not repeat it";
}

TEST_F(IoapicTest, MaskedPinIsNotResentAtEoi) {
  program(9, 0x39 | kLevel);
  h_.router.set_gsi(9, true);
  program(9, 0x39 | kLevel | kMasked);
  h_.router.broadcast_eoi(0x39);
  EXPECT_EQ(msis().size(), 1u);
  program(9, 0x39 | kLevel);
  EXPECT_EQ(msis().size(), 2u);
}

TEST_F(IoapicTest, EoiRegister) {
  program(9, 0x39 | kLevel);
  h_.router.set_gsi(9, true);
  h_.write32(kBase + 0x40, 0x39);
  EXPECT_EQ(msis().size(), 2u);
}

TEST_F(IoapicTest, SwitchingToEdgeDropsRemoteIrr) {
  program(9, 0x39 | kLevel);
  h_.router.set_gsi(9, true);
  h_.router.set_gsi(9, false);
  program(9, 0x39 | kMasked);
  EXPECT_EQ(low(9) & kRemoteIrr, 0u);
}

TEST_F(IoapicTest, RemoteIrrCannotBeWritten) {
  program(9, 0x39 | kLevel | kRemoteIrr);
  EXPECT_EQ(low(9) & kRemoteIrr, 0u);
  h_.router.set_gsi(9, true);
  program(9, 0x39 | kLevel);
  EXPECT_NE(low(9) & kRemoteIrr, 0u);
}

TEST_F(IoapicTest, NmiModeIsNeverLevel) {
  program(7, 0x00 | 4 << 8 | kLevel);
  h_.router.set_gsi(7, true);
  ASSERT_EQ(msis().size(), 1u);
  EXPECT_EQ(msis()[0].data & 0x8700, 0x0400u);
  EXPECT_EQ(low(7) & kRemoteIrr, 0u);
}

TEST_F(IoapicTest, TimerLineIsWiredToPinTwo) {
  program(0, 0x30);
  program(2, 0x32);
  h_.router.set_gsi(0, true);
  ASSERT_EQ(msis().size(), 1u);
  EXPECT_EQ(msis()[0].data & 0xff, 0x32u);
  h_.router.set_gsi(2, true);
  EXPECT_EQ(msis().size(), 1u);
}

TEST_F(IoapicTest, NarrowAndOddAccesses) {
  h_.write8(kBase, 1);
  EXPECT_EQ(h_.read32(kBase + 0x10), 0x00170020u);
  EXPECT_EQ(h_.read8(kBase + 0x12), 0x17u);
  EXPECT_EQ(h_.read32(kBase + 0x20), 0u);
  EXPECT_EQ(h_.read8(kBase + 0x0f), 0u);
  h_.write8(kBase, 0x10);
  h_.write8(kBase + 0x10, 0xff);  // not a 32-bit write: ignored
  EXPECT_EQ(low(0), kMasked);
}

TEST_F(IoapicTest, SaveAndLoad) {
  program(9, 0x39 | kLevel, 3u << 24);
  program(4, 0x34);
  set(0, 2u << 24);
  h_.router.set_gsi(9, true);
  const auto file = testing::DeviceHarness::save(ioapic_);
  testing::DeviceHarness other;
  Ioapic copy({.router = other.router});
  other.router.connect_gsi_sink(&copy);
  other.router.connect_eoi_listener(&copy);
  ASSERT_TRUE(testing::DeviceHarness::load(copy, file).has_value());
  EXPECT_EQ(testing::DeviceHarness::save(copy), file);
  EXPECT_TRUE(other.irqs.msis.empty());
  other.router.set_gsi(9, true);  // the device's own load drives its line again
  EXPECT_TRUE(other.irqs.msis.empty());
  other.router.broadcast_eoi(0x39);
  EXPECT_EQ(other.irqs.msis.size(), 1u);
}

}  // namespace
}  // namespace rhea::devices
