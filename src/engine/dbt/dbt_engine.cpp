// SPDX-License-Identifier: Apache-2.0
// The dbt engine's vCPUs: each owns its context and runtime, and sleeps while halted; all share the code space.
#include "engine/dbt/dbt_engine.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "base/fault_dispatcher.h"
#include "cpu/halt_sleep.h"
#include "cpu/lapic.h"
#include "dbt/inject_bug.h"
#include "dbt/runtime/runtime.h"
#include "io/instruction_clock.h"

namespace rhea::engine_dbt {

namespace {

// The context with the stack that C++ code called from translated code runs on, below it, and a guard page.
class ContextMapping {
 public:
  static Result<std::unique_ptr<ContextMapping>> create() {
    void* base = mmap(nullptr, kStackBytes + sizeof(dbt::Context), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return fail(Error::from_errno(errno, "allocating a vCPU's context"));
    mprotect(base, 4096, PROT_NONE);
    return std::unique_ptr<ContextMapping>(new ContextMapping(static_cast<std::byte*>(base)));
  }
  ~ContextMapping() { munmap(base_, kStackBytes + sizeof(dbt::Context)); }
  dbt::Context& context() const { return *context_; }

 private:
  static constexpr size_t kStackBytes = size_t{1} << 20;
  explicit ContextMapping(std::byte* base) : base_(base) {
    // SAFETY: fresh zero pages are what value-initialisation would write, but for the non-zero defaults, which the
    // header part's constructor sets; constructing the whole would touch megabytes of tables.
    context_ = reinterpret_cast<dbt::Context*>(base + kStackBytes);
    new (context_) dbt::Context;
  }
  std::byte* base_;
  dbt::Context* context_;
};

class DbtVcpu final : public cpu::Vcpu, private base::FaultHandler {
 public:
  // `space` is made with the first vCPU and shared by the others.
  static Result<std::unique_ptr<DbtVcpu>> create(const cpu::EngineContext& engine, const DbtOptions& options,
                                                 unsigned index, cpu::Lapic& lapic,
                                                 std::shared_ptr<dbt::CodeSpace>& space) {
    auto mapping = RHEA_TRY(ContextMapping::create());
    std::unique_ptr<DbtVcpu> vcpu(new DbtVcpu(std::move(mapping), lapic, options));
    dbt::Context& c = vcpu->context();
    c.memory = &engine.memory;
    c.physical = &engine.physical;
    c.ports = &engine.ports;
    c.clock = &engine.clock;
    c.irq = &engine.irq;
    c.cpu_model = &engine.cpu_model;
    c.lapic = &lapic;
    dbt::RuntimeOptions runtime_options;
    runtime_options.opt_level = options.opt_level;
    runtime_options.instruction_clock = options.instruction_clock;
    runtime_options.code_cache_bytes = options.code_cache_bytes;
    runtime_options.tlb_index_mask = options.tlb_index_mask;
    runtime_options.inject_bug = options.inject_bug;
    runtime_options.perf_map = options.perf_map;
    runtime_options.vcpus = engine.vcpus;
    runtime_options.device_threads = engine.device_threads;
#ifdef RHEA_INJECT_BUGS
    c.inject_bug = options.inject_bug ? options.inject_bug : dbt::injected_by_environment();
#endif
    if (!space) space = RHEA_TRY(dbt::CodeSpace::create(engine.memory, engine.cpu_model, runtime_options, c));
    vcpu->runtime_ = RHEA_TRY(dbt::Runtime::create(c, space, index));
    vcpu->clock_ = options.instruction_clock ? dynamic_cast<io::InstructionClock*>(&engine.clock) : nullptr;
    if (options.instruction_clock) {
      if (!vcpu->clock_)
        return fail(ErrorCode::kInvalidArgument, "counting instructions needs the machine's instruction clock");
      c.instruction_clock = vcpu->clock_;
      vcpu->clock_->set_on_earlier_deadline([&c] {
        std::atomic_ref(c.regrant).store(1, std::memory_order_relaxed);
        std::atomic_ref(c.exit_request).store(1, std::memory_order_release);
      });
    }
    cpu::CpuState initial;
    cpu::reset_to_power_on(initial);
    vcpu->set_state(initial);
    DbtVcpu* self = vcpu.get();
    lapic.set_kick([self] { self->kick(); });
    return vcpu;
  }
  ~DbtVcpu() override {
    lapic_.set_kick({});
    if (clock_) clock_->set_on_earlier_deadline({});
  }

