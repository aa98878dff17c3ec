// SPDX-License-Identifier: Apache-2.0
// A vCPU's life outside its exits: creation, the loop around KVM_RUN, interrupts, INIT and start-up, halts, kicks.
#include "engine/kvm/kvm_vcpu.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "cpu/lapic.h"
#include "engine/kvm/kick_signal.h"
#include "engine/kvm/kvm_cpuid.h"
#include "engine/kvm/kvm_device.h"

namespace rhea::engine_kvm {

using cpu::LapicEvent;
using cpu::StopReason;

Result<std::unique_ptr<KvmVcpu>> KvmVcpu::create(const cpu::EngineContext& engine, const VmContext& vm, unsigned index,
                                                 cpu::Lapic& lapic) {
  std::unique_ptr<KvmVcpu> vcpu(new KvmVcpu(engine, vm, index, lapic));
  RHEA_TRY(vcpu->set_up());
  KvmVcpu* self = vcpu.get();
  lapic.set_kick([self] { self->kick(); });
  vm.gate->add([self] { self->leave_guest_soon(); });
  return vcpu;
}

KvmVcpu::~KvmVcpu() { lapic_.set_kick({}); }

Status KvmVcpu::set_up() {
  fd_ = base::UniqueFd(RHEA_TRY(checked_ioctl(vm_.vm_fd, KVM_CREATE_VCPU, index_, "creating a vCPU")));
  run_mapping_ = RHEA_TRY(base::UniqueMapping::create(vm_.run_mapping_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                                                      fd_.get(), 0, "mapping a vCPU's exits"));
  run_ = static_cast<kvm_run*>(run_mapping_.get());
  shadow_ = std::make_unique<cpu::CpuState>();
  cpu::reset_to_power_on(*shadow_);
  RHEA_TRY(set_cpuid());
  find_msrs();
  set_state(*std::make_unique<cpu::CpuState>(*shadow_));
  if (!failure_.empty()) return fail(ErrorCode::kUnsupported, failure_);
  return {};
}

Status KvmVcpu::set_cpuid() {
  CpuidTable table = cpuid_table(engine_.cpu_model, *shadow_, index_);
  RHEA_TRY(checked_ioctl(fd_.get(), kSetCpuid2, table.header(), "telling a vCPU its CPUID"));
  return {};
}

void KvmVcpu::find_msrs() {
  for (const MsrField& field : msr_fields()) {
    uint64_t value = 0;
    if (get_msr(field.index, value)) msrs_.push_back(&field);
  }
}

// --- kicks ---

// After this no KVM_RUN goes on unseen: one that is under way is interrupted, one that is about to begin returns.
void KvmVcpu::leave_guest_soon() {
  std::atomic_ref(run_->immediate_exit).store(1, std::memory_order_seq_cst);
  if (running_.load(std::memory_order_seq_cst)) send_kick_signal(thread_.load(std::memory_order_relaxed));
}

void KvmVcpu::kick() {
  leave_guest_soon();
  sleep_.wake();
}

void KvmVcpu::request_stop() {
  stop_requested_.store(true, std::memory_order_seq_cst);
  kick();
}

// --- events ---

bool KvmVcpu::wake_condition() {
  if (stop_requested_.load(std::memory_order_acquire)) return true;
  cpu::CpuState& s = *shadow_;
  cpu::HaltState halt{.halted = s.halted,
                      .wait_for_sipi = s.wait_for_sipi,
                      .interrupts_enabled = run_->if_flag != 0,
                      .nmi_blocked = s.nmi_blocked,
                      .nmi_pending = s.nmi_pending};
  const bool ends = cpu::ends_halt(lapic_, halt);
  s.halted = halt.halted;
  s.nmi_pending = halt.nmi_pending;
  return ends;
}

bool KvmVcpu::take_events() {
  // No SMM under this engine: an SMI has no meaning.
  while (lapic_.pending() == LapicEvent::kSmi && lapic_.take_smi()) {
  }
  if (lapic_.pending() == LapicEvent::kInit) {
    finish_instruction();
    if (!lapic_.take_init()) return true;
    constexpr uint64_t kApicBaseBootstrap = 1u << 8;
    if (lapic_.apic_base() & kApicBaseBootstrap) return false;  // a reset, as on a PC
    initialise();
  }
  // A start-up IPI means something to a processor that waits for one. [SDM-3A 9.4.3]
  while (lapic_.pending() == LapicEvent::kSipi) {
    const auto vector = lapic_.take_sipi();
    if (vector && shadow_->wait_for_sipi) start_up(*vector);
  }
  if (shadow_->wait_for_sipi) return true;
  // KVM keeps an NMI until the processor takes it, and one more.
  while (lapic_.pending() == LapicEvent::kNmi && lapic_.take_nmi()) shadow_->nmi_pending = true;
  if (std::exchange(shadow_->nmi_pending, false)) {
    shadow_->halted = false;
    call(KVM_NMI, 0, "raising an NMI");
  }
  return true;
}

void KvmVcpu::initialise() {
  auto state = std::make_unique<cpu::CpuState>();
  get_state(*state);
  cpu::reset_by_init(*state, engine_.cpu_model.cpuid(1, 0).eax);
  state->wait_for_sipi = true;
  set_state(*state);
}

void KvmVcpu::start_up(uint8_t vector) {
  auto state = std::make_unique<cpu::CpuState>();
  get_state(*state);
  cpu::start_by_sipi(*state, vector);
  set_state(*state);
}

// --- the loop ---

// Hands KVM the interrupt that is due, or has it say when it can take one. The vector is acknowledged only when KVM
// can take it, so that until then it stays in the controllers, where anybody can see and save it.
void KvmVcpu::prepare_entry() {
  run_->cr8 = lapic_.cr8();
  run_->request_interrupt_window = 0;
  const LapicEvent event = lapic_.pending();
  if (event != LapicEvent::kInterrupt && event != LapicEvent::kExtInt) return;
  if (!run_->ready_for_interrupt_injection || !run_->if_flag) {
    run_->request_interrupt_window = 1;
    return;
  }
  kvm_interrupt interrupt{};
  interrupt.irq = event == LapicEvent::kInterrupt ? lapic_.acknowledge_interrupt() : engine_.irq.acknowledge_ext_int();
  shadow_->halted = false;
  call(KVM_INTERRUPT, &interrupt, "raising an interrupt");
  run_->ready_for_interrupt_injection = 0;
  const LapicEvent next = lapic_.pending();
  run_->request_interrupt_window = next == LapicEvent::kInterrupt || next == LapicEvent::kExtInt;
}

KvmVcpu::Next KvmVcpu::enter_guest() {
  prepare_entry();
  if (!failure_.empty()) return Next::kFailed;
  if (vm_.slots->failed()) return fail_with(vm_.slots->failure());
  vm_.gate->enter(index_);
  entry_pending_ = false;
  const int result = ioctl(fd_.get(), KVM_RUN, 0);
  const int error = errno;
  vm_.gate->leave(index_);
  if (run_->cr8 != lapic_.cr8()) lapic_.set_cr8(static_cast<uint8_t>(run_->cr8));
  if (result >= 0) return handle_exit();
  if (error == EINTR || error == EAGAIN) {
    ++interrupted_;
    return Next::kContinue;
  }
  return fail_with(fmt::format("KVM cannot run the guest: {}", strerror(error)));
}

// An access to a port, a device or an MSR is finished, its result in the register, only by the KVM_RUN after its exit.
// The state is whole after this.
void KvmVcpu::finish_instruction() {
  while (entry_pending_) {
    entry_pending_ = false;
    std::atomic_ref(run_->immediate_exit).store(1, std::memory_order_seq_cst);
    if (ioctl(fd_.get(), KVM_RUN, 0) >= 0) handle_exit();
  }
}

// The breakpoint that the last run ended at is not met again before its instruction has been executed.
void KvmVcpu::prepare_debugging() {
  kvm_regs regs{};
  const bool at_it = stopped_at_ && call(KVM_GET_REGS, &regs, "reading registers") && regs.rip == *stopped_at_;
  stepping_off_ = at_it;
  stopped_at_.reset();
  if (single_step_ || !breakpoints_.empty() || debugging_) apply_debug_control();
  debugging_ = single_step_ || !breakpoints_.empty();
}

StopReason KvmVcpu::run(uint64_t) {
  thread_.store(pthread_self(), std::memory_order_relaxed);
  running_.store(true, std::memory_order_seq_cst);
  prepare_debugging();
  Next next = Next::kContinue;
  bool stopped = false;
  while (next == Next::kContinue && !stopped) {
    // What is asked for after this store interrupts the KVM_RUN below; what was before is seen before it.
    std::atomic_ref(run_->immediate_exit).store(0, std::memory_order_seq_cst);
    if (stop_requested_.exchange(false, std::memory_order_seq_cst)) {
      stopped = true;
    } else if (!take_events()) {
      next = Next::kShutdown;
    } else if (shadow_->halted || shadow_->wait_for_sipi) {
      if (!wake_condition()) {
        sleep_.sleep_unless([this] { return wake_condition(); });
      } else if (!shadow_->wait_for_sipi && !stop_requested_.load()) {
        shadow_->halted = false;
      }
    } else {
      next = enter_guest();
    }
  }
  finish_instruction();
  running_.store(false, std::memory_order_seq_cst);
  if (!failure_.empty() || next == Next::kFailed) return StopReason::kFailed;
  if (stopped) return StopReason::kStopped;
  return next == Next::kShutdown ? StopReason::kShutdown : StopReason::kDebug;
}

}  // namespace rhea::engine_kvm
