// SPDX-License-Identifier: Apache-2.0
// The network card between a driver of our own and a network that remembers.
#include "devices/virtio/net/net.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "devices/virtio/net/net_wire.h"
#include "net/frames_fake.h"
#include "state/state_reader.h"
#include "state/state_writer.h"
#include "testing/guest_memory_fake.h"
#include "testing/virtqueue_driver.h"

namespace rhea::devices::virtio {
namespace {

using testing::VirtqueueDriver;
constexpr uint64_t kHeader = 0xc0000, kFrame = 0xc1000, kReceiveBuffers = 0x100000;

struct FakeNetwork final : rhea::net::Network {
  struct Shared {
    std::mutex mutex;
    std::vector<std::vector<std::byte>> sent;
    std::vector<rhea::net::FrameOffload> offloads;
    Receiver receive;
    rhea::net::Offloads takes, wanted;
    unsigned resumed = 0;
    void receiver(std::span<const std::byte> frame, const rhea::net::FrameOffload& offload = {}) {
      receive(frame, offload);
    }
  };
  explicit FakeNetwork(Shared& shared) : s(shared) {}
  rhea::net::Offloads sends() const override { return s.takes; }
  void set_receives(const rhea::net::Offloads& wanted) override { s.wanted = wanted; }
  void set_receiver(Receiver receiver) override { s.receive = std::move(receiver); }
  void receive_more() override { ++s.resumed; }
  void send(std::span<const std::byte> frame, const rhea::net::FrameOffload& offload) override {
    std::lock_guard lock(s.mutex);
    s.offloads.push_back(offload);
    s.sent.emplace_back(frame.begin(), frame.end());
  }
  Shared& s;
};

class NetTest : public ::testing::TestWithParam<bool> {
 protected:
  void start(uint64_t features) {
    net = std::move(
        *Net::create({.mac = {2, 0, 0, 0, 0, 7}, .pairs = pairs},
                     {.memory = memory.get(), .thread = *thread, .network = std::make_unique<FakeNetwork>(network)}));
    features |= kFeatureVersion1 | (GetParam() ? kFeaturePacked : 0);
    net->set_status(kStatusAcknowledge | kStatusDriver);
    net->set_driver_features(0, static_cast<uint32_t>(features));
    net->set_driver_features(1, static_cast<uint32_t>(features >> 32));
    net->set_status(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk);
    using Area = VirtioDevice::Area;
    drivers.clear();
    for (unsigned i = 0; i < net->queue_count(); ++i) {
      drivers.emplace_back(memory, 0x10000 * (i + 1), 16, GetParam());
      net->set_queue_size(i, 16);
      net->set_queue_area(i, Area::kDescriptors, false, static_cast<uint32_t>(drivers[i].descriptors()));
      net->set_queue_area(i, Area::kDriver, false, static_cast<uint32_t>(drivers[i].driver()));
      net->set_queue_area(i, Area::kDevice, false, static_cast<uint32_t>(drivers[i].device()));
      net->enable_queue(i);
    }
    net->set_status(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk);
  }
  // A command's answer.
  uint8_t command(std::vector<uint8_t> bytes) {
    memory.write_bytes(kHeader, bytes);
    memory.write<uint8_t>(kFrame, 0xee);
    drivers[control].add(
        std::vector<VirtqueueDriver::Buffer>{{kHeader, static_cast<uint32_t>(bytes.size())}, {kFrame, 1, true}});
    net->notify(control);
    wait_used(control, 1);
    return memory.read<uint8_t>(kFrame);
  }
  void send(const std::vector<uint8_t>& header, std::span<const std::byte> frame, unsigned queue = net::kTransmit) {
    memory.write_bytes(kHeader, header);
    for (size_t i = 0; i < frame.size(); ++i) memory.write<uint8_t>(kFrame + i, std::to_integer<uint8_t>(frame[i]));
    drivers[queue].add(
        std::vector<VirtqueueDriver::Buffer>{{kHeader, 12}, {kFrame, static_cast<uint32_t>(frame.size())}});
    net->notify(queue);
    wait_used(queue, 1);
  }
  void add_receive_buffer(unsigned queue, uint32_t bytes) {
    drivers[queue].add(std::vector<VirtqueueDriver::Buffer>{{kReceiveBuffers + 0x4000 * added++, bytes, true}});
    net->notify(queue);
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

  unsigned pairs = 1, control = 2;
  uint64_t added = 0;
  testing::FakeGuestMemory memory{4 << 20};
  std::unique_ptr<base::IoThread> thread = *base::IoThread::create("test-io");
  FakeNetwork::Shared network;
  std::vector<VirtqueueDriver> drivers;
  std::unique_ptr<Net> net;
};

TEST_P(NetTest, SendsFramesAndCompletesChecksums) {
  start(net::kFeatureChecksum);
  constexpr uint8_t kNeedsChecksum = rhea::net::FrameOffload::kNeedsChecksum;
  std::vector<uint8_t> frame(64);
  for (size_t i = 0; i < frame.size(); ++i) frame[i] = static_cast<uint8_t>(i);
  frame[50] = frame[51] = 0;
  memory.write_bytes(kFrame, frame);
  memory.write_bytes(kHeader, std::vector<uint8_t>{kNeedsChecksum, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0});
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
      {1, 0, 0, 0, 0, 0, 60, 0, 3, 0, 0, 0},             // the checksum lies beyond the frame
      {1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0},  // far beyond
      {1, 1, 0, 0, 0, 4, 34, 0, 16, 0, 0, 0},            // segmentation was not negotiated
      {0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}};             // segments without a checksum
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

// A frame of a stream, as a driver or network with offloads leaves it.
std::vector<std::byte> long_frame(size_t payload) {
  return rhea::net::testing::TcpFrame{.payload_bytes = payload}.bytes();
}
const std::vector<uint8_t> kLongHeader = {1, 1, 54, 0, 0xe8, 3, 34, 0, 16, 0, 0, 0};  // TCP over IPv4, 1000 bytes each
constexpr rhea::net::FrameOffload kLongOffload{.flags = 1,
                                               .segmentation = 1,
                                               .header_bytes = 54,
                                               .segment_bytes = 1000,
                                               .checksum_start = 34,
                                               .checksum_offset = 16};

TEST_P(NetTest, CutsSegmentsForANetworkThatDoesNot) {
  start(net::kFeatureChecksum | net::kFeatureHostTso4);
  send(kLongHeader, long_frame(2500));
  ASSERT_EQ(network.sent.size(), 3u);
  for (const auto& sent : network.sent) EXPECT_TRUE(rhea::net::testing::sums_are_right(sent));
  EXPECT_EQ(network.sent[0].size(), 1054u);
  EXPECT_EQ(network.sent[2].size(), 554u);
}

TEST_P(NetTest, LeavesSegmentsToANetworkThatTakesThem) {
  network.takes = {.checksum = true, .tcp4 = true};
  start(net::kFeatureChecksum | net::kFeatureHostTso4);
  send(kLongHeader, long_frame(2500));
  ASSERT_EQ(network.sent.size(), 1u);
  EXPECT_EQ(network.sent[0], long_frame(2500));
  EXPECT_EQ(network.offloads[0].segment_bytes, 1000);
}

TEST_P(NetTest, LongFramesReachADriverThatTakesThem) {
  start(net::kFeatureMergeable | net::kFeatureGuestChecksum | net::kFeatureGuestTso4);
  EXPECT_TRUE(network.wanted.checksum && network.wanted.tcp4);
  EXPECT_FALSE(network.wanted.tcp6);
  add_receive_buffer(net::kReceive, 4096);
  network.receiver(long_frame(2500), kLongOffload);
  const auto used = wait_used(net::kReceive, 1);
  EXPECT_EQ(used[0].length, 12u + 54 + 2500);
  EXPECT_EQ(memory.read<uint8_t>(kReceiveBuffers + 1), 1);
  EXPECT_EQ(memory.read<uint16_t>(kReceiveBuffers + 4), 1000);
}

// The network was faster than a driver that takes less than the one before.
TEST_P(NetTest, LongFramesAreCutForADriverThatDoesNotTakeThem) {
  start(net::kFeatureMergeable);
  for (int i = 0; i < 3; ++i) add_receive_buffer(net::kReceive, 4096);
  network.receiver(long_frame(2500), kLongOffload);
  const auto used = wait_used(net::kReceive, 3);
  EXPECT_EQ(used[0].length, 12u + 1054);
  EXPECT_EQ(used[2].length, 12u + 554);
  EXPECT_EQ(memory.read<uint16_t>(kReceiveBuffers), 0);
  EXPECT_EQ(memory.read<uint16_t>(kReceiveBuffers + 10), 1);
}

// What was taken for a frame that does not fit yet is in the ring, not in the card, when its state is saved.
TEST_P(NetTest, BuffersOfAFrameThatWaitsSurviveASave) {
  start(net::kFeatureMergeable);
  add_receive_buffer(net::kReceive, 50);
  add_receive_buffer(net::kReceive, 50);
  network.receiver(std::vector<std::byte>(400));
  for (int i = 0; i < 3; ++i) thread->run_sync([] {});
  net->quiesce();
  state::StateWriter writer;
  writer.section("net0", 1, [this](state::StateWriter& section) { net->save_state(section); });
  const std::vector<std::byte> saved = std::move(writer).finish();
  net.reset();
  net = std::move(
      *Net::create({.mac = {2, 0, 0, 0, 0, 7}, .pairs = pairs},
                   {.memory = memory.get(), .thread = *thread, .network = std::make_unique<FakeNetwork>(network)}));
  auto reader = state::StateReader::open(saved, 1);
  ASSERT_TRUE(reader);
  reader->section("net0", 1, [this](state::StateReader& section) { ASSERT_TRUE(net->load_state(section)); });
  ASSERT_TRUE(reader->status()) << reader->status().error().to_string();
  network.receiver(std::vector<std::byte>(80));  // takes both
  const auto used = wait_used(net::kReceive, 2);
  EXPECT_EQ(used[0].length, 50u);
  EXPECT_EQ(used[1].length, 42u);
  EXPECT_EQ(memory.read<uint16_t>(kReceiveBuffers + 10), 2u);
}

TEST_P(NetTest, ANetworkIsHeldBackAndGoesOn) {
  start(net::kFeatureMergeable);
  const std::vector<std::byte> frame(60);
  size_t taken = 0;
  while (network.receive(frame, {})) ASSERT_LT(++taken, 5000u);
  EXPECT_EQ(network.resumed, 0u);
  for (size_t i = 0; i <= taken; ++i) {
    add_receive_buffer(net::kReceive, 100);
    added = 0;
    wait_used(net::kReceive, 1);
  }
  thread->run_sync([] {});
  EXPECT_EQ(network.resumed, 1u);
}

TEST_P(NetTest, TakesCommands) {
  start(net::kFeatureControl | net::kFeatureControlMac | net::kFeatureControlReceive);
  EXPECT_EQ(net->read_configuration(net::kMacOffset + 4, 2), 0x0700u);
  EXPECT_EQ(command({net::kClassMac, net::kMacAddressSet, 2, 1, 1, 1, 1, 9}), net::kAcknowledged);
  EXPECT_EQ(net->read_configuration(net::kMacOffset + 4, 2), 0x0901u);
  EXPECT_EQ(command({net::kClassMac, net::kMacAddressSet, 2, 1, 1, 1, 1}), net::kRefused);
  EXPECT_EQ(command({9, 9}), net::kRefused);
  EXPECT_EQ(command({net::kClassVlan, net::kVlanAdd, 5, 0}), net::kRefused);  // not negotiated
  EXPECT_EQ(command({net::kClassMac, net::kMacTableSet, 0xff, 0xff, 0xff, 0xff}), net::kRefused);
}

TEST_P(NetTest, FiltersWhatTheDriverDoesNotWant) {
  start(net::kFeatureControl | net::kFeatureControlReceive | net::kFeatureControlVlan);
  const auto arrives = [&](std::vector<uint8_t> head) {
    std::vector<std::byte> frame(60);
    std::memcpy(frame.data(), head.data(), head.size());
    add_receive_buffer(net::kReceive, 100);
    network.receiver(frame);
    network.receiver(std::vector<std::byte>(60, std::byte{0xff}));  // to all: always wanted
    const auto first = memory.read<uint8_t>(kReceiveBuffers + 0x4000 * (added - 1) + 12);
    wait_used(net::kReceive, 1);
    (void)first;
    const bool got = memory.read<uint8_t>(kReceiveBuffers + 0x4000 * (added - 1) + 13) != 0xff;
    if (got) {  // the other one is still to come
      add_receive_buffer(net::kReceive, 100);
      wait_used(net::kReceive, 1);
    }
    return got;
  };
  const std::vector<uint8_t> own = {2, 0, 0, 0, 0, 7}, other = {2, 0, 0, 0, 0, 8}, group = {1, 0, 0x5e, 0, 0, 1};
  EXPECT_TRUE(arrives(other));  // until it says something
  EXPECT_EQ(command({net::kClassReceive, net::kPromiscuous, 0}), net::kAcknowledged);
  EXPECT_FALSE(arrives(other));
  EXPECT_TRUE(arrives(own));
  EXPECT_FALSE(arrives(group));
  EXPECT_EQ(command({net::kClassMac, net::kMacTableSet, 1, 0, 0, 0, 2, 0, 0, 0, 0, 8, 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 1}),
            net::kAcknowledged);
  EXPECT_TRUE(arrives(other));
  EXPECT_TRUE(arrives(group));
  std::vector<uint8_t> tagged = own;
  tagged.insert(tagged.end(), {2, 0, 0, 0, 0, 9, 0x81, 0, 0x20, 5});
  EXPECT_FALSE(arrives(tagged));
  EXPECT_EQ(command({net::kClassVlan, net::kVlanAdd, 5, 0}), net::kAcknowledged);
  EXPECT_TRUE(arrives(tagged));
  EXPECT_EQ(command({net::kClassVlan, net::kVlanAdd, 0, 0x10}), net::kRefused);
}

TEST_P(NetTest, SeveralPairsOfQueues) {
  pairs = 2;
  control = 4;
  start(net::kFeatureControl | net::kFeatureMultiQueue | net::kFeatureMergeable);
  EXPECT_EQ(net->read_configuration(net::kPairsOffset, 2), 2u);
  EXPECT_EQ(command({net::kClassMultiQueue, net::kPairsSet, 3, 0}), net::kRefused);
  EXPECT_EQ(command({net::kClassMultiQueue, net::kPairsSet, 0, 0}), net::kRefused);
  EXPECT_EQ(command({net::kClassMultiQueue, net::kPairsSet, 2, 0}), net::kAcknowledged);
  // What comes back takes the pair that the flow was sent on.
  send(std::vector<uint8_t>(12), long_frame(100), net::transmit_queue(1));
  add_receive_buffer(net::receive_queue(0), 4096);
  add_receive_buffer(net::receive_queue(1), 4096);
  network.receiver(long_frame(100));
  EXPECT_EQ(wait_used(net::receive_queue(1), 1)[0].length, 12u + 154);
  // A driver that knows of one pair has its commands in queue 2.
  control = 2;
  start(net::kFeatureControl | net::kFeatureControlMac);
  EXPECT_EQ(command({net::kClassMac, net::kMacAddressSet, 2, 1, 1, 1, 1, 9}), net::kAcknowledged);
}

TEST_P(NetTest, OffloadsAreSwitchedByCommand) {
  start(net::kFeatureControl | net::kFeatureGuestOffloads | net::kFeatureGuestChecksum | net::kFeatureGuestTso4);
  EXPECT_TRUE(network.wanted.tcp4);
  EXPECT_EQ(command({net::kClassGuestOffloads, 0, 2, 0, 0, 0, 0, 0, 0, 0}), net::kAcknowledged);
  EXPECT_TRUE(network.wanted.checksum);
  EXPECT_FALSE(network.wanted.tcp4);
  EXPECT_EQ(command({net::kClassGuestOffloads, 0, 2, 1, 0, 0, 0, 0, 0, 0}), net::kRefused);  // TSO6: not negotiated
}

INSTANTIATE_TEST_SUITE_P(Rings, NetTest, ::testing::Bool(),
                         [](const auto& ring) { return ring.param ? "Packed" : "Split"; });

}  // namespace
}  // namespace rhea::devices::virtio
