// SPDX-License-Identifier: Apache-2.0
// Runs cases in several processes, collects results, survives executors that die.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "tests/isa/case_generator.h"
#include "tests/isa/executor.h"

namespace rhea::tests::isa {

using ExecutorFactory = std::function<Result<std::unique_ptr<Executor>>()>;

struct RunOptions {
  std::string rows;  // only rows whose name contains this ('*' matches anything)
  uint64_t seed = 1;
  uint64_t cases = 200;  // per combination
  uint64_t first_round = 0;
  double seconds = 0;  // 0: until all cases are done
  unsigned jobs = 2;
  unsigned max_reports = 20;
  int mode = 0;  // 0 both, else 32 or 64
  bool stop_at_first_failure = false;
  bool ignore_x87_pointers = false;
  bool quiet = false, verbose = false;
  unsigned patience_seconds = 30;                      // for one case; then its executor is given up
  const std::set<uint64_t>* known_failures = nullptr;  // cases that do not count
  std::string config = "native";
};

struct RunResult {
  uint64_t cases_passed = 0, cases_failed = 0, cases_inconclusive = 0, executor_deaths = 0;
  uint64_t combos_passed = 0, combos_failed = 0, combos_skipped = 0, combos_untested = 0;
  uint64_t fewest_cases = 0;  // of any combination that is not skipped
  double seconds = 0;
  std::vector<uint64_t> failed_numbers;  // of cases; the first few thousand
};

bool matches(std::string_view name, std::string_view pattern);

// Runs every selected case on the host and on the executor that `factory` makes in each worker process.
RunResult run_all(const CaseGenerator& generator, const RunOptions& options, const ExecutorFactory& factory);

// Runs one case, minimises it if it fails and prints everything. True if it passed.
bool run_one(const CaseGenerator& generator, const RunOptions& options, uint64_t number,
             const ExecutorFactory& factory);

}  // namespace rhea::tests::isa
