// SPDX-License-Identifier: Apache-2.0
// Compares outcomes field by field, and prints states.
#include "tests/isa/compare.h"

#include <fmt/format.h>

#include <cstring>

namespace rhea::tests::isa {
namespace {

constexpr const char* kGprNames[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                       "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
constexpr uint16_t kCs32 = 0x23;
constexpr uint64_t kComparedFlags = 0x3f7fd5;  // every defined bit
// User code cannot learn what the kernel's half maps: Linux reports its faults as protection violations.
constexpr uint64_t kUserTop = 0x7fff'ffff'f000;

class Comparison {
 public:
  void number(std::string_view field, uint64_t expected, uint64_t actual) {
    if (expected != actual)
      differences_.push_back({std::string(field), fmt::format("{:#x}", expected), fmt::format("{:#x}", actual)});
  }
  void bytes(std::string_view field, const std::byte* expected, const std::byte* actual, size_t size) {
    if (std::memcmp(expected, actual, size) == 0) return;
    differences_.push_back({std::string(field), hex(expected, size), hex(actual, size)});
  }
  std::vector<Difference> take() { return std::move(differences_); }

 private:
  static std::string hex(const std::byte* data, size_t size) {
    std::string text;
    for (size_t i = size; i-- > 0;) text += fmt::format("{:02x}", static_cast<unsigned>(data[i]));
    return text;
  }
  std::vector<Difference> differences_;
};

uint32_t visible_error_code(const Outcome& outcome) {
  return outcome.vector == 14 && outcome.fault_address >= kUserTop ? outcome.error_code & ~1u : outcome.error_code;
}

bool same_avx512(const MachineState& expected, const MachineState& actual) {
  const VectorLayout& layout = vector_layout();
  const auto same = [&](size_t from, size_t size) {
    return std::memcmp(expected.xsave.data() + from, actual.xsave.data() + from, size) == 0;
  };
  return !layout.avx512 || (same(layout.masks, kMaskBytes) && same(layout.zmm_upper, kZmmUpperBytes) &&
                            same(layout.high_zmm, kHighZmmBytes));
}

void compare_avx512(Comparison& comparison, const MachineState& expected, const MachineState& actual) {
  const VectorLayout& layout = vector_layout();
  if (!layout.avx512) return;
  const auto bytes = [&](std::string field, size_t at, size_t size) {
    comparison.bytes(field, expected.xsave.data() + at, actual.xsave.data() + at, size);
  };
  for (size_t i = 0; i < 8; ++i) bytes(fmt::format("k{}", i), layout.masks + 8 * i, 8);
  for (size_t i = 0; i < 16; ++i) bytes(fmt::format("zmm{}[511:256]", i), layout.zmm_upper + 32 * i, 32);
  for (size_t i = 0; i < 16; ++i) bytes(fmt::format("zmm{}", 16 + i), layout.high_zmm + 64 * i, 64);
}

bool same_vectors(const MachineState& expected, const MachineState& actual) {
  const auto same = [&](size_t from, size_t size) {
    return std::memcmp(expected.xsave.data() + from, actual.xsave.data() + from, size) == 0;
  };
  for (size_t i = 0; i < 8; ++i)
    if (!same(kXsaveX87 + 16 * i, 10)) return false;
  return same(0, kXsaveFtw + 1) && same(kXsaveFop, kXsaveMxcsr + 4 - kXsaveFop) && same(kXsaveXmm, 256) &&
         same(kXsaveYmmHigh, 256) && same_avx512(expected, actual);
}

void compare_vectors(Comparison& comparison, const MachineState& expected, const MachineState& actual,
                     const Tolerance& tolerance) {
  if (same_vectors(expected, actual)) return;  // nearly always, and there is much to format below
  const auto x = [&](auto type, std::string_view field, size_t offset) {
    using T = decltype(type);
    comparison.number(field, expected.xsave_field<T>(offset), actual.xsave_field<T>(offset));
  };
  x(uint16_t{}, "fcw", kXsaveFcw);
  if (!tolerance.x87_pointers) {
    x(uint16_t{}, "fop", kXsaveFop);
    // Of pointers that are not canonical (FXRSTOR loads any) processors keep what they like.
    constexpr uint64_t kCanonical = 0x7fff'ffff'ffff;
    const auto pointer = [](const MachineState& state, size_t offset) {
      return state.xsave_field<uint64_t>(offset) & kCanonical;
    };
    comparison.number("fip", pointer(expected, kXsaveFip), pointer(actual, kXsaveFip));
    comparison.number("fdp", pointer(expected, kXsaveFdp), pointer(actual, kXsaveFdp));
  }
  if (!tolerance.mxcsr) x(uint32_t{}, "mxcsr", kXsaveMxcsr);
  if (!tolerance.x87_stack) {
    x(uint16_t{}, "fsw", kXsaveFsw);
    x(uint8_t{}, "ftw", kXsaveFtw);
    for (size_t i = 0; i < 8; ++i) {
      const size_t at = kXsaveX87 + 16 * i;
      comparison.bytes(fmt::format("st{}", i), expected.xsave.data() + at, actual.xsave.data() + at, 10);
    }
  }
  for (size_t i = 0; i < 16; ++i) {
    const size_t low = kXsaveXmm + 16 * i, high = kXsaveYmmHigh + 16 * i;
    comparison.bytes(fmt::format("xmm{}", i), expected.xsave.data() + low, actual.xsave.data() + low, 16);
    comparison.bytes(fmt::format("ymm{}[255:128]", i), expected.xsave.data() + high, actual.xsave.data() + high, 16);
  }
  compare_avx512(comparison, expected, actual);
}

constexpr const char* kPageNames[kBackingPages] = {"code0", "code1",  "data0",  "data1", "read-only",
                                                   "data2", "stack0", "stack1", "low",   "self-modifying"};

void compare_memory(Comparison& comparison, const Image& expected, const Image& actual) {
  if (std::memcmp(expected.data(), actual.data(), kImageBytes) == 0) return;
  constexpr size_t kChunk = 16;
  for (size_t at = 0; at < kImageBytes; at += kChunk)
    comparison.bytes(fmt::format("memory {}+{:#x}", kPageNames[at / kPage], at % kPage), expected.data() + at,
                     actual.data() + at, kChunk);
}

constexpr const char* kVectorNames[32] = {"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9",
                                          "#TS", "#NP", "#SS", "#GP", "#PF", "15",  "#MF", "#AC", "#MC", "#XM"};

}  // namespace

std::vector<Difference> compare(const Output& expected, const Output& actual, const Tolerance& tolerance) {
  Comparison comparison;
  comparison.number("outcome", static_cast<unsigned>(expected.outcome.kind),
                    static_cast<unsigned>(actual.outcome.kind));
  comparison.number("vector", expected.outcome.vector, actual.outcome.vector);
  const bool both_page_faults = expected.outcome.vector == 14 && actual.outcome.vector == 14;
  if (!tolerance.any_fault_address || !both_page_faults) {
    comparison.number("error code", visible_error_code(expected.outcome), visible_error_code(actual.outcome));
    comparison.number("cr2", expected.outcome.fault_address, actual.outcome.fault_address);
  }
  comparison.number("rip", expected.state.rip, actual.state.rip);
  // The upper halves do not survive a stay in 32-bit code reliably. [SDM-1 3.4.1.1]
  const uint64_t gpr_mask = expected.state.selector[1] == kCs32 ? 0xffffffff : ~0ull;
  for (size_t i = 0; i < 16; ++i)
    if (!tolerance.partial_loads || i == 4)
      comparison.number(kGprNames[i], expected.state.gpr[i] & gpr_mask, actual.state.gpr[i] & gpr_mask);
  const uint64_t flags = kComparedFlags & ~tolerance.flags;
  comparison.number("rflags", expected.state.rflags & flags, actual.state.rflags & flags);
  static constexpr const char* kSegments[6] = {"es", "cs", "ss", "ds", "fs", "gs"};
  // The return to user code that comes before we look turns null selectors into plain zero.
  const auto visible = [](uint16_t selector) -> uint64_t { return selector <= 3 ? 0 : selector; };
  for (size_t i = 0; i < 6; ++i)
    comparison.number(kSegments[i], visible(expected.state.selector[i]), visible(actual.state.selector[i]));
  comparison.number("fs base", expected.state.fs_base, actual.state.fs_base);
  comparison.number("gs base", expected.state.gs_base, actual.state.gs_base);
  compare_vectors(comparison, expected.state, actual.state, tolerance);
  if (!tolerance.partial_stores) compare_memory(comparison, expected.image, actual.image);
  return comparison.take();
}

std::string describe(const Outcome& outcome) {
  switch (outcome.kind) {
    case OutcomeKind::kTimeout: return "timeout";
    case OutcomeKind::kShutdown: return "shutdown";
    case OutcomeKind::kLost: return "lost";
    case OutcomeKind::kException: break;
  }
  const char* name = outcome.vector < 20 ? kVectorNames[outcome.vector] : "?";
  std::string text = fmt::format("{} (vector {}) error code {:#x}", name, outcome.vector, outcome.error_code);
  if (outcome.vector == 14) text += fmt::format(" cr2 {:#x}", outcome.fault_address);
  return text;
}

std::string describe(const MachineState& state, bool mode32, bool vectors) {
  std::string text;
  for (size_t i = 0; i < (mode32 ? 8 : 16); ++i)
    text += fmt::format("  {:<3} {:016x}{}", kGprNames[i], state.gpr[i], i % 4 == 3 ? "\n" : "");
  text += fmt::format("  rip {:016x}  rflags {:x}  fs base {:x}  gs base {:x}\n", state.rip, state.rflags,
                      state.fs_base, state.gs_base);
  if (!vectors) return text;
  text += fmt::format("  fcw {:04x} fsw {:04x} ftw {:02x} fop {:04x} fip {:x} fdp {:x} mxcsr {:08x}\n",
                      state.xsave_field<uint16_t>(kXsaveFcw), state.xsave_field<uint16_t>(kXsaveFsw),
                      state.xsave_field<uint8_t>(kXsaveFtw), state.xsave_field<uint16_t>(kXsaveFop),
                      state.xsave_field<uint64_t>(kXsaveFip), state.xsave_field<uint64_t>(kXsaveFdp),
                      state.xsave_field<uint32_t>(kXsaveMxcsr));
  for (size_t i = 0; i < 8; ++i)
    text += fmt::format("  st{} {:04x}:{:016x}{}", i, state.xsave_field<uint16_t>(kXsaveX87 + 16 * i + 8),
                        state.xsave_field<uint64_t>(kXsaveX87 + 16 * i), i % 4 == 3 ? "\n" : "");
  for (size_t i = 0; i < (mode32 ? 8 : 16); ++i)
    text += fmt::format(
        "  ymm{:<2} {:016x}{:016x}{:016x}{:016x}\n", i, state.xsave_field<uint64_t>(kXsaveYmmHigh + 16 * i + 8),
        state.xsave_field<uint64_t>(kXsaveYmmHigh + 16 * i), state.xsave_field<uint64_t>(kXsaveXmm + 16 * i + 8),
        state.xsave_field<uint64_t>(kXsaveXmm + 16 * i));
  const VectorLayout& layout = vector_layout();
  if (!layout.avx512) return text;
  for (size_t i = 0; i < 8; ++i)
    text +=
        fmt::format("  k{} {:016x}{}", i, state.xsave_field<uint64_t>(layout.masks + 8 * i), i % 4 == 3 ? "\n" : "");
  const auto words = [&](std::string name, size_t at, size_t count) {
    text += "  " + name;
    for (size_t i = count; i-- > 0;) text += fmt::format(" {:016x}", state.xsave_field<uint64_t>(at + 8 * i));
    text += "\n";
  };
  for (size_t i = 0; i < (mode32 ? 8 : 16); ++i) words(fmt::format("zmm{}[511:256]", i), layout.zmm_upper + 32 * i, 4);
  for (size_t i = 0; i < (mode32 ? 0 : 16); ++i) words(fmt::format("zmm{}", 16 + i), layout.high_zmm + 64 * i, 8);
  return text;
}

}  // namespace rhea::tests::isa
