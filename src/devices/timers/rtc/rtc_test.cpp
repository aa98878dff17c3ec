// SPDX-License-Identifier: Apache-2.0
// The real-time clock against the MC146818 data sheet.
#include "devices/timers/rtc/rtc.h"

#include <gtest/gtest.h>

#include "testing/device_harness.h"

namespace rhea::devices {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

class RtcTest : public ::testing::Test {
 protected:
  RtcTest() { rtc_.map_into(h_.ports); }
  uint8_t get(uint8_t index) {
    h_.out8(0x70, index);
    return h_.in8(0x71);
  }
  void set(uint8_t index, uint8_t value) {
    h_.out8(0x70, index);
    h_.out8(0x71, value);
  }
  bool irq() { return h_.irqs.levels[8]; }

  testing::DeviceHarness h_;
  std::vector<bool> nmi_;
  Rtc rtc_{{.memory_below_4g_bytes = uint64_t{3} << 30, .memory_above_4g_bytes = uint64_t{1} << 30},
           {.clock = h_.clock, .irq = h_.line(8), .set_nmi_masked = [this](bool masked) { nmi_.push_back(masked); }}};
};

TEST_F(RtcTest, ShowsWallTimeInBcd) {
  h_.clock.set_wall_time_ns((int64_t{1'709'211'845} * kSecond));  // 2024-02-29 13:04:05 UTC, a Thursday
  EXPECT_EQ(get(0), 0x05);
  EXPECT_EQ(get(2), 0x04);
  EXPECT_EQ(get(4), 0x13);
  EXPECT_EQ(get(6), 0x05);
  EXPECT_EQ(get(7), 0x29);
  EXPECT_EQ(get(8), 0x02);
  EXPECT_EQ(get(9), 0x24);
  EXPECT_EQ(get(0x32), 0x20);
  set(0x0b, 0x06);  // binary, 24 h
  EXPECT_EQ(get(7), 29);
  EXPECT_EQ(get(4), 13);
  set(0x0b, 0x00);  // BCD, 12 h
  EXPECT_EQ(get(4), 0x81);
  h_.clock.set_wall_time_ns(int64_t{1'709'211'845 - 13 * 3600} * kSecond);
  EXPECT_EQ(get(4), 0x12) << "midnight is 12 AM";
  h_.clock.set_wall_time_ns(int64_t{1'709'211'845 - 3600} * kSecond);
  EXPECT_EQ(get(4), 0x92) << "noon is 12 PM";
}

TEST_F(RtcTest, ResetValues) {
  EXPECT_EQ(get(0x0a) & 0x7f, 0x26);
  EXPECT_EQ(get(0x0b), 0x02);
  EXPECT_EQ(get(0x0c), 0x00);
  EXPECT_EQ(get(0x0d), 0x80);
  EXPECT_EQ(h_.in8(0x70), 0xff);
}

TEST_F(RtcTest, SettingTheTimeWithSet) {
  set(0x0b, 0x82);
  const uint8_t fields[][2] = {{0, 0x30}, {2, 0x59}, {4, 0x23}, {7, 0x31}, {8, 0x12}, {9, 0x99}, {0x32, 0x19}};
  for (const auto& field : fields) set(field[0], field[1]);
  h_.clock.advance(5 * kSecond);
  for (const auto& field : fields) EXPECT_EQ(get(field[0]), field[1]) << "stands still";
  set(0x0b, 0x02);
  h_.clock.advance(30 * kSecond);
  EXPECT_EQ(get(0), 0x00);
  EXPECT_EQ(get(4), 0x00);
  EXPECT_EQ(get(7), 0x01);
  EXPECT_EQ(get(8), 0x01);
  EXPECT_EQ(get(9), 0x00);
  EXPECT_EQ(get(0x32), 0x20);
  EXPECT_EQ(get(6), 0x07) << "2000-01-01 was a Saturday";
}

TEST_F(RtcTest, DividerResetStartsHalfASecondBefore) {
  set(0x0b, 0x82);
  set(0x0a, 0x70);
  set(0, 0x10);
  h_.clock.advance(3 * kSecond);
  set(0x0a, 0x26);
  set(0x0b, 0x02);
  h_.clock.advance(499'000'000);
  EXPECT_EQ(get(0), 0x10);
  h_.clock.advance(2'000'000);
  EXPECT_EQ(get(0), 0x11);
}

TEST_F(RtcTest, WritingOneFieldWhileRunning) {
  set(2, 0x41);
  EXPECT_EQ(get(2), 0x41);
  EXPECT_EQ(get(0), 0x00);
  h_.clock.advance(61 * kSecond);
  EXPECT_EQ(get(2), 0x42);
}

TEST_F(RtcTest, UpdateInProgressBeforeTheSecond) {
  EXPECT_EQ(get(0x0a) & 0x80, 0);
  h_.clock.advance(kSecond - 245'000);
  EXPECT_EQ(get(0x0a) & 0x80, 0);
  h_.clock.advance(2'000);
  EXPECT_EQ(get(0x0a) & 0x80, 0x80);
  EXPECT_EQ(get(0), 0x00);
  h_.clock.advance(243'000);
  EXPECT_EQ(get(0x0a) & 0x80, 0);
  EXPECT_EQ(get(0), 0x01);
  set(0x0b, 0x82);
  h_.clock.advance(kSecond - 1000);
  EXPECT_EQ(get(0x0a) & 0x80, 0) << "SET holds updates off";
}

TEST_F(RtcTest, UpdateEndedInterrupt) {
  EXPECT_FALSE(h_.clock.next_deadline()) << "nothing enabled: no host timer";
  set(0x0b, 0x12);
  h_.clock.advance(kSecond - 1'000'000);
  EXPECT_FALSE(irq());
  h_.clock.advance(1'100'000);
  EXPECT_TRUE(irq());
  EXPECT_FALSE(h_.clock.next_deadline()) << "pending already: no host timer";
  EXPECT_EQ(get(0x0c) & 0x90, 0x90) << "IRQF and UF";
  EXPECT_FALSE(irq());
  EXPECT_EQ(get(0x0c), 0x00);
  h_.clock.advance(kSecond);
  EXPECT_TRUE(irq());
}

TEST_F(RtcTest, FlagsAreSetWithoutEnables) {
  get(0x0c);
  h_.clock.advance(2 * kSecond);
  const uint8_t flags = get(0x0c);
  EXPECT_EQ(flags & 0xd0, 0x50) << "UF and PF, no IRQF";
  EXPECT_FALSE(irq());
}

TEST_F(RtcTest, PeriodicInterrupt) {
  set(0x0b, 0x42);
  unsigned count = 0;
  for (int i = 0; i < 10'000; ++i) {
    h_.clock.advance(100'000);
    if (irq()) {
      ++count;
      EXPECT_EQ(get(0x0c) & 0xc0, 0xc0);
    }
  }
  EXPECT_NEAR(count, 1024u, 2u);
  set(0x0a, 0x2f);  // 2 Hz
  get(0x0c);
  count = 0;
  for (int i = 0; i < 100; ++i) {
    h_.clock.advance(100'000'000);
    if (irq()) {
      ++count;
      get(0x0c);
    }
  }
  EXPECT_NEAR(count, 20u, 1u);
  set(0x0a, 0x20);
  get(0x0c);
  h_.clock.advance(kSecond);
  EXPECT_FALSE(irq());
}

TEST_F(RtcTest, AlarmExactAndDontCare) {
  set(1, 0x05);
  set(3, 0x01);
  set(5, 0x00);
  set(0x0b, 0x22);
  h_.clock.advance(64 * kSecond);
  EXPECT_FALSE(irq());
  h_.clock.advance(kSecond + 1000);
  EXPECT_TRUE(irq());
  EXPECT_EQ(get(0x0c) & 0xa0, 0xa0);
  set(3, 0xc0);  // every minute
  set(5, 0xff);
  h_.clock.advance(58 * kSecond);
  EXPECT_FALSE(irq());
  h_.clock.advance(2 * kSecond);
  EXPECT_TRUE(irq());
}

TEST_F(RtcTest, ImpossibleAlarmNeverFires) {
  set(1, 0x77);
  set(0x0b, 0x22);
  h_.clock.advance(2 * 86400 * kSecond);
  EXPECT_FALSE(irq());
}

TEST_F(RtcTest, AlarmSeenAfterALongGap) {
  set(1, 0x30);
  set(3, 0xc0);
  set(5, 0xc0);
  get(0x0c);
  h_.clock.advance(100 * 86400 * kSecond);
  EXPECT_EQ(get(0x0c) & 0x20, 0x20);
}

TEST_F(RtcTest, NmiMaskAndCmosMemory) {
  h_.out8(0x70, 0x8f);
  h_.out8(0x71, 0x5a);
  h_.out8(0x70, 0x8f);
  EXPECT_EQ(h_.in8(0x71), 0x5a);
  h_.out8(0x70, 0x00);
  EXPECT_EQ(nmi_, (std::vector<bool>{true, false}));
  EXPECT_EQ(get(0x15) | get(0x16) << 8, 640);
  EXPECT_EQ(get(0x17) | get(0x18) << 8, 63 * 1024);
  EXPECT_EQ(get(0x34) | get(0x35) << 8, ((3u << 30) - (16u << 20)) / 65536);
  EXPECT_EQ(get(0x5b) | get(0x5c) << 8 | get(0x5d) << 16, (1 << 30) / 65536);
}

TEST_F(RtcTest, ReadOnlyRegisters) {
  set(0x0c, 0xff);
  set(0x0d, 0x00);
  EXPECT_EQ(get(0x0d), 0x80);
  EXPECT_EQ(get(0x0c) & 0x0f, 0);
}

TEST_F(RtcTest, NonsenseFieldsStayInRange) {
  set(0x0b, 0x82);
  for (const uint8_t index : {0, 2, 4, 7, 8, 9, 0x32}) set(index, 0xff);
  set(0x0b, 0x02);
  h_.clock.advance(kSecond);
  EXPECT_LE(get(8), 0x12);
  EXPECT_LE(get(0), 0x59);
}

TEST_F(RtcTest, ResetKeepsTheTime) {
  set(2, 0x33);
  set(0x0b, 0x72);
  h_.clock.advance(2 * kSecond);
  EXPECT_TRUE(irq());
  rtc_.reset();
  EXPECT_FALSE(irq());
  EXPECT_EQ(get(0x0b), 0x02);
  EXPECT_EQ(get(2), 0x33);
}

TEST_F(RtcTest, SaveAndLoad) {
  set(2, 0x33);
  set(0x0b, 0x52);
  set(0x40, 0x99);
  h_.clock.advance(300'000'000);
  const auto file = testing::DeviceHarness::save(rtc_);
  testing::DeviceHarness other;
  other.clock.advance_to(h_.clock.now_ns());
  Rtc copy({}, {.clock = other.clock, .irq = other.line(8)});
  ASSERT_TRUE(testing::DeviceHarness::load(copy, file).has_value());
  EXPECT_EQ(testing::DeviceHarness::save(copy), file);
  other.clock.advance(kSecond);
  EXPECT_TRUE(other.irqs.levels[8]);
}

}  // namespace
}  // namespace rhea::devices
