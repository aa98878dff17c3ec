// SPDX-License-Identifier: Apache-2.0
// The local APIC against the manual.
#include "cpu/lapic.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "cpu/lapic_regs.h"
#include "testing/clock_fake.h"
#include "testing/device_harness.h"

namespace rhea::cpu {
namespace {

using namespace lapic_regs;

class RecordingBus final : public LapicBus {
 public:
  void send_ipi(unsigned source, uint64_t icr) override { ipis.emplace_back(source, icr); }
  void broadcast_eoi(uint8_t vector) override { eois.push_back(vector); }
  std::vector<std::pair<unsigned, uint64_t>> ipis;
  std::vector<uint8_t> eois;
};

constexpr uint32_t kMasked = 1u << 16;

class LapicTest : public ::testing::Test {
 protected:
  explicit LapicTest(unsigned id = 0) : lapic_({.id = id, .bootstrap = id == 0}, clock_, bus_) {
    lapic_.set_kick([this] { ++kicks_; });
  }
  uint32_t get(uint8_t reg) { return static_cast<uint32_t>(lapic_.io_read(uint64_t{reg} << 4, 4)); }
  void set(uint8_t reg, uint32_t value) { lapic_.io_write(uint64_t{reg} << 4, value, 4); }
  void enable(uint8_t spurious = 0xff) { set(kSvr, kSvrEnable | spurious); }
  void to_x2apic() { ASSERT_TRUE(lapic_.write_msr(0x1b, lapic_.apic_base() | kBaseX2apic)); }
  bool wrmsr(uint8_t reg, uint64_t value) { return lapic_.write_msr(0x800u + reg, value); }
  uint64_t rdmsr(uint8_t reg) {
    uint64_t value = 0xdead;
    EXPECT_TRUE(lapic_.read_msr(0x800u + reg, value));
    return value;
  }
  bool irr(uint8_t vector) { return (get(static_cast<uint8_t>(kIrr0 + vector / 32)) >> (vector % 32)) & 1; }
  bool isr(uint8_t vector) { return (get(static_cast<uint8_t>(kIsr0 + vector / 32)) >> (vector % 32)) & 1; }
  bool tmr(uint8_t vector) { return (get(static_cast<uint8_t>(kTmr0 + vector / 32)) >> (vector % 32)) & 1; }

