// SPDX-License-Identifier: Apache-2.0
// The network card between a driver of our own and a network that remembers.
#include "devices/virtio/net/net.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "devices/virtio/net/net_wire.h"
#include "testing/guest_memory_fake.h"
#include "testing/virtqueue_driver.h"

namespace rhea::devices::virtio {
namespace {

using testing::VirtqueueDriver;
constexpr uint64_t kHeader = 0x70000, kFrame = 0x71000, kReceiveBuffers = 0x80000;

struct FakeNetwork final : rhea::net::Network {
  struct Shared {
    std::mutex mutex;
    std::vector<std::vector<std::byte>> sent;
    Receiver receiver;
  };
  explicit FakeNetwork(Shared& shared) : s(shared) {}
  void set_receiver(Receiver receiver) override { s.receiver = std::move(receiver); }
  void send(std::span<const std::byte> frame) override {
    std::lock_guard lock(s.mutex);
    s.sent.emplace_back(frame.begin(), frame.end());
  }
  Shared& s;
};

class NetTest : public ::testing::TestWithParam<bool> {
 protected:
  void start(uint64_t features) {
    net = std::move(
        *Net::create({.mac = {2, 0, 0, 0, 0, 7}},
                     {.memory = memory.get(), .thread = *thread, .network = std::make_unique<FakeNetwork>(network)}));
    features |= kFeatureVersion1 | (GetParam() ? kFeaturePacked : 0);
    net->set_status(kStatusAcknowledge | kStatusDriver);
    net->set_driver_features(0, static_cast<uint32_t>(features));
    net->set_driver_features(1, static_cast<uint32_t>(features >> 32));
    net->set_status(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk);
    using Area = VirtioDevice::Area;
    for (unsigned i = 0; i < net::kQueues; ++i) {
      drivers.emplace_back(memory, 0x10000 * (i + 1), 16, GetParam());
      net->set_queue_size(i, 16);
      net->set_queue_area(i, Area::kDescriptors, false, static_cast<uint32_t>(drivers[i].descriptors()));
      net->set_queue_area(i, Area::kDriver, false, static_cast<uint32_t>(drivers[i].driver()));
      net->set_queue_area(i, Area::kDevice, false, static_cast<uint32_t>(drivers[i].device()));
      net->enable_queue(i);
    }
    net->set_status(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk);
  }
  std::vector<VirtqueueDriver::Used> wait_used(unsigned queue, size_t count) {
    std::vector<VirtqueueDriver::Used> used;
    for (int i = 0; used.size() < count && i < 2000; ++i) {
      thread->run_sync([] {});
      for (const auto& one : drivers[queue].collect()) used.push_back(one);
      if (used.size() < count) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(used.size(), count);
    return used;
  }

  testing::FakeGuestMemory memory{1 << 20};
  std::unique_ptr<base::IoThread> thread = *base::IoThread::create("test-io");
  FakeNetwork::Shared network;
  std::vector<VirtqueueDriver> drivers;
  std::unique_ptr<Net> net;
};

TEST_P(NetTest, SendsFramesAndCompletesChecksums) {
  start(net::kFeatureChecksum);
  std::vector<uint8_t> frame(64);
  for (size_t i = 0; i < frame.size(); ++i) frame[i] = static_cast<uint8_t>(i);
  frame[50] = frame[51] = 0;
  memory.write_bytes(kFrame, frame);
  memory.write_bytes(kHeader, std::vector<uint8_t>{net::kNeedsChecksum, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0});
  drivers[net::kTransmit].add(std::vector<VirtqueueDriver::Buffer>{{kHeader, 12}, {kFrame, 30}, {kFrame + 30, 34}});
  net->notify(net::kTransmit);
  wait_used(net::kTransmit, 1);
  ASSERT_EQ(network.sent.size(), 1u);
  const auto& sent = network.sent[0];
  ASSERT_EQ(sent.size(), 64u);
  uint32_t sum = 0;  // with the checksum in place, the words add up to all ones
  for (size_t i = 34; i < 64; i += 2)
    sum += std::to_integer<uint32_t>(sent[i]) << 8 | std::to_integer<uint32_t>(sent[i + 1]);
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  EXPECT_EQ(sum, 0xffffu);
}

TEST_P(NetTest, DropsNonsense) {
  start(net::kFeatureChecksum);
  memory.write_bytes(kFrame, std::vector<uint8_t>(64, 1));
  const std::vector<std::vector<uint8_t>> headers = {
      {net::kNeedsChecksum, 0, 0, 0, 0, 0, 60, 0, 3, 0, 0, 0},             // the checksum lies beyond the frame
      {net::kNeedsChecksum, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0},  // far beyond
      {0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}};                               // segmentation was not offered
  for (const auto& header : headers) {
    memory.write_bytes(kHeader, header);
    drivers[net::kTransmit].add(std::vector<VirtqueueDriver::Buffer>{{kHeader, 12}, {kFrame, 64}});
    net->notify(net::kTransmit);
    wait_used(net::kTransmit, 1);
  }
  drivers[net::kTransmit].add(std::vector<VirtqueueDriver::Buffer>{{kHeader, 5}});
  net->notify(net::kTransmit);
  wait_used(net::kTransmit, 1);
  EXPECT_TRUE(network.sent.empty());
  EXPECT_FALSE(net->status() & kStatusNeedsReset);
}

TEST_P(NetTest, ReceivesIntoOneBufferOrSeveral) {
  start(net::kFeatureMergeable);
  std::vector<std::byte> frame(100);
  for (size_t i = 0; i < frame.size(); ++i) frame[i] = static_cast<std::byte>(i);
  network.receiver(frame);  // before there are buffers: it waits
  thread->run_sync([] {});
  for (uint64_t i = 0; i < 3; ++i) {
    drivers[net::kReceive].add(std::vector<VirtqueueDriver::Buffer>{{kReceiveBuffers + 0x100 * i, 50, true}});
    net->notify(net::kReceive);
  }
  const auto used = wait_used(net::kReceive, 3);
  EXPECT_EQ(used[0].length, 50u);
  EXPECT_EQ(used[2].length, 12u);
  EXPECT_EQ(memory.read<uint16_t>(kReceiveBuffers + 10), 3u);
  EXPECT_EQ(memory.read<uint8_t>(kReceiveBuffers + 12), 0);
  EXPECT_EQ(memory.read<uint8_t>(kReceiveBuffers + 0x100), 38);
  EXPECT_EQ(memory.read<uint8_t>(kReceiveBuffers + 0x200 + 11), 99);
}

TEST_P(NetTest, WithoutMergingAFrameThatDoesNotFitIsDropped) {
  start(0);
  std::vector<std::byte> frame(100);
  for (uint64_t i = 0; i < 2; ++i)
    drivers[net::kReceive].add(
        std::vector<VirtqueueDriver::Buffer>{{kReceiveBuffers + 0x100 * i, i ? 200u : 50u, true}});
  network.receiver(frame);
  network.receiver(frame);
  const auto used = wait_used(net::kReceive, 2);
  EXPECT_EQ(used[0].length, 0u);
  EXPECT_EQ(used[1].length, 112u);
}

TEST_P(NetTest, TakesCommands) {
  start(net::kFeatureControl | net::kFeatureControlMac);
  EXPECT_EQ(net->read_configuration(net::kMacOffset + 4, 2), 0x0700u);
  memory.write_bytes(kHeader, std::vector<uint8_t>{net::kClassMac, net::kMacAddressSet, 2, 1, 1, 1, 1, 9, 0xee});
  drivers[net::kControl].add(std::vector<VirtqueueDriver::Buffer>{{kHeader, 8}, {kHeader + 8, 1, true}});
  net->notify(net::kControl);
  wait_used(net::kControl, 1);
  EXPECT_EQ(memory.read<uint8_t>(kHeader + 8), net::kAcknowledged);
  EXPECT_EQ(net->read_configuration(net::kMacOffset + 4, 2), 0x0901u);
  memory.write_bytes(kHeader, std::vector<uint8_t>{9, 9});
  drivers[net::kControl].add(std::vector<VirtqueueDriver::Buffer>{{kHeader, 2}, {kHeader + 8, 1, true}});
  net->notify(net::kControl);
  wait_used(net::kControl, 1);
  EXPECT_EQ(memory.read<uint8_t>(kHeader + 8), net::kRefused);
}

INSTANTIATE_TEST_SUITE_P(Rings, NetTest, ::testing::Bool(),
                         [](const auto& ring) { return ring.param ? "Packed" : "Split"; });

}  // namespace
}  // namespace rhea::devices::virtio
