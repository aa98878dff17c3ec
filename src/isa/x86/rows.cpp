// SPDX-License-Identifier: Apache-2.0
// Parses the columns of rows.inc at compile time into row facts and the decoder's opcode table.
#include "isa/x86/rows.h"

#include <array>
#include <bit>
#include <initializer_list>
#include <iterator>

#include "base/check.h"
#include "isa/x86/row_encoding.h"

namespace rhea::isa::x86 {
namespace {

// Never defined as constexpr: reaching it makes a malformed row a compile error at that row.
void malformed_row(const char* what) { base::check_failed(__FILE__, __LINE__, what); }

constexpr bool starts_with(std::string_view text, std::string_view start) {
  return text.substr(0, start.size()) == start;
}

constexpr unsigned hex_digit(char c) {
  if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0');
  if (c >= 'A' && c <= 'F') return static_cast<unsigned>(c - 'A' + 10);
  return 16;
}
constexpr bool is_hex_byte(std::string_view token) {
  return token.size() >= 2 && hex_digit(token[0]) < 16 && hex_digit(token[1]) < 16;
}
constexpr uint8_t hex_byte(std::string_view token) {
  return static_cast<uint8_t>(hex_digit(token[0]) * 16 + hex_digit(token[1]));
}

// Cuts the next word off `text`.
constexpr std::string_view next_word(std::string_view& text, char separator) {
  while (!text.empty() && text.front() == separator) text.remove_prefix(1);
  size_t end = 0;
  while (end < text.size() && text[end] != separator) ++end;
  const std::string_view word = text.substr(0, end);
  text.remove_prefix(end);
  return word;
}

constexpr uint8_t parse_map(std::string_view word) {
  if (word == "0F") return 1;
  if (word == "0F38") return 2;
  if (word == "0F3A") return 3;
  if (word == "MAP5") return 5;
  if (word == "MAP6") return 6;
  malformed_row("map");
  return 0;
}

constexpr uint32_t only_reg(unsigned reg) { return ~accept::kRegAll | (1u << (accept::kRegShift + reg)); }
constexpr uint32_t only_rm(unsigned rm) { return ~accept::kRmAll | (1u << (accept::kRmShift + rm)); }

constexpr void set_prefix(RowEncoding& row, std::string_view word) {
  using namespace accept;
  uint32_t allowed = kPrefixNone;
  if (word == "66")
    allowed = kPrefix66, row.mandatory = 0x66;
  else if (word == "F3")
    allowed = kPrefixF3, row.mandatory = 0xf3;
  else if (word == "F2")
    allowed = kPrefixF2, row.mandatory = 0xf2;
  else if (word == "N6")
    allowed = kPrefixNone | kPrefix66;
  else if (word != "NP")
    malformed_row("prefix");
  row.accept &= ~kPrefixAll | allowed;
}

// "VEX.128.66.0F38.W0", "EVEX.any.66.0F38.W0"
constexpr void parse_vex(RowEncoding& row, std::string_view word) {
  using namespace accept;
  row.vex = true;
  row.evex = word[0] == 'E';
  next_word(word, '.');
  if (!row.evex) row.accept &= ~kL2;
  const std::string_view length = next_word(word, '.');
  if (length == "128")
    row.accept &= ~kLAll | kL0;
  else if (length == "256")
    row.accept &= ~kLAll | kL1, row.vex_l_selects = true;
  else if (length == "any")
    row.vex_l_selects = true;
  else if (length == "512")
    row.accept &= ~kLAll | kL2, row.vex_l_selects = true;
  else if (length == "long")  // 256 or 512
    row.accept &= ~kL0, row.vex_l_selects = true;
  else if (length != "LIG")
    malformed_row("VEX.L");
  set_prefix(row, next_word(word, '.'));
  row.map = parse_map(next_word(word, '.'));
  const std::string_view w = next_word(word, '.');
  if (w == "W0")
    row.accept &= ~kModeAll | kModeW0;
  else if (w == "W1")
    row.accept &= ~kModeAll | kModeW1;
  else if (w != "WIG" && !w.empty())
    malformed_row("VEX.W");
}

// "/r", "/3:mem", "D0", "C0+i" after the opcode.
constexpr void parse_modrm(RowEncoding& row, std::string_view word) {
  using namespace accept;
  row.has_modrm = true;
  if (word[0] == '/') {
    if (word[1] != 'r') row.accept &= only_reg(static_cast<unsigned>(word[1] - '0'));
    const std::string_view form = word.substr(2);
    if (form == ":mem")
      row.accept &= ~kModAll | kMemory;
    else if (form == ":reg")
      row.accept &= ~kModAll | kRegister;
    else if (!form.empty())
      malformed_row("ModRM form");
    return;
  }
  const uint8_t modrm = hex_byte(word);
  if (modrm < 0xc0) malformed_row("fixed ModRM byte");
  row.accept &= (~kModAll | kRegister) & only_reg((modrm >> 3) & 7);
  if (word.size() == 2)
    row.accept &= only_rm(modrm & 7);
  else if (word.substr(2) != "+i")
    malformed_row("fixed ModRM byte");
}

constexpr void parse_encoding(RowEncoding& row, std::string_view text) {
  using namespace accept;
  row.accept = kPrefixAll | kModeAll | kLAll | kModAll | kRegAll | kRmAll;
  std::string_view word = next_word(text, ' ');
  if (starts_with(word, "VEX.") || starts_with(word, "EVEX.")) {
    parse_vex(row, word);
    word = next_word(text, ' ');
  } else {
    const std::string_view rest = text;
    const bool prefix_byte = word == "66" || word == "F3" || word == "F2";
    // An opcode byte may look like a prefix only if nothing follows; no such row exists.
    if (prefix_byte || word == "NP" || word == "N6") {
      if (rest.empty()) malformed_row("opcode missing");
      set_prefix(row, word);
      word = next_word(text, ' ');
    }
    if (starts_with(word, "0F") && !text.empty() && (word.size() == 4 || is_hex_byte(text.substr(1)))) {
      row.map = parse_map(word);
      word = next_word(text, ' ');
    }
  }
  if (!is_hex_byte(word)) malformed_row("opcode");
  row.opcode = hex_byte(word);
  row.opcode_register = word.substr(2) == "+r";
  for (word = next_word(text, ' '); !word.empty(); word = next_word(text, ' ')) {
    if (word[0] == '/' || is_hex_byte(word))
      parse_modrm(row, word);
    else if (word == "W0")
      row.accept &= ~kModeAll | kModeW0;
    else if (word == "W1")
      row.accept &= ~kModeAll | kModeW1;
    else if (word == "o64")
      row.accept &= ~kModeAll | kMode64;
    else if (word == "i64")
      row.accept &= ~kModeAll | kModeNot64;
    else if (word == "noB")
      row.accept &= ~kModAll | kNoRexB;
    else
      malformed_row("encoding");
  }
}

constexpr Size parse_size(std::string_view text) {
  constexpr struct {
    std::string_view name;
    Size size;
  } kSizes[] = {{"", Size::kNone}, {"b", Size::kB},   {"w", Size::kW},   {"d", Size::kD},   {"q", Size::kQ},
                {"t", Size::kT},   {"dq", Size::kDq}, {"qq", Size::kQq}, {"oo", Size::kOo}, {"v", Size::kV},
                {"z", Size::kZ},   {"y", Size::kY},   {"m", Size::kM},   {"x", Size::kX},   {"h", Size::kH},
                {"f", Size::kF},   {"e", Size::kE},   {"a", Size::kA},   {"p", Size::kP},   {"s", Size::kS},
                {"fx", Size::kFx}, {"en", Size::kEn}, {"sa", Size::kSa}};
  for (const auto& entry : kSizes)
    if (entry.name == text) return entry.size;
  malformed_row("operand size");
  return Size::kNone;
}

constexpr auto kSources = [] {
  std::array<OperandSource, static_cast<size_t>(Place::kOne) + 1> table{};  // kImplicit
  const auto set = [&table](OperandSource source, std::initializer_list<Place> places) {
    for (Place place : places) table[static_cast<size_t>(place)] = source;
  };
  using enum Place;
  set(OperandSource::kModrmRm,
      {kRmGpr, kRmGprOnly, kRmVector, kRmVectorOnly, kRmMmx, kRmMmxOnly, kRmMask, kRmMaskOnly, kMemory, kVsib, kStI});
  set(OperandSource::kModrmReg, {kRegGpr, kRegVector, kRegMmx, kRegMask, kControl, kDebug, kSegment});
  set(OperandSource::kVexVvvv, {kVvvvGpr, kVvvvVector, kVvvvMask});
  set(OperandSource::kOpcodeReg, {kOpcodeGpr});
  set(OperandSource::kImmediate, {kImmediate, kRelative, kFarPointer});
  set(OperandSource::kIs4, {kImmVector});
  set(OperandSource::kMoffs, {kOffset});
  return table;
}();

constexpr bool parse_fixed_operand(OperandSpec& operand, std::string_view text) {
  constexpr struct {
    std::string_view name;
    Place place;
    uint8_t fixed;
    Size size;
  } kFixed[] = {{"AL", Place::kFixedGpr, 0, Size::kB},
                {"CL", Place::kFixedGpr, 1, Size::kB},
                {"AX", Place::kFixedGpr, 0, Size::kW},
                {"DX", Place::kFixedGpr, 2, Size::kW},
                {"eAX", Place::kFixedGpr, 0, Size::kZ},
                {"rAX", Place::kFixedGpr, 0, Size::kV},
                {"ES", Place::kFixedSegment, 0, Size::kW},
                {"CS", Place::kFixedSegment, 1, Size::kW},
                {"SS", Place::kFixedSegment, 2, Size::kW},
                {"DS", Place::kFixedSegment, 3, Size::kW},
                {"FS", Place::kFixedSegment, 4, Size::kW},
                {"GS", Place::kFixedSegment, 5, Size::kW},
                {"ST0", Place::kSt0, 0, Size::kT},
                {"STi", Place::kStI, 0, Size::kT},
                {"XMM0", Place::kXmm0, 0, Size::kDq},
                {"1", Place::kOne, 0, Size::kB},
                {"Is", Place::kImmediate, 0, Size::kSignedByte}};
  for (const auto& entry : kFixed) {
    if (entry.name != text) continue;
    operand.place = entry.place;
    operand.fixed = entry.fixed;
    operand.source = kSources[static_cast<size_t>(operand.place)];
    operand.size = operand.memory_size = entry.size;
    return true;
  }
  return false;
}

constexpr Place parse_place(char letter) {
  constexpr struct {
    char letter;
    Place place;
  } kPlaces[] = {
      {'E', Place::kRmGpr},      {'G', Place::kRegGpr},      {'R', Place::kRmGprOnly},  {'B', Place::kVvvvGpr},
      {'Z', Place::kOpcodeGpr},  {'W', Place::kRmVector},    {'V', Place::kRegVector},  {'U', Place::kRmVectorOnly},
      {'H', Place::kVvvvVector}, {'L', Place::kImmVector},   {'Q', Place::kRmMmx},      {'P', Place::kRegMmx},
      {'N', Place::kRmMmxOnly},  {'M', Place::kMemory},      {'K', Place::kVsib},       {'O', Place::kOffset},
      {'X', Place::kSource},     {'Y', Place::kDestination}, {'A', Place::kFarPointer}, {'C', Place::kControl},
      {'D', Place::kDebug},      {'S', Place::kSegment},     {'I', Place::kImmediate},  {'J', Place::kRelative}};
  for (const auto& entry : kPlaces)
    if (entry.letter == letter) return entry.place;
  malformed_row("operand letter");
  return Place::kNone;
}

// The letters of general registers after a 'k' are those of mask registers.
constexpr Place parse_mask_place(char letter) {
  switch (letter) {
    case 'E': return Place::kRmMask;
    case 'G': return Place::kRegMask;
    case 'R': return Place::kRmMaskOnly;
    case 'B': return Place::kVvvvMask;
    default: malformed_row("mask operand letter"); return Place::kNone;
  }
}

constexpr OperandSpec parse_operand(std::string_view text) {
  OperandSpec operand;
  operand.access = OperandAccess::kRead;
  if (text[0] == '=') operand.access = OperandAccess::kWrite;
  if (text[0] == '+') operand.access = OperandAccess::kReadWrite;
  if (text[0] == '&') operand.access = OperandAccess::kAddressOnly;
  if (operand.access != OperandAccess::kRead) text.remove_prefix(1);
  if (parse_fixed_operand(operand, text)) return operand;
  const bool mask = text[0] == 'k';
  if (mask) text.remove_prefix(1);
  operand.place = mask ? parse_mask_place(text[0]) : parse_place(text[0]);
  operand.source = kSources[static_cast<size_t>(operand.place)];
  text.remove_prefix(1);
  operand.size = operand.memory_size = parse_size(next_word(text, '/'));
  if (!text.empty()) operand.memory_size = parse_size(text.substr(1));
  return operand;
}

constexpr bool is_integer_place(Place place) {
  return place == Place::kRmGpr || place == Place::kRegGpr || place == Place::kOpcodeGpr || place == Place::kFixedGpr ||
         place == Place::kOffset || place == Place::kSource || place == Place::kDestination;
}
constexpr bool follows_operand_size(Size size) {
  return size == Size::kV || size == Size::kZ || size == Size::kA || size == Size::kP || size == Size::kSignedByte ||
         size == Size::kEn || size == Size::kSa;
}

constexpr void parse_operands(RowEncoding& row, std::string_view text) {
  bool any_v = false, any_y = false, any_integer_z = false, any_integer_v = false, first_byte = false;
  while (!text.empty()) {
    const OperandSpec operand = parse_operand(next_word(text, ','));
    if (row.operand_count == 0) first_byte = is_integer_place(operand.place) && operand.size == Size::kB;
    row.operands[row.operand_count++] = operand;
    any_v |= follows_operand_size(operand.size) || follows_operand_size(operand.memory_size);
    any_y |= operand.size == Size::kY;
    any_integer_z |= (operand.size == Size::kZ && is_integer_place(operand.place)) || operand.size == Size::kEn ||
                     operand.size == Size::kSa;
    if (operand.size == Size::kV) any_integer_v = true;
    row.uses_vvvv |=
        operand.place == Place::kVvvvGpr || operand.place == Place::kVvvvVector || operand.place == Place::kVvvvMask;
    row.vsib |= operand.place == Place::kVsib;
  }
  // OUT Ib,AL and OUT DX,AL; OUTSB: the data is the second operand.
  if (row.operand_count == 2 && row.operands[1].size == Size::kB && is_integer_place(row.operands[1].place))
    first_byte |= row.operands[0].place == Place::kImmediate ||
                  (row.operands[0].place == Place::kFixedGpr && row.operands[0].size == Size::kW);
  row.byte_form = first_byte && !any_v;
  row.size_from_w = any_y && !any_v;
  row.at_most_32 = any_integer_z && !any_integer_v;
  row.uses_operand_size = any_v;
}

constexpr uint16_t parse_flag_set(std::string_view text) {
  uint16_t flags = 0;
  for (char c : text) {
    switch (c) {
      case 'o': flags |= kFlagO; break;
      case 's': flags |= kFlagS; break;
      case 'z': flags |= kFlagZ; break;
      case 'a': flags |= kFlagA; break;
      case 'p': flags |= kFlagP; break;
      case 'c': flags |= kFlagC; break;
      default: malformed_row("flags");
    }
  }
  return flags;
}

constexpr void parse_flags(RowInfo& info, std::string_view text) {
  for (auto word = next_word(text, ' '); !word.empty(); word = next_word(text, ' ')) {
    const uint16_t flags = parse_flag_set(word.substr(2));
    if (starts_with(word, "r:"))
      info.flags_read = flags;
    else if (starts_with(word, "w:"))
      info.flags_written = flags;
    else if (starts_with(word, "u:"))
      info.flags_undefined = flags;
    else
      malformed_row("flags");
  }
}

constexpr uint16_t parse_gpr_set(std::string_view text) {
  constexpr std::string_view kNames[] = {"ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "r8", "r9", "r10", "r11"};
  uint16_t set = 0;
  for (auto word = next_word(text, ','); !word.empty(); word = next_word(text, ',')) {
    uint16_t bit = 0;
    for (unsigned i = 0; i < std::size(kNames); ++i)
      if (kNames[i] == word) bit = static_cast<uint16_t>(1u << i);
    if (!bit) malformed_row("implicit register");
    set |= bit;
  }
  return set;
}

constexpr RowId row_named(std::string_view name) {
  constexpr std::string_view kNames[] = {
#define ROW(name, ...) #name,
#include "isa/x86/rows.inc"
#undef ROW
  };
  for (size_t id = 0; id < kRowCount; ++id)
    if (kNames[id] == name) return static_cast<RowId>(id);
  malformed_row("row name");
  return {};
}

constexpr void parse_attributes(RowInfo& info, RowEncoding& row, std::string_view text) {
  for (auto word = next_word(text, ' '); !word.empty(); word = next_word(text, ' ')) {
    if (word == "lock")
      info.lockable = true;
    else if (word == "priv")
      info.privileged = true;
    else if (word == "align16")
      info.memory_alignment = 16;
    else if (word == "align32")
      info.memory_alignment = 32;
    else if (word == "align64")
      info.memory_alignment = 64;
    else if (word == "d64")
      row.default_size = DefaultSize::kD64;
    else if (word == "f64")
      row.default_size = DefaultSize::kF64;
    else if (word == "rep")
      info.string = true;
    else if (word == "cx")
      info.implicit_read |= 2, info.implicit_write |= 2;
    else if (word == "cxr")
      info.implicit_read |= 2;
    else if (word == "xmm0")
      info.implicit_xmm0_write = true;
    else if (word == "mask")
      row.mask = true;
    else if (word == "zmask")
      row.mask = row.zeroing = true;
    else if (word == "er")
      row.rounding = true;
    else if (word == "sae")
      row.suppress = true;
    else if (word == "distinct")
      row.distinct = true;
    else if (word == "whole")
      info.memory_whole = true;
    else if (word == "any")
      info.memory_repeated = true;
    else if (word == "packed")
      info.memory_packed = row.element_displacement = true;
    else if (word == "b2" || word == "b4" || word == "b8")
      info.element_bytes = static_cast<uint8_t>(word[1] - '0'), row.broadcast = true;
    else if (word == "e1" || word == "e2" || word == "e4" || word == "e8" || word == "e16")
      info.element_bytes = static_cast<uint8_t>(word == "e16" ? 16 : word[1] - '0');
    else if (word == "align")
      info.memory_alignment = 1;  // of the vector's length
    else if (starts_with(word, "ir="))
      info.implicit_read |= parse_gpr_set(word.substr(3));
    else if (starts_with(word, "iw="))
      info.implicit_write |= parse_gpr_set(word.substr(3));
    else if (starts_with(word, "else="))
      info.without_feature = row_named(word.substr(5));
    else
      malformed_row("attribute");
  }
}

struct RowColumns {
  RowId id;
  std::string_view name, mnemonic, encoding, operands, flags, feature, attributes;
  Translation translation;
};

struct ParsedRow {
  RowInfo info{};
  RowEncoding encoding{};
};

constexpr ParsedRow parse_row(const RowColumns& columns) {
  ParsedRow row;
  RowInfo& info = row.info;
  RowEncoding& encoding = row.encoding;
  info.name = columns.name;
  info.without_feature = columns.id;
  info.mnemonic = columns.mnemonic;
  info.encoding = columns.encoding;
  info.operands = columns.operands;
  info.feature = columns.feature;
  info.translation = columns.translation;
  parse_flags(info, columns.flags);
  parse_encoding(encoding, columns.encoding);
  parse_operands(encoding, columns.operands);
  parse_attributes(info, encoding, columns.attributes);
  info.memory_fraction = 1;
  for (const OperandSpec& operand : encoding.operands)
    if (operand.source == OperandSource::kModrmRm)
      info.memory_fraction = operand.memory_size == Size::kH   ? 2
                             : operand.memory_size == Size::kF ? 4
                             : operand.memory_size == Size::kE ? 8
                                                               : 1;
  info.map = encoding.map;
  info.opcode = encoding.opcode;
  info.memory_only = encoding.has_modrm && !(encoding.accept & accept::kRegister);
  info.register_only = encoding.has_modrm && !(encoding.accept & accept::kMemory);
  if (columns.mnemonic.find('|') != std::string_view::npos && !encoding.size_from_w) encoding.uses_operand_size = true;
  if (encoding.default_size == DefaultSize::kD64) encoding.uses_operand_size = true;
  return row;
}

using enum Translation;

// One constant per row: compilers limit the work of each constant evaluation, not of all together.
#define ROW(name, mnemonic, encoding, operands, flags, feature, attributes, translation) \
  constexpr ParsedRow kRow_##name =                                                      \
      parse_row({RowId::name, #name, mnemonic, encoding, operands, flags, feature, attributes, translation});
#include "isa/x86/rows.inc"
#undef ROW

constexpr std::array<RowInfo, kRowCount> kRowInfos = {{
#define ROW(name, ...) kRow_##name.info,
#include "isa/x86/rows.inc"
#undef ROW
}};

constexpr std::array<RowEncoding, kRowCount> kEncodings = {{
#define ROW(name, ...) kRow_##name.encoding,
#include "isa/x86/rows.inc"
#undef ROW
}};

// Buckets the rows by opcode; within an opcode, narrower rows stand first.
constexpr OpcodeTable build_opcode_table() {
  OpcodeTable table{};
  const auto slot = [](const RowEncoding& row) { return ((row.vex + row.evex) * 8u + row.map) * 256u + row.opcode; };
  for (const RowEncoding& row : kEncodings)
    for (unsigned i = 0; i < (row.opcode_register ? 8 : 1); ++i) {
      OpcodeEntry& entry = table.entries[slot(row) + i];
      if (entry.count && entry.has_modrm != row.has_modrm) malformed_row("rows of one opcode differ in having ModRM");
      ++entry.count;
      entry.has_modrm = row.has_modrm;
    }
  uint16_t next = 0;
  for (OpcodeEntry& entry : table.entries) {
    entry.first = next;
    next = static_cast<uint16_t>(next + entry.count);
    entry.count = 0;
  }
  for (size_t id = 0; id < kRowCount; ++id)
    for (unsigned i = 0; i < (kEncodings[id].opcode_register ? 8 : 1); ++i) {
      OpcodeEntry& entry = table.entries[slot(kEncodings[id]) + i];
      const uint32_t bits = kEncodings[id].accept;
      unsigned at = entry.first + entry.count++;
      for (; at > entry.first && std::popcount(table.candidates[at - 1].accept) > std::popcount(bits); --at)
        table.candidates[at] = table.candidates[at - 1];
      table.candidates[at] = {bits, static_cast<uint16_t>(id)};
    }
  return table;
}

constexpr uint16_t shift_flags_kept_by_zero_count(const Insn& insn, const RowInfo& info) {
  const bool shift = (info.map == 0 && (info.opcode == 0xc0 || info.opcode == 0xc1)) ||
                     (info.map == 1 && (info.opcode == 0xa4 || info.opcode == 0xac));
  if (!shift) return 0;
  return (insn.imm & (insn.operand_size == 8 ? 63 : 31)) == 0 ? static_cast<uint16_t>(kFlagAll) : 0;
}

}  // namespace

constexpr std::array<RowEncoding, kRowCount> kRowEncodings = kEncodings;
constexpr OpcodeTable kOpcodeTable = build_opcode_table();

const RowInfo& row_info(RowId row) { return kRowInfos[static_cast<size_t>(row)]; }
unsigned row_count() { return static_cast<unsigned>(kRowCount); }

bool substitute_without_feature(Insn& insn) {
  const RowId other = row_info(insn.row).without_feature;
  if (other == insn.row) return false;
  insn.row = other;
  // The prefix is then one without effect.
  insn.rep = insn.mandatory_prefix == 0xf3;
  insn.repne = insn.mandatory_prefix == 0xf2;
  insn.mandatory_prefix = row_encoding(other).mandatory;
  for (unsigned i = 0; i < insn.operand_count; ++i) insn.operands[i].access = row_encoding(other).operands[i].access;
  return true;
}

FlagEffects flag_effects(const Insn& insn) {
  const RowInfo& info = row_info(insn.row);
  FlagEffects effects{info.flags_read, info.flags_written, info.flags_undefined};
  if (shift_flags_kept_by_zero_count(insn, info)) return {};
  // REP CMPS and SCAS with a count of zero compare nothing.
  if (info.string && (insn.rep || insn.repne)) effects.read |= effects.written;
  return effects;
}

}  // namespace rhea::isa::x86
