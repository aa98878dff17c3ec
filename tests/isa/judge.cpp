// SPDX-License-Identifier: Apache-2.0
// Decides whether two outcomes agree, and digs into those that do not.
#include "tests/isa/judge.h"

#include <memory>

#include "isa/x86/rows.h"
#include "tests/isa/minimise.h"
#include "tests/isa/report.h"

namespace rhea::tests::isa {

using rhea::isa::x86::Translation;

uint64_t undefined_flags(const TestCase& test_case) {
  const auto& info = rhea::isa::x86::row_info(test_case.row);
  return !test_case.sequence && info.translation == Translation::kSystem ? info.flags_undefined : 0;
}

Verdict judge(const TestCase& test_case, const Output& native, const Output& actual) {
  if (!conclusive(native) || actual.outcome.kind == OutcomeKind::kLost) return Verdict::kInconclusive;
  return compare(native, actual, undefined_flags(test_case)).empty() ? Verdict::kPassed : Verdict::kFailed;
}

std::string investigate(const TestCase& test_case, Executor& native, Executor& subject, std::string_view config) {
  auto input = std::make_unique<Input>();
  auto expected = std::make_unique<Output>();
  auto actual = std::make_unique<Output>();
  const auto fails = [&](const TestCase& candidate) {
    if (!build_input(candidate, *input)) return false;
    native.run(*input, *expected);
    subject.run(*input, *actual);
    return judge(candidate, *expected, *actual) == Verdict::kFailed;
  };
  if (!fails(test_case)) return "";
  const TestCase shortest = minimise(test_case, fails);
  if (!fails(shortest)) return "";
  const auto differences = compare(*expected, *actual, undefined_flags(shortest));
  return report({shortest, *input, *expected, *actual, differences}, config);
}

}  // namespace rhea::tests::isa
