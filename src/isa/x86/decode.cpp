// SPDX-License-Identifier: Apache-2.0
// The decoder: prefixes, opcode and ModRM select a row of rows.inc; its operand columns do the rest.
//
// The bytes are copied into a zero-padded buffer, so that no step needs a bounds check: a decode that ran past what
// was given is found out at the end, and what it made of the padding is thrown away.
#include <array>
#include <cstring>

#include "isa/x86/insn.h"
#include "isa/x86/row_encoding.h"
#include "isa/x86/rows.h"

namespace rhea::isa::x86 {
namespace {

constexpr unsigned kMaxLength = 15;  // [SDM-2A 2.3.11]
constexpr uint32_t kLengthBits[] = {accept::kL0, accept::kL1, accept::kL2};
// 15 prefixes, then at most 3 opcode bytes, ModRM, SIB, 4 of displacement and 8 of immediate.
constexpr size_t kBufferBytes = 48;

enum class PrefixByte : uint8_t { kNone, kOperandSize, kAddressSize, kLock, kRep, kRepne, kSegment, kRex };

constexpr std::array<PrefixByte, 256> kPrefixBytes = [] {
  std::array<PrefixByte, 256> table{};
  for (unsigned byte = 0x40; byte < 0x50; ++byte) table[byte] = PrefixByte::kRex;
  table[0x66] = PrefixByte::kOperandSize;
  table[0x67] = PrefixByte::kAddressSize;
  table[0xf0] = PrefixByte::kLock;
  table[0xf2] = PrefixByte::kRepne;
  table[0xf3] = PrefixByte::kRep;
  for (unsigned byte : {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65}) table[byte] = PrefixByte::kSegment;
  return table;
}();

class Decoder {
 public:
  Decoder(std::span<const uint8_t> bytes, CpuMode mode, Insn& insn)
      : mode_(mode), insn_(insn), available_(bytes.size()) {
    if (bytes.size() >= 16) {
      std::memcpy(buffer_, bytes.data(), 16);
    } else if (!bytes.empty()) {
      std::memcpy(buffer_, bytes.data(), bytes.size());
    }
  }

  DecodeStatus run() {
    parse_prefixes();
    if (!parse_opcode() || !select_row() || !check_encoding()) return finish(DecodeStatus::kInvalid);
    set_sizes();
    if (entry_.has_modrm && insn_.modrm < 0xc0 && !register_form_only_) parse_memory();
    if (!parse_operands()) return finish(DecodeStatus::kInvalid);
    if (insn_.lock && !(row_info(insn_.row).lockable && insn_.has_memory)) return finish(DecodeStatus::kInvalid);
    insn_.length = static_cast<uint8_t>(position_);
    return finish(DecodeStatus::kOk);
  }

 private:
  // What was decoded from padding does not count.
  DecodeStatus finish(DecodeStatus status) const {
    if (position_ > kMaxLength) return available_ >= kMaxLength ? DecodeStatus::kTooLong : DecodeStatus::kNeedMore;
    return position_ > available_ ? DecodeStatus::kNeedMore : status;
  }

  uint8_t take8() { return buffer_[position_++]; }
  uint16_t take16() { return take<uint16_t>(); }
  uint32_t take32() { return take<uint32_t>(); }
  template <class T>
  T take() {
    T value;
    std::memcpy(&value, buffer_ + position_, sizeof(value));
    position_ += sizeof(value);
    return value;
  }

  void parse_prefixes() {
    for (; position_ < kMaxLength; ++position_) {
      const uint8_t byte = buffer_[position_];
      switch (kPrefixBytes[byte]) {
        case PrefixByte::kNone: return;
        case PrefixByte::kOperandSize: operand_size_prefix_ = true; break;
        case PrefixByte::kAddressSize: address_size_prefix_ = true; break;
        case PrefixByte::kLock: insn_.lock = true; break;
        case PrefixByte::kRep: repeat_ = byte; break;
        case PrefixByte::kRepne: repeat_ = byte; break;
        case PrefixByte::kSegment: set_segment(byte); break;
        case PrefixByte::kRex:
          if (mode_ != CpuMode::k64) return;
          rex_ = byte;  // counts only if the opcode follows at once
          continue;
      }
      rex_ = 0;
    }
  }

