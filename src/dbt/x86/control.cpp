// SPDX-License-Identifier: Apache-2.0
// Branches, and the ways out of a block: links within the page, jump cache lookups beyond it.
#include "dbt/inject_bug.h"
#include "dbt/runtime/entry_points.h"
#include "dbt/x86/block_builder.h"

namespace rhea::dbt {

using isa::x86::RowId;

bool BlockBuilder::linkable() const {
  return runtime_.options().opt_level > 0 && !(mode_ & (mode::kTrap | mode::kOneInstruction)) && code_size() != 0;
}

void BlockBuilder::emit_target_ip(int64_t target_offset) {
  const HostMem target{.base = kScratchA, .displacement = static_cast<int32_t>(target_offset)};
  e_.load64(kScratchA, context_field(offsetof(Context, code_base)));
  if (target_offset != static_cast<int32_t>(target_offset)) {
    e_.mov_imm64(kScratchC, static_cast<uint64_t>(target_offset));
    e_.lea64(kScratchA, {.base = kScratchA, .index = kScratchC});
  } else if (code64()) {
    e_.lea64(kScratchA, target);
  } else {
    e_.lea32(kScratchA, target);
  }
}

int64_t BlockBuilder::branch_offset(const Insn& insn) const {
  return static_cast<int64_t>(offset_) + insn.length + insn.imm;
}

void BlockBuilder::emit_indirect(uint32_t mode_after, uint32_t fault_offset, int undo) {
  const uint32_t info = fault_offset | static_cast<uint32_t>(undo) << kBranchPoppedShift;
  const uint16_t slot = linkable() ? runtime_.space().jump_slot(mode_after) : kJumpCacheSlots;
  if (slot == kJumpCacheSlots || !(mode_after & mode::kFlat)) {
    e_.mov_imm32(kScratchC, info);
    e_.jmp(runtime_.thunks().branch);
    return;
  }
  const auto field = [slot](size_t array) {
    return HostMem{
        .base = kHRsp,
        .index = kHRcx,
        .scale = 8,
        .displacement = static_cast<int32_t>(offsetof(Context, jump_cache) + slot * sizeof(JumpCache) + array)};
  };
  e_.movzx16(kScratchC, kScratchA);
  e_.load64(kScratchB, field(offsetof(JumpCache, target)));
  e_.load64(kScratchC, field(offsetof(JumpCache, tag)));
  e_.lea64(kScratchC, {.base = kScratchC, .index = kScratchA});
  e_.jrcxz_skip(10);
  e_.mov_imm32(kScratchC, info);
  e_.jmp(runtime_.thunks().branch);
  e_.jmp_reg(kScratchB);
}

void BlockBuilder::emit_poll(int64_t target_offset) {
  e_.load32(kScratchC, context_field(offsetof(Context, exit_request)));
  uint8_t* const go = e_.jrcxz_open();
  emit_target_ip(target_offset);
  e_.jmp(runtime_.thunks().dispatch);
  e_.bind8(go);
}

void BlockBuilder::emit_link(int64_t target_offset, uint32_t mode_after) {
  Link& link = block_->links[links_];
  block_->link_count = static_cast<uint8_t>(++links_);
  link.from = block_;
  link.target_offset = static_cast<int32_t>(target_offset);
  link.mode = mode_after;
  while ((reinterpret_cast<uint64_t>(e_.position()) + 1) % 4 != 0) e_.u8(0x90);
  uint8_t* const site = e_.jmp_open();
  link.site = site;
  Link* const record = &link;
  defer([this, site, record] {
    e_.bind32(site);
    record->stub = e_.exec_position();
    e_.mov_imm64(kScratchB, reinterpret_cast<uint64_t>(record));
    e_.jmp(runtime_.thunks().link);
  });
}

void BlockBuilder::emit_exit(int64_t target_offset, uint32_t mode_after, std::optional<int> undo) {
  const bool same_page = target_offset >= 0 && target_offset < static_cast<int64_t>(memory::kPageSize);
  if (mode_after != mode_) e_.store32_imm(context_field(offsetof(Context, mode)), mode_after);
  if (linkable() && same_page && second_page_ == kNoPage && !one_shot_ && links_ < 2) {
    if (target_offset <= static_cast<int64_t>(offset_) && !injected(context_, 37)) emit_poll(target_offset);
    emit_link(target_offset, mode_after);
    return;
  }
  emit_target_ip(target_offset);
  emit_indirect(mode_after, undo ? offset_ : static_cast<uint32_t>(target_offset), undo.value_or(0));
}

void BlockBuilder::emit_branch(const Insn& insn, int undo) {
  if (insn.operand_size == 2) {  // IP is truncated to 16 bits
    emit_target_ip(branch_offset(insn));
    if (!injected(context_, 36)) e_.movzx16(kScratchA, kScratchA);
    emit_indirect(mode_, undo);
    return;
  }
  emit_exit(branch_offset(insn), mode_, undo);
}

void BlockBuilder::jump_conditional(const Insn& insn) {
  const auto condition = static_cast<uint8_t>(insn.opcode & 15);
  uint8_t* const taken = e_.jcc_open(condition);
  emit_exit(static_cast<int64_t>(offset_) + insn.length, mode_);
  e_.bind32(taken);
  emit_branch(insn);
}

void BlockBuilder::loop(const Insn& insn) {
  // The count register's width is the address size; RCX must be exact for JRCXZ.
  const unsigned width = insn.mem.address_size;
  const bool counts = insn.row != RowId::JCXZ_Jb;
  if (counts) {
    if (width == 8) {
      e_.lea64(kGuestRcx, {.base = kGuestRcx, .displacement = -1});
    } else if (width == 4) {
      injected(context_, 32) ? e_.lea64(kGuestRcx, {.base = kGuestRcx, .displacement = -1})
                             : e_.lea32(kGuestRcx, {.base = kGuestRcx, .displacement = -1});
    } else {
      e_.lea32(kScratchC, {.base = kGuestRcx, .displacement = -1});
      e_.op_reg({.opcode = 0x8b, .operand_size_prefix = true}, kGuestRcx, kScratchC);
    }
  }
  if (width == 8)
    e_.mov64(kScratchC, kGuestRcx);
  else if (width == 4)
    injected(context_, 33) ? e_.mov64(kScratchC, kGuestRcx) : e_.mov32(kScratchC, kGuestRcx);
  else
    e_.movzx16(kScratchC, kGuestRcx);
  e_.jrcxz_skip(5);
  uint8_t* const not_zero = e_.jmp_open();
  const int64_t next = static_cast<int64_t>(offset_) + insn.length;
  if (!counts) {
    emit_branch(insn);
    e_.bind32(not_zero);
    emit_exit(next, mode_);
    return;
  }
  uint8_t* const fall_through = e_.jmp_open();
  e_.bind32(not_zero);
  uint8_t* unequal = nullptr;
  if (insn.row == RowId::LOOPE_Jb) unequal = e_.jcc_open(5);                                // ZF clear: leave
  if (insn.row == RowId::LOOPNE_Jb) unequal = e_.jcc_open(injected(context_, 34) ? 2 : 4);  // ZF set: leave
  emit_branch(insn, kBranchCounted + static_cast<int>(width));
  e_.bind32(fall_through);
  if (unequal) e_.bind32(unequal);
  emit_exit(next, mode_);
}

void BlockBuilder::push_return_ip(const Insn& insn) {
  const unsigned size = insn.operand_size;
  const int64_t next = static_cast<int64_t>(offset_) + insn.length;
  push_with(
      size,
      [this, size, next](const HostMem& mem) {
        e_.load64(kScratchC, context_field(offsetof(Context, code_base)));
        e_.lea64(kScratchC, {.base = kScratchC, .displacement = static_cast<int32_t>(next)});
        emit_sized_store(mem, kScratchC, size);
      },
      AfterStore::kStay);
}

void BlockBuilder::call_relative(const Insn& insn) {
  push_return_ip(insn);
  emit_branch(insn, -static_cast<int>(insn.operand_size));
}

void BlockBuilder::jump_indirect(const Insn& insn) {
  const unsigned size = insn.operand_size;
  if (insn.has_memory) {
    access_operand(insn, size, AccessKind::kRead,
                   [this, size](const HostMem& mem) { emit_sized_load(kScratchA, mem, size); });
  } else {
    load_gpr(kScratchA, insn.operands[0].reg);
    if (size == 4) e_.mov32(kScratchA, kScratchA);
    if (size == 2) e_.movzx16(kScratchA, kScratchA);
  }
  emit_indirect(mode_);
}

void BlockBuilder::call_indirect(const Insn& insn) {
  const unsigned size = insn.operand_size;
  const HostMem target = context_field(offsetof(Context, scratch) + 24);
  if (insn.has_memory) {
    access_operand(insn, size, AccessKind::kRead, [this, size, target](const HostMem& mem) {
      emit_sized_load(kScratchC, mem, size);
      e_.store64(target, kScratchC);
    });
  } else {
    load_gpr(kScratchC, insn.operands[0].reg);
    if (size == 4) e_.mov32(kScratchC, kScratchC);
    if (size == 2) e_.movzx16(kScratchC, kScratchC);
    e_.store64(target, kScratchC);
  }
  push_return_ip(insn);
  e_.load64(kScratchA, target);
  emit_indirect(mode_, -static_cast<int>(size));
}

void BlockBuilder::ret(const Insn& insn) {
  const unsigned size = insn.operand_size;
  const uint8_t linear = emit_stack_offset(0, size, AccessKind::kRead);
  access(linear, size, AccessKind::kRead, [this, size](const HostMem& mem) { emit_sized_load(kScratchA, mem, size); });
  const unsigned popped = size + (!insn.operand_count      ? 0
                                  : injected(context_, 35) ? static_cast<int16_t>(insn.imm)
                                                           : static_cast<uint16_t>(insn.imm));
  adjust_stack(static_cast<int>(popped));
  emit_indirect(mode_, static_cast<int>(popped));
}

}  // namespace rhea::dbt
