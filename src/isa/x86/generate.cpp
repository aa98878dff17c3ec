// SPDX-License-Identifier: Apache-2.0
// The encoding generator: draws the fields of an encoding from a row's columns, writes the bytes, and keeps the
// result only if decoding it gives the row and form that were asked for.
#include "isa/x86/generate.h"

#include <algorithm>
#include <bit>
#include <optional>

#include "isa/x86/row_encoding.h"

namespace rhea::isa::x86 {
namespace {

constexpr int kAttempts = 64;

bool is_rm_operand(Place place) {
  switch (place) {
    case Place::kRmGpr:
    case Place::kRmGprOnly:
    case Place::kRmVector:
    case Place::kRmVectorOnly:
    case Place::kRmMmx:
    case Place::kRmMmxOnly:
    case Place::kRmMask:
    case Place::kRmMaskOnly:
    case Place::kMemory:
    case Place::kVsib:
    case Place::kStI: return true;
    default: return false;
  }
}

bool has_rm_operand(const RowEncoding& row) {
  return std::any_of(row.operands.begin(), row.operands.end(),
                     [](const OperandSpec& o) { return is_rm_operand(o.place); });
}

bool accepts_mode(const RowEncoding& row, CpuMode mode, bool w) {
  return row.accept & (1u << (accept::kModeShift + static_cast<unsigned>(mode) * 2 + w));
}

// Whether a 66 prefix may stand before the row and then means the operand size.
bool allows_size_prefix(const RowEncoding& row) {
  return row.mandatory == 0xf2 || row.mandatory == 0xf3 || (row.mandatory == 0 && (row.accept & accept::kPrefix66));
}

struct SizeChoice {
  uint8_t size;
  bool w;
};

std::vector<SizeChoice> size_choices(const RowEncoding& row, CpuMode mode) {
  const bool w0 = accepts_mode(row, mode, false), w1 = accepts_mode(row, mode, true);
  std::vector<SizeChoice> sizes;
  if (row.size_from_w) {
    if (w0) sizes.push_back({4, false});
    if (w1 && mode == CpuMode::k64) sizes.push_back({8, true});
  } else if (!row.uses_operand_size) {
    if (w0 || w1) sizes.push_back({0, !w0});
  } else if (mode != CpuMode::k64) {
    const bool natural32 = mode == CpuMode::k32;
    if (w0 && (natural32 ? allows_size_prefix(row) : true)) sizes.push_back({2, false});
    if (w0 && (natural32 ? true : allows_size_prefix(row))) sizes.push_back({4, false});
  } else if (row.default_size == DefaultSize::kF64) {
    sizes.push_back({8, false});
  } else {
    if (w0 && allows_size_prefix(row)) sizes.push_back({2, false});
    if (w0 && row.default_size == DefaultSize::kUsual) sizes.push_back({4, false});
    if (row.default_size == DefaultSize::kD64)
      sizes.push_back({8, false});
    else if (w1 && !row.at_most_32)
      sizes.push_back({8, true});
  }
  return sizes;
}

// The fields of one encoding before they become bytes.
struct Draft {
  bool w = false, need_rex = false, forbid_rex = false;
  uint8_t reg = 0, rm = 0, vvvv = 0, base = 0, index = 0;  // with their fourth bit
  bool opcode_register = false;
  uint8_t opcode = 0;
  uint8_t mask = 0, rounding = 0;  // of EVEX
  bool zeroing = false;
  uint8_t mod = 3;
  bool has_sib = false;
  uint8_t scale_bits = 0;
  unsigned displacement_bytes = 0;
  int64_t displacement = 0;
  std::vector<uint8_t> immediate;
};

class Generator {
 public:
  Generator(RowId id, const GenerateOptions& options, Rng& random)
      : id_(id),
        row_(row_encoding(id)),
        options_(options),
        random_(random),
        address_size_(options.address_size ? options.address_size
                      : row_.vsib && options.mode == CpuMode::k16
                          ? uint8_t{4}  // VSIB has no 16-bit form
                          : static_cast<uint8_t>(2u << static_cast<unsigned>(options.mode))) {}

