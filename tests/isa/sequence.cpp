// SPDX-License-Identifier: Apache-2.0
// Sequences as compilers make them, only wilder: a few registers stay pointers and are shared by the memory
// operands, one counts loops, the others are worked on. Most sequences run to their end; some pointers start
// close to a page that faults, and some instructions are allowed to destroy a pointer.
#include "tests/isa/sequence.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>

#include "isa/x86/insn.h"
#include "isa/x86/rows.h"
#include "tests/isa/aim.h"
#include "tests/isa/initial_state.h"

namespace rhea::tests::isa {

using rhea::isa::x86::CpuMode;
using rhea::isa::x86::GenerateOptions;
using rhea::isa::x86::Insn;
using rhea::isa::x86::kNoRegister;
using rhea::isa::x86::kRipBase;
using rhea::isa::x86::Operand;
using rhea::isa::x86::OperandAccess;
using rhea::isa::x86::OperandKind;
using rhea::isa::x86::RowInfo;
using rhea::isa::x86::Translation;

namespace {

enum : uint8_t { kRax, kRcx, kRdx, kRbx, kRsp, kRbp, kRsi, kRdi };
constexpr uint8_t kMain = 0, kSubroutine = 1;

constexpr uint16_t bit(unsigned reg) { return static_cast<uint16_t>(1u << reg); }

uint16_t written_gprs(const Insn& insn) {
  uint16_t written = rhea::isa::x86::row_info(insn).implicit_write;
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    const Operand& operand = insn.operands[i];
    const bool writes = static_cast<unsigned>(operand.access) & static_cast<unsigned>(OperandAccess::kWrite);
    if (operand.kind == OperandKind::kGpr && writes) written |= bit(operand.reg);
  }
  if (insn.rep || insn.repne) written |= bit(kRcx);
  return written;
}

class SequenceBuilder {
 public:
  SequenceBuilder(const Combo& focus, const FillerSource& filler, Rng& random, TestCase& test_case)
      : focus_(focus),
        filler_(filler),
        random_(random),
        test_case_(test_case),
        program_(test_case.program),
        mode32_(focus.mode == CpuMode::k32) {}

  bool build() {
    choose_registers();
    const unsigned count = 2 + random_.below(31);
    const unsigned focus_at = random_.below(count);
    const bool loops = random_.chance(1, 2);
    const unsigned loop_from = loops ? random_.below(count) : 0;
    const unsigned loop_to = loops ? loop_from + random_.below(std::min(count - loop_from, 8u)) : 0;
    const bool calls =
        random_.chance(2, 5) || (writable_code() && !writable(kMain)) || info().translation == Translation::kRet;
    const unsigned call_at = calls ? random_.below(count) : count;
    state().gpr[counter_] = 1 + random_.below(5);
    if (loops) emit_mov_immediate(counter_, 1 + random_.below(5));
    size_t loop_top = 0;
    bool generated = false;
    for (unsigned i = 0; i < count; ++i) {
      if (loops && i == loop_from) loop_top = program_.items.size();
      if (i == focus_at)
        generated = emit_focus();
      else if (random_.chance(1, 8))
        emit_forward_branch();
      else if (writable_code() && random_.chance(1, 4))
        emit_code_change();
      else
        emit_filler(loops && i <= loop_to);
      if (i == call_at) emit_call();
      if (loops && i == loop_to) emit_loop_end(loop_top);
    }
    if (calls) emit_subroutine();
    resolve_forward();
    // Several are at hand: with a fault among the first instructions the rest would never be seen.
    return generated;
  }

 private:
  const RowInfo& info() const { return rhea::isa::x86::row_info(focus_.row); }
  MachineState& state() { return test_case_.state; }

  bool chooses_components() const {
    return info().mnemonic.starts_with("xsave") || info().mnemonic.starts_with("xrstor");
  }
  bool writable(uint8_t section) const {
    return program_.sections[section].image_start == image_offset(BackingPage::kSelfModifying);
  }
  bool writable_code() const { return writable(kSubroutine); }

