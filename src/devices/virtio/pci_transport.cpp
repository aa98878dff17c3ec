// SPDX-License-Identifier: Apache-2.0
// The registers of virtio over PCI.
#include "devices/virtio/pci_transport.h"

#include <bit>

#include "base/numeric.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices::virtio {
namespace {

// BAR 0.
constexpr uint32_t kCommonOffset = 0x0000, kIsrOffset = 0x1000, kDeviceOffset = 0x2000, kNotifyOffset = 0x3000;
constexpr uint32_t kRegionBytes = 0x1000, kRegisterBarBytes = 0x4000, kNotifyMultiplier = 4;
// BAR 1. [PCI-3.0 6.8.2.6] wants tables aligned to eight bytes; a page each lets them be mapped apart.
constexpr uint32_t kPendingOffset = 0x800, kTableBarBytes = 0x1000;
constexpr unsigned kVectorBytes = 16;

// Types of virtio's capabilities. [VIRTIO-1.2 4.1.4]
constexpr uint8_t kCapabilityCommon = 1, kCapabilityNotify = 2, kCapabilityIsr = 3, kCapabilityDevice = 4,
                  kCapabilityWindow = 5;
// Within kCapabilityWindow, from its start: bar, offset, length, then the data of the access.
constexpr uint16_t kWindowBar = 4, kWindowOffset = 8, kWindowLength = 12, kWindowData = 16;

// Common configuration. [VIRTIO-1.2 4.1.4.3]
enum Common : uint64_t {
  kDeviceFeatureSelect = 0x00,
  kDeviceFeature = 0x04,
  kDriverFeatureSelect = 0x08,
  kDriverFeature = 0x0c,
  kConfigurationVector = 0x10,
  kQueueCount = 0x12,
  kDeviceStatus = 0x14,
  kConfigurationGeneration = 0x15,
  kQueueSelect = 0x16,
  kQueueSize = 0x18,
  kQueueVector = 0x1a,
  kQueueEnable = 0x1c,
  kQueueNotifyOffset = 0x1e,
  kQueueDescriptors = 0x20,
  kQueueDriver = 0x28,
  kQueueDevice = 0x30,
  kQueueNotifyData = 0x38,
  kQueueReset = 0x3a,
};

constexpr uint16_t kMsixEnable = 1u << 15, kMsixFunctionMask = 1u << 14;

uint32_t class_of(DeviceType type) {
  switch (type) {
    case DeviceType::kNet: return 0x020000;
    case DeviceType::kBlock: return 0x010000;
    case DeviceType::kConsole: return 0x078000;
    case DeviceType::kEntropy:
    case DeviceType::kBalloon: break;
  }
  return 0x00ff00;
}

}  // namespace

PciFunction::Identity PciTransport::identity_of(const VirtioDevice& device) {
  const auto id = static_cast<uint16_t>(device.type());
  return {.name = std::string(device.name()),
          .vendor = kPciVendor,
          .device = static_cast<uint16_t>(kPciDeviceBase + id),
          .class_code = class_of(device.type()),
          .revision = 1,
          .subsystem_vendor = kPciVendor,
          .subsystem = static_cast<uint16_t>(kPciDeviceBase + id),
          .interrupt_pin = 1};
}

PciTransport::PciTransport(std::unique_ptr<VirtioDevice> device, Place place)
    : PciFunction(identity_of(*device)), owned_(std::move(device)), device_(*owned_) {
  add_bar(0, {.kind = BarKind::kMemory64, .size_bytes = kRegisterBarBytes, .handler = &registers_});
  add_bar(2, {.kind = BarKind::kMemory32, .size_bytes = kTableBarBytes, .handler = &table_});
  add_region(kCapabilityCommon, kCommonOffset, kRegionBytes);
  add_region(kCapabilityIsr, kIsrOffset, kRegionBytes);
  add_region(kCapabilityDevice, kDeviceOffset, kRegionBytes);
  add_region(kCapabilityNotify, kNotifyOffset, kRegionBytes, kNotifyMultiplier);
  add_region(kCapabilityWindow, 0, 0);
  add_msix();
  if (place == Place::kPort) add_express();
  device_.set_transport(this);
  device_.hold(VirtioDevice::Hold::kTransport);
}

