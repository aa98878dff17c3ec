// SPDX-License-Identifier: Apache-2.0
// The host bridge: both ways into configuration space.
#include "devices/pci/host_bridge/host_bridge.h"

#include "base/check.h"
#include "base/numeric.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices {

using namespace pci_regs;
using namespace host_bridge_regs;

namespace {

constexpr uint16_t kResetPort = 0xcf9;
constexpr uint32_t kConfigAddressWritable = 0x80fffffc;
constexpr int kSmramPriority = 10;  // before anything else

// Splits what no configuration access can be (8 bytes, or unaligned) into bytes; `access(offset, size, shift)`.
template <class Access>
void for_each_piece(uint64_t offset, unsigned size_bytes, Access access) {
  if (size_bytes <= 4 && offset % size_bytes == 0) {
    access(offset, size_bytes, 0u);
    return;
  }
  if (size_bytes == 8 && offset % 4 == 0) {
    access(offset, 4u, 0u);
    access(offset + 4, 4u, 32u);
    return;
  }
  for (unsigned i = 0; i < size_bytes; ++i) access(offset + i, 1u, 8 * i);
}

}  // namespace

HostBridge::HostBridge(const Options& options, const Context& context)
    : PciFunction({.name = std::string(kHostBridgeSpec.name),
                   .vendor = kHostBridgeSpec.pci->vendor,
                   .device = kHostBridgeSpec.pci->device,
                   .class_code = kHostBridgeSpec.pci->class_code,
                   .revision = 0,
                   .subsystem_vendor = 0,
                   .subsystem = 0,
                   .interrupt_pin = 0,
                   .multifunction = false}),
      options_(options),
      bus_(context.bus),
      reset_register_(context.reset_register),
      low_ram_(context.low_ram),
      low_ram_bytes_(context.low_ram_bytes) {
  RHEA_CHECK((options_.ecam_base & ~kPciExBarAddressMask) == 0);
  const uint64_t bar = options_.ecam_base | kPciExBarEnable;
  set_config(kPciExBar, 4, static_cast<uint32_t>(bar));
  set_config(kPciExBar + 4, 4, static_cast<uint32_t>(bar >> 32));
  // Bits 27 and 26 are address bits of the smaller windows. [Q35 5.1.16]
  constexpr uint64_t kWritable = kPciExBarAddressMask | 0x0c000000 | kPciExBarLengthMask | kPciExBarEnable;
  set_write_mask(kPciExBar, 4, static_cast<uint32_t>(kWritable));
  set_write_mask(kPciExBar + 4, 4, static_cast<uint32_t>(kWritable >> 32));
  set_config(kSmram, 1, kSmramSegmentA);
  set_config(kEsmramc, 1, kEsmramcFixed);
  lock_smram();
}

HostBridge::~HostBridge() {
  if (!installed_) return;
  if (shown_.segment) bus_.context().memory.unmap(segment_mapping_);
  if (shown_.tseg_bytes) bus_.context().memory.unmap(tseg_mapping_);
  bus_.context().ports.unmap(ports_mapping_);
  if (ecam_mapped_) bus_.context().memory.unmap(ecam_mapping_);
}

Status HostBridge::install() {
  RHEA_TRY(bus_.add(*this, 0, 0));
  ports_mapping_ = bus_.context().ports.map({.start = kConfigAddressPort,
                                             .size_bytes = 8,
                                             .handler = &config_ports_,
                                             .handler_offset = kConfigAddressPort,
                                             .name = "pci-config"});
  installed_ = true;
  update_ecam();
  update_smram();
  return {};
}

void HostBridge::reset() {
  PciFunction::reset();
  {
    const std::lock_guard lock(address_mutex_);
    config_address_ = 0;
  }
  update_ecam();
  lock_smram();
  update_smram();
}