  // ---- registers ----
  void choose_registers() {
    const unsigned gprs = mode32_ ? 8 : 16;
    std::array<uint8_t, 16> order{};
    unsigned known = 0;
    for (uint8_t reg = 0; reg < gprs; ++reg)
      if (reg != kRsp) order[known++] = reg;
    for (unsigned i = known; i > 1; --i) std::swap(order[i - 1], order[random_.below(i)]);
    const unsigned pointer_count = 1 + random_.below(3);
    for (unsigned i = 0; i < pointer_count; ++i) make_pointer(order[i]);
    if (random_.chance(1, 3)) {
      make_pointer(kRsi), make_pointer(kRdi);
      // Two views of the same bytes defeat a processor's own check for overlapping strings.
      if (!mode32_ && ((state().gpr[kRsi] ^ state().gpr[kRdi]) & kHighOffset)) state().gpr[kRsi] ^= kHighOffset;
    }
    unsigned next = pointer_count;
    while (pointers_ & bit(order[next])) ++next;
    const uint16_t claimed = always_written();
    for (unsigned i = next; i < known; ++i)
      if (!(claimed & bit(order[i])) && !(pointers_ & bit(order[i]))) {
        std::swap(order[i], order[next]);
        break;
      }
    counter_ = order[next++];
    while (next < known && (pointers_ & bit(order[next]))) ++next;
    if (next < known) {
      index_ = bit(order[next]);
      state().gpr[order[next]] = random_.below(48);
    }
    worked_ = static_cast<uint16_t>((mode32_ ? 0xff : 0xffff) & ~(pointers_ | bit(counter_) | bit(kRsp)));
    if (random_.chance(3, 4)) worked_ &= static_cast<uint16_t>(~index_);
  }

  // What the instruction under test writes whatever its operands are.
  uint16_t always_written() {
    uint16_t written = 0xffff;
    for (int i = 0; i < 3; ++i) {
      GenerateOptions any;
      any.mode = focus_.mode;
      any.form = focus_.form;
      Insn insn;
      if (!encode(focus_, any, insn).empty()) written &= written_gprs(insn);
    }
    return written == 0xffff ? 0 : written;
  }

  void make_pointer(uint8_t reg) {
    if (reg == counter_) return;
    pointers_ |= bit(reg);
    const bool high = !mode32_ && random_.chance(1, 2);
    if (writable_code() && random_.chance(1, 2))
      state().gpr[reg] = program_.sections[kSubroutine].linear + 0x8c0 + random_.below(0x100);  // beside the code
    else if (random_.chance(1, 12))
      state().gpr[reg] = kData2Linear + kPage - random_.below(200) + (high ? kHighOffset : 0);
    else if (random_.chance(1, 12))
      state().gpr[reg] = kDataLinear + 2 * kPage - random_.below(200) + (high ? kHighOffset : 0);
    else
      state().gpr[reg] = safe_target(random_, 512, high) + (random_.chance(1, 4) ? random_.below(16) : 0);
  }

  // ---- emission ----
  Item& push(const std::vector<uint8_t>& bytes) {
    Item item;
    item.length = static_cast<uint8_t>(bytes.size());
    std::copy(bytes.begin(), bytes.end(), item.bytes.begin());
    item.section = section_;
    program_.items.push_back(item);
    return program_.items.back();
  }

  void emit_mov_immediate(uint8_t reg, uint32_t value) {
    std::vector<uint8_t> bytes;
    if (reg >= 8) bytes.push_back(0x41);
    bytes.push_back(static_cast<uint8_t>(0xb8 + (reg & 7)));
    for (int i = 0; i < 4; ++i) bytes.push_back(static_cast<uint8_t>(value >> (8 * i)));
    push(bytes);
  }

