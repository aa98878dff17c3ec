// SPDX-License-Identifier: Apache-2.0
// `--dbt-verify N`: two complete machines in one process, one optimised, one in reference mode, in step.
//
// Both count instructions as time, so that they must agree after every N of them: in the processor's state each time,
// in a slice of RAM each time and in all of it, the devices and what was printed now and then. At the first
// difference both machines are made anew and run up to the last interval in which they agreed; that one is then gone
// through in small steps, with every instruction of the reference machine recorded.
//
// Threads: one, the caller's.
#pragma once

#include "app/options.h"
#include "base/error.h"
#include "machine/pc/machine.h"

namespace rhea::app {

// Runs to the guest's end or the first difference, which is kHostError with the report as its text. The console goes to
// standard output, from the optimised machine; standard input goes to both between two intervals.
Result<machine::MachineExit> run_lockstep(const RunOptions& options);

}  // namespace rhea::app
