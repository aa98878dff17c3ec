// SPDX-License-Identifier: Apache-2.0
// What differs between two outcomes of the same case.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/isa/machine_state.h"
#include "tests/isa/tolerance.h"

namespace rhea::tests::isa {

struct Difference {
  std::string field, expected, actual;
};

std::vector<Difference> compare(const Output& expected, const Output& actual, const Tolerance& tolerance = {});

// True if the outcome says something about the code, rather than about who ran it.
inline bool conclusive(const Output& output) {
  return output.outcome.kind == OutcomeKind::kException || output.outcome.kind == OutcomeKind::kShutdown;
}

std::string describe(const Outcome& outcome);
// General registers; `vectors`: x87 and vector registers too.
std::string describe(const MachineState& state, bool mode32, bool vectors = true);

}  // namespace rhea::tests::isa
