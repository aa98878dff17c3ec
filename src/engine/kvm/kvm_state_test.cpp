// SPDX-License-Identifier: Apache-2.0
// Conversions between the engine-neutral state and KVM's structures: what goes out comes back.
#include "engine/kvm/kvm_state.h"

#include <gtest/gtest.h>

#include <set>

namespace rhea::engine_kvm {
namespace {

using cpu::CpuState;

CpuState some_state() {
  CpuState s;
  for (unsigned i = 0; i < 16; ++i) s.gpr[i] = 0x0101010101010101 * (i + 1);
  s.rip = 0xffffffff81000123;
  s.rflags = 0x246;
  for (unsigned i = 0; i < cpu::kSegmentCount; ++i)
    s.segment[i] = {.base = 0x1000u * i,
                    .limit = 0xfffff000 + i,
                    .selector = static_cast<uint16_t>(8 * i),
                    .attributes = static_cast<uint16_t>(0x8093 | i << 12)};
  s.segment[cpu::kLdtr] = {.base = 5, .limit = 7, .selector = 0, .attributes = 0x02};  // not present
  s.gdtr = {.base = 0xfffffe0000001000, .limit = 0x7f};
  s.idtr = {.base = 0xfffffe0000000000, .limit = 0xfff};
  s.cr0 = 0x80050033;
  s.cr2 = 0x1234;
  s.cr3 = 0x2000;
  s.cr4 = 0x6b0;
  s.efer = 0xd01;
  s.dr = {1, 2, 3, 4, 0, 0, 0xffff0ff1, 0x403};
  return s;
}

TEST(KvmState, RegistersComeBack) {
  const CpuState before = some_state();
  CpuState after;
  from_regs(to_regs(before), after);
  EXPECT_EQ(after.gpr, before.gpr);
  EXPECT_EQ(after.rip, before.rip);
  EXPECT_EQ(after.rflags, before.rflags);
}

TEST(KvmState, EachGeneralRegisterHasItsOwnPlace) {
  for (unsigned i = 0; i < 16; ++i) {
    CpuState one, after;
    one.gpr[i] = 77;
    from_regs(to_regs(one), after);
    EXPECT_EQ(after.gpr, one.gpr) << i;
  }
  CpuState s;
  s.gpr[cpu::kRsi] = 1;
  s.gpr[cpu::kR15] = 2;
  EXPECT_EQ(to_regs(s).rsi, 1u);
  EXPECT_EQ(to_regs(s).r15, 2u);
}

TEST(KvmState, SystemRegistersComeBack) {
  const CpuState before = some_state();
  CpuState after;
  const kvm_sregs2 sregs = to_sregs(before, 0xfee00900, 5);
  EXPECT_EQ(sregs.apic_base, 0xfee00900u);
  EXPECT_EQ(sregs.cr8, 5u);
  EXPECT_TRUE(sregs.ldt.unusable);
  from_sregs(sregs, after);
  EXPECT_EQ(after.segment, before.segment);
  EXPECT_EQ(after.gdtr, before.gdtr);
  EXPECT_EQ(after.idtr, before.idtr);
  EXPECT_EQ(after.cr0, before.cr0);
  EXPECT_EQ(after.cr3, before.cr3);
  EXPECT_EQ(after.cr4, before.cr4);
  EXPECT_EQ(after.efer, before.efer);
}

TEST(KvmState, DirectoryPointersGoOnlyWherePaeUsesThem) {
  CpuState s = some_state();
  s.pdpte = {0x1001, 0x2001, 0, 0};
  EXPECT_FALSE(to_sregs(s, 0, 0).flags & KVM_SREGS2_FLAGS_PDPTRS_VALID);  // long mode
  s.efer = 0;
  const kvm_sregs2 sregs = to_sregs(s, 0, 0);
  EXPECT_TRUE(sregs.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID);
  CpuState after;
  from_sregs(sregs, after);
  EXPECT_EQ(after.pdpte, s.pdpte);
  s.pdpte = {};  // not known: memory has them
  EXPECT_FALSE(to_sregs(s, 0, 0).flags & KVM_SREGS2_FLAGS_PDPTRS_VALID);
}

TEST(KvmState, DebugRegistersComeBack) {
  const CpuState before = some_state();
  CpuState after;
  from_debugregs(to_debugregs(before), after);
  EXPECT_EQ(after.dr, before.dr);
}

TEST(KvmState, PendingEventsComeBack) {
  CpuState s;
  s.sti_shadow = s.nmi_blocked = s.nmi_pending = true;
  s.interrupt_taken = CpuState::kInterruptTaken | 0x51;
  s.debug_pending = 0x4001;
  CpuState after;
  from_events(to_events(s), after);
  EXPECT_TRUE(after.sti_shadow);
  EXPECT_FALSE(after.mov_ss_shadow);
  EXPECT_TRUE(after.nmi_blocked);
  EXPECT_TRUE(after.nmi_pending);
  EXPECT_EQ(after.interrupt_taken, s.interrupt_taken);
  EXPECT_EQ(after.debug_pending, s.debug_pending);
}

TEST(KvmState, AnExceptionOnItsWayStartsOver) {
  kvm_vcpu_events events{};
  events.exception.injected = 1;
  events.exception.nr = 14;
  events.exception.has_error_code = 1;
  events.interrupt.injected = events.interrupt.soft = 1;  // INT n: executed anew
  events.interrupt.nr = 0x80;
  CpuState s;
  s.debug_pending = 1;
  s.interrupt_taken = CpuState::kInterruptTaken | 0x20;
  from_events(events, s);
  EXPECT_EQ(s.debug_pending, 0u);
  EXPECT_EQ(s.interrupt_taken, 0u);
}

TEST(KvmState, AnNmiOnItsWayComesAgainAndDoesNotBlockItself) {
  kvm_vcpu_events events{};
  events.nmi.injected = events.nmi.masked = 1;
  CpuState s;
  from_events(events, s);
  EXPECT_TRUE(s.nmi_pending);
  EXPECT_FALSE(s.nmi_blocked);
}

TEST(KvmState, MsrsAndFieldsAreOneToOne) {
  CpuState s;
  std::set<uint32_t> indices;
  std::set<const uint64_t*> fields;
  for (const MsrField& field : msr_fields()) {
    indices.insert(field.index);
    fields.insert(&field.field(s));
  }
  EXPECT_EQ(indices.size(), msr_fields().size());
  EXPECT_EQ(fields.size(), msr_fields().size());
}

}  // namespace
}  // namespace rhea::engine_kvm