  bool attempt(std::vector<uint8_t>& out) {
    draft_ = Draft{};
    bytes_.clear();
    if (!draw_fields()) return false;
    emit();
    if (bytes_.size() > 15 || !matches()) return false;
    out.insert(out.end(), bytes_.begin(), bytes_.end());
    return true;
  }

 private:
  bool mode64() const { return options_.mode == CpuMode::k64; }
  uint16_t register_mask() const { return mode64() ? 0xffff : 0xff; }

  std::optional<uint8_t> pick(uint32_t set) {
    if (!set) return std::nullopt;
    for (uint32_t skip = random_.below(static_cast<uint32_t>(std::popcount(set))); skip; --skip) set &= set - 1;
    return static_cast<uint8_t>(std::countr_zero(set));
  }

  std::optional<uint8_t> pick_gpr(unsigned size_bytes) {
    const uint16_t allowed = options_.allowed_gprs & register_mask();
    if (size_bytes != 1 || row_.vex) return pick(allowed);
    // Byte registers: numbers 4-7 are AH..BH without REX and SPL..DIL with it.
    const bool high_possible = options_.allow_high_byte && (allowed & 0xf);
    if (high_possible && random_.chance(1, 4)) {
      draft_.forbid_rex = true;
      return static_cast<uint8_t>(*pick(allowed & 0xf) + 4);
    }
    const auto reg = pick(mode64() ? allowed : allowed & 0xf);
    if (reg && *reg >= 4) draft_.need_rex = true;
    return reg;
  }

  std::optional<uint8_t> pick_vector() {
    return pick(options_.allowed_vectors & (row_.evex && mode64() ? 0xffffffff : uint32_t{register_mask()}));
  }

  bool store(std::optional<uint8_t> value, uint8_t& field) {
    if (value) field = *value;
    return value.has_value();
  }

  bool draw_fields() {
    draft_.opcode = row_.opcode;
    draft_.w = options_.form.rex_w;
    if (row_.mask && (row_.vsib || random_.chance(3, 4))) draft_.mask = static_cast<uint8_t>(1 + random_.below(7));
    draft_.zeroing = row_.zeroing && draft_.mask && random_.chance(1, 2);
    draft_.rounding = static_cast<uint8_t>(random_.below(4));
    if (row_.vex && options_.redundant_prefixes && !row_.size_from_w && accepts_mode(row_, options_.mode, !draft_.w) &&
        random_.chance(1, 4))
      draft_.w = !draft_.w;  // W is ignored
    if (row_.has_modrm) {
      // Opcode extensions and fixed ModRM bytes; operands overwrite what is theirs.
      draft_.reg = *pick((row_.accept & accept::kRegAll) >> accept::kRegShift);
      draft_.rm = *pick((row_.accept & accept::kRmAll) >> accept::kRmShift);
      if (options_.form.form == Form::kMemory && !draw_memory()) return false;
    }
    for (unsigned i = 0; i < row_.operand_count; ++i)
      if (!draw_operand(row_.operands[i])) return false;
    return true;
  }

  unsigned gpr_bytes(Size size) const {
    return size == Size::kB || (size == Size::kV && options_.form.operand_size == 1) ? 1 : 4;
  }

