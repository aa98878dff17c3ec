// SPDX-License-Identifier: Apache-2.0
// What KVM hands over: ports, devices, MSRs, debug traps, and the errors it cannot go on from. [kvm-api 5]
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "cpu/lapic.h"
#include "engine/kvm/kvm_vcpu.h"

namespace rhea::engine_kvm {

namespace {

constexpr uint32_t kMsrTsc = 0x10, kMsrApicBase = 0x1b, kMsrTscAdjust = 0x3b;
constexpr uint64_t kApicPageBytes = 0x1000, kApicBaseEnabled = 1u << 11, kApicBaseX2apic = 1u << 10,
                   kApicBaseAddress = 0xffffffffff000;
constexpr uint64_t kDr6SingleStep = 1u << 14, kDr6Breakpoints = 0xf;
constexpr unsigned kDebugVector = 1;

// The bytes of an access that no bus cycle of 1, 2, 4 or 8 bytes covers go in several.
template <class Access>
void each_piece(unsigned length, Access access) {
  for (unsigned offset = 0; offset < length;) {
    const unsigned size = std::min(8u, std::bit_floor(length - offset));
    access(offset, size);
    offset += size;
  }
}

}  // namespace

KvmVcpu::Next KvmVcpu::fail_with(std::string text) const {
  if (failure_.empty()) failure_ = std::move(text);
  return Next::kFailed;
}

KvmVcpu::Next KvmVcpu::handle_exit() {
  ++exits_[std::min<size_t>(run_->exit_reason, exits_.size() - 1)];
  switch (run_->exit_reason) {
    case KVM_EXIT_IO: handle_port_access(); return Next::kContinue;
    case KVM_EXIT_MMIO: handle_memory_access(); return Next::kContinue;
    case KVM_EXIT_X86_RDMSR: handle_msr_read(); return Next::kContinue;
    case KVM_EXIT_X86_WRMSR: handle_msr_write(); return Next::kContinue;
    case KVM_EXIT_HLT: shadow_->halted = true; return Next::kContinue;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_SET_TPR:
    case KVM_EXIT_INTR: return Next::kContinue;
    case KVM_EXIT_DEBUG: return handle_debug();
    case KVM_EXIT_SHUTDOWN: return Next::kShutdown;
    case KVM_EXIT_INTERNAL_ERROR: return handle_internal_error();
    case KVM_EXIT_FAIL_ENTRY:
      return fail_with(fmt::format("the processor refuses to enter the guest (hardware reason {:#x})",
                                   run_->fail_entry.hardware_entry_failure_reason));
    default: return fail_with(fmt::format("KVM ends the guest with an exit that is not known ({})", run_->exit_reason));
  }
}

// REP INS and OUTS come as several accesses at once, their data one after the other.
void KvmVcpu::handle_port_access() {
  entry_pending_ = true;
  const auto& io = run_->io;
  std::byte* data = run_mapping_.bytes() + io.data_offset;
  for (uint32_t i = 0; i < io.count; ++i, data += io.size) {
    uint64_t value = 0;
    if (io.direction == KVM_EXIT_IO_OUT) {
      std::memcpy(&value, data, io.size);
      engine_.ports.write(io.port, value, io.size);
    } else {
      value = engine_.ports.read(io.port, io.size);
      std::memcpy(data, &value, io.size);
    }
  }
}

// Each processor reaches its own local APIC at the address in its IA32_APIC_BASE.
bool KvmVcpu::in_apic_page(uint64_t address) const {
  const uint64_t base = lapic_.apic_base();
  return (base & kApicBaseEnabled) && !(base & kApicBaseX2apic) && address - (base & kApicBaseAddress) < kApicPageBytes;
}

uint64_t KvmVcpu::read_memory(uint64_t address, unsigned size_bytes) const {
  if (in_apic_page(address)) return lapic_.io_read(address & (kApicPageBytes - 1), size_bytes);
  return engine_.physical.read(address, size_bytes);
}

void KvmVcpu::write_memory(uint64_t address, uint64_t value, unsigned size_bytes) const {
  if (in_apic_page(address))
    lapic_.io_write(address & (kApicPageBytes - 1), value, size_bytes);
  else
    engine_.physical.write(address, value, size_bytes);
}

void KvmVcpu::handle_memory_access() {
  entry_pending_ = true;
  auto& mmio = run_->mmio;
  each_piece(std::min<uint32_t>(mmio.len, sizeof mmio.data), [&](unsigned offset, unsigned size) {
    uint64_t value = 0;
    if (mmio.is_write) {
      std::memcpy(&value, mmio.data + offset, size);
      write_memory(mmio.phys_addr + offset, value, size);
    } else {
      value = read_memory(mmio.phys_addr + offset, size);
      std::memcpy(mmio.data + offset, &value, size);
    }
  });
}

// The local APIC's registers, and what KVM knows nothing of: then it is #GP, as on a processor.
void KvmVcpu::handle_msr_read() {
  entry_pending_ = true;
  uint64_t value = 0;
  run_->msr.error = !lapic_.read_msr(run_->msr.index, value);
  run_->msr.data = value;
}

void KvmVcpu::handle_msr_write() {
  entry_pending_ = true;
  run_->msr.error = !write_msr(run_->msr.index, run_->msr.data);
}

bool KvmVcpu::write_msr(uint32_t index, uint64_t value) {
  switch (index) {
    case kMsrTsc: set_tsc_adjust(value - engine_.clock.tsc()); return true;
    case kMsrTscAdjust: set_tsc_adjust(value); return true;
    case kMsrApicBase: return lapic_.write_msr(index, value) && (set_msr(index, lapic_.apic_base()), true);
    default: return lapic_.write_msr(index, value);
  }
}

// The debugger's, or the guest's own, which gets it.
KvmVcpu::Next KvmVcpu::handle_debug() {
  const auto& debug = run_->debug.arch;
  if (single_step_) return Next::kDebug;
  const bool stepped = (debug.dr6 & kDr6SingleStep) && !(debug.dr6 & kDr6Breakpoints);
  if (std::exchange(stepping_off_, false)) apply_debug_control();
  if (std::ranges::find(breakpoints_, debug.pc) != breakpoints_.end()) {
    stopped_at_ = debug.pc;
    return Next::kDebug;
  }
  if (stepped) return Next::kContinue;  // on the way to a breakpoint
  kvm_guest_debug control{};
  control.control =
      KVM_GUESTDBG_ENABLE | (debug.exception == kDebugVector ? KVM_GUESTDBG_INJECT_DB : KVM_GUESTDBG_INJECT_BP);
  call(KVM_SET_GUEST_DEBUG, &control, "handing the guest its debug trap");
  apply_debug_control();
  return Next::kContinue;
}

KvmVcpu::Next KvmVcpu::handle_internal_error() {
  const auto& internal = run_->internal;
  kvm_regs regs{};
  if (ioctl(fd_.get(), KVM_GET_REGS, &regs) != 0) regs = {};
  std::string text;
  switch (internal.suberror) {
    case KVM_INTERNAL_ERROR_EMULATION: {
      text = fmt::format("KVM cannot emulate the guest's instruction at rip {:#x}", regs.rip);
      const auto& failure = run_->emulation_failure;
      if (failure.ndata >= 1 && (failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
        text += ", bytes";
        for (unsigned i = 0; i < std::min<unsigned>(failure.insn_size, sizeof failure.insn_bytes); ++i)
          text += fmt::format(" {:02x}", failure.insn_bytes[i]);
      }
      break;
    }
    case KVM_INTERNAL_ERROR_SIMUL_EX:
      text = fmt::format("KVM met one exception while delivering another at rip {:#x}", regs.rip);
      break;
    case KVM_INTERNAL_ERROR_DELIVERY_EV:
      text = fmt::format("KVM could not deliver an event at rip {:#x}", regs.rip);
      break;
    default: text = fmt::format("KVM's internal error {} at rip {:#x}", internal.suberror, regs.rip);
  }
  return fail_with(std::move(text));
}

}  // namespace rhea::engine_kvm
