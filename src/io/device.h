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
// save_state and load_state are called while the vCPUs stand, and between quiesce() and resume().
class Device {
 public:
  virtual ~Device() = default;
  virtual std::string_view name() const = 0;
  virtual void reset() = 0;  // power-on state
  // Devices that work on threads of their own stand still between these two, so that what is saved belongs together:
  // nothing of the guest's changes and no interrupt comes. Each call of the one is followed by one of the other.
  virtual void quiesce() {}
  virtual void resume() {}
  virtual void save_state(state::StateWriter& writer) const = 0;
  virtual Status load_state(state::StateReader& reader) = 0;
};

}  // namespace rhea::io
