// SPDX-License-Identifier: Apache-2.0
// The gdb server attached to a machine.
#pragma once

#include <memory>
#include <string>

#include "base/error.h"
#include "base/event_loop.h"
#include "machine/pc/machine.h"

namespace rhea::app {

class Debugger {
 public:
  virtual ~Debugger() = default;
  virtual const std::string& address() const = 0;
};

// Listens on `address` and connects the machine's stops to whoever comes. The machine outlives the debugger.
Result<std::unique_ptr<Debugger>> attach_debugger(base::EventLoop& loop, machine::Machine& machine,
                                                  const std::string& address);

}  // namespace rhea::app