  cpu::StopReason run(uint64_t instruction_limit) override;
  void kick() override;
  void request_stop() override;
  void get_state(cpu::CpuState& state) const override;
  void set_state(const cpu::CpuState& state) override;
  bool translate_for_debug(uint64_t linear, uint64_t& physical) const override {
    return dbt::translate_for_debug(context(), linear, physical);
  }
  void set_breakpoints(const std::vector<uint64_t>& linear_addresses) override {
    runtime_->set_breakpoints(linear_addresses);
  }
  void set_single_step(bool on) override { single_step_ = on; }
  std::string statistics() const override { return runtime_->statistics(); }

 private:
  DbtVcpu(std::unique_ptr<ContextMapping> mapping, cpu::Lapic& lapic, const DbtOptions& options)
      : mapping_(std::move(mapping)), lapic_(lapic), options_(options) {}
  dbt::Context& context() const { return mapping_->context(); }
  bool on_fault(int signo, siginfo_t* info, ucontext_t* uc) override { return runtime_->on_fault(signo, info, uc); }
  bool wake_condition();
  bool halt_in_limited_run();
  void wait_while_halted();
  void grant_budget(uint64_t limit_end);
  void settle_budget();

  std::unique_ptr<ContextMapping> mapping_;
  std::unique_ptr<dbt::Runtime> runtime_;
  cpu::Lapic& lapic_;
  DbtOptions options_;
  io::InstructionClock* clock_ = nullptr;
  bool single_step_ = false;

