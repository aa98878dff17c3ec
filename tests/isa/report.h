// SPDX-License-Identifier: Apache-2.0
// Prints a case that failed: its code, where it started, what was expected and what came.
#pragma once

#include <string>
#include <vector>

#include "tests/isa/compare.h"
#include "tests/isa/test_case.h"

namespace rhea::tests::isa {

// The program, one instruction per line: address, bytes, text.
std::string listing(const TestCase& test_case, const Input& input);

struct Finding {
  const TestCase& test_case;
  const Input& input;
  const Output& expected;
  const Output& actual;
  const std::vector<Difference>& differences;
};
std::string report(const Finding& finding, std::string_view config);

}  // namespace rhea::tests::isa
