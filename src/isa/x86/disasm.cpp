// SPDX-License-Identifier: Apache-2.0
// Decoded instructions as text, in the syntax of `objdump -M intel`.
#include "isa/x86/disasm.h"

#include <fmt/format.h>

#include <iterator>

#include "isa/x86/row_encoding.h"
#include "isa/x86/rows.h"

namespace rhea::isa::x86 {
namespace {

constexpr std::string_view kGpr64[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                         "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
constexpr std::string_view kGpr32[16] = {"eax", "ecx", "edx",  "ebx",  "esp",  "ebp",  "esi",  "edi",
                                         "r8d", "r9d", "r10d", "r11d", "r12d", "r13d", "r14d", "r15d"};
constexpr std::string_view kGpr16[16] = {"ax",  "cx",  "dx",   "bx",   "sp",   "bp",   "si",   "di",
                                         "r8w", "r9w", "r10w", "r11w", "r12w", "r13w", "r14w", "r15w"};
constexpr std::string_view kGpr8[16] = {"al",  "cl",  "dl",   "bl",   "spl",  "bpl",  "sil",  "dil",
                                        "r8b", "r9b", "r10b", "r11b", "r12b", "r13b", "r14b", "r15b"};
constexpr std::string_view kGpr8High[4] = {"ah", "ch", "dh", "bh"};
constexpr std::string_view kSegments[6] = {"es", "cs", "ss", "ds", "fs", "gs"};

std::string_view memory_size_name(unsigned size_bytes) {
  switch (size_bytes) {
    case 1: return "BYTE PTR ";
    case 2: return "WORD PTR ";
    case 4: return "DWORD PTR ";
    case 6: return "FWORD PTR ";
    case 8: return "QWORD PTR ";
    case 10: return "TBYTE PTR ";
    case 16: return "XMMWORD PTR ";
    case 32: return "YMMWORD PTR ";
    case 64: return "ZMMWORD PTR ";
    default: return "";
  }
}

uint64_t truncate(uint64_t value, unsigned size_bytes) {
  return size_bytes >= 8 ? value : value & ((uint64_t{1} << (size_bytes * 8)) - 1);
}

class Printer {
 public:
  Printer(const Insn& insn, uint64_t ip) : insn_(insn), next_ip_(ip + insn.length) {}

  std::string print() {
    const RowInfo& info = row_info(insn_);
    if (insn_.lock) text_ += "lock ";
    if (insn_.repne && info.string) text_ += "repnz ";
    if (insn_.rep && info.string) text_ += info.flags_written ? "repz " : "rep ";
    std::string_view name = mnemonic(insn_);
    if (info.string) name.remove_suffix(1);  // the operands show the size
    if (insn_.operand_count == 0) return text_ += name, text_;
    text_ += name;
    if (text_.size() < 6) text_.resize(6, ' ');
    text_ += ' ';
    for (unsigned i = 0; i < insn_.operand_count; ++i) {
      if (insn_.operands[i].implicit && insn_.operands[i].kind == OperandKind::kMemory && insn_.map == 1)
        continue;  // MASKMOV
      if (i) text_ += ',';
      operand(insn_.operands[i], i);
      if (i == 0) mask();
    }
    if (insn_.evex_b && !insn_.has_memory) rounding();
    if (insn_.has_memory && insn_.mem.base == kRipBase)
      append("        # {:#x}",
             truncate(next_ip_ + static_cast<uint64_t>(insn_.mem.displacement), insn_.mem.address_size));
    return text_;
  }

 private:
  template <class... Args>
  void append(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text_), format, std::forward<Args>(args)...);
  }

  void operand(const Operand& operand, unsigned position) {
    switch (operand.kind) {
      case OperandKind::kNone: break;
      case OperandKind::kGpr: text_ += gpr_name(operand.reg, operand.size_bytes, operand.high_byte); break;
      case OperandKind::kVector: vector(operand.reg, operand.size_bytes); break;
      case OperandKind::kMmx: append("mm{}", operand.reg); break;
      case OperandKind::kMask: append("k{}", operand.reg); break;
      case OperandKind::kX87:
        if (operand.implicit)
          text_ += "st";
        else
          append("st({})", operand.reg);
        break;
      case OperandKind::kSegment: text_ += segment_name(operand.reg); break;
      case OperandKind::kControl: append("cr{}", operand.reg); break;
      case OperandKind::kDebug: append("dr{}", operand.reg); break;
      case OperandKind::kMemory: memory(operand); break;
      case OperandKind::kImmediate: append("{:#x}", truncate(immediate(position), operand.size_bytes)); break;
      case OperandKind::kRelative:
        append("{:#x}", truncate(next_ip_ + static_cast<uint64_t>(insn_.imm), operand.size_bytes));
        break;
      case OperandKind::kFarPointer: append("{:#x}:{:#x}", insn_.imm2, insn_.imm); break;
      case OperandKind::kConstant: append("{}", insn_.imm); break;
    }
  }

  void vector(unsigned reg, unsigned size_bytes) {
    append("{}mm{}", size_bytes == 64 ? 'z' : size_bytes == 32 ? 'y' : 'x', reg);
  }

