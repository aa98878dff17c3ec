// SPDX-License-Identifier: Apache-2.0
// Makes hostile cases and changes them: instructions from the table, what reaches devices and other vCPUs, flipped
// bits.
#pragma once

#include <cstdint>
#include <optional>

#include "isa/x86/generate.h"
#include "tests/hostile/case.h"

namespace rhea::tests::hostile {

// A new case; with `mode` absent, in any mode.
Case make_case(isa::x86::Rng& random, std::optional<Mode> mode);

// Changes one thing about a case, or a few. The mode stays if `keep_mode`.
void mutate(Case& value, isa::x86::Rng& random, bool keep_mode);

}  // namespace rhea::tests::hostile
