// SPDX-License-Identifier: Apache-2.0
// Worker processes that run hostile guests; what kills or stops one is a failure, with the case kept in a file.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tests/hostile/case.h"

namespace rhea::tests::hostile {

// The case number `index` of a worker; nothing: it has done them all. A process that replaces another goes on counting.
using CaseSource = std::function<std::optional<Case>(uint64_t index)>;

struct RunOptions {
  unsigned cpu_milliseconds = 8;  // per case
  std::string artifacts = ".";    // folder for the files of failures
  bool verbose = false;
  bool confirm_leaks = true;  // in a process of its own, whose addresses are others
};

struct RunResult {
  uint64_t cases = 0;
  double process_seconds = 0;         // processor time of the workers
  std::vector<std::string> failures;  // each with the command that runs it again
};

// Runs cases until the sources are at their end, one process for each source; a process that died is replaced.
RunResult run_workers(const std::vector<CaseSource>& sources, const RunOptions& options);

}  // namespace rhea::tests::hostile