  void mask() {
    if (insn_.evex_mask) append("{{k{}}}", insn_.evex_mask);
    if (insn_.evex_zeroing) text_ += "{z}";
  }

  void rounding() {
    constexpr std::string_view kModes[4] = {"rn-sae", "rd-sae", "ru-sae", "rz-sae"};
    const bool immediate = insn_.imm_bytes != 0;
    const std::string text =
        fmt::format("{{{}}}", row_encoding(insn_.row).rounding ? kModes[insn_.evex_rounding] : "sae");
    if (immediate)
      text_.insert(text_.rfind(','), text);
    else
      text_ += text;
  }

  uint64_t immediate(unsigned position) const {
    for (unsigned i = 0; i < position; ++i)
      if (insn_.operands[i].kind == OperandKind::kImmediate) return static_cast<uint64_t>(insn_.imm2);
    return static_cast<uint64_t>(insn_.imm);
  }

  std::string_view index_name(unsigned reg) { return gpr_name(reg, insn_.mem.address_size); }

  void memory(const Operand& operand) {
    std::string_view size_name = memory_size_name(operand.size_bytes);
    if (insn_.evex_b)
      size_name.remove_suffix(4), append("{}BCST ", size_name);  // "PTR "
    else
      text_ += size_name;
    const MemoryRef& mem = insn_.mem;
    if (operand.implicit) {  // string operand: ES:rDI unless it is the one in `mem`
      const bool source = mem.base != 7 && operand.access == OperandAccess::kRead && is_source(operand);
      append("{}:[{}]", segment_name(source ? mem.segment : 0), index_name(source ? mem.base : 7));
      return;
    }
    const bool no_registers = mem.base == kNoRegister && mem.index == kNoRegister;
    const bool stack_base = mem.base == 4 || mem.base == 5;
    if (no_registers || mem.segment != (stack_base ? 2 : 3)) append("{}:", segment_name(mem.segment));
    if (no_registers) {
      append("{:#x}", truncate(static_cast<uint64_t>(mem.displacement), mem.address_size));
      return;
    }
    text_ += '[';
    address();
    text_ += ']';
  }

  // CMPS reads both: its first operand is the DS:rSI one.
  bool is_source(const Operand& operand) const {
    for (const Operand& other : insn_.operands)
      if (other.kind == OperandKind::kMemory && &other != &operand && other.access == OperandAccess::kRead)
        return &other > &operand;
    return true;
  }

  void address() {
    const MemoryRef& mem = insn_.mem;
    if (mem.base == kRipBase)
      text_ += mem.address_size == 8 ? "rip" : "eip";
    else if (mem.base != kNoRegister)
      text_ += index_name(mem.base);
    if (mem.index != kNoRegister) {
      if (mem.base != kNoRegister) text_ += '+';
      if (mem.vsib)
        vector(mem.index, index_bytes());
      else
        text_ += index_name(mem.index);
      if (mem.address_size != 2) append("*{}", mem.scale);
    }
    if (mem.base == kRipBase) {
      append("+{:#x}", static_cast<uint64_t>(mem.displacement));
    } else if (mem.displacement || mem.base == kNoRegister || insn_.modrm >= 0x40) {  // an encoded zero is shown
      const bool negative = mem.displacement < 0;
      const auto magnitude = static_cast<uint64_t>(negative ? -mem.displacement : mem.displacement);
      append("{}{:#x}", negative ? '-' : '+', magnitude);
    }
  }

  // A gather of 64-bit elements by 32-bit indexes (even opcodes with W1) needs only half a vector of them.
  unsigned index_bytes() const {
    const unsigned whole = 16u << insn_.vex_l;
    const bool half = !(insn_.opcode & 1) && insn_.rex_w;
    return half && whole > 16 ? whole / 2 : whole;
  }

  const Insn& insn_;
  uint64_t next_ip_;
  std::string text_;
};

}  // namespace

std::string_view gpr_name(unsigned reg, unsigned size_bytes, bool high_byte) {
  if (high_byte) return kGpr8High[reg & 3];
  switch (size_bytes) {
    case 1: return kGpr8[reg & 15];
    case 2: return kGpr16[reg & 15];
    case 4: return kGpr32[reg & 15];
    default: return kGpr64[reg & 15];
  }
}

std::string_view segment_name(unsigned segment) { return segment < 6 ? kSegments[segment] : "?"; }

std::string_view mnemonic(const Insn& insn) {
  std::string_view text = row_info(insn).mnemonic;
  const size_t first_end = text.find('|');
  if (first_end == std::string_view::npos) return text;
  const bool by_address = insn.row == RowId::JCXZ_Jb;
  const unsigned size = by_address ? insn.mem.address_size : insn.operand_size;
  const size_t second_end = text.find('|', first_end + 1);
  if (size == 2) return text.substr(0, first_end);
  if (size == 8 && second_end != std::string_view::npos) return text.substr(second_end + 1);
  return text.substr(first_end + 1, second_end == std::string_view::npos ? second_end : second_end - first_end - 1);
}

std::string disassemble(const Insn& insn, uint64_t ip) { return Printer(insn, ip).print(); }

}  // namespace rhea::isa::x86