  GenerateOptions options(const Combo& combo) {
    GenerateOptions result;
    result.mode = combo.mode;
    result.form = combo.form;
    result.allowed_gprs = worked_;
    if (random_.chance(1, 10)) result.allowed_gprs |= pointers_;
    if (random_.chance(1, 20)) result.allowed_gprs |= bit(kRsp);
    result.allowed_bases = pointers_;
    if (random_.chance(1, 8)) result.allowed_bases = bit(kRsp);
    if (random_.chance(1, 16)) result.allowed_bases = 0;
    if (random_.chance(1, 3)) result.allowed_indexes = index_;
    result.allow_rip_relative = random_.chance(1, 4);
    const bool wide = random_.chance(1, 4);
    result.displacement_min = wide ? -400 : -64;
    result.displacement_max = wide ? 400 : 64;
    result.redundant_prefixes = random_.chance(1, 16);
    return result;
  }

  // Bytes of the combination, or none; `insn` is what they decode to.
  std::vector<uint8_t> encode(const Combo& combo, const GenerateOptions& wanted, Insn& insn) {
    std::vector<uint8_t> bytes;
    if (!generate(combo.row, wanted, random_, bytes)) return {};
    if (decode(bytes, combo.mode, insn) != rhea::isa::x86::DecodeStatus::kOk || insn.length != bytes.size()) return {};
    return bytes;
  }

  // RIP-relative and absolute operands go to data wherever the code lies.
  void aim_item(const Insn& insn, Item& item) {
    if (!insn.has_memory) return;
    const bool fixed = insn.mem.base == kRipBase || (insn.mem.base == kNoRegister && insn.mem.index == kNoRegister);
    if (!fixed || rhea::isa::x86::row_info(insn).string) return;
    const bool high =
        insn.mem.base == kRipBase && (program_.sections[section_].linear & kHighOffset) && insn.mem.address_size == 8;
    const uint64_t target =
        insn.mem.address_size == 2 ? kLowLinear + random_.below(kPage - 64) : safe_target(random_, 512, high);
    MachineState scratch = state();
    scratch.fs_base = scratch.gs_base = 0;
    aim(insn, target, random_, scratch, item);
  }

  bool acceptable(const Insn& insn, bool counter_needed) {
    const uint16_t written = written_gprs(insn);
    if (written & bit(counter_)) return !counter_needed && random_.chance(1, 2);
    const RowInfo& row = rhea::isa::x86::row_info(insn);
    // Strings move their pointers, and repeats without one run long.
    if (row.string) return !writable_code() && (pointers_ & bit(kRsi)) && (pointers_ & bit(kRdi));
    if (row.translation == Translation::kMaskMem && !(pointers_ & bit(kRdi)) && !insn.has_modrm) return false;
    if (written & pointers_) return random_.chance(1, 12);
    return true;
  }

  void emit_filler(bool counter_needed) {
    for (int attempt = 0; attempt < 12; ++attempt) {
      const Combo& combo = filler_(random_);
      Insn insn;
      const std::vector<uint8_t> bytes = encode(combo, options(combo), insn);
      if (bytes.empty() || !acceptable(insn, counter_needed)) continue;
      aim_item(insn, push(bytes));
      note_immediate(insn);
      return;
    }
  }

  void note_immediate(const Insn& insn) {
    if (writable(section_) && insn.operand_count && insn.imm_bytes &&
        insn.operands[insn.operand_count - 1].kind == OperandKind::kImmediate)
      with_immediate_.push_back(program_.items.size() - 1);
  }

  // mov byte [last byte of some instruction's immediate], random: which one is chosen when all are known.
  void emit_code_change() {
    Item& item = push({0xc6, 0x05, 0, 0, 0, 0, static_cast<uint8_t>(random_.next())});
    item.fixup = mode32_ ? Fixup::kLabelAbsolute : Fixup::kLabel;
    item.fixup_offset = 2;
    item.fixup_size = 4;
    code_changes_.push_back(program_.items.size() - 1);
  }

