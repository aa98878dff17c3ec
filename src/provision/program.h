// SPDX-License-Identifier: Apache-2.0
// Running a program of the host and reading what it says.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace rhea::provision {

// Whether `name` is a program that can be run: in PATH, or where only administrators' programs are.
bool program_exists(const std::string& name);

// Runs `argv` (no shell) with standard input empty, and hands each line that it prints, on either output, to `on_line`
// (without its end). Returns the exit status; 128 + N where signal N ended it. While it runs, what asks this process to
// end (SIGINT, SIGQUIT, SIGTERM, SIGHUP) is handed on to the program and all that it has started, and 128 + the signal
// is returned when that has ended. Errors: it cannot be started. Threads: one call at a time in a process, which has no
// other threads (it changes what those signals do meanwhile).
Result<int> run_program(const std::vector<std::string>& argv, const std::function<void(std::string_view)>& on_line);

}  // namespace rhea::provision
