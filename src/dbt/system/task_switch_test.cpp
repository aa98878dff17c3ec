// SPDX-License-Identifier: Apache-2.0
// Hardware task switching: what is saved and loaded, busy bits, links, and whose context an error is in.
#include <gtest/gtest.h>

#include "dbt/system/expect.h"
#include "dbt/system/machine_fake.h"
#include "dbt/system/task_switch.h"

namespace rhea::dbt {
namespace {

namespace rf = cpu::rflags;

constexpr uint16_t kNewSelector = 0xa0, kLdtSelector = 0xa8, kGateSelector = 0xb0, kSegmentSelector = 0xb8;
constexpr uint64_t kNewTss = 0x4000, kNewStack = 0x55000, kNewEip = 0x21000;
constexpr unsigned kAvailable32 = 0x89, kAvailable16 = 0x81;

class TaskSwitchTest : public ::testing::Test {
 protected:
  TaskSwitchTest() {
    machine.enter_protected_mode(0);
    machine.set_gdt(FakeMachine::kTssSelector, FakeMachine::descriptor(FakeMachine::kTss, 0x2fff, 0x8b, 0));
    for (unsigned i = 0; i < 8; ++i) state.gpr[i] = 0x11110000 + i;
    state.gpr[cpu::kRsp] = FakeMachine::kStack[0] - 0x100;
    old_rsp = state.gpr[cpu::kRsp];
    state.dr[7] = 0x7ff;
    new_task32();
  }
  void new_task32(unsigned cpl = 0) {
    machine.set_gdt(kNewSelector, FakeMachine::descriptor(kNewTss, 0x67, kAvailable32, 0));
    for (unsigned i = 0; i < 0x68; i += 4) put(i, 0, 4);
    put(0x20, kNewEip, 4);
    put(0x24, rf::kFixed1 | rf::kIf | rf::kCf, 4);
    for (unsigned i = 0; i < 8; ++i) put(0x28 + 4 * i, 0x22220000 + i, 4);
    put(0x38, kNewStack, 4);
    for (unsigned i = 0; i < 6; ++i) put(0x48 + 4 * i, FakeMachine::data(cpl), 2);
    put(0x4c, FakeMachine::code32(cpl), 2);
  }
  void put(unsigned offset, uint64_t value, unsigned size) { machine.write(kNewTss + offset, value, size); }
  uint64_t saved(unsigned offset, unsigned size) { return machine.read(FakeMachine::kTss + offset, size); }
  uint64_t link() { return machine.read(kNewTss, 2); }
  bool busy(uint16_t selector) { return machine.read(FakeMachine::kGdt + (selector & 0xfff8) + 5, 1) & 2; }
  Fallible<Next> jump(uint16_t selector = kNewSelector) {
    return machine.run({0xea, 0, 0, 0, 0, uint8_t(selector), uint8_t(selector >> 8)});
  }
  Fallible<Next> call(uint16_t selector = kNewSelector) {
    return machine.run({0x9a, 0, 0, 0, 0, uint8_t(selector), uint8_t(selector >> 8)});
  }
  void task_gate(uint64_t where, uint16_t tss, unsigned access = 0x85) {
    machine.write(where, uint64_t{tss} << 16 | uint64_t{access} << 40, 8);
  }
  // The switch happened, but the new task begins with this exception.
  void expect_in_new_task(Fallible<Next> result, uint8_t vector, uint32_t error) {
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(unsigned{result.error().vector}, unsigned{vector});
    EXPECT_EQ(result.error().error_code, error);
    EXPECT_EQ(state.segment[cpu::kTr].selector, kNewSelector);
    EXPECT_EQ(state.rip, kNewEip);
    EXPECT_EQ(state.gpr[cpu::kRax], 0x22220000u);
    EXPECT_TRUE(busy(kNewSelector));
  }
  void expect_in_old_task(Fallible<Next> result, uint8_t vector, uint32_t error) {
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(unsigned{result.error().vector}, unsigned{vector});
    EXPECT_EQ(result.error().error_code, error);
    EXPECT_EQ(state.segment[cpu::kTr].selector, FakeMachine::kTssSelector);
    EXPECT_EQ(state.rip, FakeMachine::kCode);
    EXPECT_EQ(state.gpr[cpu::kRax], 0x11110000u);
    EXPECT_TRUE(busy(FakeMachine::kTssSelector));
  }