  bool draw_operand(const OperandSpec& spec) {
    const bool memory = options_.form.form == Form::kMemory;
    switch (spec.place) {
      case Place::kRmGpr:
      case Place::kRmGprOnly: return memory || store(pick_gpr(gpr_bytes(spec.size)), draft_.rm);
      case Place::kRmVector:
      case Place::kRmVectorOnly: return memory || store(pick_vector(), draft_.rm);
      case Place::kRegGpr: return store(pick_gpr(gpr_bytes(spec.size)), draft_.reg);
      case Place::kRegVector: return store(pick_vector(), draft_.reg);
      case Place::kVvvvGpr: return store(pick_gpr(4), draft_.vvvv);
      case Place::kVvvvVector: return store(pick_vector(), draft_.vvvv);
      case Place::kOpcodeGpr: draft_.opcode_register = true; return store(pick_gpr(gpr_bytes(spec.size)), draft_.rm);
      case Place::kRegMmx: return store(pick(options_.allowed_vectors & 0xff), draft_.reg);
      case Place::kRmMmx:
      case Place::kRmMmxOnly: return memory || store(pick(options_.allowed_vectors & 0xff), draft_.rm);
      case Place::kRegMask: return store(pick(options_.allowed_vectors & 0xff), draft_.reg);
      case Place::kVvvvMask: return store(pick(options_.allowed_vectors & 0xff), draft_.vvvv);
      case Place::kRmMask:
      case Place::kRmMaskOnly: return memory || store(pick(options_.allowed_vectors & 0xff), draft_.rm);
      case Place::kImmVector: {
        const auto reg = pick_vector();
        if (reg) draft_.immediate.push_back(static_cast<uint8_t>(*reg << 4 | random_.below(16)));
        return reg.has_value();
      }
      case Place::kControl: return store(pick(mode64() ? 0x11d : 0x1d), draft_.reg);
      case Place::kDebug: return store(pick(0xcf), draft_.reg);
      case Place::kSegment: return store(pick(spec.access == OperandAccess::kWrite ? 0x3d : 0x3f), draft_.reg);
      case Place::kImmediate:
      case Place::kRelative: append_immediate(immediate_bytes(spec.size)); return true;
      case Place::kFarPointer:
        append_immediate(effective_size());
        append_immediate(2);
        return true;
      case Place::kOffset:
        draft_.displacement = displacement();
        draft_.displacement_bytes = address_size_;
        return true;
      default: return true;
    }
  }

  unsigned effective_size() const {
    if (options_.form.operand_size) return options_.form.operand_size;
    return options_.mode == CpuMode::k16 ? 2 : 4;
  }

  unsigned immediate_bytes(Size size) const {
    switch (size) {
      case Size::kB:
      case Size::kSignedByte: return 1;
      case Size::kW: return 2;
      case Size::kV: return effective_size();
      default: return std::min(effective_size(), 4u);
    }
  }

  void append_immediate(unsigned count) {
    const uint64_t value = options_.set_immediate ? static_cast<uint64_t>(options_.immediate) : random_.next();
    for (unsigned i = 0; i < count; ++i) draft_.immediate.push_back(static_cast<uint8_t>(value >> (8 * i)));
  }

  int64_t displacement() {
    const uint64_t span = static_cast<uint64_t>(int64_t{options_.displacement_max} - options_.displacement_min) + 1;
    return options_.displacement_min + static_cast<int64_t>(random_.next() % span);
  }

  // ---- memory operands ----

  bool draw_memory() {
    draft_.displacement = displacement();
    return address_size_ == 2 ? draw_memory16() : draw_memory32();
  }

  bool draw_memory16() {
    constexpr uint8_t kNone = kNoRegister;
    constexpr uint8_t kBases[8] = {3, 3, 5, 5, 6, 7, 5, 3}, kIndexes[8] = {6, 7, 6, 7, kNone, kNone, kNone, kNone};
    const unsigned rm = random_.below(8);
    if (row_.vsib) return false;
    draft_.rm = static_cast<uint8_t>(rm);
    if (!options_.allowed_bases) {
      draft_.rm = 6, draft_.mod = 0, draft_.displacement_bytes = 2;
      return true;
    }
    if (!(options_.allowed_bases >> kBases[rm] & 1)) return false;
    if (kIndexes[rm] != kNone && !(options_.allowed_indexes >> kIndexes[rm] & 1)) return false;
    return draw_displacement_size(rm == 6, 2);
  }

