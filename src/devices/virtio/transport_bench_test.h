// SPDX-License-Identifier: Apache-2.0
// For tests: any virtio device behind either transport, with address spaces, an interrupt router that counts, and a
// driver.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "base/io_thread.h"
#include "devices/pci/pci_bus.h"
#include "devices/virtio/mmio_transport.h"
#include "devices/virtio/pci_transport.h"
#include "testing/device_harness.h"
#include "testing/guest_memory_fake.h"
#include "testing/virtio_driver.h"

namespace rhea::devices::virtio {

enum class TransportKind : uint8_t { kPci, kMmio };
inline constexpr uint64_t kTransportBase = 0xf0000000;

// What interrupts come to, from any thread.
class CountingSink final : public io::GsiSink, public io::MsiSink {
 public:
  explicit CountingSink(io::IrqRouter& router) {
    router.connect_gsi_sink(this);
    router.connect_msi_sink(this);
  }
  void set_gsi(unsigned, bool level) override {
    edges += level;
    line = level;
  }
  void deliver_msi(const io::MsiMessage& message) override {
    const std::lock_guard lock(mutex_);
    messages_.push_back(message.data);
  }
  std::vector<uint32_t> messages() {
    const std::lock_guard lock(mutex_);
    return messages_;
  }
  std::atomic<unsigned> edges{0};
  std::atomic<bool> line{false};

 private:
  std::mutex mutex_;
  std::vector<uint32_t> messages_;
};

// One device in one machine of its own, with RAM that outlives it or is shared with another.
class TransportBench {
 public:
  static constexpr uint64_t kRings = 0x100000;
  TransportBench(TransportKind kind, testing::FakeGuestMemory& memory, std::unique_ptr<VirtioDevice> device)
      : kind_(kind), memory_(memory) {
    if (kind == TransportKind::kPci) {
      auto pci = std::make_unique<PciTransport>(std::move(device));
      EXPECT_TRUE(bus_.add(*pci, 2, 0));
      outer_ = std::move(pci);
    } else {
      auto mmio = std::make_unique<MmioTransport>(std::move(device), io::IrqLine(&router, 5));
      physical.map(
          {.start = kTransportBase, .size_bytes = MmioTransport::kSizeBytes, .handler = mmio.get(), .name = "device"});
      outer_ = std::move(mmio);
    }
    connect();
  }

  // A new driver, as after a restart of the guest.
  void connect() {
    if (kind_ == TransportKind::kMmio) {
      driver_ = std::make_unique<testing::MmioVirtioDriver>(memory_, physical, kRings, kTransportBase);
      return;
    }
    testing::PciVirtioDriver::Config config{
        .read = [this](uint16_t offset, unsigned size) { return bus_.config_read(0, 2 << 3, offset, size); },
        .write = [this](uint16_t offset, uint32_t value,
                        unsigned size) { bus_.config_write(0, 2 << 3, offset, value, size); }};
    driver_ = std::make_unique<testing::PciVirtioDriver>(memory_, physical, kRings, std::move(config), kTransportBase);
  }

  testing::VirtioDriver& driver() { return *driver_; }
  testing::PciVirtioDriver& pci() { return static_cast<testing::PciVirtioDriver&>(*driver_); }
  io::Device& device() { return *outer_; }
  // The driver of a device whose state was loaded here takes over from that one's.
  void take_driver(TransportBench& from) { driver_->adopt(from.driver()); }

  // Waits for buffers to come back.
  std::vector<testing::VirtqueueDriver::Used> wait_used(unsigned queue, size_t count, int milliseconds = 5000) {
    std::vector<testing::VirtqueueDriver::Used> used;
    for (int i = 0; i < milliseconds; ++i) {
      for (const auto& one : driver_->queue(queue).collect()) used.push_back(one);
      if (used.size() >= count) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(used.size(), count);
    return used;
  }
  static bool eventually(const std::function<bool()>& condition, int milliseconds = 5000) {
    for (int i = 0; i < milliseconds; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return condition();
  }

  io::AddressSpace physical{"physical", uint64_t{1} << 40}, ports{"ports", 65536};
  io::IrqRouter router;
  CountingSink irqs{router};

 private:
  const TransportKind kind_;
  testing::FakeGuestMemory& memory_;
  PciBus bus_{{.memory = physical, .ports = ports, .router = router}};
  std::unique_ptr<io::Device> outer_;
  std::unique_ptr<testing::VirtioDriver> driver_;
};

// Parameters of a suite: the transport and the ring's format.
using TransportAndRing = std::tuple<TransportKind, bool>;
inline std::string transport_name(const ::testing::TestParamInfo<TransportAndRing>& info) {
  return std::string(std::get<0>(info.param) == TransportKind::kPci ? "Pci" : "Mmio") +
         (std::get<1>(info.param) ? "Packed" : "Split");
}
inline auto all_transports() {
  return ::testing::Combine(::testing::Values(TransportKind::kPci, TransportKind::kMmio), ::testing::Bool());
}

// The state of the bench's device goes to one made anew, which stands still: `build` replaces `bench`. The old one is
// reset before: nothing of it may be needed.
template <class Build>
void move_device(std::unique_ptr<TransportBench>& bench, const Build& build) {
  const auto state = testing::DeviceHarness::save(bench->device());
  const auto first = std::move(bench);
  first->device().reset();
  build();
  bench->device().quiesce();
  const Status loaded = testing::DeviceHarness::load(bench->device(), state);
  ASSERT_TRUE(loaded) << loaded.error().to_string();
  bench->take_driver(*first);
}

}  // namespace rhea::devices::virtio
