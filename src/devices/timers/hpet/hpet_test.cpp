// SPDX-License-Identifier: Apache-2.0
// The HPET against its specification: counter, comparators, modes, routes, legacy replacement, saved state.
#include "devices/timers/hpet/hpet.h"

#include <gtest/gtest.h>

#include "state/format.h"
#include "testing/device_harness.h"

namespace rhea::devices {
namespace {

using namespace hpet_regs;

class HpetTest : public ::testing::Test {
 protected:
  HpetTest() {
    hpet_.reset();
    hpet_.map_into(h_.physical);
    legacy_.clear();
  }
  uint64_t read(uint64_t offset) { return h_.read64(kBase + offset); }
  void write(uint64_t offset, uint64_t value) { h_.write64(kBase + offset, value); }
  static uint64_t config_of(unsigned timer) { return kTimerBlocks + timer * kTimerBlockBytes; }
  static uint64_t comparator_of(unsigned timer) { return config_of(timer) + kTimerComparator; }
  static uint64_t route(unsigned gsi) { return uint64_t{gsi} << kRouteShift; }
  void enable(bool legacy = false) { write(kConfiguration, kEnable | (legacy ? kLegacyReplacement : 0)); }
  void ticks(uint64_t count) { h_.clock.advance(count * kTickNs); }
  unsigned edges(unsigned gsi) { return h_.irqs.rising_edges[gsi]; }
  bool level(unsigned gsi) { return h_.irqs.levels[gsi]; }