  // In 64-bit mode ES, CS, SS and DS overrides are null prefixes. [SDM-1 3.3.7.1]
  void set_segment(uint8_t byte) {
    if (byte >= 0x64)
      segment_ = static_cast<uint8_t>(byte - 0x64 + 4);
    else if (mode_ != CpuMode::k64)
      segment_ = (byte >> 3) & 3;
  }

  bool parse_opcode() {
    uint8_t byte = take8();
    if ((byte == 0xc4 || byte == 0xc5) && (mode_ == CpuMode::k64 || buffer_[position_] >= 0xc0)) return parse_vex(byte);
    if (byte == 0x62 && (mode_ == CpuMode::k64 || buffer_[position_] >= 0xc0)) return parse_evex();
    if (byte == 0x0f) {
      insn_.map = 1;
      byte = take8();
      if (byte == 0x38 || byte == 0x3a) {
        insn_.map = byte == 0x38 ? 2 : 3;
        byte = take8();
      }
    }
    insn_.opcode = byte;
    insn_.has_rex = rex_ != 0;
    set_rex_bits(rex_ & 8, rex_ & 4, rex_ & 2, rex_ & 1);
    return true;
  }

  void set_rex_bits(bool w, bool r, bool x, bool b) {
    insn_.rex_w = w;
    reg_high_ = r ? 8 : 0;
    index_high_ = x ? 8 : 0;
    rm_high_ = b ? 8 : 0;
  }

  // [SDM-2A 2.3.5]
  bool parse_vex(uint8_t first) {
    if (first == 0xc4 ? (buffer_[position_] & 0x1f) - 1u > 2 : false) {
      position_ += 2;
      return false;
    }
    insn_.vex = Vex::kVex;
    const uint8_t byte1 = take8();
    uint8_t last = byte1;
    if (first == 0xc4) {
      last = take8();
      insn_.map = byte1 & 0x1f;
      set_rex_bits(last & 0x80, !(byte1 & 0x80), !(byte1 & 0x40), !(byte1 & 0x20));
    } else {
      insn_.map = 1;
      set_rex_bits(false, !(byte1 & 0x80), false, false);
    }
    insn_.vex_vvvv = (~last >> 3) & 15;
    insn_.vex_l = (last >> 2) & 1;
    vex_prefix_ = last & 3;
    insn_.opcode = take8();
    if (mode_ != CpuMode::k64) {
      // R and X read as 1 here, else this were LES or LDS; B is ignored, as is the top bit of a vvvv that is used.
      reg_high_ = index_high_ = rm_high_ = 0;
    }
    return !(operand_size_prefix_ || repeat_ || insn_.lock || rex_);
  }

  // [SDM-2A 2.7.1]
  bool parse_evex() {
    const uint8_t p0 = take8(), p1 = take8(), p2 = take8();
    insn_.opcode = take8();
    insn_.vex = Vex::kEvex;
    insn_.map = p0 & 7;
    const bool map_exists = insn_.map != 0 && insn_.map != 4 && insn_.map != 7;
    if ((p0 & 8) || !(p1 & 4) || !map_exists) return false;
    set_rex_bits(p1 & 0x80, !(p0 & 0x80), !(p0 & 0x40), !(p0 & 0x20));
    insn_.vex_vvvv = static_cast<uint8_t>(((~p1 >> 3) & 15) | (p2 & 8 ? 0 : 16));
    if (!(p0 & 0x10)) reg_high_ |= 16;
    vector_rm_high_ = static_cast<uint8_t>(rm_high_ | (p0 & 0x40 ? 0 : 16));
    vex_prefix_ = p1 & 3;
    insn_.vex_l = (p2 >> 5) & 3;
    insn_.evex_b = p2 & 0x10;
    insn_.evex_zeroing = p2 & 0x80;
    insn_.evex_mask = p2 & 7;
    if (mode_ != CpuMode::k64) {
      reg_high_ = index_high_ = rm_high_ = vector_rm_high_ = 0;
      if (insn_.vex_vvvv & 16) return false;  // the other high bits are ignored
    }
    return !(operand_size_prefix_ || repeat_ || insn_.lock || rex_);
  }

