// SPDX-License-Identifier: Apache-2.0
// Configuration space of one PCI function.
#include "devices/pci/pci_function.h"

#include <bit>
#include <utility>

#include "base/check.h"
#include "devices/pci/pci_bus.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices {

using namespace pci_regs;

namespace {

// BARs beyond this are where a guest parks them while it sizes them; no machine has such memory.
constexpr uint64_t kMemoryLimit = uint64_t{1} << 52;
constexpr uint64_t kPortLimit = uint64_t{1} << 16;

template <size_t N>
uint32_t load(const std::array<uint8_t, N>& bytes, size_t offset, unsigned size_bytes) {
  uint32_t value = 0;
  for (unsigned i = 0; i < size_bytes; ++i) value |= uint32_t{bytes[offset + i]} << (8 * i);
  return value;
}
template <size_t N>
void store(std::array<uint8_t, N>& bytes, size_t offset, unsigned size_bytes, uint32_t value) {
  for (unsigned i = 0; i < size_bytes; ++i) bytes[offset + i] = static_cast<uint8_t>(value >> (8 * i));
}
bool overlaps(uint16_t offset, unsigned size_bytes, uint16_t start, unsigned length) {
  return offset < start + length && start < offset + size_bytes;
}

}  // namespace

PciFunction::PciFunction(Identity identity) : identity_(std::move(identity)) {
  set_config(kVendorId, 2, identity_.vendor);
  set_config(kDeviceId, 2, identity_.device);
  set_config(kRevision, 1, identity_.revision);
  set_config(kClassCode, 1, identity_.class_code & 0xff);
  set_config(kClassCode + 1, 2, identity_.class_code >> 8);
  set_config(kSubsystemVendorId, 2, identity_.subsystem_vendor);
  set_config(kSubsystemId, 2, identity_.subsystem);
  set_config(kHeaderType, 1, identity_.multifunction ? kHeaderMultifunction : 0);
  set_config(kInterruptPin, 1, identity_.interrupt_pin);
  set_write_mask(kCacheLineSize, 1, 0xff);
  set_write_mask(kInterruptLine, 1, 0xff);
  uint16_t command = kCommandMaster | kCommandParity | kCommandSerr;
  if (identity_.interrupt_pin != 0) command |= kCommandIntxDisable;
  set_write_mask(kCommand, 2, command);
  set_clear_mask(kStatus, 2, kStatusWriteOneToClear);
}

PciFunction::~PciFunction() {
  if (bus_ != nullptr) bus_->remove(*this);
}

void PciFunction::attach(PciBus* bus, uint8_t device, uint8_t function) {
  bus_ = bus;
  device_ = device;
  function_ = function;
  if (identity_.interrupt_pin != 0)
    intx_line_ =
        io::IrqLine(&bus->context().router, bus->gsi(device, static_cast<uint8_t>(identity_.interrupt_pin - 1)));
  update_bars();
}

void PciFunction::detach() {
  set_intx(false);
  unmap_bars();
  bus_ = nullptr;
}

void PciFunction::set_config(uint16_t offset, unsigned size_bytes, uint32_t value) {
  RHEA_CHECK(offset + size_bytes <= kConfigBytes && size_bytes <= 4);
  store(config_, offset, size_bytes, value);
  store(initial_, offset, size_bytes, value);
}
void PciFunction::change_config(uint16_t offset, unsigned size_bytes, uint32_t value) {
  RHEA_CHECK(offset + size_bytes <= kConfigBytes && size_bytes <= 4);
  store(config_, offset, size_bytes, value);
}
void PciFunction::set_write_mask(uint16_t offset, unsigned size_bytes, uint32_t mask) {
  RHEA_CHECK(offset + size_bytes <= kConfigBytes && size_bytes <= 4);
  store(write_mask_, offset, size_bytes, mask);
}
void PciFunction::set_clear_mask(uint16_t offset, unsigned size_bytes, uint32_t mask) {
  RHEA_CHECK(offset + size_bytes <= kConfigBytes && size_bytes <= 4);
  store(clear_mask_, offset, size_bytes, mask);
}
uint32_t PciFunction::config(uint16_t offset, unsigned size_bytes) const {
  RHEA_CHECK(offset + size_bytes <= kConfigBytes && size_bytes <= 4);
  return load(config_, offset, size_bytes);
}

