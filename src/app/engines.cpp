// SPDX-License-Identifier: Apache-2.0
// Selection of the engine, options of the machine.
#include "app/engines.h"

#ifdef RHEA_HAVE_DBT_ENGINE
#include "engine/dbt/dbt_engine.h"
#endif

namespace rhea::app {

#ifdef RHEA_HAVE_DBT_ENGINE
Result<machine::EngineFactory> select_engine(const RunOptions& options) {
  engine_dbt::DbtOptions dbt;
  dbt.opt_level = options.dbt_opt;
  dbt.instruction_clock = options.clock == ClockKind::kInstructions;
  dbt.code_cache_bytes = options.dbt_cache_bytes;
  dbt.perf_map = options.dbt_perf_map;
  return [dbt](const cpu::EngineContext& context) { return engine_dbt::create_dbt_engine(context, dbt); };
}
#else
Result<machine::EngineFactory> select_engine(const RunOptions&) {
  return fail(ErrorCode::kUnsupported, "no engine is built into this program");
}
#endif

machine::Machine::Options machine_options_of(const RunOptions& options) {
  machine::Machine::Options machine;
  machine.name = options.name;
  machine.memory_bytes = options.memory_bytes;
  machine.cpu_count = options.cpu_count;
  machine.kernel_path = options.kernel;
  machine.initrd_paths = options.initrds;
  machine.command_line = options.command_line;
  machine.reboot = options.reboot;
  machine.board.debug_exit = options.debug_exit;
  machine.board.disks = options.disks;
  machine.board.transport = options.transport;
  machine.board.entropy = options.clock == ClockKind::kHost;
  if (options.clock != ClockKind::kHost) return machine;
  machine.board.capture = options.capture;
  machine.board.networks = options.networks;
  for (machine::NetworkOptions& network : machine.board.networks) network.machine_name = options.name;
  if (const auto user = first_user_network(machine.board.networks)) user->forwards = options.forwards;
  return machine;
}

}  // namespace rhea::app
