// SPDX-License-Identifier: Apache-2.0
// Selection of the engine, options of the machine.
#include "app/engines.h"

#include <fmt/format.h>

#include "engine/dbt/dbt_engine.h"
#include "engine/kvm/kvm_engine.h"
#include "engine/kvm/preflight.h"

namespace rhea::app {
namespace {

using engine_kvm::Preflight;

EngineChoice choose_dbt(const RunOptions& options, std::string reason) {
  engine_dbt::DbtOptions dbt;
  dbt.opt_level = options.dbt_opt;
  dbt.instruction_clock = options.clock == ClockKind::kInstructions;
  dbt.code_cache_bytes = options.dbt_cache_bytes;
  dbt.perf_map = options.dbt_perf_map;
  return {.name = "dbt", .reason = std::move(reason), .factory = [dbt](const cpu::EngineContext& context) {
            return engine_dbt::create_dbt_engine(context, dbt);
          }};
}

Result<EngineChoice> choose_kvm(std::string reason) {
  const engine_kvm::KvmOptions kvm;
  return EngineChoice{
      .name = "kvm",
      .reason = std::move(reason),
      .withheld = RHEA_TRY(engine_kvm::features_withheld(kvm)),
      .factory = [kvm](const cpu::EngineContext& context) { return engine_kvm::create_kvm_engine(context, kvm); }};
}

std::string with_remedy(const Preflight& host) {
  return host.remedy.empty() ? host.reason : fmt::format("{}; {}", host.reason, host.remedy);
}

}  // namespace

Result<EngineChoice> select_engine(const RunOptions& options) {
  if (options.engine == "dbt" || asks_for_dbt(options)) return choose_dbt(options, {});
  const Preflight host = engine_kvm::examine_host();
  if (options.engine == "kvm") {
    if (!host.usable())
      return fail(ErrorCode::kUnsupported, fmt::format("--engine kvm cannot run here: {}", with_remedy(host)));
    return choose_kvm({});
  }
  if (host.verdict == Preflight::Verdict::kHardware) return choose_kvm(host.reason);
  return choose_dbt(options, with_remedy(host));
}

machine::Machine::Options machine_options_of(const RunOptions& options) {
  machine::Machine::Options machine;
  machine.name = options.name;
  machine.memory_bytes = options.memory_bytes;
  machine.cpu_count = options.cpu_count;
  machine.kernel_path = options.kernel;
  machine.initrd_paths = options.initrds;
  machine.command_line = options.command_line;
  machine.oem_strings = options.oem_strings;
  machine.reboot = options.reboot;
  machine.board.debug_exit = options.debug_exit;
  machine.board.disks = options.disks;
  machine.board.transport = options.transport;
  machine.board.entropy = options.clock == ClockKind::kHost;
  machine.board.balloon = options.balloon && options.clock == ClockKind::kHost;
  if (options.balloon_size_bytes != 0) machine.board.balloon_bytes = options.memory_bytes - options.balloon_size_bytes;
  if (options.clock != ClockKind::kHost) return machine;
  machine.board.capture = options.capture;
  machine.board.networks = options.networks;
  for (machine::NetworkOptions& network : machine.board.networks) network.machine_name = options.name;
  if (const auto user = first_user_network(machine.board.networks)) user->forwards = options.forwards;
  return machine;
}

}  // namespace rhea::app
