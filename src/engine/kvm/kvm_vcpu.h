// SPDX-License-Identifier: Apache-2.0
// One virtual processor on KVM. The local APIC is Rhea's own, as under the other engine, so that its state needs no
// translation: KVM executes instructions, and everything that it does not know comes back as an exit.
#pragma once

#include <linux/kvm.h>
#include <pthread.h>
#include <sys/ioctl.h>

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "cpu/engine.h"
#include "cpu/halt_sleep.h"
#include "engine/kvm/kvm_state.h"
#include "engine/kvm/memory_slots.h"
#include "engine/kvm/run_gate.h"

namespace rhea::engine_kvm {

// What the vCPUs of one VM share. Outlives them.
struct VmContext {
  int vm_fd = -1;
  size_t run_mapping_bytes = 0;
  RunGate* gate = nullptr;
  const MemorySlots* slots = nullptr;
};

class KvmVcpu final : public cpu::Vcpu {
 public:
  static Result<std::unique_ptr<KvmVcpu>> create(const cpu::EngineContext& engine, const VmContext& vm, unsigned index,
                                                 cpu::Lapic& lapic);
  ~KvmVcpu() override;

  cpu::StopReason run(uint64_t instruction_limit) override;
  void kick() override;
  void request_stop() override;
  void get_state(cpu::CpuState& state) const override;
  void set_state(const cpu::CpuState& state) override;
  bool translate_for_debug(uint64_t linear, uint64_t& physical) const override;
  void set_breakpoints(const std::vector<uint64_t>& linear_addresses) override;
  void set_single_step(bool on) override;
  std::string statistics() const override;
  std::string failure() const override { return failure_; }

 private:
  // What an exit asks of the loop.
  enum class Next : uint8_t { kContinue, kShutdown, kDebug, kFailed };

  KvmVcpu(const cpu::EngineContext& engine, const VmContext& vm, unsigned index, cpu::Lapic& lapic)
      : engine_(engine), vm_(vm), index_(index), lapic_(lapic) {}
  Status set_up();
  Status set_cpuid();
  void find_msrs();

  // Running (kvm_vcpu.cpp).
  Next enter_guest();
  void prepare_entry();
  void finish_instruction();
  bool take_events();  // false: the processor that started the machine was initialised, which ends the guest
  void initialise();
  void start_up(uint8_t vector);
  bool wake_condition();
  void leave_guest_soon();

  // Exits (kvm_exits.cpp).
  Next handle_exit();
  void handle_port_access();
  void handle_memory_access();
  void handle_msr_read();
  void handle_msr_write();
  bool write_msr(uint32_t index, uint64_t value);
  Next handle_debug();
  Next handle_internal_error();
  Next fail_with(std::string text) const;
  bool in_apic_page(uint64_t address) const;
  uint64_t read_memory(uint64_t address, unsigned size_bytes) const;
  void write_memory(uint64_t address, uint64_t value, unsigned size_bytes) const;

  // State (kvm_vcpu_state.cpp).
  bool set_tsc_offset(uint64_t offset) const;
  void set_tsc_adjust(uint64_t value);
  bool set_msr(uint32_t index, uint64_t value) const;
  bool get_msr(uint32_t index, uint64_t& value) const;
  void prepare_debugging();
  void apply_debug_control();
  // An ioctl that has no reason to fail; one that does ends the guest, and failure() says which.
  template <class Argument>
  bool call(unsigned long request, Argument argument, const char* what) const {
    return ioctl(fd_.get(), request, argument) >= 0 || (note_failure(what), false);
  }
  void note_failure(const char* what) const;

  const cpu::EngineContext engine_;
  const VmContext& vm_;
  unsigned index_;
  cpu::Lapic& lapic_;
  base::UniqueFd fd_;
  base::UniqueMapping run_mapping_;
  kvm_run* run_ = nullptr;

  std::vector<const MsrField*> msrs_;  // those that KVM keeps
  // As it was set last: has the fields that KVM does not keep, and those that are the engine's own while it runs.
  std::unique_ptr<cpu::CpuState> shadow_;
  bool single_step_ = false;
  bool debugging_ = false;              // KVM has been told of breakpoints or steps
  bool stepping_off_ = false;           // a breakpoint that the last run ended at
  std::optional<uint64_t> stopped_at_;  // the breakpoint's address
  bool entry_pending_ = false;          // the last exit's instruction is finished by the next KVM_RUN
  std::vector<uint64_t> breakpoints_;
  mutable std::string failure_;

  // Between the vCPU's thread and those that kick it.
  std::atomic<bool> stop_requested_{false}, running_{false};
  std::atomic<pthread_t> thread_{};
  cpu::HaltSleep sleep_;

  std::array<uint64_t, 64> exits_{};
  uint64_t interrupted_ = 0;
};

}  // namespace rhea::engine_kvm
