// SPDX-License-Identifier: Apache-2.0
// A PCI bus: 32 devices of 8 functions, and the wiring of their INTx pins to GSIs. Bus 0, or one behind a bridge.
// Threads: config_read/config_write from vCPU threads, serialised by the bus's own lock.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <string>

#include "devices/pci/pci_function.h"
#include "io/address_space.h"
#include "io/irq.h"

namespace rhea::devices {

// The bridge to a bus, as that bus sees it. Under the lock of bus 0.
class PciUpstream {
 public:
  virtual ~PciUpstream() = default;
  virtual uint8_t secondary_number() const = 0;
  virtual bool forwards(bool io, uint64_t address, uint64_t size_bytes) const = 0;  // to the devices behind it
  virtual bool forwards_upstream() const = 0;                                       // what they send: DMA, messages
  virtual unsigned gsi(uint8_t device_number, uint8_t pin) const = 0;
};

class PciBus {
 public:
  struct Context {
    io::AddressSpace& memory;
    io::AddressSpace& ports;
    io::IrqRouter& router;
  };
  explicit PciBus(const Context& context) : context_(context) {}  // bus 0
  PciBus(const Context& context, PciUpstream& bridge) : context_(context), bridge_(&bridge) {}

  // Functions outlive the bus or are removed first. Errors: kBusy if the slot is taken, kInvalidArgument.
  Status add(PciFunction& function, uint8_t device_number, uint8_t function_number);
  void remove(PciFunction& function);

  // Of bus 0: configuration access to any bus; what does not exist reads all ones. Sizes 1, 2, 4, within a dword.
  uint32_t config_read(uint8_t bus, uint8_t device_function, uint16_t offset, unsigned size_bytes);
  void config_write(uint8_t bus, uint8_t device_function, uint16_t offset, uint32_t value, unsigned size_bytes);

  // GSI of a device's INTx pin (0-3 for INTA-INTD): 16-23, level-triggered, active high. For the DSDT's _PRT.
  static constexpr unsigned intx_gsi(uint8_t device_number, uint8_t pin) { return 16 + ((device_number + pin) & 7); }

  unsigned gsi(uint8_t device_number, uint8_t pin) const {
    return bridge_ ? bridge_->gsi(device_number, pin) : intx_gsi(device_number, pin);
  }

  // --- for the functions on it, and the bridge to it ---
  const Context& context() const { return context_; }
  bool passes(bool io, uint64_t address, uint64_t size_bytes) const {
    return !bridge_ || bridge_->forwards(io, address, size_bytes);
  }
  bool passes_upstream() const { return !bridge_ || bridge_->forwards_upstream(); }
  void upstream_changed();  // the bridge lets other things through than before
  void reset_functions();

 private:
  PciFunction* find(uint8_t bus, uint8_t device_function);

  Context context_;
  PciUpstream* const bridge_ = nullptr;
  std::mutex mutex_;
  std::array<PciFunction*, 256> functions_{};
};

}  // namespace rhea::devices