// The device stops before what it signals through goes.
PciTransport::~PciTransport() {
  device_.reset();
  device_.set_transport(nullptr);
}

// One of virtio's vendor capabilities. [VIRTIO-1.2 4.1.4]
void PciTransport::add_region(uint8_t type, uint32_t offset, uint32_t length, uint32_t multiplier) {
  const bool notify = type == kCapabilityNotify, window = type == kCapabilityWindow;
  std::vector<uint8_t> body(notify || window ? 18 : 14), mask;
  const auto put32 = [](std::vector<uint8_t>& bytes, size_t at, uint32_t value) {
    for (size_t i = 0; i < 4; ++i) bytes[at + i] = static_cast<uint8_t>(value >> (8 * i));
  };
  body[0] = static_cast<uint8_t>(body.size() + 2);
  body[1] = type;
  put32(body, 6, offset);
  put32(body, 10, length);
  if (notify) put32(body, 14, multiplier);
  if (window) {  // the driver chooses the BAR, the offset and the length of each access
    mask.assign(body.size(), 0);
    mask[2] = 0xff;
    for (size_t i = 6; i < body.size(); ++i) mask[i] = 0xff;
  }
  const uint16_t at = add_capability(pci_regs::kCapabilityVendor, body, mask);
  if (window) window_capability_ = at;
}

void PciTransport::add_msix() {
  vectors_.resize(device_.queue_count() + 1);
  const auto last = static_cast<uint16_t>(vectors_.size() - 1);
  const std::vector<uint8_t> body = {static_cast<uint8_t>(last),
                                     static_cast<uint8_t>(last >> 8),
                                     2,
                                     0,
                                     0,
                                     0,
                                     static_cast<uint8_t>(2 | (kPendingOffset & 0xff)),
                                     static_cast<uint8_t>(kPendingOffset >> 8),
                                     0,
                                     0};
  std::vector<uint8_t> mask(body.size(), 0);
  mask[1] = static_cast<uint8_t>((kMsixEnable | kMsixFunctionMask) >> 8);
  msix_capability_ = add_capability(pci_regs::kCapabilityMsix, body, mask);
}

// An endpoint that needs nothing: no link but the one of all such ports. [PCIe-4.0 7.5.3]
void PciTransport::add_express() {
  std::vector<uint8_t> body(58), mask(58);
  body[0] = 2;                 // version 2, endpoint
  body[3] = 0x80;              // device capabilities: role-based error reporting
  body[10] = body[16] = 0x11;  // link capabilities and status: 2.5 GT/s, one lane
  mask[6] = 0xff;              // device control
  mask[7] = 0x7f;
  mask[14] = 0xc3;  // link control
  body[42] = 2;     // link capabilities 2: 2.5 GT/s
  body[46] = 1;     // link control 2
  add_capability(pci_regs::kCapabilityPciExpress, body, mask);
}

// ---- BAR 0 ----

uint64_t PciTransport::read(uint64_t offset, unsigned size_bytes) {
  const uint64_t at = offset % kRegionBytes;
  switch (offset - at) {
    case kCommonOffset: {
      const std::lock_guard lock(registers_mutex_);
      return read_common(at) & base::byte_mask(size_bytes);
    }
    case kIsrOffset: {
      if (at != 0) return 0;
      return status_.take();
    }
    case kDeviceOffset: return device_.read_configuration(static_cast<uint32_t>(at), size_bytes);
    default: return 0;
  }
}

