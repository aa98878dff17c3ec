// SPDX-License-Identifier: Apache-2.0
// The life of a virtio device, from reset to DRIVER_OK and back.
#include "devices/virtio/virtio_device.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices::virtio {
namespace {

constexpr uint64_t kRingFeatures =
    kFeatureIndirect | kFeatureEventIndex | kFeatureVersion1 | kFeaturePacked | kFeatureInOrder | kFeatureRingReset;

}  // namespace

VirtioDevice::VirtioDevice(Description description, memory::GuestMemory& memory)
    : description_(std::move(description)),
      memory_(memory),
      features_(description_.features | kRingFeatures),
      vectors_(new std::atomic<uint16_t>[description_.queue_sizes.size()]) {
  for (const uint16_t size : description_.queue_sizes) {
    QueueState& queue = queues_.emplace_back();
    queue.config = {.size = size, .maximum_size = size};
    queue.ring = std::make_unique<Queue>(memory_);
    vectors_[queues_.size() - 1] = kNoVector;
  }
}

VirtioDevice::~VirtioDevice() = default;

uint64_t VirtioDevice::driver_features() const {
  const std::lock_guard lock(mutex_);
  return accepted_;
}

void VirtioDevice::set_driver_features(unsigned word, uint32_t value) {
  const std::lock_guard lock(mutex_);
  if (word > 1 || (status_ & kStatusFeaturesOk)) return;
  const unsigned shift = 32 * word;
  accepted_ = (accepted_ & ~(uint64_t{0xffffffff} << shift)) | uint64_t{value} << shift;
}

uint8_t VirtioDevice::status() const { return status_; }

void VirtioDevice::set_status(uint8_t value) {
  const std::lock_guard lock(mutex_);
  if (value == 0) {
    stop_locked();
    accepted_ = 0;
    status_ = 0;
    for (QueueState& queue : queues_)
      queue.config = {.size = queue.config.maximum_size, .maximum_size = queue.config.maximum_size};
    for (size_t i = 0; i < queues_.size(); ++i) vectors_[i] = kNoVector;
    return;
  }
  // The driver sets bits one after the other and never clears one; NEEDS_RESET is ours. [VIRTIO-1.2 2.1.1]
  uint8_t next = static_cast<uint8_t>(status_ | (value & ~kStatusNeedsReset));
  if ((next & ~status_) & kStatusFeaturesOk) {
    const bool acceptable = (accepted_ & ~features_) == 0 && (accepted_ & kFeatureVersion1);
    if (!acceptable) next &= static_cast<uint8_t>(~kStatusFeaturesOk);
  }
  const bool starts = (next & ~status_) & kStatusDriverOk && (next & kStatusFeaturesOk);
  status_ = next;
  if (starts) start_locked();
}

void VirtioDevice::start_locked() {
  for (QueueState& queue : queues_) {
    if (!queue.config.enabled) continue;
    if (!queue.ring->start(queue.config, accepted_)) {
      status_ |= kStatusNeedsReset;
      if (transport_) transport_->configuration_interrupt();
    }
  }
  running_ = true;
  activate_locked();
}

void VirtioDevice::stop_locked() {
  if (!std::exchange(running_, false)) return;
  if (active_.exchange(false)) on_stop();
  on_reset();
  for (QueueState& queue : queues_) queue.ring->stop();
}

void VirtioDevice::activate_locked() {
  if (!running_ || holds_ != 0 || active_.exchange(true)) return;
  on_start();
}

void VirtioDevice::hold(Hold reason) {
  const std::lock_guard lock(mutex_);
  holds_ |= static_cast<uint8_t>(reason);
  if (active_.exchange(false)) on_stop();
}

void VirtioDevice::release(Hold reason) {
  const std::lock_guard lock(mutex_);
  holds_ &= static_cast<uint8_t>(~static_cast<uint8_t>(reason));
  activate_locked();
}

QueueConfig VirtioDevice::queue_config(unsigned queue) const {
  const std::lock_guard lock(mutex_);
  return queue < queues_.size() ? queues_[queue].config : QueueConfig{};
}

void VirtioDevice::set_queue_size(unsigned queue, uint16_t size) {
  const std::lock_guard lock(mutex_);
  if (changeable(queue) && size != 0 && size <= queues_[queue].config.maximum_size) queues_[queue].config.size = size;
}

void VirtioDevice::set_queue_vector(unsigned queue, uint16_t vector) {
  if (queue < queues_.size()) vectors_[queue] = vector;
}

uint16_t VirtioDevice::queue_vector(unsigned queue) const {
  return queue < queues_.size() ? vectors_[queue].load() : kNoVector;
}