  cpu::HaltSleep sleep_;
};

void DbtVcpu::kick() {
  dbt::Context& c = context();
  std::atomic_ref(c.irq_pending).store(1, std::memory_order_release);
  std::atomic_ref(c.exit_request).store(1, std::memory_order_seq_cst);
  sleep_.wake();
}

void DbtVcpu::request_stop() {
  std::atomic_ref(runtime_->stop_requested).store(true, std::memory_order_release);
  kick();
}

// Would an interrupt, NMI or a stop end HLT now?
bool DbtVcpu::wake_condition() {
  if (std::atomic_ref(runtime_->stop_requested).load(std::memory_order_acquire)) return true;
  cpu::CpuState& state = context().state;
  cpu::HaltState halt{.halted = state.halted,
                      .wait_for_sipi = state.wait_for_sipi,
                      .interrupts_enabled = context().interrupt_flag != 0,
                      .nmi_blocked = state.nmi_blocked,
                      .nmi_pending = state.nmi_pending,
                      .in_smm = state.in_smm,
                      .smi_pending = state.smi_pending};
  const bool ends = cpu::ends_halt(lapic_, halt);
  state.halted = halt.halted;
  state.nmi_pending = halt.nmi_pending;
  state.smi_pending = halt.smi_pending;
  return ends;
}

void DbtVcpu::wait_while_halted() {
  while (!wake_condition()) {
    // Deterministic time jumps to the next timer; with none armed only the outside can wake us.
    if (clock_ && clock_->skip_to_next_deadline())
      clock_->run_due_timers();
    else
      sleep_.sleep_unless([this] { return wake_condition(); });
  }
}

// A run of limited length goes back to its caller at every step of a halt, who may have something to wake it.
// True: the guest goes on.
bool DbtVcpu::halt_in_limited_run() {
  if (wake_condition()) return true;
  if (clock_->skip_to_next_deadline()) clock_->run_due_timers();
  return wake_condition();
}

// Deterministic time: the vCPU runs up to the next timer, or the caller's limit, and time follows it.
void DbtVcpu::grant_budget(uint64_t limit_end) {
  constexpr uint64_t kSlice = 1'000'000'000;
  dbt::Context& c = context();
  uint64_t budget = std::min(limit_end - clock_->instructions(), kSlice);
  std::atomic_ref(c.regrant).store(0, std::memory_order_relaxed);  // before the look at the timers
  // A timer that is armed for the past again and again must not stop the guest.
  if (const auto next = clock_->next_deadline_instructions()) budget = std::min(budget, std::max<uint64_t>(*next, 1));
  c.instructions_left = c.instructions_settled = static_cast<int64_t>(budget);
  runtime_->exact_budget = false;
}

void DbtVcpu::settle_budget() {
  runtime_->settle_clock(0);
  clock_->run_due_timers();
}

cpu::StopReason DbtVcpu::run(uint64_t instruction_limit) {
  auto guard = base::FaultGuard::create(*this);
  RHEA_CHECK(guard.has_value());
  dbt::Context& c = context();
  const bool limited = clock_ && instruction_limit;
  const uint64_t limit_end = limited ? clock_->instructions() + instruction_limit : UINT64_MAX;
  runtime_->debugger_step = single_step_;
  if (c.state.halted || c.state.wait_for_sipi) {
    if (!limited)
      wait_while_halted();
    else if (!halt_in_limited_run())
      return cpu::StopReason::kInstructionLimit;
  }
  for (;;) {
    if (clock_) grant_budget(limit_end);
    c.exit_request = 1;  // look at everything first
    const dbt::ExitReason reason = runtime_->run();
    if (clock_) settle_budget();
    switch (reason) {
      case dbt::ExitReason::kStopped:
        std::atomic_ref(runtime_->stop_requested).store(false, std::memory_order_relaxed);
        return cpu::StopReason::kStopped;
      case dbt::ExitReason::kShutdown: return cpu::StopReason::kShutdown;
      case dbt::ExitReason::kDebug: return cpu::StopReason::kDebug;
      case dbt::ExitReason::kInstructionLimit:
        if (limited && clock_->instructions() >= limit_end) return cpu::StopReason::kInstructionLimit;
        break;
      case dbt::ExitReason::kHalted:
        if (!limited)
          wait_while_halted();
        else if (clock_->instructions() >= limit_end || !halt_in_limited_run())
          return cpu::StopReason::kInstructionLimit;
        break;
      case dbt::ExitReason::kNone: break;
    }
    if (single_step_) return cpu::StopReason::kDebug;
  }
}

void DbtVcpu::get_state(cpu::CpuState& state) const {
  const dbt::Context& c = context();
  state = c.state;
  state.rflags = c.rflags();
  // The saved image is the host's but for the pointers to the last x87 instruction.
  runtime_->latch_x87_pointers();
  std::memcpy(state.xsave.data() + 6, &c.fpu_fop, 2);
  std::memcpy(state.xsave.data() + 8, &c.fpu_fip, 8);
  std::memcpy(state.xsave.data() + 16, &c.fpu_fdp, 8);
}

void DbtVcpu::set_state(const cpu::CpuState& state) {
  dbt::Context& c = context();
  c.state = state;
  c.set_rflags(state.rflags);
  c.tsc_offset = c.clock->tsc_offset() + state.tsc_adjust;
  // XRSTOR faults on reserved bits; a loaded image may hold any.
  auto* words = reinterpret_cast<uint64_t*>(c.state.xsave.data());
  words[64] &= dbt::vector_components(c.cpu_model->supported_xcr0());  // XSTATE_BV
  c.vector_components = dbt::vector_components(state.xcr0 & c.cpu_model->supported_xcr0());
  for (unsigned i = 65; i < 72; ++i) words[i] = 0;
  auto* mxcsr = reinterpret_cast<uint32_t*>(c.state.xsave.data() + 24);
  *mxcsr &= 0xffff;
  std::memcpy(&c.fpu_fop, state.xsave.data() + 6, 2);
  std::memcpy(&c.fpu_fip, state.xsave.data() + 8, 8);
  std::memcpy(&c.fpu_fdp, state.xsave.data() + 16, 8);
  c.x87_last_fop = c.fpu_fop;
  c.x87_last_fdp = c.fpu_fdp;
  c.exit_request = 1;
  c.irq_pending = 1;
  c.step_pending = 0;
  c.port_trap = {};
  runtime_->see_ranges();
}

class DbtEngine final : public cpu::Engine {
 public:
  DbtEngine(const cpu::EngineContext& context, const DbtOptions& options) : context_(context), options_(options) {}
  std::string_view name() const override { return "dbt"; }
  Result<std::unique_ptr<cpu::Vcpu>> create_vcpu(unsigned index, cpu::Lapic& lapic) override {
    if (index >= context_.vcpus) return fail(ErrorCode::kInvalidArgument, "more vCPUs than the engine was made for");
    return DbtVcpu::create(context_, options_, index, lapic, space_);
  }

 private:
  cpu::EngineContext context_;
  DbtOptions options_;
  std::shared_ptr<dbt::CodeSpace> space_;
};

}  // namespace

Result<std::unique_ptr<cpu::Engine>> create_dbt_engine(const cpu::EngineContext& context, const DbtOptions& options) {
  return std::make_unique<DbtEngine>(context, options);
}

}  // namespace rhea::engine_dbt
