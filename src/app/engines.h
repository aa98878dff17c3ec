// SPDX-License-Identifier: Apache-2.0
// From the command line to the machine: its options, and the engines that are built in. Only the app knows concrete
// engines.
#pragma once

#include "app/options.h"
#include "machine/pc/machine.h"

namespace rhea::app {

// The factory for the engine that the options name. Errors: kUnsupported if it is not built in.
Result<machine::EngineFactory> select_engine(const RunOptions& options);

// What the options say of the machine itself; consoles and the debugger's wishes are the caller's to add.
machine::Machine::Options machine_options_of(const RunOptions& options);

}  // namespace rhea::app
