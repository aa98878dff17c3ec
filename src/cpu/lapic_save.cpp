// SPDX-License-Identifier: Apache-2.0
// Saving and loading of the local APIC.
#include "cpu/lapic.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::cpu {

void Lapic::save_state(state::StateWriter& writer) const {
  const platform::LapicState saved = state();
  platform::LapicState::describe(writer, saved);
}

Status Lapic::load_state(state::StateReader& reader) {
  platform::LapicState loaded;
  platform::LapicState::describe(reader, loaded);
  reader.validate(loaded.id == state().id, "belongs to a processor with another APIC ID");
  if (auto status = reader.status(); !status) return status;
  set_state(loaded);
  return {};
}

}  // namespace rhea::cpu
