// SPDX-License-Identifier: Apache-2.0
// Random programs of 2 to 32 instructions around one that is under test.
#pragma once

#include <functional>

#include "tests/isa/combos.h"
#include "tests/isa/test_case.h"
#include "tests/isa/values.h"

namespace rhea::tests::isa {

// Chooses an instruction to stand beside the one under test.
using FillerSource = std::function<const Combo&(Rng&)>;

// Fills the program and the starting state. The state is already random. False if nothing could be generated.
bool make_sequence(const Combo& focus, const FillerSource& filler, Rng& random, TestCase& test_case);

}  // namespace rhea::tests::isa