  bool draw_displacement_size(bool mod0_taken, unsigned full_bytes) {
    const bool zero = draft_.displacement == 0 && !mod0_taken;
    const bool byte = draft_.displacement >= -128 && draft_.displacement <= 127;
    if (full_bytes == 2 && (draft_.displacement < -32768 || draft_.displacement > 32767)) return false;
    if (zero && !random_.chance(1, 4))
      draft_.mod = 0, draft_.displacement_bytes = 0;
    else if (byte && !random_.chance(1, 4))
      draft_.mod = 1, draft_.displacement_bytes = 1;
    else
      draft_.mod = 2, draft_.displacement_bytes = full_bytes;
    return true;
  }

  bool draw_memory32() {
    if (mode64() && options_.allow_rip_relative && !row_.vsib && random_.chance(1, 4)) {
      draft_.rm = 5, draft_.mod = 0, draft_.displacement_bytes = 4;
      return true;
    }
    const auto base = pick(options_.allowed_bases & register_mask());
    std::optional<uint8_t> index;
    if (row_.vsib) {
      index = pick_vector();
      if (!index) return false;
    } else if (options_.allowed_indexes && random_.chance(1, 2)) {
      index = pick(options_.allowed_indexes & register_mask() & ~0x10u);
    }
    draft_.has_sib = index || !base || (*base & 7) == 4 || random_.chance(1, 8);
    // Without base and index, 32-bit and 16-bit code has a shorter form too.
    if (!base && !index && !mode64() && random_.chance(1, 2)) draft_.has_sib = false;
    if (draft_.has_sib) {
      draft_.rm = 4;
      draft_.index = index.value_or(4);
      draft_.scale_bits = static_cast<uint8_t>(random_.below(4));
      draft_.base = base.value_or(5);
    } else {
      draft_.rm = base.value_or(5);
    }
    if (!base) {
      draft_.mod = 0, draft_.displacement_bytes = 4;
      return true;
    }
    return draw_displacement_size((*base & 7) == 5, 4);
  }

  // ---- bytes ----

  void emit() {
    emit_prefixes();
    const uint8_t b_source = draft_.has_sib ? draft_.base : draft_.rm;
    const bool r = draft_.reg & 8, x = draft_.has_sib && (draft_.index & 8), b = b_source & 8;
    if (row_.evex)
      emit_evex();
    else if (row_.vex)
      emit_vex(r, x, b);
    else
      emit_legacy_opcode(r, x, b);
    if (row_.has_modrm) {
      const bool register_form = options_.form.form != Form::kMemory;
      const unsigned mod = register_form ? 3 : draft_.mod;
      bytes_.push_back(static_cast<uint8_t>(mod << 6 | (draft_.reg & 7) << 3 | (draft_.rm & 7)));
      if (draft_.has_sib)
        bytes_.push_back(static_cast<uint8_t>(draft_.scale_bits << 6 | (draft_.index & 7) << 3 | (draft_.base & 7)));
    }
    for (unsigned i = 0; i < draft_.displacement_bytes; ++i)
      bytes_.push_back(static_cast<uint8_t>(static_cast<uint64_t>(draft_.displacement) >> (8 * i)));
    bytes_.insert(bytes_.end(), draft_.immediate.begin(), draft_.immediate.end());
  }

  bool needs_size_prefix() const {
    const uint8_t size = options_.form.operand_size;
    if (!row_.uses_operand_size || size == 0 || size == 8) return false;
    return (size == 2) == (options_.mode != CpuMode::k16);
  }