void PciTransport::write(uint64_t offset, uint64_t value, unsigned size_bytes) {
  const uint64_t at = offset % kRegionBytes;
  switch (offset - at) {
    case kCommonOffset: {
      const std::lock_guard lock(registers_mutex_);
      write_common(at, value, size_bytes);
      break;
    }
    case kDeviceOffset: device_.write_configuration(static_cast<uint32_t>(at), value, size_bytes); break;
    case kNotifyOffset: device_.notify(static_cast<unsigned>(at / kNotifyMultiplier)); break;
    default: break;
  }
}

uint64_t PciTransport::read_common(uint64_t offset) const {
  const QueueConfig queue = device_.queue_config(queue_select_);
  switch (offset) {
    case kDeviceFeatureSelect: return device_feature_select_;
    case kDeviceFeature:
      return device_feature_select_ < 2 ? device_.device_features() >> (32 * device_feature_select_) : 0;
    case kDriverFeatureSelect: return driver_feature_select_;
    case kDriverFeature:
      return driver_feature_select_ < 2 ? device_.driver_features() >> (32 * driver_feature_select_) : 0;
    case kConfigurationVector: return configuration_vector_;
    case kQueueCount: return device_.queue_count();
    case kDeviceStatus: return device_.status();
    case kConfigurationGeneration: return device_.configuration_generation();
    case kQueueSelect: return queue_select_;
    case kQueueSize: return queue.size;
    case kQueueVector: return device_.queue_vector(queue_select_);
    case kQueueEnable: return queue.enabled;
    case kQueueNotifyOffset: return queue_select_;
    case kQueueDescriptors: return queue.descriptors;
    case kQueueDescriptors + 4: return queue.descriptors >> 32;
    case kQueueDriver: return queue.driver;
    case kQueueDriver + 4: return queue.driver >> 32;
    case kQueueDevice: return queue.device;
    case kQueueDevice + 4: return queue.device >> 32;
    case kQueueNotifyData: return queue_select_;
    default: return 0;
  }
}

void PciTransport::write_common(uint64_t offset, uint64_t value, unsigned size_bytes) {
  const auto word = static_cast<uint32_t>(value & base::byte_mask(size_bytes));
  const auto vector = static_cast<uint16_t>(word < vectors_.size() ? word : kNoVector);
  switch (offset) {
    case kDeviceFeatureSelect: device_feature_select_ = word; break;
    case kDriverFeatureSelect: driver_feature_select_ = word; break;
    case kDriverFeature: device_.set_driver_features(driver_feature_select_, word); break;
    case kConfigurationVector: configuration_vector_ = vector; break;
    case kDeviceStatus:
      device_.set_status(static_cast<uint8_t>(word));
      if (word == 0) {
        configuration_vector_ = kNoVector;
        status_.set(0);
      }
      break;
    case kQueueSelect: queue_select_ = static_cast<uint16_t>(word); break;
    case kQueueSize: device_.set_queue_size(queue_select_, static_cast<uint16_t>(word)); break;
    case kQueueVector: device_.set_queue_vector(queue_select_, vector); break;
    case kQueueEnable:
      if (word == 1) device_.enable_queue(queue_select_);
      break;
    case kQueueReset:
      if (word == 1) device_.reset_queue(queue_select_);
      break;
    default:
      write_queue_field(offset, word);
      if (size_bytes == 8) write_queue_field(offset + 4, static_cast<uint32_t>(value >> 32));
      break;
  }
}

void PciTransport::write_queue_field(uint64_t offset, uint32_t value) {
  using Area = VirtioDevice::Area;
  switch (offset) {
    case kQueueDescriptors: device_.set_queue_area(queue_select_, Area::kDescriptors, false, value); break;
    case kQueueDescriptors + 4: device_.set_queue_area(queue_select_, Area::kDescriptors, true, value); break;
    case kQueueDriver: device_.set_queue_area(queue_select_, Area::kDriver, false, value); break;
    case kQueueDriver + 4: device_.set_queue_area(queue_select_, Area::kDriver, true, value); break;
    case kQueueDevice: device_.set_queue_area(queue_select_, Area::kDevice, false, value); break;
    case kQueueDevice + 4: device_.set_queue_area(queue_select_, Area::kDevice, true, value); break;
    default: break;
  }
}

