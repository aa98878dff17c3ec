// SPDX-License-Identifier: Apache-2.0
// PUSH, POP, LEAVE and the stack accesses of CALL and RET, for 64-, 32- and 16-bit stacks.
#include "dbt/inject_bug.h"
#include "dbt/x86/block_builder.h"

namespace rhea::dbt {

using isa::x86::OperandKind;

uint8_t BlockBuilder::emit_stack_offset(int displacement, unsigned size, AccessKind kind) {
  const HostMem sp{.base = kGuestRsp, .displacement = displacement};
  if (code64()) {
    through_ss_ = true;
    if (displacement == 0) return kGuestRsp;
    e_.lea64(kScratchA, sp);
    return kScratchA;
  }
  e_.lea32(kScratchA, sp);
  if (!(mode_ & mode::kStackBig)) e_.movzx16(kScratchA, kScratchA);
  return emit_segment(kScratchA, cpu::kSs, size, kind);
}

void BlockBuilder::adjust_stack(int delta) {
  const HostMem sp{.base = kGuestRsp, .displacement = delta};
  if (code64()) {
    e_.lea64(kGuestRsp, sp);
  } else if (mode_ & mode::kStackBig) {
    e_.lea32(kGuestRsp, sp);
  } else {
    e_.lea32(kScratchC, sp);
    e_.op_reg({.opcode = 0x8b, .operand_size_prefix = true}, kGuestRsp, kScratchC);
  }
}

void BlockBuilder::push_with(unsigned size, const std::function<void(const HostMem&)>& store, AfterStore after) {
  const uint8_t linear = emit_stack_offset(-static_cast<int>(size), size, AccessKind::kWrite);
  bool early = injected(context_, 40) && after == AfterStore::kStay;
  if (early) adjust_stack(-static_cast<int>(size));
  access(
      linear, size, AccessKind::kWrite,
      [this, size, store, early](const HostMem& mem) {
        store(mem);
        if (!early) adjust_stack(-static_cast<int>(size));
      },
      after);
}

void BlockBuilder::emit_sized_load(uint8_t reg, const HostMem& mem, unsigned size) {
  if (size == 8)
    e_.load64(reg, mem);
  else if (size == 4)
    e_.load32(reg, mem);
  else
    e_.load16(reg, mem);
}

void BlockBuilder::emit_sized_store(const HostMem& mem, uint8_t reg, unsigned size) {
  if (size == 8)
    e_.store64(mem, reg);
  else if (size == 4)
    e_.store32(mem, reg);
  else
    e_.store16(mem, reg);
}

void BlockBuilder::push(const Insn& insn) {
  const unsigned size = insn.operand_size;
  const auto& operand = insn.operands[0];
  if (operand.kind == OperandKind::kImmediate) {
    const int64_t value = insn.imm;
    push_with(
        size,
        [this, size, value](const HostMem& mem) {
          if (size == 8)
            e_.store64_imm(mem, static_cast<int32_t>(value));
          else if (size == 4)
            e_.store32_imm(mem, static_cast<uint32_t>(value));
          else
            e_.store16_imm(mem, static_cast<uint16_t>(value));
        },
        AfterStore::kMayLeave);
    return;
  }
  if (operand.kind == OperandKind::kMemory) {
    access_operand(insn, size, AccessKind::kRead, [this, size](const HostMem& mem) {
      emit_sized_load(kScratchC, mem, size);
      e_.store64(context_field(offsetof(Context, scratch)), kScratchC);
    });
    push_with(
        size,
        [this, size](const HostMem& mem) {
          e_.load64(kScratchC, context_field(offsetof(Context, scratch)));
          emit_sized_store(mem, kScratchC, size);
        },
        AfterStore::kMayLeave);
    return;
  }
  const unsigned gpr = operand.reg;
  push_with(
      size,
      [this, size, gpr](const HostMem& mem) {
        uint8_t reg = host_register(static_cast<uint8_t>(gpr));
        if (reg == kHNone) {
          e_.load64(kScratchC, gpr_slot(gpr));
          reg = kScratchC;
        }
        if (injected(context_, 38) && gpr == cpu::kRsp)
          e_.lea64(reg = kScratchC, {.base = kGuestRsp, .displacement = -static_cast<int>(size)});
        emit_sized_store(mem, reg, size);
      },
      AfterStore::kMayLeave);
}

void BlockBuilder::pop(const Insn& insn) {
  const unsigned size = insn.operand_size;
  const auto& operand = insn.operands[0];
  const uint8_t linear = emit_stack_offset(0, size, AccessKind::kRead);
  if (operand.kind == OperandKind::kMemory) {
    access(linear, size, AccessKind::kRead, [this, size](const HostMem& mem) {
      emit_sized_load(kScratchC, mem, size);
      e_.store64(context_field(offsetof(Context, scratch)), kScratchC);
    });
    // An RSP-based address is computed after the increment. [SDM-2B POP]
    const int64_t extra = insn.mem.base == cpu::kRsp && !injected(context_, 39) ? static_cast<int64_t>(size) : 0;
    access(emit_linear(insn, size, AccessKind::kWrite, extra), size, AccessKind::kWrite,
           [this, size](const HostMem& mem) {
             e_.load64(kScratchC, context_field(offsetof(Context, scratch)));
             emit_sized_store(mem, kScratchC, size);
             adjust_stack(static_cast<int>(size));
           });
    return;
  }
  const unsigned gpr = operand.reg;
  access(linear, size, AccessKind::kRead, [this, size](const HostMem& mem) { emit_sized_load(kScratchC, mem, size); });
  if (gpr == cpu::kRsp) {
    if (size == 2) {  // POP SP: the increment is lost in the low half only
      e_.mov32(kScratchB, kScratchC);
      adjust_stack(2);
      e_.op_reg({.opcode = 0x8b, .operand_size_prefix = true}, kGuestRsp, kScratchB);
    } else {
      e_.mov64(kGuestRsp, kScratchC);
    }
    return;
  }
  const uint8_t reg = host_register(static_cast<uint8_t>(gpr));
  if (size != 2 || (injected(context_, 41) && reg != kHNone)) {
    store_gpr(gpr, kScratchC);
  } else if (reg == kHNone) {
    e_.store16(gpr_slot(gpr), kScratchC);
  } else {
    e_.op_reg({.opcode = 0x8b, .operand_size_prefix = true}, reg, kScratchC);
  }
  adjust_stack(static_cast<int>(size));
}

void BlockBuilder::leave(const Insn& insn) {
  const unsigned size = insn.operand_size;
  if (!(mode_ & mode::kFlat) || (mode_ & mode::kReal) || !(mode_ & mode::kStackBig) || size == 2 ||
      (mode_ & mode::kAlignCheck)) {
    system(insn);
    return;
  }
  if (code64()) {
    if (injected(context_, 42)) e_.lea64(kGuestRsp, {.base = kHRbp, .displacement = 8});
    through_ss_ = true;
    access(kHRbp, 8, AccessKind::kRead, [this](const HostMem& mem) { e_.load64(kScratchC, mem); });
    e_.lea64(kGuestRsp, {.base = kHRbp, .displacement = 8});
    e_.mov64(kHRbp, kScratchC);
  } else {
    through_ss_ = true;
    e_.mov32(kScratchA, kHRbp);
    access(kScratchA, 4, AccessKind::kRead, [this](const HostMem& mem) { e_.load32(kScratchC, mem); });
    e_.lea32(kGuestRsp, {.base = kHRbp, .displacement = 4});
    e_.mov32(kHRbp, kScratchC);
  }
}

}  // namespace rhea::dbt