  void emit_prefixes() {
    constexpr uint8_t kSegmentBytes[6] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
    const uint8_t natural_address = static_cast<uint8_t>(2u << static_cast<unsigned>(options_.mode));
    if (needs_size_prefix()) bytes_.push_back(0x66);
    if (address_size_ != natural_address) bytes_.push_back(0x67);
    if (options_.segment < 6) bytes_.push_back(kSegmentBytes[options_.segment]);
    if (options_.form.prefix == PrefixChoice::kLock) bytes_.push_back(0xf0);
    if (options_.form.prefix == PrefixChoice::kRep) bytes_.push_back(0xf3);
    if (options_.form.prefix == PrefixChoice::kRepne) bytes_.push_back(0xf2);
    if (!row_.vex && row_.mandatory) bytes_.push_back(row_.mandatory);
    if (options_.redundant_prefixes && random_.chance(1, 4)) {
      if (!bytes_.empty() && random_.chance(1, 2))
        bytes_.push_back(bytes_[random_.below(static_cast<uint32_t>(bytes_.size()))]);
      else if (mode64() && options_.segment == kNoRegister)
        bytes_.push_back(kSegmentBytes[random_.below(4)]);
    }
    for (size_t i = bytes_.size(); i > 1; --i)
      std::swap(bytes_[i - 1], bytes_[random_.below(static_cast<uint32_t>(i))]);
  }

  void emit_legacy_opcode(bool r, bool x, bool b) {
    const bool redundant = mode64() && options_.redundant_prefixes && !draft_.forbid_rex && random_.chance(1, 8);
    const uint8_t rex = static_cast<uint8_t>(draft_.w << 3 | r << 2 | x << 1 | b);
    rex_emitted_ = rex || draft_.need_rex || redundant;
    if (rex_emitted_) bytes_.push_back(0x40 | rex);
    if (row_.map) bytes_.push_back(0x0f);
    if (row_.map == 2) bytes_.push_back(0x38);
    if (row_.map == 3) bytes_.push_back(0x3a);
    bytes_.push_back(static_cast<uint8_t>(draft_.opcode | (draft_.opcode_register ? draft_.rm & 7 : 0)));
  }

  void emit_evex() {
    const bool memory = options_.form.form == Form::kMemory;
    const unsigned pp = row_.mandatory == 0x66 ? 1 : row_.mandatory == 0xf3 ? 2 : row_.mandatory == 0xf2 ? 3 : 0;
    const uint8_t base = draft_.has_sib ? draft_.base : draft_.rm;
    const bool x = memory ? draft_.has_sib && (draft_.index & 8) : draft_.rm & 16;
    const unsigned vvvv = row_.uses_vvvv ? draft_.vvvv : 0;
    const bool v_high = row_.vsib ? draft_.index & 16 : vvvv & 16;
    const bool rounds = options_.form.evex_b && !memory && row_.rounding;
    const unsigned length = rounds ? draft_.rounding : options_.form.vex_l;
    rex_emitted_ = false;
    bytes_.push_back(0x62);
    bytes_.push_back(
        static_cast<uint8_t>(!(draft_.reg & 8) << 7 | !x << 6 | !(base & 8) << 5 | !(draft_.reg & 16) << 4 | row_.map));
    bytes_.push_back(static_cast<uint8_t>(draft_.w << 7 | (~vvvv & 15) << 3 | 4 | pp));
    bytes_.push_back(static_cast<uint8_t>(draft_.zeroing << 7 | length << 5 | options_.form.evex_b << 4 | !v_high << 3 |
                                          draft_.mask));
    bytes_.push_back(draft_.opcode);
  }

  void emit_vex(bool r, bool x, bool b) {
    const unsigned pp = row_.mandatory == 0x66 ? 1 : row_.mandatory == 0xf3 ? 2 : row_.mandatory == 0xf2 ? 3 : 0;
    const unsigned vvvv = row_.uses_vvvv ? draft_.vvvv : 0;
    const unsigned last = (~vvvv & 15) << 3 | (options_.form.vex_l & 1u) << 2 | pp;
    rex_emitted_ = false;
    if (row_.map == 1 && !draft_.w && !x && !b && !random_.chance(1, 4)) {
      bytes_.push_back(0xc5);
      bytes_.push_back(static_cast<uint8_t>(!r << 7 | last));
    } else {
      bytes_.push_back(0xc4);
      bytes_.push_back(static_cast<uint8_t>(!r << 7 | !x << 6 | !b << 5 | row_.map));
      bytes_.push_back(static_cast<uint8_t>(draft_.w << 7 | last));
    }
    bytes_.push_back(draft_.opcode);
  }

