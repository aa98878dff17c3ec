// SPDX-License-Identifier: Apache-2.0
// The balloon under both transports: pages that go are gone on the host, and announced.
#include "devices/virtio/balloon/balloon.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>

#include "devices/virtio/transport_bench_test.h"
#include "devices/virtio/virtio_regs.h"

namespace rhea::devices::virtio {
namespace {

using namespace balloon;
using Buffer = testing::VirtqueueDriver::Buffer;
constexpr uint64_t kNumbers = 0x10000, kRam = 8 << 20, kPages = 0x400000;
constexpr uint64_t kAll = kFeatureStatistics | kFeatureDeflateOnOom | kFeatureReporting;

class BalloonTest : public ::testing::TestWithParam<TransportAndRing> {
 protected:
  BalloonTest() { build(); }
  void build() {
    auto created = Balloon::create("balloon0", {.memory = memory.get(), .thread = *thread});
    EXPECT_TRUE(created);
    device = created->get();
    bench = std::make_unique<TransportBench>(std::get<0>(GetParam()), memory, std::move(*created));
  }
  bool start(uint64_t features = kAll) {
    return driver().start(features | (std::get<1>(GetParam()) ? kFeaturePacked : 0), 4, 16);
  }
  testing::VirtioDriver& driver() { return bench->driver(); }
  void give(unsigned queue, const std::vector<uint32_t>& pages) {
    for (size_t i = 0; i < pages.size(); ++i) memory.write<uint32_t>(kNumbers + 4 * i, pages[i]);
    driver().queue(queue).add(std::vector<Buffer>{{kNumbers, static_cast<uint32_t>(4 * pages.size())}});
    driver().notify(queue);
    EXPECT_EQ(bench->wait_used(queue, 1).size(), 1u);
  }
  bool resident(uint64_t address) {
    unsigned char present = 0;
    EXPECT_EQ(::mincore(memory.get().host_pointer({address}, 4096), 4096, &present), 0);
    return present & 1;
  }
  void fill(uint64_t address, uint64_t bytes) {
    for (uint64_t at = address; at < address + bytes; at += 4096) memory.write<uint64_t>(at, 0x1122334455667788);
  }
  void say_statistics(uint64_t free_bytes) {
    uint8_t entries[2 * kStatisticBytes] = {};
    const uint16_t tags[] = {kFreeMemory, 999};
    for (unsigned i = 0; i < 2; ++i) {
      std::memcpy(entries + i * kStatisticBytes, &tags[i], 2);
      std::memcpy(entries + i * kStatisticBytes + 2, &free_bytes, 8);
    }
    memory.write_bytes(kNumbers + 0x800, entries);
    driver().queue(2).add(std::vector<Buffer>{{kNumbers + 0x800, sizeof entries}});
    driver().notify(2);
  }

