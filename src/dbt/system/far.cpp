// SPDX-License-Identifier: Apache-2.0
// Far JMP and CALL: real mode, direct, and through call gates. [SDM-2A JMP, CALL] [SDM-3A 5.8]
#include "dbt/system/internal.h"
#include "dbt/system/task_switch.h"

namespace rhea::dbt {

using cpu::Segment;

namespace {

struct FarPointer {
  uint16_t selector = 0;
  uint64_t offset = 0;
};

// From the instruction itself, or from memory: offset first, then the selector.
Fallible<FarPointer> far_pointer(Context& context, const Insn& insn) {
  unsigned offset_bytes = insn.operand_size;
  // AMD knows no m16:64. [APM-3 JMP (Far)]
  if (offset_bytes == 8 && !context.cpu_model->intel()) offset_bytes = 4;
  if (!insn.has_memory)
    return FarPointer{static_cast<uint16_t>(insn.imm2), static_cast<uint64_t>(insn.imm) & size_mask(offset_bytes)};
  FarPointer pointer;
  pointer.offset = GUEST_TRY(read_memory_operand(context, insn, offset_bytes));
  pointer.selector = static_cast<uint16_t>(GUEST_TRY(read_memory_operand(context, insn, 2, offset_bytes)));
  return pointer;
}

// A transfer that does not change the privilege level, to a code segment named directly.
Fallible<CodeTarget> direct_target(Context& context, Descriptor& code, uint64_t offset, bool checked_later) {
  unsigned cpl = context.state.cpl();
  uint32_t error = selector_error(code.selector);
  if (context.state.long_mode_active() && code.long_mode() && code.default_big())
    return raise(kGeneralProtection, error);
  if (code.conforming() ? code.dpl() > cpl : (code.selector & 3u) > cpl || code.dpl() != cpl)
    return raise(kGeneralProtection, error);
  if (!code.present()) return raise(kSegmentNotPresent, error);
  Segment segment = to_segment(code, static_cast<uint16_t>((code.selector & 0xfffc) | cpl));
  offset = target_rip(context, segment, offset);
  if (!checked_later) GUEST_TRY(check_rip(context, segment, offset));
  GUEST_TRY(set_descriptor_type_bits(context, code, 1));
  return CodeTarget{segment, offset};
}

struct GateTarget {
  Descriptor code;
  uint64_t offset = 0;
  unsigned width = 4;  // bytes of each pushed item
  unsigned parameter_count = 0;
  bool inner = false;  // CALL to a more privileged level
};

Fallible<GateTarget> gate_target(Context& context, Descriptor& gate, bool call) {
  unsigned cpl = context.state.cpl();
  bool long_mode = context.state.long_mode_active();
  uint32_t gate_error = selector_error(gate.selector);
  if (gate.dpl() < cpl || gate.dpl() < (gate.selector & 3u)) return raise(kGeneralProtection, gate_error);
  if (!gate.present()) return raise(kSegmentNotPresent, gate_error);
  GateTarget target;
  if (long_mode) {
    GUEST_TRY(read_descriptor_high(context, gate));
    if ((gate.high >> 40) & 0x1f) return raise(kGeneralProtection, gate_error);
    target.offset = gate.gate_offset64();
    target.width = 8;
  } else {
    target.width = gate.type() == kCallGate32 ? 4 : 2;
    target.offset = target.width == 4 ? gate.gate_offset32() : gate.gate_offset32() & 0xffff;
    target.parameter_count = (gate.low >> 32) & 0x1f;
  }
  uint16_t selector = gate.gate_selector();
  if (is_null(selector)) return gp0();
  target.code = GUEST_TRY(read_descriptor(context, selector));
  const Descriptor& code = target.code;
  uint32_t error = selector_error(selector);
  if (!code.is_code() || code.dpl() > cpl) return raise(kGeneralProtection, error);
  if (!call && !code.conforming() && code.dpl() != cpl) return raise(kGeneralProtection, error);
  if (long_mode && (!code.long_mode() || code.default_big())) return raise(kGeneralProtection, error);
  if (!code.present()) return raise(kSegmentNotPresent, error);
  target.inner = call && !code.conforming() && code.dpl() < cpl;
  return target;
}

Fallible<Next> push_return(StackCursor& stack, uint16_t selector, uint64_t rip, unsigned width) {
  GUEST_TRY(stack.push(selector, width));
  GUEST_TRY(stack.push(rip, width));
  return Next::kDispatch;
}

void commit_call(Context& context, const StackCursor& stack, const Segment& code, uint64_t rip) {
  context.state.gpr[cpu::kRsp] = stack.merged(context.state.gpr[cpu::kRsp]);
  set_code(context, code, rip);
}

// CALL through a gate to an inner level: new stack from the TSS, parameters copied. [SDM-3A 5.8.5]
Fallible<Next> call_inner(Context& context, const Insn& insn, GateTarget& target) {
  cpu::CpuState& state = context.state;
  unsigned cpl = target.code.dpl();
  StackCursor old_stack = StackCursor::current(context);
  StackPointer pointer = GUEST_TRY(stack_from_tss(context, cpl, 0));
  StackCursor stack{.context = context, .segment = {}, .sp = pointer.sp, .mmu = MmuIndex::kSupervisor};
  if (state.long_mode_active()) {
    stack.segment = null_stack_segment(static_cast<uint16_t>(cpl));
    stack.long_mode = true;
    if (!is_canonical(stack.sp)) return raise(kStackFault, 0);
  } else {
    stack.segment = GUEST_TRY(inner_stack_segment(context, pointer.selector, cpl, 0));
    stack.mask = stack.segment.default_big() ? 0xffffffff : 0xffff;
    stack.fault_code = selector_error(pointer.selector);
  }
  Segment code = to_segment(target.code, static_cast<uint16_t>((target.code.selector & 0xfffc) | cpl));
  GUEST_TRY(check_rip(context, code, target.offset));
  GUEST_TRY(set_descriptor_type_bits(context, target.code, 1));
  uint64_t parameters[32];
  for (unsigned i = 0; i < target.parameter_count; ++i) parameters[i] = GUEST_TRY(old_stack.pop(target.width));
  GUEST_TRY(stack.push(state.segment[cpu::kSs].selector, target.width));
  GUEST_TRY(stack.push(state.gpr[cpu::kRsp], target.width));
  for (unsigned i = target.parameter_count; i-- > 0;) GUEST_TRY(stack.push(parameters[i], target.width));
  GUEST_TRY(push_return(stack, state.segment[cpu::kCs].selector, next_rip(context, insn), target.width));
  state.segment[cpu::kSs] = stack.segment;
  commit_call(context, stack, code, target.offset);
  return Next::kDispatch;
}

Fallible<Next> transfer_real(Context& context, const Insn& insn, const FarPointer& pointer, bool call) {
  CodeTarget target = GUEST_TRY(real_mode_target(context, pointer.selector, pointer.offset));
  StackCursor stack = StackCursor::current(context);
  if (call)
    GUEST_TRY(push_return(stack, context.state.segment[cpu::kCs].selector, next_rip(context, insn), insn.operand_size));
  commit_call(context, stack, target.segment, target.rip);
  return Next::kDispatch;
}

Fallible<Next> transfer_gate(Context& context, const Insn& insn, Descriptor& gate, bool call) {
  GateTarget target = GUEST_TRY(gate_target(context, gate, call));
  if (target.inner) return call_inner(context, insn, target);
  unsigned cpl = context.state.cpl();
  Segment code = to_segment(target.code, static_cast<uint16_t>((target.code.selector & 0xfffc) | cpl));
  GUEST_TRY(check_rip(context, code, target.offset));
  GUEST_TRY(set_descriptor_type_bits(context, target.code, 1));
  StackCursor stack = StackCursor::current(context);
  if (call) {
    stack.long_mode = context.state.long_mode_active();
    if (stack.long_mode) stack.mask = ~uint64_t{0};
    GUEST_TRY(push_return(stack, context.state.segment[cpu::kCs].selector, next_rip(context, insn), target.width));
  }
  commit_call(context, stack, code, target.offset);
  return Next::kDispatch;
}

// Straight to a TSS or through a task gate. [SDM-2A JMP, CALL]
Fallible<Next> transfer_task(Context& context, const Insn& insn, const Descriptor& descriptor, bool call) {
  uint32_t error = selector_error(descriptor.selector);
  if (descriptor.dpl() < context.state.cpl() || descriptor.dpl() < (descriptor.selector & 3u))
    return raise(kGeneralProtection, error);
  TaskSwitch request{.selector = descriptor.selector,
                     .cause = call ? TaskSwitchCause::kCall : TaskSwitchCause::kJump,
                     .saved_rip = next_rip(context, insn),
                     .saved_flags = context.rflags()};
  if (descriptor.type() == kTaskGate) {
    if (!descriptor.present()) return raise(kSegmentNotPresent, error);
    request.selector = descriptor.gate_selector();
  }
  return switch_task(context, request);
}

Fallible<Next> transfer(Context& context, const Insn& insn, bool call) {
  FarPointer pointer = GUEST_TRY(far_pointer(context, insn));
  if (real_or_v86(context)) return transfer_real(context, insn, pointer, call);
  if (is_null(pointer.selector)) return gp0();
  Descriptor descriptor = GUEST_TRY(read_descriptor(context, pointer.selector));
  if (descriptor.is_code()) {
    // Processors look at a 64-bit target's address only when the return address is on the stack already.
    const bool checked_later = call && context.state.long_mode_active() && descriptor.long_mode();
    CodeTarget target = GUEST_TRY(direct_target(context, descriptor, pointer.offset, checked_later));
    // A CALL that leaves 64-bit code pushes by the rules of where it goes.
    StackCursor stack = StackCursor::current(context, context.state.code64() && (!call || descriptor.long_mode()));
    if (call)
      GUEST_TRY(
          push_return(stack, context.state.segment[cpu::kCs].selector, next_rip(context, insn), insn.operand_size));
    if (checked_later) GUEST_TRY(check_rip(context, target.segment, target.rip));
    commit_call(context, stack, target.segment, target.rip);
    return Next::kDispatch;
  }
  bool long_mode = context.state.long_mode_active();
  if (descriptor.is_system()) {
    unsigned type = descriptor.type();
    if (type == kCallGate32 || (type == kCallGate16 && !long_mode))
      return transfer_gate(context, insn, descriptor, call);
    bool task = type == kTaskGate || type == kTss16Available || type == kTss32Available;
    if (task && !long_mode) return transfer_task(context, insn, descriptor, call);
  }
  return raise(kGeneralProtection, selector_error(pointer.selector));
}

}  // namespace

namespace op {

RHEA_SYSTEM_FUNCTION(jmp_far) { return transfer(context, insn, false); }
RHEA_SYSTEM_FUNCTION(call_far) { return transfer(context, insn, true); }

}  // namespace op

}  // namespace rhea::dbt