  // Where EVEX.b chooses rounding, L'L is the mode and the vector has all its length.
  void separate_rounding() {
    if (insn_.vex != Vex::kEvex || !insn_.evex_b || buffer_[position_] < 0xc0) return;
    insn_.evex_rounding = insn_.vex_l;
    insn_.vex_l = 2;
  }

  bool select_row() {
    entry_ = kOpcodeTable.entries[(static_cast<unsigned>(insn_.vex) * 8u + insn_.map) * 256u + insn_.opcode];
    separate_rounding();
    if (insn_.vex_l > 2) {
      ++position_;  // ModRM decided that
      return false;
    }
    const unsigned mode_bit = accept::kModeShift + static_cast<unsigned>(mode_) * 2 + insn_.rex_w;
    uint32_t key = (1u << mode_bit) | kLengthBits[insn_.vex_l] | prefix_bit();
    if (entry_.has_modrm) {
      insn_.has_modrm = true;
      const uint8_t modrm = insn_.modrm = take8();
      key |= (modrm >= 0xc0 ? accept::kRegister : accept::kMemory) | 1u << (accept::kRegShift + ((modrm >> 3) & 7)) |
             1u << (accept::kRmShift + (modrm & 7));
    } else {
      key |= (rm_high_ ? accept::kRexB : accept::kNoRexB) | 1u << accept::kRegShift | 1u << accept::kRmShift;
    }
    const Candidate* candidate = &kOpcodeTable.candidates[entry_.first];
    for (const Candidate* end = candidate + entry_.count; candidate != end; ++candidate)
      if ((candidate->accept & key) == key) {
        insn_.row = static_cast<RowId>(candidate->row);
        row_ = &kRowEncodings[candidate->row];
        return true;
      }
    return false;
  }

  uint32_t prefix_bit() const {
    using namespace accept;
    if (insn_.vex != Vex::kNone) {
      constexpr uint32_t kByVexPrefix[4] = {kPrefixNone, kPrefix66, kPrefixF3, kPrefixF2};
      return kByVexPrefix[vex_prefix_];
    }
    if (repeat_) return repeat_ == 0xf3 ? kPrefixF3 : kPrefixF2;
    return operand_size_prefix_ ? kPrefix66 : kPrefixNone;
  }

  // Conditions that are not part of the row's pattern.
  bool check_encoding() {
    if (insn_.vex == Vex::kEvex && !check_evex()) return false;
    if (insn_.vex != Vex::kNone) {
      if (!row_->uses_vvvv && insn_.vex_vvvv) return false;
      insn_.vex_vvvv &= mode_ == CpuMode::k64 ? 31 : 7;
      insn_.mandatory_prefix = row_->mandatory;
      return true;
    }
    insn_.mandatory_prefix = row_->mandatory;
    if (row_->mandatory == 0x66) operand_size_prefix_ = false;
    if (!(row_->mandatory & 0x80)) {  // F2 or F3 not part of the opcode
      insn_.rep = repeat_ == 0xf3;
      insn_.repne = repeat_ == 0xf2;
    }
    insn_.operand_size_prefix = operand_size_prefix_;
    register_form_only_ = insn_.map == 1 && insn_.opcode >= 0x20 && insn_.opcode <= 0x23;  // MOV CR, DR ignore mod
    return true;
  }

  bool check_evex() {
    if (row_->vsib) {  // V' is part of the index
      index_high_ |= insn_.vex_vvvv & 16;
      insn_.vex_vvvv &= 15;
      if (!insn_.evex_mask || insn_.evex_zeroing) return false;  // gathers and scatters consume their mask
    }
    const bool memory = insn_.modrm < 0xc0;
    if (insn_.evex_b && !(memory ? row_->broadcast : row_->rounding || row_->suppress)) return false;
    if (insn_.evex_mask && !row_->mask) return false;
    if (insn_.evex_zeroing) {
      const bool to_memory = memory && row_->operands[0].source == OperandSource::kModrmRm;
      if (!row_->zeroing || !insn_.evex_mask || to_memory) return false;
    }
    return true;
  }

  void set_sizes() {
    insn_.operand_size = operand_size();
    if (mode_ == CpuMode::k64)
      insn_.mem.address_size = address_size_prefix_ ? 4 : 8;
    else
      insn_.mem.address_size = (mode_ == CpuMode::k32) != address_size_prefix_ ? 4 : 2;
    insn_.modrm_reg = ((insn_.modrm >> 3) & 7) | reg_high_;
    insn_.modrm_rm = (insn_.has_modrm ? insn_.modrm & 7 : insn_.opcode & 7) | rm_high_;
  }

