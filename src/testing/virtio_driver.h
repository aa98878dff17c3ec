// SPDX-License-Identifier: Apache-2.0
// The driver's side of a virtio device, over either transport. Spec: [VIRTIO-1.2 3.1, 4.1, 4.2].
//
// It knows registers and rings, no device: what it does goes through address spaces and guest RAM, as a guest's
// accesses.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "io/address_space.h"
#include "testing/guest_memory_fake.h"
#include "testing/virtqueue_driver.h"

namespace rhea::testing {

class VirtioDriver {
 public:
  static constexpr uint8_t kAcknowledge = 1, kDriver = 2, kDriverOk = 4, kFeaturesOk = 8, kNeedsReset = 64;
  static constexpr uint64_t kVersion1 = uint64_t{1} << 32, kPacked = uint64_t{1} << 34;
  enum class Area : uint8_t { kDescriptors, kDriver, kDevice };

  // Rings are laid out from `rings` on, 64 KiB each.
  VirtioDriver(FakeGuestMemory& memory, io::AddressSpace& space, uint64_t rings)
      : memory_(memory), space_(space), rings_(rings) {}
  virtual ~VirtioDriver() = default;

  // --- registers ---
  virtual uint32_t device_id() = 0;
  virtual uint32_t device_features(unsigned word) = 0;
  virtual void set_driver_features(unsigned word, uint32_t value) = 0;
  virtual uint8_t status() = 0;
  virtual void set_status(uint8_t value) = 0;
  virtual uint16_t queue_maximum(unsigned queue) = 0;
  virtual void set_queue_size(unsigned queue, uint16_t size) = 0;
  virtual void set_queue_area(unsigned queue, Area area, uint64_t address) = 0;
  virtual bool queue_enabled(unsigned queue) = 0;
  virtual void enable_queue(unsigned queue) = 0;
  virtual void reset_queue(unsigned queue) = 0;
  virtual void notify(unsigned queue) = 0;  // also of queues that do not exist
  virtual uint8_t take_interrupt() = 0;     // the status, which is then zero
  virtual uint32_t generation() = 0;
  virtual uint64_t configuration_address() = 0;

  uint64_t read_configuration(uint64_t offset, unsigned size) {
    return space_.read(configuration_address() + offset, size);
  }
  void write_configuration(uint64_t offset, uint64_t value, unsigned size) {
    space_.write(configuration_address() + offset, value, size);
  }

  // --- what a driver does with them ---
  uint64_t offered() { return device_features(0) | uint64_t{device_features(1)} << 32; }
  // Up to FEATURES_OK; what the device says to that.
  bool negotiate(uint64_t features) {
    features |= kVersion1;
    features_ = features;
    set_status(0);
    set_status(kAcknowledge);
    set_status(kAcknowledge | kDriver);
    set_driver_features(0, static_cast<uint32_t>(features));
    set_driver_features(1, static_cast<uint32_t>(features >> 32));
    set_status(kAcknowledge | kDriver | kFeaturesOk);
    return status() & kFeaturesOk;
  }
  // Gives a queue new, empty rings.
  VirtqueueDriver& set_up_queue(unsigned queue, uint16_t size) {
    if (queues_.size() <= queue) queues_.resize(queue + 1);
    queues_[queue] =
        std::make_unique<VirtqueueDriver>(memory_, rings_ + 0x10000 * queue, size, (features_ & kPacked) != 0);
    set_queue_size(queue, size);
    set_queue_area(queue, Area::kDescriptors, queues_[queue]->descriptors());
    set_queue_area(queue, Area::kDriver, queues_[queue]->driver());
    set_queue_area(queue, Area::kDevice, queues_[queue]->device());
    enable_queue(queue);
    return *queues_[queue];
  }
  void driver_ok() { set_status(kAcknowledge | kDriver | kFeaturesOk | kDriverOk); }
  // All of it, with `count` queues.
  bool start(uint64_t features, unsigned count, uint16_t size) {
    if (!negotiate(features)) return false;
    for (unsigned queue = 0; queue < count; ++queue) set_up_queue(queue, size);
    driver_ok();
    return status() == (kAcknowledge | kDriver | kFeaturesOk | kDriverOk);
  }
  VirtqueueDriver& queue(unsigned index) { return *queues_[index]; }
  // Goes on where another driver of the same rings stood.
  void adopt(VirtioDriver& other) {
    features_ = other.features_;
    queues_ = std::move(other.queues_);
  }
  bool packed() const { return features_ & kPacked; }

