// SPDX-License-Identifier: Apache-2.0
// The I/O APIC: 24 pins, each turning a GSI line into a message to the local APICs.
// Spec: [82093AA]; EOI register [ICH9 13.5]. Not implemented: the three-wire APIC bus and its arbitration ID
// (reads 0). Threads: any; own lock.
#pragma once

#include <mutex>

#include "io/address_space.h"
#include "io/device.h"
#include "io/device_spec.h"
#include "io/irq.h"
#include "platform/x86/ioapic_state.h"

namespace rhea::devices {

inline constexpr io::DeviceSpec kIoapicSpec = {
    .name = "ioapic", .help = "82093AA I/O APIC with 24 pins", .state_version = 1};

// ISA IRQ 0 (GSI line 0 of the router) is wired to pin 2, as on every PC, and line 2 (the 8259 cascade) to
// nothing: the MADT must hold the interrupt source override IRQ 0 -> GSI 2.
class Ioapic final : public io::Device, public io::IoHandler, public io::GsiSink, public io::EoiListener {
 public:
  struct Context {
    io::IrqRouter& router;  // messages go out through send_msi()
  };
  explicit Ioapic(const Context& context);

  // Maps the register page at 0xfec00000. The router must be told: connect_gsi_sink, connect_eoi_listener.
  void map_into(io::AddressSpace& physical);

  std::string_view name() const override { return "ioapic"; }
  void reset() override;
  void save_state(state::StateWriter& writer) const override;
  Status load_state(state::StateReader& reader) override;

  uint64_t io_read(uint64_t offset, unsigned size_bytes) override;
  void io_write(uint64_t offset, uint64_t value, unsigned size_bytes) override;

  void set_gsi(unsigned gsi, bool level) override;
  void on_eoi(uint8_t vector) override;  // a level-triggered vector was retired; a line still high is sent again

  platform::IoapicState state() const;
  void set_state(const platform::IoapicState& state);

 private:
  uint32_t read_register(uint8_t index) const;
  void write_register(uint8_t index, uint32_t value);
  void write_redirection(unsigned pin, uint64_t mask, uint64_t value);
  void service(unsigned pin);
  void eoi_locked(uint8_t vector);

  io::IrqRouter& router_;
  mutable std::mutex mutex_;
  platform::IoapicState state_;
};

}  // namespace rhea::devices
