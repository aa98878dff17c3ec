// SPDX-License-Identifier: Apache-2.0
// What every device is: something that resets, saves and loads.
#pragma once

#include <string_view>

#include "base/error.h"

namespace rhea::state {
class StateWriter;
class StateReader;
}  // namespace rhea::state

namespace rhea::io {

// Life cycle: created -> reset -> (register accesses, save_state, reset)* -> destroyed.
//                        \-> load_state -/
class Device {
 public:
  virtual ~Device() = default;
  virtual std::string_view name() const = 0;
  virtual void reset() = 0;  // power-on state
  virtual void save_state(state::StateWriter& writer) const = 0;
  virtual Status load_state(state::StateReader& reader) = 0;
};

}  // namespace rhea::io