  testing::FakeGuestMemory memory{kRam};
  std::unique_ptr<base::IoThread> thread = *base::IoThread::create("test-io");
  std::unique_ptr<TransportBench> bench;
  Balloon* device = nullptr;
};

TEST_P(BalloonTest, InflationGivesPagesBack) {
  ASSERT_TRUE(start());
  fill(kPages, 0x10000);
  memory.get().page_meta({kPages + 0x2000}) = memory::kPageHasCode;
  testing::FakeWriteObserver observer;
  memory.get().add_observer(&observer);
  const uint32_t first = kPages / kPageBytes;
  give(0, {first + 2, first, first + 7, first + 1, first, 0xffffffff, 0x80000000});
  memory.get().remove_observer(&observer);
  for (unsigned page = 0; page < 16; ++page) EXPECT_EQ(resident(kPages + page * 4096), page > 2 && page != 7) << page;
  EXPECT_EQ(memory.read<uint64_t>(kPages + 0x2000), 0u);
  EXPECT_EQ(observer.writes, (std::vector<testing::FakeWriteObserver::Write>{{kPages + 0x2000, 4096}}))
      << "code translated from such a page is stale";
  EXPECT_EQ(device->returned_bytes(), 4u * 4096);
  fill(kPages, 4096);  // the guest takes it back
  give(1, {first});
  EXPECT_TRUE(resident(kPages));
  EXPECT_EQ(memory.read<uint64_t>(kPages), 0x1122334455667788u);
}

TEST_P(BalloonTest, ReportedRangesGoToTheHost) {
  ASSERT_TRUE(start());
  fill(kPages, 0x200000);
  driver().queue(3).add(std::vector<Buffer>{{kPages, 0x100000, true}, {kPages + 0x180800, 0x1000, true}});
  driver().notify(3);
  EXPECT_EQ(bench->wait_used(3, 1)[0].length, 0u);
  EXPECT_FALSE(resident(kPages));
  EXPECT_FALSE(resident(kPages + 0xff000));
  EXPECT_TRUE(resident(kPages + 0x100000));
  EXPECT_TRUE(resident(kPages + 0x180000)) << "only whole pages go";
  EXPECT_EQ(memory.read<uint64_t>(kPages + 0x181000), 0x1122334455667788u);
  EXPECT_EQ(device->returned_bytes(), 0x100000u);
}

// Without statistics the reports' queue moves up.
TEST_P(BalloonTest, QueuesAreNumberedByWhatWasNegotiated) {
  ASSERT_TRUE(start(kFeatureReporting));
  fill(kPages, 4096);
  driver().queue(2).add(std::vector<Buffer>{{kPages, 0x1000, true}});
  driver().notify(2);
  EXPECT_EQ(bench->wait_used(2, 1).size(), 1u);
  EXPECT_FALSE(resident(kPages));
}

TEST_P(BalloonTest, TheTargetIsAnnounced) {
  ASSERT_TRUE(start());
  device->set_target(64 << 20);
  EXPECT_EQ(driver().read_configuration(kTargetPages, 4), kRam / kPageBytes) << "no more than there is";
  device->set_target(1 << 20);
  EXPECT_EQ(driver().read_configuration(kTargetPages, 4), 256u);
  EXPECT_TRUE(driver().take_interrupt() & 2);
  driver().write_configuration(kActualPages, 100, 4);
  driver().write_configuration(kTargetPages, 1, 4);
  EXPECT_EQ(device->actual_bytes(), 100u * kPageBytes);
  EXPECT_EQ(driver().read_configuration(kTargetPages, 4), 256u);
}

TEST_P(BalloonTest, StatisticsComeWhenAsked) {
  ASSERT_TRUE(start());
  say_statistics(1000);
  ASSERT_TRUE(TransportBench::eventually([&] { return device->statistics()[kFreeMemory] == 1000u; }));
  EXPECT_FALSE(device->statistics()[kSwapIn]);
  EXPECT_TRUE(driver().queue(2).collect().empty()) << "the device keeps the buffer";
  device->request_statistics();
  EXPECT_EQ(bench->wait_used(2, 1).size(), 1u);
  say_statistics(2000);
  ASSERT_TRUE(TransportBench::eventually([&] { return device->statistics()[kFreeMemory] == 2000u; }));
}

TEST_P(BalloonTest, StateTravelsAtEachStage) {
  for (unsigned stage = 0; stage < 4; ++stage) {  // not taken; held; asked for; answered
    SCOPED_TRACE(stage);
    build();
    ASSERT_TRUE(start());
    device->set_target(1 << 20);
    driver().write_configuration(kActualPages, 7, 4);
    if (stage == 0) bench->device().quiesce();
    say_statistics(1234);
    if (stage > 0) {
      ASSERT_TRUE(TransportBench::eventually([&] { return device->statistics()[kFreeMemory] == 1234u; }));
      if (stage != 2) bench->device().quiesce();
    }
    if (stage == 3) bench->device().resume();
    if (stage >= 2) device->request_statistics();
    if (stage == 3) {
      ASSERT_TRUE(TransportBench::eventually([&] { return bench->irqs.line.load(); }));
    }
    if (stage >= 2) bench->device().quiesce();
    move_device(bench, [this] { build(); });
    bench->device().resume();
    EXPECT_EQ(device->actual_bytes(), 7u * kPageBytes);
    EXPECT_EQ(driver().read_configuration(kTargetPages, 4), 256u);
    if (stage < 2) device->request_statistics();
    EXPECT_EQ(bench->wait_used(2, 1).size(), 1u);
    say_statistics(99);
    ASSERT_TRUE(TransportBench::eventually([&] { return device->statistics()[kFreeMemory] == 99u; }));
  }
}

INSTANTIATE_TEST_SUITE_P(All, BalloonTest, all_transports(), transport_name);

}  // namespace
}  // namespace rhea::devices::virtio
