// SPDX-License-Identifier: Apache-2.0
// A vCPU's state in and out of KVM, and the debugger's wishes.
#include <fmt/format.h>

#include <cerrno>
#include <cstring>

#include "cpu/lapic.h"
#include "engine/kvm/kvm_layout.h"
#include "engine/kvm/kvm_vcpu.h"

namespace rhea::engine_kvm {

namespace {
constexpr uint32_t kMsrApicBase = 0x1b, kMsrTscAdjust = 0x3b;

struct OneMsr {
  ListHeader header{.count = 1};
  kvm_msr_entry entry{};
};
}  // namespace

void KvmVcpu::note_failure(const char* what) const {
  if (failure_.empty()) failure_ = fmt::format("KVM failed at {}: {}", what, strerror(errno));
}

bool KvmVcpu::set_msr(uint32_t index, uint64_t value) const {
  OneMsr msr{.entry = {.index = index, .data = value}};
  return ioctl(fd_.get(), kSetMsrs, &msr) == 1;
}

bool KvmVcpu::get_msr(uint32_t index, uint64_t& value) const {
  OneMsr msr{.entry = {.index = index}};
  if (ioctl(fd_.get(), kGetMsrs, &msr) != 1) return false;
  value = msr.entry.data;
  return true;
}

// True if KVM does as it is told: one without hardware virtualization takes the call, and changes nothing.
bool KvmVcpu::set_tsc_offset(uint64_t offset) const {
  uint64_t read_back = ~offset;
  kvm_device_attr attribute{
      .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = reinterpret_cast<uint64_t>(&offset)};
  if (ioctl(fd_.get(), KVM_SET_DEVICE_ATTR, &attribute) != 0) return false;
  attribute.addr = reinterpret_cast<uint64_t>(&read_back);
  return ioctl(fd_.get(), KVM_GET_DEVICE_ATTR, &attribute) == 0 && read_back == offset;
}

// The TSC is the machine clock's and the adjustment; both KVM and the local APIC's deadline timer are told. Where it
// cannot be moved it is the host's, and the adjustment is what makes that so.
void KvmVcpu::set_tsc_adjust(uint64_t value) {
  if (!set_tsc_offset(engine_.clock.tsc_offset() + value)) value = -engine_.clock.tsc_offset();
  shadow_->tsc_adjust = value;
  lapic_.set_tsc_adjust(value);
  set_msr(kMsrTscAdjust, value);
}

void KvmVcpu::get_state(cpu::CpuState& state) const {
  state = *shadow_;
  kvm_regs regs{};
  kvm_sregs2 sregs{};
  kvm_debugregs debugregs{};
  kvm_vcpu_events events{};
  kvm_xcrs xcrs{};
  // The standard format, as ours; what is beyond 4096 bytes belongs to features that a program has to ask for. [kvm-api
  // KVM_GET_XSAVE2]
  static_assert(sizeof(XsaveArea) == cpu::kXsaveAreaBytes);
  const bool complete =
      call(KVM_GET_REGS, &regs, "reading registers") && call(KVM_GET_SREGS2, &sregs, "reading system registers") &&
      call(KVM_GET_DEBUGREGS, &debugregs, "reading debug registers") &&
      call(KVM_GET_VCPU_EVENTS, &events, "reading pending events") &&
      call(kGetXsave2, state.xsave.data(), "reading vector registers") && call(KVM_GET_XCRS, &xcrs, "reading XCR0");
  if (!complete) return;
  from_regs(regs, state);
  from_sregs(sregs, state);
  from_debugregs(debugregs, state);
  from_events(events, state);
  for (unsigned i = 0; i < xcrs.nr_xcrs; ++i)
    if (xcrs.xcrs[i].xcr == 0) state.xcr0 = xcrs.xcrs[i].value;
  for (const MsrField* field : msrs_) get_msr(field->index, field->field(state));
  state.tsc_adjust = shadow_->tsc_adjust;
  state.nmi_pending |= shadow_->nmi_pending;
}

void KvmVcpu::set_state(const cpu::CpuState& state) {
  *shadow_ = state;
  entry_pending_ = false;
  stopped_at_.reset();
  failure_.clear();
  if (state.in_smm) failure_ = "the saved processor is in system management mode, which the kvm engine does not have";
  if (const uint64_t apic_base = lapic_.apic_base()) set_msr(kMsrApicBase, apic_base);
  kvm_xcrs xcrs{.nr_xcrs = 1};
  xcrs.xcrs[0].value = state.xcr0;
  kvm_sregs2 sregs = to_sregs(state, lapic_.apic_base(), lapic_.cr8());
  kvm_regs regs = to_regs(state);
  kvm_debugregs debugregs = to_debugregs(state);
  kvm_vcpu_events events = to_events(state);
  call(KVM_SET_SREGS2, &sregs, "setting system registers");
  call(KVM_SET_REGS, &regs, "setting registers");
  call(KVM_SET_XCRS, &xcrs, "setting XCR0");
  call(kSetXsave, state.xsave.data(), "setting vector registers");
  for (const MsrField* field : msrs_)
    if (field->index != kMsrTscAdjust) set_msr(field->index, field->field(*shadow_));
  set_tsc_adjust(state.tsc_adjust);
  call(KVM_SET_DEBUGREGS, &debugregs, "setting debug registers");
  call(KVM_SET_VCPU_EVENTS, &events, "setting pending events");
  // As KVM will say once it has looked at the state.
  const bool enabled = state.rflags & cpu::rflags::kIf;
  run_->if_flag = enabled;
  run_->ready_for_interrupt_injection = enabled && !state.sti_shadow && !state.mov_ss_shadow &&
                                        !state.interrupt_taken && !state.nmi_pending && !state.debug_pending;
  run_->cr8 = lapic_.cr8();
}

bool KvmVcpu::translate_for_debug(uint64_t linear, uint64_t& physical) const {
  kvm_translation translation{.linear_address = linear};
  if (ioctl(fd_.get(), KVM_TRANSLATE, &translation) != 0 || !translation.valid) return false;
  physical = translation.physical_address;
  return true;
}

void KvmVcpu::set_breakpoints(const std::vector<uint64_t>& linear_addresses) { breakpoints_ = linear_addresses; }
void KvmVcpu::set_single_step(bool on) { single_step_ = on; }

// Up to four breakpoints stand in debug registers. More are looked for instruction by instruction: slow, but the
// guest's memory stays as it is.
void KvmVcpu::apply_debug_control() {
  constexpr size_t kDebugRegisters = 4;
  kvm_guest_debug debug{};
  if (single_step_ || stepping_off_ || breakpoints_.size() > kDebugRegisters) {
    debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
  } else if (!breakpoints_.empty()) {
    debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    debug.arch.debugreg[7] = 0x400;
    for (size_t i = 0; i < breakpoints_.size(); ++i) {
      debug.arch.debugreg[i] = breakpoints_[i];
      debug.arch.debugreg[7] |= uint64_t{2} << (2 * i);  // on execution, globally
    }
  }
  call(KVM_SET_GUEST_DEBUG, &debug, "setting breakpoints");
}

std::string KvmVcpu::statistics() const {
  static constexpr struct {
    unsigned reason;
    const char* name;
  } kNames[] = {{KVM_EXIT_IO, "port accesses"},    {KVM_EXIT_MMIO, "device accesses"},
                {KVM_EXIT_X86_RDMSR, "MSR reads"}, {KVM_EXIT_X86_WRMSR, "MSR writes"},
                {KVM_EXIT_HLT, "halts"},           {KVM_EXIT_IRQ_WINDOW_OPEN, "interrupt windows"},
                {KVM_EXIT_SET_TPR, "TPR writes"},  {KVM_EXIT_DEBUG, "debug traps"}};
  std::string text = "exits:\n";
  for (const auto& row : kNames) text += fmt::format("  {:<20} {:>14}\n", row.name, exits_[row.reason]);
  text += fmt::format("  {:<20} {:>14}\n", "kicks", interrupted_);
  return text;
}

}  // namespace rhea::engine_kvm
