// SPDX-License-Identifier: Apache-2.0
// One PCI function: configuration space with write masks, BARs mapped as the guest places them,
// capabilities, INTx. Devices derive from it or own one. Spec: [PCI-3.0 6].
// Threads: configuration accesses come from vCPU threads, one at a time (the bus serialises them);
// set_intx() from any thread.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string>

#include "devices/pci/pci_regs.h"
#include "io/address_space.h"
#include "io/device.h"
#include "io/irq.h"

namespace rhea::devices {

class PciBus;

enum class BarKind : uint8_t { kIo, kMemory32, kMemory64 };

class PciFunction : public io::Device {
 public:
  struct Identity {
    std::string name;
    uint16_t vendor = 0, device = 0;
    uint32_t class_code = 0;  // class << 16 | subclass << 8 | programming interface
    uint8_t revision = 0;
    uint16_t subsystem_vendor = 0, subsystem = 0;
    uint8_t interrupt_pin = 0;  // 1-4 for INTA-INTD, 0 none
    bool multifunction = false;
  };
  explicit PciFunction(Identity identity);
  ~PciFunction() override;
  PciFunction(const PciFunction&) = delete;
  PciFunction& operator=(const PciFunction&) = delete;

  // io::Device. Overriders call these first.
  std::string_view name() const override { return identity_.name; }
  void reset() override;
  void save_state(state::StateWriter& writer) const override;
  Status load_state(state::StateReader& reader) override;

  // `offset` + size within 4096, naturally aligned, size 1, 2 or 4. Called by the bus.
  virtual uint32_t config_read(uint16_t offset, unsigned size_bytes);
  virtual void config_write(uint16_t offset, uint32_t value, unsigned size_bytes);

  // --- set-up, before the VM runs ---
  struct Bar {
    BarKind kind = BarKind::kMemory32;
    uint64_t size_bytes = 0;  // a power of two; at least 16 (memory) or 4 (I/O)
    bool prefetchable = false;
    io::IoHandler* handler = nullptr;  // offsets are relative to the BAR
  };
  void add_bar(unsigned index, const Bar& bar);  // a 64-bit BAR takes index and index + 1
  // Appends a capability: `body` follows the two header bytes; `write_mask` (same length or empty) says which
  // bits the guest may change. Returns its offset in configuration space.
  uint16_t add_capability(uint8_t id, std::span<const uint8_t> body, std::span<const uint8_t> write_mask = {});
  void set_config(uint16_t offset, unsigned size_bytes, uint32_t value);     // the value, from our side
  void change_config(uint16_t offset, unsigned size_bytes, uint32_t value);  // until a reset
  void set_write_mask(uint16_t offset, unsigned size_bytes, uint32_t mask);  // bits the guest may write
  void set_clear_mask(uint16_t offset, unsigned size_bytes, uint32_t mask);  // bits cleared by writing one
  uint32_t config(uint16_t offset, unsigned size_bytes) const;

  // --- running ---
  void set_intx(bool level);  // any thread; gated by the interrupt-disable bit
  uint16_t command() const { return static_cast<uint16_t>(config(pci_regs::kCommand, 2)); }
  bool bus_master() const;                     // and so may every bridge on the way
  uint64_t bar_address(unsigned index) const;  // as programmed, whether decoded or not
  void send_msi(const io::MsiMessage& message);

  // Of bridges: the bus behind, if this number is its or one behind it; nullptr.
  virtual PciBus* bus_behind(uint8_t) { return nullptr; }
  void upstream_changed();  // by the bus, under its lock

 protected:
  // What a bridge on the way lets through is another than before; BARs have followed.
  virtual void on_upstream_changed() {}
  unsigned upstream_gsi(uint8_t pin) const;  // of a pin of this function's device
  // After the guest wrote [offset, offset + size). Configuration-access thread, the bus's lock held: it must not
  // make configuration accesses through the bus.
  virtual void on_config_written(uint16_t offset, unsigned size_bytes);

 private:
  friend class PciBus;
  struct MappedBar {
    Bar bar;
    bool mapped = false;
    uint64_t address = 0;
    io::AddressSpace::MappingId mapping = 0;
  };
  void attach(PciBus* bus, uint8_t device, uint8_t function);
  void detach();
  void update_bars();
  void unmap_bars();
  void update_intx();

  Identity identity_;
  PciBus* bus_ = nullptr;
  uint8_t device_ = 0, function_ = 0;
  std::array<uint8_t, pci_regs::kConfigBytes> config_{}, initial_{}, write_mask_{}, clear_mask_{};
  std::array<MappedBar, 6> bars_{};
  uint16_t last_capability_ = 0;
  uint16_t next_capability_ = pci_regs::kFirstCapability;
  mutable std::mutex intx_mutex_;
  bool intx_level_ = false, intx_disabled_ = false;
  io::IrqLine intx_line_;
};

}  // namespace rhea::devices
