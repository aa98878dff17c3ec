// SPDX-License-Identifier: Apache-2.0
// Decides whether two outcomes agree, and digs into those that do not.
#include "tests/isa/judge.h"

#include <algorithm>
#include <memory>
#include <span>

#include "isa/x86/insn.h"
#include "isa/x86/rows.h"
#include "tests/isa/minimise.h"
#include "tests/isa/report.h"

namespace rhea::tests::isa {

using rhea::isa::x86::CpuMode;
using rhea::isa::x86::DecodeStatus;
using rhea::isa::x86::Translation;

Tolerance tolerance_for(const TestCase& test_case, const Input& input, const Output& native, bool ignore_x87_pointers) {
  Tolerance tolerance;
  tolerance.x87_pointers = ignore_x87_pointers;
  const auto& info = rhea::isa::x86::row_info(test_case.row);
  if (!test_case.sequence && info.translation == Translation::kSystem) tolerance.flags = info.flags_undefined;
  if (native.outcome.vector != 14) return tolerance;
  const Program& program = test_case.program;
  const uint64_t offset = native.state.rip - program.linear;
  if (offset >= program.room) return tolerance;
  const auto* code = reinterpret_cast<const uint8_t*>(input.image.data()) + program.image_start + offset;
  const std::span<const uint8_t> bytes(code, std::min<uint64_t>(15, program.room - offset));
  rhea::isa::x86::Insn insn;
  if (decode(bytes, program.mode32 ? CpuMode::k32 : CpuMode::k64, insn) != DecodeStatus::kOk) return tolerance;
  // Processors touch the 512 and more bytes of FXSAVE and kin in an order of their own, and name any byte of a
  // masked store. Gathers are exact.
  const Translation translation = rhea::isa::x86::row_info(insn).translation;
  if (translation == Translation::kFpuEnv || (translation == Translation::kMaskMem && !insn.mem.vsib)) tolerance.any_fault_address = true;
  return tolerance;
}

Verdict judge(const TestCase& test_case, const Input& input, const Output& native, const Output& actual, bool ignore_x87_pointers) {
  if (!conclusive(native) || actual.outcome.kind == OutcomeKind::kLost) return Verdict::kInconclusive;
  return compare(native, actual, tolerance_for(test_case, input, native, ignore_x87_pointers)).empty() ? Verdict::kPassed : Verdict::kFailed;
}

std::string investigate(const TestCase& test_case, Executor& native, Executor& subject, std::string_view config,
                        bool ignore_x87_pointers) {
  auto input = std::make_unique<Input>();
  auto expected = std::make_unique<Output>();
  auto actual = std::make_unique<Output>();
  const auto fails = [&](const TestCase& candidate) {
    if (!build_input(candidate, *input)) return false;
    native.run(*input, *expected);
    subject.run(*input, *actual);
    return judge(candidate, *input, *expected, *actual, ignore_x87_pointers) == Verdict::kFailed;
  };
  if (!fails(test_case)) return "";
  const TestCase shortest = minimise(test_case, fails);
  if (!fails(shortest)) return "";
  const auto differences = compare(*expected, *actual, tolerance_for(shortest, *input, *expected, ignore_x87_pointers));
  return report({shortest, *input, *expected, *actual, differences}, config);
}

}  // namespace rhea::tests::isa
