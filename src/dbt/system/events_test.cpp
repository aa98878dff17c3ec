// SPDX-License-Identifier: Apache-2.0
// Delivery through IVT and IDT: frames, stacks, error codes, double and triple faults. [SDM-3A 6]
#include <gtest/gtest.h>

#include "dbt/system/expect.h"
#include "dbt/system/machine_fake.h"

namespace rhea::dbt {
namespace {

namespace rf = cpu::rflags;

constexpr unsigned kInterrupt = 0x8e, kTrap = 0x8f;

class EventsTest : public ::testing::Test {
 protected:
  FakeMachine machine;
  cpu::CpuState& state = machine.state;
  Context& context = machine.context;

  uint64_t stack(unsigned slot, unsigned width) {
    return machine.read((state.gpr[cpu::kRsp] + slot * width) & 0xffffffff, width);
  }
  Exception fault(uint8_t vector, uint32_t code) {
    return {.vector = vector, .has_error_code = true, .error_code = code};
  }
  void long_gates(unsigned ist = 0) {
    for (unsigned vector = 0; vector < 256; ++vector)
      machine.set_gate64(vector, FakeMachine::code64(0), 0xffffffff81000000 + vector * 16, kInterrupt, ist);
  }
  void gates32() {
    for (unsigned vector = 0; vector < 256; ++vector)
      machine.set_gate32(vector, FakeMachine::code32(0), 0x81000000 + vector * 16, kInterrupt);
  }
};

TEST_F(EventsTest, RealMode) {
  state.idtr = {0, 0x3ff};
  machine.write(0x21 * 4, 0xf0001234, 4);
  context.set_rflags(rf::kFixed1 | rf::kIf | rf::kTf | rf::kCf);
  state.segment[cpu::kCs].selector = 0x7c0;
  state.rip = 0x10;
  EXPECT_EQ(deliver_interrupt(context, 0x21), Next::kDispatch);
  EXPECT_EQ(state.rip, 0x1234u);
  EXPECT_EQ(state.segment[cpu::kCs].selector, 0xf000);
  EXPECT_EQ(state.segment[cpu::kCs].base, 0xf0000u);
  EXPECT_EQ(state.gpr[cpu::kRsp], 0x7000u - 6);
  EXPECT_EQ(stack(0, 2), 0x10u);
  EXPECT_EQ(stack(1, 2), 0x7c0u);
  EXPECT_EQ(stack(2, 2), rf::kFixed1 | rf::kIf | rf::kTf | rf::kCf);
  EXPECT_EQ(context.rflags(), rf::kFixed1 | rf::kCf);
  // A vector beyond the table: #GP, then #DF, both beyond it too.
  state.idtr.limit = 0x21;
  EXPECT_EQ(deliver_interrupt(context, 0x21), Next::kShutdown);
}

TEST_F(EventsTest, ProtectedModeSamePrivilege) {
  machine.enter_protected_mode(0);
  gates32();
  machine.set_gate32(14, FakeMachine::code32(0), 0x1000, kTrap);
  context.set_rflags(rf::kFixed1 | rf::kIf | rf::kNt | rf::kZf);
  uint64_t rsp = state.gpr[cpu::kRsp];
  EXPECT_EQ(deliver_exception(context, {.vector = 14, .has_error_code = true, .error_code = 2, .address = 0xdeadb000}),
            Next::kDispatch);
  EXPECT_EQ(state.cr2, 0xdeadb000u);
  EXPECT_EQ(state.rip, 0x1000u);
  EXPECT_EQ(state.gpr[cpu::kRsp], rsp - 16);
  EXPECT_EQ(stack(0, 4), 2u);
  EXPECT_EQ(stack(1, 4), FakeMachine::kCode);
  EXPECT_EQ(stack(2, 4), FakeMachine::code32(0));
  EXPECT_EQ(stack(3, 4), rf::kFixed1 | rf::kIf | rf::kNt | rf::kZf | rf::kRf);
  EXPECT_EQ(context.rflags(), rf::kFixed1 | rf::kIf | rf::kZf) << "trap gate leaves IF";
  // Interrupt gate clears it; no RF in the image of an interrupt.
  EXPECT_EQ(deliver_interrupt(context, 0x30), Next::kDispatch);
  EXPECT_EQ(stack(2, 4), rf::kFixed1 | rf::kIf | rf::kZf);
  EXPECT_FALSE(context.interrupt_flag);
}

TEST_F(EventsTest, ProtectedModeInnerPrivilege) {
  machine.enter_protected_mode(3);
  gates32();
  uint64_t rsp = state.gpr[cpu::kRsp];
  EXPECT_EQ(deliver_exception(context, fault(13, 0x58)), Next::kDispatch);
  EXPECT_EQ(state.cpl(), 0u);
  EXPECT_EQ(state.segment[cpu::kCs].selector, FakeMachine::code32(0));
  EXPECT_EQ(state.segment[cpu::kSs].selector, FakeMachine::data(0));
  EXPECT_EQ(state.gpr[cpu::kRsp], FakeMachine::kStack[0] - 24);
  EXPECT_EQ(stack(0, 4), 0x58u);
  EXPECT_EQ(stack(1, 4), FakeMachine::kCode);
  EXPECT_EQ(stack(2, 4), FakeMachine::code32(3));
  EXPECT_EQ(stack(4, 4), rsp);
  EXPECT_EQ(stack(5, 4), FakeMachine::data(3));
}

TEST_F(EventsTest, SixteenBitGate) {
  machine.enter_protected_mode(0);
  machine.set_gate32(0x40, FakeMachine::code32(0), 0xabcd1234, 0x86);
  uint64_t rsp = state.gpr[cpu::kRsp];
  EXPECT_EQ(deliver_interrupt(context, 0x40), Next::kDispatch);
  EXPECT_EQ(state.rip, 0x1234u);
  EXPECT_EQ(state.gpr[cpu::kRsp], rsp - 6);
  EXPECT_EQ(stack(1, 2), FakeMachine::code32(0));
}

TEST_F(EventsTest, LongModeFrames) {
  machine.enter_long_mode(3);
  long_gates();
  state.gpr[cpu::kRsp] = 0x6007;
  context.set_rflags(rf::kFixed1 | rf::kIf | rf::kAc);
  EXPECT_EQ(deliver_exception(context, {.vector = 14, .has_error_code = true, .error_code = 7, .address = 0x1234}),
            Next::kDispatch);
  EXPECT_EQ(state.rip, 0xffffffff810000e0u);
  EXPECT_EQ(state.gpr[cpu::kRsp], FakeMachine::kStack[0] - 48);
  const uint64_t expected[] = {
      7,      FakeMachine::kCode,  FakeMachine::code64(3), rf::kFixed1 | rf::kIf | rf::kAc | rf::kRf,
      0x6007, FakeMachine::data(3)};
  for (unsigned i = 0; i < 6; ++i) EXPECT_EQ(stack(i, 8), expected[i]) << i;
  EXPECT_EQ(state.segment[cpu::kSs].selector, 0);
  EXPECT_EQ(state.cpl(), 0u);
  EXPECT_TRUE(state.rflags & rf::kAc) << "AC is not cleared";
  // Same privilege: RSP is aligned before the push, SS stays.
  state.gpr[cpu::kRsp] = 0x70009;
  EXPECT_EQ(deliver_interrupt(context, 0x20), Next::kDispatch);
  EXPECT_EQ(state.gpr[cpu::kRsp], 0x70000u - 40);
  EXPECT_EQ(stack(3, 8), 0x70009u);
}

TEST_F(EventsTest, InterruptStackTable) {
  for (unsigned ist = 1; ist < 8; ++ist)
    for (unsigned cpl : {0u, 3u}) {
      machine.enter_long_mode(cpl);
      long_gates(ist);
      EXPECT_EQ(deliver_interrupt(context, 0x80), Next::kDispatch);
      EXPECT_EQ(state.gpr[cpu::kRsp], FakeMachine::kIst[ist] - 40);
    }
  machine.enter_long_mode(0);
  long_gates(7);
  for (unsigned vector : {8u, 10u}) machine.set_gate64(vector, FakeMachine::code64(0), 0x100, kInterrupt);
  state.segment[cpu::kTr].limit = 36 + 6 * 8 + 6;
  EXPECT_EQ(deliver_interrupt(context, 0x80), Next::kDispatch);
  EXPECT_EQ(state.rip, 0x100u);
  EXPECT_EQ(stack(0, 8), FakeMachine::kTssSelector | 1u) << "#TS(TR + EXT)";
}

struct GateCase {
  const char* what;
  void (*spoil)(FakeMachine&);
  uint8_t vector;
  uint32_t code;  // for INT 0x80 at CPL 3
};

constexpr uint32_t kIdtCode = 0x80 * 8 + 2;

// Each check of a gate on its own: a software interrupt returns the fault.
TEST_F(EventsTest, GateChecksLongMode) {
  const GateCase cases[] = {
      {"IDT limit", [](FakeMachine& m) { m.state.idtr.limit = 0x80 * 16 + 14; }, kGeneralProtection, kIdtCode},
      {"gate DPL", [](FakeMachine& m) { m.set_gate64(0x80, FakeMachine::code64(0), 0x100, kInterrupt); },
       kGeneralProtection, kIdtCode},
      {"not present", [](FakeMachine& m) { m.set_gate64(0x80, FakeMachine::code64(0), 0x100, 0x6e); },
       kSegmentNotPresent, kIdtCode},
      {"gate type", [](FakeMachine& m) { m.set_gate64(0x80, FakeMachine::code64(0), 0x100, 0xe6); }, kGeneralProtection,
       kIdtCode},
      {"null selector", [](FakeMachine& m) { m.set_gate64(0x80, 3, 0x100, 0xee); }, kGeneralProtection, 0},
      {"selector limit", [](FakeMachine& m) { m.set_gate64(0x80, 0x1008, 0x100, 0xee); }, kGeneralProtection, 0x1008},
      {"data segment", [](FakeMachine& m) { m.set_gate64(0x80, FakeMachine::data(0), 0x100, 0xee); },
       kGeneralProtection, FakeMachine::data(0)},
      {"32-bit code", [](FakeMachine& m) { m.set_gate64(0x80, FakeMachine::code32(0), 0x100, 0xee); },
       kGeneralProtection, FakeMachine::code32(0)},
      {"code not present",
       [](FakeMachine& m) { m.set_gdt(FakeMachine::code64(0), FakeMachine::descriptor(0, 0xfffff, 0x1b, 0xa)); },
       kSegmentNotPresent, FakeMachine::code64(0)},
      {"offset", [](FakeMachine& m) { m.set_gate64(0x80, FakeMachine::code64(0), uint64_t{1} << 47, 0xee); },
       kGeneralProtection, 0},
      {"RSP0 not canonical", [](FakeMachine& m) { m.write(FakeMachine::kTss + 4, uint64_t{1} << 47, 8); }, kStackFault,
       0},
      {"TSS limit", [](FakeMachine& m) { m.state.segment[cpu::kTr].limit = 10; }, kInvalidTss,
       FakeMachine::kTssSelector},
      {"stack page", [](FakeMachine& m) { m.write(FakeMachine::kTss + 4, 0x40000000, 8); }, kPageFault, 2},
  };
  for (const GateCase& c : cases) {
    SCOPED_TRACE(c.what);
    FakeMachine fresh;
    fresh.enter_long_mode(3);
    fresh.set_gate64(0x80, FakeMachine::code64(0), 0x100, 0xee);
    c.spoil(fresh);
    cpu::CpuState before = fresh.state;
    EXPECT_RAISES(fresh.run({0xcd, 0x80}), c.vector, c.code);
    EXPECT_EQ(fresh.state.gpr, before.gpr);
    EXPECT_EQ(fresh.state.segment, before.segment);
    EXPECT_EQ(fresh.state.rip, before.rip);
  }
  machine.enter_long_mode(3);
  machine.set_gate64(0x80, FakeMachine::code64(0), 0x100, 0xef);
  EXPECT_NEXT(machine.run({0xcd, 0x80}), Next::kDispatch);
  EXPECT_EQ(stack(0, 8), FakeMachine::kCode + 2) << "the next instruction";
}

TEST_F(EventsTest, ConformingHandlerKeepsPrivilege) {
  machine.enter_long_mode(3);
  machine.set_gdt(FakeMachine::kFreeSelector, FakeMachine::descriptor(0, 0xfffff, 0x9f, 0xa));
  machine.set_gate64(0x80, FakeMachine::kFreeSelector, 0x100, 0xee);
  uint64_t rsp = state.gpr[cpu::kRsp];
  EXPECT_NEXT(machine.run({0xcd, 0x80}), Next::kDispatch);
  EXPECT_EQ(state.cpl(), 3u);
  EXPECT_EQ(state.segment[cpu::kCs].selector, FakeMachine::kFreeSelector | 3);
  EXPECT_EQ(state.gpr[cpu::kRsp], (rsp & ~uint64_t{15}) - 40);
}

// Table 6-5: which second fault makes a double fault.
TEST_F(EventsTest, DoubleFaultMatrix) {
  const uint8_t contributory[] = {0, 10, 11, 12, 13};
  auto is_contributory = [&](uint8_t vector) {
    return std::find(std::begin(contributory), std::end(contributory), vector) != std::end(contributory);
  };
  // The first event's gate is broken so that delivering it raises `second`.
  for (uint8_t first : {0, 1, 3, 5, 6, 10, 11, 12, 13, 14, 16, 17, 0x80})
    for (uint8_t second : {10, 11, 12, 13, 14}) {
      FakeMachine m;
      m.enter_long_mode(3);
      for (unsigned vector = 0; vector < 256; ++vector)
        m.set_gate64(vector, FakeMachine::code64(0), 0x100 + vector * 16, kInterrupt, 1);
      switch (second) {
        case 10:
          m.set_gate64(first, FakeMachine::code64(0), 0x100, kInterrupt, 7);
          m.state.segment[cpu::kTr].limit = 36 + 8;
          break;
        case 11: m.set_gate64(first, FakeMachine::code64(0), 0x100, 0x0e, 1); break;
        case 12:
          m.set_gate64(first, FakeMachine::code64(0), 0x100, kInterrupt, 2);
          m.write(FakeMachine::kTss + 36 + 8, uint64_t{1} << 47, 8);
          break;
        case 13: m.set_gate64(first, 0, 0x100, kInterrupt, 1); break;
        case 14:
          m.set_gate64(first, FakeMachine::code64(0), 0x100, kInterrupt, 2);
          m.write(FakeMachine::kTss + 36 + 8, 0x40000000, 8);
          break;
      }
      if (first == second) continue;
      Next next = first == 0x80 ? deliver_interrupt(m.context, first) : deliver_exception(m.context, {.vector = first});
      ASSERT_EQ(next, Next::kDispatch);
      bool double_fault = (is_contributory(first) && is_contributory(second)) ||
                          (first == 14 && (is_contributory(second) || second == 14));
      unsigned vector = double_fault ? 8 : second;
      EXPECT_EQ(m.state.rip, 0x100u + vector * 16) << "first " << int(first) << " second " << int(second);
      EXPECT_EQ(m.read(m.state.gpr[cpu::kRsp] + 8, 8), FakeMachine::kCode);
      if (double_fault)
        EXPECT_EQ(m.read(m.state.gpr[cpu::kRsp], 8), 0u);
      else if (second == 11)
        EXPECT_EQ(m.read(m.state.gpr[cpu::kRsp], 8), first * 8u + 3) << "IDT and EXT";
    }
}

TEST_F(EventsTest, TripleFault) {
  machine.enter_long_mode(3);
  long_gates();
  machine.set_gate64(13, FakeMachine::code64(0), 0x100, 0x0e);
  machine.set_gate64(8, FakeMachine::code64(0), 0x100, 0x0e);
  EXPECT_EQ(deliver_exception(context, fault(13, 0)), Next::kShutdown);
  EXPECT_EQ(state.rip, FakeMachine::kCode) << "the state shows where it happened";
  machine.enter_protected_mode(0);
  state.idtr.limit = 0;
  EXPECT_EQ(deliver_exception(context, {.vector = 6}), Next::kShutdown);
}

TEST_F(EventsTest, PageFaultOnBadStackBecomesDoubleFaultOnIst) {
  machine.enter_long_mode(0);
  long_gates();
  machine.set_gate64(8, FakeMachine::code64(0), 0x800, kInterrupt, 3);
  state.gpr[cpu::kRsp] = 0x50000000;
  EXPECT_EQ(deliver_exception(context, {.vector = 14, .has_error_code = true, .error_code = 2, .address = 0x4ffffff8}),
            Next::kDispatch);
  EXPECT_EQ(state.rip, 0x800u);
  EXPECT_EQ(state.cr2, 0x50000000u - 8) << "of the second fault";
  EXPECT_EQ(state.gpr[cpu::kRsp], FakeMachine::kIst[3] - 48);
}

TEST_F(EventsTest, DebugExceptionRegisters) {
  machine.enter_long_mode(0);
  long_gates();
  state.dr[6] = 0xffff0ff0;
  state.dr[7] = 0x2400;
  context.set_rflags(rf::kFixed1 | rf::kTf);
  EXPECT_EQ(deliver_exception(context, {.vector = 1, .dr6_bits = 0x4000}), Next::kDispatch);
  EXPECT_EQ(state.dr[6], 0xffff4ff0u);
  EXPECT_EQ(state.dr[7], 0x400u) << "GD is cleared";
  EXPECT_FALSE(context.rflags() & rf::kTf);
  EXPECT_EQ(stack(2, 8), rf::kFixed1 | rf::kTf) << "no RF for a trap";
}

TEST_F(EventsTest, NmiBlocksUntilIret) {
  machine.enter_long_mode(0);
  long_gates();
  EXPECT_EQ(deliver_interrupt(context, 2), Next::kDispatch);
  EXPECT_TRUE(state.nmi_blocked);
  EXPECT_NEXT(machine.run({0x48, 0xcf}), Next::kDispatch);
  EXPECT_FALSE(state.nmi_blocked);
  EXPECT_EQ(state.rip, FakeMachine::kCode);
}

TEST_F(EventsTest, Virtual8086) {
  machine.enter_protected_mode(0);
  gates32();
  // IRET into virtual-8086 mode.
  uint64_t rsp = state.gpr[cpu::kRsp] - 36;
  state.gpr[cpu::kRsp] = rsp;
  const uint32_t frame[] = {0x100, 0x2000, uint32_t(rf::kFixed1 | rf::kVm | rf::kIf), 0xfff0, 0x3000, 0x11, 0x22,
                            0x33,  0x44};
  for (unsigned i = 0; i < 9; ++i) machine.write(rsp + i * 4, frame[i], 4);
  EXPECT_NEXT(machine.run({0xcf}), Next::kDispatch);
  EXPECT_TRUE(state.virtual8086());
  EXPECT_EQ(state.cpl(), 3u);
  EXPECT_EQ(state.segment[cpu::kCs].base, 0x20000u);
  EXPECT_EQ(state.segment[cpu::kGs].selector, 0x44);
  EXPECT_EQ(state.gpr[cpu::kRsp], 0xfff0u);
  // INT n needs IOPL 3; an exception goes to ring 0 with the segments on the stack.
  EXPECT_RAISES(machine.run({0xcd, 0x21}), kGeneralProtection, 0);
  EXPECT_RAISES(machine.run({0x9c}), kGeneralProtection, 0);
  EXPECT_RAISES(machine.run({0xcf}), kGeneralProtection, 0);
  EXPECT_EQ(deliver_exception(context, fault(13, 0)), Next::kDispatch);
  EXPECT_FALSE(state.virtual8086());
  EXPECT_EQ(state.gpr[cpu::kRsp], FakeMachine::kStack[0] - 40);
  const uint32_t pushed[] = {
      0, 0x100, 0x2000, uint32_t(rf::kFixed1 | rf::kVm | rf::kIf | rf::kRf), 0xfff0, 0x3000, 0x11, 0x22, 0x33, 0x44};
  for (unsigned i = 0; i < 10; ++i) EXPECT_EQ(stack(i, 4), pushed[i]) << i;
  EXPECT_FALSE(state.segment[cpu::kDs].usable());
  EXPECT_EQ(state.segment[cpu::kDs].selector, 0);
}

TEST_F(EventsTest, SoftwareInterruptFamily) {
  machine.enter_protected_mode(0);
  gates32();
  EXPECT_NEXT(machine.run({0xcc}), Next::kDispatch);
  EXPECT_EQ(state.rip, 0x81000030u);
  machine.set_cpl(0);
  EXPECT_NEXT(machine.run({0xce}), Next::kContinue);  // INTO, OF clear
  context.set_rflags(rf::kFixed1 | rf::kOf);
  EXPECT_NEXT(machine.run({0xce}), Next::kDispatch);
  EXPECT_EQ(state.rip, 0x81000040u);
  machine.set_cpl(3);
  EXPECT_RAISES(machine.run({0xcc}), kGeneralProtection, 3 * 8 + 2);  // gate DPL 0
  EXPECT_NEXT(machine.run({0xf1}), Next::kDispatch);                  // INT1 does not check it
  EXPECT_EQ(state.rip, 0x81000010u);
}

}  // namespace
}  // namespace rhea::dbt
