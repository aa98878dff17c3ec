// SPDX-License-Identifier: Apache-2.0
// Virtio over PCI, modern interface only: capabilities, common configuration, MSI-X. Spec: [VIRTIO-1.2 4.1],
// [PCI-3.0 6.8.2]. Not implemented: the transitional interface (drivers of the last ten years have the modern one).
// Threads: registers from vCPU threads; interrupts from any.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "devices/pci/pci_function.h"
#include "devices/virtio/interrupt_status.h"
#include "devices/virtio/virtio_device.h"

namespace rhea::devices::virtio {

class PciTransport final : public PciFunction, public Transport {
 public:
  enum class Place : uint8_t {
    kRootComplex,
    kPort
  };  // on bus 0, or in a slot of its own: then with PCI Express registers
  explicit PciTransport(std::unique_ptr<VirtioDevice> device, Place place = Place::kRootComplex);
  ~PciTransport() override;

  // PciFunction
  void reset() override;
  void quiesce() override { device_.quiesce(); }
  void resume() override { device_.resume(); }
  void save_state(state::StateWriter& writer) const override;
  Status load_state(state::StateReader& reader) override;
  uint32_t config_read(uint16_t offset, unsigned size_bytes) override;

  // Transport
  void queue_interrupt(unsigned queue) override;
  void configuration_interrupt() override;

 protected:
  void on_config_written(uint16_t offset, unsigned size_bytes) override;
  void on_upstream_changed() override { update_bus_master(); }

 private:
  // BAR 0: the registers that the capabilities point into. BAR 1: the MSI-X table and its pending bits.
  struct Registers final : io::IoHandler {
    explicit Registers(PciTransport& owner) : transport(owner) {}
    uint64_t io_read(uint64_t offset, unsigned size_bytes) override { return transport.read(offset, size_bytes); }
    void io_write(uint64_t offset, uint64_t value, unsigned size_bytes) override {
      transport.write(offset, value, size_bytes);
    }
    PciTransport& transport;
  };
  struct MsixTable final : io::IoHandler {
    explicit MsixTable(PciTransport& owner) : transport(owner) {}
    uint64_t io_read(uint64_t offset, unsigned size_bytes) override { return transport.read_table(offset, size_bytes); }
    void io_write(uint64_t offset, uint64_t value, unsigned size_bytes) override {
      transport.write_table(offset, value, size_bytes);
    }
    PciTransport& transport;
  };
  struct Vector {
    uint32_t words[4] = {0, 0, 0, 1};  // address low, high, data, control (bit 0: masked)
    bool pending = false;
  };

  static Identity identity_of(const VirtioDevice& device);
  void add_region(uint8_t type, uint32_t offset, uint32_t length, uint32_t multiplier = 0);
  void add_msix();
  void add_express();
  uint64_t read(uint64_t offset, unsigned size_bytes);
  void write(uint64_t offset, uint64_t value, unsigned size_bytes);
  uint64_t read_common(uint64_t offset) const;
  void write_common(uint64_t offset, uint64_t value, unsigned size_bytes);
  void write_queue_field(uint64_t offset, uint32_t value);
  uint64_t read_table(uint64_t offset, unsigned size_bytes);
  void write_table(uint64_t offset, uint64_t value, unsigned size_bytes);
  void send(uint16_t vector);
  void send_pending_locked();
  void update_msix();
  void update_bus_master();
  bool msix_enabled() const { return msix_enabled_.load(std::memory_order_relaxed); }

  const std::unique_ptr<VirtioDevice> owned_;
  VirtioDevice& device_;
  Registers registers_{*this};
  MsixTable table_{*this};
  uint16_t msix_capability_ = 0, window_capability_ = 0;

  // Written by the driver in the common configuration; vCPU threads.
  std::mutex registers_mutex_;
  uint32_t device_feature_select_ = 0, driver_feature_select_ = 0;
  uint16_t queue_select_ = 0;

  std::mutex msix_mutex_;  // the table; innermost but for the interrupt controllers'
  std::vector<Vector> vectors_;
  std::atomic<uint16_t> configuration_vector_{kNoVector};
  std::atomic<bool> msix_enabled_{false}, msix_masked_{false};
  bool bus_master_ = false;  // the device runs and sends messages only while the function may master the bus
  // MSI-X takes the place of the pin. [PCI-3.0 6.8.3.3]
  InterruptStatus status_{[this](bool level) { set_intx(level && !msix_enabled()); }};
};

}  // namespace rhea::devices::virtio
