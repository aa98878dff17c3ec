// SPDX-License-Identifier: Apache-2.0
// Segment moves, far pointer loads, decimal arithmetic, BOUND, XLAT and SALC.
#include "dbt/system/internal.h"
#include "dbt/system/segment_load.h"

namespace rhea::dbt {

namespace rf = cpu::rflags;

namespace {

uint8_t al(const Context& context) { return static_cast<uint8_t>(context.state.gpr[cpu::kRax]); }
uint8_t ah(const Context& context) { return static_cast<uint8_t>(context.state.gpr[cpu::kRax] >> 8); }
void set_ax(Context& context, unsigned high, unsigned low) {
  write_register(context, cpu::kRax, 2, ((high & 0xff) << 8) | (low & 0xff));
}

// DAA and DAS. [SDM-2A DAA, DAS] The undefined OF is left clear.
Fallible<Next> decimal_adjust(Context& context, const Insn& insn, bool subtract) {
  uint8_t old_al = al(context);
  bool old_carry = flag(context, rf::kCf);
  unsigned value = old_al;
  uint64_t flags = 0;
  bool carry = false;
  if ((old_al & 15) > 9 || flag(context, rf::kAf)) {
    unsigned adjusted = subtract ? value - 6 : value + 6;
    carry = old_carry || (adjusted & 0x100);
    value = adjusted & 0xff;
    flags |= rf::kAf;
  }
  if (old_al > 0x99 || old_carry) {
    value = (subtract ? value - 0x60 : value + 0x60) & 0xff;
    carry = true;
  } else if (!subtract) {
    carry = false;
  }
  if (carry) flags |= rf::kCf;
  write_register(context, cpu::kRax, 1, value);
  set_arithmetic_flags(context, flags | result_flags(value, 1));
  return finish(context, insn);
}

// AAA and AAS. The undefined OF, SF, ZF and PF come from AL.
Fallible<Next> ascii_adjust(Context& context, const Insn& insn, bool subtract) {
  bool adjust = (al(context) & 15) > 9 || flag(context, rf::kAf);
  if (adjust) {
    uint64_t ax = read_register(context, cpu::kRax, 2);
    write_register(context, cpu::kRax, 2, subtract ? ax - 0x106 : ax + 0x106);
  }
  unsigned low = al(context) & 15;
  write_register(context, cpu::kRax, 1, low);
  set_arithmetic_flags(context, (adjust ? rf::kAf | rf::kCf : 0) | result_flags(low, 1));
  return finish(context, insn);
}

unsigned far_segment(isa::x86::RowId row) {
  using isa::x86::RowId;
  switch (row) {
    case RowId::LES_Gv_Mp: return cpu::kEs;
    case RowId::LDS_Gv_Mp: return cpu::kDs;
    case RowId::LSS_Gv_Mp: return cpu::kSs;
    case RowId::LFS_Gv_Mp: return cpu::kFs;
    default: return cpu::kGs;
  }
}

}  // namespace

namespace op {

RHEA_SYSTEM_FUNCTION(mov_segment) {
  if (insn.operands[0].kind == OperandKind::kSegment) {
    unsigned segment = insn.operands[0].reg;
    auto selector = static_cast<uint16_t>(GUEST_TRY(read_operand(context, insn, insn.operands[1], 2)));
    GUEST_TRY(load_segment(context, segment, selector));
    return finish(context, insn, after_segment_load(context, segment, InterruptShadow::kForStack));
  }
  const Operand& target = insn.operands[0];
  uint16_t selector = context.state.segment[insn.operands[1].reg].selector;
  unsigned size = target.kind == OperandKind::kMemory ? 2 : insn.operand_size;
  GUEST_TRY(write_operand(context, insn, target, selector, size));
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(load_far_pointer) {
  unsigned size = insn.operand_size;
  if (size == 8 && !context.cpu_model->intel()) size = 4;  // AMD has no m16:64
  uint64_t offset = GUEST_TRY(read_memory_operand(context, insn, size));
  uint64_t selector = GUEST_TRY(read_memory_operand(context, insn, 2, size));
  unsigned segment = far_segment(insn.row);
  GUEST_TRY(load_segment(context, segment, static_cast<uint16_t>(selector)));
  write_register(context, insn.operands[0].reg, insn.operand_size, offset);
  return finish(context, insn, after_segment_load(context, segment, InterruptShadow::kNone));
}

RHEA_SYSTEM_FUNCTION(aaa) { return ascii_adjust(context, insn, false); }
RHEA_SYSTEM_FUNCTION(aas) { return ascii_adjust(context, insn, true); }
RHEA_SYSTEM_FUNCTION(daa) { return decimal_adjust(context, insn, false); }
RHEA_SYSTEM_FUNCTION(das) { return decimal_adjust(context, insn, true); }

RHEA_SYSTEM_FUNCTION(aam) {
  unsigned base = static_cast<uint8_t>(insn.imm);
  if (base == 0) return raise(kDivideError);
  unsigned value = al(context);
  set_ax(context, value / base, value % base);
  set_arithmetic_flags(context, result_flags(value % base, 1));
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(aad) {
  unsigned left = al(context), right = (ah(context) * static_cast<uint8_t>(insn.imm)) & 0xff;
  unsigned value = (left + right) & 0xff;
  set_ax(context, 0, value);
  // The undefined flags are those of the addition.
  uint64_t flags = result_flags(value, 1);
  if (left + right > 0xff) flags |= rf::kCf;
  if ((left ^ right ^ value) & 0x10) flags |= rf::kAf;
  if ((left ^ value) & (right ^ value) & 0x80) flags |= rf::kOf;
  set_arithmetic_flags(context, flags);
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(bound) {
  unsigned size = insn.operand_size;
  int64_t index = sign_extend(read_register(context, insn.operands[0].reg, size), size);
  // Each bound is read when it is needed.
  if (index < sign_extend(GUEST_TRY(read_memory_operand(context, insn, size)), size)) return raise(kBoundRange);
  if (index > sign_extend(GUEST_TRY(read_memory_operand(context, insn, size, size)), size)) return raise(kBoundRange);
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(xlat) {
  uint64_t offset = (context.state.gpr[cpu::kRbx] + al(context)) & size_mask(insn.mem.address_size);
  uint64_t linear = GUEST_TRY(linear_address(context, insn.mem.segment, offset, 1, Access::kRead));
  write_register(context, cpu::kRax, 1, GUEST_TRY(read_linear(context, linear, 1, current_mmu(context))));
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(salc) {
  write_register(context, cpu::kRax, 1, flag(context, rf::kCf) ? 0xff : 0);
  return finish(context, insn);
}

}  // namespace op

}  // namespace rhea::dbt