  bool emit_focus() {
    switch (info().translation) {
      case Translation::kJmpRel:
      case Translation::kJcc:
      case Translation::kJcxz:
      case Translation::kLoop:
      case Translation::kCallRel: return emit_focus_branch();
      case Translation::kJmpInd:
      case Translation::kCallInd: return emit_focus_indirect();
      case Translation::kRet: return true;  // the subroutine ends in it
      default: break;
    }
    if (chooses_components()) {
      glued_from_ = program_.items.size();
      glued_to_ = glued_from_ + 2;
      emit_mov_immediate(kRax, random_.below(8));
      emit_mov_immediate(kRdx, 0);
    }
    if (looks_at_x87() && random_.chance(1, 2)) raise_x87();
    for (int attempt = 0; attempt < 20; ++attempt) {
      GenerateOptions wanted = options(focus_);
      if (attempt > 10) wanted.allowed_gprs = static_cast<uint16_t>(~bit(counter_)), wanted.allowed_bases = 0xffff;
      wanted.redundant_prefixes = random_.chance(1, 8);
      if (chooses_components())
        wanted.allowed_bases &= static_cast<uint16_t>(~5), wanted.allowed_indexes &= static_cast<uint16_t>(~5);
      if (info().name == "INT_Ib") wanted.set_immediate = true, wanted.immediate = random_.below(32);
      Insn insn;
      const std::vector<uint8_t> bytes = encode(focus_, wanted, insn);
      if (bytes.empty()) continue;
      if ((written_gprs(insn) & bit(counter_)) && attempt < 18) continue;
      if (insn.mem.vsib) {
        Item unused = {};
        aim(insn, safe_target(random_, 512, false), random_, state(), unused);
        if (!(pointers_ & bit(insn.mem.base & 15))) state().gpr[insn.mem.base & 15] = safe_target(random_, 512, false);
      }
      Item& item = push(bytes);
      aim_item(insn, item);
      provide(insn);
      // Flags that an emulated instruction leaves undefined must not be seen by others.
      if (info().translation == Translation::kSystem && info().flags_undefined) push({0x39, 0xc0});  // cmp eax, eax
      return true;
    }
    return false;
  }

  // Control instructions of the x87 that do not wait: they see an exception that is pending.
  bool looks_at_x87() const {
    const std::string_view name = info().mnemonic;
    return name.starts_with("fn") || name == "fxsave" || name == "xsave" || name == "fldcw";
  }

  // x87 instructions with every exception unmasked: the first that raises one leaves it pending.
  void raise_x87() {
    state().set_xsave_field<uint16_t>(kXsaveFcw,
                                      static_cast<uint16_t>(state().xsave_field<uint16_t>(kXsaveFcw) & ~0x3f));
    state().set_xsave_field<uint16_t>(kXsaveFsw,
                                      static_cast<uint16_t>(state().xsave_field<uint16_t>(kXsaveFsw) & ~0x80ff));
    for (int attempt = 0; attempt < 200; ++attempt) {
      const Combo& combo = filler_(random_);
      if (rhea::isa::x86::row_info(combo.row).translation != Translation::kCopyX87) continue;
      Insn insn;
      const std::vector<uint8_t> bytes = encode(combo, options(combo), insn);
      if (bytes.empty() || !acceptable(insn, true)) continue;
      aim_item(insn, push(bytes));
      return;
    }
  }

  // Something loadable where the instruction reads x87, MXCSR or extended state.
  void provide(const Insn& insn) {
    const std::vector<uint8_t> image = loadable_image(info().mnemonic, insn.operand_size, random_);
    if (image.empty() || insn.mem.base >= 16) return;
    uint64_t& base = state().gpr[insn.mem.base];
    const uint64_t alignment = insn.mem.base == kRsp ? 16 : 64;
    base = (base & ~(alignment - 1)) - static_cast<uint64_t>(insn.mem.displacement) % alignment;
    if (insn.mem.index < 16) state().gpr[insn.mem.index] &= ~(alignment - 1);
    const uint64_t index = insn.mem.index < 16 ? state().gpr[insn.mem.index] * insn.mem.scale : 0;
    const auto at = image_offset_of(base + static_cast<uint64_t>(insn.mem.displacement) + index);
    if (at) test_case_.patches.push_back({.image_offset = static_cast<uint32_t>(*at), .bytes = image});
  }

