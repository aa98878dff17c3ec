// SPDX-License-Identifier: Apache-2.0
// Far transfers, call gates, IRET and the fast system calls.
#include <gtest/gtest.h>

#include <algorithm>

#include "cpu/cpu_model.h"
#include "dbt/system/expect.h"
#include "dbt/system/machine_fake.h"

namespace rhea::dbt {
namespace {

namespace rf = cpu::rflags;

constexpr uint16_t kFree = FakeMachine::kFreeSelector;

class FarTest : public ::testing::Test {
 protected:
  FakeMachine machine;
  cpu::CpuState& state = machine.state;
  Context& context = machine.context;

  uint64_t slot(unsigned index, unsigned width) { return machine.read(state.gpr[cpu::kRsp] + index * width, width); }
  void push_frame(std::initializer_list<uint64_t> top_first, unsigned width) {
    state.gpr[cpu::kRsp] -= top_first.size() * width;
    uint64_t at = state.gpr[cpu::kRsp];
    for (uint64_t value : top_first) {
      machine.write(at, value, width);
      at += width;
    }
  }
  Fallible<Next> jmp(uint16_t selector, uint32_t offset) {
    return machine.run({0xea, uint8_t(offset), uint8_t(offset >> 8), uint8_t(offset >> 16), uint8_t(offset >> 24),
                        uint8_t(selector), uint8_t(selector >> 8)});
  }
  Fallible<Next> call(uint16_t selector, uint32_t offset) {
    return machine.run({0x9a, uint8_t(offset), uint8_t(offset >> 8), uint8_t(offset >> 16), uint8_t(offset >> 24),
                        uint8_t(selector), uint8_t(selector >> 8)});
  }
  void call_gate32(uint16_t selector, uint16_t target, uint32_t offset, unsigned access, unsigned parameters = 0) {
    machine.set_gdt(selector, (offset & 0xffff) | (uint64_t{target} << 16) | (uint64_t{parameters} << 32) |
                                  (uint64_t{access} << 40) | (uint64_t{offset >> 16} << 48));
  }
};

TEST_F(FarTest, RealModeCallAndReturn) {
  state.segment[cpu::kCs].selector = 0x7c0;
  EXPECT_NEXT(machine.run({0x9a, 0x34, 0x12, 0x00, 0xf0}), Next::kDispatch);
  EXPECT_EQ(state.rip, 0x1234u);
  EXPECT_EQ(state.segment[cpu::kCs].base, 0xf0000u);
  EXPECT_EQ(slot(0, 2), 0x7c05u);
  EXPECT_EQ(slot(1, 2), 0x7c0u);
  EXPECT_NEXT(machine.run({0xcb}), Next::kDispatch);
  EXPECT_EQ(state.rip, 0x7c05u);
  EXPECT_EQ(state.gpr[cpu::kRsp], 0x7000u);
  // Turning protection on, then the far jump that loads CS.
  state.gpr[cpu::kRax] = state.cr0 | 1;
  EXPECT_NEXT(machine.run({0x0f, 0x22, 0xc0}), Next::kDispatch);
  EXPECT_NEXT(machine.run({0x66, 0xea, 0x00, 0x00, 0x10, 0x00, 0x08, 0x00}), Next::kDispatch);
  EXPECT_EQ(state.rip, 0x100000u);
  EXPECT_TRUE(state.segment[cpu::kCs].default_big());
  EXPECT_EQ(state.cpl(), 0u);
}

// Every code descriptor x DPL x RPL x CPL against JMP's pseudo-code.
TEST_F(FarTest, DirectJumpMatrix) {
  for (unsigned cpl = 0; cpl < 4; ++cpl)
    for (unsigned type = 8; type < 16; ++type)
      for (unsigned dpl = 0; dpl < 4; ++dpl)
        for (unsigned rpl = 0; rpl < 4; ++rpl)
          for (unsigned present = 0; present < 2; ++present) {
            machine.enter_protected_mode(cpl);
            machine.set_gdt(kFree, FakeMachine::descriptor(0x1000, 0xffff, 0x10 | type | dpl << 5 | present << 7, 0x4));
            bool conforming = type & 4;
            bool privilege = conforming ? dpl <= cpl : rpl <= cpl && dpl == cpl;
            auto result = jmp(uint16_t(kFree | rpl), 0x100);
            if (!privilege || !present) {
              ASSERT_FALSE(result.has_value());
              EXPECT_EQ(result.error().vector, privilege ? kSegmentNotPresent : kGeneralProtection);
              EXPECT_EQ(result.error().error_code, kFree);
              EXPECT_EQ(state.rip, FakeMachine::kCode);
            } else {
              ASSERT_TRUE(result.has_value());
              EXPECT_EQ(state.segment[cpu::kCs].selector, kFree | cpl);
              EXPECT_EQ(state.cpl(), cpl);
              EXPECT_EQ(state.rip, 0x100u);
            }
          }
  machine.enter_protected_mode(0);
  machine.set_gdt(kFree, FakeMachine::descriptor(0, 0xff, 0x9b, 0x4));
  EXPECT_RAISES(jmp(kFree, 0x100), kGeneralProtection, 0);
  EXPECT_RAISES(jmp(3, 0x100), kGeneralProtection, 0);
  EXPECT_RAISES(jmp(FakeMachine::data(0), 0x100), kGeneralProtection, FakeMachine::data(0));
}

TEST_F(FarTest, CallGateToInnerLevelCopiesParameters) {
  machine.enter_protected_mode(3);
  call_gate32(kFree, FakeMachine::code32(0), 0x5000, 0xec, 2);
  push_frame({0x11111111, 0x22222222}, 4);
  uint64_t rsp = state.gpr[cpu::kRsp];
  EXPECT_NEXT(call(kFree | 3, 0xffffffff), Next::kDispatch);
  EXPECT_EQ(state.cpl(), 0u);
  EXPECT_EQ(state.rip, 0x5000u);
  EXPECT_EQ(state.gpr[cpu::kRsp], FakeMachine::kStack[0] - 24);
  const uint64_t expected[] = {FakeMachine::kCode + 7, FakeMachine::code32(3), 0x11111111, 0x22222222, rsp,
                               FakeMachine::data(3)};
  for (unsigned i = 0; i < 6; ++i) EXPECT_EQ(slot(i, 4), expected[i]) << i;
  // And back, releasing the parameters on both stacks; ring-0 segments do not survive.
  state.segment[cpu::kEs] = {.base = 0, .limit = 0xffffffff, .selector = FakeMachine::data(0), .attributes = 0xc093};
  EXPECT_NEXT(machine.run({0xca, 0x08, 0x00}), Next::kDispatch);
  EXPECT_EQ(state.cpl(), 3u);
  EXPECT_EQ(state.rip, FakeMachine::kCode + 7);
  EXPECT_EQ(state.gpr[cpu::kRsp], rsp + 8);
  EXPECT_FALSE(state.segment[cpu::kEs].usable());
  EXPECT_TRUE(state.segment[cpu::kDs].usable());
}

// Gate DPL >= max(CPL, RPL); code DPL <= CPL; the handler's level is the code's unless it conforms.
TEST_F(FarTest, CallGateMatrix) {
  for (unsigned cpl = 0; cpl < 4; ++cpl)
    for (unsigned rpl = 0; rpl < 4; ++rpl)
      for (unsigned gate_dpl = 0; gate_dpl < 4; ++gate_dpl)
        for (unsigned code_dpl = 0; code_dpl < 4; ++code_dpl)
          for (bool conforming : {false, true})
            for (bool jump : {false, true}) {
              machine.enter_protected_mode(cpl);
              constexpr uint16_t kCodeSelector = kFree + 8;
              machine.set_gdt(kCodeSelector,
                              FakeMachine::descriptor(0, 0xfffff, (conforming ? 0x9e : 0x9a) | code_dpl << 5, 0xc));
              call_gate32(kFree, kCodeSelector, 0x5000, 0x8c | gate_dpl << 5);
              auto result = jump ? jmp(uint16_t(kFree | rpl), 0) : call(uint16_t(kFree | rpl), 0);
              int error = -1;
              if (gate_dpl < std::max(cpl, rpl))
                error = kFree;
              else if (code_dpl > cpl || (jump && !conforming && code_dpl != cpl))
                error = kCodeSelector;
              SCOPED_TRACE(::testing::Message() << "cpl " << cpl << " rpl " << rpl << " gate " << gate_dpl << " code "
                                                << code_dpl << " conforming " << conforming << " jump " << jump);
              ASSERT_EQ(result.has_value(), error < 0);
              if (error >= 0) {
                EXPECT_EQ(result.error().vector, kGeneralProtection);
                EXPECT_EQ(int(result.error().error_code), error);
                continue;
              }
              EXPECT_EQ(state.cpl(), conforming ? cpl : code_dpl);
              EXPECT_EQ(state.segment[cpu::kCs].selector & 3u, state.cpl());
            }
}

TEST_F(FarTest, CallGateChecks) {
  machine.enter_protected_mode(3);
  call_gate32(kFree, FakeMachine::code32(0), 0x5000, 0x8c);
  EXPECT_RAISES(call(kFree | 3, 0), kGeneralProtection, kFree);
  call_gate32(kFree, FakeMachine::code32(0), 0x5000, 0x6c);
  EXPECT_RAISES(call(kFree | 3, 0), kSegmentNotPresent, kFree);
  call_gate32(kFree, 0, 0x5000, 0xec);
  EXPECT_RAISES(call(kFree | 3, 0), kGeneralProtection, 0);
  call_gate32(kFree, FakeMachine::data(0), 0x5000, 0xec);
  EXPECT_RAISES(call(kFree | 3, 0), kGeneralProtection, FakeMachine::data(0));
  call_gate32(kFree, FakeMachine::code32(0), 0x5000, 0xec);
  EXPECT_RAISES(jmp(kFree | 3, 0), kGeneralProtection, FakeMachine::code32(0));  // JMP cannot change the level
  machine.write(FakeMachine::kTss + 8, 0, 4);
  EXPECT_RAISES(call(kFree | 3, 0), kInvalidTss, 0);
  machine.write(FakeMachine::kTss + 8, FakeMachine::data(1), 4);
  EXPECT_RAISES(call(kFree | 3, 0), kInvalidTss, FakeMachine::data(1) & 0xfffc);
  machine.write(FakeMachine::kTss + 8, FakeMachine::data(0), 4);
  machine.set_gdt(FakeMachine::data(0), FakeMachine::descriptor(0, 0xfffff, 0x13, 0xc));
  EXPECT_RAISES(call(kFree | 3, 0), kStackFault, FakeMachine::data(0));
}

TEST_F(FarTest, LongModeCallGate) {
  machine.enter_compatibility_mode(3);
  uint64_t offset = 0xffffffff81234567;
  machine.set_gdt(kFree,
                  (offset & 0xffff) | (uint64_t{FakeMachine::code64(0)} << 16) | (uint64_t{0xec} << 40) |
                      (uint64_t{(offset >> 16) & 0xffff} << 48),
                  offset >> 32);
  uint64_t rsp = state.gpr[cpu::kRsp];
  EXPECT_NEXT(call(kFree | 3, 0), Next::kDispatch);
  EXPECT_TRUE(state.code64());
  EXPECT_EQ(state.rip, offset);
  EXPECT_EQ(state.gpr[cpu::kRsp], FakeMachine::kStack[0] - 32);
  const uint64_t expected[] = {FakeMachine::kCode + 7, FakeMachine::code32(3), rsp, FakeMachine::data(3)};
  for (unsigned i = 0; i < 4; ++i) EXPECT_EQ(slot(i, 8), expected[i]) << i;
  EXPECT_EQ(state.segment[cpu::kSs].selector, 0);
  EXPECT_NEXT(machine.run({0x48, 0xcb}), Next::kDispatch);  // retfq
  EXPECT_FALSE(state.code64());
  EXPECT_EQ(state.cpl(), 3u);
  EXPECT_EQ(state.gpr[cpu::kRsp], rsp);
  // The type field of the second half must be zero.
  machine.set_gdt(kFree, (uint64_t{FakeMachine::code64(0)} << 16) | (uint64_t{0xec} << 40), uint64_t{1} << 40);
  EXPECT_RAISES(call(kFree | 3, 0), kGeneralProtection, kFree);
}

TEST_F(FarTest, IretLongMode) {
  machine.enter_long_mode(0);
  state.segment[cpu::kDs] = {.base = 0, .limit = 0xffffffff, .selector = FakeMachine::data(0), .attributes = 0xc093};
  push_frame({0x401000, FakeMachine::code64(3), rf::kFixed1 | rf::kIf | rf::kIopl | rf::kAc | rf::kVm, 0x7ffff000,
              FakeMachine::data(3)},
             8);
  EXPECT_NEXT(machine.run({0x48, 0xcf}), Next::kDispatch);
  EXPECT_EQ(state.cpl(), 3u);
  EXPECT_EQ(state.rip, 0x401000u);
  EXPECT_EQ(state.gpr[cpu::kRsp], 0x7ffff000u);
  EXPECT_EQ(context.rflags(), rf::kFixed1 | rf::kIf | rf::kIopl | rf::kAc) << "VM is ignored in long mode";
  EXPECT_FALSE(state.segment[cpu::kDs].usable());
  // To the same level too, SS:RSP is popped; a null SS is fine at CPL 0.
  machine.enter_long_mode(0);
  push_frame({0x1000, FakeMachine::code64(0), rf::kFixed1, 0x1238, 0}, 8);
  EXPECT_NEXT(machine.run({0x48, 0xcf}), Next::kDispatch);
  EXPECT_EQ(state.gpr[cpu::kRsp], 0x1238u);
  EXPECT_EQ(state.cpl(), 0u);
  // To compatibility mode.
  machine.enter_long_mode(0);
  push_frame({0x8048000, FakeMachine::code32(3), rf::kFixed1, 0xffffd000, FakeMachine::data(3)}, 8);
  EXPECT_NEXT(machine.run({0x48, 0xcf}), Next::kDispatch);
  EXPECT_FALSE(state.code64());
  EXPECT_EQ(state.gpr[cpu::kRsp], 0xffffd000u);
}

TEST_F(FarTest, FramesAreReadFromTheirEnd) {
  machine.enter_long_mode(0);
  constexpr uint64_t kUnmapped = 0x7fff00000000;
  state.gpr[cpu::kRsp] = kUnmapped;
  auto far_return = machine.run({0x48, 0xcb});
  ASSERT_FALSE(far_return.has_value());
  EXPECT_EQ(far_return.error().address, kUnmapped + 8);
  auto interrupt_return = machine.run({0x48, 0xcf});
  ASSERT_FALSE(interrupt_return.has_value());
  EXPECT_EQ(interrupt_return.error().address, kUnmapped + 16);
}

// From 64-bit code with a 64-bit offset: EIP is its low half, and a CALL pushes where ESP points.
TEST_F(FarTest, WideTransfersToCompatibilityMode) {
  machine.enter_long_mode(3);
  if (!context.cpu_model->intel()) GTEST_SKIP() << "no m16:64";
  constexpr uint32_t kPointer = 0x100000;
  machine.write(kPointer, 0x1234'0000'2000, 8);
  machine.write(kPointer + 8, FakeMachine::code32(3), 2);
  EXPECT_NEXT(machine.run({0x48, 0xff, 0x2c, 0x25, 0x00, 0x00, 0x10, 0x00}), Next::kDispatch);
  EXPECT_EQ(state.rip, 0x2000u);
  EXPECT_FALSE(state.code64());
  machine.enter_long_mode(3);
  const uint64_t esp = FakeMachine::kStack[3];
  state.gpr[cpu::kRsp] = 0x5'0000'0000 | esp;
  const uint64_t next = state.rip + 8;
  EXPECT_NEXT(machine.run({0x48, 0xff, 0x1c, 0x25, 0x00, 0x00, 0x10, 0x00}), Next::kDispatch);
  EXPECT_EQ(state.rip, 0x2000u);
  EXPECT_EQ(state.gpr[cpu::kRsp], esp - 16);
  EXPECT_EQ(machine.read(esp - 16, 8), next);
}

TEST_F(FarTest, IretFaults) {
  struct Case {
    const char* what;
    std::initializer_list<uint64_t> frame;
    uint8_t vector;
    uint32_t code;
  };
  const uint64_t flags = rf::kFixed1;
  const Case cases[] = {
      {"rip", {uint64_t{1} << 47, FakeMachine::code64(3), flags, 0x1000, FakeMachine::data(3)}, kGeneralProtection, 0},
      {"null cs", {0x1000, 3, flags, 0x1000, FakeMachine::data(3)}, kGeneralProtection, 0},
      {"cs rpl",
       {0x1000, uint64_t(FakeMachine::code64(3) & ~3), flags, 0x1000, FakeMachine::data(3)},
       kGeneralProtection,
       FakeMachine::code64(3) & 0xfffc},
      {"data as cs",
       {0x1000, FakeMachine::data(3), flags, 0x1000, FakeMachine::data(3)},
       kGeneralProtection,
       FakeMachine::data(3) & 0xfffc},
      {"null ss at 3", {0x1000, FakeMachine::code64(3), flags, 0x1000, 3}, kGeneralProtection, 0},
      {"null ss to 32-bit", {0x1000, FakeMachine::code32(0), flags, 0x1000, 0}, kGeneralProtection, 0},
      {"ss rpl",
       {0x1000, FakeMachine::code64(3), flags, 0x1000, uint64_t(FakeMachine::data(3) & ~3)},
       kGeneralProtection,
       FakeMachine::data(3) & 0xfffc},
      {"ss code",
       {0x1000, FakeMachine::code64(3), flags, 0x1000, FakeMachine::code32(3)},
       kGeneralProtection,
       FakeMachine::code32(3) & 0xfffc},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    machine.enter_long_mode(0);
    push_frame(c.frame, 8);
    auto before = state.gpr;
    EXPECT_RAISES(machine.run({0x48, 0xcf}), c.vector, c.code);
    EXPECT_EQ(state.gpr, before);
    EXPECT_EQ(state.cpl(), 0u);
  }
  machine.enter_long_mode(0);
  context.set_rflags(rf::kFixed1 | rf::kNt);
  EXPECT_RAISES(machine.run({0x48, 0xcf}), kGeneralProtection, 0);
}

// IF needs CPL <= IOPL, IOPL needs CPL 0.
TEST_F(FarTest, FlagPrivileges) {
  for (unsigned cpl = 0; cpl < 4; ++cpl)
    for (unsigned iopl = 0; iopl < 4; ++iopl)
      for (bool iret : {false, true}) {
        machine.enter_protected_mode(cpl);
        context.set_rflags(rf::kFixed1 | iopl << 12);
        uint64_t wanted = 0x3f7fd7 & ~(rf::kVm | rf::kNt);
        if (iret)
          push_frame({0x1000, FakeMachine::code32(cpl), wanted}, 4);
        else
          push_frame({wanted}, 4);
        EXPECT_NEXT(iret ? machine.run({0xcf}) : machine.run({0x9d}), Next::kDispatch);
        uint64_t expected =
            rf::kFixed1 | rf::kArithmetic | rf::kTf | rf::kDf | rf::kAc | rf::kId | (iret ? rf::kRf : 0);
        expected |= cpl == 0 ? rf::kIopl : iopl << 12;
        if (cpl <= iopl) expected |= rf::kIf;
        if (iret && cpl == 0) expected |= rf::kVif | rf::kVip;
        EXPECT_EQ(context.rflags(), expected) << "cpl " << cpl << " iopl " << iopl << " iret " << iret;
      }
}

TEST_F(FarTest, SyscallAndSysret) {
  machine.enter_long_mode(3);
  state.star = (uint64_t{0x23} << 48) | (uint64_t{0x10} << 32);
  state.lstar = 0xffffffff81000000;
  state.sfmask = rf::kIf | rf::kDf | rf::kTf;
  context.set_rflags(rf::kFixed1 | rf::kIf | rf::kDf | rf::kCf);
  uint64_t rsp = state.gpr[cpu::kRsp];
  EXPECT_NEXT(machine.run({0x0f, 0x05}), Next::kDispatch);
  EXPECT_EQ(state.rip, 0xffffffff81000000u);
  EXPECT_EQ(state.gpr[cpu::kRcx], FakeMachine::kCode + 2);
  EXPECT_EQ(state.gpr[cpu::kR11], rf::kFixed1 | rf::kIf | rf::kDf | rf::kCf);
  EXPECT_EQ(context.rflags(), rf::kFixed1 | rf::kCf);
  EXPECT_EQ(state.segment[cpu::kCs].selector, 0x10);
  EXPECT_EQ(state.segment[cpu::kCs].attributes, 0xa09b);
  EXPECT_EQ(state.segment[cpu::kSs].selector, 0x18);
  EXPECT_EQ(state.cpl(), 0u);
  EXPECT_EQ(state.gpr[cpu::kRsp], rsp);
  state.gpr[cpu::kR11] = ~uint64_t{0};
  EXPECT_NEXT(machine.run({0x48, 0x0f, 0x07}), Next::kDispatch);
  EXPECT_EQ(state.rip, FakeMachine::kCode + 2);
  EXPECT_EQ(state.segment[cpu::kCs].selector, 0x33);
  EXPECT_EQ(state.segment[cpu::kCs].attributes, 0xa0fb);
  EXPECT_EQ(state.segment[cpu::kSs].selector, 0x2b);
  EXPECT_EQ(state.cpl(), 3u);
  EXPECT_EQ(context.rflags(), (0x3c7fd7u & 0x3c7fd7) | rf::kFixed1);
  machine.enter_long_mode(0);
  state.gpr[cpu::kRcx] = 0xffff800000001234;
  EXPECT_NEXT(machine.run({0x0f, 0x07}), Next::kDispatch);  // 32-bit SYSRET
  EXPECT_EQ(state.rip, 0x1234u);
  EXPECT_EQ(state.segment[cpu::kCs].selector, 0x23);
  EXPECT_TRUE(state.segment[cpu::kCs].default_big());
  EXPECT_FALSE(state.segment[cpu::kCs].long_mode());
  machine.enter_long_mode(3);
  EXPECT_RAISES(machine.run({0x48, 0x0f, 0x07}), kGeneralProtection, 0);
  state.efer &= ~cpu::efer::kSce;
  EXPECT_UNDEFINED(machine.run({0x0f, 0x05}));
  if (context.cpu_model->intel()) {
    machine.enter_long_mode(0);
    state.gpr[cpu::kRcx] = uint64_t{1} << 47;
    EXPECT_RAISES(machine.run({0x48, 0x0f, 0x07}), kGeneralProtection, 0);
  }
}

TEST_F(FarTest, SysenterAndSysexit) {
  machine.enter_protected_mode(3);
  EXPECT_RAISES(machine.run({0x0f, 0x34}), kGeneralProtection, 0);
  state.sysenter_cs = 0x100;
  state.sysenter_esp = 0xffff800000012340;
  state.sysenter_eip = 0xffffffff81000040;
  context.set_rflags(rf::kFixed1 | rf::kIf);
  EXPECT_NEXT(machine.run({0x0f, 0x34}), Next::kDispatch);
  EXPECT_EQ(state.rip, 0x81000040u);
  EXPECT_EQ(state.gpr[cpu::kRsp], 0x12340u);
  EXPECT_EQ(state.segment[cpu::kCs].selector, 0x100);
  EXPECT_EQ(state.segment[cpu::kSs].selector, 0x108);
  EXPECT_EQ(context.rflags(), rf::kFixed1);
  state.gpr[cpu::kRdx] = 0x5000;
  state.gpr[cpu::kRcx] = 0x6000;
  EXPECT_NEXT(machine.run({0x0f, 0x35}), Next::kDispatch);
  EXPECT_EQ(state.cpl(), 3u);
  EXPECT_EQ(state.segment[cpu::kCs].selector, 0x113);
  EXPECT_EQ(state.segment[cpu::kSs].selector, 0x11b);
  EXPECT_EQ(state.gpr[cpu::kRsp], 0x6000u);
  EXPECT_RAISES(machine.run({0x0f, 0x35}), kGeneralProtection, 0);
  if (!context.cpu_model->intel()) return;
  machine.enter_long_mode(3);
  EXPECT_NEXT(machine.run({0x0f, 0x34}), Next::kDispatch);
  EXPECT_EQ(state.rip, 0xffffffff81000040u);
  EXPECT_EQ(state.gpr[cpu::kRsp], 0xffff800000012340u);
  EXPECT_TRUE(state.code64());
}

}  // namespace
}  // namespace rhea::dbt
