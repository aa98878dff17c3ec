// SPDX-License-Identifier: Apache-2.0
#include "cpu/halt_sleep.h"

namespace rhea::cpu {

bool ends_halt(Lapic& lapic, HaltState& state) {
  while (lapic.pending() == LapicEvent::kSmi && lapic.take_smi()) state.smi_pending = true;
  if (state.wait_for_sipi) {  // INIT and the start-up IPI: nothing else
    const LapicEvent event = lapic.pending();
    return event == LapicEvent::kInit || event == LapicEvent::kSipi;
  }
  if (state.smi_pending && !state.in_smm) return true;
  if (state.nmi_pending && !state.nmi_blocked) return true;
  if (state.nmi_blocked && lapic.pending() == LapicEvent::kNmi && lapic.take_nmi()) state.nmi_pending = true;
  if (lapic.take_wake()) {  // whether or not interrupts are enabled
    state.halted = false;
    return true;
  }
  switch (lapic.pending()) {
    case LapicEvent::kNone: return false;
    case LapicEvent::kInterrupt:
    case LapicEvent::kExtInt: return state.interrupts_enabled;
    case LapicEvent::kNmi: return !state.nmi_blocked;
    case LapicEvent::kInit: return !state.in_smm;
    default: return true;
  }
}

}  // namespace rhea::cpu
