// SPDX-License-Identifier: Apache-2.0
// In which registers two processors differ.
#pragma once

#include <string>
#include <vector>

#include "cpu/cpu_state.h"

namespace rhea::app {

// One line "name: value against value" for each architectural difference; empty: equal. What XSAVE leaves open (a
// component in its initial state may or may not be marked as such) is no difference. [SDM-1 13.6]
std::vector<std::string> state_differences(const cpu::CpuState& left, const cpu::CpuState& right);

}  // namespace rhea::app
