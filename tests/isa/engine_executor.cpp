// SPDX-License-Identifier: Apache-2.0
// Drives a vCPU of the dbt engine as a debugger would; one vCPU, reused for all cases.
#include "tests/isa/engine_executor.h"

#include <atomic>
#include <chrono>
#include <thread>

#include "base/fault_dispatcher.h"
#include "cpu/cpu_model.h"
#include "cpu/engine.h"
#include "cpu/lapic.h"
#include "engine/dbt/dbt_engine.h"
#include "io/address_space.h"
#include "io/instruction_clock.h"
#include "io/irq.h"
#include "tests/isa/guest.h"

namespace rhea::tests::isa {
namespace {

constexpr auto kPatience = std::chrono::milliseconds(400);

class SilentBus final : public cpu::LapicBus {
 public:
  void send_ipi(unsigned, uint64_t) override {}
  void broadcast_eoi(uint8_t) override {}
};

// Whoever runs a vCPU needs an alternate signal stack; holding one spares the engine making its own at every run.
class NoFaults final : public base::FaultHandler {
 public:
  bool on_fault(int, siginfo_t*, ucontext_t*) override { return false; }
};

class EngineExecutor final : public Executor {
 public:
  EngineExecutor(Guest guest, cpu::CpuModel model)
      : guest_(std::move(guest)),
        model_(std::move(model)),
        physical_("memory", uint64_t{1} << 40),
        ports_("ports", 65536),
        lapic_({}, clock_, bus_) {}

  ~EngineExecutor() override {
    quit_ = true;
    if (watchdog_.joinable()) watchdog_.join();
  }

  Status boot(const engine_dbt::DbtOptions& options) {
    const memory::RamRegion& ram = guest_.memory().regions().front();
    physical_.map({.start = ram.start.value,
                   .size_bytes = ram.size_bytes,
                   .kind = io::RangeKind::kRam,
                   .host = ram.host,
                   .handler = nullptr,
                   .handler_offset = 0,
                   .name = "ram"});
    engine_ = RHEA_TRY(engine_dbt::create_dbt_engine({.memory = guest_.memory(),
                                                      .physical = physical_,
                                                      .ports = ports_,
                                                      .clock = clock_,
                                                      .irq = irq_,
                                                      .cpu_model = model_},
                                                     options));
    vcpu_ = RHEA_TRY(engine_->create_vcpu(0, lapic_));
    vcpu_->set_breakpoints(Guest::handler_addresses());
    fault_guard_ = RHEA_TRY(base::FaultGuard::create(no_faults_));
    watchdog_ = std::thread([this] { watch(); });
    return {};
  }

  std::string_view name() const override { return "engine"; }

  void run(const Input& input, Output& output) override {
    cpu::StopReason reason = attempt(input);
    // A request that came as the case before ended stops this one at once: not its fault.
    if (reason == cpu::StopReason::kStopped) reason = attempt(input);
    if (reason == cpu::StopReason::kDebug) {
      guest_.read_outcome(state_, output);
      return;
    }
    output.outcome = {.kind = reason == cpu::StopReason::kShutdown ? OutcomeKind::kShutdown : OutcomeKind::kTimeout,
                      .vector = 0,
                      .error_code = 0,
                      .fault_address = 0};
    output.state = input.state;
    output.state.gpr = state_.gpr;
    output.state.rip = state_.rip;
    guest_.save(output.image);
  }

 private:
  cpu::StopReason attempt(const Input& input) {
    guest_.load(input.image);
    vcpu_->set_state(guest_.state_for(input));
    ++runs_;
    running_ = true;
    const cpu::StopReason reason = vcpu_->run();
    running_ = false;
    vcpu_->get_state(state_);
    return reason;
  }

  // Stops a case that does not end: every case ended natively before it came here.
  void watch() {
    uint64_t seen = 0;
    auto since = std::chrono::steady_clock::now();
    while (!quit_) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      const auto now = std::chrono::steady_clock::now();
      if (!running_ || runs_ != seen) {
        seen = runs_;
        since = now;
      } else if (now - since > kPatience) {
        vcpu_->request_stop();
      }
    }
  }

  Guest guest_;
  cpu::CpuModel model_;
  io::InstructionClock clock_;
  io::AddressSpace physical_, ports_;
  io::IrqRouter irq_;
  SilentBus bus_;
  cpu::Lapic lapic_;
  std::unique_ptr<cpu::Engine> engine_;
  std::unique_ptr<cpu::Vcpu> vcpu_;
  NoFaults no_faults_;
  std::unique_ptr<base::FaultGuard> fault_guard_;
  std::thread watchdog_;
  std::atomic<uint64_t> runs_{0};
  std::atomic<bool> running_{false}, quit_{false};
  cpu::CpuState state_;
};

}  // namespace

Result<std::unique_ptr<Executor>> create_engine_executor(const EngineOptions& options) {
  engine_dbt::DbtOptions engine;
  engine.code_cache_bytes = uint64_t{16} << 20;
  engine.inject_bug = options.inject_bug;
  if (options.config == "reference")
    engine.opt_level = 0;
  else if (options.config == "tiny-cache")
    engine.code_cache_bytes = uint64_t{1} << 20;
  else if (options.config == "tiny-tlb")
    engine.tlb_index_mask = 1;
  else if (options.config != "optimised")
    return fail(ErrorCode::kInvalidArgument, "configuration '" + std::string(options.config) + "': not known");
  auto model = RHEA_TRY(cpu::CpuModel::create(
      {.name = "max", .tsc_frequency_hz = 1'000'000'000, .cpu_count = 1, .avx512 = vector_layout().avx512}));
  auto guest = RHEA_TRY(Guest::create());
  auto executor = std::make_unique<EngineExecutor>(std::move(guest), std::move(model));
  if (auto status = executor->boot(engine); !status) return std::unexpected(std::move(status).error());
  return executor;
}

}  // namespace rhea::tests::isa
