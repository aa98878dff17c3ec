// SPDX-License-Identifier: Apache-2.0
// Guest memory accesses: effective address, segment, inline TLB lookup, out-of-line slow path.
#include "dbt/inject_bug.h"
#include "dbt/runtime/entry_points.h"
#include "dbt/x86/block_builder.h"

namespace rhea::dbt {

namespace {

constexpr size_t kSegments = offsetof(Context, state) + offsetof(cpu::CpuState, segment);
HostMem segment_base(unsigned segment) {
  return context_field(kSegments + segment * sizeof(cpu::Segment) + offsetof(cpu::Segment, base));
}

// Instruction operands number segments ES CS SS DS FS GS = 0-5, as cpu::SegmentIndex does.
bool based(unsigned segment) { return segment == cpu::kFs || segment == cpu::kGs; }

// Half precision in memory raises no #AC.
bool never_align_checked(isa::x86::RowId row) {
  using isa::x86::RowId;
  return row == RowId::VCVTPH2PS_Vx_Wh || row == RowId::VCVTPS2PH_Wh_Vx_Ib || row == RowId::EVCVTPH2PS ||
         row == RowId::EVCVTPS2PH;
}

HostMem tlb_field(MmuIndex mmu, size_t array) {
  return {.base = kHRsp,
          .index = kHRcx,
          .scale = 8,
          .displacement =
              static_cast<int32_t>(offsetof(Context, data_tlb) + static_cast<size_t>(mmu) * sizeof(DataTlb) + array)};
}

}  // namespace

uint8_t BlockBuilder::emit_offset(const MemoryRef& mem, int64_t extra) {
  using isa::x86::kNoRegister;
  using isa::x86::kRipBase;
  const int64_t displacement = mem.displacement + extra;
  const bool small = displacement == static_cast<int32_t>(displacement);
  if (mem.base == kRipBase) {
    const int64_t from_page = displacement + offset_ + insn_->length - (injected(context_, 22) ? insn_->imm_bytes : 0);
    e_.load64(kScratchA, context_field(offsetof(Context, code_base)));
    if (from_page == static_cast<int32_t>(from_page)) {
      e_.lea64(kScratchA, {.base = kScratchA, .displacement = static_cast<int32_t>(from_page)});
    } else {
      e_.mov_imm64(kScratchC, static_cast<uint64_t>(from_page));
      e_.lea64(kScratchA, {.base = kScratchA, .index = kScratchC});
    }
    if (mem.address_size == 4) e_.mov32(kScratchA, kScratchA);
    return kScratchA;
  }
  if (mem.base == kNoRegister && mem.index == kNoRegister) {
    uint64_t value = static_cast<uint64_t>(displacement);
    if (mem.address_size == 4) value = static_cast<uint32_t>(value);
    if (mem.address_size == 2) value = static_cast<uint16_t>(value);
    e_.mov_imm64(kScratchA, value);
    return kScratchA;
  }
  HostMem host{.scale = mem.scale, .displacement = small ? static_cast<int32_t>(displacement) : 0};
  if (mem.base != kNoRegister) {
    host.base = host_register(mem.base);
    if (host.base == kHNone) {
      e_.load64(kScratchA, gpr_slot(mem.base));
      host.base = kScratchA;
    }
  }
  if (mem.index != kNoRegister && !mem.vsib) {
    host.index = host_register(mem.index);
    if (host.index == kHNone) {
      e_.load64(kScratchC, gpr_slot(mem.index));
      host.index = kScratchC;
    }
  }
  if (mem.address_size == 8 && code64() && host.index == kHNone && host.displacement == 0 && small) {
    return host.base;  // as it is; scratch A if it came from memory
  }
  switch (mem.address_size) {
    case 8: e_.lea64(kScratchA, host); break;
    case 4:
      injected(context_, 23) && host.index != kHNone ? e_.lea64(kScratchA, host) : e_.lea32(kScratchA, host);
      break;
    default:
      e_.lea32(kScratchA, host);
      if (!injected(context_, 24)) e_.movzx16(kScratchA, kScratchA);
      break;
  }
  return kScratchA;
}

uint8_t BlockBuilder::emit_segment(uint8_t reg, unsigned segment, unsigned size, AccessKind kind) {
  through_ss_ = segment == cpu::kSs;
  bool check = (mode_ & mode::kReal) != 0;
  if (code64()) {
    if (!based(segment) || (injected(context_, 25) && segment == cpu::kFs && kind == AccessKind::kWrite)) return reg;
  } else if (!check) {
    if (based(segment))
      check = !(mode_ & (segment == cpu::kFs ? mode::kFsPlain : mode::kGsPlain));
    else if (segment == cpu::kCs)
      check = kind != AccessKind::kRead || !(mode_ & mode::kFlat);
    else if (mode_ & mode::kFlat)
      return reg;
    else
      check = true;
  }
  if (check) {
    e_.mov64(kScratchA, reg);
    const bool x87_store = kind == AccessKind::kWrite && is_x87_store();
    e_.mov_imm32(kScratchC, size | (kind != AccessKind::kRead ? kInfoWrite : 0) | (x87_store ? kInfoX87Store : 0) |
                                (masked_memory() ? kInfoMasked : 0) | segment << kInfoSegmentShift);
    e_.call(runtime_.thunks().segment);
    return kScratchA;
  }
  if (!based(segment)) return reg;  // CS, flat
  if (code64()) {
    e_.load64(kScratchC, segment_base(segment));
    e_.lea64(kScratchA, {.base = reg, .index = kScratchC});
  } else {
    e_.load32(kScratchC, segment_base(segment));
    e_.lea32(kScratchA, {.base = reg, .index = kScratchC});
  }
  return kScratchA;
}

bool BlockBuilder::is_x87_store() const {
  return insn_->has_memory && isa::x86::row_info(insn_->row).translation == isa::x86::Translation::kCopyX87;
}

bool BlockBuilder::is_locked() const {
  // XCHG with memory locks without being told. [SDM-2C XCHG]
  return insn_->lock || insn_->row == isa::x86::RowId::XCHG_Eb_Gb || insn_->row == isa::x86::RowId::XCHG_Ev_Gv;
}

void BlockBuilder::emit_align_check(uint8_t reg, unsigned size) {
  if (!(mode_ & mode::kAlignCheck) || never_align_checked(insn_->row) ||
      (size != 2 && size != 4 && (size != 8 || injected(context_, 29)) && size != 10))
    return;
  if (reg != kScratchA) e_.mov64(kScratchA, reg);
  e_.mov_imm32(kScratchC, size | kInfoAlignCheck);
  e_.call(runtime_.thunks().segment);
}

uint8_t BlockBuilder::emit_linear(const Insn& insn, unsigned size, AccessKind kind, int64_t extra) {
  const uint8_t offset = emit_offset(insn.mem, extra);
  return emit_segment(offset, insn.mem.segment, size, kind);
}

HostMem BlockBuilder::fold(const HostMem& mem) {
  e_.lea64(kScratchA, mem);
  return {.base = kScratchA};
}

uint32_t BlockBuilder::required_alignment() const {
  const uint32_t alignment = insn_->has_memory ? isa::x86::row_info(insn_->row).memory_alignment : 0;
  return alignment == 1 ? 16u << insn_->vex_l : alignment;
}

// Whether there is something that the mask leaves out of the memory operand.
bool BlockBuilder::masked_memory() const {
  const isa::x86::RowInfo& row = isa::x86::row_info(insn_->row);
  if (!insn_->has_memory || !insn_->evex_mask || !row.element_bytes) return false;
  return !row.memory_whole || insn_->operands[0].kind == isa::x86::OperandKind::kMemory;
}

// Tells the slow path which bytes count.
void BlockBuilder::emit_access_mask() {
  const isa::x86::RowInfo& row = isa::x86::row_info(insn_->row);
  unsigned bytes = 0;
  for (unsigned i = 0; i < insn_->operand_count; ++i)
    if (insn_->operands[i].kind == isa::x86::OperandKind::kMemory) bytes = insn_->operands[i].size_bytes;
  const bool repeated = row.memory_repeated || insn_->evex_b;
  const unsigned vector = (16u << insn_->vex_l) / row.memory_fraction;
  const unsigned lanes = (repeated ? vector : bytes) / row.element_bytes;
  e_.op_mem({.map = 1, .opcode = 0x91, .rex_w = true, .vex = true}, insn_->evex_mask,
            context_field(offsetof(Context, access_mask)));  // kmovq
  e_.store32_imm(context_field(offsetof(Context, access_shape)), row.element_bytes | lanes << 8 |
                                                                     (row.memory_packed ? kShapePacked : 0) |
                                                                     (row.memory_whole ? kShapeWhole : 0));
}

void BlockBuilder::access(uint8_t reg, unsigned size, AccessKind kind, const Body& body, AfterStore after) {
  const bool x87_store = kind == AccessKind::kWrite && is_x87_store();
  // The slow path knows when not to fault.
  const bool checked_late =
      (x87_store || (masked_memory() && (size == 2 || size == 4 || size == 8) && !never_align_checked(insn_->row))) &&
      (mode_ & mode::kAlignCheck);
  if (!checked_late) emit_align_check(reg, size);
  const MmuIndex mmu = mode::mmu(mode_);
  const bool write = kind != AccessKind::kRead;
  uint8_t* const start = e_.position();
  e_.rorx64(kScratchC, reg, 12);
  e_.movzx16(kScratchC, kScratchC);
  e_.load64(kScratchB, tlb_field(mmu, offsetof(DataTlb, addend)));
  e_.load64(kScratchC, tlb_field(mmu, write && !(injected(context_, 27) && kind == AccessKind::kReadWrite)
                                          ? offsetof(DataTlb, write_tag)
                                          : offsetof(DataTlb, read_tag)));
  e_.lea64(kScratchC, {.base = kScratchC,
                       .index = reg,
                       .displacement = injected(context_, 26) && size == 2 ? 0 : static_cast<int32_t>(size) - 1});
  e_.pext64(kScratchC, kScratchC, context_field(offsetof(Context, page_mask)));
  if (!checked_late) e_.jrcxz_skip(5);
  uint8_t* const miss = e_.jmp_open();
  body({.base = reg, .index = kScratchB});
  uint8_t* const done = e_.position();

  const uint32_t info = size | (write ? kInfoWrite : 0) | (kind != AccessKind::kWrite ? kInfoRead : 0) |
                        (through_ss_ && !injected(context_, 28) ? kInfoStack : 0) | (x87_store ? kInfoX87Store : 0) |
                        (checked_late ? kInfoAlignCheck | kInfoAlways : 0) |
                        (kind == AccessKind::kReadWrite && is_locked() ? kInfoLocked : 0) |
                        static_cast<uint32_t>(mmu) << kInfoMmuShift | required_alignment() << kInfoAlignmentShift |
                        (masked_memory() ? kInfoMasked : 0);
  defer([this, reg, write, info, after, start, miss, done, body] {
    e_.bind32(miss);
    if (info & kInfoMasked) emit_access_mask();
    e_.mov64(kScratchA, reg);
    e_.mov_imm32(kScratchC, info);
    e_.call(runtime_.thunks().memory);
    e_.jrcxz_skip(2);  // 0: the TLB has it now
    e_.u8(0xeb);
    e_.u8(5);  // jmp short over the next jump
    e_.jmp(e_.exec_of(start));
    body({.base = kScratchA, .index = kScratchB});
    if (write) {
      e_.mov_imm32(kScratchC, static_cast<uint32_t>(after));
      e_.call(runtime_.thunks().memory_after);
    }
    e_.jmp(e_.exec_of(done));
  });
}

void BlockBuilder::access_operand(const Insn& insn, unsigned size, AccessKind kind, const Body& body) {
  access(emit_linear(insn, size, kind), size, kind, body);
}

}  // namespace rhea::dbt
