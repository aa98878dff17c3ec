// SPDX-License-Identifier: Apache-2.0
// Instructions written again: guest registers replaced by host ones, the memory operand by a translated one.
#include "dbt/inject_bug.h"
#include "dbt/x86/block_builder.h"

namespace rhea::dbt {

using isa::x86::Insn;
using isa::x86::Operand;
using isa::x86::OperandAccess;
using isa::x86::OperandKind;
using isa::x86::OperandSource;
using isa::x86::row_info;
using How = isa::x86::Translation;

namespace {

bool reads(const Operand& operand) { return static_cast<unsigned>(operand.access) & 1; }
bool writes(const Operand& operand) { return static_cast<unsigned>(operand.access) & 2; }
AccessKind kind_of(const Operand& operand) {
  return !writes(operand) ? AccessKind::kRead : reads(operand) ? AccessKind::kReadWrite : AccessKind::kWrite;
}
const Operand* memory_operand(const Insn& insn) {
  for (unsigned i = 0; i < insn.operand_count; ++i)
    if (insn.operands[i].kind == OperandKind::kMemory) return &insn.operands[i];
  return nullptr;
}
bool is_x87(const Insn& insn) {
  return insn.map == 0 && insn.opcode >= 0xd8 && insn.opcode <= 0xdf && insn.vex == isa::x86::Vex::kNone;
}

// Does 66 choose a 16-bit operand here? Not for vector and x87 forms, where it would be another opcode.
bool word_operands(const Insn& insn) {
  if (insn.operand_size != 2 || insn.vex != isa::x86::Vex::kNone || insn.mandatory_prefix == 0x66 || is_x87(insn))
    return false;
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    const OperandKind kind = insn.operands[i].kind;
    if (kind == OperandKind::kVector || kind == OperandKind::kMmx) return false;
  }
  return true;
}

}  // namespace

HostOpcode BlockBuilder::opcode_of(const Insn& insn) const {
  HostOpcode code{
      .map = insn.map, .opcode = insn.opcode, .mandatory_prefix = insn.mandatory_prefix, .rex_w = insn.rex_w};
  code.operand_size_prefix = word_operands(insn);
  code.vex = insn.vex != isa::x86::Vex::kNone;
  code.vex_l = insn.vex_l;
  code.evex = insn.vex == isa::x86::Vex::kEvex;
  if (code.evex) {
    const unsigned length = insn.evex_b && !insn.has_memory ? insn.evex_rounding : insn.vex_l;
    code.evex_tail = static_cast<uint8_t>(insn.evex_zeroing << 7 | length << 5 | insn.evex_b << 4 | insn.evex_mask);
  }
  if (code.vex && code.rex_w && !code64()) {  // outside 64-bit mode W chooses no operand size, but still opcodes
    const isa::x86::RowInfo& row = row_info(insn.row);
    bool general = row.implicit_read || row.implicit_write;
    for (unsigned i = 0; i < insn.operand_count; ++i) general |= insn.operands[i].kind == OperandKind::kGpr;
    if (general) code.rex_w = false;
  }
  code.vex_vvvv = insn.vex_vvvv;
  // With one vCPU and no device that looks at RAM on a thread of its own nobody can tell: the lock would only cost
  // time. (XCHG locks by itself.) Otherwise it is kept, if only as the fence that it is between a driver and a device.
  code.lock = insn.lock && insn.has_memory && runtime_.space().ordered();
  return code;
}

void BlockBuilder::emit_immediate(const Insn& insn) {
  const bool two = insn.operand_count > 1 && insn.operands[insn.operand_count - 2].kind == OperandKind::kImmediate;
  if (two) {  // EXTRQ, INSERTQ
    e_.u8(static_cast<uint8_t>(insn.imm));
    e_.u8(static_cast<uint8_t>(insn.imm2));
    return;
  }
  auto value = static_cast<uint64_t>(insn.imm);
  for (unsigned i = 0; i < insn.imm_bytes; ++i, value >>= 8) e_.u8(static_cast<uint8_t>(value));
}