 protected:
  uint64_t read(uint64_t address, unsigned size) { return space_.read(address, size); }
  void write(uint64_t address, uint64_t value, unsigned size) { space_.write(address, value, size); }

 private:
  FakeGuestMemory& memory_;
  io::AddressSpace& space_;
  const uint64_t rings_;
  uint64_t features_ = 0;
  std::vector<std::unique_ptr<VirtqueueDriver>> queues_;
};

// Over PCI. Finds its way by the capabilities, places BAR 0 and BAR 2 and switches decoding and bus mastering on.
class PciVirtioDriver final : public VirtioDriver {
 public:
  struct Config {  // configuration space of the function
    std::function<uint32_t(uint16_t offset, unsigned size)> read;
    std::function<void(uint16_t offset, uint32_t value, unsigned size)> write;
  };
  static constexpr uint64_t kMsixOffset = 0x10000;  // BAR 2 behind BAR 0

  PciVirtioDriver(FakeGuestMemory& memory, io::AddressSpace& space, uint64_t rings, Config config, uint64_t bar)
      : VirtioDriver(memory, space, rings), config_(std::move(config)), bar_(bar) {
    place();
    for (unsigned at = config_.read(0x34, 1); at != 0; at = config_.read(static_cast<uint16_t>(at + 1), 1)) {
      const uint32_t id = config_.read(static_cast<uint16_t>(at), 1);
      if (id == 0x11) msix_ = static_cast<uint16_t>(at);
      if (id != 0x09) continue;
      const uint64_t where = bar + config_.read(static_cast<uint16_t>(at + 8), 4);
      switch (config_.read(static_cast<uint16_t>(at + 3), 1)) {
        case 1: common_ = where; break;
        case 2:
          notify_ = where;
          multiplier_ = config_.read(static_cast<uint16_t>(at + 16), 4);
          break;
        case 3: isr_ = where; break;
        case 4: device_ = where; break;
        default: break;
      }
    }
  }
  void place() {
    config_.write(0x10, static_cast<uint32_t>(bar_), 4);
    config_.write(0x14, static_cast<uint32_t>(bar_ >> 32), 4);
    config_.write(0x18, static_cast<uint32_t>(bar_ + kMsixOffset), 4);
    set_command(kMemory | kMaster);
  }
  static constexpr uint16_t kMemory = 2, kMaster = 4;
  void set_command(uint16_t command) { config_.write(0x04, command, 2); }
  // MSI-X with vector i for queue i, the configuration's last; message i is `data + i`.
  void use_msix(unsigned queues, uint64_t address, uint32_t data) {
    config_.write(static_cast<uint16_t>(msix_ + 2), 0x8000, 2);
    for (unsigned i = 0; i <= queues; ++i) {
      const uint64_t entry = bar_ + kMsixOffset + 16 * i;
      write(entry, address, 4);
      write(entry + 4, address >> 32, 4);
      write(entry + 8, data + i, 4);
      write(entry + 12, 0, 4);
      if (i == queues) {
        write(common_ + 0x10, i, 2);
      } else {
        select(i);
        write(common_ + 0x1a, i, 2);
      }
    }
  }

