// SPDX-License-Identifier: Apache-2.0
// PUSHF, POPF, PUSHA, POPA, PUSH, POP, ENTER and LEAVE for 16-, 32- and 64-bit stacks.
#include "dbt/system/internal.h"
#include "dbt/system/segment_load.h"
#include "dbt/system/virtual_interrupts.h"

namespace rhea::dbt {

namespace rf = cpu::rflags;

namespace {

bool v86_without_iopl3(const Context& context) {
  return context.state.protected_mode() && context.state.virtual8086() &&
         (context.state.rflags & rf::kIopl) != rf::kIopl;
}

// The bits that POPF may change. [SDM-2B POPF table 4-16]
uint64_t popf_flags(const Context& context, unsigned size) {
  const cpu::CpuState& state = context.state;
  uint64_t allowed = rf::kArithmetic | rf::kTf | rf::kDf | rf::kNt;
  if (size > 2) allowed |= rf::kAc | rf::kId | rf::kRf;  // RF is cleared
  if (!state.protected_mode() || (state.cpl() == 0 && !state.virtual8086())) {
    allowed |= rf::kIf | rf::kIopl;
    if (size > 2) allowed |= rf::kVip | rf::kVif;  // cleared
  } else if (state.cpl() <= ((state.rflags >> 12) & 3)) {
    allowed |= rf::kIf;
  }
  return allowed;
}

void commit(Context& context, const StackCursor& stack) {
  context.state.gpr[cpu::kRsp] = stack.merged(context.state.gpr[cpu::kRsp]);
}

Fallible<Next> push_value(Context& context, const Insn& insn, uint64_t value) {
  StackCursor stack = StackCursor::current(context);
  GUEST_TRY(stack.push(value, insn.operand_size));
  commit(context, stack);
  return finish(context, insn);
}

// Intel's processors write only the 16 bits of a selector in a 32-bit slot. [SDM-2B PUSH]
Fallible<Next> push_segment(Context& context, const Insn& insn, uint16_t selector) {
  if (insn.operand_size != 4 || !context.cpu_model->intel()) return push_value(context, insn, selector);
  StackCursor stack = StackCursor::current(context);
  stack.sp -= 2;
  GUEST_TRY(stack.push(selector, 2));
  commit(context, stack);
  return finish(context, insn);
}

// They read no more than these either.
Fallible<Next> pop_segment(Context& context, const Insn& insn, unsigned segment) {
  StackCursor stack = StackCursor::current(context);
  unsigned read = context.cpu_model->intel() ? 2 : insn.operand_size;
  uint64_t selector = GUEST_TRY(stack.pop(read));
  stack.sp += insn.operand_size - read;
  GUEST_TRY(load_segment(context, segment, static_cast<uint16_t>(selector)));
  commit(context, stack);
  return finish(context, insn, after_segment_load(context, segment, InterruptShadow::kForStack));
}

}  // namespace

namespace op {

RHEA_SYSTEM_FUNCTION(pushf) {
  if (vme_active(context) && insn.operand_size == 2)
    return push_value(context, insn, flags_with_virtual_if(context.rflags()));
  if (v86_without_iopl3(context)) return gp0();
  return push_value(context, insn, context.rflags() & ~(rf::kVm | rf::kRf));
}

RHEA_SYSTEM_FUNCTION(popf) {
  const bool virtual_if = vme_active(context) && insn.operand_size == 2;
  if (!virtual_if && v86_without_iopl3(context)) return gp0();
  StackCursor stack = StackCursor::current(context);
  uint64_t popped = GUEST_TRY(stack.pop(insn.operand_size));
  uint64_t cleared = rf::kRf | rf::kVip | rf::kVif;
  uint64_t old_flags = context.rflags();
  uint64_t flags = virtual_if ? GUEST_TRY(load_virtual_flags(context, popped))
                              : merge_flags(old_flags, popped & ~cleared, popf_flags(context, insn.operand_size));
  context.set_rflags(flags);
  commit(context, stack);
  // TF, AC and NT change how the next instruction runs; IF may let an interrupt in.
  uint64_t watched = rf::kTf | rf::kAc | rf::kIf;
  return finish(context, insn, (old_flags ^ flags) & watched || (flags & rf::kTf) ? Next::kDispatch : Next::kContinue);
}

RHEA_SYSTEM_FUNCTION(pusha) {
  StackCursor stack = StackCursor::current(context);
  unsigned size = insn.operand_size;
  GUEST_TRY(stack.address((stack.sp - 8 * size) & stack.mask, size, Access::kWrite));  // #SS before any write
  uint64_t rsp = context.state.gpr[cpu::kRsp];
  for (unsigned reg = cpu::kRax; reg <= cpu::kRdi; ++reg)
    GUEST_TRY(stack.push(reg == cpu::kRsp ? rsp : context.state.gpr[reg], size));
  commit(context, stack);
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(popa) {
  StackCursor stack = StackCursor::current(context);
  uint64_t values[8];
  for (unsigned i = 0; i < 8; ++i) values[7 - i] = GUEST_TRY(stack.pop(insn.operand_size));
  for (unsigned reg = cpu::kRax; reg <= cpu::kRdi; ++reg)
    if (reg != cpu::kRsp) write_register(context, reg, insn.operand_size, values[reg]);
  commit(context, stack);
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(push) {
  const Operand& operand = insn.operands[0];
  switch (operand.kind) {
    case OperandKind::kSegment: return push_segment(context, insn, context.state.segment[operand.reg].selector);
    case OperandKind::kImmediate: return push_value(context, insn, static_cast<uint64_t>(insn.imm));
    default: return push_value(context, insn, GUEST_TRY(read_operand(context, insn, operand, insn.operand_size)));
  }
}

RHEA_SYSTEM_FUNCTION(pop) {
  const Operand& operand = insn.operands[0];
  if (operand.kind == OperandKind::kSegment) return pop_segment(context, insn, operand.reg);
  StackCursor stack = StackCursor::current(context);
  uint64_t value = GUEST_TRY(stack.pop(insn.operand_size));
  uint64_t old_rsp = context.state.gpr[cpu::kRsp];
  // An address or register that uses RSP sees the incremented one. [SDM-2B POP]
  commit(context, stack);
  if (Fallible<void> written = write_operand(context, insn, operand, value, insn.operand_size); !written) {
    context.state.gpr[cpu::kRsp] = old_rsp;
    return std::unexpected(written.error());
  }
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(enter) {
  cpu::CpuState& state = context.state;
  unsigned size = insn.operand_size;
  uint64_t allocation = static_cast<uint64_t>(insn.imm) & 0xffff;
  unsigned level = static_cast<unsigned>(insn.imm2) & 31;
  StackCursor stack = StackCursor::current(context);
  GUEST_TRY(stack.push(state.gpr[cpu::kRbp], size));
  uint64_t frame = stack.merged(state.gpr[cpu::kRsp]);
  uint64_t display = state.gpr[cpu::kRbp];
  for (unsigned i = 1; i < level; ++i) {
    display -= size;
    uint64_t linear = GUEST_TRY(stack.address(display & stack.mask, size, Access::kRead));
    GUEST_TRY(check_alignment(context, linear, size));
    uint64_t pointer = GUEST_TRY(read_linear(context, linear, size, stack.mmu));
    GUEST_TRY(stack.push(pointer, size));
  }
  if (level > 0) GUEST_TRY(stack.push(frame, size));
  stack.sp -= allocation;
  // The final stack must be writable. [SDM-2A ENTER]
  uint64_t top = GUEST_TRY(stack.address(stack.sp & stack.mask, size, Access::kWrite));
  GUEST_TRY(check_alignment(context, top, size));
  GUEST_TRY(probe_write(context, top, size, stack.mmu));
  write_register(context, cpu::kRbp, size, frame);
  commit(context, stack);
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(leave) {
  cpu::CpuState& state = context.state;
  StackCursor stack = StackCursor::current(context);
  stack.sp = state.gpr[cpu::kRbp];
  uint64_t value = GUEST_TRY(stack.pop(insn.operand_size));
  commit(context, stack);
  write_register(context, cpu::kRbp, insn.operand_size, value);
  return finish(context, insn);
}

}  // namespace op

}  // namespace rhea::dbt
