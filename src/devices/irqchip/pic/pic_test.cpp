// SPDX-License-Identifier: Apache-2.0
// The 8259A pair against its data sheet.
#include "devices/irqchip/pic/pic.h"

#include <gtest/gtest.h>

#include "testing/device_harness.h"

namespace rhea::devices {
namespace {

constexpr uint16_t kCommand[2] = {0x20, 0xa0}, kData[2] = {0x21, 0xa1};

class PicTest : public ::testing::Test {
 protected:
  PicTest() {
    pic_.map_into(h_.ports);
    h_.router.connect_gsi_sink(&pic_);
    h_.router.connect_ext_int_source(&pic_);
  }
  void init(uint8_t icw4_primary = 1, uint8_t icw4_secondary = 1) {
    const uint8_t bases[2] = {0x20, 0x28}, wiring[2] = {4, 2}, icw4[2] = {icw4_primary, icw4_secondary};
    for (int i = 0; i < 2; ++i) {
      h_.out8(kCommand[i], 0x11);
      h_.out8(kData[i], bases[i]);
      h_.out8(kData[i], wiring[i]);
      h_.out8(kData[i], icw4[i]);
      h_.out8(kData[i], 0);
    }
  }
  void pulse(unsigned irq) {
    h_.router.set_gsi(irq, true);
    h_.router.set_gsi(irq, false);
  }
  int ack() { return h_.irqs.ext_int ? h_.router.acknowledge_ext_int() : -1; }
  uint8_t isr(int chip) {
    h_.out8(kCommand[chip], 0x0b);
    return h_.in8(kCommand[chip]);
  }
  uint8_t irr(int chip) {
    h_.out8(kCommand[chip], 0x0a);
    return h_.in8(kCommand[chip]);
  }
  void eoi(int chip) { h_.out8(kCommand[chip], 0x20); }

