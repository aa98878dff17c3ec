// SPDX-License-Identifier: Apache-2.0
// Far RET and IRET in every mode. [SDM-2B RET] [SDM-2A IRET]
#include "dbt/system/internal.h"
#include "dbt/system/task_switch.h"
#include "dbt/system/virtual_interrupts.h"

namespace rhea::dbt {

using cpu::Segment;
namespace rf = cpu::rflags;

namespace {

// The code segment that a return names: same or outer privilege.
Fallible<Descriptor> return_code(Context& context, uint16_t selector) {
  if (is_null(selector)) return gp0();
  Descriptor code = GUEST_TRY(read_descriptor(context, selector));
  unsigned rpl = selector & 3;
  uint32_t error = selector_error(selector);
  if (!code.is_code() || rpl < context.state.cpl()) return raise(kGeneralProtection, error);
  if (code.conforming() ? code.dpl() > rpl : code.dpl() != rpl) return raise(kGeneralProtection, error);
  if (context.state.long_mode_active() && code.long_mode() && code.default_big())
    return raise(kGeneralProtection, error);
  if (!code.present()) return raise(kSegmentNotPresent, error);
  return code;
}

// The stack segment popped by a return to privilege `cpl`.
Fallible<Segment> return_stack(Context& context, uint16_t selector, unsigned cpl, bool to_code64) {
  if (is_null(selector)) {
    if (!to_code64 || cpl == 3 || (selector & 3u) != cpl) return gp0();
    return null_stack_segment(selector);
  }
  Descriptor stack = GUEST_TRY(read_descriptor(context, selector));
  uint32_t error = selector_error(selector);
  if ((selector & 3u) != cpl || !stack.writable_data() || stack.dpl() != cpl) return raise(kGeneralProtection, error);
  if (!stack.present()) return raise(kStackFault, error);
  GUEST_TRY(set_descriptor_type_bits(context, stack, 1));
  return to_segment(stack, selector);
}

// Data segments of the inner level must not stay usable in the outer one.
void drop_inner_segments(Context& context, unsigned cpl) {
  for (unsigned index : {cpu::kEs, cpu::kDs, cpu::kFs, cpu::kGs}) {
    Segment& segment = context.state.segment[index];
    bool conforming_code = segment.is_code() && (segment.attributes & 4);
    if (segment.usable() && !conforming_code && segment.dpl() < cpl) segment = Segment{.limit = 0};
  }
}

uint64_t stack_pointer_mask(const Segment& stack, bool code64) {
  return code64 ? ~uint64_t{0} : stack.default_big() ? 0xffffffff : 0xffff;
}

struct Return {
  Segment code;
  uint64_t rip = 0;
  bool changes_stack = false;
  Segment stack{};
  uint64_t rsp = 0;
};

void commit_return(Context& context, const Return& target) {
  cpu::CpuState& state = context.state;
  unsigned old_cpl = state.cpl();
  if (target.changes_stack) state.segment[cpu::kSs] = target.stack;
  state.gpr[cpu::kRsp] = target.rsp;
  set_code(context, target.code, target.rip);
  if (target.changes_stack && state.cpl() > old_cpl) drop_inner_segments(context, state.cpl());
}

uint64_t popped_stack_pointer(const Context& context, const Segment& stack, bool to_code64, uint64_t sp) {
  uint64_t mask = stack_pointer_mask(stack, to_code64);
  return mask == 0xffff ? (context.state.gpr[cpu::kRsp] & ~uint64_t{0xffff}) | (sp & 0xffff) : sp & mask;
}

// An offset and a selector on the stack, as far transfers and stack switches leave them. Of the selector's slot
// only two bytes are read, and they before the offset: that shows in faults.
struct FarWord {
  uint64_t offset = 0;
  uint16_t selector = 0;
};
Fallible<FarWord> pop_far(StackCursor& stack, unsigned size) {
  FarWord word;
  word.selector = static_cast<uint16_t>(GUEST_TRY(stack.peek(size, 2)));
  word.offset = GUEST_TRY(stack.peek(0, size));
  stack.sp += 2 * size;
  return word;
}

Fallible<Next> ret_real(Context& context, unsigned size, uint64_t release) {
  StackCursor stack = StackCursor::current(context);
  uint64_t rip = GUEST_TRY(stack.pop(size));
  auto selector = static_cast<uint16_t>(GUEST_TRY(stack.pop(size)));
  CodeTarget target = GUEST_TRY(real_mode_target(context, selector, rip));
  stack.sp += release;
  context.state.gpr[cpu::kRsp] = stack.merged(context.state.gpr[cpu::kRsp]);
  set_code(context, target.segment, target.rip);
  return Next::kDispatch;
}

Fallible<Next> ret_protected(Context& context, unsigned size, uint64_t release) {
  StackCursor stack = StackCursor::current(context);
  auto [rip, selector] = GUEST_TRY(pop_far(stack, size));
  Descriptor code = GUEST_TRY(return_code(context, selector));
  Return target{.code = to_segment(code, selector)};
  target.rip = rip = target_rip(context, target.code, rip);
  bool to_code64 = context.state.long_mode_active() && code.long_mode();
  unsigned cpl = selector & 3;
  stack.sp += release;
  if (cpl > context.state.cpl()) {
    auto [rsp, stack_selector] = GUEST_TRY(pop_far(stack, size));
    target.stack = GUEST_TRY(return_stack(context, stack_selector, cpl, to_code64));
    target.changes_stack = true;
    target.rsp = popped_stack_pointer(context, target.stack, to_code64, rsp + release);
  } else {
    target.rsp = stack.merged(context.state.gpr[cpu::kRsp]);
  }
  GUEST_TRY(check_rip(context, target.code, rip));
  GUEST_TRY(set_descriptor_type_bits(context, code, 1));
  commit_return(context, target);
  return Next::kDispatch;
}

// The bits of RFLAGS that IRET may change at this privilege and operand size.
uint64_t iret_flags(const Context& context, unsigned size) {
  const cpu::CpuState& state = context.state;
  uint64_t allowed = rf::kArithmetic | rf::kTf | rf::kDf | rf::kNt;
  if (size > 2) allowed |= rf::kRf | rf::kAc | rf::kId;
  if (!state.protected_mode()) return allowed | rf::kIf | rf::kIopl;
  if (state.virtual8086()) return allowed | rf::kIf;
  unsigned cpl = state.cpl();
  if (cpl <= ((state.rflags >> 12) & 3)) allowed |= rf::kIf;
  if (cpl == 0) {
    allowed |= rf::kIopl;
    if (size > 2) allowed |= rf::kVif | rf::kVip;
  }
  return allowed;
}

Fallible<Next> iret_real(Context& context, unsigned size) {
  StackCursor stack = StackCursor::current(context);
  uint64_t rip = GUEST_TRY(stack.pop(size));
  auto selector = static_cast<uint16_t>(GUEST_TRY(stack.pop(size)));
  uint64_t flags = GUEST_TRY(stack.pop(size));
  CodeTarget target = GUEST_TRY(real_mode_target(context, selector, rip));
  context.set_rflags(vme_active(context) ? GUEST_TRY(load_virtual_flags(context, flags))
                                         : merge_flags(context.rflags(), flags, iret_flags(context, size)));
  context.state.gpr[cpu::kRsp] = stack.merged(context.state.gpr[cpu::kRsp]);
  set_code(context, target.segment, target.rip);
  return Next::kDispatch;
}

// The frame holds ESP, SS, ES, DS, FS and GS above EFLAGS. [SDM-3B 21.2.3]
Fallible<Next> iret_to_v86(Context& context, StackCursor& stack, uint64_t rip, uint16_t selector, uint64_t flags) {
  uint64_t popped[6];
  for (uint64_t& value : popped) value = GUEST_TRY(stack.pop(4));
  if (rip > 0xffff) return gp0();
  cpu::CpuState& state = context.state;
  context.set_rflags((flags & 0x3f7fd5) | rf::kFixed1);
  state.gpr[cpu::kRsp] = popped[0];
  state.segment[cpu::kSs] = v86_segment(static_cast<uint16_t>(popped[1]));
  state.segment[cpu::kEs] = v86_segment(static_cast<uint16_t>(popped[2]));
  state.segment[cpu::kDs] = v86_segment(static_cast<uint16_t>(popped[3]));
  state.segment[cpu::kFs] = v86_segment(static_cast<uint16_t>(popped[4]));
  state.segment[cpu::kGs] = v86_segment(static_cast<uint16_t>(popped[5]));
  set_code(context, v86_segment(selector), rip);
  return Next::kDispatch;
}

Fallible<Next> iret_protected(Context& context, unsigned size) {
  cpu::CpuState& state = context.state;
  bool from_code64 = state.code64();
  StackCursor stack = StackCursor::current(context);
  uint64_t flags = GUEST_TRY(stack.peek(2 * size, size));
  auto [rip, selector] = GUEST_TRY(pop_far(stack, size));
  stack.sp += size;
  if (size == 4 && (flags & rf::kVm) && !state.long_mode_active() && state.cpl() == 0)
    return iret_to_v86(context, stack, rip, selector, flags);
  Descriptor code = GUEST_TRY(return_code(context, selector));
  Return target{.code = to_segment(code, selector)};
  target.rip = rip = target_rip(context, target.code, rip);
  bool to_code64 = state.long_mode_active() && code.long_mode();
  unsigned cpl = selector & 3;
  if (from_code64 || cpl > state.cpl()) {
    auto [rsp, stack_selector] = GUEST_TRY(pop_far(stack, size));
    target.stack = GUEST_TRY(return_stack(context, stack_selector, cpl, to_code64));
    target.changes_stack = true;
    target.rsp = popped_stack_pointer(context, target.stack, to_code64, rsp);
  } else {
    target.rsp = stack.merged(state.gpr[cpu::kRsp]);
  }
  GUEST_TRY(check_rip(context, target.code, rip));
  GUEST_TRY(set_descriptor_type_bits(context, code, 1));
  context.set_rflags(merge_flags(context.rflags(), flags, iret_flags(context, size)));
  commit_return(context, target);
  return Next::kDispatch;
}

// IRET with NT set goes to the task that the current TSS links to. [SDM-2A IRET]
Fallible<Next> return_to_task(Context& context, const Insn& insn) {
  const Segment& tss = context.state.segment[cpu::kTr];
  auto link = static_cast<uint16_t>(GUEST_TRY(read_linear(context, tss.base, 2, MmuIndex::kSupervisor)));
  return switch_task(context, {.selector = link,
                               .cause = TaskSwitchCause::kReturn,
                               .saved_rip = next_rip(context, insn),
                               .saved_flags = context.rflags()});
}

}  // namespace

namespace op {

RHEA_SYSTEM_FUNCTION(ret_far) {
  uint64_t release = insn.imm_bytes ? static_cast<uint64_t>(insn.imm) & 0xffff : 0;
  if (real_or_v86(context)) return ret_real(context, insn.operand_size, release);
  return ret_protected(context, insn.operand_size, release);
}

RHEA_SYSTEM_FUNCTION(iret) {
  cpu::CpuState& state = context.state;
  if (state.protected_mode() && state.virtual8086() && (state.rflags & rf::kIopl) != rf::kIopl &&
      !(vme_active(context) && insn.operand_size == 2))
    return gp0();
  bool real = real_or_v86(context);
  bool nested = !real && (state.rflags & rf::kNt);
  if (nested && state.long_mode_active()) return gp0();
  Fallible<Next> result = nested ? return_to_task(context, insn)
                          : real ? iret_real(context, insn.operand_size)
                                 : iret_protected(context, insn.operand_size);
  if (result) state.nmi_blocked = false;
  return result;
}

}  // namespace op

}  // namespace rhea::dbt
