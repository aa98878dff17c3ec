// SPDX-License-Identifier: Apache-2.0
// Builds starting states: random, then bent to what the instruction under test likes.
#include "tests/isa/initial_state.h"

#include <algorithm>
#include <cstring>

#include "isa/x86/rows.h"
#include "tests/isa/aim.h"

namespace rhea::tests::isa {

using rhea::isa::x86::Insn;
using rhea::isa::x86::Operand;
using rhea::isa::x86::OperandAccess;
using rhea::isa::x86::OperandKind;
using rhea::isa::x86::RowInfo;
using rhea::isa::x86::Translation;

namespace {

enum : unsigned { kRax, kRcx, kRdx, kRbx, kRsp, kRbp, kRsi, kRdi };
constexpr uint64_t kArithmeticFlags = 0x8d5, kDirection = 0x400, kTrap = 0x100, kAlignmentCheck = 0x40000;

bool starts_with_any(std::string_view text, std::initializer_list<std::string_view> prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](std::string_view p) { return text.starts_with(p); });
}

void patch(TestCase& test_case, uint64_t linear, const void* data, size_t size) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  // Page by page: neighbours in linear memory need not be neighbours in the image.
  while (size > 0) {
    const size_t piece = std::min<size_t>(size, kPage - linear % kPage);
    const auto at = image_offset_of(linear);
    const size_t page = at ? *at / kPage : 0;
    const bool code =
        page == static_cast<size_t>(BackingPage::kCode0) || page == static_cast<size_t>(BackingPage::kCode1);
    if (at && !code)
      test_case.patches.push_back({static_cast<uint32_t>(*at), std::vector<uint8_t>(bytes, bytes + piece)});
    linear += piece;
    bytes += piece;
    size -= piece;
  }
}