// What the guest may change of SMRAM: nothing once it is locked. [Q35 5.1.31]
void HostBridge::lock_smram() {
  const bool locked = config(kSmram, 1) & kSmramLock;
  const bool present = low_ram_ != nullptr && !locked;
  set_write_mask(kSmram, 1, present ? kSmramOpen | kSmramLock | kSmramEnable : 0);
  set_write_mask(kEsmramc, 1, present ? kTsegEnable | kTsegSizeMask : 0);
  if (locked) change_config(kSmram, 1, config(kSmram, 1) & ~kSmramOpen);
}

void HostBridge::update_smram() {
  if (!installed_ || low_ram_ == nullptr) return;
  const uint32_t smram = config(kSmram, 1), extended = config(kEsmramc, 1);
  constexpr uint64_t kTsegBytes[4] = {1u << 20, 2u << 20, 8u << 20, 0};
  Shown wanted{.segment = (smram & kSmramEnable) != 0, .open = (smram & kSmramOpen) != 0};
  if (wanted.segment && (extended & kTsegEnable)) wanted.tseg_bytes = kTsegBytes[(extended & kTsegSizeMask) >> 1];
  if (wanted.tseg_bytes > low_ram_bytes_) wanted.tseg_bytes = 0;
  if (wanted == shown_) return;
  io::AddressSpace& memory = bus_.context().memory;
  if (shown_.segment) memory.unmap(segment_mapping_);
  if (shown_.tseg_bytes) memory.unmap(tseg_mapping_);
  shown_ = wanted;
  if (wanted.segment)
    segment_mapping_ = memory.map({.start = kSmramBase,
                                   .size_bytes = kSmramBytes,
                                   .kind = io::RangeKind::kRam,
                                   .host = low_ram_ + kSmramBase,
                                   .name = "smram"},
                                  kSmramPriority, wanted.open ? io::Seen::kAlways : io::Seen::kInSmm);
  if (wanted.tseg_bytes)
    tseg_mapping_ =
        memory.map({.start = low_ram_bytes_ - wanted.tseg_bytes, .size_bytes = wanted.tseg_bytes, .name = "tseg"},
                   kSmramPriority, io::Seen::kOutsideSmm);
}

void HostBridge::update_ecam() {
  if (!installed_) return;
  const uint64_t bar = config(kPciExBar, 4) | uint64_t{config(kPciExBar + 4, 4)} << 32;
  const uint64_t length_code = (bar & kPciExBarLengthMask) >> 1;
  const bool enabled = (bar & kPciExBarEnable) && length_code < 3;  // 3 is reserved
  const uint64_t bytes = enabled ? kEcamBytes >> length_code : 0;
  const uint64_t address = enabled ? bar & (kPciExBarAddressMask | 0x0c000000) & ~(bytes - 1) : 0;
  if (enabled == ecam_mapped_ && address == ecam_address_ && bytes == ecam_bytes_) return;
  io::AddressSpace& memory = bus_.context().memory;
  if (ecam_mapped_) memory.unmap(ecam_mapping_);
  ecam_mapped_ = enabled;
  ecam_address_ = address;
  ecam_bytes_ = bytes;
  if (!enabled) return;
  ecam_mapping_ =
      memory.map({.start = address, .size_bytes = bytes, .handler = &ecam_, .name = "pci-ecam"}, kEcamPriority);
}

void HostBridge::on_config_written(uint16_t offset, unsigned size_bytes) {
  if (offset < kPciExBar + 8 && kPciExBar < offset + size_bytes) update_ecam();
  if (offset < kEsmramc + 1 && kSmram < offset + size_bytes) {
    lock_smram();
    update_smram();
  }
}

