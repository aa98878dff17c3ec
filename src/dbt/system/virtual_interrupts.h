// SPDX-License-Identifier: Apache-2.0
// The virtual interrupt flag of virtual-8086 mode (CR4.VME) and of ring 3 (CR4.PVI). [SDM-3B 21.3, 21.4]
#pragma once

#include "dbt/system/internal.h"

namespace rhea::dbt {

// Virtual-8086 mode in which CR4.VME keeps IF from the program: VIF stands for it. [SDM-3B 21.3]
inline bool vme_active(const Context& context) {
  const cpu::CpuState& state = context.state;
  return (state.cr4 & cpu::cr4::kVme) && state.protected_mode() && state.virtual8086() &&
         (state.rflags & cpu::rflags::kIopl) != cpu::rflags::kIopl;
}
// Whether CLI and STI act on VIF: there, and at CPL 3 below IOPL 3 with CR4.PVI. [SDM-3B 21.4]
inline bool virtual_interrupt_flag(const Context& context) {
  const cpu::CpuState& state = context.state;
  if (vme_active(context)) return true;
  return (state.cr4 & cpu::cr4::kPvi) && state.protected_mode() && !state.virtual8086() && state.cpl() == 3 &&
         (state.rflags & cpu::rflags::kIopl) != cpu::rflags::kIopl;
}
// RFLAGS as a 16-bit PUSHF or INT of such a virtual-8086 program saves them: IF shows VIF, IOPL 3.
inline uint64_t flags_with_virtual_if(uint64_t flags) {
  return (flags & ~cpu::rflags::kIf) | cpu::rflags::kIopl | ((flags & cpu::rflags::kVif) ? cpu::rflags::kIf : 0);
}

// What a 16-bit POPF or IRET of such a program makes of RFLAGS; #GP(0) where the monitor must see to it.
// [SDM-2B POPF, SDM-2A IRET]
inline Fallible<uint64_t> load_virtual_flags(const Context& context, uint64_t popped) {
  namespace rf = cpu::rflags;
  const uint64_t old_flags = context.rflags();
  if ((popped & rf::kTf) || ((popped & rf::kIf) && (old_flags & rf::kVip))) return gp0();
  const uint64_t flags = merge_flags(old_flags, popped, rf::kArithmetic | rf::kDf | rf::kNt);
  return popped & rf::kIf ? flags | rf::kVif : flags & ~rf::kVif;
}

}  // namespace rhea::dbt
