// SPDX-License-Identifier: Apache-2.0
// SMIs and RSM: the area and back, and what RSM shuts down for.
#include <gtest/gtest.h>

#include "dbt/system/machine_fake.h"

namespace rhea::dbt {
namespace {

constexpr uint64_t kArea = 0x30000;  // SMBASE after a reset
constexpr uint64_t kIoRestart = 0xfec8, kHaltRestart = 0xfec9, kEfer = 0xfed0, kSmbase = 0xff00, kCr4 = 0xff48,
                   kCr0 = 0xff58, kRflags = 0xff70, kRip = 0xff78;

Next rsm(FakeMachine& machine) {
  const auto next = machine.run({0x0f, 0xaa});
  EXPECT_TRUE(next.has_value());
  return next.value_or(Next::kShutdown);
}

// In SMM, coming from 64-bit code.
struct Entered {
  Entered() {
    machine.enter_long_mode(0);
    machine.state.rip = 0x20010;
    machine.state.gpr[cpu::kR9] = 0x123456789abcdef0;
    enter_smm(machine.context);
  }
  FakeMachine machine;
};

TEST(Smm, OutsideItRsmIsUndefined) {
  FakeMachine machine;
  machine.enter_real_mode();
  const auto next = machine.run({0x0f, 0xaa});
  ASSERT_FALSE(next.has_value());
  EXPECT_EQ(next.error().vector, kInvalidOpcode);
}

TEST(Smm, ThereAndBack) {
  FakeMachine machine;
  machine.enter_long_mode(3);
  cpu::CpuState& s = machine.state;
  s.rip = 0x20010;
  s.dr[7] = 0x401;
  s.nmi_blocked = false;
  for (unsigned i = 0; i < 16; ++i) s.gpr[i] = 0x0101010101010101 * i;
  const auto before = std::make_unique<cpu::CpuState>(s);
  enter_smm(machine.context);
  EXPECT_TRUE(s.in_smm);
  EXPECT_TRUE(s.nmi_blocked);
  EXPECT_EQ(s.rip, 0x8000u);
  EXPECT_EQ(s.segment[cpu::kCs].base, kArea);
  EXPECT_EQ(s.cpl(), 0u);
  EXPECT_EQ(s.cr0 & (cpu::cr0::kPe | cpu::cr0::kPg), 0u);
  EXPECT_EQ(s.cr4, 0u);
  EXPECT_EQ(s.efer, 0u);
  EXPECT_EQ(machine.read(kArea + kRip, 8), 0x20010u);
  EXPECT_EQ(machine.read(kArea + kHaltRestart, 1), 0u);
  s.gpr.fill(0);
  EXPECT_EQ(rsm(machine), Next::kDispatch);
  EXPECT_FALSE(s.in_smm);
  EXPECT_FALSE(s.nmi_blocked);
  EXPECT_EQ(s.gpr, before->gpr);
  EXPECT_EQ(s.segment, before->segment);
  EXPECT_EQ(s.cr0, before->cr0);
  EXPECT_EQ(s.cr3, before->cr3);
  EXPECT_EQ(s.cr4, before->cr4);
  EXPECT_EQ(s.efer, before->efer);
  EXPECT_EQ(s.dr[7], before->dr[7]);
  EXPECT_EQ(s.rip, before->rip);
  EXPECT_EQ(s.smi_count, 1u);
}

TEST(Smm, HaltsGoOnUnlessTheHandlerSaysNo) {
  for (const bool restart : {true, false}) {
    FakeMachine machine;
    machine.enter_real_mode();
    machine.state.halted = true;
    enter_smm(machine.context);
    EXPECT_FALSE(machine.state.halted);
    EXPECT_EQ(machine.read(kArea + kHaltRestart, 1), 1u);
    machine.write(kArea + kHaltRestart, restart, 1);
    EXPECT_EQ(rsm(machine), restart ? Next::kHalt : Next::kDispatch);
  }
}

TEST(Smm, NmisStayBlockedIfTheyWere) {
  Entered entered;
  FakeMachine second;
  second.enter_real_mode();
  second.state.nmi_blocked = true;
  enter_smm(second.context);
  EXPECT_EQ(rsm(second), Next::kDispatch);
  EXPECT_TRUE(second.state.nmi_blocked);
}

TEST(Smm, RelocatedAnywhere) {
  Entered entered;
  entered.machine.write(kArea + kSmbase, 0x50123, 4);
  EXPECT_EQ(rsm(entered.machine), Next::kDispatch);
  EXPECT_EQ(entered.machine.state.smbase, 0x50123u);
  enter_smm(entered.machine.context);
  EXPECT_EQ(entered.machine.read(0x50123 + kRip, 8), 0x20010u);
  EXPECT_EQ(rsm(entered.machine), Next::kDispatch);
  EXPECT_EQ(entered.machine.state.gpr[cpu::kR9], 0x123456789abcdef0u);
}

TEST(Smm, PortAccessStartsOver) {
  FakeMachine machine;
  machine.enter_real_mode();
  machine.context.port_trap = {.rip = 0x1234, .rcx = 5, .rsi = 6, .rdi = 7, .word = 0x00b20012};
  enter_smm(machine.context);
  EXPECT_EQ(machine.read(kArea + 0xfec0, 4), 0x00b20012u);
  machine.write(kArea + kIoRestart, 0xff, 1);
  EXPECT_EQ(rsm(machine), Next::kDispatch);
  EXPECT_EQ(machine.state.rip, 0x1234u);
  EXPECT_EQ(machine.state.gpr[cpu::kRcx], 5u);
  EXPECT_EQ(machine.state.gpr[cpu::kRdi], 7u);
}

// [SDM-3C 32.3.2; APM-2 10.3.5]
TEST(Smm, InvalidStateShutsDown) {
  const struct {
    uint64_t offset, value;
  } cases[] = {
      {kCr0, 0x80000000},         // paging without protection
      {kCr0, 0x20000031},         // NW without CD
      {kCr0, 0x1'80000031},       // above 32 bits
      {kCr4, 0x20 | 1u << 31},    // reserved
      {kCr4, 0},                  // long mode without PAE
      {kEfer, 0x500 | 1u << 20},  // reserved
      {kRflags, 2 | 1u << 17},    // virtual-8086 mode in long mode
      {0xfe12, 0xe09b},           // L and D
  };
  for (const auto& one : cases) {
    Entered entered;
    entered.machine.write(kArea + one.offset, one.value, one.offset == 0xfe12 ? 2 : 8);
    EXPECT_EQ(rsm(entered.machine), Next::kShutdown) << std::hex << one.offset << " " << one.value;
  }
}

}  // namespace
}  // namespace rhea::dbt