  bool emit_focus_branch() {
    GenerateOptions wanted = options(focus_);
    wanted.set_immediate = true;
    Insn insn;
    const std::vector<uint8_t> bytes = encode(focus_, wanted, insn);
    if (bytes.empty() || insn.imm_bytes == 0) return false;
    Item& item = push(bytes);
    if (insn.imm_bytes == 2) return true;  // a 16-bit displacement leaves the code: its fetch faults
    item.fixup = Fixup::kLabel;
    item.fixup_offset = static_cast<uint8_t>(insn.length - insn.imm_bytes);
    item.fixup_size = insn.imm_bytes;
    forward_.push_back({program_.items.size() - 1, 1 + random_.below(4)});
    return true;
  }

  // Puts the target's address into a register or into memory first.
  bool emit_focus_indirect() {
    Insn insn;
    GenerateOptions wanted = options(focus_);
    wanted.allow_rip_relative = false;
    wanted.allowed_indexes = 0;
    wanted.allowed_gprs = worked_;
    wanted.allowed_bases = 0;
    const std::vector<uint8_t> bytes = encode(focus_, wanted, insn);
    if (bytes.empty()) return false;
    if (!insn.has_memory) {
      const uint8_t reg = insn.operands[0].reg;
      std::vector<uint8_t> load;
      if (mode32_)
        load = {static_cast<uint8_t>(0xb8 + reg), 0, 0, 0, 0};
      else
        load = {static_cast<uint8_t>(0x48 | reg >> 3), static_cast<uint8_t>(0xb8 + (reg & 7)), 0, 0, 0, 0, 0, 0, 0, 0};
      Item& item = push(load);
      item.fixup = Fixup::kLabelAbsolute;
      item.fixup_offset = mode32_ ? 1 : 2;
      item.fixup_size = mode32_ ? 4 : 8;
      forward_.push_back({program_.items.size() - 1, 2 + random_.below(4)});
      push(bytes);
      return true;
    }
    Item& item = push(bytes);
    const uint64_t slot = kData2Linear + 8 * random_.below(400);
    aim(insn, slot, random_, state(), item);
    const auto at = image_offset_of(slot);
    if (!at) return false;
    test_case_.patches.push_back({.image_offset = static_cast<uint32_t>(*at), .bytes = {}, .label = 0});
    forward_patches_.push_back({test_case_.patches.size() - 1, program_.items.size() - 1 + 1 + random_.below(3)});
    return true;
  }

  void emit_forward_branch() {
    const uint8_t condition = static_cast<uint8_t>(random_.below(16));
    const bool near = random_.chance(1, 2);
    std::vector<uint8_t> bytes;
    if (random_.chance(1, 10))
      bytes = near ? std::vector<uint8_t>{0xe9, 0, 0, 0, 0} : std::vector<uint8_t>{0xeb, 0};
    else if (near)
      bytes = {0x0f, static_cast<uint8_t>(0x80 | condition), 0, 0, 0, 0};
    else
      bytes = {static_cast<uint8_t>(0x70 | condition), 0};
    const uint8_t size = near ? 4 : 1;
    Item& item = push(bytes);
    item.fixup = Fixup::kLabel;
    item.fixup_offset = static_cast<uint8_t>(bytes.size() - size);
    item.fixup_size = size;
    forward_.push_back({program_.items.size() - 1, 1 + random_.below(near ? 12 : 5)});
  }

