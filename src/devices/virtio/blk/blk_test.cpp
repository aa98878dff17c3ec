// SPDX-License-Identifier: Apache-2.0
// The block device over a disk in memory, driven through the PCI transport's device model.
#include "devices/virtio/blk/blk.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <deque>
#include <thread>

#include "devices/virtio/blk/blk_wire.h"
#include "testing/guest_memory_fake.h"
#include "testing/virtqueue_driver.h"

namespace rhea::devices::virtio {
namespace {

using testing::VirtqueueDriver;
constexpr uint64_t kRing = 0x10000, kHeader = 0x30000, kStatus = 0x30100, kData = 0x40000;

// Keeps requests until told to finish them, or finishes at once.
class FakeDisk final : public block::Disk {
 public:
  struct Shared {
    std::vector<uint8_t> bytes = std::vector<uint8_t>(1 << 20);
    bool read_only = false, hold = false;
    int error = 0;
    std::deque<block::Request> held;
    std::vector<block::Operation> seen;
  };
  explicit FakeDisk(Shared& shared) : s_(shared) {}
  uint64_t size_bytes() const override { return s_.bytes.size(); }
  bool read_only() const override { return s_.read_only; }
  std::string_view format() const override { return "fake"; }
  void submit(block::Request request) override {
    s_.seen.push_back(request.operation);
    if (s_.hold) return s_.held.push_back(std::move(request));
    finish(s_, request);
  }
  static void finish(Shared& s, block::Request& request) {
    if (s.error) return request.done(s.error);
    uint64_t at = request.offset;
    for (const iovec& piece : request.buffers) {
      if (request.operation == block::Operation::kRead)
        std::memcpy(piece.iov_base, &s.bytes[at], piece.iov_len);
      else
        std::memcpy(&s.bytes[at], piece.iov_base, piece.iov_len);
      at += piece.iov_len;
    }
    if (request.operation == block::Operation::kWriteZeroes)
      std::fill_n(s.bytes.begin() + static_cast<ptrdiff_t>(request.offset), request.length, 0);
    request.done(0);
  }

 private:
  Shared& s_;
};

struct FakeTransport final : Transport {
  void queue_interrupt(unsigned) override { ++interrupts; }
  void configuration_interrupt() override { ++configuration; }
  std::atomic<int> interrupts{0}, configuration{0};
};

class BlkTest : public ::testing::TestWithParam<bool> {
 protected:
  void create() {
    auto created = Blk::create({.serial = "RHEA-0001"},
                               {.memory = memory.get(), .thread = *thread, .disk = std::make_unique<FakeDisk>(disk)});
    ASSERT_TRUE(created);
    blk = std::move(*created);
    blk->set_transport(&transport);
  }
  void negotiate(uint64_t features) {
    features |= kFeatureVersion1 | kFeatureIndirect | (GetParam() ? kFeaturePacked : 0);
    blk->set_status(kStatusAcknowledge);
    blk->set_status(kStatusAcknowledge | kStatusDriver);
    blk->set_driver_features(0, static_cast<uint32_t>(features));
    blk->set_driver_features(1, static_cast<uint32_t>(features >> 32));
    blk->set_status(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk);
    ASSERT_TRUE(blk->status() & kStatusFeaturesOk);
    driver.emplace(memory, kRing, 16, GetParam());
    blk->set_queue_size(0, 16);
    using Area = VirtioDevice::Area;
    blk->set_queue_area(0, Area::kDescriptors, false, static_cast<uint32_t>(driver->descriptors()));
    blk->set_queue_area(0, Area::kDriver, false, static_cast<uint32_t>(driver->driver()));
    blk->set_queue_area(0, Area::kDevice, false, static_cast<uint32_t>(driver->device()));
    blk->enable_queue(0);
    blk->set_status(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk);
  }
  void SetUp() override {
    create();
    negotiate(blk::kFeatureFlush | blk::kFeatureDiscard | blk::kFeatureWriteZeroes);
  }
  void TearDown() override { blk.reset(); }

