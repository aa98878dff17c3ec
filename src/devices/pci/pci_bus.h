// SPDX-License-Identifier: Apache-2.0
// Bus 0: 32 devices of 8 functions, and the wiring of their INTx pins to GSIs.
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

class PciBus {
 public:
  struct Context {
    io::AddressSpace& memory;
    io::AddressSpace& ports;
    io::IrqRouter& router;
  };
  explicit PciBus(const Context& context) : context_(context) {}

  // Functions outlive the bus or are removed first. Errors: kBusy if the slot is taken, kInvalidArgument.
  Status add(PciFunction& function, uint8_t device_number, uint8_t function_number);
  void remove(PciFunction& function);

  // Type 0 configuration access to this bus; what does not exist reads all ones. Sizes 1, 2, 4, within a dword.
  uint32_t config_read(uint8_t bus, uint8_t device_function, uint16_t offset, unsigned size_bytes);
  void config_write(uint8_t bus, uint8_t device_function, uint16_t offset, uint32_t value, unsigned size_bytes);

  // GSI of a device's INTx pin (0-3 for INTA-INTD): 16-23, level-triggered, active high. For the DSDT's _PRT.
  static constexpr unsigned intx_gsi(uint8_t device_number, uint8_t pin) { return 16 + ((device_number + pin) & 7); }

  const Context& context() const { return context_; }

 private:
  Context context_;
  std::mutex mutex_;
  std::array<PciFunction*, 256> functions_{};
};

}  // namespace rhea::devices
