// SPDX-License-Identifier: Apache-2.0
// The bridge's registers and what they let through.
#include "devices/pci/root_port/root_port.h"

#include <algorithm>
#include <vector>

namespace rhea::devices {

using namespace pci_regs;

namespace {

// Type 1 header. [PCI-BRIDGE-1.2 3.2]
enum Bridge : uint16_t {
  kPrimaryBus = 0x18,
  kSecondaryBus = 0x19,
  kSubordinateBus = 0x1a,
  kIoBase = 0x1c,
  kIoLimit = 0x1d,
  kMemoryBase = 0x20,
  kMemoryLimit = 0x22,
  kPrefetchBase = 0x24,
  kPrefetchLimit = 0x26,
  kPrefetchBaseUpper = 0x28,
  kPrefetchLimitUpper = 0x2c,
  kBridgeControl = 0x3e,
};
constexpr uint8_t kHeaderBridge = 0x01;
constexpr uint16_t kPrefetch64 = 0x0001, kSecondaryReset = 1u << 6, kParityAndSerr = 0x0003;

// Offsets in the PCI Express capability, from its start. [PCIe-4.0 7.5.3]
constexpr unsigned kExpressBytes = 60, kExpressDeviceControl = 8, kExpressLinkStatus = 18, kExpressSlotStatus = 26;
constexpr uint16_t kVersion2 = 2, kRootPortType = 4u << 4, kSlotImplemented = 1u << 8;
constexpr uint16_t kLinkUp = 1u << 13, kLinkSpeedAndWidth = 0x11, kPresenceDetected = 1u << 6;

void put(std::vector<uint8_t>& bytes, unsigned at, uint32_t value, unsigned count) {
  for (unsigned i = 0; i < count; ++i) bytes[at - 2 + i] = static_cast<uint8_t>(value >> (8 * i));
}

}  // namespace

RootPort::RootPort(const Options& options, const PciBus::Context& context)
    : PciFunction({.name = options.name,
                   .vendor = 0x8086,
                   .device = 0x2940,  // of the ICH9
                   .class_code = 0x060400,
                   .revision = 2,
                   .subsystem_vendor = 0,
                   .subsystem = 0,
                   .interrupt_pin = 1,
                   .multifunction = options.multifunction}),
      bus_behind_(context, *this) {
  set_config(kHeaderType, 1, kHeaderBridge | (options.multifunction ? kHeaderMultifunction : 0));
  set_write_mask(kCommand, 2,
                 kCommandIo | kCommandMemory | kCommandMaster | kCommandParity | kCommandSerr | kCommandIntxDisable);
  for (const uint16_t bus : {kPrimaryBus, kSecondaryBus, kSubordinateBus}) set_write_mask(bus, 1, 0xff);
  set_write_mask(kIoBase, 1, 0xf0);
  set_write_mask(kIoLimit, 1, 0xf0);
  for (const uint16_t window : {kMemoryBase, kMemoryLimit, kPrefetchBase, kPrefetchLimit})
    set_write_mask(window, 2, 0xfff0);
  set_config(kPrefetchBase, 2, kPrefetch64);
  set_config(kPrefetchLimit, 2, kPrefetch64);
  set_write_mask(kPrefetchBaseUpper, 4, 0xffffffff);
  set_write_mask(kPrefetchLimitUpper, 4, 0xffffffff);
  set_write_mask(kBridgeControl, 2, kParityAndSerr | kSecondaryReset);
  add_express_capability(options);
}

void RootPort::add_express_capability(const Options& options) {
  std::vector<uint8_t> body(kExpressBytes - 2), mask(kExpressBytes - 2);
  put(body, 2, kVersion2 | kRootPortType | kSlotImplemented, 2);
  put(body, 4, 1u << 15, 4);  // role-based error reporting
  put(mask, kExpressDeviceControl, 0x7fff, 2);
  put(body, 12, kLinkSpeedAndWidth | 1u << 20 | uint32_t{options.number} << 24, 4);  // link activity is reported
  put(mask, 16, 0x0fc3, 2);                                                          // link control
  put(body, kExpressLinkStatus, kLinkSpeedAndWidth, 2);
  put(body, 20, (uint32_t{options.number} + 1) << 19, 4);  // the slot's number
  put(mask, 28, 0x001f, 2);                                // root control
  put(body, 44, 1u << 1, 4);                               // link capabilities 2: 2.5 GT/s
  put(body, 48, 1, 2);                                     // link control 2: as much is aimed at
  express_ = add_capability(kCapabilityPciExpress, body, mask);
}

void RootPort::set_occupied() {
  set_config(static_cast<uint16_t>(express_ + kExpressLinkStatus), 2, kLinkSpeedAndWidth | kLinkUp);
  set_config(static_cast<uint16_t>(express_ + kExpressSlotStatus), 2, kPresenceDetected);
}

uint8_t RootPort::secondary_number() const { return static_cast<uint8_t>(config(kSecondaryBus, 1)); }

// A bridge that was given no bus yet answers for none.
PciBus* RootPort::bus_behind(uint8_t bus) {
  const uint32_t secondary = config(kSecondaryBus, 1), subordinate = config(kSubordinateBus, 1);
  return secondary != 0 && bus >= secondary && bus <= subordinate ? &bus_behind_ : nullptr;
}

bool RootPort::forwards(bool io, uint64_t address, uint64_t size_bytes) const {
  if ((command() & (io ? kCommandIo : kCommandMemory)) == 0) return false;
  const auto within = [&](uint64_t base, uint64_t limit) {
    return base <= limit && address >= base && address - base <= limit - base && size_bytes - 1 <= limit - address;
  };
  if (io) return within((config(kIoBase, 1) & 0xf0) << 8, (config(kIoLimit, 1) & 0xf0) << 8 | 0xfff);
  if (within(uint64_t{config(kMemoryBase, 2) & 0xfff0} << 16,
             uint64_t{config(kMemoryLimit, 2) & 0xfff0} << 16 | 0xfffff))
    return true;
  return within(
      uint64_t{config(kPrefetchBaseUpper, 4)} << 32 | uint64_t{config(kPrefetchBase, 2) & 0xfff0} << 16,
      uint64_t{config(kPrefetchLimitUpper, 4)} << 32 | uint64_t{config(kPrefetchLimit, 2) & 0xfff0} << 16 | 0xfffff);
}

// A device's pins come out of the port turned by its number. [PCI-BRIDGE-1.2 9.1]
unsigned RootPort::gsi(uint8_t device_number, uint8_t pin) const {
  return upstream_gsi(static_cast<uint8_t>((pin + device_number) % 4));
}

void RootPort::on_config_written(uint16_t, unsigned) {
  const bool reset = config(kBridgeControl, 2) & kSecondaryReset;
  if (reset && !held_in_reset_) bus_behind_.reset_functions();
  held_in_reset_ = reset;
  bus_behind_.upstream_changed();
}

void RootPort::on_upstream_changed() { bus_behind_.upstream_changed(); }

void RootPort::reset() {
  PciFunction::reset();
  held_in_reset_ = false;
  bus_behind_.upstream_changed();
}

Status RootPort::load_state(state::StateReader& reader) {
  RHEA_TRY(PciFunction::load_state(reader));
  held_in_reset_ = config(kBridgeControl, 2) & kSecondaryReset;
  bus_behind_.upstream_changed();
  return {};
}

}  // namespace rhea::devices
