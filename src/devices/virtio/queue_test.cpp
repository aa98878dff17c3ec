// SPDX-License-Identifier: Apache-2.0
// Virtqueues against a driver of our own, both ring formats, and what hostile drivers put into them.
#include "devices/virtio/queue.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "devices/virtio/virtio_regs.h"
#include "testing/guest_memory_fake.h"
#include "testing/virtqueue_driver.h"

namespace rhea::devices::virtio {
namespace {

using testing::VirtqueueDriver;
constexpr uint16_t kSize = 8;
constexpr uint64_t kRing = 0x10000, kData = 0x40000, kTable = 0x80000, kRamEnd = 0x100000;

class QueueTest : public ::testing::TestWithParam<bool> {
 protected:
  QueueTest() : driver(memory, kRing, kSize, GetParam()), queue(memory.get()) {}
  void SetUp() override { start(kFeatureIndirect); }
  void start(uint64_t features, uint16_t size = kSize) {
    features_ = features | (GetParam() ? kFeaturePacked : 0);
    ASSERT_TRUE(queue.start(config(size), features_));
  }
  QueueConfig config(uint16_t size = kSize) const {
    return {.size = size,
            .maximum_size = 256,
            .enabled = true,
            .descriptors = driver.descriptors(),
            .driver = driver.driver(),
            .device = driver.device()};
  }

