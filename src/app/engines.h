// SPDX-License-Identifier: Apache-2.0
// From the command line to the machine: its options, and the engines that are built in. Only the app knows concrete
// engines.
#pragma once

#include <string>
#include <vector>

#include "app/options.h"
#include "machine/pc/machine.h"

namespace rhea::app {

struct EngineChoice {
  std::string name;
  std::string reason;                 // why this one, where nobody named it; may be empty
  std::vector<std::string> withheld;  // CPU features that its guests do without: cpu::CpuModel::Options
  machine::EngineFactory factory;
};

// The engine that the options name; of "auto", kvm where the host has hardware virtualization and no option asks for
// what only dbt has. Errors: kUnsupported if it is not built in or the host cannot have it, with what would mend that.
Result<EngineChoice> select_engine(const RunOptions& options);

// What the options say of the machine itself; consoles and the debugger's wishes are the caller's to add.
machine::Machine::Options machine_options_of(const RunOptions& options);

}  // namespace rhea::app