void BlockBuilder::load_gpr(uint8_t host, unsigned gpr) {
  const uint8_t from = host_register(static_cast<uint8_t>(gpr));
  if (from == kHNone)
    e_.load64(host, gpr_slot(gpr));
  else
    e_.mov64(host, from);
}

void BlockBuilder::store_gpr(unsigned gpr, uint8_t host) {
  const uint8_t to = host_register(static_cast<uint8_t>(gpr));
  if (to == kHNone)
    e_.store64(gpr_slot(gpr), host);
  else
    e_.mov64(to, host);
}

void BlockBuilder::copy(const Insn& insn) {
  if (!code64() && (insn.row == isa::x86::RowId::VZEROALL || insn.row == isa::x86::RowId::VZEROUPPER)) {
    clear_upper_vectors(insn);
    return;
  }
  const Operand* memory = insn.has_memory ? memory_operand(insn) : nullptr;
  if (!memory || memory->access == OperandAccess::kAddressOnly) {
    copy_with(insn, nullptr);
    return;
  }
  // An exception left pending by earlier x87 code comes before any fault of the operand.
  const FpuClass fpu = fpu_class_of(insn);
  if (fpu == FpuClass::kMmx || (fpu == FpuClass::kX87 && (row_info(insn.row).translation == How::kCopyX87 ||
                                                          insn.row == isa::x86::RowId::FLDCW)))
    if (!injected(context_, 15)) e_.u8(0x9b);  // fwait
  access_operand(insn, memory->size_bytes, kind_of(*memory),
                 [this, &insn](const HostMem& mem) { copy_with(insn, &mem); });
}

// Finds the fields that name general registers, and which of those live in memory.
BlockBuilder::CopyFields BlockBuilder::map_fields(const Insn& insn, HostOpcode& code) const {
  CopyFields fields;
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    const Operand& operand = insn.operands[i];
    if (operand.kind != OperandKind::kGpr) continue;
    CopyField* field = operand.source == OperandSource::kModrmReg ? &fields.reg
                       : operand.source == OperandSource::kModrmRm || operand.source == OperandSource::kOpcodeReg
                           ? &fields.rm
                       : operand.source == OperandSource::kVexVvvv ? &fields.vvvv
                                                                   : nullptr;
    if (!field) continue;
    field->operand = &operand;
    field->host = host_register(operand.reg);
    if (injected(context_, 1) && operand.reg == cpu::kR9 && insn.map == 1 && field == &fields.rm) field->host = kHR10;
    field->spilled = field->host == kHNone;
    fields.spilled += field->spilled;
    if (operand.size_bytes == 1 && !field->spilled && field->host >= 4 && field->host < 8)
      code.force_rex = !(injected(context_, 2) && field->host == kHRdi);
  }
  return fields;
}

// Gives each register that lives in memory a temporary, and loads it where its old value matters.
void BlockBuilder::load_spilled(CopyFields& fields, std::span<const uint8_t> temporaries) {
  RHEA_CHECK(fields.spilled <= temporaries.size());
  const std::array<CopyField*, 3> all = {&fields.reg, &fields.rm, &fields.vvvv};
  unsigned used = 0;
  for (CopyField* field : all) {
    if (!field->spilled) continue;
    // The same guest register in two fields shares one temporary.
    for (const CopyField* other : all)
      if (other != field && other->spilled && other->operand->reg == field->operand->reg && other->host != kHNone &&
          !injected(context_, 5))
        field->host = other->host;
    if (field->host != kHNone) continue;
    field->host = temporaries[used++];
    bool needed = reads(*field->operand) || (field->operand->size_bytes < 4 && !injected(context_, 4));
    for (const CopyField* other : all)
      needed |= other != field && other->operand && other->operand->reg == field->operand->reg;
    if (needed) e_.load64(field->host, gpr_slot(field->operand->reg));
  }
}

void BlockBuilder::store_spilled(const CopyFields& fields) {
  for (const CopyField* field : {&fields.reg, &fields.rm, &fields.vvvv})
    if (field->spilled && writes(*field->operand) &&
        !(injected(context_, 3) && field == &fields.reg && field->operand->reg == cpu::kR14))
      e_.store64(gpr_slot(field->operand->reg), field->host);
}