  uint8_t operand_size() const {
    if (row_->byte_form) return 1;
    if (mode_ == CpuMode::k64) {
      // Intel ignores 66 on near branches; AMD makes them 16 bits wide there.
      if (row_->default_size == DefaultSize::kF64) return 8;
      if (insn_.rex_w) return row_->at_most_32 ? 4 : 8;
      if (row_->size_from_w) return 4;
      if (operand_size_prefix_) return 2;
      return row_->default_size == DefaultSize::kD64 ? 8 : 4;
    }
    if (row_->size_from_w) return 4;
    return (mode_ == CpuMode::k32) != operand_size_prefix_ ? 4 : 2;
  }

  unsigned size_bytes(Size size) const {
    const unsigned v = insn_.operand_size;
    const unsigned x = row_->vex_l_selects ? 16u << insn_.vex_l : 16;
    switch (size) {
      case Size::kNone: return 0;
      case Size::kB: return 1;
      case Size::kW: return 2;
      case Size::kD: return 4;
      case Size::kQ: return 8;
      case Size::kT: return 10;
      case Size::kDq: return 16;
      case Size::kQq: return 32;
      case Size::kOo: return 64;
      case Size::kV:
      case Size::kSignedByte: return v;
      case Size::kZ: return v < 4 ? v : 4;
      case Size::kY: return insn_.rex_w && mode_ == CpuMode::k64 ? 8 : 4;
      case Size::kM: return mode_ == CpuMode::k64 ? 8 : 4;
      case Size::kX: return x;
      case Size::kH: return x / 2;
      case Size::kF: return x / 4;
      case Size::kE: return x / 8;
      case Size::kA: return v * 2;
      case Size::kP: return v + 2;
      case Size::kFx: return 512;
      case Size::kEn: return v == 2 ? 14 : 28;
      case Size::kSa: return v == 2 ? 94 : 108;
      case Size::kS: return mode_ == CpuMode::k64 ? 10 : 6;
    }
    return 0;
  }

  // ---- memory operands ----

  void set_default_segment(bool stack) { insn_.mem.segment = segment_ != kNoRegister ? segment_ : stack ? 2 : 3; }

  void parse_memory() {
    insn_.has_memory = true;
    if (insn_.mem.address_size == 2)
      parse_memory16();
    else
      parse_memory32();
  }

  void parse_displacement(unsigned mod, bool forced_full, bool wide) {
    if (mod == 1)
      insn_.mem.displacement = static_cast<int8_t>(take8()) * static_cast<int64_t>(displacement_scale());
    else if (mod == 2 || forced_full)
      insn_.mem.displacement = wide ? static_cast<int32_t>(take32()) : static_cast<int16_t>(take16());
  }

  // [SDM-2A 2.7.5]
  unsigned displacement_scale() const {
    if (insn_.vex != Vex::kEvex) return 1;
    if (insn_.evex_b || row_->element_displacement) return row_info(insn_.row).element_bytes;
    for (unsigned i = 0; i < row_->operand_count; ++i)
      if (row_->operands[i].source == OperandSource::kModrmRm) return size_bytes(row_->operands[i].memory_size);
    return 1;
  }

  void parse_memory16() {
    constexpr uint8_t kNone = kNoRegister, kBx = 3, kBp = 5, kSi = 6, kDi = 7;
    constexpr struct {
      uint8_t base, index;
    } kForms[8] = {{kBx, kSi},   {kBx, kDi},   {kBp, kSi},   {kBp, kDi},
                   {kSi, kNone}, {kDi, kNone}, {kBp, kNone}, {kBx, kNone}};
    const unsigned mod = insn_.modrm >> 6, rm = insn_.modrm & 7;
    const bool absolute = mod == 0 && rm == 6;
    if (!absolute) insn_.mem.base = kForms[rm].base, insn_.mem.index = kForms[rm].index;
    parse_displacement(mod, absolute, false);
    set_default_segment(insn_.mem.base == kBp);
  }

