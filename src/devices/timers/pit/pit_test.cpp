// SPDX-License-Identifier: Apache-2.0
// The 8254 against its data sheet: counts, outputs and interrupts at exact ticks.
#include "devices/timers/pit/pit.h"

#include <gtest/gtest.h>

#include "devices/timers/pit/pit_channel.h"
#include "testing/device_harness.h"

namespace rhea::devices {
namespace {

using platform::kPitHz;

class PitTest : public ::testing::Test {
 protected:
  PitTest() { pit_.map_into(h_.ports); }
  // Moves to the middle of a tick, so that rounding of nanoseconds cannot matter.
  void to_tick(uint64_t tick) {
    const auto target =
        static_cast<uint64_t>((static_cast<unsigned __int128>(2 * tick + 1) * 1'000'000'000) / (2 * kPitHz));
    if (target > h_.clock.now_ns()) h_.clock.advance_to(target);
  }
  void ticks(uint64_t count) { to_tick(tick_ += count); }
  void control(unsigned channel, unsigned access, unsigned mode, bool bcd = false) {
    h_.out8(0x43, static_cast<uint8_t>(channel << 6 | access << 4 | mode << 1 | (bcd ? 1 : 0)));
  }
  void count16(unsigned channel, uint16_t value) {
    h_.out8(static_cast<uint16_t>(0x40 + channel), static_cast<uint8_t>(value));
    h_.out8(static_cast<uint16_t>(0x40 + channel), static_cast<uint8_t>(value >> 8));
  }
  uint16_t read16(unsigned channel) {
    const uint8_t low = h_.in8(static_cast<uint16_t>(0x40 + channel));
    return static_cast<uint16_t>(low | h_.in8(static_cast<uint16_t>(0x40 + channel)) << 8);
  }
  uint8_t status(unsigned channel) {
    h_.out8(0x43, static_cast<uint8_t>(0xe0 | 2u << channel));
    return h_.in8(static_cast<uint16_t>(0x40 + channel));
  }
  bool out(unsigned channel) { return status(channel) & 0x80; }
  void gate2(bool on) { h_.out8(0x61, on ? 1 : 0); }
  unsigned edges() { return h_.irqs.rising_edges[0]; }

  testing::DeviceHarness h_;
  Pit pit_{{.clock = h_.clock, .irq = h_.line(0)}};
  uint64_t tick_ = 0;
};

TEST_F(PitTest, ModeZeroRisesCountPlusOneTicksAfterTheWrite) {
  ticks(100);
  control(0, 3, 0);
  count16(0, 10);
  EXPECT_FALSE(out(0));
  EXPECT_FALSE(h_.irqs.levels[0]);
  ticks(1);
  EXPECT_EQ(read16(0), 10);
  ticks(9);
  EXPECT_EQ(read16(0), 1);
  EXPECT_FALSE(out(0));
  EXPECT_EQ(edges(), 0u);
  ticks(1);
  EXPECT_EQ(read16(0), 0);
  EXPECT_TRUE(out(0));
  EXPECT_EQ(edges(), 1u);
  ticks(1);
  EXPECT_EQ(read16(0), 0xffff) << "goes on counting";
  EXPECT_TRUE(out(0));
  ticks(200000);
  EXPECT_EQ(edges(), 1u);
  count16(0, 3);
  EXPECT_FALSE(out(0));
  ticks(4);
  EXPECT_TRUE(out(0));
  EXPECT_EQ(edges(), 2u);
}

TEST_F(PitTest, ModeZeroFirstByteStopsCounting) {
  control(0, 3, 0);
  count16(0, 1000);
  ticks(101);
  h_.out8(0x40, 50);
  EXPECT_FALSE(out(0));
  ticks(5000);
  EXPECT_EQ(edges(), 0u);
  h_.out8(0x40, 0);
  ticks(51);
  EXPECT_EQ(edges(), 1u);
}

TEST_F(PitTest, ZeroCountsAs65536) {
  control(0, 3, 0);
  count16(0, 0);
  ticks(1);
  EXPECT_EQ(read16(0), 0);
  ticks(65535);
  EXPECT_FALSE(out(0));
  ticks(1);
  EXPECT_TRUE(out(0));
}

TEST_F(PitTest, ModeTwoIsPeriodic) {
  control(0, 3, 2);
  EXPECT_TRUE(out(0));
  const unsigned before = edges();
  count16(0, 1193);
  ticks(1);
  EXPECT_EQ(read16(0), 1193);
  ticks(1192);
  EXPECT_EQ(read16(0), 1);
  EXPECT_FALSE(out(0)) << "low during the last tick";
  ticks(1);
  EXPECT_EQ(read16(0), 1193);
  EXPECT_TRUE(out(0));
  EXPECT_EQ(edges() - before, 1u);
  ticks(1193 * 99);
  EXPECT_EQ(edges() - before, 100u);
}

TEST_F(PitTest, ModeTwoNewCountWaitsForThePeriodsEnd) {
  control(0, 3, 2);
  count16(0, 1000);
  ticks(1 + 400);
  const unsigned before = edges();
  count16(0, 500);
  EXPECT_NE(status(0) & 0x40, 0) << "null count until it is loaded";
  ticks(599);
  EXPECT_EQ(read16(0), 1);
  ticks(1);
  EXPECT_EQ(read16(0), 500);
  EXPECT_EQ(status(0) & 0x40, 0);
  EXPECT_EQ(edges() - before, 1u);
  ticks(500);
  EXPECT_EQ(edges() - before, 2u);
}

TEST_F(PitTest, ModeThreeSquareWaveEven) {
  control(0, 3, 3);
  count16(0, 100);
  ticks(1);
  const unsigned before = edges();
  EXPECT_EQ(read16(0), 100);
  EXPECT_TRUE(out(0));
  ticks(49);
  EXPECT_EQ(read16(0), 2) << "counts down by two";
  EXPECT_TRUE(out(0));
  ticks(1);
  EXPECT_EQ(read16(0), 100);
  EXPECT_FALSE(out(0));
  ticks(50);
  EXPECT_TRUE(out(0));
  EXPECT_EQ(edges() - before, 1u);
}

TEST_F(PitTest, ModeThreeOddIsHighOneTickLonger) {
  gate2(true);
  control(2, 3, 3);
  count16(2, 5);
  ticks(1);
  const bool wave[] = {true, true, true, false, false, true, true, true, false, false};
  const uint16_t counts[] = {4, 2, 0, 4, 2, 4, 2, 0, 4, 2};
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(out(2), wave[i]) << i;
    EXPECT_EQ(read16(2), counts[i]) << i;
    ticks(1);
  }
}

TEST_F(PitTest, ModeThreeNewCountWaitsForTheHalfPeriodsEnd) {
  gate2(true);
  control(2, 3, 3);
  count16(2, 100);
  ticks(1 + 10);
  count16(2, 20);
  ticks(39);
  EXPECT_TRUE(out(2));
  ticks(1);
  EXPECT_FALSE(out(2));
  EXPECT_EQ(read16(2), 20);
  ticks(10);
  EXPECT_TRUE(out(2));
  ticks(10);
  EXPECT_FALSE(out(2));
}

TEST_F(PitTest, ModeFourStrobesOnce) {
  gate2(true);
  control(2, 3, 4);
  EXPECT_TRUE(out(2));
  count16(2, 4);
  ticks(1 + 3);
  EXPECT_TRUE(out(2));
  ticks(1);
  EXPECT_FALSE(out(2));
  ticks(1);
  EXPECT_TRUE(out(2));
  ticks(70000);
  EXPECT_TRUE(out(2));
}

TEST_F(PitTest, ModeOneIsTriggeredByTheGate) {
  gate2(false);
  control(2, 3, 1);
  count16(2, 5);
  ticks(100);
  EXPECT_TRUE(out(2)) << "no trigger yet";
  gate2(true);
  ticks(1);
  EXPECT_FALSE(out(2));
  ticks(3);
  gate2(false);
  gate2(true);  // retriggers
  ticks(1);
  EXPECT_EQ(read16(2), 5);
  ticks(4);
  EXPECT_FALSE(out(2));
  ticks(1);
  EXPECT_TRUE(out(2));
  count16(2, 9);
  ticks(50);
  EXPECT_TRUE(out(2)) << "a new count does not trigger";
}

TEST_F(PitTest, ModeFiveStrobesAfterTheGate) {
  gate2(false);
  control(2, 3, 5);
  count16(2, 3);
  ticks(10);
  EXPECT_TRUE(out(2));
  gate2(true);
  ticks(1 + 3);
  EXPECT_FALSE(out(2));
  ticks(1);
  EXPECT_TRUE(out(2));
}

TEST_F(PitTest, GateHoldsModeZeroAndRestartsModeTwo) {
  gate2(true);
  control(2, 3, 0);
  count16(2, 100);
  ticks(1 + 40);
  gate2(false);
  ticks(1000);
  EXPECT_EQ(read16(2), 60);
  gate2(true);
  ticks(59);
  EXPECT_FALSE(out(2));
  ticks(1);
  EXPECT_TRUE(out(2));

  control(2, 3, 2);
  count16(2, 100);
  ticks(1 + 40);
  gate2(false);
  EXPECT_TRUE(out(2));
  ticks(1000);
  gate2(true);
  ticks(1);
  EXPECT_EQ(read16(2), 100);
}

TEST_F(PitTest, Bcd) {
  gate2(true);
  control(2, 3, 0, true);
  count16(2, 0x1000);
  ticks(1);
  EXPECT_EQ(read16(2), 0x1000);
  ticks(1);
  EXPECT_EQ(read16(2), 0x0999);
  ticks(999);
  EXPECT_TRUE(out(2));
  ticks(1);
  EXPECT_EQ(read16(2), 0x9999);
  control(2, 3, 2, true);
  count16(2, 0);
  ticks(1);
  EXPECT_EQ(read16(2), 0) << "10000";
  ticks(1);
  EXPECT_EQ(read16(2), 0x9999);
}

TEST_F(PitTest, AccessModes) {
  gate2(true);
  control(2, 1, 0);
  h_.out8(0x42, 0x80);
  ticks(2);
  EXPECT_EQ(h_.in8(0x42), 0x7f);
  EXPECT_EQ(h_.in8(0x42), 0x7f);
  control(2, 2, 0);
  h_.out8(0x42, 0x12);
  ticks(2);
  EXPECT_EQ(h_.in8(0x42), 0x11);
  EXPECT_EQ(pit_.state().channel[2].count, 0x1200u);
}

TEST_F(PitTest, LatchesHoldUntilRead) {
  gate2(true);
  control(2, 3, 2);
  count16(2, 0x4000);
  ticks(1 + 0x123);
  h_.out8(0x43, 0x80);  // counter latch
  ticks(0x500);
  h_.out8(0x43, 0x80);  // ignored while one is held
  EXPECT_EQ(read16(2), 0x4000 - 0x123);
  EXPECT_EQ(read16(2), 0x4000 - 0x623);
}

TEST_F(PitTest, ReadBackStatusComesBeforeCount) {
  gate2(true);
  control(2, 3, 2);
  count16(2, 0x4000);
  ticks(1 + 5);
  h_.out8(0x43, 0xc8);  // status and count of channel 2
  ticks(100);
  EXPECT_EQ(h_.in8(0x42), 0xb4);  // output, access 3, mode 2
  EXPECT_EQ(read16(2), 0x4000 - 5);
  EXPECT_EQ(h_.in8(0x43), 0xff);
}

TEST_F(PitTest, Port61) {
  h_.out8(0x61, 0xff);
  EXPECT_EQ(h_.in8(0x61) & 0x0f, 0x0f);
  EXPECT_EQ(h_.in8(0x61) & 0xc0, 0);
  const uint8_t first = h_.in8(0x61) & 0x10;
  h_.clock.advance(15'085);
  EXPECT_NE(h_.in8(0x61) & 0x10, first);
  // As kernels calibrate: channel 2, mode 0, poll the output bit.
  h_.out8(0x61, 0);
  control(2, 3, 0);
  count16(2, 11932);
  const uint64_t start = h_.clock.now_ns();
  h_.out8(0x61, 1);
  while (!(h_.in8(0x61) & 0x20)) h_.clock.advance(1000);
  EXPECT_NEAR(static_cast<double>(h_.clock.now_ns() - start), 10e6, 3000);
}

TEST_F(PitTest, ShortPeriodsDoNotFloodTheHost) {
  control(0, 1, 2);
  h_.out8(0x40, 2);
  h_.clock.advance(10'000'000);
  EXPECT_LE(edges(), 10'000'000u / 50'000 + 2);
  control(0, 1, 2);
  h_.out8(0x40, 1);
  h_.clock.advance(1'000'000);
  control(0, 1, 3);
  h_.out8(0x40, 1);
  h_.clock.advance(1'000'000);
}

TEST_F(PitTest, ReprogrammingStopsTheTimer) {
  control(0, 3, 2);
  count16(0, 1193);
  ticks(5000);
  control(0, 3, 0);  // no count: stopped
  const unsigned before = edges();
  ticks(100000);
  EXPECT_EQ(edges(), before);
  EXPECT_FALSE(h_.clock.next_deadline());
}

TEST_F(PitTest, FrequencyOverALongTime) {
  control(0, 3, 2);
  count16(0, 11932);  // 100 Hz, nearly
  const unsigned before = edges();
  h_.clock.advance(uint64_t{100} * 1'000'000'000);
  EXPECT_EQ(edges() - before, 100 * kPitHz / 11932);
}

TEST_F(PitTest, SaveAndLoadGoesOnCounting) {
  control(0, 3, 2);
  count16(0, 2000);
  gate2(true);
  control(2, 3, 3);
  count16(2, 500);
  ticks(1234);
  h_.out8(0x40, 0x55);  // half a count
  const auto file = testing::DeviceHarness::save(pit_);
  testing::DeviceHarness other;
  Pit copy({.clock = other.clock, .irq = other.line(0)});
  other.clock.advance_to(h_.clock.now_ns());
  ASSERT_TRUE(testing::DeviceHarness::load(copy, file).has_value());
  EXPECT_EQ(testing::DeviceHarness::save(copy), file);
  const unsigned before = edges(), copy_before = other.irqs.rising_edges[0];
  h_.clock.advance(50'000'000);
  other.clock.advance(50'000'000);
  EXPECT_EQ(edges() - before, other.irqs.rising_edges[0] - copy_before);
  EXPECT_GT(edges() - before, 20u);
}

// The closed forms against a counter that is clocked tick by tick, as the data sheet describes it.
class SlowCounter {
 public:
  SlowCounter(unsigned mode, uint32_t count) : mode_(mode), count_(count) {}
  void clock() {
    if (!loaded_) {
      loaded_ = true;
      element_ = count_;
      if (mode_ == 3) element_ &= ~1u;
      return;
    }
    switch (mode_) {
      case 0:
      case 4:
        element_ = element_ == 0 ? 0xffff : element_ - 1;
        strobe_ = mode_ == 4 && element_ == 0 && !done_;
        if (element_ == 0) done_ = true;
        break;
      case 2: element_ = element_ == 1 ? count_ : element_ - 1; break;
      case 3: {
        // Odd counts: the high half lasts one tick longer, through zero.
        const uint32_t last = (count_ & 1) && high_ ? 0 : 2;
        if (element_ == last) {
          high_ = !high_;
          element_ = count_ & ~1u;
        } else {
          element_ -= 2;
        }
        break;
      }
      default: break;
    }
  }
  bool output() const {
    switch (mode_) {
      case 0: return done_;
      case 2: return element_ != 1;
      case 3: return high_;
      default: return !strobe_;
    }
  }
  uint16_t element() const { return static_cast<uint16_t>(element_); }

 private:
  unsigned mode_;
  uint32_t count_, element_ = 0;
  bool loaded_ = false, done_ = false, strobe_ = false, high_ = true;
};

TEST(PitChannel, ClosedFormsAgreeWithClockedCounter) {
  for (const unsigned mode : {0u, 2u, 3u, 4u}) {
    for (const uint32_t count : {2u, 3u, 4u, 5u, 7u, 16u, 255u, 256u, 1001u}) {
      platform::PitChannelState channel;
      pit_channel::program(channel, static_cast<uint8_t>(0x30 | mode << 1));
      uint64_t now = 1000;
      pit_channel::write_count_byte(channel, static_cast<uint8_t>(count), now);
      pit_channel::write_count_byte(channel, static_cast<uint8_t>(count >> 8), now);
      SlowCounter slow(mode, count);
      bool before = pit_channel::output(channel, now);
      auto rising = pit_channel::next_rising_edge(channel, now);
      for (unsigned i = 0; i < 3 * count + 10; ++i) {
        slow.clock();
        pit_channel::advance(channel, ++now);
        ASSERT_EQ(pit_channel::count(channel, now), slow.element()) << mode << " " << count << " " << i;
        const bool output = pit_channel::output(channel, now);
        ASSERT_EQ(output, slow.output()) << mode << " " << count << " " << i;
        const bool rose = output && !before;
        ASSERT_EQ(rose, rising && *rising == now) << mode << " " << count << " " << i;
        before = output;
        rising = pit_channel::next_rising_edge(channel, now);
      }
    }
  }
}

}  // namespace
}  // namespace rhea::devices
