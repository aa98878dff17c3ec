// SPDX-License-Identifier: Apache-2.0
// Makes a failing sequence as short as it can be.
#pragma once

#include <functional>

#include "tests/isa/test_case.h"

namespace rhea::tests::isa {

// Drops instructions (their labels move on to the next one) as long as `fails` stays true.
TestCase minimise(const TestCase& test_case, const std::function<bool(const TestCase&)>& fails);

}  // namespace rhea::tests::isa
