// SPDX-License-Identifier: Apache-2.0
// The dbt engine: cpu::Engine over the dynamic binary translator.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/error.h"
#include "cpu/engine.h"

namespace rhea::engine_dbt {

struct DbtOptions {
  int opt_level = 1;               // 0: reference mode
  bool instruction_clock = false;  // the machine's clock counts instructions
  uint64_t code_cache_bytes = 256u << 20;
  std::string perf_map;              // write /tmp/perf-PID.map style symbols there; empty: off
  uint32_t tlb_index_mask = 0xffff;  // tests: a tiny TLB
  int inject_bug = 0;                // test builds only
};

// Errors: kUnsupported if the host's processor lacks what the translator needs (AVX2, BMI2).
Result<std::unique_ptr<cpu::Engine>> create_dbt_engine(const cpu::EngineContext& context, const DbtOptions& options);

}  // namespace rhea::engine_dbt