  testing::DeviceHarness h_;
  std::vector<bool> legacy_;
  Hpet hpet_{
      {.clock = h_.clock, .router = h_.router, .set_legacy_replacement = [this](bool on) { legacy_.push_back(on); }}};
};

TEST_F(HpetTest, Capabilities) {
  const uint64_t value = read(kCapabilitiesRegister);
  EXPECT_NE(value & 0xff, 0u) << "revision";
  EXPECT_EQ((value >> 8) & 0x1f, kTimers - 1);
  EXPECT_TRUE(value & (1u << 13)) << "64-bit counter";
  EXPECT_TRUE(value & (1u << 15)) << "legacy replacement";
  EXPECT_EQ(value >> 32, 10'000'000u) << "femtoseconds; 0x05f5e100 at most";
  write(kCapabilitiesRegister, 0);
  EXPECT_EQ(read(kCapabilitiesRegister), value);
  for (unsigned timer = 0; timer < kTimers; ++timer) {
    EXPECT_EQ(read(config_of(timer)), kTimerCapabilities);
    EXPECT_EQ(read(comparator_of(timer)), ~uint64_t{0});
  }
  EXPECT_EQ(read(config_of(kTimers)), 0u) << "no fourth timer";
}

TEST_F(HpetTest, CounterRunsWhileEnabledAndKeepsItsValue) {
  ticks(1000);
  EXPECT_EQ(read(kMainCounter), 0u);
  enable();
  ticks(1234);
  EXPECT_EQ(read(kMainCounter), 1234u);
  write(kConfiguration, 0);
  ticks(50);
  EXPECT_EQ(read(kMainCounter), 1234u);
  write(kMainCounter, 0xffff'ffff'ffff'fff0);
  enable();
  ticks(0x20);
  EXPECT_EQ(read(kMainCounter), 0x10u) << "wraps";
}

TEST_F(HpetTest, HalvesOfRegisters) {
  write(kMainCounter, 0x1122334455667788);
  EXPECT_EQ(h_.read32(kBase + kMainCounter), 0x55667788u);
  EXPECT_EQ(h_.read32(kBase + kMainCounter + 4), 0x11223344u);
  EXPECT_EQ(h_.read8(kBase + kMainCounter + 6), 0x22u);
  h_.write32(kBase + kMainCounter + 4, 0xaabbccdd);
  EXPECT_EQ(read(kMainCounter), 0xaabbccdd55667788u);
  h_.write32(kBase + kMainCounter, 1);
  EXPECT_EQ(read(kMainCounter), 0xaabbccdd00000001u);
  h_.write16(kBase + kMainCounter, 0xffff);
  h_.write8(kBase + kMainCounter, 0xff);
  EXPECT_EQ(read(kMainCounter), 0xaabbccdd00000001u) << "narrower writes are nobody's";
  h_.write32(kBase + comparator_of(1) + 4, 5);
  EXPECT_EQ(read(comparator_of(1)), 0x5'ffffffffu);
}

TEST_F(HpetTest, OneShotMatchesOnceAtItsTick) {
  write(config_of(0), kInterruptEnable | route(20));
  enable();
  write(comparator_of(0), 1000);
  ticks(999);
  EXPECT_EQ(edges(20), 0u);
  ticks(1);
  EXPECT_EQ(edges(20), 1u);
  EXPECT_FALSE(level(20)) << "an edge on an input of the I/O APIC alone is a pulse";
  EXPECT_EQ(read(kInterruptStatus), 0u) << "edge-triggered";
  ticks(1'000'000);
  EXPECT_EQ(edges(20), 1u);
  EXPECT_EQ(read(comparator_of(0)), 1000u);
  write(comparator_of(0), read(kMainCounter) + 10);
  ticks(10);
  EXPECT_EQ(edges(20), 2u);
}

TEST_F(HpetTest, NoInterruptUnlessEnabledAndRunning) {
  write(config_of(0), route(20));
  write(config_of(1), kInterruptEnable | route(21));
  write(comparator_of(0), 10);
  write(comparator_of(1), 10);
  ticks(100);
  EXPECT_EQ(edges(21), 0u) << "halted";
  enable();
  ticks(5);
  write(kConfiguration, 0);
  ticks(100);
  EXPECT_EQ(edges(21), 0u) << "halted again";
  enable();
  ticks(5);
  EXPECT_EQ(edges(21), 1u);
  EXPECT_EQ(edges(20), 0u) << "its interrupt is not enabled";
}

// [IA-PC-HPET 2.3.8] A narrow timer matches each time the low half of the counter comes by.
TEST_F(HpetTest, NarrowTimersMatchAtEveryWrap) {
  write(config_of(2), kInterruptEnable | k32Bit | route(22));
  write(comparator_of(2), 0xdead'0000'0100);
  EXPECT_EQ(read(comparator_of(2)), 0x100u);
  enable();
  ticks(0x100);
  EXPECT_EQ(edges(22), 1u);
  ticks(uint64_t{1} << 32);
  EXPECT_EQ(edges(22), 2u);
  write(kConfiguration, 0);
  write(kMainCounter, 0x5'ffff'ff00);
  enable();
  ticks(0x200);
  EXPECT_EQ(edges(22), 3u);
}

TEST_F(HpetTest, ComparatorBehindTheCounter) {
  write(config_of(0), kInterruptEnable | route(20));
  write(kMainCounter, uint64_t{1} << 40);
  enable();
  write(comparator_of(0), (uint64_t{1} << 40) - 1000);
  EXPECT_EQ(edges(20), 1u) << "just missed: at once";
  write(comparator_of(0), 5);
  ticks(1'000'000'000);
  EXPECT_EQ(edges(20), 1u) << "long past: after the wrap";
}

TEST_F(HpetTest, PeriodicWithAccumulator) {
  enable();
  ticks(500);
  write(config_of(0), kInterruptEnable | kPeriodic | kSetAccumulator | route(20));
  write(comparator_of(0), 10'000);
  EXPECT_FALSE(read(config_of(0)) & kSetAccumulator) << "clears itself";
  write(comparator_of(0), 7000);  // only the period
  EXPECT_EQ(read(comparator_of(0)), 10'000u);
  ticks(9499);
  EXPECT_EQ(edges(20), 0u);
  ticks(1);
  EXPECT_EQ(edges(20), 1u);
  EXPECT_EQ(read(comparator_of(0)), 17'000u);
  ticks(7000 * 9);
  EXPECT_EQ(edges(20), 10u);
  EXPECT_EQ(read(comparator_of(0)), 80'000u);
}

TEST_F(HpetTest, PeriodicInHalves) {
  write(config_of(0), kInterruptEnable | kPeriodic | kSetAccumulator | route(20));
  h_.write32(kBase + comparator_of(0), 0x1000);
  write(config_of(0), read(config_of(0)) | kSetAccumulator);
  h_.write32(kBase + comparator_of(0) + 4, 1);
  EXPECT_EQ(read(comparator_of(0)), 0x1'0000'1000u);
}

TEST_F(HpetTest, MissedPeriodsAreOneInterrupt) {
  write(config_of(0), kLevel | kInterruptEnable | kPeriodic | kSetAccumulator | k32Bit | route(20));
  write(comparator_of(0), 100);  // one microsecond: shorter than anybody is interrupted
  enable();
  ticks(100'000);
  EXPECT_LE(h_.irqs.gsi_changes.size(), 100u);
  EXPECT_EQ(read(comparator_of(0)), 100'100u);
  write(config_of(1), kInterruptEnable | kPeriodic | kSetAccumulator | route(21));
  write(comparator_of(1), 0);  // no period at all
  ticks(1'000'000);
  EXPECT_LE(edges(21), 1u);
}

TEST_F(HpetTest, LevelUntilTheStatusIsCleared) {
  write(config_of(1), kLevel | kInterruptEnable | route(23));
  write(comparator_of(1), 100);
  write(config_of(2), kLevel | route(22));
  write(comparator_of(2), 100);
  enable();
  ticks(100);
  EXPECT_TRUE(level(23));
  EXPECT_EQ(read(kInterruptStatus), 6u) << "a status without its interrupt, too";
  EXPECT_FALSE(level(22));
  write(kInterruptStatus, 4);
  EXPECT_TRUE(level(23));
  write(kConfiguration, 0);
  EXPECT_FALSE(level(23)) << "halted: all interrupts are disabled";
  enable();
  EXPECT_TRUE(level(23));
  write(kInterruptStatus, 2);
  EXPECT_FALSE(level(23));
  EXPECT_EQ(read(kInterruptStatus), 0u);
}

TEST_F(HpetTest, RoutesThatAreNotOfferedAreNotTaken) {
  write(config_of(0), route(21));
  write(config_of(0), route(5));
  EXPECT_EQ((read(config_of(0)) & kRouteMask) >> kRouteShift, 21u);
  write(config_of(1), kInterruptEnable);  // none chosen
  write(comparator_of(1), 10);
  enable();
  ticks(100);
  EXPECT_TRUE(h_.irqs.gsi_changes.empty());
}

TEST_F(HpetTest, MessagesInsteadOfLines) {
  write(config_of(0) + kTimerFsbRoute, 0xfee0100c'00004041);
  write(config_of(0), kInterruptEnable | kFsbEnable | route(20));
  write(comparator_of(0), 50);
  enable();
  ticks(50);
  ASSERT_EQ(h_.irqs.msis.size(), 1u);
  EXPECT_EQ(h_.irqs.msis[0].address, 0xfee0100cu);
  EXPECT_EQ(h_.irqs.msis[0].data, 0x4041u);
  EXPECT_TRUE(h_.irqs.gsi_changes.empty());
  h_.write32(kBase + config_of(0) + kTimerFsbRoute, 0x99);
  EXPECT_EQ(read(config_of(0) + kTimerFsbRoute), 0xfee0100c'00000099u);
}

TEST_F(HpetTest, LegacyReplacementTakesTheTimersLines) {
  write(config_of(0), kInterruptEnable | kPeriodic | kSetAccumulator | route(20));
  write(comparator_of(0), 10'000);
  write(config_of(1), kInterruptEnable | route(21));
  write(comparator_of(1), 10'000);
  write(config_of(2), kInterruptEnable | route(22));
  write(comparator_of(2), 10'000);
  enable(true);
  EXPECT_EQ(legacy_, std::vector<bool>{true});
  ticks(10'000);
  EXPECT_EQ(edges(0), 1u);
  EXPECT_EQ(edges(8), 1u);
  EXPECT_EQ(edges(20) + edges(21), 0u);
  EXPECT_EQ(edges(22), 1u) << "the third has no legacy line";
  EXPECT_TRUE(level(0)) << "an 8259 input stays up until it is acknowledged";
  ticks(10'000);
  EXPECT_EQ(edges(0), 2u);
  enable(false);
  EXPECT_FALSE(level(0));
  EXPECT_FALSE(legacy_.back());
  ticks(10'000);
  EXPECT_EQ(edges(0), 2u);
  EXPECT_EQ(edges(20), 1u);
}

TEST_F(HpetTest, SavesAndLoads) {
  write(config_of(0), kInterruptEnable | kPeriodic | kSetAccumulator);
  write(comparator_of(0), 1000);
  write(config_of(1), kLevel | kInterruptEnable | route(23));
  write(comparator_of(1), 500);
  write(config_of(2), kInterruptEnable | k32Bit | kFsbEnable | route(22));
  write(config_of(2) + kTimerFsbRoute, 0x123456789);
  enable(true);
  ticks(1700);
  const auto file = testing::DeviceHarness::save(hpet_);

  Hpet other(
      {.clock = h_.clock, .router = h_.router, .set_legacy_replacement = [this](bool on) { legacy_.push_back(on); }});
  other.reset();
  EXPECT_FALSE(legacy_.back());
  hpet_.reset();
  const unsigned before = edges(0);
  ASSERT_TRUE(testing::DeviceHarness::load(other, file));
  EXPECT_TRUE(legacy_.back());
  EXPECT_TRUE(level(0)) << "as it was";
  EXPECT_EQ(other.io_read(kMainCounter, 8), 1700u);
  EXPECT_EQ(other.io_read(kInterruptStatus, 8), 2u);
  EXPECT_EQ(other.io_read(config_of(2) + kTimerFsbRoute, 8), 0x123456789u);
  EXPECT_EQ(other.io_read(comparator_of(0), 8), 2000u);
  const unsigned loaded = edges(0);
  EXPECT_EQ(loaded, before + 1) << "the line's level, which the interrupt chip knows already";
  ticks(300);
  EXPECT_EQ(edges(0), loaded + 1);
  EXPECT_EQ(testing::DeviceHarness::save(other), testing::DeviceHarness::save(other));
}

TEST_F(HpetTest, DamagedStateDoesNoHarm) {
  enable();
  ticks(10);
  auto file = testing::DeviceHarness::save(hpet_);
  for (size_t at = state::kHeaderBytes; at + state::kTrailerBytes < file.size(); ++at) {
    auto damaged = file;
    damaged[at] = std::byte{0xff};
    const uint32_t crc = state::crc32(std::span(damaged).first(damaged.size() - state::kTrailerBytes));
    for (unsigned i = 0; i < 4; ++i) damaged[damaged.size() - 4 + i] = static_cast<std::byte>(crc >> (8 * i));
    (void)testing::DeviceHarness::load(hpet_, damaged);
    EXPECT_EQ(read(config_of(0)) & ~(kTimerCapabilities | kTimerWritable), 0u);
    ticks(1000);
  }
}

}  // namespace
}  // namespace rhea::devices