void VirtioDevice::set_queue_area(unsigned queue, Area area, bool high, uint32_t value) {
  const std::lock_guard lock(mutex_);
  if (!changeable(queue)) return;
  QueueConfig& config = queues_[queue].config;
  uint64_t& address = area == Area::kDescriptors ? config.descriptors
                      : area == Area::kDriver    ? config.driver
                                                 : config.device;
  address = high ? (address & 0xffffffff) | uint64_t{value} << 32 : (address & ~uint64_t{0xffffffff}) | value;
}

void VirtioDevice::enable_queue(unsigned queue) {
  const std::lock_guard lock(mutex_);
  if (!changeable(queue)) return;
  QueueState& state = queues_[queue];
  state.config.enabled = true;
  if (!running_) return;  // it starts with the device
  if (!state.ring->start(state.config, accepted_)) {
    status_ |= kStatusNeedsReset;
    if (transport_) transport_->configuration_interrupt();
    return;
  }
  if (active_) on_queue_started(queue);  // otherwise it starts with the others
}

void VirtioDevice::stop_queue_locked(unsigned queue) {
  QueueState& state = queues_[queue];
  if (running_ && state.config.enabled) on_queue_stopped(queue);
  state.ring->stop();
  state.config.enabled = false;
}

void VirtioDevice::disable_queue(unsigned queue) {
  const std::lock_guard lock(mutex_);
  if (queue < queues_.size()) stop_queue_locked(queue);
}

void VirtioDevice::reset_queue(unsigned queue) {
  const std::lock_guard lock(mutex_);
  if (queue >= queues_.size() || !negotiated(kFeatureRingReset)) return;
  QueueState& state = queues_[queue];
  stop_queue_locked(queue);
  state.config = {.size = state.config.maximum_size, .maximum_size = state.config.maximum_size};
}

void VirtioDevice::notify(unsigned queue) {
  if (active_ && queue < queues_.size()) on_notify(queue);
}

uint64_t VirtioDevice::read_configuration(uint32_t offset, unsigned size_bytes) {
  const std::lock_guard lock(mutex_);
  std::vector<std::byte> bytes(description_.configuration_bytes + size_t{8});
  fill_configuration(std::span(bytes).first(description_.configuration_bytes));
  uint64_t value = 0;
  if (offset < description_.configuration_bytes) std::memcpy(&value, bytes.data() + offset, size_bytes);
  return value;
}

void VirtioDevice::write_configuration(uint32_t offset, uint64_t value, unsigned size_bytes) {
  const std::lock_guard lock(mutex_);
  if (offset >= description_.configuration_bytes || size_bytes > description_.configuration_bytes - offset) return;
  on_configuration_written(offset, std::as_bytes(std::span(&value, 1)).first(size_bytes));
}

void VirtioDevice::signal(unsigned queue) {
  if (queues_[queue].ring->wants_interrupt() && transport_) transport_->queue_interrupt(queue);
}

void VirtioDevice::configuration_changed() {
  ++generation_;
  if ((status_ & kStatusDriverOk) && transport_) transport_->configuration_interrupt();
}

void VirtioDevice::needs_reset() {
  if (status_.fetch_or(kStatusNeedsReset) & kStatusNeedsReset) return;
  if (transport_) transport_->configuration_interrupt();
}

void VirtioDevice::save_state(state::StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  writer.field("features", accepted_);
  writer.field("status", status_.load());
  writer.field("generation", generation_.load());
  for (size_t i = 0; i < queues_.size(); ++i) {
    writer.section("queue" + std::to_string(i), 1, [&](state::StateWriter& section) {
      QueueConfig::describe(section, queues_[i].config);
      section.field("vector", vectors_[i].load());
      queues_[i].ring->save(section);
    });
  }
  save_device(writer);
}

Status VirtioDevice::load_state(state::StateReader& reader) {
  const std::lock_guard lock(mutex_);
  stop_locked();
  uint8_t status = 0;
  uint32_t generation = 0;
  uint64_t accepted = 0;
  reader.field("features", accepted);
  reader.field("status", status);
  reader.field("generation", generation);
  reader.validate((accepted & ~features_) == 0, "a feature was negotiated that is not offered here");
  for (size_t i = 0; i < queues_.size(); ++i) {
    reader.section("queue" + std::to_string(i), 1, [&](state::StateReader& section) {
      uint16_t vector = kNoVector;
      QueueConfig::describe(section, queues_[i].config);
      section.field("vector", vector);
      section.validate(queues_[i].config.size <= queues_[i].config.maximum_size, "is larger than the queue may be");
      queues_[i].ring->load(section);
      vectors_[i] = vector;
    });
  }
  load_device(reader);
  RHEA_TRY(reader.status());
  accepted_ = accepted;
  generation_ = generation;
  status_ = status;
  if ((status & kStatusDriverOk) == 0) return {};
  for (QueueState& queue : queues_)
    if (queue.config.enabled) RHEA_TRY(queue.ring->resume(queue.config, accepted_));
  running_ = true;
  activate_locked();
  return {};
}

}  // namespace rhea::devices::virtio
