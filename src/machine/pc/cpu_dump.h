// SPDX-License-Identifier: Apache-2.0
// A processor's state as text, for the last words of a guest that died.
#pragma once

#include <string>

#include "cpu/cpu_state.h"

namespace rhea::machine {

// Many lines, each ending in a newline.
std::string dump_cpu_state(const cpu::CpuState& state);

// One line without its end: where the processor is and what it waits for.
std::string summarise_cpu_state(const cpu::CpuState& state);

}  // namespace rhea::machine