  uint64_t features_ = 0;
  testing::FakeGuestMemory memory{kRamEnd};
  VirtqueueDriver driver;
  Queue queue;
};

TEST_P(QueueTest, PassesBuffersThereAndBack) {
  EXPECT_TRUE(queue.empty());
  EXPECT_FALSE(queue.pop());
  memory.write_bytes(kData, std::vector<uint8_t>{1, 2, 3, 4, 5});
  const std::vector<VirtqueueDriver::Buffer> buffers = {
      {kData, 2}, {kData + 2, 3}, {kData + 0x1000, 4, true}, {kData + 0x2000, 6, true}};
  const uint16_t id = driver.add(buffers);
  EXPECT_FALSE(queue.empty());
  auto chain = queue.pop();
  ASSERT_TRUE(chain);
  EXPECT_EQ(chain->readable_bytes, 5u);
  EXPECT_EQ(chain->writable_bytes, 10u);
  std::byte got[8] = {};
  EXPECT_EQ(read_from(chain->readable, 1, got), 4u);
  EXPECT_EQ(got[0], std::byte{2});
  EXPECT_EQ(got[3], std::byte{5});
  const char text[] = "abcdefgh";
  EXPECT_EQ(write_to(memory.get(), chain->writable, 1, std::as_bytes(std::span(text, 8))), 8u);
  queue.push(*chain, 9);
  const auto used = driver.collect();
  ASSERT_EQ(used.size(), 1u);
  EXPECT_EQ(used[0].id, id);
  EXPECT_EQ(used[0].length, 9u);
  EXPECT_EQ(memory.read<uint8_t>(kData + 0x1001), 'a');
  EXPECT_EQ(memory.read<uint8_t>(kData + 0x2000), 'd');
  EXPECT_TRUE(queue.empty());
}

TEST_P(QueueTest, GoesRoundManyTimesInAnyOrder) {
  std::mt19937 random(7);
  std::vector<Chain> held;
  unsigned given = 0, back = 0;
  while (back < 2000) {
    const unsigned count = 1 + random() % 3;
    const bool indirect = random() % 4 == 0;
    if (driver.free() >= count && random() % 3) {
      std::vector<VirtqueueDriver::Buffer> buffers;
      for (unsigned i = 0; i < count; ++i) buffers.push_back({kData + 64 * i, 16 + given % 7, i + 1 == count});
      driver.add(buffers, indirect ? std::optional(kTable + 0x100 * (given % 64)) : std::nullopt);
      ++given;
    }
    if (random() % 2)
      if (auto chain = queue.pop()) {
        EXPECT_EQ(chain->readable.size() + chain->writable.size(), chain->readable.size() + 1);
        held.push_back(std::move(*chain));
      }
    // The packed ring's used entries need room where the chain stood: any order is fine, as for a disk.
    if (!held.empty() && random() % 2) {
      const size_t pick = random() % held.size();
      queue.push(held[pick], static_cast<uint32_t>(back));
      held.erase(held.begin() + static_cast<ptrdiff_t>(pick));
    }
    for (const auto& used : driver.collect()) EXPECT_EQ(used.length, back++);
    ASSERT_FALSE(queue.broken());
  }
}

TEST_P(QueueTest, ZeroLengthsAreNothing) {
  driver.add(std::vector<VirtqueueDriver::Buffer>{{0xdead0000dead, 0}, {kData, 1, true}});
  auto chain = queue.pop();
  ASSERT_TRUE(chain);
  EXPECT_TRUE(chain->readable.empty());
  EXPECT_EQ(chain->writable_bytes, 1u);
}

TEST_P(QueueTest, InterruptsAreSuppressedAsTheDriverSays) {
  driver.add(std::vector<VirtqueueDriver::Buffer>{{kData, 1, true}});
  EXPECT_FALSE(queue.wants_interrupt()) << "nothing was pushed";
  queue.push(*queue.pop(), 0);
  EXPECT_TRUE(queue.wants_interrupt());
  EXPECT_FALSE(queue.wants_interrupt()) << "said already";
  if (GetParam())
    memory.write<uint32_t>(driver.driver(), uint32_t{kEventsDisabled} << 16);
  else
    memory.write<uint16_t>(driver.driver(), kAvailableNoInterrupt);
  driver.add(std::vector<VirtqueueDriver::Buffer>{{kData, 1, true}});
  queue.push(*queue.pop(), 0);
  EXPECT_FALSE(queue.wants_interrupt());
}

TEST_P(QueueTest, EventIndexNamesTheBufferThatInterrupts) {
  start(kFeatureEventIndex);
  // Wants to hear of the third buffer back.
  if (GetParam())
    memory.write<uint32_t>(driver.driver(), uint32_t{kEventsAtDescriptor} << 16 | 1u << 15 | 2);
  else
    memory.write<uint16_t>(driver.driver() + 4 + 2 * kSize, 2);
  for (unsigned i = 0; i < 5; ++i) {
    driver.add(std::vector<VirtqueueDriver::Buffer>{{kData, 1, true}});
    queue.push(*queue.pop(), 0);
    EXPECT_EQ(queue.wants_interrupt(), i == 2) << i;
  }
}

// Who watches the page of the used ring (or of the packed ring's event area) hears of the position written there.
TEST_P(QueueTest, APositionWrittenByATakeIsAnnounced) {
  start(kFeatureEventIndex);
  driver.add(std::vector<VirtqueueDriver::Buffer>{{kData, 1, true}});
  testing::FakeWriteObserver observer;
  memory.get().add_observer(&observer);
  memory.get().page_meta({driver.device()}) = memory::kPageHasCode;
  ASSERT_TRUE(queue.pop());
  EXPECT_FALSE(observer.writes.empty());
  memory.get().remove_observer(&observer);
}

TEST_P(QueueTest, NotificationsAreSwitched) {
  queue.set_notifications(false);
  if (GetParam())
    EXPECT_EQ(memory.read<uint16_t>(driver.device() + 2), kEventsDisabled);
  else
    EXPECT_EQ(memory.read<uint16_t>(driver.device()), kUsedNoNotify);
  queue.set_notifications(true);
  EXPECT_EQ(memory.read<uint16_t>(driver.device() + (GetParam() ? 2 : 0)), 0);
}

TEST_P(QueueTest, RefusesWhatIsNoRam) {
  QueueConfig bad = config();
  bad.device = kRamEnd - 4;
  EXPECT_EQ(static_cast<bool>(queue.start(bad, features_)), GetParam()) << "four bytes are all a packed ring needs";
  bad.device = ~uint64_t{3};
  EXPECT_FALSE(queue.start(bad, features_));
  bad = config();
  bad.descriptors += 8;
  EXPECT_FALSE(queue.start(bad, features_));
  bad = config(6);
  EXPECT_EQ(static_cast<bool>(queue.start(bad, features_)), GetParam()) << "only a split ring is a power of two";
  EXPECT_FALSE(queue.start(config(512), features_));
}

TEST_P(QueueTest, BreaksOnBuffersOutsideRam) {
  for (const auto& [address, length] : std::vector<std::pair<uint64_t, uint32_t>>{
           {kRamEnd - 4, 5}, {kRamEnd, 1}, {~uint64_t{0}, 1}, {~uint64_t{0} - 3, 8}, {0, 0xffffffff}}) {
    VirtqueueDriver fresh(memory, kRing, kSize, GetParam());
    start(kFeatureIndirect);
    fresh.add(std::vector<VirtqueueDriver::Buffer>{{address, length}});
    EXPECT_FALSE(queue.pop());
    EXPECT_TRUE(queue.broken());
    EXPECT_FALSE(queue.pop());
  }
}

TEST_P(QueueTest, BreaksOnAReadableBufferAfterAWritableOne) {
  driver.add(std::vector<VirtqueueDriver::Buffer>{{kData, 1, true}, {kData, 1}});
  EXPECT_FALSE(queue.pop());
  EXPECT_TRUE(queue.broken());
}

TEST_P(QueueTest, BreaksOnBadIndirectTables) {
  struct Case {
    const char* what;
    uint64_t address;
    uint32_t length;
    uint16_t inner_flags, inner_next;
  };
  for (const Case& c :
       {Case{"empty", kTable, 0, 0, 0}, Case{"half an entry", kTable, 24, 0, 0}, Case{"no RAM", kRamEnd, 16, 0, 0},
        Case{"too long", kTable, 16 * 2048, 0, 0}, Case{"nested", kTable, 16, kDescriptorIndirect, 0}}) {
    VirtqueueDriver fresh(memory, kRing, kSize, GetParam());
    start(kFeatureIndirect);
    const std::vector<VirtqueueDriver::Buffer> one = {{kData, 4}};
    fresh.add(one, kTable);
    memory.write<uint16_t>(kTable + (GetParam() ? 14 : 12), c.inner_flags);
    memory.write<uint64_t>(kRing, c.address);
    memory.write<uint32_t>(kRing + 8, c.length);
    EXPECT_FALSE(queue.pop()) << c.what;
    EXPECT_TRUE(queue.broken()) << c.what;
  }
}

TEST_P(QueueTest, IndirectNeedsToBeNegotiated) {
  start(0);
  driver.add(std::vector<VirtqueueDriver::Buffer>{{kData, 4}}, kTable);
  EXPECT_FALSE(queue.pop());
  EXPECT_TRUE(queue.broken());
}

INSTANTIATE_TEST_SUITE_P(Rings, QueueTest, ::testing::Bool(),
                         [](const auto& ring) { return ring.param ? "Packed" : "Split"; });

class SplitQueueTest : public ::testing::Test {
 protected:
  void start() {
    ASSERT_TRUE(queue.start({.size = kSize,
                             .maximum_size = 256,
                             .enabled = true,
                             .descriptors = driver.descriptors(),
                             .driver = driver.driver(),
                             .device = driver.device()},
                            kFeatureIndirect));
  }
  testing::FakeGuestMemory memory{kRamEnd};
  VirtqueueDriver driver{memory, kRing, kSize, false};
  Queue queue{memory.get()};
};

TEST_F(SplitQueueTest, BreaksOnLoopsAndIndicesBeyondTheRing) {
  struct Case {
    const char* what;
    uint16_t next, head;
  };
  for (const Case& c : {Case{"a loop", 0, 0}, Case{"a link beyond", kSize, 0}, Case{"a head beyond", 1, kSize}}) {
    VirtqueueDriver fresh(memory, kRing, kSize, false);
    start();
    fresh.write_descriptor(0, kData, 4, kDescriptorNext, c.next);
    fresh.publish(c.head);
    EXPECT_FALSE(queue.pop()) << c.what;
    EXPECT_TRUE(queue.broken()) << c.what;
  }
}

TEST_F(SplitQueueTest, BreaksOnMoreBuffersThanTheRingHolds) {
  start();
  memory.write<uint16_t>(driver.driver() + 2, kSize + 1);
  EXPECT_FALSE(queue.pop());
  EXPECT_TRUE(queue.broken());
}

}  // namespace
}  // namespace rhea::devices::virtio
