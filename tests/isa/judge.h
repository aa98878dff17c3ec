// SPDX-License-Identifier: Apache-2.0
// One case on both processors.
#pragma once

#include <optional>
#include <string>

#include "tests/isa/compare.h"
#include "tests/isa/executor.h"
#include "tests/isa/test_case.h"

namespace rhea::tests::isa {

enum class Verdict : uint8_t { kPassed, kFailed, kInconclusive };

Verdict judge(const TestCase& test_case, const Input& input, const Output& native, const Output& actual,
              bool ignore_x87_pointers);

// Runs the case again alone, shortens it as far as it still fails, and describes it. Empty if it passes now.
std::string investigate(const TestCase& test_case, Executor& native, Executor& subject, std::string_view config,
                        bool ignore_x87_pointers);

}  // namespace rhea::tests::isa