  rhea::testing::FakeClock clock_;
  RecordingBus bus_;
  Lapic lapic_;
  int kicks_ = 0;
};

TEST_F(LapicTest, ResetState) {
  EXPECT_EQ(lapic_.apic_base(), 0xfee00900u);
  EXPECT_EQ(get(kId), 0u);
  EXPECT_EQ(get(kVersion), 0x50014u);
  EXPECT_EQ(get(kSvr), 0xffu);
  EXPECT_EQ(get(kDfr), 0xffffffffu);
  for (uint8_t reg = kLvtTimerRegister; reg <= kLvtErrorRegister; ++reg) EXPECT_EQ(get(reg), kMasked) << int{reg};
  EXPECT_FALSE(lapic_.enabled());
  EXPECT_EQ(lapic_.pending(), LapicEvent::kNone);
}

TEST_F(LapicTest, SoftwareDisabledRefusesInterruptsAndMasksLvt) {
  lapic_.deliver(kFixed, 0x40, false);
  EXPECT_EQ(lapic_.pending(), LapicEvent::kNone);
  set(kLvtTimerRegister, 0x40);
  EXPECT_EQ(get(kLvtTimerRegister), 0x40u | kMasked) << "cannot be unmasked while disabled";
  enable();
  set(kLvtTimerRegister, 0x40);
  EXPECT_EQ(get(kLvtTimerRegister), 0x40u);
  set(kSvr, 0xff);
  EXPECT_EQ(get(kLvtTimerRegister), 0x40u | kMasked);
  lapic_.deliver(kNmi, 0, false);
  EXPECT_EQ(lapic_.pending(), LapicEvent::kNmi) << "NMIs are taken all the same";
}

TEST_F(LapicTest, DeliveryAcknowledgeEoi) {
  enable();
  lapic_.deliver(kFixed, 0x41, false);
  EXPECT_EQ(kicks_, 1);
  EXPECT_TRUE(irr(0x41));
  EXPECT_EQ(lapic_.pending(), LapicEvent::kInterrupt);
  EXPECT_EQ(lapic_.acknowledge_interrupt(), 0x41);
  EXPECT_FALSE(irr(0x41));
  EXPECT_TRUE(isr(0x41));
  EXPECT_EQ(get(kPpr), 0x40u);
  EXPECT_EQ(lapic_.pending(), LapicEvent::kNone);
  set(kEoi, 0);
  EXPECT_FALSE(isr(0x41));
  EXPECT_EQ(get(kPpr), 0u);
  EXPECT_TRUE(bus_.eois.empty()) << "edge: no broadcast";
}

TEST_F(LapicTest, PriorityClassesNest) {
  enable();
  lapic_.deliver(kFixed, 0x51, false);
  EXPECT_EQ(lapic_.acknowledge_interrupt(), 0x51);
  kicks_ = 0;
  lapic_.deliver(kFixed, 0x5f, false);
  EXPECT_EQ(kicks_, 0) << "same class: not deliverable";
  lapic_.deliver(kFixed, 0x31, false);
  EXPECT_EQ(kicks_, 0);
  lapic_.deliver(kFixed, 0x60, false);
  EXPECT_EQ(kicks_, 1);
  EXPECT_EQ(lapic_.acknowledge_interrupt(), 0x60);
  set(kEoi, 0);
  EXPECT_TRUE(isr(0x51));
  EXPECT_EQ(lapic_.pending(), LapicEvent::kNone);
  kicks_ = 0;
  set(kEoi, 0);
  EXPECT_EQ(kicks_, 1) << "what waited is deliverable now";
  EXPECT_EQ(lapic_.acknowledge_interrupt(), 0x5f);
  set(kEoi, 0);
  EXPECT_EQ(lapic_.acknowledge_interrupt(), 0x31);
}

TEST_F(LapicTest, RepeatedRequestsKickOnce) {
  enable();
  for (int i = 0; i < 10; ++i) lapic_.deliver(kFixed, 0x41, false);
  EXPECT_EQ(kicks_, 1);
}

TEST_F(LapicTest, TaskPriority) {
  enable();
  set(kTpr, 0x45);
  EXPECT_EQ(lapic_.cr8(), 4);
  EXPECT_EQ(get(kPpr), 0x45u);
  lapic_.deliver(kFixed, 0x4f, false);
  EXPECT_EQ(lapic_.pending(), LapicEvent::kNone);
  EXPECT_EQ(kicks_, 0);
  lapic_.set_cr8(3);
  EXPECT_EQ(kicks_, 1);
  EXPECT_EQ(get(kTpr), 0x30u);
  EXPECT_EQ(lapic_.acknowledge_interrupt(), 0x4f);
  EXPECT_EQ(get(kPpr), 0x40u);
  set(kTpr, 0x41);
  EXPECT_EQ(get(kPpr), 0x41u) << "equal classes: the TPR's low bits";
  set(kEoi, 0);
  EXPECT_EQ(get(kPpr), 0x41u);
  lapic_.set_cr8(15);
  lapic_.deliver(kFixed, 0xff, false);
  EXPECT_EQ(lapic_.pending(), LapicEvent::kNone);
}

TEST_F(LapicTest, AcknowledgeWithNothingIsSpurious) {
  enable(0xef);
  EXPECT_EQ(lapic_.acknowledge_interrupt(), 0xef);
  EXPECT_EQ(get(kIsr0 + 7), 0u);
  lapic_.deliver(kFixed, 0x21, false);
  set(kTpr, 0x20);
  EXPECT_EQ(lapic_.acknowledge_interrupt(), 0xef);
  EXPECT_TRUE(irr(0x21));
}

TEST_F(LapicTest, LevelInterruptsBroadcastTheirEoi) {
  enable();
  lapic_.deliver(kFixed, 0x39, true);
  EXPECT_TRUE(tmr(0x39));
  EXPECT_EQ(lapic_.acknowledge_interrupt(), 0x39);
  set(kEoi, 0);
  EXPECT_EQ(bus_.eois, (std::vector<uint8_t>{0x39}));
  lapic_.deliver(kFixed, 0x39, false);
  EXPECT_FALSE(tmr(0x39)) << "the trigger mode is that of the last acceptance";
}

TEST_F(LapicTest, IllegalVectors) {
  enable();
  set(kLvtErrorRegister, 0xfe);
  lapic_.deliver(kFixed, 0x0f, false);
  EXPECT_EQ(get(kEsr), 0u) << "latched by a write";
  set(kEsr, 0);
  EXPECT_EQ(get(kEsr), kEsrReceiveIllegalVector);
  EXPECT_EQ(lapic_.acknowledge_interrupt(), 0xfe);
  set(kEsr, 0);
  EXPECT_EQ(get(kEsr), 0u);
  set(kIcrLow, 0x05);
  set(kEsr, 0);
  EXPECT_EQ(get(kEsr), kEsrSendIllegalVector);
  EXPECT_TRUE(bus_.ipis.empty());
  get(0x3a);
  set(kEsr, 0);
  EXPECT_EQ(get(kEsr), kEsrIllegalRegister);
}

TEST_F(LapicTest, InterProcessorInterrupts) {
  enable();
  set(kIcrHigh, 0x07000000);
  set(kIcrLow, 0x000c46ab);  // reserved bit 13 dropped
  ASSERT_EQ(bus_.ipis.size(), 1u);
  EXPECT_EQ(bus_.ipis[0].second, 0x07000000'000c46abull & ~(1ull << 13));
  EXPECT_EQ(get(kIcrLow) & kIcrBusy, 0u);
  EXPECT_EQ(get(kIcrHigh), 0x07000000u);
  set(kIcrLow, 0x00044051);  // to itself
  EXPECT_EQ(bus_.ipis.size(), 1u);
  EXPECT_TRUE(irr(0x51));
  set(kIcrLow, 0x00008500);  // INIT de-assert
  EXPECT_EQ(bus_.ipis.size(), 1u);
  set(kIcrLow, 0x00004608);  // SIPI: any vector
  EXPECT_EQ(bus_.ipis.size(), 2u);
}

TEST_F(LapicTest, EventsAndTheirOrder) {
  enable();
  lapic_.deliver(kFixed, 0x41, false);
  lapic_.deliver(kNmi, 0, false);
  lapic_.deliver(kStartup, 0x9a, false);
  lapic_.deliver(kInit, 0, false);
  EXPECT_EQ(lapic_.pending(), LapicEvent::kInit);
  EXPECT_TRUE(lapic_.take_init());
  EXPECT_FALSE(lapic_.take_init());
  EXPECT_EQ(get(kSvr), 0xffu) << "INIT resets the registers";
  EXPECT_EQ(lapic_.pending(), LapicEvent::kSipi);
  EXPECT_EQ(lapic_.take_sipi(), 0x9a);
  EXPECT_EQ(lapic_.take_sipi(), std::nullopt);
  EXPECT_EQ(lapic_.pending(), LapicEvent::kNmi);
  EXPECT_TRUE(lapic_.take_nmi());
  EXPECT_EQ(lapic_.pending(), LapicEvent::kNone) << "the interrupt went with INIT";
}

TEST_F(LapicTest, ExtIntIsGatedByLint0) {
  lapic_.set_ext_int(true);
  EXPECT_EQ(lapic_.pending(), LapicEvent::kNone);
  enable();
  set(kLvtLint0Register, 0x700);
  EXPECT_EQ(kicks_, 1);
  EXPECT_EQ(lapic_.pending(), LapicEvent::kExtInt);
  lapic_.set_cr8(15);
  EXPECT_EQ(lapic_.pending(), LapicEvent::kExtInt) << "priorities do not hold it";
  set(kLvtLint0Register, 0x700 | kMasked);
  EXPECT_EQ(lapic_.pending(), LapicEvent::kNone);
  set(kLvtLint0Register, 0x700);
  lapic_.set_ext_int(false);
  EXPECT_EQ(lapic_.pending(), LapicEvent::kNone);
}

TEST_F(LapicTest, ExtIntPassesWhenTheApicIsOff) {
  EXPECT_TRUE(lapic_.write_msr(0x1b, 0xfee00100));
  lapic_.set_ext_int(true);
  EXPECT_EQ(lapic_.pending(), LapicEvent::kExtInt);
}

TEST_F(LapicTest, Lint0AsFixedAndNmi) {
  enable();
  set(kLvtLint0Register, 0x61);
  lapic_.set_ext_int(true);
  EXPECT_TRUE(irr(0x61));
  lapic_.set_ext_int(false);
  set(kLvtLint0Register, 0x400);
  lapic_.set_ext_int(true);
  EXPECT_TRUE(lapic_.take_nmi());
  EXPECT_FALSE(lapic_.take_nmi());
}

TEST_F(LapicTest, Lint0LevelHasRemoteIrr) {
  enable();
  set(kLvtLint0Register, 0x61 | kLvtLevel);
  lapic_.set_ext_int(true);
  EXPECT_NE(get(kLvtLint0Register) & kLvtRemoteIrr, 0u);
  EXPECT_EQ(lapic_.acknowledge_interrupt(), 0x61);
  set(kEoi, 0);
  EXPECT_TRUE(irr(0x61)) << "still high: again";
  EXPECT_EQ(lapic_.acknowledge_interrupt(), 0x61);
  lapic_.set_ext_int(false);
  set(kEoi, 0);
  EXPECT_FALSE(irr(0x61));
  EXPECT_EQ(get(kLvtLint0Register) & kLvtRemoteIrr, 0u);
}

TEST_F(LapicTest, OneShotTimer) {
  enable();
  set(kDivideConfig, 0x3);  // by 16
  set(kLvtTimerRegister, 0x40);
  set(kInitialCount, 1000);
  EXPECT_EQ(get(kCurrentCount), 1000u);
  clock_.advance(8000);
  EXPECT_EQ(get(kCurrentCount), 500u);
  clock_.advance(7999);
  EXPECT_EQ(get(kCurrentCount), 1u);
  EXPECT_FALSE(irr(0x40));
  clock_.advance(1);
  EXPECT_EQ(get(kCurrentCount), 0u);
  EXPECT_TRUE(irr(0x40));
  EXPECT_EQ(lapic_.acknowledge_interrupt(), 0x40);
  clock_.advance(1'000'000);
  EXPECT_FALSE(irr(0x40));
  EXPECT_EQ(get(kInitialCount), 1000u);
}

TEST_F(LapicTest, DividerTable) {
  enable();
  const unsigned codes[] = {0xb, 0x0, 0x1, 0x2, 0x3, 0x8, 0x9, 0xa};
  for (unsigned i = 0; i < 8; ++i) {
    set(kDivideConfig, codes[i]);
    set(kInitialCount, 1'000'000);
    clock_.advance(1280);
    EXPECT_EQ(get(kCurrentCount), 1'000'000u - (1280u >> i)) << i;
  }
  set(kDivideConfig, 0xffffffff);
  EXPECT_EQ(get(kDivideConfig), 0xbu);
}

TEST_F(LapicTest, DividerChangeKeepsTheCount) {
  enable();
  set(kDivideConfig, 0xb);
  set(kInitialCount, 100'000);
  clock_.advance(40'000);
  set(kDivideConfig, 0x0);
  EXPECT_EQ(get(kCurrentCount), 60'000u);
  clock_.advance(20'000);
  EXPECT_EQ(get(kCurrentCount), 50'000u);
}

TEST_F(LapicTest, PeriodicTimer) {
  enable();
  set(kDivideConfig, 0xb);
  set(kLvtTimerRegister, 0x40 | 1 << 17);
  set(kInitialCount, 1'000'000);
  for (int i = 0; i < 5; ++i) {
    clock_.advance(999'999);
    EXPECT_FALSE(irr(0x40));
    EXPECT_EQ(get(kCurrentCount), 1u);
    clock_.advance(1);
    EXPECT_EQ(lapic_.acknowledge_interrupt(), 0x40);
    EXPECT_EQ(get(kCurrentCount), 1'000'000u);
    set(kEoi, 0);
  }
  set(kLvtTimerRegister, 0x40 | 1 << 17 | kMasked);
  clock_.advance(3'000'000);
  EXPECT_FALSE(irr(0x40));
  set(kLvtTimerRegister, 0x40 | 1 << 17);
  clock_.advance(1'000'000);
  EXPECT_TRUE(irr(0x40)) << "it went on counting while masked";
  set(kInitialCount, 0);
  EXPECT_EQ(get(kCurrentCount), 0u);
  EXPECT_FALSE(clock_.next_deadline());
}

TEST_F(LapicTest, TinyPeriodsDoNotFloodTheHost) {
  enable();
  set(kDivideConfig, 0xb);
  set(kLvtTimerRegister, 0x40 | 1 << 17);
  set(kInitialCount, 1);
  const uint64_t now = clock_.now_ns();
  clock_.advance(10);
  ASSERT_TRUE(clock_.next_deadline());
  EXPECT_GE(*clock_.next_deadline(), now + 10'000);
  EXPECT_TRUE(irr(0x40));
}

TEST_F(LapicTest, TscDeadline) {
  enable();
  uint64_t value = 0;
  EXPECT_TRUE(lapic_.write_msr(0x6e0, 5000));
  EXPECT_TRUE(lapic_.read_msr(0x6e0, value));
  EXPECT_EQ(value, 0u) << "ignored in another mode";
  set(kLvtTimerRegister, 0x40 | 2 << 17);
  set(kInitialCount, 1000);
  EXPECT_EQ(get(kInitialCount), 0u) << "no counts in this mode";
  lapic_.write_msr(0x6e0, clock_.tsc() + 5000);
  clock_.advance(4999);
  EXPECT_FALSE(irr(0x40));
  EXPECT_EQ(get(kCurrentCount), 0u);
  clock_.advance(1);
  EXPECT_TRUE(irr(0x40));
  lapic_.read_msr(0x6e0, value);
  EXPECT_EQ(value, 0u) << "disarmed by expiry";
  lapic_.acknowledge_interrupt();
  set(kEoi, 0);
  lapic_.write_msr(0x6e0, 1);
  EXPECT_TRUE(irr(0x40)) << "in the past: at once";
  lapic_.acknowledge_interrupt();
  lapic_.write_msr(0x6e0, ~0ull);
  lapic_.write_msr(0x6e0, 0);
  EXPECT_FALSE(clock_.next_deadline());
}

TEST_F(LapicTest, TscDeadlineFollowsTscAdjust) {
  enable();
  set(kLvtTimerRegister, 0x40 | 2 << 17);
  lapic_.set_tsc_adjust(1'000'000);
  lapic_.write_msr(0x6e0, 1'010'000);
  clock_.advance(9'999);
  EXPECT_FALSE(irr(0x40));
  lapic_.set_tsc_adjust(995'000);
  clock_.advance(4'999);
  EXPECT_FALSE(irr(0x40));
  clock_.advance(2);
  EXPECT_TRUE(irr(0x40));
}

TEST_F(LapicTest, LeavingTscDeadlineModeDisarms) {
  enable();
  set(kLvtTimerRegister, 0x40 | 2 << 17);
  lapic_.write_msr(0x6e0, 100'000);
  set(kLvtTimerRegister, 0x40);
  EXPECT_FALSE(clock_.next_deadline());
  set(kDivideConfig, 0xb);
  set(kInitialCount, 100'000);
  set(kLvtTimerRegister, 0x40 | 2 << 17);
  EXPECT_FALSE(clock_.next_deadline());
}

TEST_F(LapicTest, LateTimerOfAStoppedRunIsIgnored) {
  enable();
  set(kDivideConfig, 0xb);
  set(kLvtTimerRegister, 0x40);
  set(kInitialCount, 1000);
  set(kInitialCount, 100'000);
  clock_.advance(2000);
  EXPECT_FALSE(irr(0x40));
}

TEST_F(LapicTest, ApicBaseTransitions) {
  const uint64_t base = 0xfee00100;
  EXPECT_TRUE(lapic_.write_msr(0x1b, base | kBaseEnable | kBaseX2apic));
  EXPECT_FALSE(lapic_.write_msr(0x1b, base | kBaseEnable)) << "x2APIC to xAPIC";
  EXPECT_FALSE(lapic_.write_msr(0x1b, base | kBaseX2apic)) << "EXTD without EN";
  EXPECT_TRUE(lapic_.write_msr(0x1b, base));
  EXPECT_FALSE(lapic_.write_msr(0x1b, base | kBaseEnable | kBaseX2apic)) << "off to x2APIC";
  EXPECT_TRUE(lapic_.write_msr(0x1b, base | kBaseEnable));
  EXPECT_FALSE(lapic_.write_msr(0x1b, base | kBaseEnable | 1)) << "reserved";
  EXPECT_FALSE(lapic_.write_msr(0x1b, base | kBaseEnable | 1u << 9));
  EXPECT_FALSE(lapic_.write_msr(0x1b, base | kBaseEnable | 1ull << 52));
  EXPECT_TRUE(lapic_.write_msr(0x1b, 0xffee00900));
  EXPECT_EQ(lapic_.apic_base(), 0xffee00900u);
}

TEST_F(LapicTest, X2apicRefusedWhereNotOffered) {
  Lapic plain({.id = 0, .bootstrap = true, .x2apic_supported = false, .physical_address_bits = 36}, clock_, bus_);
  EXPECT_FALSE(plain.write_msr(0x1b, 0xfee00d00));
  EXPECT_FALSE(plain.write_msr(0x1b, 1ull << 36 | 0x900));
}

TEST_F(LapicTest, DisablingResets) {
  enable();
  lapic_.deliver(kFixed, 0x41, false);
  EXPECT_TRUE(lapic_.write_msr(0x1b, 0xfee00100));
  EXPECT_EQ(lapic_.pending(), LapicEvent::kNone);
  EXPECT_EQ(lapic_.io_read(0x30, 4) & 0xffffffff, 0xffffffffu) << "no registers";
  lapic_.deliver(kFixed, 0x41, false);
  EXPECT_TRUE(lapic_.write_msr(0x1b, 0xfee00900));
  EXPECT_EQ(get(kSvr), 0xffu);
  EXPECT_FALSE(irr(0x41));
}

class X2apicTest : public LapicTest {
 protected:
  X2apicTest() : LapicTest(0x25) {
    enable();
    set(kTpr, 0x10);
    to_x2apic();
  }
};

TEST_F(X2apicTest, RegistersSurviveTheSwitch) {
  EXPECT_EQ(rdmsr(kTpr), 0x10u);
  EXPECT_EQ(rdmsr(kSvr), 0x1ffu);
  EXPECT_EQ(rdmsr(kId), 0x25u);
  EXPECT_EQ(rdmsr(kLdr), 0x00020020u);
  EXPECT_EQ(rdmsr(kVersion), 0x50014u);
  EXPECT_EQ(lapic_.io_read(0x20, 4) & 0xffffffff, 0xffffffffu) << "no MMIO in this mode";
}

TEST_F(X2apicTest, WhatExists) {
  uint64_t value;
  for (unsigned reg = 0; reg < 0x100; ++reg) {
    const bool readable = reg == 2 || reg == 3 || reg == 8 || reg == 0xa || reg == 0xd || reg == 0xf ||
                          (reg >= 0x10 && reg <= 0x28) || reg == 0x30 || (reg >= 0x32 && reg <= 0x39) || reg == 0x3e;
    EXPECT_EQ(lapic_.read_msr(0x800 + reg, value), readable) << reg;
    const bool writable = reg == 8 || reg == 0xb || reg == 0xf || reg == 0x28 || reg == 0x30 ||
                          (reg >= 0x32 && reg <= 0x38) || reg == 0x3e;
    EXPECT_EQ(lapic_.write_msr(0x800 + reg, 0), writable || reg == 0x3f) << reg;
  }
}

TEST_F(X2apicTest, ReservedBitsFault) {
  const std::pair<uint8_t, uint64_t> refused[] = {{kTpr, 0x100},
                                                  {kEoi, 1},
                                                  {kEsr, 1},
                                                  {kSvr, 1u << 12},
                                                  {kSvr, 1u << 10},
                                                  {kIcrLow, 1u << 13},
                                                  {kIcrLow, 1u << 16},
                                                  {kIcrLow, 1u << 20},
                                                  {kLvtTimerRegister, 1u << 8},
                                                  {kLvtTimerRegister, 1u << 19},
                                                  {kLvtErrorRegister, 1u << 8},
                                                  {kLvtThermalRegister, 1u << 15},
                                                  {kLvtLint0Register, 1u << 17},
                                                  {kInitialCount, 1ull << 32},
                                                  {kDivideConfig, 4},
                                                  {kSelfIpi, 0x100},
                                                  {kLvtLint0Register, 1ull << 32}};
  for (const auto& [reg, value] : refused) EXPECT_FALSE(wrmsr(reg, value)) << int{reg} << " " << value;
  EXPECT_TRUE(wrmsr(kLvtLint0Register, kLvtRemoteIrr | kLvtDeliveryPending | 0x700));
  EXPECT_EQ(rdmsr(kLvtLint0Register), 0x700u) << "read-only bits";
}

TEST_F(X2apicTest, Icr) {
  EXPECT_TRUE(wrmsr(kIcrLow, 0x00012345'00004041));
  ASSERT_EQ(bus_.ipis.size(), 1u);
  EXPECT_EQ(bus_.ipis[0].first, 0x25u);
  EXPECT_EQ(bus_.ipis[0].second, 0x00012345'00004041u);
  EXPECT_EQ(rdmsr(kIcrLow), 0x00012345'00004041u);
  EXPECT_TRUE(wrmsr(kSelfIpi, 0x77));
  EXPECT_EQ(lapic_.acknowledge_interrupt(), 0x77);
  EXPECT_TRUE(wrmsr(kEoi, 0));
  EXPECT_EQ(rdmsr(kPpr), 0x10u);
}

TEST_F(X2apicTest, Destinations) {
  EXPECT_TRUE(lapic_.matches(0x25, false));
  EXPECT_FALSE(lapic_.matches(0x24, false));
  EXPECT_TRUE(lapic_.matches(0xffffffff, false));
  EXPECT_TRUE(lapic_.matches(0xffffffff, true));
  EXPECT_TRUE(lapic_.matches(0x00020020, true));
  EXPECT_TRUE(lapic_.matches(0x0002ffff, true));
  EXPECT_FALSE(lapic_.matches(0x00020010, true));
  EXPECT_FALSE(lapic_.matches(0x00030020, true));
}

TEST_F(LapicTest, MsrsNeedX2apicMode) {
  uint64_t value;
  EXPECT_FALSE(lapic_.read_msr(0x802, value));
  EXPECT_FALSE(lapic_.write_msr(0x80b, 0));
  EXPECT_FALSE(lapic_.read_msr(0x900, value));
}

TEST_F(LapicTest, XapicDestinations) {
  EXPECT_TRUE(lapic_.matches(0, false));
  EXPECT_TRUE(lapic_.matches(0xff, false));
  EXPECT_FALSE(lapic_.matches(1, false));
  EXPECT_FALSE(lapic_.matches(1, true)) << "no logical ID yet";
  set(kLdr, 0xffffffff);
  EXPECT_EQ(get(kLdr), 0xff000000u);
  set(kLdr, 0x02000000);
  EXPECT_TRUE(lapic_.matches(0x0a, true));
  EXPECT_FALSE(lapic_.matches(0x05, true));
  EXPECT_TRUE(lapic_.matches(0xff, true));
  set(kDfr, 0x0fffffff);  // cluster
  set(kLdr, 0x32000000);
  EXPECT_TRUE(lapic_.matches(0x33, true));
  EXPECT_FALSE(lapic_.matches(0x31, true));
  EXPECT_FALSE(lapic_.matches(0x22, true));
  EXPECT_TRUE(lapic_.matches(0xff, true));
}

TEST_F(LapicTest, WakesAreTakenOnce) {
  const int before = kicks_;
  lapic_.wake();
  EXPECT_EQ(kicks_, before + 1);
  EXPECT_EQ(lapic_.pending(), LapicEvent::kNone) << "no interrupt";
  EXPECT_TRUE(lapic_.take_wake());
  EXPECT_FALSE(lapic_.take_wake());
  lapic_.wake();
  EXPECT_TRUE(lapic_.state().woken);
  lapic_.deliver(kInit, 0, false);
  lapic_.take_init();
  EXPECT_FALSE(lapic_.take_wake());
}

TEST_F(LapicTest, AccessSizes) {
  EXPECT_EQ(lapic_.io_read(0x30, 1), 0x14u);
  EXPECT_EQ(lapic_.io_read(0x32, 1), 0x05u);
  EXPECT_EQ(lapic_.io_read(0x34, 4), 0u);
  lapic_.io_write(0x80, 0x55, 1);
  EXPECT_EQ(get(kTpr), 0u) << "only 32-bit writes";
  lapic_.io_write(0x84, 0x55, 4);
  EXPECT_EQ(get(kTpr), 0u);
}

TEST_F(LapicTest, SaveAndLoad) {
  enable(0xfd);
  set(kDivideConfig, 0xb);
  set(kLvtTimerRegister, 0x40 | 1 << 17);
  set(kInitialCount, 1'000'000);
  set(kTpr, 0x20);
  set(kLdr, 0x01000000);
  lapic_.deliver(kFixed, 0x91, true);
  lapic_.acknowledge_interrupt();
  lapic_.deliver(kFixed, 0xa2, false);
  lapic_.deliver(kNmi, 0, false);
  clock_.advance(300'000);
  const auto file = rhea::testing::DeviceHarness::save(lapic_);
  rhea::testing::FakeClock clock;
  clock.advance_to(clock_.now_ns());
  Lapic copy({.id = 0}, clock, bus_);
  int kicks = 0;
  copy.set_kick([&] { ++kicks; });
  ASSERT_TRUE(rhea::testing::DeviceHarness::load(copy, file).has_value());
  EXPECT_EQ(rhea::testing::DeviceHarness::save(copy), file);
  EXPECT_GE(kicks, 1);
  EXPECT_TRUE(copy.take_nmi());
  EXPECT_EQ(copy.acknowledge_interrupt(), 0xa2);
  EXPECT_EQ(copy.io_read(0x390, 4), 700'000u);
  clock.advance(700'000);
  EXPECT_EQ(copy.io_read(0x220, 4), 1u) << "vector 0x40";
  Lapic other({.id = 1}, clock, bus_);
  EXPECT_FALSE(rhea::testing::DeviceHarness::load(other, file).has_value());
}

// Deliverers against a vCPU that acknowledges and ends interrupts: nothing may get lost, whatever the timing.
TEST_F(LapicTest, ConcurrentDeliveryLosesNothing) {
  enable();
  std::atomic<int> kicked{0};
  lapic_.set_kick([&] {
    kicked.store(1);
    kicked.notify_one();
  });
  constexpr int kRounds = 20'000;
  std::array<std::atomic<int>, 2> served{};
  std::vector<std::jthread> senders;
  for (int sender = 0; sender < 2; ++sender) {
    senders.emplace_back([&, sender] {
      for (int i = 0; i < kRounds; ++i) {
        lapic_.deliver(kFixed, static_cast<uint8_t>(0x41 + 0x30 * sender), sender == 1);
        while (served[static_cast<size_t>(sender)].load() <= i) served[static_cast<size_t>(sender)].wait(i);
      }
    });
  }
  for (int total = 0; total < 2 * kRounds;) {
    while (lapic_.pending() == LapicEvent::kInterrupt) {
      const uint8_t vector = lapic_.acknowledge_interrupt();
      ASSERT_TRUE(vector == 0x41 || vector == 0x71) << int{vector};
      lapic_.set_cr8(static_cast<uint8_t>(total & 3));
      set(kEoi, 0);
      lapic_.set_cr8(0);
      ++total;
      auto& count = served[vector == 0x71 ? 1 : 0];
      count.fetch_add(1);
      count.notify_one();
    }
    if (total == 2 * kRounds) break;
    kicked.wait(0);  // hangs if a kick was lost
    kicked.store(0);
  }
  EXPECT_EQ(bus_.eois.size(), static_cast<size_t>(kRounds));
}

}  // namespace
}  // namespace rhea::cpu