  void emit_loop_end(size_t top) {
    const bool rex = counter_ >= 8;
    const uint8_t low = counter_ & 7;
    if (counter_ == kRcx && random_.chance(1, 2)) {
      Item& item = push({0xe2, 0});
      item.fixup = Fixup::kLabel, item.fixup_offset = 1, item.fixup_size = 1;
      item.target = static_cast<uint16_t>(top);
      // Too far for a byte: another way below would do, but such a program is simply given up.
      return;
    }
    std::vector<uint8_t> count;
    if (rex) count.push_back(0x41);
    if (random_.chance(1, 2))
      count.insert(count.end(), {0xff, static_cast<uint8_t>(0xc8 | low)});  // dec r32
    else
      count.insert(count.end(), {0x83, static_cast<uint8_t>(0xe8 | low), 1});  // sub r32, 1
    push(count);
    loop_branch_ = program_.items.size();
    Item& item = push({0x0f, 0x85, 0, 0, 0, 0});  // jnz
    item.fixup = Fixup::kLabel, item.fixup_offset = 2, item.fixup_size = 4;
    item.target = static_cast<uint16_t>(top);
  }

  void emit_call() {
    Item& item = push({0xe8, 0, 0, 0, 0});
    item.fixup = Fixup::kLabel, item.fixup_offset = 1, item.fixup_size = 4;
    calls_.push_back(program_.items.size() - 1);
  }

  void emit_subroutine() {
    section_ = kSubroutine;
    const size_t start = program_.items.size();
    main_end_ = start;
    for (const size_t call : calls_) program_.items[call].target = static_cast<uint16_t>(start);
    const unsigned count = 1 + random_.below(5);
    for (unsigned i = 0; i < count; ++i) emit_filler(true);
    if (program_.items.size() == start) push({0x90});
    if (info().translation == Translation::kRet) {
      GenerateOptions wanted = options(focus_);
      wanted.set_immediate = true;
      wanted.immediate = random_.below(8) * 8;
      Insn insn;
      const std::vector<uint8_t> bytes = encode(focus_, wanted, insn);
      if (!bytes.empty()) push(bytes);
    } else {
      push({0xc3});
    }
  }

  // Forward targets become known when everything stands: so many items further on, at most the end.
  void resolve_forward() {
    const size_t end = main_end_ ? main_end_ : program_.items.size();
    const auto label = [&](size_t index) {
      if (index > glued_from_ && index <= glued_to_) index = glued_from_;  // not without its EDX:EAX
      if (loop_branch_ && index == loop_branch_) --index;  // without the decrement it would loop for ever
      return static_cast<uint16_t>(index >= end ? program_.items.size() : index);
    };
    for (const size_t change : code_changes_) {
      if (with_immediate_.empty()) {
        program_.items[change].dropped = true;
        continue;
      }
      const size_t changed = with_immediate_[random_.below(static_cast<uint32_t>(with_immediate_.size()))];
      program_.items[change].target = static_cast<uint16_t>(changed);
      program_.items[change].addend = static_cast<uint8_t>(program_.items[changed].length - 1);
    }
    for (const auto& [item, distance] : forward_) program_.items[item].target = label(item + distance);
    for (const auto& [patch, index] : forward_patches_) test_case_.patches[patch].label = label(index);
  }

  struct Forward {
    size_t item;
    size_t distance;
  };

  const Combo& focus_;
  const FillerSource& filler_;
  Rng& random_;
  TestCase& test_case_;
  Program& program_;
  bool mode32_;
  uint8_t section_ = kMain;
  size_t main_end_ = 0, loop_branch_ = 0, glued_from_ = ~size_t{0}, glued_to_ = 0;
  uint16_t pointers_ = 0, index_ = 0, worked_ = 0;
  uint8_t counter_ = 0xff;
  std::vector<Forward> forward_, forward_patches_;
  std::vector<size_t> calls_, with_immediate_, code_changes_;
};

}  // namespace

bool make_sequence(const Combo& focus, const FillerSource& filler, Rng& random, TestCase& test_case) {
  return SequenceBuilder(focus, filler, random, test_case).build();
}

}  // namespace rhea::tests::isa