  testing::DeviceHarness h_;
  Pic pic_{{.router = h_.router}};
};

TEST_F(PicTest, MaskRegisterReadsBack) {
  init();
  for (const uint8_t mask : {0xfb, 0x00, 0xff, 0x5a}) {
    h_.out8(0x21, mask);
    h_.out8(0xa1, static_cast<uint8_t>(~mask));
    EXPECT_EQ(h_.in8(0x21), mask);
    EXPECT_EQ(h_.in8(0xa1), static_cast<uint8_t>(~mask));
  }
}

TEST_F(PicTest, EdgeIsDeliveredOnceAndInService) {
  init();
  h_.router.set_gsi(1, true);
  EXPECT_TRUE(h_.irqs.ext_int);
  EXPECT_EQ(ack(), 0x21);
  EXPECT_FALSE(h_.irqs.ext_int);
  EXPECT_EQ(isr(0), 0x02);
  EXPECT_EQ(irr(0), 0x00);
  eoi(0);
  EXPECT_EQ(isr(0), 0x00);
  EXPECT_FALSE(h_.irqs.ext_int) << "the line stayed high: no new edge";
  h_.router.set_gsi(1, false);
  h_.router.set_gsi(1, true);
  EXPECT_TRUE(h_.irqs.ext_int);
}

TEST_F(PicTest, MaskedRequestWaits) {
  init();
  h_.out8(0x21, 0x02);
  pulse(1);
  EXPECT_FALSE(h_.irqs.ext_int);
  EXPECT_EQ(irr(0), 0x02);
  h_.out8(0x21, 0);
  EXPECT_EQ(ack(), 0x21);
}

TEST_F(PicTest, FullyNestedPriorities) {
  init();
  pulse(5);
  EXPECT_EQ(ack(), 0x25);
  pulse(6);
  EXPECT_FALSE(h_.irqs.ext_int) << "lower than in service";
  pulse(3);
  EXPECT_EQ(ack(), 0x23) << "higher nests";
  EXPECT_EQ(isr(0), 0x28);
  eoi(0);
  EXPECT_EQ(isr(0), 0x20) << "non-specific EOI takes the highest";
  EXPECT_FALSE(h_.irqs.ext_int);
  eoi(0);
  EXPECT_EQ(ack(), 0x26);
}

TEST_F(PicTest, CascadeDeliversSecondaryVector) {
  init();
  pulse(12);
  EXPECT_EQ(ack(), 0x2c);
  EXPECT_EQ(isr(0), 0x04);
  EXPECT_EQ(isr(1), 0x10);
  pulse(14);
  EXPECT_FALSE(h_.irqs.ext_int);
  eoi(1);
  EXPECT_FALSE(h_.irqs.ext_int) << "the primary still serves IR2";
  eoi(0);
  EXPECT_EQ(ack(), 0x2e) << "the second request of the secondary must not be lost";
}

TEST_F(PicTest, SecondaryRequestBehindAnotherBeforeAcknowledgeIsKept) {
  init();
  pulse(9);
  pulse(8);
  EXPECT_EQ(ack(), 0x28);
  eoi(1);
  eoi(0);
  EXPECT_EQ(ack(), 0x29);
}

TEST_F(PicTest, SpecialFullyNestedModeLetsSecondaryNest) {
  init(/*icw4_primary=*/0x11);
  pulse(12);
  EXPECT_EQ(ack(), 0x2c);
  pulse(9);
  EXPECT_EQ(ack(), 0x29) << "higher within the secondary, the primary's IR2 being in service";
}

TEST_F(PicTest, SpuriousInterruptsAreIr7) {
  init();
  h_.out8(0x4d0, 0x08);  // IRQ 3 level
  h_.router.set_gsi(3, true);
  EXPECT_TRUE(h_.irqs.ext_int);
  h_.router.set_gsi(3, false);
  EXPECT_FALSE(h_.irqs.ext_int);
  EXPECT_EQ(h_.router.acknowledge_ext_int(), 0x27);
  EXPECT_EQ(isr(0), 0) << "no in-service bit for a spurious one";
}

TEST_F(PicTest, SpuriousOnSecondaryLeavesPrimaryInService) {
  init();
  h_.out8(0x4d1, 0x04);  // IRQ 10 level
  h_.router.set_gsi(10, true);
  auto state = pic_.state();
  state.chip[1].irr = 0;  // the line fell between the two INTA pulses
  state.chip[1].lines = 0;
  EXPECT_EQ(h_.router.acknowledge_ext_int(), 0x2a);
  pic_.set_state(state);
  EXPECT_EQ(isr(0), 0);
}

TEST_F(PicTest, ElcrMakesLevelAndKeepsReservedBits) {
  init();
  h_.out8(0x4d0, 0xff);
  h_.out8(0x4d1, 0xff);
  EXPECT_EQ(h_.in8(0x4d0), 0xf8);
  EXPECT_EQ(h_.in8(0x4d1), 0xde);
  h_.router.set_gsi(5, true);
  EXPECT_EQ(ack(), 0x25);
  EXPECT_EQ(irr(0), 0x20) << "a level stays requested";
  eoi(0);
  EXPECT_EQ(ack(), 0x25);
  h_.router.set_gsi(5, false);
  eoi(0);
  EXPECT_FALSE(h_.irqs.ext_int);
  EXPECT_EQ(h_.in16(0x4d0), 0xdef8) << "both bytes of a word access";
}

TEST_F(PicTest, AutoEoi) {
  init(/*icw4_primary=*/3);
  pulse(4);
  EXPECT_EQ(ack(), 0x24);
  EXPECT_EQ(isr(0), 0);
}

TEST_F(PicTest, RotateOnAutoEoi) {
  init(/*icw4_primary=*/3);
  h_.out8(0x20, 0x80);
  pulse(0);
  EXPECT_EQ(ack(), 0x20);
  pulse(0);
  pulse(1);
  EXPECT_EQ(ack(), 0x21) << "IR0 became the lowest";
  EXPECT_EQ(ack(), 0x20);
}

TEST_F(PicTest, RotationCommands) {
  init();
  h_.out8(0x20, 0xc0 | 3);  // IR3 lowest: IR4 highest
  pulse(0);
  pulse(4);
  EXPECT_EQ(ack(), 0x24);
  EXPECT_FALSE(h_.irqs.ext_int);
  h_.out8(0x20, 0xa0);  // rotate on non-specific EOI: IR4 lowest
  EXPECT_EQ(ack(), 0x20);
  h_.out8(0x20, 0xe0 | 0);  // rotate on specific EOI
  EXPECT_EQ(isr(0), 0);
  EXPECT_EQ(pic_.state().chip[0].lowest_priority, 0);
}

TEST_F(PicTest, SpecificEoi) {
  init();
  pulse(5);
  ack();
  pulse(3);
  ack();
  h_.out8(0x20, 0x60 | 5);
  EXPECT_EQ(isr(0), 0x08);
}

TEST_F(PicTest, SpecialMaskModeLetsLowerThrough) {
  init();
  pulse(2 + 1);
  EXPECT_EQ(ack(), 0x23);
  pulse(6);
  EXPECT_FALSE(h_.irqs.ext_int);
  h_.out8(0x20, 0x68);  // special mask mode
  h_.out8(0x21, 0x08);  // mask what is in service
  EXPECT_EQ(ack(), 0x26);
  eoi(0);
  EXPECT_EQ(isr(0), 0x08) << "non-specific EOI passes the masked one by";
  h_.out8(0x20, 0x60 | 3);
  EXPECT_EQ(isr(0), 0);
  h_.out8(0x20, 0x48);
  EXPECT_FALSE(pic_.state().chip[0].special_mask);
}

TEST_F(PicTest, PollMode) {
  init();
  h_.out8(0x20, 0x0c);
  EXPECT_EQ(h_.in8(0x20) & 0x80, 0);
  pulse(6);
  h_.out8(0x20, 0x0c);
  EXPECT_EQ(h_.in8(0x20), 0x86);
  EXPECT_EQ(isr(0), 0x40);
  EXPECT_FALSE(h_.irqs.ext_int);
}

TEST_F(PicTest, Icw1ResetsEdgeSenseAndMasks) {
  init();
  h_.out8(0x21, 0xff);
  h_.router.set_gsi(1, true);
  EXPECT_EQ(irr(0), 0x02);
  h_.out8(0x20, 0x11);
  EXPECT_EQ(irr(0), 0x00);
  h_.out8(0x21, 0x40);
  h_.out8(0x21, 4);
  h_.out8(0x21, 1);
  EXPECT_EQ(h_.in8(0x21), 0x00);
  EXPECT_FALSE(h_.irqs.ext_int) << "a high line needs a new edge";
  h_.router.set_gsi(1, false);
  h_.router.set_gsi(1, true);
  EXPECT_EQ(ack(), 0x41);
}

TEST_F(PicTest, StillPendingAfterAcknowledgeIsANewEdgeOnIntr) {
  init(/*icw4_primary=*/3);
  pulse(1);
  pulse(3);
  struct Counter : io::ExtIntSink {
    void set_ext_int(bool level) override { edges += level; }
    int edges = 0;
  } counter;
  h_.router.connect_ext_int_sink(&counter);
  EXPECT_EQ(ack(), 0x21);
  EXPECT_EQ(counter.edges, 1);
}

TEST_F(PicTest, GsiTwoAndAboveFifteenAreNotConnected) {
  init();
  pulse(2);
  pulse(16);
  pulse(23);
  EXPECT_FALSE(h_.irqs.ext_int);
}

TEST_F(PicTest, SaveAndLoad) {
  init();
  h_.out8(0x4d1, 0x04);
  h_.out8(0x21, 0x41);
  pulse(3);
  ack();
  pulse(6);
  h_.router.set_gsi(10, true);
  const auto file = testing::DeviceHarness::save(pic_);
  testing::DeviceHarness other;
  Pic copy({.router = other.router});
  ASSERT_TRUE(testing::DeviceHarness::load(copy, file).has_value());
  EXPECT_EQ(testing::DeviceHarness::save(copy), file);
  EXPECT_EQ(copy.ext_int_pending(), pic_.ext_int_pending());
  EXPECT_EQ(other.irqs.ext_int, h_.irqs.ext_int);
}

TEST_F(PicTest, LoadRefusesNonsense) {
  auto state = pic_.state();
  state.chip[0].lowest_priority = 200;
  pic_.set_state(state);
  const auto file = testing::DeviceHarness::save(pic_);
  Pic copy({.router = h_.router});
  EXPECT_FALSE(testing::DeviceHarness::load(copy, file).has_value());
}

}  // namespace
}  // namespace rhea::devices