void append(std::vector<uint8_t>& to, uint64_t value, unsigned size) {
  for (unsigned i = 0; i < size; ++i) to.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

// The x87 environment in its 32-bit or 16-bit protected-mode form. [SDM-1 8.1.10]
std::vector<uint8_t> environment(unsigned word, Rng& random) {
  MachineState state{};
  random_vector_state(random, state);
  std::vector<uint8_t> bytes;
  append(bytes, state.xsave_field<uint16_t>(kXsaveFcw), word);
  append(bytes, state.xsave_field<uint16_t>(kXsaveFsw), word);
  append(bytes, random.next() & 0xffff, word);
  for (int i = 0; i < 4; ++i) append(bytes, random.next(), word);
  return bytes;
}

// Where a branch may go: somewhere in the code pages, which hold INT3 where nothing else is.
uint64_t branch_target(Rng& random, const TestCase& test_case) {
  const uint64_t view = test_case.program.sections[0].linear & kHighOffset;
  switch (random.below(16)) {
    case 0: return view + kDataLinear + random.below(kPage);  // not executable
    case 1: return view + kCodeLinear + kCodeRoom + random.below(64);
    case 2: return random_integer(random);
    default: return view + kCodeLinear + random.below(kCodeRoom);
  }
}

// MOV SS and POP SS hold debug traps off.
bool loads_ss(const Insn& insn, const RowInfo& info) {
  if (info.name == "MOV_Sw_Ew") return ((insn.modrm >> 3) & 7) == 2;
  return info.name == "POP_SS" || info.name == "LSS_Gv_Mp";
}

void prepare_values(const Insn& insn, const RowInfo& info, Rng& random, MachineState& state) {
  auto& gpr = state.gpr;
  const std::string_view name = info.mnemonic;
  if (loads_ss(insn, info) && random.chance(1, 2)) state.rflags |= kTrap;
  if (starts_with_any(name, {"div", "idiv"}) && random.chance(3, 4)) {
    const unsigned bits = insn.operand_size * 8u;
    if (insn.operand_size == 1) {
      gpr[kRax] = (gpr[kRax] & ~0xffffull) | random.below(0x800);
    } else {
      const bool negative = name == "idiv" && (gpr[kRax] >> (bits - 1) & 1);
      gpr[kRdx] = negative ? ~0ull : random.below(2) * random.below(16);
    }
  }
  if (info.translation == Translation::kShiftCl && random.chance(1, 2))
    gpr[kRcx] = (gpr[kRcx] & ~0xffull) | random.below(70);
  if (info.string) {
    // Most repeats are short; a long one runs into the end of a page.
    if (random.chance(7, 8)) gpr[kRcx] = random.chance(1, 8) ? random.below(6000) : random.below(40);
    if (random.chance(1, 3)) state.rflags ^= kDirection;
  }
  if (info.translation == Translation::kBitString) {
    for (unsigned i = 0; i < insn.operand_count; ++i) {
      const Operand& operand = insn.operands[i];
      if (operand.kind == OperandKind::kGpr && random.chance(7, 8))
        gpr[operand.reg] = static_cast<uint64_t>(static_cast<int64_t>(random.below(4096)) - 2048);
    }
  }
  if (starts_with_any(name, {"xsave", "xrstor"})) {
    // Components that only one of the two processors has would differ.
    gpr[kRax] = random.next() & vector_layout().components;
    gpr[kRdx] = 0;
  }
  if (starts_with_any(name, {"pcmpestr", "vpcmpestr"}) && random.chance(3, 4)) {
    gpr[kRax] = static_cast<uint64_t>(static_cast<int64_t>(random.below(40)) - 20);
    gpr[kRdx] = static_cast<uint64_t>(static_cast<int64_t>(random.below(40)) - 20);
  }
  if (starts_with_any(name, {"pcmp", "vpcmp"}) && random.chance(1, 2)) {
    // Few different bytes, so that strings match.
    for (size_t i = 0; i < 16 * 16; ++i)
      state.xsave[kXsaveXmm + i] = static_cast<std::byte>(random.chance(1, 12) ? 0 : 'a' + random.below(3));
  }
  if (info.translation == Translation::kEnter || info.translation == Translation::kLeave)
    if (random.chance(7, 8))
      gpr[kRbp] = (gpr[kRsp] & ~0xffffull & ~(kPage - 1)) + kPage + (random.below(kPage / 8) * 8);
  if (info.translation == Translation::kJcxz || info.translation == Translation::kLoop) {
    static constexpr uint64_t kCounts[] = {0, 1, 2, 0x10000, 0x100000000, 0x100000001};
    if (random.chance(3, 4)) gpr[kRcx] = kCounts[random.below(6)];
  }
}

// XLAT, string instructions and MASKMOV take their address from fixed registers, MOVDIR64B from its first operand.
void aim_implicit(const Insn& insn, const RowInfo& info, Rng& random, const TestCase& test_case, MachineState& state) {
  const bool mode32 = test_case.program.mode32;
  if (info.string || info.translation == Translation::kMaskMem) {
    if (!(info.string || (info.implicit_read & 1u << kRdi))) return;
    state.gpr[kRdi] = random_target(random, 16, 0, mode32);
    state.gpr[kRsi] =
        random.chance(1, 2) ? random_target(random, 16, 0, mode32) : state.gpr[kRdi] + random.below(64) - 32;
    // Two views of the same bytes defeat a processor's own check for overlapping strings.
    if (!mode32 && info.string && ((state.gpr[kRsi] ^ state.gpr[kRdi]) & kHighOffset)) state.gpr[kRsi] ^= kHighOffset;
  }
  if (info.mnemonic == "movdir64b") state.gpr[insn.operands[0].reg] = random_target(random, 64, 64, mode32);
  if (info.mnemonic == "xlat") state.gpr[kRbx] = random_target(random, 256, 0, mode32);
}

void prepare_comparand(const Insn& insn, uint64_t address, Rng& random, TestCase& test_case) {
  MachineState& state = test_case.state;
  const std::string_view name = rhea::isa::x86::row_info(insn).mnemonic;
  if (!name.starts_with("cmpxchg") || random.chance(1, 2)) return;
  if (name == "cmpxchg") {
    if (insn.has_memory)
      patch(test_case, address, &state.gpr[kRax], access_bytes(insn));
    else if (!insn.operands[0].high_byte)
      state.gpr[insn.operands[0].reg] = state.gpr[kRax];
    return;
  }
  const size_t half = name == "cmpxchg8b" ? 4 : 8;
  patch(test_case, address, &state.gpr[kRax], half);
  patch(test_case, address + half, &state.gpr[kRdx], half);
}

void prepare_memory(const Insn& insn, const RowInfo& info, uint64_t address, Rng& random, TestCase& test_case) {
  const bool indirect = info.translation == Translation::kJmpInd || info.translation == Translation::kCallInd;
  if (indirect) {
    const uint64_t target = branch_target(random, test_case);
    patch(test_case, address, &target, 8);
    return;
  }
  const std::vector<uint8_t> image = loadable_image(info.mnemonic, insn.operand_size, random);
  if (!image.empty()) {
    if (random.chance(7, 8)) patch(test_case, address, image.data(), image.size());
  } else if (random.chance(1, 2)) {
    const VectorValue value = random_vector(random);
    patch(test_case, address, value.data(), std::min<size_t>(value.size(), std::max(access_bytes(insn), 1u)));
  } else if (info.mnemonic.starts_with("f") && random.chance(1, 2)) {
    const auto value = random_extended(random);
    patch(test_case, address, value.data(), value.size());
  }
}

// Selectors as they mean the same under Linux and in the guest: null, user and kernel segments, empty entries,
// beyond the limit. (TSS and LDT are the kernel's own.)
uint16_t random_selector(Rng& random, bool code) {
  static constexpr uint16_t kData[] = {0x2b, 0x2b, 0x2b, 0, 3, 0x28, 0x23, 0x33};
  static constexpr uint16_t kCode[] = {0x33, 0x33, 0x23, 0x23, 0x30, 0x20, 0x2b, 0};
  static constexpr uint16_t kOdd[] = {0x08, 0x10, 0x18, 0x1b, 0x60, 0x6b, 0x73, 0x80, 0x83, 0xfff8, 1, 2};
  if (random.chance(1, 5)) return kOdd[random.below(12)];
  return code ? kCode[random.below(8)] : kData[random.below(8)];
}

bool takes_selector(const RowInfo& info) {
  static constexpr std::string_view kNames[] = {"LAR_Gv_Ew", "LSL_Gv_Ew", "VERR", "VERW", "MOV_Sw_Ew", "ARPL_Ew_Gw"};
  return std::find(std::begin(kNames), std::end(kNames), info.name) != std::end(kNames);
}

void prepare_selector(const Insn& insn, const RowInfo& info, uint64_t address, Rng& random, TestCase& test_case,
                      Item& item) {
  const unsigned size = insn.operand_size;
  if (takes_selector(info)) {
    for (unsigned i = 0; i < insn.operand_count; ++i) {
      const Operand& operand = insn.operands[i];
      const uint16_t selector = random_selector(random, false);
      if (operand.kind == OperandKind::kGpr && operand.source == rhea::isa::x86::OperandSource::kModrmRm)
        test_case.state.gpr[operand.reg] = (random.chance(1, 2) ? 0 : random.next() << 16) | selector;
      if (operand.kind == OperandKind::kMemory) patch(test_case, address, &selector, 2);
    }
  }
  const bool transfer = info.mnemonic == "call" || info.mnemonic == "jmp";
  std::vector<uint8_t> pointer;
  append(pointer, transfer ? branch_target(random, test_case) : random.next(), size);
  append(pointer, random_selector(random, transfer), 2);
  if (info.name.ends_with("_Mp")) patch(test_case, address, pointer.data(), pointer.size());
  if (info.name.ends_with("_Ap"))
    std::copy(pointer.begin(), pointer.end(), item.bytes.begin() + item.length - static_cast<int>(pointer.size()));
}

// What far returns and segment pops find on the stack.
void prepare_far_stack(const Insn& insn, const RowInfo& info, uint64_t top, Rng& random, TestCase& test_case) {
  std::vector<uint8_t> words;
  const unsigned size = insn.operand_size;
  if (info.mnemonic == "pop" && info.translation == Translation::kSystem)
    append(words, random_selector(random, false), size);
  if (info.mnemonic == "retf" || info.mnemonic.starts_with("iret")) {
    append(words, branch_target(random, test_case), size);
    append(words, random_selector(random, true), size);
  }
  if (info.mnemonic.starts_with("iret")) {
    append(words, random.next() & (random.chance(7, 8) ? ~kTrap : ~0ull), size);
    append(words, test_case.state.gpr[kRsp] + random.below(64), size);
    append(words, random.chance(7, 8) ? 0x2b : random_selector(random, false), size);
  }
  patch(test_case, top, words.data(), words.size());
}

void prepare_stack(const Insn& insn, const RowInfo& info, Rng& random, TestCase& test_case) {
  MachineState& state = test_case.state;
  const uint64_t top = test_case.program.mode32 ? state.gpr[kRsp] & 0xffffffff : state.gpr[kRsp];
  prepare_far_stack(insn, info, top, random, test_case);
  if (info.translation == Translation::kRet) {
    const uint64_t target = branch_target(random, test_case);
    patch(test_case, top, &target, 8);
  } else if (info.translation == Translation::kPopf) {
    uint64_t flags = random.next();
    if (random.chance(7, 8)) flags &= ~kTrap;
    patch(test_case, top, &flags, 8);
  }
}

}  // namespace

