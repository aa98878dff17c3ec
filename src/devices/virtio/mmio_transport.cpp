// SPDX-License-Identifier: Apache-2.0
// The registers of virtio over MMIO.
#include "devices/virtio/mmio_transport.h"

#include "base/numeric.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices::virtio {
namespace {

// [VIRTIO-1.2 4.2.2]
enum Register : uint64_t {
  kMagicValue = 0x000,
  kVersion = 0x004,
  kDeviceId = 0x008,
  kVendorId = 0x00c,
  kDeviceFeatures = 0x010,
  kDeviceFeaturesSel = 0x014,
  kDriverFeatures = 0x020,
  kDriverFeaturesSel = 0x024,
  kQueueSel = 0x030,
  kQueueNumMax = 0x034,
  kQueueNum = 0x038,
  kQueueReady = 0x044,
  kQueueNotify = 0x050,
  kInterruptStatus = 0x060,
  kInterruptAck = 0x064,
  kStatus = 0x070,
  kQueueDesc = 0x080,
  kQueueDriver = 0x090,
  kQueueDevice = 0x0a0,
  kShmLengthLow = 0x0b0,
  kShmBaseHigh = 0x0bc,
  kQueueReset = 0x0c0,
  kConfigGeneration = 0x0fc,
  kConfig = 0x100,
};

constexpr uint32_t kMagic = 0x74726976;   // "virt"
constexpr uint32_t kVendor = 0x41454852;  // "RHEA"
constexpr uint32_t kModernVersion = 2;

}  // namespace

MmioTransport::MmioTransport(std::unique_ptr<VirtioDevice> device, io::IrqLine line)
    : device_(std::move(device)), line_(line) {
  device_->set_transport(this);
}

// The device stops before what it signals through goes.
MmioTransport::~MmioTransport() {
  device_->reset();
  device_->set_transport(nullptr);
  line_.set(false);
}

// A driver without ACPI may have the line edge-triggered: each event is an edge of its own, and so is what an
// acknowledgement leaves over. To level-triggered inputs that makes no difference.
void MmioTransport::set_line(bool level) {
  if (level) line_.set(false);
  line_.set(level);
}

uint64_t MmioTransport::io_read(uint64_t offset, unsigned size_bytes) {
  if (offset >= kConfig) return device_->read_configuration(static_cast<uint32_t>(offset - kConfig), size_bytes);
  if (size_bytes != 4 || offset % 4 != 0) return 0;  // [VIRTIO-1.2 4.2.2.2]
  const std::lock_guard lock(mutex_);
  return read_register(offset);
}

void MmioTransport::io_write(uint64_t offset, uint64_t value, unsigned size_bytes) {
  if (offset >= kConfig)
    return device_->write_configuration(static_cast<uint32_t>(offset - kConfig), value, size_bytes);
  if (size_bytes != 4 || offset % 4 != 0) return;
  const auto word = static_cast<uint32_t>(value);
  // Neither waits for another vCPU that, say, resets the device.
  if (offset == kQueueNotify) return device_->notify(word);
  if (offset == kInterruptAck) return status_.acknowledge(static_cast<uint8_t>(word));
  const std::lock_guard lock(mutex_);
  write_register(offset, word);
}

uint32_t MmioTransport::read_register(uint64_t offset) const {
  switch (offset) {
    case kMagicValue: return kMagic;
    case kVersion: return kModernVersion;
    case kDeviceId: return static_cast<uint32_t>(device_->type());
    case kVendorId: return kVendor;
    case kDeviceFeatures:
      return device_feature_select_ < 2
                 ? static_cast<uint32_t>(device_->device_features() >> (32 * device_feature_select_))
                 : 0;
    case kQueueNumMax: return device_->queue_config(queue_select_).maximum_size;
    case kQueueReady: return device_->queue_config(queue_select_).enabled;
    case kInterruptStatus: return status_.bits();
    case kStatus: return device_->status();
    case kShmLengthLow ... kShmBaseHigh: return 0xffffffff;  // there is no such region
    case kConfigGeneration: return device_->configuration_generation();
    default: return 0;
  }
}

void MmioTransport::write_register(uint64_t offset, uint32_t value) {
  switch (offset) {
    case kDeviceFeaturesSel: device_feature_select_ = value; break;
    case kDriverFeaturesSel: driver_feature_select_ = value; break;
    case kDriverFeatures: device_->set_driver_features(driver_feature_select_, value); break;
    case kQueueSel: queue_select_ = value; break;
    case kQueueNum:
      if (value <= kMaximumQueueSize) device_->set_queue_size(queue_select_, static_cast<uint16_t>(value));
      break;
    case kQueueReady:
      if (value == 1) device_->enable_queue(queue_select_);
      if (value == 0) device_->disable_queue(queue_select_);
      break;
    case kQueueReset:
      if (value == 1) device_->reset_queue(queue_select_);
      break;
    case kStatus:
      device_->set_status(static_cast<uint8_t>(value));
      if (value == 0) status_.set(0);
      break;
    default: write_queue_register(offset, value); break;
  }
}

void MmioTransport::write_queue_register(uint64_t offset, uint32_t value) {
  using Area = VirtioDevice::Area;
  const bool high = offset % 8 != 0;
  switch (offset & ~uint64_t{7}) {
    case kQueueDesc: device_->set_queue_area(queue_select_, Area::kDescriptors, high, value); break;
    case kQueueDriver: device_->set_queue_area(queue_select_, Area::kDriver, high, value); break;
    case kQueueDevice: device_->set_queue_area(queue_select_, Area::kDevice, high, value); break;
    default: break;
  }
}

void MmioTransport::queue_interrupt(unsigned) { status_.raise(InterruptStatus::kQueue); }
void MmioTransport::configuration_interrupt() { status_.raise(InterruptStatus::kConfiguration); }

// ---- life ----

void MmioTransport::reset() {
  device_->reset();
  const std::lock_guard lock(mutex_);
  device_feature_select_ = driver_feature_select_ = queue_select_ = 0;
  status_.set(0);
}

void MmioTransport::save_state(state::StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  writer.field("device_feature_select", device_feature_select_);
  writer.field("driver_feature_select", driver_feature_select_);
  writer.field("queue_select", queue_select_);
  writer.field("interrupt_status", status_.bits());
  writer.section("device", 1, [&](state::StateWriter& section) { device_->save_state(section); });
}

Status MmioTransport::load_state(state::StateReader& reader) {
  uint8_t interrupt_status = 0;
  Status status;
  {
    const std::lock_guard lock(mutex_);
    reader.field("device_feature_select", device_feature_select_);
    reader.field("driver_feature_select", driver_feature_select_);
    reader.field("queue_select", queue_select_);
    reader.field("interrupt_status", interrupt_status);
    RHEA_TRY(reader.status());
  }
  status_.set(interrupt_status);
  reader.section("device", 1, [&](state::StateReader& section) { status = device_->load_state(section); });
  RHEA_TRY(std::move(status));
  return reader.status();
}

}  // namespace rhea::devices::virtio