  // Rows shadow each other (PREFETCHW is a PREFETCH with /1) and registers conflict (AH with REX): the decoder judges.
  bool matches() const {
    if (draft_.forbid_rex && rex_emitted_) return false;
    Insn insn;
    if (decode(bytes_, options_.mode, insn) != DecodeStatus::kOk || insn.row != id_ || insn.length != bytes_.size())
      return false;
    if (options_.form.form == Form::kMemory && !insn.has_memory) return false;
    if (options_.form.evex_b != insn.evex_b) return false;
    return options_.form.operand_size == 0 || insn.operand_size == options_.form.operand_size;
  }

  RowId id_;
  const RowEncoding& row_;
  const GenerateOptions& options_;
  Rng& random_;
  uint8_t address_size_;
  bool rex_emitted_ = false;
  Draft draft_;
  std::vector<uint8_t> bytes_;
};

}  // namespace

std::vector<FormSpec> forms(RowId row, CpuMode mode) {
  const RowEncoding& encoding = row_encoding(row);
  const RowInfo& info = row_info(row);
  std::vector<Form> choices;
  if (!encoding.has_modrm || !has_rm_operand(encoding)) {
    choices.push_back(Form::kFixed);
  } else {
    // A row that accepts memory may still have only register operands: MOV to and from control registers.
    const bool memory_operand =
        std::any_of(encoding.operands.begin(), encoding.operands.end(), [](const OperandSpec& o) {
          return is_rm_operand(o.place) && o.place != Place::kRmGprOnly && o.place != Place::kRmVectorOnly &&
                 o.place != Place::kRmMmxOnly && o.place != Place::kRmMaskOnly;
        });
    if (encoding.accept & accept::kRegister) choices.push_back(Form::kRegister);
    if ((encoding.accept & accept::kMemory) && memory_operand) choices.push_back(Form::kMemory);
  }
  std::vector<FormSpec> result;
  for (Form form : choices)
    for (const SizeChoice& size : size_choices(encoding, mode))
      for (unsigned l = 0; l < (encoding.evex ? 3u : encoding.vex ? 2u : 1u); ++l) {
        constexpr uint32_t kLengthBits[] = {accept::kL0, accept::kL1, accept::kL2};
        if (!(encoding.accept & kLengthBits[l])) continue;
        FormSpec spec{.form = form, .operand_size = size.size, .vex_l = static_cast<uint8_t>(l), .rex_w = size.w};
        if (encoding.byte_form) spec.operand_size = 1;
        result.push_back(spec);
        // In the register form there is no choice of length then.
        const bool b = form == Form::kMemory ? encoding.broadcast : (encoding.rounding || encoding.suppress) && l == 2;
        if (encoding.evex && b) spec.evex_b = true, result.push_back(spec), spec.evex_b = false;
        if (info.lockable && form == Form::kMemory) spec.prefix = PrefixChoice::kLock, result.push_back(spec);
        if (info.string) spec.prefix = PrefixChoice::kRep, result.push_back(spec);
        if (info.string && info.flags_written) spec.prefix = PrefixChoice::kRepne, result.push_back(spec);
      }
  return result;
}

bool generate(RowId row, const GenerateOptions& options, Rng& random, std::vector<uint8_t>& out) {
  Generator generator(row, options, random);
  for (int i = 0; i < kAttempts; ++i)
    if (generator.attempt(out)) return true;
  return false;
}

}  // namespace rhea::isa::x86
