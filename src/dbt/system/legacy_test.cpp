// SPDX-License-Identifier: Apache-2.0
// Decimal arithmetic against the host's processor (undefined flags too), stack instructions, BOUND and XLAT.
#include <gtest/gtest.h>

#include "dbt/system/compat_native.h"
#include "dbt/system/expect.h"
#include "dbt/system/machine_fake.h"

namespace rhea::dbt {
namespace {

namespace rf = cpu::rflags;

class LegacyTest : public ::testing::Test {
 protected:
  FakeMachine machine;
  cpu::CpuState& state = machine.state;
  Context& context = machine.context;
  uint64_t slot(unsigned index, unsigned width) { return machine.read(state.gpr[cpu::kRsp] + index * width, width); }
};

TEST_F(LegacyTest, DecimalArithmeticAsTheHostDoes) {
  CompatNative native;
  if (!native.available()) GTEST_SKIP() << "no 32-bit code segment on this host";
  machine.enter_protected_mode(0);
  const std::initializer_list<uint8_t> codes[] = {{0x27},    {0x2f},     {0x37},       {0x3f}, {0xd4, 10},
                                                  {0xd4, 7}, {0xd5, 10}, {0xd5, 0xfe}, {0xd6}};
  for (const auto& code : codes)
    for (unsigned ax = 0; ax < 0x10000; ax += ax < 0x800 ? 1 : 0x31)
      for (unsigned carries = 0; carries < 4; ++carries) {
        auto flags = uint32_t(rf::kFixed1 | rf::kIf | (carries & 1 ? rf::kCf : 0) | (carries & 2 ? rf::kAf : 0));
        CompatNative::Registers expected = native.run(code, {.eax = 0x12340000 | ax, .flags = flags});
        state.gpr[cpu::kRax] = 0x12340000 | ax;
        context.set_rflags(flags);
        EXPECT_RUNS(machine.run(code));
        ASSERT_EQ(state.gpr[cpu::kRax], expected.eax)
            << "opcode " << int(*code.begin()) << " ax " << ax << " flags " << flags;
        ASSERT_EQ(context.rflags(), expected.flags)
            << "opcode " << int(*code.begin()) << " ax " << ax << " flags " << flags;
      }
  auto divide = machine.run({0xd4, 0});
  ASSERT_FALSE(divide.has_value());
  EXPECT_EQ(divide.error().vector, kDivideError);
}

TEST_F(LegacyTest, BoundXlatAndFarPointers) {
  machine.enter_protected_mode(0);
  machine.write(0x8000, uint32_t(-5), 4);
  machine.write(0x8004, 10, 4);
  for (int index : {-6, -5, 0, 10, 11}) {
    state.gpr[cpu::kRax] = uint32_t(index);
    auto result = machine.run({0x62, 0x05, 0x00, 0x80, 0x00, 0x00});  // bound eax, [0x8000]
    EXPECT_EQ(result.has_value(), index >= -5 && index <= 10);
    if (!result) EXPECT_EQ(result.error().vector, kBoundRange);
  }
  // Below the lower bound, the upper one is not read.
  state.segment[cpu::kDs].limit = 0x8003;
  state.gpr[cpu::kRax] = uint32_t(-6);
  EXPECT_EQ(machine.run({0x62, 0x05, 0x00, 0x80, 0x00, 0x00}).error().vector, kBoundRange);
  state.gpr[cpu::kRax] = 0;
  EXPECT_RAISES(machine.run({0x62, 0x05, 0x00, 0x80, 0x00, 0x00}), kGeneralProtection, 0);
  machine.set_cpl(0);
  machine.write(0x8042, 0x77, 1);
  state.gpr[cpu::kRbx] = 0x8000;
  state.gpr[cpu::kRax] = 0xffffff42;
  EXPECT_RUNS(machine.run({0xd7}));
  EXPECT_EQ(state.gpr[cpu::kRax], 0xffffff77u);
  machine.write(0x8100, 0x12345678, 4);
  machine.write(0x8104, FakeMachine::data(0), 2);
  EXPECT_NEXT(machine.run({0xc4, 0x35, 0x00, 0x81, 0x00, 0x00}), Next::kDispatch);  // les esi, [0x8100]
  EXPECT_EQ(state.gpr[cpu::kRsi], 0x12345678u);
  EXPECT_EQ(state.segment[cpu::kEs].selector, FakeMachine::data(0));
  machine.write(0x8104, 0x7ff8, 2);
  EXPECT_RAISES(machine.run({0x0f, 0xb2, 0x35, 0x00, 0x81, 0x00, 0x00}), kGeneralProtection, 0x7ff8);
}

TEST_F(LegacyTest, PushAllPopAll) {
  machine.enter_protected_mode(0);
  for (unsigned reg = 0; reg < 8; ++reg)
    if (reg != cpu::kRsp) state.gpr[reg] = 0x11111111 * reg;
  uint64_t rsp = state.gpr[cpu::kRsp];
  EXPECT_RUNS(machine.run({0x60}));
  for (unsigned reg = 0; reg < 8; ++reg) EXPECT_EQ(slot(7 - reg, 4), reg == cpu::kRsp ? rsp : 0x11111111 * reg);
  for (unsigned reg = 0; reg < 8; ++reg)
    if (reg != cpu::kRsp) state.gpr[reg] = 0;
  EXPECT_RUNS(machine.run({0x61}));
  for (unsigned reg = 0; reg < 8; ++reg) EXPECT_EQ(state.gpr[reg], reg == cpu::kRsp ? rsp : 0x11111111 * reg);
  // A 16-bit stack keeps the upper half of ESP and wraps.
  state.segment[cpu::kSs].attributes &= 0xbfff;
  state.gpr[cpu::kRsp] = 0xabcd0008;
  EXPECT_RUNS(machine.run({0x66, 0x60}));
  EXPECT_EQ(state.gpr[cpu::kRsp], 0xabcdfff8u);
  EXPECT_EQ(machine.read(0xfff8, 2), 0x7777u);
  // The lowest word is checked before anything is written.
  state.segment[cpu::kSs].limit = 0x7fff;
  state.gpr[cpu::kRsp] = 8;
  machine.write(6, 0x5a5a, 2);
  EXPECT_RAISES(machine.run({0x66, 0x60}), kStackFault, 0);
  EXPECT_EQ(machine.read(6, 2), 0x5a5au);
}

TEST_F(LegacyTest, EnterAndLeave) {
  machine.enter_long_mode(0);
  uint64_t rsp = state.gpr[cpu::kRsp], rbp = rsp + 0x100;
  state.gpr[cpu::kRbp] = rbp;
  machine.write(rbp - 8, 0x1111, 8);
  machine.write(rbp - 16, 0x2222, 8);
  EXPECT_RUNS(machine.run({0xc8, 0x20, 0x00, 0x03}));  // enter 0x20, 3
  EXPECT_EQ(state.gpr[cpu::kRbp], rsp - 8);
  EXPECT_EQ(state.gpr[cpu::kRsp], rsp - 8 * 4 - 0x20);
  EXPECT_EQ(machine.read(rsp - 8, 8), rbp);
  EXPECT_EQ(machine.read(rsp - 16, 8), 0x1111u);
  EXPECT_EQ(machine.read(rsp - 24, 8), 0x2222u);
  EXPECT_EQ(machine.read(rsp - 32, 8), rsp - 8);
  EXPECT_RUNS(machine.run({0xc9}));
  EXPECT_EQ(state.gpr[cpu::kRsp], rsp);
  EXPECT_EQ(state.gpr[cpu::kRbp], rbp);
  // With 16-bit operands only BP is written.
  state.gpr[cpu::kRbp] = 0x1122334455667788;
  EXPECT_RUNS(machine.run({0x66, 0xc8, 0x00, 0x00, 0x00}));
  EXPECT_EQ(state.gpr[cpu::kRbp], 0x1122334455660000 | ((rsp - 2) & 0xffff));
  // The page of the final stack pointer must be writable: nothing changes otherwise.
  state.gpr[cpu::kRsp] = 0x1010;
  state.gpr[cpu::kRbp] = 0x5555;
  machine.write(FakeMachine::kPageTables + 0x2000, 0, 8);
  state.gpr[cpu::kRsp] = 0x201010;
  EXPECT_RAISES(machine.run({0xc8, 0x00, 0x20, 0x00}), kPageFault, 2);
  EXPECT_EQ(state.gpr[cpu::kRsp], 0x201010u);
  EXPECT_EQ(state.gpr[cpu::kRbp], 0x5555u);
}

TEST_F(LegacyTest, FlagsOnTheStack) {
  machine.enter_long_mode(3);
  context.set_rflags(rf::kFixed1 | rf::kRf | rf::kCf | rf::kOf | rf::kIf | rf::kDf);
  EXPECT_RUNS(machine.run({0x9c}));
  EXPECT_EQ(slot(0, 8), rf::kFixed1 | rf::kCf | rf::kOf | rf::kIf | rf::kDf) << "RF is not pushed";
  machine.write(state.gpr[cpu::kRsp], rf::kCf, 8);
  EXPECT_NEXT(machine.run({0x9d}), Next::kContinue);
  EXPECT_EQ(context.rflags(), rf::kFixed1 | rf::kCf | rf::kIf) << "IF is not a user's";
}

}  // namespace
}  // namespace rhea::dbt
