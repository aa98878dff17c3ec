// SPDX-License-Identifier: Apache-2.0
#include "engine/kvm/kvm_state.h"

#include <algorithm>

namespace rhea::engine_kvm {

using cpu::CpuState;
using cpu::Segment;

namespace {

constexpr unsigned kDebugVector = 1;

kvm_segment to_segment(const Segment& segment) {
  const uint16_t a = segment.attributes;
  return {.base = segment.base,
          .limit = segment.limit,
          .selector = segment.selector,
          .type = static_cast<uint8_t>(a & 0xf),
          .present = static_cast<uint8_t>(a >> 7 & 1),
          .dpl = static_cast<uint8_t>(a >> 5 & 3),
          .db = static_cast<uint8_t>(a >> 14 & 1),
          .s = static_cast<uint8_t>(a >> 4 & 1),
          .l = static_cast<uint8_t>(a >> 13 & 1),
          .g = static_cast<uint8_t>(a >> 15 & 1),
          .avl = static_cast<uint8_t>(a >> 12 & 1),
          .unusable = !segment.usable()};
}

Segment from_segment(const kvm_segment& segment) {
  Segment result{.base = segment.base, .limit = segment.limit, .selector = segment.selector};
  const bool present = segment.present && !segment.unusable;
  result.attributes = static_cast<uint16_t>(segment.type | segment.s << 4 | segment.dpl << 5 | present << 7 |
                                            segment.avl << 12 | segment.l << 13 | segment.db << 14 | segment.g << 15);
  return result;
}

// Through the one list, in both directions.
template <class Regs, class State, class Copy>
void each_gpr(Regs& regs, State& state, Copy copy) {
  copy(regs.rax, state.gpr[cpu::kRax]);
  copy(regs.rcx, state.gpr[cpu::kRcx]);
  copy(regs.rdx, state.gpr[cpu::kRdx]);
  copy(regs.rbx, state.gpr[cpu::kRbx]);
  copy(regs.rsp, state.gpr[cpu::kRsp]);
  copy(regs.rbp, state.gpr[cpu::kRbp]);
  copy(regs.rsi, state.gpr[cpu::kRsi]);
  copy(regs.rdi, state.gpr[cpu::kRdi]);
  copy(regs.r8, state.gpr[cpu::kR8]);
  copy(regs.r9, state.gpr[cpu::kR9]);
  copy(regs.r10, state.gpr[cpu::kR10]);
  copy(regs.r11, state.gpr[cpu::kR11]);
  copy(regs.r12, state.gpr[cpu::kR12]);
  copy(regs.r13, state.gpr[cpu::kR13]);
  copy(regs.r14, state.gpr[cpu::kR14]);
  copy(regs.r15, state.gpr[cpu::kR15]);
  copy(regs.rip, state.rip);
  copy(regs.rflags, state.rflags);
}

template <class Sregs, class State, class Copy>
void each_control(Sregs& sregs, State& state, Copy copy) {
  copy(sregs.cr0, state.cr0);
  copy(sregs.cr2, state.cr2);
  copy(sregs.cr3, state.cr3);
  copy(sregs.cr4, state.cr4);
  copy(sregs.efer, state.efer);
  copy(sregs.gdt.base, state.gdtr.base);
  copy(sregs.gdt.limit, state.gdtr.limit);
  copy(sregs.idt.base, state.idtr.base);
  copy(sregs.idt.limit, state.idtr.limit);
}

struct SegmentField {
  cpu::SegmentIndex index;
  kvm_segment kvm_sregs2::* field;
};
constexpr SegmentField kSegments[] = {
    {cpu::kEs, &kvm_sregs2::es}, {cpu::kCs, &kvm_sregs2::cs},    {cpu::kSs, &kvm_sregs2::ss},
    {cpu::kDs, &kvm_sregs2::ds}, {cpu::kFs, &kvm_sregs2::fs},    {cpu::kGs, &kvm_sregs2::gs},
    {cpu::kTr, &kvm_sregs2::tr}, {cpu::kLdtr, &kvm_sregs2::ldt},
};

bool pae_paging(const CpuState& state) {
  return (state.cr0 & cpu::cr0::kPg) && (state.cr4 & cpu::cr4::kPae) && !state.long_mode_active();
}

}  // namespace

kvm_regs to_regs(const CpuState& state) {
  kvm_regs regs{};
  each_gpr(regs, state, [](auto& kvm, const auto& ours) { kvm = ours; });
  return regs;
}

void from_regs(const kvm_regs& regs, CpuState& state) {
  each_gpr(regs, state, [](const auto& kvm, auto& ours) { ours = kvm; });
}

kvm_sregs2 to_sregs(const CpuState& state, uint64_t apic_base, uint8_t cr8) {
  kvm_sregs2 sregs{};
  each_control(sregs, state, [](auto& kvm, const auto& ours) { kvm = ours; });
  for (const SegmentField& segment : kSegments) sregs.*segment.field = to_segment(state.segment[segment.index]);
  sregs.apic_base = apic_base;
  sregs.cr8 = cr8;
  const bool known = std::ranges::any_of(state.pdpte, [](uint64_t entry) { return entry != 0; });
  if (pae_paging(state) && known) {
    std::ranges::copy(state.pdpte, sregs.pdptrs);
    sregs.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
  }
  return sregs;
}

void from_sregs(const kvm_sregs2& sregs, CpuState& state) {
  each_control(sregs, state, [](const auto& kvm, auto& ours) { ours = kvm; });
  for (const SegmentField& segment : kSegments) state.segment[segment.index] = from_segment(sregs.*segment.field);
  state.pdpte = {};
  if (sregs.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID) std::ranges::copy(sregs.pdptrs, state.pdpte.begin());
}

kvm_debugregs to_debugregs(const CpuState& state) {
  kvm_debugregs regs{.dr6 = state.dr[6], .dr7 = state.dr[7]};
  std::copy_n(state.dr.begin(), 4, regs.db);
  return regs;
}

void from_debugregs(const kvm_debugregs& regs, CpuState& state) {
  state.dr = {};
  std::copy_n(regs.db, 4, state.dr.begin());
  state.dr[6] = regs.dr6;
  state.dr[7] = regs.dr7;
}

kvm_vcpu_events to_events(const CpuState& state) {
  kvm_vcpu_events events{};
  events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
  if (state.debug_pending) {
    events.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
    events.exception.nr = kDebugVector;
    events.exception.pending = 1;
    events.exception_has_payload = 1;
    events.exception_payload = state.debug_pending;
  }
  if (state.interrupt_taken & CpuState::kInterruptTaken) {
    events.interrupt.injected = 1;
    events.interrupt.nr = static_cast<uint8_t>(state.interrupt_taken);
  }
  if (state.sti_shadow) events.interrupt.shadow |= KVM_X86_SHADOW_INT_STI;
  if (state.mov_ss_shadow) events.interrupt.shadow |= KVM_X86_SHADOW_INT_MOV_SS;
  events.nmi.masked = state.nmi_blocked;
  events.nmi.pending = state.nmi_pending;
  return events;
}

void from_events(const kvm_vcpu_events& events, CpuState& state) {
  state.debug_pending = 0;
  if ((events.exception.pending || events.exception.injected) && events.exception.nr == kDebugVector &&
      (events.flags & KVM_VCPUEVENT_VALID_PAYLOAD) && events.exception_has_payload)
    state.debug_pending = static_cast<uint32_t>(events.exception_payload);
  state.interrupt_taken = 0;
  if (events.interrupt.injected && !events.interrupt.soft)
    state.interrupt_taken = CpuState::kInterruptTaken | events.interrupt.nr;
  state.sti_shadow = events.interrupt.shadow & KVM_X86_SHADOW_INT_STI;
  state.mov_ss_shadow = events.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS;
  state.nmi_pending = events.nmi.pending || events.nmi.injected;
  // An NMI on its way in blocks others only once it has been delivered, which will happen anew.
  state.nmi_blocked = events.nmi.masked && !events.nmi.injected;
}

namespace {

#define RHEA_MSR(index, name)                                      \
  MsrField {                                                       \
    index, [](CpuState& state) -> uint64_t& { return state.name; } \
  }

// [SDM-4 2] [kvm-msr]. TSC_ADJUST stands after the TSC's offset has been set: see the vCPU.
constexpr MsrField kMsrFields[] = {
    RHEA_MSR(0xc0000081, star),
    RHEA_MSR(0xc0000082, lstar),
    RHEA_MSR(0xc0000083, cstar),
    RHEA_MSR(0xc0000084, sfmask),
    RHEA_MSR(0xc0000102, kernel_gs_base),
    RHEA_MSR(0xc0000103, tsc_aux),
    RHEA_MSR(0x174, sysenter_cs),
    RHEA_MSR(0x175, sysenter_esp),
    RHEA_MSR(0x176, sysenter_eip),
    RHEA_MSR(0x3b, tsc_adjust),
    RHEA_MSR(0x48, spec_ctrl),
    RHEA_MSR(0x8b, bios_sign_id),
    RHEA_MSR(0x17a, mcg_status),
    RHEA_MSR(0x1a0, misc_enable),
    RHEA_MSR(0x277, pat),
    RHEA_MSR(0x2ff, mtrr_def_type),
    RHEA_MSR(0x250, mtrr_fixed[0]),
    RHEA_MSR(0x258, mtrr_fixed[1]),
    RHEA_MSR(0x259, mtrr_fixed[2]),
    RHEA_MSR(0x268, mtrr_fixed[3]),
    RHEA_MSR(0x269, mtrr_fixed[4]),
    RHEA_MSR(0x26a, mtrr_fixed[5]),
    RHEA_MSR(0x26b, mtrr_fixed[6]),
    RHEA_MSR(0x26c, mtrr_fixed[7]),
    RHEA_MSR(0x26d, mtrr_fixed[8]),
    RHEA_MSR(0x26e, mtrr_fixed[9]),
    RHEA_MSR(0x26f, mtrr_fixed[10]),
    RHEA_MSR(0x200, mtrr_base[0]),
    RHEA_MSR(0x201, mtrr_mask[0]),
    RHEA_MSR(0x202, mtrr_base[1]),
    RHEA_MSR(0x203, mtrr_mask[1]),
    RHEA_MSR(0x204, mtrr_base[2]),
    RHEA_MSR(0x205, mtrr_mask[2]),
    RHEA_MSR(0x206, mtrr_base[3]),
    RHEA_MSR(0x207, mtrr_mask[3]),
    RHEA_MSR(0x208, mtrr_base[4]),
    RHEA_MSR(0x209, mtrr_mask[4]),
    RHEA_MSR(0x20a, mtrr_base[5]),
    RHEA_MSR(0x20b, mtrr_mask[5]),
    RHEA_MSR(0x20c, mtrr_base[6]),
    RHEA_MSR(0x20d, mtrr_mask[6]),
    RHEA_MSR(0x20e, mtrr_base[7]),
    RHEA_MSR(0x20f, mtrr_mask[7]),
    RHEA_MSR(0xda0, xss),
    RHEA_MSR(0x4b564d01, kvm_system_time),
    RHEA_MSR(0x4b564d00, kvm_wall_clock),
    RHEA_MSR(0x4b564d02, kvm_async_pf),
    RHEA_MSR(0x4b564d03, kvm_steal_time),
    RHEA_MSR(0x4b564d04, kvm_pv_eoi),
    RHEA_MSR(0x4b564d05, kvm_poll_control),
};

#undef RHEA_MSR

}  // namespace

std::span<const MsrField> msr_fields() { return kMsrFields; }

}  // namespace rhea::engine_kvm