  void add(uint32_t type, uint64_t sector, uint32_t bytes, bool device_writes) {
    memory.write<uint32_t>(kHeader, type);
    memory.write<uint64_t>(kHeader + 8, sector);
    memory.write<uint8_t>(kStatus, 0xee);
    std::vector<VirtqueueDriver::Buffer> buffers = {{kHeader, 16}};
    if (bytes) buffers.push_back({kData, bytes, device_writes});
    buffers.push_back({kStatus, 1, true});
    driver->add(buffers);
    blk->notify(0);
  }
  void settle() {
    thread->run_sync([] {});
  }
  // The status of the one request made.
  int request(uint32_t type, uint64_t sector, uint32_t bytes, bool device_writes) {
    add(type, sector, bytes, device_writes);
    std::vector<VirtqueueDriver::Used> used;
    for (int i = 0; used.empty() && i < 2000; ++i) {
      settle();
      used = driver->collect();
      if (used.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(used.size(), 1u);
    used_length = used.empty() ? 0 : used[0].length;
    return memory.read<uint8_t>(kStatus);
  }

  testing::FakeGuestMemory memory{1 << 20};
  std::unique_ptr<base::IoThread> thread = *base::IoThread::create("test-io");
  FakeDisk::Shared disk;
  FakeTransport transport;
  std::unique_ptr<Blk> blk;
  std::optional<VirtqueueDriver> driver;
  uint32_t used_length = 0;
};

TEST_P(BlkTest, WritesAndReads) {
  std::vector<uint8_t> data(1024);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i * 3);
  memory.write_bytes(kData, data);
  EXPECT_EQ(request(blk::kOut, 5, 1024, false), blk::kOk);
  EXPECT_EQ(used_length, 1u);
  EXPECT_TRUE(std::equal(data.begin(), data.end(), disk.bytes.begin() + 5 * 512));
  memory.write_bytes(kData, std::vector<uint8_t>(1024));
  testing::FakeWriteObserver observer;
  memory.get().add_observer(&observer);
  memory.get().page_meta({kData}) = memory::kPageHasCode;
  EXPECT_EQ(request(blk::kIn, 5, 1024, true), blk::kOk);
  EXPECT_EQ(used_length, 1025u);
  EXPECT_EQ(memory.read_bytes(kData, 1024), data);
  EXPECT_FALSE(observer.writes.empty()) << "who watches the page must hear of data from the disk";
  memory.get().remove_observer(&observer);
  EXPECT_GE(transport.interrupts, 1);
}

TEST_P(BlkTest, RefusesWhatLiesBeyondTheEnd) {
  const uint64_t sectors = disk.bytes.size() / 512;
  EXPECT_EQ(request(blk::kIn, sectors, 512, true), blk::kIoError);
  EXPECT_EQ(request(blk::kIn, sectors - 1, 1024, true), blk::kIoError);
  EXPECT_EQ(request(blk::kOut, ~uint64_t{0}, 512, false), blk::kIoError);
  EXPECT_EQ(request(blk::kIn, 0, 100, true), blk::kIoError) << "no whole sector";
  EXPECT_EQ(request(blk::kIn, sectors - 1, 512, true), blk::kOk);
}

// A disk of 4096-byte blocks ends with its last whole one.
TEST_P(BlkTest, BlocksMayBeLarger) {
  disk.bytes.resize((1 << 20) + 512);
  auto created = Blk::create({.block_bytes = 4096},
                             {.memory = memory.get(), .thread = *thread, .disk = std::make_unique<FakeDisk>(disk)});
  ASSERT_TRUE(created);
  blk = std::move(*created);
  negotiate(0);
  EXPECT_EQ(blk->read_configuration(blk::kCapacity, 8), 2048u);
  EXPECT_EQ(blk->read_configuration(blk::kBlockSize, 4), 4096u);
  EXPECT_EQ(blk->read_configuration(blk::kPhysicalBlockExponent, 1), 0u);
  EXPECT_EQ(request(blk::kIn, 2048, 512, true), blk::kIoError);
  EXPECT_EQ(request(blk::kIn, 2040, 4096, true), blk::kOk);
}

TEST_P(BlkTest, FlushesIdentifiesAndZeroes) {
  EXPECT_EQ(request(blk::kFlush, 0, 0, false), blk::kOk);
  EXPECT_EQ(disk.seen.back(), block::Operation::kFlush);
  EXPECT_EQ(request(blk::kGetId, 0, 20, true), blk::kOk);
  EXPECT_EQ(memory.read<uint8_t>(kData), 'R');
  EXPECT_EQ(memory.read<uint8_t>(kData + 9), 0);
  disk.bytes.assign(disk.bytes.size(), 0xff);
  for (unsigned i = 0; i < 2; ++i) {  // two ranges, sectors 1 and 3
    memory.write<uint64_t>(kData + 16 * i, 1 + 2 * i);
    memory.write<uint32_t>(kData + 16 * i + 8, 1);
    memory.write<uint32_t>(kData + 16 * i + 12, 1);
  }
  EXPECT_EQ(request(blk::kWriteZeroes, 0, 32, false), blk::kOk);
  EXPECT_EQ(disk.bytes[512], 0);
  EXPECT_EQ(disk.bytes[1024], 0xff);
  EXPECT_EQ(disk.bytes[3 * 512], 0);
  EXPECT_EQ(request(blk::kDiscard, 0, 32, false), blk::kUnsupported) << "discard knows no flags";
  memory.write<uint64_t>(kData, disk.bytes.size() / 512);
  EXPECT_EQ(request(blk::kWriteZeroes, 0, 16, false), blk::kIoError);
  EXPECT_EQ(request(99, 0, 0, false), blk::kUnsupported);
}

TEST_P(BlkTest, ErrorsOfTheDiskReachTheGuest) {
  disk.error = EIO;
  EXPECT_EQ(request(blk::kIn, 0, 512, true), blk::kIoError);
  EXPECT_EQ(used_length, 1u);
}

TEST_P(BlkTest, WithoutAWriteCacheAWriteIsFlushed) {
  blk->set_status(0);
  negotiate(0);
  EXPECT_EQ(request(blk::kOut, 0, 512, false), blk::kOk);
  EXPECT_EQ(disk.seen, (std::vector{block::Operation::kWrite, block::Operation::kFlush}));
}

TEST_P(BlkTest, ResetWaitsForWhatIsInFlight) {
  disk.hold = true;
  add(blk::kIn, 0, 512, true);
  for (int i = 0; disk.held.empty() && i < 2000; ++i) {
    settle();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  std::thread finisher([this] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    thread->loop().post([this] { FakeDisk::finish(disk, disk.held.front()); });
  });
  blk->set_status(0);
  EXPECT_EQ(memory.read<uint8_t>(kStatus), blk::kOk) << "done before the reset returned";
  finisher.join();
  disk.held.clear();
  disk.hold = false;
  negotiate(blk::kFeatureFlush);
  EXPECT_EQ(request(blk::kIn, 0, 512, true), blk::kOk);
}

TEST_P(BlkTest, ARequestWithoutRoomForItsStatusStopsTheDevice) {
  memory.write<uint32_t>(kHeader, blk::kIn);
  driver->add(std::vector<VirtqueueDriver::Buffer>{{kHeader, 16}});
  blk->notify(0);
  for (int i = 0; !(blk->status() & kStatusNeedsReset) && i < 2000; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(blk->status() & kStatusNeedsReset);
  EXPECT_EQ(transport.configuration, 1);
}

INSTANTIATE_TEST_SUITE_P(Rings, BlkTest, ::testing::Bool(),
                         [](const auto& ring) { return ring.param ? "Packed" : "Split"; });

}  // namespace
}  // namespace rhea::devices::virtio
