// SPDX-License-Identifier: Apache-2.0
// The LPC bridge's configuration space.
#include "devices/pci/lpc_bridge/lpc_bridge.h"

namespace rhea::devices {
namespace {

constexpr uint8_t kAcpiEnable = 0x80;
constexpr uint16_t kPirqA = 0x60, kPirqE = 0x68;
constexpr uint8_t kPirqNotRouted = 0x80, kPirqWritable = 0x8f;

}  // namespace

LpcBridge::LpcBridge(const Options& options)
    : PciFunction({.name = std::string(kLpcBridgeSpec.name),
                   .vendor = kLpcBridgeSpec.pci->vendor,
                   .device = kLpcBridgeSpec.pci->device,
                   .class_code = kLpcBridgeSpec.pci->class_code,
                   .revision = 2,
                   .subsystem_vendor = 0,
                   .subsystem = 0,
                   .interrupt_pin = 0,
                   .multifunction = false}) {
  // A bridge decodes always: its command bits read as set. [ICH9 13.1.3]
  set_config(pci_regs::kCommand, 2, pci_regs::kCommandIo | pci_regs::kCommandMemory | pci_regs::kCommandMaster);
  set_write_mask(pci_regs::kCommand, 2, pci_regs::kCommandParity | pci_regs::kCommandSerr);
  set_config(kPmBase, 4, options.pm_base | 1u);
  set_config(kAcpiControl, 1, kAcpiEnable);  // SCI on IRQ 9
  for (uint16_t i = 0; i < 4; ++i) {
    for (const uint16_t base : {kPirqA, kPirqE}) {
      set_config(static_cast<uint16_t>(base + i), 1, kPirqNotRouted);
      set_write_mask(static_cast<uint16_t>(base + i), 1, kPirqWritable);
    }
  }
}

}  // namespace rhea::devices