  void parse_memory32() {
    const unsigned mod = insn_.modrm >> 6, rm = insn_.modrm & 7;
    MemoryRef& mem = insn_.mem;
    bool no_base = false;
    if (rm == 4) {
      const uint8_t sib = take8();
      const uint8_t index = ((sib >> 3) & 7) | index_high_;
      if (row_->vsib || index != 4) mem.index = index, mem.scale = static_cast<uint8_t>(1u << (sib >> 6));
      mem.vsib = row_->vsib;
      no_base = mod == 0 && (sib & 7) == 5;
      if (!no_base) mem.base = (sib & 7) | rm_high_;
    } else if (mod == 0 && rm == 5) {
      no_base = true;
      if (mode_ == CpuMode::k64) mem.base = kRipBase;
    } else {
      mem.base = static_cast<uint8_t>(rm | rm_high_);
    }
    parse_displacement(mod, no_base, true);
    set_default_segment(mem.base == 4 || mem.base == 5);
  }

  // ---- operands ----

  bool parse_operands() {
    insn_.operand_count = row_->operand_count;
    for (unsigned i = 0; i < row_->operand_count; ++i)
      if (!parse_operand(row_->operands[i], insn_.operands[i])) return false;
    if (row_->vsib && insn_.vex == Vex::kVex && !gather_registers_distinct()) return false;
    if (insn_.vex == Vex::kEvex && !evex_registers_distinct()) return false;
    normalise();
    return true;
  }

  void set_gpr(Operand& operand, unsigned reg) const {
    operand.kind = OperandKind::kGpr;
    operand.reg = static_cast<uint8_t>(reg);
    if (operand.size_bytes == 1 && !insn_.has_rex && reg >= 4 && reg < 8 && insn_.vex == Vex::kNone)
      operand.high_byte = true, operand.reg = static_cast<uint8_t>(reg - 4);
  }

  void set_vector(Operand& operand, unsigned reg) const {
    operand.kind = OperandKind::kVector;
    operand.reg = static_cast<uint8_t>(reg);
    if (operand.size_bytes < 16) operand.size_bytes = 16;
  }

  void set_plain(Operand& operand, OperandKind kind, unsigned reg) const {
    operand.kind = kind;
    operand.reg = static_cast<uint8_t>(reg);
  }

  bool set_memory(Operand& operand, const OperandSpec& spec) const {
    operand.kind = OperandKind::kMemory;
    operand.size_bytes = static_cast<uint16_t>(size_bytes(spec.memory_size));
    if (insn_.evex_b) operand.size_bytes = row_info(insn_.row).element_bytes;
    return true;
  }

  bool parse_operand(const OperandSpec& spec, Operand& operand) {
    operand.access = spec.access;
    operand.source = spec.source;
    operand.size_bytes = static_cast<uint16_t>(size_bytes(spec.size));
    switch (spec.place) {
      case Place::kNone: return true;
      case Place::kRmGpr:
        if (insn_.has_memory) return set_memory(operand, spec);
        set_gpr(operand, insn_.modrm_rm);
        return true;
      case Place::kRmGprOnly: set_gpr(operand, insn_.modrm_rm); return true;
      case Place::kRegGpr: set_gpr(operand, insn_.modrm_reg); return insn_.modrm_reg < 16;
      case Place::kVvvvGpr: set_gpr(operand, insn_.vex_vvvv); return true;
      case Place::kOpcodeGpr: set_gpr(operand, insn_.modrm_rm); return true;
      case Place::kRmVector:
        if (insn_.has_memory) return set_memory(operand, spec);
        [[fallthrough]];
      case Place::kRmVectorOnly:
        if (insn_.vex == Vex::kEvex) insn_.modrm_rm = (insn_.modrm & 7) | vector_rm_high_;
        set_vector(operand, insn_.modrm_rm);
        return true;
      case Place::kRegVector: set_vector(operand, insn_.modrm_reg); return true;
      case Place::kVvvvVector: set_vector(operand, insn_.vex_vvvv); return true;
      case Place::kRmMmx:
        if (insn_.has_memory) return set_memory(operand, spec);
        [[fallthrough]];
      case Place::kRmMmxOnly: set_mmx(operand, insn_.modrm & 7); return true;
      case Place::kRegMmx: set_mmx(operand, (insn_.modrm >> 3) & 7); return true;
      case Place::kRmMask:
        if (insn_.has_memory) return set_memory(operand, spec);
        [[fallthrough]];
      case Place::kRmMaskOnly: return set_mask(operand, insn_.modrm & 7);  // VEX.B is ignored
      case Place::kRegMask: return set_mask(operand, insn_.modrm_reg);
      case Place::kVvvvMask: return set_mask(operand, insn_.vex_vvvv);
      case Place::kMemory: return set_memory(operand, spec);
      case Place::kVsib: return insn_.mem.vsib && set_memory(operand, spec);  // needs a SIB byte, so no 16-bit form
      default: return parse_special_operand(spec, operand);
    }
  }

