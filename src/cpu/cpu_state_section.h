// SPDX-License-Identifier: Apache-2.0
// CpuState as a section of the machine's state.
#pragma once

#include "base/error.h"
#include "cpu/cpu_model.h"
#include "cpu/cpu_state.h"

namespace rhea::state {
class StateWriter;
class StateReader;
}  // namespace rhea::state

namespace rhea::cpu {

inline constexpr uint32_t kCpuStateVersion =
    5;  // 2: wait_for_sipi; 3: pdpte, debug_pending; 4: interrupt_taken; 5: SMM

// Writes the fields of one processor into the section that the caller has open.
void save(state::StateWriter& writer, const CpuState& state);

// Reads them back. `state` is unchanged on error. Errors: kCorrupt for fields that are missing, malformed or that
// no processor of this model can hold (the file is hostile: what is accepted here an engine may load unchecked).
Status load(state::StateReader& reader, const CpuModel& model, CpuState& state);

// What was offered to the guest: model name, vendor, CPUID features. load_offer() refuses, naming what is missing,
// unless `model` offers all of it. [docs/architecture.md, state]
void save_offer(state::StateWriter& writer, const CpuModel& model);
Status load_offer(state::StateReader& reader, const CpuModel& model);

}  // namespace rhea::cpu