  FakeMachine machine;
  cpu::CpuState& state = machine.state;
  Context& context = machine.context;
  uint64_t old_rsp = 0;
};

TEST_F(TaskSwitchTest, JumpSavesLoadsAndMovesTheBusyBit) {
  context.set_rflags(rf::kFixed1 | rf::kZf | rf::kNt);
  EXPECT_NEXT(jump(), Next::kDispatch);
  EXPECT_EQ(saved(0x20, 4), FakeMachine::kCode + 7);
  EXPECT_EQ(saved(0x24, 4), rf::kFixed1 | rf::kZf | rf::kNt);
  EXPECT_EQ(saved(0x28, 4), 0x11110000u);
  EXPECT_EQ(saved(0x38, 4), old_rsp);
  EXPECT_EQ(saved(0x44, 4), 0x11110007u);
  EXPECT_EQ(saved(0x48, 2), FakeMachine::data(0));
  EXPECT_EQ(saved(0x4c, 2), FakeMachine::code32(0));
  EXPECT_EQ(saved(0x60, 2), 0u) << "LDTR is not saved";
  EXPECT_FALSE(busy(FakeMachine::kTssSelector));
  EXPECT_TRUE(busy(kNewSelector));
  EXPECT_EQ(link(), 0u);
  EXPECT_EQ(state.rip, kNewEip);
  EXPECT_EQ(context.rflags(), rf::kFixed1 | rf::kIf | rf::kCf);
  for (unsigned i = 0; i < 8; ++i) EXPECT_EQ(state.gpr[i], i == cpu::kRsp ? kNewStack : 0x22220000u + i);
  EXPECT_EQ(state.segment[cpu::kTr].selector, kNewSelector);
  EXPECT_EQ(state.segment[cpu::kTr].base, kNewTss);
  EXPECT_EQ(state.segment[cpu::kTr].type(), unsigned{kTss32Busy});
  EXPECT_FALSE(state.segment[cpu::kLdtr].usable());
  EXPECT_TRUE(state.cr0 & cpu::cr0::kTs);
  EXPECT_EQ(state.dr[7], 0x7ffu & ~0x155u);
  EXPECT_EQ(state.debug_pending, 0u);
}

TEST_F(TaskSwitchTest, CallNestsAndReturnComesBack) {
  EXPECT_NEXT(call(), Next::kDispatch);
  EXPECT_TRUE(busy(FakeMachine::kTssSelector) && busy(kNewSelector));
  EXPECT_EQ(link(), FakeMachine::kTssSelector);
  EXPECT_TRUE(context.rflags() & rf::kNt);
  state.gpr[cpu::kRbx] = 0x33330003;
  EXPECT_NEXT(machine.run({0xcf}), Next::kDispatch);
  EXPECT_EQ(state.segment[cpu::kTr].selector, FakeMachine::kTssSelector);
  EXPECT_EQ(state.rip, FakeMachine::kCode + 7);
  EXPECT_EQ(state.gpr[cpu::kRsp], old_rsp);
  EXPECT_EQ(state.gpr[cpu::kRbx], 0x11110003u);
  EXPECT_FALSE(busy(kNewSelector));
  EXPECT_TRUE(busy(FakeMachine::kTssSelector));
  EXPECT_EQ(machine.read(kNewTss + 0x20, 4), kNewEip + 1);
  EXPECT_EQ(machine.read(kNewTss + 0x34, 4), 0x33330003u);
  EXPECT_FALSE(machine.read(kNewTss + 0x24, 4) & rf::kNt);
}

TEST_F(TaskSwitchTest, ReturnChecksTheLink) {
  context.set_rflags(rf::kFixed1 | rf::kNt);
  auto iret = [&](uint16_t selector) {
    machine.write(FakeMachine::kTss, selector, 2);
    return machine.run({0xcf});
  };
  expect_in_old_task(iret(kNewSelector), kInvalidTss, kNewSelector);  // not busy
  expect_in_old_task(iret(0), kInvalidTss, 0);
  expect_in_old_task(iret(kNewSelector | 4), kInvalidTss, kNewSelector | 4);
  expect_in_old_task(iret(0x1000), kInvalidTss, 0x1000);
  expect_in_old_task(iret(FakeMachine::data(0)), kInvalidTss, FakeMachine::data(0));
  machine.set_gdt(kNewSelector, FakeMachine::descriptor(kNewTss, 0x67, 0x0b, 0));
  expect_in_old_task(iret(kNewSelector), kSegmentNotPresent, kNewSelector);
  machine.set_gdt(kNewSelector, FakeMachine::descriptor(kNewTss, 0x67, 0x8b, 0));
  EXPECT_NEXT(iret(kNewSelector), Next::kDispatch);
  EXPECT_FALSE(busy(FakeMachine::kTssSelector));
}

// The link may name the very task that returns: it goes on behind its IRET, NT clear.
TEST_F(TaskSwitchTest, ReturnToItself) {
  context.set_rflags(rf::kFixed1 | rf::kNt | rf::kCf);
  machine.write(FakeMachine::kTss, FakeMachine::kTssSelector, 2);
  EXPECT_NEXT(machine.run({0xcf}), Next::kDispatch);
  EXPECT_EQ(state.rip, FakeMachine::kCode + 1);
  EXPECT_EQ(context.rflags(), rf::kFixed1 | rf::kCf);
  EXPECT_EQ(state.gpr[cpu::kRsp], old_rsp);
}

TEST_F(TaskSwitchTest, ErrorsBeforeTheSwitch) {
  expect_in_old_task(jump(FakeMachine::kTssSelector), kGeneralProtection, FakeMachine::kTssSelector);  // busy
  machine.set_gdt(kNewSelector, FakeMachine::descriptor(kNewTss, 0x67, 0x09, 0));
  expect_in_old_task(jump(), kSegmentNotPresent, kNewSelector);
  machine.set_gdt(kNewSelector, FakeMachine::descriptor(kNewTss, 0x66, kAvailable32, 0));
  expect_in_old_task(call(), kInvalidTss, kNewSelector);
  machine.set_gdt(kNewSelector, FakeMachine::descriptor(kNewTss, 0x2a, kAvailable16, 0));
  expect_in_old_task(jump(), kInvalidTss, kNewSelector);
  new_task32();
  state.segment[cpu::kTr].limit = 0x66;
  expect_in_old_task(jump(), kInvalidTss, FakeMachine::kTssSelector);
  EXPECT_FALSE(busy(kNewSelector));
  state.segment[cpu::kTr].limit = 0x67;
  EXPECT_NEXT(jump(), Next::kDispatch);
}

TEST_F(TaskSwitchTest, PrivilegeOfTssAndGate) {
  for (unsigned cpl = 0; cpl < 4; ++cpl)
    for (unsigned rpl = 0; rpl < 4; ++rpl)
      for (unsigned dpl = 0; dpl < 4; ++dpl)
        for (bool gate : {false, true}) {
          machine.enter_protected_mode(cpl);
          machine.set_gdt(FakeMachine::kTssSelector, FakeMachine::descriptor(FakeMachine::kTss, 0x2fff, 0x8b, 0));
          new_task32();
          uint16_t selector = gate ? kGateSelector : kNewSelector;
          machine.set_gdt(kNewSelector,
                          FakeMachine::descriptor(kNewTss, 0x67, kAvailable32 | (gate ? 0 : dpl << 5), 0));
          task_gate(FakeMachine::kGdt + kGateSelector, kNewSelector, 0x85 | dpl << 5);
          auto result = jump(uint16_t(selector | rpl));
          EXPECT_EQ(result.has_value(), dpl >= cpl && dpl >= rpl) << cpl << rpl << dpl << gate;
          if (!result) EXPECT_EQ(result.error().error_code, selector);
        }
}

TEST_F(TaskSwitchTest, GatesNameTheGateOrTheTss) {
  task_gate(FakeMachine::kGdt + kGateSelector, kNewSelector, 0x05);
  expect_in_old_task(call(kGateSelector), kSegmentNotPresent, kGateSelector);
  task_gate(FakeMachine::kGdt + kGateSelector, kNewSelector | 4);
  expect_in_old_task(call(kGateSelector), kGeneralProtection, kNewSelector | 4);
  task_gate(FakeMachine::kGdt + kGateSelector, FakeMachine::kTssSelector);
  expect_in_old_task(call(kGateSelector), kGeneralProtection, FakeMachine::kTssSelector);
  task_gate(FakeMachine::kGdt + kGateSelector, FakeMachine::code32(0));
  expect_in_old_task(call(kGateSelector), kGeneralProtection, FakeMachine::code32(0));
  task_gate(FakeMachine::kGdt + kGateSelector, kNewSelector);
  EXPECT_NEXT(call(kGateSelector), Next::kDispatch);
}

TEST_F(TaskSwitchTest, EventsPushTheirErrorCodeOnTheNewStack) {
  task_gate(FakeMachine::kIdt + 13 * 8, kNewSelector);
  EXPECT_EQ(deliver_exception(context, {.vector = 13, .has_error_code = true, .error_code = 0x1234}), Next::kDispatch);
  EXPECT_EQ(state.rip, kNewEip);
  EXPECT_EQ(saved(0x20, 4), FakeMachine::kCode);
  EXPECT_TRUE(saved(0x24, 4) & rf::kRf) << "a fault";
  EXPECT_EQ(link(), FakeMachine::kTssSelector);
  EXPECT_TRUE(context.rflags() & rf::kNt);
  EXPECT_EQ(state.gpr[cpu::kRsp], kNewStack - 4);
  EXPECT_EQ(machine.read(kNewStack - 4, 4), 0x1234u);
  // The same gate again while its task is busy: #GP for the TSS with EXT, through the same gate: #DF, likewise:
  // shutdown.
  EXPECT_EQ(deliver_exception(context, {.vector = 13, .has_error_code = true, .error_code = 0}), Next::kShutdown);
}

TEST_F(TaskSwitchTest, SoftwareInterruptsSaveTheNextInstruction) {
  task_gate(FakeMachine::kIdt + 0x80 * 8, kNewSelector);
  EXPECT_NEXT(machine.run({0xcd, 0x80}), Next::kDispatch);
  EXPECT_EQ(saved(0x20, 4), FakeMachine::kCode + 2);
  EXPECT_EQ(state.gpr[cpu::kRsp], kNewStack);
}

TEST_F(TaskSwitchTest, SixteenBitTss) {
  machine.set_gdt(kNewSelector, FakeMachine::descriptor(kNewTss, 0x2b, kAvailable16, 0));
  for (unsigned i = 0; i < 0x2c; i += 2) put(i, 0, 2);
  put(0x0e, 0x1000, 2);
  put(0x10, rf::kFixed1 | rf::kCf, 2);
  for (unsigned i = 0; i < 8; ++i) put(0x12 + 2 * i, 0x5550 + i, 2);
  for (unsigned i = 0; i < 4; ++i) put(0x22 + 2 * i, FakeMachine::data(0), 2);
  put(0x24, FakeMachine::code32(0), 2);
  state.gpr[cpu::kRcx] = 0xabcdef01;
  EXPECT_NEXT(call(), Next::kDispatch);
  EXPECT_EQ(state.rip, 0x1000u);
  EXPECT_EQ(state.gpr[cpu::kRdi], 0xffff5557u);
  EXPECT_FALSE(state.segment[cpu::kFs].usable());
  EXPECT_EQ(state.segment[cpu::kTr].type(), unsigned{kTss16Busy});
  EXPECT_EQ(link(), FakeMachine::kTssSelector);
  EXPECT_EQ(context.rflags(), rf::kFixed1 | rf::kCf | rf::kNt);
  EXPECT_NEXT(machine.run({0xcf}), Next::kDispatch);
  EXPECT_EQ(machine.read(kNewTss + 0x0e, 2), 0x1001u);
  EXPECT_EQ(machine.read(kNewTss + 0x2a, 2), 0u) << "nothing is written past the segments";
  EXPECT_EQ(state.gpr[cpu::kRcx], 0xabcdef01u);
}

TEST_F(TaskSwitchTest, SegmentsOfTheNewTask) {
  machine.set_gdt(kLdtSelector, FakeMachine::descriptor(FakeMachine::kLdt, 0xff, 0x82, 0));
  struct Case {
    unsigned offset;
    uint16_t selector;
    unsigned access;  // of kSegmentSelector
    uint8_t vector;
  };
  const Case kCases[] = {
      {0x60, kLdtSelector | 4, 0, kInvalidTss},
      {0x60, FakeMachine::data(0), 0, kInvalidTss},
      {0x60, 0x1000, 0, kInvalidTss},
      {0x60, kSegmentSelector, 0x02, kInvalidTss},
      {0x4c, 0, 0, kInvalidTss},
      {0x4c, FakeMachine::data(0), 0, kInvalidTss},
      {0x4c, 0x1000, 0, kInvalidTss},
      {0x4c, kSegmentSelector, 0xfb, kInvalidTss},
      {0x4c, kSegmentSelector, 0x1b, kSegmentNotPresent},
      {0x4c, kSegmentSelector, 0xff, kInvalidTss},
      {0x50, 0, 0, kInvalidTss},
      {0x50, FakeMachine::code32(0), 0, kInvalidTss},
      {0x50, kSegmentSelector, 0x91, kInvalidTss},
      {0x50, kSegmentSelector, 0x13, kStackFault},
      {0x50, FakeMachine::data(0) | 1, 0, kInvalidTss},
      {0x50, kSegmentSelector, 0xf3, kInvalidTss},
      {0x54, kSegmentSelector, 0x99, kInvalidTss},
      {0x54, kSegmentSelector, 0x13, kSegmentNotPresent},
      {0x48, FakeMachine::kTssSelector, 0, kInvalidTss},
      {0x58, FakeMachine::data(0) | 3, 0, kInvalidTss},
      {0x5c, 0x1000, 0, kInvalidTss},
  };
  for (const Case& c : kCases) {
    SCOPED_TRACE(::testing::Message() << std::hex << c.offset << " " << c.selector << " " << c.access);
    machine.enter_protected_mode(0);
    machine.set_gdt(FakeMachine::kTssSelector, FakeMachine::descriptor(FakeMachine::kTss, 0x2fff, 0x8b, 0));
    new_task32();
    if (c.access) machine.set_gdt(kSegmentSelector, FakeMachine::descriptor(0, 0xfffff, c.access, 0xc));
    put(c.offset, c.selector, 2);
    expect_in_new_task(jump(), c.vector, c.selector & 0xfffc);
  }
  // And what is fine.
  machine.enter_protected_mode(0);
  machine.set_gdt(FakeMachine::kTssSelector, FakeMachine::descriptor(FakeMachine::kTss, 0x2fff, 0x8b, 0));
  new_task32(3);
  put(0x60, kLdtSelector, 2);
  put(0x48, 0, 2);
  EXPECT_NEXT(jump(), Next::kDispatch);
  EXPECT_EQ(state.cpl(), 3u);
  EXPECT_EQ(state.segment[cpu::kLdtr].base, FakeMachine::kLdt);
  EXPECT_FALSE(state.segment[cpu::kEs].usable());
}

TEST_F(TaskSwitchTest, Virtual8086Task) {
  put(0x24, rf::kFixed1 | rf::kVm | rf::kIopl, 4);
  put(0x20, 0x100, 4);
  for (unsigned i = 0; i < 6; ++i) put(0x48 + 4 * i, 0x1000 + i, 2);
  EXPECT_NEXT(jump(), Next::kDispatch);
  EXPECT_TRUE(state.virtual8086());
  EXPECT_EQ(state.cpl(), 3u);
  for (unsigned i = 0; i < 6; ++i) EXPECT_EQ(state.segment[i].base, (0x1000u + i) << 4);
}

TEST_F(TaskSwitchTest, TrapBitIsReportedWithTheNewTask) {
  put(0x64, 1, 2);
  EXPECT_NEXT(jump(), Next::kDispatch);
  EXPECT_EQ(state.debug_pending, kDr6TaskSwitch);
}

TEST_F(TaskSwitchTest, PaeLoadsThePointers) {
  state.cr0 |= cpu::cr0::kPg;
  state.cr4 |= cpu::cr4::kPae;
  constexpr uint64_t kPointers = 0x80000, kDirectory = 0x81000, kOtherPointers = 0x80040;
  for (unsigned i = 0; i < 8; ++i) machine.write(kDirectory + 8 * i, uint64_t{i} << 21 | 0xe3, 8);
  machine.write(kPointers, kDirectory | 1, 8);
  machine.write(kOtherPointers, kDirectory | 1, 8);
  state.cr3 = kPointers;
  state.pdpte = {kDirectory | 1};
  put(0x1c, kOtherPointers, 4);
  machine.write(kOtherPointers + 8, 1 | 1 << 5, 8);  // reserved bit
  expect_in_old_task(jump(), kGeneralProtection, 0);
  EXPECT_FALSE(busy(kNewSelector));
  machine.write(kOtherPointers + 8, kDirectory | 1, 8);
  machine.flushes.clear();
  EXPECT_NEXT(jump(), Next::kDispatch);
  EXPECT_EQ(state.cr3, kOtherPointers);
  EXPECT_EQ(state.pdpte[1], kDirectory | 1);
  EXPECT_EQ(machine.flushes.size(), 1u);
}

// The busy bit is taken as one step: a descriptor that changed meanwhile is read again.
TEST_F(TaskSwitchTest, ADescriptorThatChangedIsNotReplaced) {
  auto descriptor = read_descriptor(context, kNewSelector);
  ASSERT_TRUE(descriptor.has_value());
  machine.set_gdt(kNewSelector, FakeMachine::descriptor(kNewTss, 0x67, 0x8b, 0));  // another processor took it
  auto replaced = replace_descriptor_type(context, *descriptor, kTss32Busy);
  ASSERT_TRUE(replaced.has_value());
  EXPECT_FALSE(*replaced);
  descriptor = read_descriptor(context, kNewSelector);
  replaced = replace_descriptor_type(context, *descriptor, kTss32Available);
  EXPECT_TRUE(replaced.has_value() && *replaced);
  EXPECT_FALSE(busy(kNewSelector));
}

}  // namespace
}  // namespace rhea::dbt
