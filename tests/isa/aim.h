// SPDX-License-Identifier: Apache-2.0
// Makes an instruction's memory operand land where a case wants it.
#pragma once

#include <cstdint>

#include "isa/x86/insn.h"
#include "tests/isa/test_case.h"
#include "tests/isa/values.h"

namespace rhea::tests::isa {

// What kind of place an access should hit; most of the time it should succeed.
uint64_t random_target(Rng& random, unsigned size_bytes, unsigned alignment, bool mode32);
// A place whose access succeeds, at least `slack` bytes from the end of what is mapped around it.
uint64_t safe_target(Rng& random, unsigned slack, bool high);

// Sets registers in `state`, or the displacement in `item`, so that the memory operand's linear address is
// `target`. Returns the address it will really have (registers may be too entangled to obey).
uint64_t aim(const rhea::isa::x86::Insn& insn, uint64_t target, Rng& random, MachineState& state, Item& item);

}  // namespace rhea::tests::isa
