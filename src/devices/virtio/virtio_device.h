// SPDX-License-Identifier: Apache-2.0
// What all virtio devices share: status, feature negotiation, queues, configuration. Spec: [VIRTIO-1.2 2, 3].
//
// A transport (PCI, MMIO) is the driver's side of this class: it calls the functions of the first group from vCPU
// threads, one at a time (this class locks). A device type derives from it and works on its queues on a thread of its
// own choice, between on_start() and on_stop().
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "devices/virtio/queue.h"
#include "devices/virtio/virtio_regs.h"
#include "io/device.h"
#include "memory/guest_memory.h"

namespace rhea::devices::virtio {

// How a device reaches its driver. Any thread.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual void queue_interrupt(unsigned queue) = 0;
  virtual void configuration_interrupt() = 0;
};

class VirtioDevice : public io::Device {
 public:
  struct Description {
    std::string name;  // of the instance: its section in saved state
    DeviceType type{};
    uint64_t features = 0;  // of its type; those of the ring are added here
    std::vector<uint16_t> queue_sizes;
    uint32_t configuration_bytes = 0;
  };
  VirtioDevice(Description description, memory::GuestMemory& memory);
  ~VirtioDevice() override;

  // --- the transport's side ---
  void set_transport(Transport* transport) { transport_ = transport; }
  DeviceType type() const { return description_.type; }
  unsigned queue_count() const { return static_cast<unsigned>(queues_.size()); }
  uint32_t configuration_bytes() const { return description_.configuration_bytes; }
  uint64_t device_features() const { return features_; }
  uint64_t driver_features() const;
  void set_driver_features(unsigned word, uint32_t value);  // before FEATURES_OK
  uint8_t status() const;
  void set_status(uint8_t value);                  // 0 resets; returns when the device has stopped
  QueueConfig queue_config(unsigned queue) const;  // all zero for a queue that does not exist
  // Changes to a queue's configuration; ignored once it is enabled (the vector may always change).
  void set_queue_size(unsigned queue, uint16_t size);
  void set_queue_vector(unsigned queue, uint16_t vector);
  uint16_t queue_vector(unsigned queue) const;  // any thread, without a lock
  enum class Area : uint8_t { kDescriptors, kDriver, kDevice };
  void set_queue_area(unsigned queue, Area area, bool high, uint32_t value);
  void enable_queue(unsigned queue);
  void disable_queue(unsigned queue);  // its configuration stays, and may be changed [VIRTIO-1.2 4.2.2.2]
  void reset_queue(unsigned queue);    // [VIRTIO-1.2 2.6.1]
  void notify(unsigned queue);
  // Device-specific configuration: little-endian, sizes 1-8; beyond its end reads zero, writes are ignored.
  uint64_t read_configuration(uint32_t offset, unsigned size_bytes);
  void write_configuration(uint32_t offset, uint64_t value, unsigned size_bytes);
  // While one of these holds it, a device leaves its queues alone; what is in flight is finished before hold() returns.
  // Any thread but the device's own.
  enum class Hold : uint8_t { kTransport = 1, kSave = 2 };  // it may not reach memory; its state is saved or loaded
  void hold(Hold reason);
  void release(Hold reason);
  uint32_t configuration_generation() const { return generation_; }

  // --- io::Device ---
  std::string_view name() const override { return description_.name; }
  void reset() override { set_status(0); }
  void quiesce() override { hold(Hold::kSave); }
  void resume() override { release(Hold::kSave); }
  void save_state(state::StateWriter& writer) const override;  // quiesced, while the vCPUs stand
  Status load_state(state::StateReader& reader) override;

 protected:
  // --- for device types ---
  Queue& queue(unsigned index) { return *queues_[index].ring; }
  bool negotiated(uint64_t feature) const { return (accepted_ & feature) == feature; }
  memory::GuestMemory& memory() const { return memory_; }
  // After push(): interrupts if the driver wants it. On the thread that owns the queue.
  void signal(unsigned queue);
  void configuration_changed();
  // A queue found nonsense: the device stands until the driver resets it. [VIRTIO-1.2 2.1.2] Any thread.
  void needs_reset();

  // Called with the device's lock held, on the thread that wrote the status (or loads state).
  virtual void on_start() = 0;                // enabled queues run: from DRIVER_OK on, and after each stop
  virtual void on_stop() = 0;                 // after it returns no queue is touched and no buffer is written or read
  virtual void on_reset() {}                  // after a stop: buffers taken and not given back are the driver's again
  virtual void on_queue_started(unsigned) {}  // a queue enabled again after a reset of its own
  virtual void on_queue_stopped(unsigned) {}  // as on_stop(), for one queue
  // No lock held; any vCPU thread.
  virtual void on_notify(unsigned queue) = 0;
  virtual void fill_configuration(std::span<std::byte> out) = 0;
  virtual void on_configuration_written(uint32_t, std::span<const std::byte>) {}
  // With what was taken from the queues and not given back, in the order of taking (SavedChain).
  virtual void save_device(state::StateWriter&) const {}
  virtual void load_device(state::StateReader&) {}

 private:
  struct QueueState {
    QueueConfig config;
    std::unique_ptr<Queue> ring;
  };
  void stop_locked();
  void start_locked();
  void activate_locked();
  void stop_queue_locked(unsigned queue);
  bool changeable(unsigned queue) const { return queue < queues_.size() && !queues_[queue].config.enabled; }

  const Description description_;
  memory::GuestMemory& memory_;
  const uint64_t features_;
  Transport* transport_ = nullptr;
  mutable std::mutex mutex_;
  std::vector<QueueState> queues_;
  std::unique_ptr<std::atomic<uint16_t>[]> vectors_;
  uint64_t accepted_ = 0;
  std::atomic<uint8_t> status_{0};
  bool running_ = false;             // from DRIVER_OK to the reset
  uint8_t holds_ = 0;                // of Hold
  std::atomic<bool> active_{false};  // running and not held
  std::atomic<uint32_t> generation_{0};
};

}  // namespace rhea::devices::virtio
