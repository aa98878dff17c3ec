// SPDX-License-Identifier: Apache-2.0
// Operands of a decoded instruction: effective addresses, reads and writes, and flag arithmetic.
#include "dbt/system/internal.h"

namespace rhea::dbt {

using isa::x86::kNoRegister;
using isa::x86::kRipBase;
namespace rf = cpu::rflags;

uint64_t effective_offset(const Context& context, const Insn& insn) {
  const isa::x86::MemoryRef& mem = insn.mem;
  auto offset = static_cast<uint64_t>(mem.displacement);
  if (mem.base == kRipBase) {
    offset += context.state.rip + insn.length;
  } else if (mem.base != kNoRegister) {
    offset += context.state.gpr[mem.base];
  }
  if (mem.index != kNoRegister) offset += context.state.gpr[mem.index] * mem.scale;
  return offset & size_mask(mem.address_size);
}

Fallible<void> check_alignment(const Context& context, uint64_t linear, unsigned alignment) {
  if ((linear & (alignment - 1)) == 0) return {};
  const cpu::CpuState& state = context.state;
  if (state.cpl() == 3 && (state.cr0 & cpu::cr0::kAm) && (state.rflags & rf::kAc)) return raise(kAlignmentCheck, 0);
  return {};
}

Fallible<uint64_t> operand_address(Context& context, const Insn& insn, unsigned size_bytes, Access access,
                                   uint64_t offset) {
  uint64_t effective = (effective_offset(context, insn) + offset) & size_mask(insn.mem.address_size);
  return linear_address(context, insn.mem.segment, effective, size_bytes, access);
}

Fallible<uint64_t> read_memory_operand(Context& context, const Insn& insn, unsigned size_bytes, uint64_t offset) {
  uint64_t linear = GUEST_TRY(operand_address(context, insn, size_bytes, Access::kRead, offset));
  GUEST_TRY(check_alignment(context, linear, size_bytes));
  return read_linear(context, linear, size_bytes, current_mmu(context));
}

Fallible<void> write_memory_operand(Context& context, const Insn& insn, uint64_t value, unsigned size_bytes,
                                    uint64_t offset) {
  uint64_t linear = GUEST_TRY(operand_address(context, insn, size_bytes, Access::kWrite, offset));
  GUEST_TRY(check_alignment(context, linear, size_bytes));
  return write_linear(context, linear, value, size_bytes, current_mmu(context));
}

Fallible<uint64_t> read_operand(Context& context, const Insn& insn, const Operand& operand, unsigned size_bytes) {
  if (operand.kind == OperandKind::kMemory) return read_memory_operand(context, insn, size_bytes);
  return read_register(context, operand.reg, size_bytes);
}

Fallible<void> write_operand(Context& context, const Insn& insn, const Operand& operand, uint64_t value,
                             unsigned size_bytes) {
  if (operand.kind == OperandKind::kMemory) return write_memory_operand(context, insn, value, size_bytes);
  write_register(context, operand.reg, size_bytes, value);
  return {};
}

uint64_t result_flags(uint64_t result, unsigned size_bytes) {
  uint64_t flags = 0;
  if ((result & size_mask(size_bytes)) == 0) flags |= rf::kZf;
  if ((result >> (size_bytes * 8 - 1)) & 1) flags |= rf::kSf;
  uint32_t parity = static_cast<uint8_t>(result);
  parity ^= parity >> 4;
  if (!((0x6996 >> (parity & 15)) & 1)) flags |= rf::kPf;
  return flags;
}

uint64_t subtraction_flags(uint64_t left, uint64_t right, unsigned size_bytes) {
  left &= size_mask(size_bytes);
  right &= size_mask(size_bytes);
  uint64_t result = left - right;
  uint64_t flags = result_flags(result, size_bytes);
  if (left < right) flags |= rf::kCf;
  if ((left ^ right ^ result) & 0x10) flags |= rf::kAf;
  if ((((left ^ right) & (left ^ result)) >> (size_bytes * 8 - 1)) & 1) flags |= rf::kOf;
  return flags;
}

}  // namespace rhea::dbt
