// SPDX-License-Identifier: Apache-2.0
// PCI configuration space: standard header, capabilities, INTx wiring. Spec: [PCI-3.0 6], [PCIe-4.0 7].
#pragma once

#include <cstdint>

namespace rhea::devices::pci_regs {

inline constexpr unsigned kConfigBytes = 4096, kLegacyConfigBytes = 256;

enum Offset : uint16_t {
  kVendorId = 0x00,
  kDeviceId = 0x02,
  kCommand = 0x04,
  kStatus = 0x06,
  kRevision = 0x08,
  kClassCode = 0x09,  // three bytes: programming interface, subclass, class
  kCacheLineSize = 0x0c,
  kLatencyTimer = 0x0d,
  kHeaderType = 0x0e,
  kBist = 0x0f,
  kBar0 = 0x10,
  kSubsystemVendorId = 0x2c,
  kSubsystemId = 0x2e,
  kRomBar = 0x30,
  kCapabilities = 0x34,
  kInterruptLine = 0x3c,
  kInterruptPin = 0x3d,
  kFirstCapability = 0x40,
  kFirstExtendedCapability = 0x100,
};

inline constexpr uint16_t kCommandIo = 1u << 0, kCommandMemory = 1u << 1, kCommandMaster = 1u << 2,
                          kCommandParity = 1u << 6, kCommandSerr = 1u << 8, kCommandIntxDisable = 1u << 10;
inline constexpr uint16_t kStatusInterrupt = 1u << 3, kStatusCapabilities = 1u << 4;
inline constexpr uint16_t kStatusWriteOneToClear = 0xf900;
inline constexpr uint8_t kHeaderMultifunction = 0x80;

inline constexpr uint32_t kBarIo = 1, kBarMemory64 = 4, kBarPrefetchable = 8;

inline constexpr uint8_t kCapabilityMsi = 0x05, kCapabilityVendor = 0x09, kCapabilityPciExpress = 0x10,
                         kCapabilityMsix = 0x11;

inline constexpr uint16_t kConfigAddressPort = 0xcf8, kConfigDataPort = 0xcfc;
inline constexpr uint32_t kConfigEnable = 1u << 31;

// RAM (priority 0) hides what a guest maps over it, as below TOLUD on the real chip.
inline constexpr int kBarPriority = -10, kEcamPriority = -5;

}  // namespace rhea::devices::pci_regs
