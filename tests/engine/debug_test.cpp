// SPDX-License-Identifier: Apache-2.0
// Debuggers of the guest: the engine's breakpoints and single steps, and the guest's own.
#include "tests/engine/guest.h"

namespace rhea::tests::engine {
namespace {

using namespace assembly;
using cpu::StopReason;

class DebugTest : public EngineTest {
 protected:
  void TearDown() override {
    guest.vcpu().set_breakpoints({});
    guest.vcpu().set_single_step(false);
  }
};
RHEA_ENGINE_SUITE(DebugTest);

TEST_P(DebugTest, SingleStepsGoInstructionByInstruction) {
  const Bytes code = mov32(kRax, 1) + inc_ebx() + Bytes{0x53, 0x59} + inc_ebx();  // push rbx; pop rcx
  guest.vcpu().set_single_step(true);
  EXPECT_EQ(guest.run(code), StopReason::kDebug);
  const uint64_t lengths[] = {5, 2, 1, 1, 2};
  uint64_t rip = Guest::kCode;
  for (size_t i = 0; i < std::size(lengths); ++i) {
    rip += lengths[i];
    EXPECT_EQ(guest.state().rip, rip) << i;
    if (i + 1 < std::size(lengths)) {
      EXPECT_EQ(guest.go_on(), StopReason::kDebug);
    }
  }
  EXPECT_EQ(guest.gpr(kRbx), 2u);
  EXPECT_EQ(guest.gpr(kRcx), 1u);
  EXPECT_FALSE(guest.state().rflags & cpu::rflags::kTf);  // the guest does not see it
  guest.vcpu().set_single_step(false);
  EXPECT_EQ(guest.go_on(), StopReason::kStopped);
}

TEST_P(DebugTest, SingleStepThroughAnException) {
  guest.vcpu().set_single_step(true);
  EXPECT_EQ(guest.run(Bytes{0x0f, 0x0b}), StopReason::kDebug);
  // Either at the handler's first instruction or behind it.
  EXPECT_GE(guest.state().rip, Guest::kHandlers + 64 * 6);
  EXPECT_LT(guest.state().rip, Guest::kHandlers + 64 * 7);
}

TEST_P(DebugTest, BreakpointsStopBeforeTheInstruction) {
  const Bytes code = inc_ebx() + inc_ebx() + inc_ebx();
  guest.vcpu().set_breakpoints({Guest::kCode + 2});
  EXPECT_EQ(guest.run(code), StopReason::kDebug);
  EXPECT_EQ(guest.state().rip, Guest::kCode + 2);
  EXPECT_EQ(guest.gpr(kRbx), 1u);
  EXPECT_EQ(guest.go_on(), StopReason::kStopped);
  EXPECT_EQ(guest.gpr(kRbx), 3u);
}

TEST_P(DebugTest, ABreakpointInALoopStopsEveryTime) {
  // inc ebx; jmp back
  guest.vcpu().set_breakpoints({Guest::kCode});
  EXPECT_EQ(guest.run(inc_ebx() + jump_back(2)), StopReason::kDebug);
  for (uint64_t i = 1; i <= 3; ++i) {
    EXPECT_EQ(guest.go_on(), StopReason::kDebug);
    EXPECT_EQ(guest.gpr(kRbx), i);
  }
}

TEST_P(DebugTest, BreakpointsInCodeThatHasRunAlready) {
  const Bytes code = inc_ebx() + nop() + inc_ebx();
  EXPECT_EQ(guest.run(code), StopReason::kStopped);
  guest.vcpu().set_breakpoints({Guest::kCode + 3});
  EXPECT_EQ(guest.run(code), StopReason::kDebug);
  EXPECT_EQ(guest.state().rip, Guest::kCode + 3);
  guest.vcpu().set_breakpoints({});
  EXPECT_EQ(guest.go_on(), StopReason::kStopped);
  EXPECT_EQ(guest.gpr(kRbx), 2u);
}

TEST_P(DebugTest, TheGuestsOwnTrapFlag) {
  // push 0x102; popfq; inc ebx; inc ebx
  guest.run(Bytes{0x68, 0x02, 0x01, 0x00, 0x00, 0x9d} + inc_ebx() + inc_ebx());
  EXPECT_EQ(guest.vector(), 1u);
  EXPECT_EQ(guest.gpr(kRbx), 1u);
  EXPECT_EQ(guest.stacked(0), Guest::kCode + 8);
  EXPECT_TRUE(guest.stacked(2) & cpu::rflags::kTf);
  EXPECT_TRUE(guest.state().dr[6] & 0x4000);
}

TEST_P(DebugTest, DebugRegistersReadBack) {
  guest.run(mov(kRax, 0xffff800012345678) + Bytes{0x0f, 0x23, 0xc0, 0x0f, 0x21, 0xc3} +  // mov dr0,rax; mov rbx,dr0
            mov(kRax, 0x55) + Bytes{0x0f, 0x23, 0xf8, 0x0f, 0x21, 0xf9});                // mov dr7,rax; mov rcx,dr7
  EXPECT_EQ(guest.gpr(kRbx), 0xffff800012345678u);
  EXPECT_EQ(guest.gpr(kRcx), 0x455u);
  EXPECT_EQ(guest.state().dr[0], 0xffff800012345678u);
}

// The guest's own breakpoints, in a loop that ran at full speed before: mov [rdi],ecx; dec ecx; jnz.
const Bytes kStoreLoop{0x89, 0x0f, 0xff, 0xc9, 0x75, 0xfa};
Bytes write_dr(uint8_t index, uint64_t value) {
  return mov(kRax, value) + Bytes{0x0f, 0x23, static_cast<uint8_t>(0xc0 | index << 3)};
}

TEST_P(DebugTest, TheGuestsDataBreakpoints) {
  const Bytes loop = mov(kRdi, Guest::kData) + mov32(kRcx, 100) + kStoreLoop;
  guest.run(loop + write_dr(0, Guest::kData) + write_dr(7, 0xd0401) + loop);
  EXPECT_EQ(guest.vector(), 1u);
  EXPECT_EQ(guest.gpr(kRcx), 100u);
  EXPECT_EQ(guest.state().dr[6] & 0xe00f, 1u);
  EXPECT_EQ(guest.get32(Guest::kData), 100u) << "a trap: the store is done";
  // Loads of it are none of a write breakpoint's business, nor are stores beside it.
  const Bytes load = mov(kRdi, Guest::kData) + Bytes{0x8b, 0x1f, 0x89, 0x5f, 0x08};  // mov ebx,[rdi]; mov [rdi+8],ebx
  guest.run(load + write_dr(0, Guest::kData) + write_dr(7, 0xd0401) + load);
  EXPECT_EQ(guest.vector(), Guest::kNoVector);
  EXPECT_EQ(guest.get32(Guest::kData + 8), 100u);
}

TEST_P(DebugTest, TheGuestsInstructionBreakpoints) {
  const Bytes loop = mov(kRdi, Guest::kData) + mov32(kRcx, 100) + kStoreLoop;
  const uint64_t second = Guest::kCode + loop.size() + write_dr(0, 0).size() + write_dr(7, 0).size();
  const uint64_t target = second + loop.size() - 4;  // the DEC
  guest.run(loop + write_dr(0, target) + write_dr(7, 0x401) + loop);
  EXPECT_EQ(guest.vector(), 1u);
  EXPECT_EQ(guest.stacked(0), target) << "a fault: the instruction has not run";
  EXPECT_EQ(guest.gpr(kRcx), 100u);
  EXPECT_FALSE(guest.stacked(2) & cpu::rflags::kRf);
}

}  // namespace
}  // namespace rhea::tests::engine