void BlockBuilder::emit_copied(const Insn& insn, HostOpcode code, const CopyFields& fields, const HostMem* mem) {
  const uint8_t reg_field = fields.reg.operand ? fields.reg.host : insn.modrm_reg;
  const uint8_t rm_field = fields.rm.operand ? fields.rm.host : insn.modrm_rm;
  if (fields.vvvv.operand && !(injected(context_, 9) && fields.vvvv.spilled)) code.vex_vvvv = fields.vvvv.host;
  if (mem) {
    e_.op_mem(code, reg_field, *mem);
  } else if (insn.has_modrm) {
    e_.op_reg(code, reg_field, rm_field);
  } else {
    if (code.operand_size_prefix) e_.u8(0x66);
    if (fields.rm.operand) {  // BSWAP
      const auto rex = static_cast<uint8_t>(0x40 | (code.rex_w << 3) | (rm_field >> 3));
      if (rex != 0x40) e_.u8(rex);
      e_.u8(0x0f);
      code.opcode = static_cast<uint8_t>((code.opcode & 0xf8) | (rm_field & 7));
    } else if (code.vex) {  // VZEROUPPER, VZEROALL
      e_.u8(0xc5);
      e_.u8(static_cast<uint8_t>(0x80 | 0x78 | code.vex_l << 2));
    } else {
      if (code.mandatory_prefix) e_.u8(code.mandatory_prefix);
      if (code.rex_w) e_.u8(0x48);
      if (code.map) e_.u8(0x0f);
    }
    e_.u8(code.opcode);
  }
  emit_immediate(insn);
}

void BlockBuilder::copy_with(const Insn& insn, const HostMem* guest_mem) {
  const isa::x86::RowInfo& row = row_info(insn.row);
  for (unsigned i = 0; i < insn.operand_count; ++i)
    if (insn.operands[i].kind == OperandKind::kGpr && insn.operands[i].high_byte)
      return copy_high_byte(insn, guest_mem);

  HostMem mem = guest_mem ? *guest_mem : HostMem{};
  HostOpcode code = opcode_of(insn);
  CopyFields fields = map_fields(insn, code);
  const bool count_in_cl = row.translation == How::kShiftCl;
  const bool rcx_in = count_in_cl || ((row.implicit_read & (1u << cpu::kRcx)) &&
                                      !(injected(context_, 7) && insn.row == isa::x86::RowId::CMPXCHG8B));
  const bool rcx_out = (row.implicit_write & (1u << cpu::kRcx)) && !(injected(context_, 8) && insn.map == 3);

  // Temporaries: scratch C unless RCX itself is needed; scratch B once the operand is folded; scratch A without one.
  std::array<uint8_t, 3> temporaries{};
  unsigned available = 0;
  if (!rcx_in && !rcx_out) temporaries[available++] = kScratchC;
  if (!guest_mem) {
    temporaries[available++] = kScratchB;
    temporaries[available++] = kScratchA;
  } else if (fields.spilled > available) {
    mem = fold(mem);
    temporaries[available++] = kScratchB;
  }
  load_spilled(fields, {temporaries.data(), available});
  if (rcx_in && !(injected(context_, 6) && count_in_cl && fields.spilled)) e_.mov64(kHRcx, kGuestRcx);
  const bool x87_mask_change = insn.row == isa::x86::RowId::FNCLEX || insn.row == isa::x86::RowId::FLDCW;
  if (x87_mask_change) {
    if (guest_mem) mem = fold(mem);
    latch_x87_before_clear();
  }
  emit_copied(insn, code, fields, guest_mem ? &mem : nullptr);
  store_spilled(fields);
  if (rcx_out) e_.mov64(kGuestRcx, kHRcx);
  if (row.translation == How::kCopyX87) record_x87(insn, guest_mem != nullptr);
  if (x87_mask_change) settle_x87_pointers();
}