// ---- access through configuration space [VIRTIO-1.2 4.1.4.9] ----

uint32_t PciTransport::config_read(uint16_t offset, unsigned size_bytes) {
  const auto data = static_cast<uint16_t>(window_capability_ + kWindowData);
  if (offset == data && config(static_cast<uint16_t>(window_capability_ + kWindowBar), 1) == 0) {
    const uint32_t at = config(static_cast<uint16_t>(window_capability_ + kWindowOffset), 4);
    const uint32_t length = config(static_cast<uint16_t>(window_capability_ + kWindowLength), 4);
    if (length == size_bytes && at <= kRegisterBarBytes - size_bytes && at % size_bytes == 0)
      return static_cast<uint32_t>(read(at, size_bytes));
  }
  return PciFunction::config_read(offset, size_bytes);
}

void PciTransport::on_config_written(uint16_t offset, unsigned size_bytes) {
  const auto data = static_cast<uint16_t>(window_capability_ + kWindowData);
  if (offset == data && config(static_cast<uint16_t>(window_capability_ + kWindowBar), 1) == 0) {
    const uint32_t at = config(static_cast<uint16_t>(window_capability_ + kWindowOffset), 4);
    const uint32_t length = config(static_cast<uint16_t>(window_capability_ + kWindowLength), 4);
    if (length == size_bytes && at <= kRegisterBarBytes - size_bytes && at % size_bytes == 0)
      write(at, config(data, size_bytes), size_bytes);
  }
  update_msix();
  update_bus_master();
  status_.refresh();
}

void PciTransport::update_msix() {
  const auto control = static_cast<uint16_t>(config(static_cast<uint16_t>(msix_capability_ + 2), 2));
  const std::lock_guard lock(msix_mutex_);
  msix_enabled_ = (control & kMsixEnable) != 0;
  msix_masked_ = (control & kMsixFunctionMask) != 0;
  send_pending_locked();
}

// Without that bit a function neither reads nor writes memory, which a message is, too. [PCI-3.0 6.2.2]
void PciTransport::update_bus_master() {
  const bool on = bus_master();
  {
    const std::lock_guard lock(msix_mutex_);
    if (bus_master_ == on) return;
    bus_master_ = on;
    send_pending_locked();
  }
  if (on)
    device_.release(VirtioDevice::Hold::kTransport);
  else
    device_.hold(VirtioDevice::Hold::kTransport);
}

// ---- MSI-X [PCI-3.0 6.8.2] ----

uint64_t PciTransport::read_table(uint64_t offset, unsigned size_bytes) {
  const std::lock_guard lock(msix_mutex_);
  if (offset >= kPendingOffset) {
    uint64_t bits = 0;
    const uint64_t first = (offset - kPendingOffset) * 8;
    for (unsigned bit = 0; bit < size_bytes * 8 && first + bit < vectors_.size(); ++bit)
      bits |= uint64_t{vectors_[first + bit].pending} << bit;
    return bits;
  }
  const uint64_t index = offset / kVectorBytes;
  if (index >= vectors_.size() || offset % 4 != 0 || size_bytes < 4) return 0;
  const uint64_t word = offset % kVectorBytes / 4;
  uint64_t value = vectors_[index].words[word];
  if (size_bytes == 8 && word < 3) value |= uint64_t{vectors_[index].words[word + 1]} << 32;
  return value;
}

