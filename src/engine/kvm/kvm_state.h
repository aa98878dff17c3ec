// SPDX-License-Identifier: Apache-2.0
// Between the engine-neutral state of a processor and KVM's structures. Pure functions. [kvm-api 4]
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <span>

#include "cpu/cpu_state.h"

namespace rhea::engine_kvm {

kvm_regs to_regs(const cpu::CpuState& state);
void from_regs(const kvm_regs& regs, cpu::CpuState& state);

// The APIC base and CR8 are the local APIC's and come from the caller.
kvm_sregs2 to_sregs(const cpu::CpuState& state, uint64_t apic_base, uint8_t cr8);
void from_sregs(const kvm_sregs2& sregs, cpu::CpuState& state);

kvm_debugregs to_debugregs(const cpu::CpuState& state);
void from_debugregs(const kvm_debugregs& regs, cpu::CpuState& state);

// What a guest's next instruction boundary has to attend to.
//
// From KVM: an exception whose delivery had begun is forgotten, since its instruction starts over and raises it again;
// a debug trap becomes debug_pending; an interrupt whose vector was taken from the controllers already becomes
// interrupt_taken; an NMI becomes nmi_pending.
kvm_vcpu_events to_events(const cpu::CpuState& state);
void from_events(const kvm_vcpu_events& events, cpu::CpuState& state);

// Model-specific registers that the state has a field for.
struct MsrField {
  uint32_t index;
  uint64_t& (*field)(cpu::CpuState& state);
};
std::span<const MsrField> msr_fields();

}  // namespace rhea::engine_kvm
