// SPDX-License-Identifier: Apache-2.0
// The LPC (ISA) bridge 8086:2918 at 00:1f.0, with the PM base and root complex registers that guests read.
// Spec: [ICH9 13.1]. Not implemented: LPC decode ranges, GPIO, RCBA block, PIRQ routing to the 8259s (INTx lines reach
// the I/O APIC only; the routing registers are kept). Threads: configuration accesses, serialised by the bus.
#pragma once

#include "devices/pci/pci_bus.h"
#include "devices/pci/pci_function.h"
#include "io/device_spec.h"

namespace rhea::devices {

inline constexpr io::DeviceSpec kLpcBridgeSpec = {
    .name = "lpc-bridge",
    .help = "ICH9 LPC bridge 8086:2918",
    .state_version = 1,
    .pci = io::PciIds{.vendor = 0x8086, .device = 0x2918, .class_code = 0x060100}};

class LpcBridge final : public PciFunction {
 public:
  static constexpr uint8_t kDeviceNumber = 0x1f, kFunctionNumber = 0;
  static constexpr uint16_t kPmBase = 0x40, kAcpiControl = 0x44;

  struct Options {
    uint16_t pm_base = 0x600;  // AcpiPm::Options::base; fixed, as if locked by firmware
  };
  explicit LpcBridge(const Options& options);
};

}  // namespace rhea::devices