// AH, CH, DH, BH exist only without REX: everything must sit in the eight old registers. Guest RCX is brought
// into RCX itself; guest RSP and the address of a memory operand borrow RDI, which no such instruction names.
void BlockBuilder::copy_high_byte(const Insn& insn, const HostMem* guest_mem) {
  HostOpcode code = opcode_of(insn);
  const HostMem save = context_field(offsetof(Context, scratch) + 8);
  bool uses_rcx = false, uses_rsp = false, writes_rcx = false, writes_rsp = false;
  const bool count_in_cl = row_info(insn.row).translation == How::kShiftCl;
  uint8_t reg_field = insn.modrm_reg, rm_field = insn.modrm_rm;
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    const Operand& operand = insn.operands[i];
    if (operand.kind != OperandKind::kGpr) continue;
    const auto number = static_cast<uint8_t>(
        operand.high_byte && !(injected(context_, 10) && operand.reg == cpu::kRdx) ? operand.reg + 4 : operand.reg);
    uint8_t host = number;
    if (operand.reg == cpu::kRcx) {
      uses_rcx = true;
      writes_rcx |= writes(operand);
    } else if (operand.reg == cpu::kRsp && !operand.high_byte) {
      uses_rsp = true;
      writes_rsp |= writes(operand);
      host = kHRdi;
    }
    if (operand.source == OperandSource::kModrmReg) reg_field = host;
    if (operand.source == OperandSource::kModrmRm || operand.source == OperandSource::kOpcodeReg) rm_field = host;
  }
  if (guest_mem) {
    e_.lea64(kScratchA, *guest_mem);
    e_.store64(save, kHRdi);
    e_.mov64(kHRdi, kScratchA);
  } else if (uses_rsp) {
    e_.store64(save, kHRdi);
    e_.mov64(kHRdi, kGuestRsp);
  }
  if (uses_rcx || count_in_cl) e_.mov64(kHRcx, kGuestRcx);
  if (guest_mem)
    e_.op_mem(code, reg_field, {.base = kHRdi});
  else if (insn.has_modrm)
    e_.op_reg(code, reg_field, rm_field);
  else
    e_.u8(static_cast<uint8_t>((insn.opcode & 0xf8) | (rm_field & 7)));  // MOV r8, imm8 (B0+r)
  emit_immediate(insn);
  if (writes_rcx && !injected(context_, 11)) e_.mov64(kGuestRcx, kHRcx);
  if (writes_rsp) e_.mov64(kGuestRsp, kHRdi);
  if ((guest_mem && !injected(context_, 12)) || uses_rsp) e_.load64(kHRdi, save);
}

// What FNSTENV and friends must show instead of addresses in the code cache. After the instruction: one that
// raises #MF for an earlier exception must leave the pointers alone. The access is over: all scratch is free.
void BlockBuilder::record_x87(const Insn& insn, bool has_operand) {
  e_.load64(kScratchC, context_field(offsetof(Context, code_base)));
  e_.lea64(kScratchC, {.base = kScratchC, .displacement = static_cast<int32_t>(offset_)});
  if (!(injected(context_, 13) && has_operand)) e_.store64(context_field(offsetof(Context, fpu_fip)), kScratchC);
  e_.store16_imm(context_field(offsetof(Context, x87_last_fop)),
                 static_cast<uint16_t>((insn.opcode & 7) << 8 | insn.modrm));
  if (has_operand) {
    e_.store64(context_field(offsetof(Context, x87_last_fdp)), emit_offset(insn.mem));
  } else {  // a register form that raises leaves the data pointer as it was
    e_.load64(kScratchC, context_field(offsetof(Context, fpu_fdp)));
    e_.store64(context_field(offsetof(Context, x87_last_fdp)), kScratchC);
  }
}

// FNCLEX forgets that there was an exception, FLDCW may make one of an old flag: keep the pointers first.
void BlockBuilder::latch_x87_before_clear() {
  if (injected(context_, 14)) return;
  const HostMem status = context_field(offsetof(Context, scratch));
  e_.op_mem({.opcode = 0xdd}, 7, status);  // fnstsw
  e_.load16(kScratchC, status);
  e_.pext64(kScratchC, kScratchC, context_field(offsetof(Context, x87_summary_mask)));
  uint8_t* const none = e_.jrcxz_open();
  e_.load16(kScratchC, context_field(offsetof(Context, x87_last_fop)));
  e_.store16(context_field(offsetof(Context, fpu_fop)), kScratchC);
  e_.load64(kScratchC, context_field(offsetof(Context, x87_last_fdp)));
  e_.store64(context_field(offsetof(Context, fpu_fdp)), kScratchC);
  e_.bind8(none);
}