  uint32_t device_id() override { return config_.read(2, 2) - 0x1040; }
  uint32_t device_features(unsigned word) override {
    write(common_ + 0x00, word, 4);
    return static_cast<uint32_t>(read(common_ + 0x04, 4));
  }
  void set_driver_features(unsigned word, uint32_t value) override {
    write(common_ + 0x08, word, 4);
    write(common_ + 0x0c, value, 4);
  }
  uint8_t status() override { return static_cast<uint8_t>(read(common_ + 0x14, 1)); }
  void set_status(uint8_t value) override { write(common_ + 0x14, value, 1); }
  uint16_t queue_maximum(unsigned queue) override {
    select(queue);
    return static_cast<uint16_t>(read(common_ + 0x18, 2));
  }
  void set_queue_size(unsigned queue, uint16_t size) override {
    select(queue);
    write(common_ + 0x18, size, 2);
  }
  void set_queue_area(unsigned queue, Area area, uint64_t address) override {
    select(queue);
    const uint64_t at = common_ + 0x20 + 8 * static_cast<uint64_t>(area);
    write(at, address, 4);
    write(at + 4, address >> 32, 4);
  }
  bool queue_enabled(unsigned queue) override {
    select(queue);
    return read(common_ + 0x1c, 2) == 1;
  }
  void enable_queue(unsigned queue) override {
    select(queue);
    write(common_ + 0x1c, 1, 2);
  }
  void reset_queue(unsigned queue) override {
    select(queue);
    write(common_ + 0x3a, 1, 2);
  }
  void notify(unsigned queue) override {
    select(queue);
    write(notify_ + multiplier_ * read(common_ + 0x1e, 2), queue, 2);
  }
  uint8_t take_interrupt() override { return static_cast<uint8_t>(read(isr_, 1)); }
  uint32_t generation() override { return static_cast<uint32_t>(read(common_ + 0x15, 1)); }
  uint64_t configuration_address() override { return device_; }
  uint64_t common_address() const { return common_; }

 private:
  void select(unsigned queue) { write(common_ + 0x16, queue, 2); }

  Config config_;
  const uint64_t bar_;
  uint16_t msix_ = 0;
  uint64_t common_ = 0, notify_ = 0, isr_ = 0, device_ = 0;
  uint32_t multiplier_ = 0;
};

// Over memory-mapped registers at `base`.
class MmioVirtioDriver final : public VirtioDriver {
 public:
  MmioVirtioDriver(FakeGuestMemory& memory, io::AddressSpace& space, uint64_t rings, uint64_t base)
      : VirtioDriver(memory, space, rings), base_(base) {}

  uint32_t get(uint64_t offset) { return static_cast<uint32_t>(read(base_ + offset, 4)); }
  void set(uint64_t offset, uint32_t value) { write(base_ + offset, value, 4); }

  uint32_t device_id() override { return get(0x008); }
  uint32_t device_features(unsigned word) override {
    set(0x014, word);
    return get(0x010);
  }
  void set_driver_features(unsigned word, uint32_t value) override {
    set(0x024, word);
    set(0x020, value);
  }
  uint8_t status() override { return static_cast<uint8_t>(get(0x070)); }
  void set_status(uint8_t value) override { set(0x070, value); }
  uint16_t queue_maximum(unsigned queue) override {
    set(0x030, queue);
    return static_cast<uint16_t>(get(0x034));
  }
  void set_queue_size(unsigned queue, uint16_t size) override {
    set(0x030, queue);
    set(0x038, size);
  }
  void set_queue_area(unsigned queue, Area area, uint64_t address) override {
    set(0x030, queue);
    const uint64_t at = 0x080 + 0x10 * static_cast<uint64_t>(area);
    set(at, static_cast<uint32_t>(address));
    set(at + 4, static_cast<uint32_t>(address >> 32));
  }
  bool queue_enabled(unsigned queue) override {
    set(0x030, queue);
    return get(0x044) == 1;
  }
  void enable_queue(unsigned queue) override {
    set(0x030, queue);
    set(0x044, 1);
  }
  void reset_queue(unsigned queue) override {
    set(0x030, queue);
    set(0x0c0, 1);
  }
  void notify(unsigned queue) override { set(0x050, queue); }
  uint8_t take_interrupt() override {
    const uint32_t bits = get(0x060);
    set(0x064, bits);
    return static_cast<uint8_t>(bits);
  }
  uint32_t generation() override { return get(0x0fc); }
  uint64_t configuration_address() override { return base_ + 0x100; }

 private:
  const uint64_t base_;
};

}  // namespace rhea::testing