// [PCI-3.0 3.2.2.3.2] Only a 32-bit access at 0xcf8 is the address register; others go by to what else is there.
uint64_t HostBridge::ConfigPorts::io_read(uint64_t port, unsigned size_bytes) {
  if (port == kConfigAddressPort && size_bytes == 4) {
    const std::lock_guard lock(bridge_.address_mutex_);
    return bridge_.config_address_;
  }
  uint32_t address = 0;
  {
    const std::lock_guard lock(bridge_.address_mutex_);
    address = bridge_.config_address_;
  }
  uint64_t value = 0;
  for_each_piece(port, size_bytes, [&](uint64_t piece, unsigned piece_bytes, unsigned shift) {
    uint64_t part = base::byte_mask(piece_bytes);
    if (piece >= kConfigDataPort) {
      const auto offset = static_cast<uint16_t>((address & 0xfc) + (piece - kConfigDataPort));
      if (address & kConfigEnable)
        part = bridge_.bus_.config_read(static_cast<uint8_t>(address >> 16), static_cast<uint8_t>(address >> 8), offset,
                                        piece_bytes);
    } else if (piece == kResetPort && piece_bytes == 1 && bridge_.reset_register_ != nullptr) {
      part = bridge_.reset_register_->io_read(0, 1) & 0xff;
    }
    value |= part << shift;
  });
  return value;
}

void HostBridge::ConfigPorts::io_write(uint64_t port, uint64_t value, unsigned size_bytes) {
  if (port == kConfigAddressPort && size_bytes == 4) {
    const std::lock_guard lock(bridge_.address_mutex_);
    bridge_.config_address_ = static_cast<uint32_t>(value) & kConfigAddressWritable;
    return;
  }
  uint32_t address = 0;
  {
    const std::lock_guard lock(bridge_.address_mutex_);
    address = bridge_.config_address_;
  }
  for_each_piece(port, size_bytes, [&](uint64_t piece, unsigned piece_bytes, unsigned shift) {
    const auto part = static_cast<uint32_t>((value >> shift) & base::byte_mask(piece_bytes));
    if (piece >= kConfigDataPort) {
      const auto offset = static_cast<uint16_t>((address & 0xfc) + (piece - kConfigDataPort));
      if (address & kConfigEnable)
        bridge_.bus_.config_write(static_cast<uint8_t>(address >> 16), static_cast<uint8_t>(address >> 8), offset, part,
                                  piece_bytes);
    } else if (piece == kResetPort && piece_bytes == 1 && bridge_.reset_register_ != nullptr) {
      bridge_.reset_register_->io_write(0, part, 1);
    }
  });
}

// [PCIe-4.0 7.2.2] Bus in 27:20, device and function in 19:12, register in 11:0.
uint64_t HostBridge::Ecam::io_read(uint64_t offset, unsigned size_bytes) {
  uint64_t value = 0;
  for_each_piece(offset, size_bytes, [&](uint64_t piece, unsigned piece_bytes, unsigned shift) {
    value |= uint64_t{bridge_.bus_.config_read(static_cast<uint8_t>(piece >> 20), static_cast<uint8_t>(piece >> 12),
                                               static_cast<uint16_t>(piece & 0xfff), piece_bytes)}
             << shift;
  });
  return value;
}

void HostBridge::Ecam::io_write(uint64_t offset, uint64_t value, unsigned size_bytes) {
  for_each_piece(offset, size_bytes, [&](uint64_t piece, unsigned piece_bytes, unsigned shift) {
    bridge_.bus_.config_write(static_cast<uint8_t>(piece >> 20), static_cast<uint8_t>(piece >> 12),
                              static_cast<uint16_t>(piece & 0xfff),
                              static_cast<uint32_t>((value >> shift) & base::byte_mask(piece_bytes)), piece_bytes);
  });
}

void HostBridge::save_state(state::StateWriter& writer) const {
  PciFunction::save_state(writer);
  const std::lock_guard lock(address_mutex_);
  writer.field("config_address", config_address_);
}

Status HostBridge::load_state(state::StateReader& reader) {
  RHEA_TRY(PciFunction::load_state(reader));
  {
    const std::lock_guard lock(address_mutex_);
    reader.field("config_address", config_address_);
    config_address_ &= kConfigAddressWritable;
  }
  RHEA_TRY(reader.status());
  update_ecam();
  lock_smram();
  update_smram();
  return {};
}

}  // namespace rhea::devices