// ... and what is pending from here on has no instruction of its own yet.
void BlockBuilder::settle_x87_pointers() {
  e_.load16(kScratchC, context_field(offsetof(Context, fpu_fop)));
  e_.store16(context_field(offsetof(Context, x87_last_fop)), kScratchC);
  e_.load64(kScratchC, context_field(offsetof(Context, fpu_fdp)));
  e_.store64(context_field(offsetof(Context, x87_last_fdp)), kScratchC);
}

// Hints have no effect, but the CLFLUSH family checks its operand as a load does. [SDM-2A CLFLUSH]
void BlockBuilder::no_operation(const Insn& insn) {
  using isa::x86::RowId;
  if (insn.row != RowId::CLFLUSH && insn.row != RowId::CLFLUSHOPT && insn.row != RowId::CLWB) return;
  access_operand(insn, 1, AccessKind::kRead, [](const HostMem&) {});
}

// VZEROUPPER and VZEROALL reach registers 0-7 only outside 64-bit mode.
void BlockBuilder::clear_upper_vectors(const Insn& insn) {
  const bool all = insn.row == isa::x86::RowId::VZEROALL;
  for (uint8_t reg = 0; reg < 8; ++reg) {
    if (all)
      e_.op_reg({.map = 1, .opcode = 0xef, .mandatory_prefix = 0x66, .vex = true, .vex_vvvv = reg}, reg, reg);  // vpxor
    else
      e_.op_reg({.map = 1, .opcode = 0x28, .vex = true}, reg, reg);  // vmovaps
  }
}

void BlockBuilder::move_gpr(const Insn& insn) {
  if (insn.map == 0 && insn.opcode >= 0xa0 && insn.opcode <= 0xa3) {
    // The absolute-offset forms become MOV with ModRM: 8A, 8B, 88, 89 with the accumulator as register.
    constexpr uint8_t kOpcode[4] = {0x8a, 0x8b, 0x88, 0x89};
    const bool store = insn.opcode >= 0xa2;
    const unsigned size = (insn.opcode & 1) ? insn.operand_size : 1;
    const HostOpcode code{.opcode = kOpcode[insn.opcode - 0xa0], .operand_size_prefix = size == 2, .rex_w = size == 8};
    access_operand(insn, size, store ? AccessKind::kWrite : AccessKind::kRead,
                   [this, code](const HostMem& mem) { e_.op_mem(code, kHRax, mem); });
    return;
  }
  if (insn.map == 0 && insn.opcode >= 0xb0 && insn.opcode <= 0xbf && !insn.operands[0].high_byte) {
    const uint8_t gpr = insn.operands[0].reg;
    const uint8_t reg = host_register(gpr);
    const unsigned size = insn.opcode >= 0xb8 ? insn.operand_size : 1;
    if (size >= 4) {
      const uint8_t to = reg == kHNone ? static_cast<uint8_t>(kScratchC) : reg;
      e_.mov_imm64(to, size != 4                                 ? static_cast<uint64_t>(insn.imm)
                       : injected(context_, 16) && reg == kHNone ? static_cast<uint64_t>(static_cast<int32_t>(insn.imm))
                                                                 : static_cast<uint32_t>(insn.imm));
      if (reg == kHNone) e_.store64(gpr_slot(gpr), to);
    } else if (reg == kHNone) {
      if (size == 1)
        e_.store8_imm(gpr_slot(gpr), static_cast<uint8_t>(insn.imm));
      else
        e_.store16_imm(gpr_slot(gpr), static_cast<uint16_t>(insn.imm));
    } else {
      e_.op_reg({.opcode = static_cast<uint8_t>(size == 1 ? 0xc6 : 0xc7),
                 .operand_size_prefix = size == 2,
                 .force_rex = size == 1 && reg >= 4},
                0, reg);
      if (size == 1)
        e_.u8(static_cast<uint8_t>(insn.imm));
      else
        e_.u16(static_cast<uint16_t>(insn.imm));
    }
    return;
  }
  copy(insn);
}