  void set_mmx(Operand& operand, unsigned reg) const {
    set_plain(operand, OperandKind::kMmx, reg);
    operand.size_bytes = 8;
  }

  // There are eight: a fourth bit in ModRM.reg or VEX.vvvv is #UD. [SDM-2A 2.5.1]
  bool set_mask(Operand& operand, unsigned reg) const {
    set_plain(operand, OperandKind::kMask, reg);
    return reg < 8;
  }

  bool parse_special_operand(const OperandSpec& spec, Operand& operand) {
    switch (spec.place) {
      case Place::kSource: return set_string_memory(operand, 6, false);
      case Place::kDestination: return set_string_memory(operand, 7, true);
      case Place::kOffset: return parse_offset(operand, spec);
      case Place::kImmediate: return parse_immediate(spec.size, operand);
      case Place::kImmVector:
        insn_.imm = take8();
        insn_.imm_bytes = 1;
        set_vector(operand, static_cast<unsigned>(insn_.imm >> 4) & (mode_ == CpuMode::k64 ? 15 : 7));
        return true;
      case Place::kRelative: parse_relative(spec.size, operand); return true;
      case Place::kFarPointer:
        operand.kind = OperandKind::kFarPointer;
        insn_.imm = insn_.operand_size == 2 ? take16() : take32();
        insn_.imm2 = take16();
        insn_.imm_bytes = operand.size_bytes = insn_.operand_size + 2;
        return true;
      case Place::kControl:
        set_plain(operand, OperandKind::kControl, insn_.modrm_reg);
        return (0x11d >> insn_.modrm_reg) & 1 && (insn_.modrm_reg < 8 || mode_ == CpuMode::k64);
      case Place::kDebug: set_plain(operand, OperandKind::kDebug, insn_.modrm_reg); return insn_.modrm_reg < 8;
      case Place::kSegment: {
        const uint8_t segment = (insn_.modrm >> 3) & 7;  // REX.R is ignored
        set_plain(operand, OperandKind::kSegment, segment);
        return segment < 6 && !(spec.access == OperandAccess::kWrite && segment == 1);
      }
      case Place::kStI: set_plain(operand, OperandKind::kX87, insn_.modrm & 7); return true;
      default: set_implied(spec, operand); return true;
    }
  }

  void set_implied(const OperandSpec& spec, Operand& operand) {
    operand.implicit = true;
    operand.reg = spec.fixed;
    switch (spec.place) {
      case Place::kFixedGpr: operand.kind = OperandKind::kGpr; break;
      case Place::kFixedSegment: operand.kind = OperandKind::kSegment; break;
      case Place::kSt0: operand.kind = OperandKind::kX87; break;
      case Place::kXmm0: operand.kind = OperandKind::kVector; break;
      case Place::kOne:
        operand.kind = OperandKind::kConstant;
        insn_.imm = 1;
        break;
      default: break;
    }
  }

  // Insn has one memory reference: the DS:rSI one (which can be overridden) if there is one, else ES:rDI.
  bool set_string_memory(Operand& operand, uint8_t reg, bool destination) {
    operand.kind = OperandKind::kMemory;
    operand.implicit = true;
    if (!destination || !insn_.has_memory) {
      insn_.mem.base = insn_.map == 1 ? 7 : insn_.opcode == 0xd7 ? 3 : reg;  // MASKMOV: rDI; XLAT: rBX (+ AL)
      insn_.mem.segment = destination ? 0 : segment_ != kNoRegister ? segment_ : 3;
    }
    insn_.has_memory = true;
    return true;
  }

