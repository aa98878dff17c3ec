// SPDX-License-Identifier: Apache-2.0
// The software local APIC: xAPIC registers, x2APIC MSRs, LVT, timer with TSC deadline. [SDM-3A 11]
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "io/address_space.h"
#include "io/clock.h"
#include "io/device.h"
#include "io/irq.h"
#include "platform/x86/lapic_state.h"

namespace rhea::cpu {

// What an LAPIC asks of the world outside.
class LapicBus {
 public:
  virtual ~LapicBus() = default;
  // An IPI written to the ICR, to be delivered to the destination LAPICs. `icr` is the register as the source's mode
  // lays it out: destination in bits 63:56 (xAPIC) or 63:32 (x2APIC). Self IPIs (by shorthand or register) and INIT
  // de-assert messages do not come here.
  virtual void send_ipi(unsigned source, uint64_t icr) = 0;
  virtual void broadcast_eoi(uint8_t vector) = 0;
  // For the hypercalls of paravirtual guests, which name processors by APIC ID whatever mode the APICs are in: a
  // message to one (false: there is none), and the end of the HLT that it is in or executes next.
  virtual bool send_to(uint32_t apic_id, uint8_t delivery_mode, uint8_t vector) {
    (void)apic_id, (void)delivery_mode, (void)vector;
    return false;
  }
  virtual void wake(uint32_t apic_id) { (void)apic_id; }
};

// Pending work found by the vCPU between instructions.
enum class LapicEvent : uint8_t { kNone, kInterrupt, kExtInt, kNmi, kSmi, kInit, kSipi };

class Lapic final : public io::Device, public io::IoHandler {
 public:
  struct Options {
    unsigned id = 0;
    bool bootstrap = true;
    bool x2apic_supported = true;
    unsigned physical_address_bits = 52;  // IA32_APIC_BASE bits from here up are reserved
  };
  Lapic(const Options& options, io::Clock& clock, LapicBus& bus);
  ~Lapic() override;

  // io::Device
  std::string_view name() const override { return "lapic"; }
  void reset() override;
  void save_state(state::StateWriter& writer) const override;
  Status load_state(state::StateReader& reader) override;

  // xAPIC MMIO page. Called on vCPU threads.
  uint64_t io_read(uint64_t offset, unsigned size_bytes) override;
  void io_write(uint64_t offset, uint64_t value, unsigned size_bytes) override;

  // MSRs: IA32_APIC_BASE, 0x800-0x8ff in x2APIC mode, IA32_TSC_DEADLINE. False: the access must raise #GP.
  bool read_msr(uint32_t index, uint64_t& value);
  bool write_msr(uint32_t index, uint64_t value);
  uint64_t apic_base() const;  // IA32_APIC_BASE
  bool enabled() const;        // globally and by the spurious vector register

  platform::LapicState state() const;  // only while the vCPU does not run
  void set_state(const platform::LapicState& state);

  // CR8 = TPR[7:4].
  uint8_t cr8() const;
  void set_cr8(uint8_t value);

  // Called with IA32_TSC_ADJUST whenever it changes: TSC deadlines are in guest TSC.
  void set_tsc_adjust(uint64_t value);

  // --- any thread ---
  // Sets a request bit (edge or level) or passes NMI/INIT/SIPI/ExtINT on, then kicks the vCPU.
  void deliver(uint8_t delivery_mode, uint8_t vector, bool level_triggered);
  bool matches(uint32_t destination, bool logical) const;
  void set_ext_int(bool level);  // INTR pin, gated by LVT LINT0
  void wake();                   // see take_wake()
  void set_kick(std::function<void()> kick);

  // --- vCPU thread ---
  // Anything deliverable now at this priority? kInterrupt only if above the processor priority. Priority: SMI, INIT,
  // SIPI, NMI, ExtINT, interrupt; a pending event hides those after it, so a vCPU that blocks NMIs takes the NMI
  // and keeps it in its own state.
  LapicEvent pending() const;
  uint8_t acknowledge_interrupt();  // moves the highest IRR bit to ISR; a spurious vector if none
  bool take_nmi();
  bool take_smi();
  bool take_init();  // also resets the registers as INIT does, keeping ID and APIC base
  std::optional<uint8_t> take_sipi();
  // True once after wake(): the HLT that the vCPU is in ends, interrupts or not. Asked only while it is halted.
  bool take_wake();

  LapicBus& bus() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rhea::cpu