unsigned access_bytes(const Insn& insn) {
  for (unsigned i = 0; i < insn.operand_count; ++i)
    if (insn.operands[i].kind == OperandKind::kMemory && insn.operands[i].size_bytes)
      return insn.operands[i].size_bytes;
  const std::string_view name = rhea::isa::x86::row_info(insn).mnemonic;
  if (starts_with_any(name, {"fxsave", "fxrstor"})) return 512;
  if (starts_with_any(name, {"xsave", "xrstor"})) return static_cast<unsigned>(vector_layout().bytes);
  if (starts_with_any(name, {"fnsave", "frstor"})) return 108;
  if (starts_with_any(name, {"fldenv", "fnstenv"})) return 28;
  return 0;
}

std::vector<uint8_t> loadable_image(std::string_view mnemonic, unsigned operand_size, Rng& random) {
  const unsigned word = operand_size == 2 ? 2 : 4;
  std::vector<uint8_t> bytes;
  if (mnemonic == "ldmxcsr" || mnemonic == "vldmxcsr") {
    append(bytes, random_mxcsr(random), 4);
  } else if (mnemonic == "fldcw") {
    append(bytes, environment(4, random)[0] | 0x300, 2);
  } else if (mnemonic == "fldenv") {
    bytes = environment(word, random);
  } else if (mnemonic == "frstor") {
    bytes = environment(word, random);
    for (int i = 0; i < 8; ++i) {
      const auto value = random_extended(random);
      bytes.insert(bytes.end(), value.begin(), value.end());
    }
  } else if (starts_with_any(mnemonic, {"fxrstor", "xrstor"})) {
    MachineState state{};
    random_vector_state(random, state);
    state.set_xsave_field<uint64_t>(kXsaveFip, random.next() >> 17);
    state.set_xsave_field<uint64_t>(kXsaveFdp, random.next() >> 17);
    state.set_xsave_field<uint16_t>(kXsaveFop, static_cast<uint16_t>(random.below(0x800)));
    state.set_xsave_field<uint64_t>(kXsaveHeader,
                                    random.chance(15, 16) ? random.next() & vector_layout().components : random.next());
    bytes.resize(vector_layout().bytes);
    std::memcpy(bytes.data(), state.xsave.data(), bytes.size());
  }
  return bytes;
}

