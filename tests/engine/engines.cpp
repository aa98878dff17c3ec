// SPDX-License-Identifier: Apache-2.0
// An engine is added to the suite here.
#include "tests/engine/engines.h"

#include <fmt/format.h>

#include "engine/dbt/dbt_engine.h"
#include "engine/kvm/kvm_engine.h"
#include "engine/kvm/preflight.h"

namespace rhea::tests::engine {
namespace {

EngineKind dbt(std::string name, int opt_level, bool counts) {
  engine_dbt::DbtOptions options{.opt_level = opt_level, .instruction_clock = counts, .code_cache_bytes = 4 << 20};
  return {std::move(name), counts,
          [options](const cpu::EngineContext& context) { return engine_dbt::create_dbt_engine(context, options); }};
}

using Limits = std::map<std::string, std::string>;

// A KVM without hardware virtualization emulates the guest's kernel mode inside the host's kernel, and not all of it.
Limits software_limits() {
  return {
      {"PopfAndIretEnableAtOnce", "it looks for interrupts one instruction later"},
      {"MovSsHoldsOneInstruction", "it looks for interrupts one instruction later"},
      {"SoftwareInterruptsPushTheNextInstruction", "it does not emulate INT n"},
      {"CpuidIsTheModels", "leaf 1 shows the host's features"},
      {"UnknownMsrsAndBadValuesFault", "it does not check what MSRs are given"},
      {"TscAdjustMovesTheTsc", "the TSC is the host's and cannot be moved"},
      {"WhatIsSetComesBack", "the TSC is the host's and cannot be moved"},
      {"TaskSwitchedMakesVectorAndX87CodeUnavailable", "it does not look at CR0.TS"},
      {"ResetStartsAtTheVectorInRealMode", "it does not reach the reset vector's segment"},
      {"TheGuestsDataBreakpoints", "it has no debug registers for the guest"},
      {"AGuestMovedToAnotherEngineEndsAlike", "it does not emulate x87 instructions"},
  };
}

// Only where the host has it; where it has not, the run says so.
void add_kvm(std::vector<EngineKind>& kinds) {
  const engine_kvm::Preflight host = engine_kvm::examine_host();
  const engine_kvm::KvmOptions options;
  auto withheld = engine_kvm::features_withheld(options);
  if (!withheld) {
    fmt::print("SKIPPED: the kvm engine: {}\n", withheld.error().to_string());
    return;
  }
  kinds.push_back(
      {"Kvm", false,
       [options](const cpu::EngineContext& context) { return engine_kvm::create_kvm_engine(context, options); },
       std::move(*withheld), host.verdict == engine_kvm::Preflight::Verdict::kSoftware ? software_limits() : Limits{}});
}

}  // namespace

const std::vector<EngineKind>& engine_kinds() {
  static const std::vector<EngineKind> kinds = [] {
    std::vector<EngineKind> all = {dbt("Dbt", 1, false), dbt("DbtReference", 0, false), dbt("DbtCounting", 1, true),
                                   dbt("DbtReferenceCounting", 0, true)};
    add_kvm(all);
    return all;
  }();
  return kinds;
}

}  // namespace rhea::tests::engine