// The low address bits are read-only zeros: that is how a guest learns the size. [PCI-3.0 6.2.5.1]
void PciFunction::add_bar(unsigned index, const Bar& bar) {
  RHEA_CHECK(index < bars_.size() && std::has_single_bit(bar.size_bytes));
  const bool io = bar.kind == BarKind::kIo, wide = bar.kind == BarKind::kMemory64;
  RHEA_CHECK(bar.size_bytes >= (io ? 4u : 16u));
  RHEA_CHECK(wide ? index + 1 < bars_.size() : bar.size_bytes <= uint64_t{1} << 31);
  bars_[index].bar = bar;
  const auto offset = static_cast<uint16_t>(kBar0 + 4 * index);
  const uint64_t mask = ~(bar.size_bytes - 1);
  set_config(offset, 4, io ? kBarIo : (wide ? kBarMemory64 : 0) | (bar.prefetchable ? kBarPrefetchable : 0));
  set_write_mask(offset, 4, static_cast<uint32_t>(mask));
  if (wide) {
    set_config(static_cast<uint16_t>(offset + 4), 4, 0);
    set_write_mask(static_cast<uint16_t>(offset + 4), 4, static_cast<uint32_t>(mask >> 32));
  }
  set_write_mask(kCommand, 2, load(write_mask_, kCommand, 2) | (io ? kCommandIo : kCommandMemory));
}

uint16_t PciFunction::add_capability(uint8_t id, std::span<const uint8_t> body, std::span<const uint8_t> write_mask) {
  const uint16_t offset = next_capability_;
  RHEA_CHECK(offset + 2 + body.size() <= kLegacyConfigBytes);
  RHEA_CHECK(write_mask.empty() || write_mask.size() == body.size());
  set_config(offset, 1, id);
  set_config(static_cast<uint16_t>(offset + 1), 1, 0);
  for (size_t i = 0; i < body.size(); ++i) {
    const auto at = static_cast<uint16_t>(offset + 2 + i);
    set_config(at, 1, body[i]);
    if (!write_mask.empty()) set_write_mask(at, 1, write_mask[i]);
  }
  // Linked at the end, in the order of their adding.
  set_config(last_capability_ == 0 ? static_cast<uint16_t>(kCapabilities) : static_cast<uint16_t>(last_capability_ + 1),
             1, offset);
  set_config(kStatus, 2, load(config_, kStatus, 2) | kStatusCapabilities);
  last_capability_ = offset;
  next_capability_ = static_cast<uint16_t>((offset + 2 + body.size() + 3) & ~size_t{3});
  return offset;
}

uint32_t PciFunction::config_read(uint16_t offset, unsigned size_bytes) {
  uint32_t value = load(config_, offset, size_bytes);
  if (overlaps(offset, size_bytes, kStatus, 1)) {
    const std::lock_guard lock(intx_mutex_);
    if (intx_level_) value |= uint32_t{kStatusInterrupt} << (8 * (kStatus - offset));
  }
  return value;
}

void PciFunction::config_write(uint16_t offset, uint32_t value, unsigned size_bytes) {
  for (unsigned i = 0; i < size_bytes; ++i) {
    const auto byte = static_cast<uint8_t>(value >> (8 * i));
    const size_t at = offset + i;
    const uint8_t kept =
        config_[at] & static_cast<uint8_t>(~write_mask_[at]) & static_cast<uint8_t>(~(byte & clear_mask_[at]));
    config_[at] = static_cast<uint8_t>(kept | (byte & write_mask_[at]));
  }
  const bool command = overlaps(offset, size_bytes, kCommand, 2);
  if (command || overlaps(offset, size_bytes, kBar0, 24)) update_bars();
  if (command) update_intx();
  on_config_written(offset, size_bytes);
}

void PciFunction::on_config_written(uint16_t, unsigned) {}

