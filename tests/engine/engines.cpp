// SPDX-License-Identifier: Apache-2.0
// An engine is added to the suite here.
#include "tests/engine/engines.h"

#include "engine/dbt/dbt_engine.h"

namespace rhea::tests::engine {
namespace {

EngineKind dbt(std::string name, int opt_level, bool counts) {
  engine_dbt::DbtOptions options{.opt_level = opt_level, .instruction_clock = counts, .code_cache_bytes = 4 << 20};
  return {std::move(name), counts,
          [options](const cpu::EngineContext& context) { return engine_dbt::create_dbt_engine(context, options); }};
}

}  // namespace

const std::vector<EngineKind>& engine_kinds() {
  static const std::vector<EngineKind> kinds = {dbt("Dbt", 1, false), dbt("DbtReference", 0, false),
                                                dbt("DbtCounting", 1, true), dbt("DbtReferenceCounting", 0, true)};
  return kinds;
}

}  // namespace rhea::tests::engine