void PciTransport::write_table(uint64_t offset, uint64_t value, unsigned size_bytes) {
  const std::lock_guard lock(msix_mutex_);
  const uint64_t index = offset / kVectorBytes;
  if (offset >= kPendingOffset || index >= vectors_.size() || offset % 4 != 0 || size_bytes < 4) return;
  const uint64_t word = offset % kVectorBytes / 4;
  vectors_[index].words[word] = static_cast<uint32_t>(value);
  if (size_bytes == 8 && word < 3) vectors_[index].words[word + 1] = static_cast<uint32_t>(value >> 32);
  send_pending_locked();
}

void PciTransport::send_pending_locked() {
  if (!msix_enabled_ || msix_masked_ || !bus_master_) return;
  for (Vector& vector : vectors_) {
    if (!vector.pending || (vector.words[3] & 1)) continue;
    vector.pending = false;
    send_msi({.address = vector.words[0] | uint64_t{vector.words[1]} << 32, .data = vector.words[2]});
  }
}

void PciTransport::send(uint16_t number) {
  const std::lock_guard lock(msix_mutex_);
  if (number >= vectors_.size()) return;
  vectors_[number].pending = true;
  send_pending_locked();
}

// With MSI-X the status tells of the configuration only. [VIRTIO-1.2 4.1.4.5.1]
void PciTransport::queue_interrupt(unsigned queue) {
  if (msix_enabled()) return send(device_.queue_vector(queue));
  status_.raise(InterruptStatus::kQueue);
}

void PciTransport::configuration_interrupt() {
  status_.raise(InterruptStatus::kConfiguration);
  if (msix_enabled()) send(configuration_vector_);
}

// ---- life ----

void PciTransport::reset() {
  device_.reset();
  PciFunction::reset();
  {
    const std::lock_guard lock(msix_mutex_);
    for (Vector& vector : vectors_) vector = {};
    msix_enabled_ = msix_masked_ = false;
  }
  update_bus_master();
  const std::lock_guard lock(registers_mutex_);
  device_feature_select_ = driver_feature_select_ = 0;
  queue_select_ = 0;
  configuration_vector_ = kNoVector;
  status_.set(0);
}

void PciTransport::save_state(state::StateWriter& writer) const {
  PciFunction::save_state(writer);
  writer.field("device_feature_select", device_feature_select_);
  writer.field("driver_feature_select", driver_feature_select_);
  writer.field("queue_select", queue_select_);
  writer.field("configuration_vector", configuration_vector_.load());
  writer.field("isr", status_.bits());
  std::vector<uint32_t> table;
  for (const Vector& vector : vectors_) {
    table.insert(table.end(), std::begin(vector.words), std::end(vector.words));
    table.push_back(vector.pending);
  }
  writer.field("msix", table);
  writer.section("device", 1, [&](state::StateWriter& section) { device_.save_state(section); });
}

Status PciTransport::load_state(state::StateReader& reader) {
  RHEA_TRY(PciFunction::load_state(reader));
  uint16_t vector = kNoVector;
  uint8_t isr = 0;
  std::vector<uint32_t> table;
  reader.field("device_feature_select", device_feature_select_);
  reader.field("driver_feature_select", driver_feature_select_);
  reader.field("queue_select", queue_select_);
  reader.field("configuration_vector", vector);
  reader.field("isr", isr);
  reader.field("msix", table);
  reader.validate(table.size() == vectors_.size() * 5, "has another number of interrupt vectors");
  RHEA_TRY(reader.status());
  configuration_vector_ = vector;
  {
    const std::lock_guard lock(msix_mutex_);
    for (size_t i = 0; i < vectors_.size(); ++i) {
      std::copy_n(table.begin() + static_cast<ptrdiff_t>(5 * i), 4, vectors_[i].words);
      vectors_[i].pending = table[5 * i + 4] != 0;
    }
  }
  update_msix();
  update_bus_master();
  status_.set(isr);
  Status status;
  reader.section("device", 1, [&](state::StateReader& section) { status = device_.load_state(section); });
  RHEA_TRY(std::move(status));
  return reader.status();
}

}  // namespace rhea::devices::virtio