bool PciFunction::bus_master() const {
  return (command() & kCommandMaster) && (bus_ == nullptr || bus_->passes_upstream());
}

void PciFunction::upstream_changed() {
  update_bars();
  on_upstream_changed();
}

unsigned PciFunction::upstream_gsi(uint8_t pin) const { return bus_ == nullptr ? 0 : bus_->gsi(device_, pin); }

uint64_t PciFunction::bar_address(unsigned index) const {
  const Bar& bar = bars_[index].bar;
  const size_t offset = kBar0 + 4 * index;
  uint64_t address = load(config_, offset, 4);
  if (bar.kind == BarKind::kMemory64) address |= uint64_t{load(config_, offset + 4, 4)} << 32;
  return address & ~uint64_t{bar.kind == BarKind::kIo ? 3u : 15u};
}

// Maps and unmaps BARs so that what is decoded is what the guest's registers say.
void PciFunction::update_bars() {
  if (bus_ == nullptr) return;
  for (unsigned index = 0; index < bars_.size(); ++index) {
    MappedBar& entry = bars_[index];
    if (entry.bar.size_bytes == 0) continue;
    const bool io = entry.bar.kind == BarKind::kIo;
    const uint64_t address = bar_address(index);
    const uint64_t limit = io ? kPortLimit : kMemoryLimit;
    const bool decoded = (command() & (io ? kCommandIo : kCommandMemory)) && address != 0 && address < limit &&
                         entry.bar.size_bytes <= limit - address && bus_->passes(io, address, entry.bar.size_bytes);
    if (entry.mapped && decoded && entry.address == address) continue;
    io::AddressSpace& space = io ? bus_->context().ports : bus_->context().memory;
    if (entry.mapped) space.unmap(entry.mapping);
    entry.mapped = decoded;
    if (!decoded) continue;
    entry.address = address;
    entry.mapping = space.map({.start = address,
                               .size_bytes = entry.bar.size_bytes,
                               .handler = entry.bar.handler,
                               .name = identity_.name + " bar " + std::to_string(index)},
                              kBarPriority);
  }
}

void PciFunction::unmap_bars() {
  for (MappedBar& entry : bars_) {
    if (!entry.mapped) continue;
    (entry.bar.kind == BarKind::kIo ? bus_->context().ports : bus_->context().memory).unmap(entry.mapping);
    entry.mapped = false;
  }
}

void PciFunction::set_intx(bool level) {
  const std::lock_guard lock(intx_mutex_);
  intx_level_ = level;
  intx_line_.set(level && !intx_disabled_);
}

void PciFunction::update_intx() {
  const bool disabled = command() & kCommandIntxDisable;
  const std::lock_guard lock(intx_mutex_);
  intx_disabled_ = disabled;
  intx_line_.set(intx_level_ && !disabled);
}

void PciFunction::send_msi(const io::MsiMessage& message) {
  if (bus_ != nullptr) bus_->context().router.send_msi(message);
}

void PciFunction::reset() {
  config_ = initial_;
  set_intx(false);
  update_bars();
  update_intx();
}

void PciFunction::save_state(state::StateWriter& writer) const {
  writer.field("config", config_);
  writer.field("intx", intx_level_);
}

Status PciFunction::load_state(state::StateReader& reader) {
  std::array<uint8_t, kConfigBytes> loaded{};
  bool intx = false;
  reader.field("config", loaded);
  reader.field("intx", intx);
  reader.validate(load(loaded, kVendorId, 4) == load(config_, kVendorId, 4), "belongs to another device");
  reader.validate(load(loaded, kRevision, 4) == load(config_, kRevision, 4), "belongs to another class of device");
  RHEA_TRY(reader.status());
  // Only what a guest can change is taken over: identity, sizes and capabilities are ours.
  for (size_t at = 0; at < kConfigBytes; ++at) {
    const uint8_t guest_bits = write_mask_[at] | clear_mask_[at];
    config_[at] = static_cast<uint8_t>((config_[at] & ~guest_bits) | (loaded[at] & guest_bits));
  }
  update_bars();
  update_intx();
  set_intx(intx);
  return {};
}

}  // namespace rhea::devices
