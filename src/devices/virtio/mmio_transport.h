// SPDX-License-Identifier: Apache-2.0
// Virtio over memory-mapped registers, for guests without PCI. Spec: [VIRTIO-1.2 4.2].
// Not implemented: the legacy interface (version 1), shared memory regions (no device here has any).
// Threads: registers from vCPU threads; interrupts from any.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>

#include "devices/virtio/interrupt_status.h"
#include "devices/virtio/virtio_device.h"
#include "io/address_space.h"
#include "io/irq.h"

namespace rhea::devices::virtio {

class MmioTransport final : public io::Device, public io::IoHandler, public Transport {
 public:
  static constexpr uint64_t kSizeBytes = 0x1000;

  MmioTransport(std::unique_ptr<VirtioDevice> device, io::IrqLine line);
  ~MmioTransport() override;

  // io::Device
  std::string_view name() const override { return device_->name(); }
  void reset() override;
  void quiesce() override { device_->quiesce(); }
  void resume() override { device_->resume(); }
  void save_state(state::StateWriter& writer) const override;
  Status load_state(state::StateReader& reader) override;

  // io::IoHandler
  uint64_t io_read(uint64_t offset, unsigned size_bytes) override;
  void io_write(uint64_t offset, uint64_t value, unsigned size_bytes) override;

  // Transport
  void queue_interrupt(unsigned queue) override;
  void configuration_interrupt() override;

 private:
  uint32_t read_register(uint64_t offset) const;
  void write_register(uint64_t offset, uint32_t value);
  void write_queue_register(uint64_t offset, uint32_t value);
  void set_line(bool level);

  const std::unique_ptr<VirtioDevice> device_;
  io::IrqLine line_;
  mutable std::mutex mutex_;  // the selectors
  uint32_t device_feature_select_ = 0, driver_feature_select_ = 0, queue_select_ = 0;
  InterruptStatus status_{[this](bool level) { set_line(level); }};
};

}  // namespace rhea::devices::virtio
