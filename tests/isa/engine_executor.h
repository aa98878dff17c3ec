// SPDX-License-Identifier: Apache-2.0
// Runs cases on the translator.
#pragma once

#include <memory>
#include <string_view>

#include "base/error.h"
#include "tests/isa/executor.h"

namespace rhea::tests::isa {

struct EngineOptions {
  // optimised; reference: one instruction at a time; tiny-cache: the code cache is flushed all the time; tiny-tlb:
  // entries are evicted all the time.
  std::string_view config = "optimised";
  int inject_bug = 0;  // builds with RHEA_INJECT_BUGS: seeds this bug
};

inline constexpr std::string_view kEngineConfigs[] = {"optimised", "reference", "tiny-cache", "tiny-tlb"};

// Errors: kInvalidArgument for an unknown configuration, and whatever keeps the engine from starting.
Result<std::unique_ptr<Executor>> create_engine_executor(const EngineOptions& options);

}  // namespace rhea::tests::isa
