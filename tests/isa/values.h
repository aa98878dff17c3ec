// SPDX-License-Identifier: Apache-2.0
// Random values biased to where instructions have their corners.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "isa/x86/generate.h"
#include "tests/isa/machine_state.h"

namespace rhea::tests::isa {

using rhea::isa::x86::Rng;
using VectorValue = std::array<uint8_t, 32>;

uint64_t random_integer(Rng& random);
uint32_t random_single(Rng& random);  // bit pattern of a float
uint64_t random_double(Rng& random);
VectorValue random_vector(Rng& random);
std::array<uint8_t, 10> random_extended(Rng& random);

uint32_t random_mxcsr(Rng& random);
uint64_t random_mask(Rng& random);  // for an opmask register
void random_avx512_state(Rng& random, const VectorLayout& layout, MachineState& state);
// Fills x87, MXCSR, XMM and YMM state, and what AVX-512 adds where the host has it.
void random_vector_state(Rng& random, MachineState& state);

}  // namespace rhea::tests::isa