void BlockBuilder::load_effective_address(const Insn& insn) {
  const uint8_t gpr = insn.operands[0].reg;
  const uint8_t to = host_register(gpr);
  const uint8_t from = emit_offset(insn.mem);
  switch (insn.operand_size) {
    case 8: store_gpr(gpr, from); break;
    case 4:
      if (to == kHNone) {
        injected(context_, 17) ? e_.mov64(kScratchA, from) : e_.mov32(kScratchA, from);
        e_.store64(gpr_slot(gpr), kScratchA);
      } else {
        e_.mov32(to, from);
      }
      break;
    default:
      if (to == kHNone)
        injected(context_, 18) ? e_.store64(gpr_slot(gpr), from) : e_.store16(gpr_slot(gpr), from);
      else
        e_.op_reg({.opcode = 0x8b, .operand_size_prefix = true}, to, from);
      break;
  }
}

// BT and kin with a register index reach beyond the operand: the whole words of the index move the address,
// the rest stays in the instruction. [SDM-2A BT]
void BlockBuilder::bit_string(const Insn& insn) {
  const unsigned size = insn.operand_size;
  const uint8_t gpr = insn.operands[1].reg;
  uint8_t offset = emit_offset(insn.mem);
  if (offset != kScratchA) e_.mov64(kScratchA, offset);
  load_gpr(kScratchC, gpr);
  if (size == 4) e_.op_reg({.opcode = 0x63, .rex_w = !injected(context_, 19)}, kScratchC, kScratchC);  // movsxd
  if (size == 2) e_.op_reg({.map = 1, .opcode = 0xbf, .rex_w = true}, kScratchC, kScratchC);           // movsx
  e_.mov_imm32(kScratchB, size == 8 ? 6 : size == 4 ? 5 : 4);
  e_.op_reg({.map = 2, .opcode = 0xf7, .mandatory_prefix = 0xf3, .rex_w = true, .vex = true, .vex_vvvv = kScratchB},
            kScratchC, kScratchC);  // sarx
  const HostMem moved{.base = kScratchA, .index = kScratchC, .scale = static_cast<uint8_t>(size)};
  if (insn.mem.address_size == 8) {
    e_.lea64(kScratchA, moved);
  } else {
    e_.lea32(kScratchA, moved);
    if (insn.mem.address_size == 2) e_.movzx16(kScratchA, kScratchA);
  }
  const AccessKind kind = kind_of(insn.operands[0]);
  const uint8_t linear = emit_segment(kScratchA, insn.mem.segment, size, kind);
  access(linear, size, kind, [this, &insn, size, gpr](const HostMem& mem) {
    HostMem operand = mem;
    uint8_t from = host_register(gpr);
    if (from == kHNone) {
      operand = fold(mem);
      e_.load64(kScratchB, gpr_slot(gpr));
      from = kScratchB;
    }
    e_.pext64(kScratchC, from,
              context_field(offsetof(Context, bit_masks) + (size == 8                             ? 16
                                                            : size == 4 || injected(context_, 20) ? 8
                                                                                                  : 0)));
    e_.op_mem(opcode_of(insn), kScratchC, operand);
  });
}

void BlockBuilder::exchange_accumulator(const Insn& insn) {
  const uint8_t gpr = insn.operands[0].reg;
  const uint8_t reg = host_register(gpr);
  const HostOpcode code{.opcode = 0x87, .operand_size_prefix = insn.operand_size == 2, .rex_w = insn.operand_size == 8};
  if (reg != kHNone) {
    e_.op_reg(code, kHRax, reg);
    return;
  }
  e_.load64(kScratchC, gpr_slot(gpr));
  e_.op_reg(code, kHRax, kScratchC);
  if (!injected(context_, 21)) e_.store64(gpr_slot(gpr), kScratchC);
}

}  // namespace rhea::dbt