  bool parse_offset(Operand& operand, const OperandSpec& spec) {
    insn_.has_memory = true;
    set_default_segment(false);
    switch (insn_.mem.address_size) {
      case 2: insn_.mem.displacement = take16(); break;
      case 4: insn_.mem.displacement = take32(); break;
      default: insn_.mem.displacement = take<int64_t>(); break;
    }
    return set_memory(operand, spec);
  }

  int64_t take_immediate(Size size) {
    switch (size) {
      case Size::kB: ++insn_.imm_bytes; return take8();
      case Size::kSignedByte: ++insn_.imm_bytes; return static_cast<int8_t>(take8());
      case Size::kW: insn_.imm_bytes += 2; return take16();
      case Size::kZ:
        if (insn_.operand_size == 2) return insn_.imm_bytes += 2, static_cast<int16_t>(take16());
        return insn_.imm_bytes += 4, static_cast<int32_t>(take32());
      default:  // Iv
        insn_.imm_bytes += insn_.operand_size;
        if (insn_.operand_size == 2) return take16();
        return insn_.operand_size == 4 ? take32() : take<int64_t>();
    }
  }

  bool parse_immediate(Size size, Operand& operand) {
    operand.kind = OperandKind::kImmediate;
    if (size == Size::kZ) operand.size_bytes = insn_.operand_size;
    const bool second = insn_.imm_bytes != 0;
    (second ? insn_.imm2 : insn_.imm) = take_immediate(size);
    return true;
  }

  void parse_relative(Size size, Operand& operand) {
    operand.kind = OperandKind::kRelative;
    operand.size_bytes = insn_.operand_size;
    insn_.imm = take_immediate(size == Size::kB ? Size::kSignedByte : Size::kZ);
  }

  // Mask, index and destination of a gather must differ. [SDM-2C VPGATHERDD]
  bool gather_registers_distinct() const {
    return insn_.modrm_reg != insn_.mem.index && insn_.modrm_reg != insn_.vex_vvvv && insn_.vex_vvvv != insn_.mem.index;
  }

  // The destination of a gather is not its index; complex products cannot overwrite a factor. [SDM-2C VPGATHERDD,
  // SDM-2C VFMULCPH]
  bool evex_registers_distinct() const {
    const Operand& destination = insn_.operands[0];
    if (row_->vsib && destination.kind == OperandKind::kVector) return destination.reg != insn_.mem.index;
    if (!row_->distinct) return true;
    for (unsigned i = 1; i < insn_.operand_count; ++i)
      if (insn_.operands[i].kind == OperandKind::kVector && insn_.operands[i].reg == destination.reg) return false;
    return true;
  }

  // Encodings that 64-bit mode lacks become their synonyms that it has, so that they can be written again there.
  void normalise() {
    if (insn_.map != 0 || insn_.vex != Vex::kNone) return;
    if (insn_.opcode >= 0x40 && insn_.opcode <= 0x4f) {  // INC r, DEC r: FF /0, FF /1
      insn_.modrm = static_cast<uint8_t>(0xc0 | (insn_.opcode & 8) | (insn_.opcode & 7));
      insn_.modrm_reg = (insn_.opcode >> 3) & 1;
      insn_.has_modrm = true;
      insn_.operands[0].source = OperandSource::kModrmRm;
      insn_.opcode = 0xff;
    } else if (insn_.opcode == 0x82) {
      insn_.opcode = 0x80;
    }
  }

  CpuMode mode_;
  Insn& insn_;
  size_t available_;
  size_t position_ = 0;
  const RowEncoding* row_ = nullptr;
  OpcodeEntry entry_{};
  bool operand_size_prefix_ = false, address_size_prefix_ = false, register_form_only_ = false;
  uint8_t repeat_ = 0;  // the last of F2 and F3
  uint8_t rex_ = 0;
  uint8_t segment_ = kNoRegister;
  uint8_t reg_high_ = 0, index_high_ = 0, rm_high_ = 0, vector_rm_high_ = 0;
  uint8_t vex_prefix_ = 0;
  uint8_t buffer_[kBufferBytes] = {};
};

}  // namespace

DecodeStatus decode(std::span<const uint8_t> bytes, CpuMode mode, Insn& out) {
  out = Insn{};
  return Decoder(bytes, mode, out).run();
}

}  // namespace rhea::isa::x86
