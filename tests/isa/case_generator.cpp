// SPDX-License-Identifier: Apache-2.0
// From a case number to a case: placement of code, single instructions; sequences are in sequence.cpp.
#include "tests/isa/case_generator.h"

#include <algorithm>

#include "isa/x86/insn.h"
#include "tests/isa/initial_state.h"
#include "tests/isa/sequence.h"

namespace rhea::tests::isa {

using rhea::isa::x86::CpuMode;
using rhea::isa::x86::GenerateOptions;
using rhea::isa::x86::Insn;
using rhea::isa::x86::kNoRegister;
using rhea::isa::x86::RowInfo;
using rhea::isa::x86::Translation;

namespace {

constexpr uint16_t kSubroutineOffset = 0xc00;
constexpr uint8_t kFsSegment = 4;

void choose_place(Rng& random, bool mode32, bool sequence, bool writable_code, Program& program) {
  program.mode32 = mode32;
  const uint64_t view = !mode32 && random.chance(1, 2) ? kHighOffset : 0;
  const Section code{.linear = kCodeLinear + view, .image_start = image_offset(BackingPage::kCode0), .room = kCodeRoom};
  const Section writable{
      .linear = kSelfModifyingLinear + view, .image_start = image_offset(BackingPage::kSelfModifying), .room = kPage};
  auto& [main, subroutine] = program.sections;
  main = subroutine = code;
  if (writable_code && random.chance(1, 12)) {  // in a page that is written, too
    main = subroutine = writable;
    main.start = static_cast<uint16_t>(random.below(0x100));
    subroutine.start = kSubroutineOffset;
    return;
  }
  // Over the border between the two code pages, up to the end of the second, at the start, or in the middle.
  const uint32_t choice = random.below(32);
  uint32_t start;
  if (choice < 8)
    start = kPage - 1 - random.below(sequence ? 120 : 14);
  else if (choice < 10)
    start = 2 * kPage - 1 - random.below(sequence ? 150 : 14);
  else if (choice < 13)
    start = 0;
  else
    start = random.below(0x900);
  main.start = static_cast<uint16_t>(start);
  if (writable_code && random.chance(1, 10)) {  // the page is data first, then code, then data again
    subroutine = writable;
    subroutine.start = kSubroutineOffset;
    return;
  }
  const bool second_page =
      start < kPage && (random.chance(1, 2) || (start + 600 > kSubroutineOffset && start < kSubroutineOffset));
  subroutine.start = static_cast<uint16_t>(kSubroutineOffset + (second_page ? kPage : 0));
}

GenerateOptions single_options(const Combo& combo, const RowInfo& info, Rng& random) {
  GenerateOptions options;
  options.mode = combo.mode;
  options.form = combo.form;
  options.allowed_indexes = random.chance(1, 2) ? static_cast<uint16_t>(0xffef) : 0;
  options.allow_rip_relative = true;
  if (random.chance(1, 12)) options.allowed_bases = 0;
  switch (random.below(4)) {
    case 0: options.displacement_min = options.displacement_max = 0; break;
    case 1: options.displacement_min = -0x7fffffff - 1, options.displacement_max = 0x7fffffff; break;
    default: break;
  }
  if (random.chance(1, 8)) options.address_size = combo.mode == CpuMode::k64 ? 4 : 2;
  if (combo.mode == CpuMode::k64 && random.chance(1, 6))
    options.segment = static_cast<uint8_t>(kFsSegment + random.below(2));
  else if (random.chance(1, 16))
    options.segment = static_cast<uint8_t>(random.below(4));
  options.redundant_prefixes = random.chance(1, 8);
  switch (info.translation) {
    case Translation::kJmpRel:
    case Translation::kJcc:
    case Translation::kJcxz:
    case Translation::kLoop:
    case Translation::kCallRel:
      options.set_immediate = random.chance(15, 16);
      options.immediate = static_cast<int64_t>(random.below(250)) - 125;
      break;
    case Translation::kEnter:
      options.set_immediate = random.chance(3, 4);
      options.immediate = random.below(0x600);
      break;
    default: break;
  }
  if (info.mnemonic.starts_with("xsave") || info.mnemonic.starts_with("xrstor")) {  // EDX:EAX chooses components
    options.allowed_bases &= static_cast<uint16_t>(~5);
    options.allowed_indexes &= static_cast<uint16_t>(~5);
  }
  if (info.name == "INT_Ib") {
    options.set_immediate = true;
    options.immediate = random.below(0x80) * 2 + random.below(2);
    if (options.immediate == 0x80) options.immediate = 0x81;  // the 32-bit system call
  }
  return options;
}

bool make_single(const Combo& combo, Rng& random, TestCase& test_case) {
  const RowInfo& info = rhea::isa::x86::row_info(combo.row);
  std::vector<uint8_t> bytes;
  for (int attempt = 0; attempt < 20 && bytes.empty(); ++attempt) {
    generate(combo.row, single_options(combo, info, random), random, bytes);
    if (bytes.size() > 15) bytes.clear();
  }
  Insn insn;
  if (bytes.empty() || decode(bytes, combo.mode, insn) != rhea::isa::x86::DecodeStatus::kOk ||
      insn.length != bytes.size())
    return false;
  Item item;
  item.length = static_cast<uint8_t>(bytes.size());
  std::copy(bytes.begin(), bytes.end(), item.bytes.begin());
  prepare(insn, random, test_case, item);
  test_case.program.items.push_back(item);
  return true;
}

uint64_t mix(uint64_t seed, uint64_t number) {
  Rng random(seed);
  return random.next() ^ (number * 0xd6e8feb86659fd93);
}

}  // namespace

CaseGenerator::CaseGenerator(uint64_t seed) : seed_(seed), combos_(all_combos()) {
  for (size_t i = 0; i < combos_.size(); ++i) {
    const size_t mode = combos_[i].mode == CpuMode::k32;
    if (combos_[i].filler) fillers_[mode].push_back(i);
    if (combos_[i].everyday) everyday_[mode].push_back(i);
  }
}

bool CaseGenerator::make(uint64_t number, TestCase& test_case, Input& input) const {
  const Combo& combo = combos_[combo_of(number)];
  const size_t mode = combo.mode == CpuMode::k32;
  const FillerSource filler = [&](Rng& random) -> const Combo& {
    const auto& source = random.chance(3, 5) ? everyday_[mode] : fillers_[mode];
    return combos_[source[random.below(static_cast<uint32_t>(source.size()))]];
  };
  Rng random(mix(seed_, number));
  for (int attempt = 0; attempt < 60; ++attempt) {
    test_case = TestCase{.seed = seed_, .number = number, .row = combo.row, .form = combo.form};
    test_case.sequence = (number / combos_.size()) % 2 == 1;
    random_state(random, mode, test_case.state);
    // A string instruction that runs over itself stops wherever the processor notices.
    const bool string = rhea::isa::x86::row_info(combo.row).string;
    choose_place(random, mode, test_case.sequence, test_case.sequence && !string, test_case.program);
    const bool made =
        test_case.sequence ? make_sequence(combo, filler, random, test_case) : make_single(combo, random, test_case);
    if (mode)
      for (uint64_t& value : test_case.state.gpr) value &= 0xffffffff;
    if (made && build_input(test_case, input)) return true;
  }
  return false;
}

}  // namespace rhea::tests::isa
