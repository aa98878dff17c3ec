// SPDX-License-Identifier: Apache-2.0
// Decides whether two outcomes agree, and digs into those that do not.
#include "tests/isa/judge.h"

#include <memory>

#include "tests/isa/minimise.h"
#include "tests/isa/report.h"
#include "tests/isa/tolerance.h"

namespace rhea::tests::isa {

Verdict judge(const TestCase& test_case, const Input& input, const Output& native, const Output& actual,
              bool ignore_x87_pointers) {
  if (!conclusive(native) || actual.outcome.kind == OutcomeKind::kLost) return Verdict::kInconclusive;
  const Tolerance tolerance = tolerance_for(test_case, input, native, actual, ignore_x87_pointers);
  if (tolerance.not_judged && native.outcome != actual.outcome) return Verdict::kInconclusive;
  return compare(native, actual, tolerance).empty() ? Verdict::kPassed : Verdict::kFailed;
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
  const auto differences =
      compare(*expected, *actual, tolerance_for(shortest, *input, *expected, *actual, ignore_x87_pointers));
  return report({shortest, *input, *expected, *actual, differences}, config);
}

}  // namespace rhea::tests::isa