void random_state(Rng& random, bool mode32, MachineState& state) {
  for (uint64_t& value : state.gpr)
    value = random.chance(1, 4) ? random_target(random, 16, 0, mode32) : random_integer(random);
  const uint64_t high = !mode32 && random.chance(1, 2) ? kHighOffset : 0;
  uint64_t offset = kPage / 2 + (random.below(kPage) & ~7u);
  if (random.chance(1, 4)) offset += random.below(8);
  if (random.chance(1, 8)) offset = random.chance(1, 2) ? random.below(40) : 2 * kPage - random.below(40);
  state.gpr[kRsp] = kStackLinear + high + offset;
  if (mode32)
    for (uint64_t& value : state.gpr) value &= 0xffffffff;
  if (mode32)
    for (size_t i = 8; i < 16; ++i) state.gpr[i] = 0;
  state.rflags = random.next() & kArithmeticFlags;
  if (random.chance(1, 8)) state.rflags |= kDirection;
  if (random.chance(1, 64)) state.rflags |= kTrap;
  if (random.chance(1, 32)) state.rflags |= kAlignmentCheck;
  // Segment bases of FS and GS point about the data, or nowhere.
  for (uint64_t* base : {&state.fs_base, &state.gs_base})
    *base = mode32                ? 0
            : random.chance(1, 2) ? random_target(random, 16, 0, false) & 0x7fff'ffff'ffff
                                  : random.next() & 0x7fff'ffff'ffff;
  random_vector_state(random, state);
}

void prepare(const Insn& insn, Rng& random, TestCase& test_case, Item& item) {
  const RowInfo& info = rhea::isa::x86::row_info(insn);
  MachineState& state = test_case.state;
  prepare_values(insn, info, random, state);
  aim_implicit(insn, info, random, test_case, state);
  const bool indirect = info.translation == Translation::kJmpInd || info.translation == Translation::kCallInd;
  uint64_t address = 0;
  if (insn.has_memory && insn.has_modrm) {
    const unsigned alignment = info.memory_alignment == 1 ? 16u << insn.vex_l : info.memory_alignment;
    const uint64_t target =
        random_target(random, access_bytes(insn), alignment, test_case.program.mode32 || insn.mem.address_size < 8);
    address = aim(insn, insn.mem.address_size == 2 ? kLowLinear + target % kPage : target, random, state, item);
  } else if (insn.has_memory && insn.operand_count > 0 && !info.string &&
             insn.mem.base == rhea::isa::x86::kNoRegister) {
    address = aim(insn, random_target(random, access_bytes(insn), 0, insn.mem.address_size < 8), random, state, item);
  } else if (indirect) {
    state.gpr[insn.operands[0].reg] = branch_target(random, test_case);
  }
  if (address) prepare_memory(insn, info, address, random, test_case);
  prepare_comparand(insn, address, random, test_case);
  prepare_selector(insn, info, address, random, test_case, item);
  prepare_stack(insn, info, random, test_case);
}

}  // namespace rhea::tests::isa
