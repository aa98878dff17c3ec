// SPDX-License-Identifier: Apache-2.0
// Drives any virtio device as a hostile driver does: buffers of all shapes, rings scribbled over, registers and
// configuration at any moment, resets, saved state loaded whole and damaged; over either transport, with either ring.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "devices/virtio/transport_bench_test.h"
#include "testing/device_fuzz.h"

namespace rhea::devices::virtio {

struct FuzzedDevice {
  std::function<std::unique_ptr<VirtioDevice>(memory::GuestMemory&, base::IoThread&)> create;
  unsigned queues = 1;
  // Bytes that begin a request as the device knows them; some inputs take these instead of their own.
  std::vector<std::vector<uint8_t>> requests = {};
  // What comes from the host's side: input, a frame, a resize.
  std::function<void(testing::FuzzInput&)> event = [](testing::FuzzInput&) {};
};

class VirtioFuzz {
 public:
  static constexpr uint64_t kRam = 2 << 20, kBuffers = 0x20000;

  VirtioFuzz(const FuzzedDevice& device, base::IoThread& thread, testing::FuzzInput input)
      : device_(device),
        thread_(thread),
        in_(input),
        bench_(in_.take<uint8_t>() % 2 ? TransportKind::kPci : TransportKind::kMmio, memory_,
               device.create(memory_.get(), thread)) {}

  void run() {
    if (in_.take<uint8_t>() % 8) start();
    for (unsigned steps = 0; !in_.empty() && steps < 300; ++steps) step();
    bench_.device().reset();
    settle();
  }

 private:
  testing::VirtioDriver& driver() { return bench_.driver(); }
  void settle() {
    thread_.run_sync([] {});
  }
  void start() {
    const uint64_t refused = in_.take<uint8_t>() % 4 ? 0 : in_.take<uint64_t>();
    const bool packed = in_.take<uint8_t>() % 2;
    const uint64_t format = packed ? 0 : testing::VirtioDriver::kPacked;
    started_ = driver().start(driver().offered() & ~format & ~refused, device_.queues, 16);
  }

  // A buffer that a driver might give: what is read, then what is written.
  void add() {
    const unsigned queue = in_.take<uint8_t>() % device_.queues;
    if (!started_) return;
    (void)driver().queue(queue).collect();
    if (driver().queue(queue).free() < 8) renew(queue);
    const auto shape = in_.take<uint8_t>();
    std::vector<testing::VirtqueueDriver::Buffer> buffers;
    uint64_t at = kBuffers + 0x4000 * queue;
    if (!device_.requests.empty() && shape & 1) {
      const auto& bytes = device_.requests[in_.take<uint8_t>() % device_.requests.size()];
      memory_.write_bytes(at, bytes);
      buffers.push_back({at, static_cast<uint32_t>(bytes.size())});
      at += bytes.size();
    }
    for (unsigned i = 0; i < (shape >> 1 & 3); ++i) {
      const uint32_t length = in_.take<uint16_t>() % 0x600;
      memory_.write<uint64_t>(at, in_.take<uint64_t>());
      memory_.write<uint64_t>(at + 8, in_.take<uint64_t>());
      buffers.push_back({at, length});
      at += length;
    }
    for (unsigned i = 0; i < (shape >> 3 & 3); ++i) {
      const uint32_t length = shape & 0x20 ? in_.take<uint16_t>() % 0x800 : 512u << (in_.take<uint8_t>() % 3);
      buffers.push_back({at, length, true});
      at += length;
    }
    if (shape & 0x40) buffers.push_back({at, 1, true});
    if (buffers.empty()) buffers.push_back({at, 0});
    if (in_.take<uint8_t>() % 16 == 0) buffers.back().address = in_.take<uint64_t>();
    driver().queue(queue).add(buffers, shape & 0x80 ? std::optional<uint64_t>(0x1f000) : std::nullopt);
    driver().notify(queue);
    settle();
    (void)driver().take_interrupt();
  }

  void scribble() {
    const uint64_t rings = TransportBench::kRings + 0x10000 * (in_.take<uint8_t>() % device_.queues);
    constexpr uint64_t kAreas[] = {0, 0x8000, 0xc000};
    const uint64_t at = rings + kAreas[in_.take<uint8_t>() % 3] + in_.take<uint8_t>() * 2;
    if (at + 8 > kRam) return;
    if (in_.take<uint8_t>() % 2)
      memory_.write<uint16_t>(at, in_.take<uint16_t>());
    else
      memory_.write<uint64_t>(at, in_.take<uint64_t>());
  }

  void state() {
    bench_.device().quiesce();
    if (in_.take<uint8_t>() % 4) {
      const auto saved = testing::DeviceHarness::save(bench_.device());
      if (!testing::DeviceHarness::load(bench_.device(), saved)) started_ = false;
    } else {
      testing::fuzz_damaged_load(bench_.device(), in_);
    }
    bench_.device().resume();
    settle();
  }

  void registers() {
    const uint64_t at = kTransportBase + in_.take<uint16_t>() % 0x4000;
    const unsigned size = 1u << (in_.take<uint8_t>() % 4);
    const uint64_t aligned = at & ~uint64_t{size - 1};
    if (in_.take<uint8_t>() % 2)
      bench_.physical.write(aligned, in_.take<uint64_t>(), size);
    else
      (void)bench_.physical.read(aligned, size);
    settle();
  }

  void step() {
    switch (in_.take<uint8_t>() % 16) {
      case 0 ... 5: add(); break;
      case 6: scribble(); break;
      case 7:
        driver().notify(in_.take<uint8_t>() % (device_.queues + 1));
        settle();
        break;
      case 8: registers(); break;
      case 9:
        driver().write_configuration(in_.take<uint8_t>(), in_.take<uint64_t>(), 1u << (in_.take<uint8_t>() % 4));
        (void)driver().read_configuration(in_.take<uint8_t>(), 4);
        break;
      case 10: driver().reset_queue(in_.take<uint8_t>() % device_.queues); break;
      case 11: state(); break;
      case 12:
        if (in_.take<uint8_t>() % 4 == 0) start();
        break;
      case 13:
        for (unsigned queue = 0; started_ && queue < device_.queues; ++queue) renew(queue);
        break;
      default:
        device_.event(in_);
        settle();
        break;
    }
  }

  void renew(unsigned queue) {
    driver().reset_queue(queue);
    driver().set_up_queue(queue, 16);
  }

  const FuzzedDevice& device_;
  base::IoThread& thread_;
  testing::FuzzInput in_;
  testing::FakeGuestMemory memory_{kRam};
  TransportBench bench_;
  bool started_ = false;
};

inline int fuzz_virtio(const FuzzedDevice& device, const uint8_t* data, size_t size) {
  static base::IoThread* const thread = base::IoThread::create("fuzz-io")->release();
  VirtioFuzz(device, *thread, testing::FuzzInput(data, size)).run();
  return 0;
}

}  // namespace rhea::devices::virtio
