// SPDX-License-Identifier: Apache-2.0
// SYSCALL, SYSRET, SYSENTER and SYSEXIT. [SDM-2B SYSCALL, SYSRET, SYSENTER, SYSEXIT] [APM-3]
#include "dbt/system/internal.h"

namespace rhea::dbt {

namespace rf = cpu::rflags;

namespace {

void set_flat(Context& context, uint16_t code_selector, uint16_t stack_selector, unsigned cpl, bool long_mode) {
  auto rpl = static_cast<uint16_t>(cpl);
  auto code = static_cast<uint16_t>((code_selector & 0xfffc) | rpl);
  auto stack = static_cast<uint16_t>((stack_selector & 0xfffc) | rpl);
  context.state.segment[cpu::kCs] = flat_code_segment(code, cpl, long_mode);
  context.state.segment[cpu::kSs] = flat_data_segment(stack, cpl);
}

// AMD's processors have SYSCALL outside 64-bit mode too; Intel's do not.
bool syscall_available(const Context& context) {
  if (!(context.state.efer & cpu::efer::kSce)) return false;
  return context.cpu_model->intel() ? context.state.code64() : context.state.protected_mode();
}

}  // namespace

Next syscall_instruction(Context& context, uint64_t next_rip) {
  cpu::CpuState& state = context.state;
  auto selector = static_cast<uint16_t>(state.star >> 32);
  uint64_t flags = context.rflags();
  if (!state.long_mode_active()) {  // AMD, legacy mode
    state.gpr[cpu::kRcx] = next_rip & 0xffffffff;
    context.set_rflags(flags & ~(rf::kIf | rf::kVm | rf::kRf));
    set_flat(context, selector, static_cast<uint16_t>(selector + 8), 0, false);
    state.rip = state.star & 0xffffffff;
    return Next::kDispatch;
  }
  state.gpr[cpu::kRcx] = next_rip;
  state.gpr[cpu::kR11] = flags & ~rf::kRf;
  uint64_t entry = state.code64() ? state.lstar : state.cstar;
  context.set_rflags((flags & ~(state.sfmask | rf::kRf)) | rf::kFixed1);
  set_flat(context, selector, static_cast<uint16_t>((selector & 0xfffc) + 8), 0, true);
  state.rip = entry;
  return Next::kDispatch;
}

namespace op {

RHEA_SYSTEM_FUNCTION(syscall) {
  if (!syscall_available(context)) return undefined();
  return syscall_instruction(context, next_rip(context, insn));
}

RHEA_SYSTEM_FUNCTION(sysret) {
  if (!syscall_available(context)) return undefined();
  cpu::CpuState& state = context.state;
  if (state.cpl() != 0 || !state.protected_mode()) return gp0();
  auto selector = static_cast<uint16_t>(state.star >> 48);
  bool to_code64 = insn.rex_w;
  uint64_t target = state.gpr[cpu::kRcx];
  if (to_code64) {
    // Intel faults at CPL 0 on a non-canonical target; AMD after the switch, at the fetch.
    if (context.cpu_model->intel() && !is_canonical(target)) return gp0();
  } else {
    target &= 0xffffffff;
  }
  if (state.long_mode_active()) {
    context.set_rflags((state.gpr[cpu::kR11] & 0x3c7fd7) | rf::kFixed1);
  } else {
    context.set_rflags(context.rflags() | rf::kIf);
  }
  set_flat(context, static_cast<uint16_t>(selector + (to_code64 ? 16 : 0)), static_cast<uint16_t>(selector + 8), 3,
           to_code64);
  state.rip = target;
  return Next::kDispatch;
}

RHEA_SYSTEM_FUNCTION(sysenter) {
  (void)insn;
  cpu::CpuState& state = context.state;
  bool long_mode = state.long_mode_active();
  if (long_mode && !context.cpu_model->intel()) return undefined();
  auto selector = static_cast<uint16_t>(state.sysenter_cs);
  if (!state.protected_mode() || is_null(selector)) return gp0();
  context.set_rflags(context.rflags() & ~(rf::kVm | rf::kIf | rf::kRf));
  set_flat(context, selector, static_cast<uint16_t>((selector & 0xfffc) + 8), 0, long_mode);
  state.gpr[cpu::kRsp] = long_mode ? state.sysenter_esp : state.sysenter_esp & 0xffffffff;
  state.rip = long_mode ? state.sysenter_eip : state.sysenter_eip & 0xffffffff;
  return Next::kDispatch;
}

RHEA_SYSTEM_FUNCTION(sysexit) {
  cpu::CpuState& state = context.state;
  if (state.long_mode_active() && !context.cpu_model->intel()) return undefined();
  auto selector = static_cast<uint16_t>(state.sysenter_cs);
  if (!state.protected_mode() || is_null(selector) || state.cpl() != 0) return gp0();
  bool to_code64 = insn.rex_w;
  uint64_t rip = state.gpr[cpu::kRdx], rsp = state.gpr[cpu::kRcx];
  if (to_code64 && (!is_canonical(rip) || !is_canonical(rsp))) return gp0();
  auto base = static_cast<uint16_t>(selector & 0xfffc);
  set_flat(context, static_cast<uint16_t>(base + (to_code64 ? 32 : 16)),
           static_cast<uint16_t>(base + (to_code64 ? 40 : 24)), 3, to_code64);
  state.rip = to_code64 ? rip : rip & 0xffffffff;
  state.gpr[cpu::kRsp] = to_code64 ? rsp : rsp & 0xffffffff;
  return Next::kDispatch;
}

}  // namespace op

}  // namespace rhea::dbt
