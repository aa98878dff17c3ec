// SPDX-License-Identifier: Apache-2.0
// `rhea run`: from checked options to an exit status.
#pragma once

#include "app/options.h"

namespace rhea::app {

// Exit statuses of the program; a debug-exit status passes through as it is.
inline constexpr int kExitPoweredOff = 0, kExitHostError = 1, kExitUsage = 2, kExitGuestDied = 3,
                     kExitResetRequested = 4;

// Runs the virtual machine to its end and returns the exit status. Messages go to stderr.
int run_command(const RunOptions& options);

}  // namespace rhea::app
