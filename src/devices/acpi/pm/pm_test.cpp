// SPDX-License-Identifier: Apache-2.0
// The ACPI fixed hardware.
#include "devices/acpi/pm/pm.h"

#include <gtest/gtest.h>

#include "testing/device_harness.h"

namespace rhea::devices {
namespace {

constexpr uint16_t kStatus = 0x600, kEnable = 0x602, kControl = 0x604, kTimer = 0x608, kGpeStatus = 0x620,
                   kGpeEnable = 0x628;

class AcpiPmTest : public ::testing::Test {
 protected:
  AcpiPmTest() { pm_.map_into(h_.ports); }
  void enable_acpi() { h_.out8(0xb2, pm_regs::kAcpiEnable); }
  bool sci() { return h_.irqs.levels[9]; }

  testing::DeviceHarness h_;
  int power_offs_ = 0;
  AcpiPm pm_{{}, {.clock = h_.clock, .sci = h_.line(9), .power_off = [this] { ++power_offs_; }}};
};

TEST_F(AcpiPmTest, EnableAndDisableThroughSmiCommand) {
  EXPECT_EQ(h_.in16(kControl) & 1, 0);
  enable_acpi();
  EXPECT_EQ(h_.in16(kControl) & 1, 1);
  EXPECT_TRUE(pm_.acpi_enabled());
  h_.out16(kControl, 0);
  EXPECT_EQ(h_.in16(kControl) & 1, 1) << "SCI_EN is not the guest's to write";
  h_.out8(0xb2, pm_regs::kAcpiDisable);
  EXPECT_EQ(h_.in16(kControl) & 1, 0);
  h_.out16(0xb2, 0x5a00);
  EXPECT_EQ(h_.in8(0xb3), 0x5a);
}

TEST_F(AcpiPmTest, TimerRuns) {
  const uint32_t first = h_.in32(kTimer);
  h_.clock.advance(1'000'000'000);
  EXPECT_EQ(h_.in32(kTimer) - first, 3'579'545u);
  const uint32_t whole = h_.in32(kTimer);
  EXPECT_EQ(h_.in16(kTimer), whole & 0xffff);
  EXPECT_EQ(h_.in8(kTimer + 2), (whole >> 16) & 0xff);
}

TEST_F(AcpiPmTest, Timer24Bit) {
  testing::DeviceHarness other;
  AcpiPm pm({.base = 0x700, .timer_32bit = false}, {.clock = other.clock, .sci = other.line(9), .power_off = {}});
  pm.map_into(other.ports);
  other.clock.advance(10'000'000'000);
  EXPECT_EQ(other.in32(0x708), 35'795'450u % (1u << 24));
}

TEST_F(AcpiPmTest, TimerStatusAtTheMostSignificantBit) {
  testing::DeviceHarness other;
  AcpiPm pm({.base = 0x600, .timer_32bit = false}, {.clock = other.clock, .sci = other.line(9), .power_off = {}});
  pm.map_into(other.ports);
  other.out8(0xb2, pm_regs::kAcpiEnable);
  EXPECT_FALSE(other.clock.next_deadline());
  other.out16(kEnable, 1);
  const uint64_t half = (uint64_t{1} << 23) * 1'000'000'000 / 3'579'545;
  other.clock.advance(half - 1000);
  EXPECT_FALSE(other.irqs.levels[9]);
  other.clock.advance(2000);
  EXPECT_TRUE(other.irqs.levels[9]);
  other.out16(kStatus, 1);
  EXPECT_FALSE(other.irqs.levels[9]);
  other.clock.advance(half);
  EXPECT_TRUE(other.irqs.levels[9]);
}

TEST_F(AcpiPmTest, PowerButton) {
  pm_.press_power_button();
  EXPECT_FALSE(sci()) << "ACPI is off";
  EXPECT_EQ(h_.in16(kStatus), 0x100);
  h_.out16(kStatus, 0x100);
  EXPECT_EQ(h_.in16(kStatus), 0);
  enable_acpi();
  pm_.press_power_button();
  EXPECT_FALSE(sci()) << "not enabled";
  h_.out16(kEnable, 0x100);
  EXPECT_TRUE(sci());
  h_.out8(kStatus, 0xff);
  EXPECT_TRUE(sci()) << "the other byte";
  h_.out8(kStatus + 1, 0x01);
  EXPECT_FALSE(sci());
}

TEST_F(AcpiPmTest, OnlyDefinedEnables) {
  h_.out32(kStatus, 0xffff0000);
  EXPECT_EQ(h_.in16(kEnable), pm_regs::kPm1EnableBits);
}

TEST_F(AcpiPmTest, SoftOff) {
  enable_acpi();
  h_.out16(kControl, 1u << 13 | 5u << 10);
  EXPECT_EQ(power_offs_, 0) << "another sleep type";
  h_.out16(kControl, pm_regs::kSleepTypeS5 << 10);
  EXPECT_EQ(power_offs_, 0) << "no SLP_EN";
  h_.out16(kControl, 1u << 13 | pm_regs::kSleepTypeS5 << 10);
  EXPECT_EQ(power_offs_, 1);
  EXPECT_EQ(h_.in16(kControl) & (1u << 13), 0) << "SLP_EN reads zero";
}

TEST_F(AcpiPmTest, GeneralPurposeEvents) {
  enable_acpi();
  pm_.raise_gpe(10);
  pm_.raise_gpe(64);
  EXPECT_FALSE(sci());
  EXPECT_EQ(h_.in8(kGpeStatus + 1), 0x04);
  h_.out8(kGpeEnable + 1, 0x04);
  EXPECT_TRUE(sci());
  h_.out8(kGpeStatus + 1, 0x04);
  EXPECT_FALSE(sci());
}

TEST_F(AcpiPmTest, SaveAndLoad) {
  enable_acpi();
  h_.out16(kEnable, 0x101);
  pm_.press_power_button();
  pm_.raise_gpe(3);
  const auto file = testing::DeviceHarness::save(pm_);
  testing::DeviceHarness other;
  AcpiPm copy({}, {.clock = other.clock, .sci = other.line(9), .power_off = {}});
  ASSERT_TRUE(testing::DeviceHarness::load(copy, file).has_value());
  EXPECT_EQ(testing::DeviceHarness::save(copy), file);
  EXPECT_TRUE(other.irqs.levels[9]);
}

TEST(AcpiPmSmi, TheCommandPortRaisesThemWhereEnabled) {
  testing::DeviceHarness h;
  int smis = 0;
  AcpiPm pm({}, {.clock = h.clock, .sci = h.line(9), .power_off = {}, .smi = [&] { ++smis; }});
  pm.map_into(h.ports);
  h.out8(0xb2, 0x10);
  h.out32(0x630, 0x20);
  h.out8(0xb2, 0x11);
  h.out32(0x630, 0x01);
  h.out8(0xb2, 0x12);
  EXPECT_EQ(smis, 0);
  h.out32(0x630, 0xffffffff);
  EXPECT_EQ(h.in32(0x630), 0x21u);
  h.out8(0xb3, 1);
  EXPECT_EQ(smis, 0);
  h.out8(0xb2, 0x13);
  EXPECT_EQ(smis, 1);
  EXPECT_EQ(h.in32(0x634), 0x20u);
  h.out32(0x634, 0x20);
  EXPECT_EQ(h.in32(0x634), 0u);
  const auto file = testing::DeviceHarness::save(pm, 2);
  pm.reset();
  h.out8(0xb2, 0x14);
  EXPECT_EQ(smis, 1);
  ASSERT_TRUE(testing::DeviceHarness::load(pm, file, 2).has_value());
  h.out8(0xb2, 0x15);
  EXPECT_EQ(smis, 2);
}

}  // namespace
}  // namespace rhea::devices
