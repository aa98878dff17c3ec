// SPDX-License-Identifier: Apache-2.0
// State of the I/O APIC.
#pragma once

#include <array>
#include <cstdint>

#include "base/error.h"

namespace rhea::state {
class StateWriter;
class StateReader;
}  // namespace rhea::state

namespace rhea::platform {

inline constexpr unsigned kIoapicPins = 24;

struct IoapicState {
  uint32_t id = 0;                               // 4 bits
  uint32_t register_select = 0;
  std::array<uint64_t, kIoapicPins> redirection{};  // as the guest reads them, remote IRR in bit 14
  uint32_t lines = 0;                            // input levels
  uint32_t irr = 0;                              // edges latched but not yet sent (none while unmasked)
};

inline constexpr uint32_t kIoapicStateVersion = 1;
void save(state::StateWriter& writer, const IoapicState& state);
Status load(state::StateReader& reader, IoapicState& state);

}  // namespace rhea::platform
