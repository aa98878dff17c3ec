// SPDX-License-Identifier: Apache-2.0
// The state in which a case starts, and what an instruction needs in it to do something interesting.
#pragma once

#include "isa/x86/insn.h"
#include "tests/isa/test_case.h"
#include "tests/isa/values.h"

namespace rhea::tests::isa {

inline constexpr size_t kCodeRoom = 2 * kPage;

// Random registers, flags and vector state; RSP in the stack.
void random_state(Rng& random, bool mode32, MachineState& state);

// Prepares registers and memory for an instruction that runs first: aims its memory operand and makes rare
// branches of its semantics (equal comparands, divisions without overflow, short repeats) common.
void prepare(const rhea::isa::x86::Insn& insn, Rng& random, TestCase& test_case, Item& item);

// Bytes that an instruction of this mnemonic can load as x87, MXCSR or extended state; empty for others.
std::vector<uint8_t> loadable_image(std::string_view mnemonic, unsigned operand_size, Rng& random);
unsigned access_bytes(const rhea::isa::x86::Insn& insn);

}  // namespace rhea::tests::isa
