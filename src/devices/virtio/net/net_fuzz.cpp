// SPDX-License-Identifier: Apache-2.0
// A network card whose driver sends any header, any frame and any command, offers any buffers, and stops and starts it;
// frames with any offload come in meanwhile.
#include <cstring>

#include "devices/virtio/net/net.h"
#include "devices/virtio/net/net_wire.h"
#include "testing/virtqueue_driver.h"

namespace {

using namespace rhea;
using namespace rhea::devices::virtio;
using rhea::net::FrameOffload;
using rhea::net::Offloads;

constexpr uint64_t kRam = 1 << 20, kBuffers = 0x80000, kBufferBytes = 0x40000;
constexpr unsigned kPairs = 2;

struct Input {
  const uint8_t* data;
  size_t left;
  uint64_t take(unsigned bytes) {
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes && left; ++i, --left) value = value << 8 | *data++;
    return value;
  }
};

class StrictNetwork final : public rhea::net::Network {
 public:
  StrictNetwork(Offloads takes, Receiver& receiver) : takes_(takes), receiver_(receiver) {}
  Offloads sends() const override { return takes_; }
  void set_receiver(Receiver receiver) override { receiver_ = std::move(receiver); }
  void send(std::span<const std::byte> frame, const FrameOffload& offload) override {
    if (frame.size() < rhea::net::kMinimumFrameBytes || frame.size() > rhea::net::kMaximumFrameBytes) __builtin_trap();
    if (!takes_.takes(offload) || (offload.needs_checksum() && !takes_.checksum)) __builtin_trap();
    if (offload.needs_checksum() && size_t{offload.checksum_start} + offload.checksum_offset + 2 > frame.size())
      __builtin_trap();
  }

 private:
  Offloads takes_;
  Receiver& receiver_;
};

class Driver {
 public:
  Driver(testing::FakeGuestMemory& memory, Net& net, Input& in) : memory_(memory), net_(net), in_(in) {}

  void start() {
    const bool packed = in_.take(1) & 1;
    const uint64_t features =
        (in_.take(8) & net_.device_features() & ~kFeaturePacked) | kFeatureVersion1 | (packed ? kFeaturePacked : 0);
    net_.set_status(0);
    net_.set_status(kStatusAcknowledge | kStatusDriver);
    net_.set_driver_features(0, static_cast<uint32_t>(features));
    net_.set_driver_features(1, static_cast<uint32_t>(features >> 32));
    net_.set_status(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk);
    queues_.clear();
    for (unsigned i = 0; i < net_.queue_count(); ++i) {
      using Area = VirtioDevice::Area;
      auto& queue = queues_.emplace_back(memory_, 0x10000 * (i + 1), 16, packed);
      net_.set_queue_size(i, 16);
      net_.set_queue_area(i, Area::kDescriptors, false, static_cast<uint32_t>(queue.descriptors()));
      net_.set_queue_area(i, Area::kDriver, false, static_cast<uint32_t>(queue.driver()));
      net_.set_queue_area(i, Area::kDevice, false, static_cast<uint32_t>(queue.device()));
      net_.enable_queue(i);
    }
    net_.set_status(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk);
  }

  // A chain of what the input says, its first part filled from the input.
  void add() {
    const auto index = static_cast<unsigned>(in_.take(1) % queues_.size());
    VirtqueueDriver& queue = queues_[index];
    queue.collect();
    std::vector<VirtqueueDriver::Buffer> buffers(1 + in_.take(1) % 3);
    if (queue.free() < buffers.size()) return;
    uint64_t at = kBuffers + (in_.take(2) & 0xfff8);
    const uint8_t writable_from = static_cast<uint8_t>(in_.take(1) % 4);
    for (size_t i = 0; i < buffers.size(); ++i) {
      const auto length = static_cast<uint32_t>(in_.take(in_.take(1) & 1 ? 1 : 2) % kBufferBytes);
      buffers[i] = {at, length, i >= writable_from};
      for (uint32_t byte = 0; byte < std::min(length, 96u) && in_.left && !buffers[i].device_writes; ++byte)
        memory_.write<uint8_t>(at + byte, static_cast<uint8_t>(in_.take(1)));
      at += length;
    }
    queue.add(buffers);
    net_.notify(index);
  }

 private:
  using VirtqueueDriver = testing::VirtqueueDriver;
  testing::FakeGuestMemory& memory_;
  Net& net_;
  Input& in_;
  std::vector<VirtqueueDriver> queues_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* const thread = base::IoThread::create("fuzz-io")->release();
  testing::FakeGuestMemory memory(kRam);
  Input in{data, size};
  const uint64_t bits = in.take(1);
  rhea::net::Network::Receiver receiver;
  const Offloads takes{.checksum = (bits & 1) != 0,
                       .tcp4 = (bits & 2) != 0,
                       .tcp6 = (bits & 4) != 0,
                       .udp = (bits & 8) != 0,
                       .congestion = (bits & 16) != 0};
  auto card = *Net::create(
      {.mac = {2, 0, 0, 0, 0, 7}, .pairs = kPairs},
      {.memory = memory.get(), .thread = *thread, .network = std::make_unique<StrictNetwork>(takes, receiver)});
  Driver driver(memory, *card, in);
  driver.start();
  for (unsigned steps = 0; in.left && steps < 200; ++steps) {
    switch (in.take(1) & 7) {
      case 0: driver.start(); break;
      case 1: {
        FrameOffload offload;
        for (unsigned i = 0; i < sizeof offload; ++i)
          reinterpret_cast<uint8_t*>(&offload)[i] = static_cast<uint8_t>(in.take(1));
        std::vector<std::byte> frame(in.take(2));
        for (size_t i = 0; i < std::min<size_t>(frame.size(), 96) && in.left; ++i)
          frame[i] = static_cast<std::byte>(in.take(1));
        receiver(frame, offload);
        break;
      }
      case 2: card->read_configuration(static_cast<uint32_t>(in.take(1)), 4); break;
      case 3: card->reset_queue(static_cast<unsigned>(in.take(1) % 6)); break;
      case 4: thread->run_sync([] {}); break;
      default: driver.add();
    }
  }
  card.reset();
  return 0;
}
