// SPDX-License-Identifier: Apache-2.0
// What virtio asks of every device and both transports, tried by a driver without a guest on a device that copies
// what it reads to where it may write.
#include <gtest/gtest.h>

#include <cstring>

#include "devices/virtio/transport_bench_test.h"
#include "devices/virtio/virtio_regs.h"

namespace rhea::devices::virtio {
namespace {

using Buffer = testing::VirtqueueDriver::Buffer;
using testing::VirtioDriver;
constexpr uint64_t kData = 0x10000, kAnswer = 0x20000, kTable = 0x30000;
constexpr uint64_t kLowEnd = 0x600000, kHighStart = 0x2'0000'0000, kHighBytes = 0x100000;
constexpr unsigned kQueues = 64;
constexpr uint16_t kRingSize = 16;

// Copies, at once or when told to.
class EchoDevice final : public VirtioDevice {
 public:
  EchoDevice(memory::GuestMemory& memory, base::IoThread& thread)
      : VirtioDevice({.name = "echo",
                      .type = DeviceType::kEntropy,
                      .features = 1,
                      .queue_sizes = std::vector<uint16_t>(kQueues, 256),
                      .configuration_bytes = 12},
                     memory),
        thread_(thread),
        bell_(std::move(*base::Doorbell::create(thread.loop(), [this] { serve(); }))) {}
  ~EchoDevice() override { set_status(0); }

  // Finishes what is held, last taken first.
  void finish_held() {
    thread_.run_sync([this] {
      while (!held_.empty()) {
        auto [index, chain] = std::move(held_.back());
        held_.pop_back();
        finish(index, chain);
      }
    });
  }
  size_t held() {
    size_t count = 0;
    thread_.run_sync([&] { count = held_.size(); });
    return count;
  }
  void change_configuration(uint32_t value) {
    value_ = value;
    configuration_changed();
  }
  std::atomic<bool> hold{false};
  std::vector<std::pair<uint32_t, uint64_t>> written;  // in the configuration

 protected:
  void on_start() override {
    thread_.run_sync([this] { serving_ = true; });
    bell_->ring();
  }
  void on_stop() override {
    thread_.run_sync([this] { serving_ = false; });
  }
  void on_reset() override { held_.clear(); }
  void on_queue_started(unsigned) override { bell_->ring(); }
  void on_queue_stopped(unsigned index) override {
    thread_.run_sync([this, index] {
      queue(index).stop();
      std::erase_if(held_, [&](const auto& entry) { return entry.first == index; });
    });
  }
  void on_notify(unsigned) override { bell_->ring(); }
  void fill_configuration(std::span<std::byte> out) override {
    const uint32_t words[] = {0x11223344, value_, 0x55667788};
    std::memcpy(out.data(), words, out.size());
  }
  void on_configuration_written(uint32_t offset, std::span<const std::byte> data) override {
    uint64_t value = 0;
    std::memcpy(&value, data.data(), data.size());
    written.emplace_back(offset, value);
  }
  void save_device(state::StateWriter& writer) const override {
    std::vector<SavedChain> chains;
    std::vector<uint32_t> queues;
    for (const auto& [index, chain] : held_) {
      queues.push_back(index);
      chains.push_back(SavedChain::of(chain));
    }
    writer.field("queues", queues);
    writer.field("held", chains);
  }
  void load_device(state::StateReader& reader) override {
    std::vector<SavedChain> chains;
    std::vector<uint32_t> queues;
    reader.field("queues", queues);
    reader.field("held", chains);
    for (size_t i = 0; i < chains.size(); ++i) {
      auto chain = queue(queues[i]).restore(chains[i]);
      reader.validate(chain.has_value(), "holds nonsense");
      if (chain) held_.emplace_back(queues[i], std::move(*chain));
    }
  }

 private:
  void serve() {
    for (unsigned index = 0; index < queue_count() && serving_; ++index) {
      Queue& ring = queue(index);
      while (auto chain = ring.pop()) {
        if (hold)
          held_.emplace_back(index, std::move(*chain));
        else
          finish(index, *chain);
      }
      if (ring.broken()) return needs_reset();
    }
  }
  void finish(unsigned index, const Chain& chain) {
    std::vector<std::byte> bytes(std::min<uint64_t>(chain.readable_bytes, 0x100000));
    read_from(chain.readable, 0, bytes);
    const size_t count = write_to(memory(), chain.writable, 0, bytes);
    queue(index).push(chain, static_cast<uint32_t>(count));
    signal(index);
  }

  base::IoThread& thread_;
  bool serving_ = false;
  std::vector<std::pair<unsigned, Chain>> held_;
  std::atomic<uint32_t> value_{7};
  std::unique_ptr<base::Doorbell> bell_;
};

class ConformanceTest : public ::testing::TestWithParam<TransportAndRing> {
 protected:
  ConformanceTest() { build(); }
  void build() {
    auto echo = std::make_unique<EchoDevice>(memory.get(), *thread);
    device = echo.get();
    bench = std::make_unique<TransportBench>(kind(), memory, std::move(echo));
  }
  TransportKind kind() const { return std::get<0>(GetParam()); }
  uint64_t ring_features() const { return std::get<1>(GetParam()) ? kFeaturePacked : 0; }
  bool start(uint64_t features = 0, unsigned queues = 1, uint16_t size = kRingSize) {
    return driver().start(features | ring_features(), queues, size);
  }
  VirtioDriver& driver() { return bench->driver(); }
  // One buffer to be copied by `queue`; it is not waited for.
  void offer(unsigned queue, uint8_t pattern, std::optional<uint64_t> table = std::nullopt) {
    memory.write_bytes(kData + 64 * queue, std::vector<uint8_t>(24, pattern));
    driver().queue(queue).add(
        std::vector<Buffer>{{kData + 64 * queue, 10}, {kData + 64 * queue + 10, 14}, {kAnswer + 64 * queue, 40, true}},
        table);
    driver().notify(queue);
  }
  void expect_copied(unsigned queue, uint8_t pattern) {
    const auto used = bench->wait_used(queue, 1);
    if (!used.empty()) EXPECT_EQ(used[0].length, 24u);
    EXPECT_EQ(memory.read_bytes(kAnswer + 64 * queue, 24), std::vector<uint8_t>(24, pattern)) << queue;
  }
  void settle() {
    thread->run_sync([] {});
  }
  bool needs_reset() {
    return TransportBench::eventually([&] { return (driver().status() & VirtioDriver::kNeedsReset) != 0; });
  }

  testing::FakeGuestMemory memory{std::vector<memory::GuestMemory::Extent>{{{0}, kLowEnd}, {{kHighStart}, kHighBytes}}};
  std::unique_ptr<base::IoThread> thread = *base::IoThread::create("test-io");
  std::unique_ptr<TransportBench> bench;
  EchoDevice* device = nullptr;
};

class MmioConformanceTest : public ConformanceTest {};
class PciConformanceTest : public ConformanceTest {};
class SplitConformanceTest : public ConformanceTest {};

// ---- identification and negotiation ----

TEST_P(ConformanceTest, SaysWhatItIs) {
  EXPECT_EQ(driver().device_id(), 4u);
  EXPECT_EQ(driver().status(), 0u);
  EXPECT_EQ(driver().queue_maximum(kQueues - 1), 256u);
  EXPECT_EQ(driver().queue_maximum(kQueues), 0u) << "there is no such queue";
  EXPECT_EQ(driver().device_features(2), 0u);
  EXPECT_EQ(driver().device_features(0xffffffff), 0u);
  if (kind() == TransportKind::kMmio) {
    auto& mmio = static_cast<testing::MmioVirtioDriver&>(driver());
    EXPECT_EQ(mmio.get(0x000), 0x74726976u);
    EXPECT_EQ(mmio.get(0x004), 2u);
    EXPECT_EQ(mmio.get(0x0b0), 0xffffffffu) << "no shared memory region";
    EXPECT_EQ(mmio.get(0x0b4), 0xffffffffu);
    EXPECT_EQ(bench->physical.read(kTransportBase, 1), 0u) << "registers are words";
    EXPECT_EQ(bench->physical.read(kTransportBase + 2, 4), 0u);
  }
}

TEST_P(ConformanceTest, NegotiatesFeatures) {
  const uint64_t offered = driver().offered();
  EXPECT_EQ(offered & 1, 1u);
  for (const uint64_t feature :
       {kFeatureVersion1, kFeatureIndirect, kFeatureEventIndex, kFeaturePacked, kFeatureInOrder, kFeatureRingReset})
    EXPECT_TRUE(offered & feature) << feature;
  EXPECT_TRUE(driver().negotiate(offered));
  EXPECT_FALSE(driver().negotiate(uint64_t{1} << 20)) << "was not offered";
  EXPECT_FALSE(driver().negotiate(uint64_t{1} << 63)) << "was not offered";
  EXPECT_TRUE(driver().negotiate(0));
  driver().set_status(0);  // [VIRTIO-1.2 6.2]: not without VERSION_1
  driver().set_status(3);
  driver().set_driver_features(0, 1);
  driver().set_driver_features(1, 0);
  driver().set_status(11);
  EXPECT_FALSE(driver().status() & VirtioDriver::kFeaturesOk);
}

TEST_P(ConformanceTest, FeaturesStandOnceAccepted) {
  ASSERT_TRUE(driver().negotiate(ring_features()));
  driver().set_driver_features(0, 0xffffffff);
  driver().set_driver_features(1, 0xffffffff);
  driver().set_up_queue(0, kRingSize);
  driver().driver_ok();
  offer(0, 3);
  expect_copied(0, 3);
}

TEST_P(ConformanceTest, StatusBitsComeInOrderAndStay) {
  driver().set_status(1);
  EXPECT_EQ(driver().status(), 1u);
  driver().set_status(3);
  driver().set_status(2);
  EXPECT_EQ(driver().status(), 3u) << "a driver cannot clear a bit";
  driver().set_status(3 | VirtioDriver::kNeedsReset);
  EXPECT_EQ(driver().status(), 3u) << "that bit is the device's";
  driver().set_status(0);
  EXPECT_EQ(driver().status(), 0u);
}

TEST_P(ConformanceTest, DriverOkWithoutFeaturesOkStartsNothing) {
  driver().set_status(3);
  driver().set_driver_features(0, 0);
  driver().set_driver_features(1, 1);
  driver().set_up_queue(0, kRingSize);
  driver().set_status(7);
  offer(0, 1);
  settle();
  EXPECT_TRUE(driver().queue(0).collect().empty());
}

// ---- rings ----

TEST_P(ConformanceTest, CopiesByEachFormOfDescriptors) {
  for (const uint64_t features :
       {uint64_t{0}, kFeatureIndirect, kFeatureEventIndex, kFeatureInOrder, kFeatureIndirect | kFeatureEventIndex,
        kFeatureIndirect | kFeatureEventIndex | kFeatureInOrder | kFeatureRingReset}) {
    ASSERT_TRUE(start(features));
    for (unsigned round = 0; round < 3 * kRingSize; ++round) {
      const bool table = (features & kFeatureIndirect) && round % 2;
      offer(0, static_cast<uint8_t>(round + 1), table ? std::optional(kTable) : std::nullopt);
      expect_copied(0, static_cast<uint8_t>(round + 1));
    }
    EXPECT_TRUE(driver().take_interrupt() & 1);
  }
}

TEST_P(ConformanceTest, AllQueuesWork) {
  ASSERT_TRUE(start(kFeatureEventIndex, kQueues));
  for (unsigned queue = 0; queue < kQueues; ++queue) offer(queue, static_cast<uint8_t>(queue + 1));
  for (unsigned queue = 0; queue < kQueues; ++queue) expect_copied(queue, static_cast<uint8_t>(queue + 1));
}

TEST_P(ConformanceTest, OnlyEnabledQueuesWork) {
  ASSERT_TRUE(driver().negotiate(ring_features()));
  driver().set_up_queue(0, kRingSize);
  driver().set_up_queue(2, kRingSize);
  driver().driver_ok();
  EXPECT_FALSE(driver().queue_enabled(1));
  offer(2, 9);
  expect_copied(2, 9);
  driver().notify(1);
  offer(0, 8);
  expect_copied(0, 8);
}

TEST_P(ConformanceTest, InOrderBuffersComeBackInOrder) {
  for (const bool in_order : {false, true}) {
    device->hold = true;
    ASSERT_TRUE(start(in_order ? kFeatureInOrder : 0));
    std::vector<uint16_t> given;
    for (unsigned i = 0; i < 3; ++i) {
      given.push_back(driver().queue(0).add(std::vector<Buffer>{{kData, 4}, {kAnswer + 64 * i, 8, true}}));
      driver().notify(0);
    }
    ASSERT_TRUE(TransportBench::eventually([&] { return device->held() == 3; }));
    device->finish_held();  // the last first
    std::vector<uint16_t> back;
    for (const auto& used : bench->wait_used(0, 3)) {
      back.push_back(used.id);
      EXPECT_EQ(used.length, 4u);
    }
    if (!in_order) std::ranges::reverse(given);
    EXPECT_EQ(back, given) << in_order;
    device->hold = false;
  }
}

TEST_P(ConformanceTest, AQueueIsResetAndUsedAgain) {
  ASSERT_TRUE(start(kFeatureRingReset, 2));
  device->hold = true;
  offer(0, 1);
  offer(1, 2);
  ASSERT_TRUE(TransportBench::eventually([&] { return device->held() == 2; }));
  driver().reset_queue(0);
  EXPECT_FALSE(driver().queue_enabled(0));
  EXPECT_EQ(device->held(), 1u) << "what the queue had is the driver's again";
  device->hold = false;
  device->finish_held();
  expect_copied(1, 2);
  EXPECT_TRUE(driver().queue(0).collect().empty());
  driver().set_up_queue(0, 8);
  offer(0, 3);
  expect_copied(0, 3);
  offer(1, 4);
  expect_copied(1, 4);
}

TEST_P(ConformanceTest, AQueueIsNotResetUnlessNegotiated) {
  ASSERT_TRUE(start());
  driver().reset_queue(0);
  EXPECT_TRUE(driver().queue_enabled(0));
  offer(0, 3);
  expect_copied(0, 3);
}

TEST_P(ConformanceTest, AnEnabledQueueCannotBeMoved) {
  ASSERT_TRUE(start());
  driver().set_queue_size(0, 4);
  driver().set_queue_area(0, VirtioDriver::Area::kDevice, 0x500000);
  offer(0, 5);
  expect_copied(0, 5);
}

// ---- configuration ----

TEST_P(ConformanceTest, ConfigurationIsReadInAnySize) {
  EXPECT_EQ(driver().read_configuration(0, 4), 0x11223344u);
  EXPECT_EQ(driver().read_configuration(1, 1), 0x33u);
  EXPECT_EQ(driver().read_configuration(8, 2), 0x7788u);
  EXPECT_EQ(driver().read_configuration(8, 8), 0x55667788u) << "zeros beyond the end";
  EXPECT_EQ(driver().read_configuration(12, 4), 0u);
  EXPECT_EQ(driver().read_configuration(0xe00, 4), 0u);
  driver().write_configuration(4, 0xabcd, 2);
  driver().write_configuration(11, 0xabcd, 2);  // over the end: ignored
  driver().write_configuration(0xe00, 1, 4);
  ASSERT_EQ(device->written.size(), 1u);
  EXPECT_EQ(device->written[0], (std::pair<uint32_t, uint64_t>{4, 0xabcd}));
}

TEST_P(ConformanceTest, AChangeOfConfigurationIsAnnounced) {
  device->change_configuration(1);
  EXPECT_EQ(driver().take_interrupt(), 0u) << "nobody listens yet";
  ASSERT_TRUE(start());
  const uint32_t before = driver().generation();
  EXPECT_EQ(driver().generation(), before) << "nothing changed";
  device->change_configuration(99);
  EXPECT_NE(driver().generation(), before);
  EXPECT_EQ(driver().read_configuration(4, 4), 99u);
  EXPECT_TRUE(bench->irqs.line);
  EXPECT_EQ(driver().take_interrupt(), 2u);
  EXPECT_FALSE(bench->irqs.line);
}

// ---- interrupts ----

TEST_P(ConformanceTest, AnInterruptStaysUntilItIsTaken) {
  ASSERT_TRUE(start());
  EXPECT_FALSE(bench->irqs.line);
  offer(0, 1);
  expect_copied(0, 1);
  ASSERT_TRUE(TransportBench::eventually([&] { return bench->irqs.line.load(); }));
  EXPECT_EQ(driver().take_interrupt(), 1u);
  EXPECT_EQ(driver().take_interrupt(), 0u);
  EXPECT_FALSE(bench->irqs.line);
}

// An input that is edge-triggered hears of an event that comes before the one before is acknowledged.
TEST_P(MmioConformanceTest, EachEventIsAnEdge) {
  ASSERT_TRUE(start());
  offer(0, 1);
  expect_copied(0, 1);
  ASSERT_TRUE(TransportBench::eventually([&] { return bench->irqs.edges == 1; }));
  device->change_configuration(1);
  EXPECT_EQ(bench->irqs.edges, 2u);
  auto& mmio = static_cast<testing::MmioVirtioDriver&>(driver());
  mmio.set(0x064, 1);
  EXPECT_EQ(bench->irqs.edges, 3u) << "the other is still there";
  EXPECT_EQ(mmio.get(0x060), 2u);
  mmio.set(0x064, 2);
  EXPECT_FALSE(bench->irqs.line);
}

TEST_P(PciConformanceTest, EachQueueHasItsMessage) {
  ASSERT_TRUE(driver().negotiate(ring_features()));
  bench->pci().use_msix(2, 0xfee00000, 0x40);
  driver().set_up_queue(0, kRingSize);
  driver().set_up_queue(1, kRingSize);
  driver().driver_ok();
  offer(1, 1);
  expect_copied(1, 1);
  offer(0, 2);
  expect_copied(0, 2);
  device->change_configuration(3);
  ASSERT_TRUE(TransportBench::eventually([&] { return bench->irqs.messages().size() == 3; }));
  EXPECT_EQ(bench->irqs.messages(), (std::vector<uint32_t>{0x41, 0x40, 0x42}));
  EXPECT_EQ(bench->irqs.edges, 0u) << "messages take the pin's place";
}

// [PCI-3.0 6.2.2]: neither data nor messages pass without that bit.
TEST_P(PciConformanceTest, NothingMovesWithoutBusMastering) {
  using testing::PciVirtioDriver;
  ASSERT_TRUE(driver().negotiate(ring_features()));
  bench->pci().use_msix(1, 0xfee00000, 0x40);
  driver().set_up_queue(0, kRingSize);
  driver().driver_ok();
  bench->pci().set_command(PciVirtioDriver::kMemory);
  offer(0, 1);
  settle();
  EXPECT_TRUE(driver().queue(0).collect().empty());
  EXPECT_EQ(memory.read<uint8_t>(kAnswer), 0u);
  device->change_configuration(5);
  EXPECT_TRUE(bench->irqs.messages().empty());
  bench->pci().set_command(PciVirtioDriver::kMemory | PciVirtioDriver::kMaster);
  expect_copied(0, 1);
  ASSERT_TRUE(TransportBench::eventually([&] { return bench->irqs.messages().size() == 2; }));
  EXPECT_EQ(bench->irqs.messages().front(), 0x41u) << "the configuration's message had to wait";
}

// ---- what no driver should do ----

TEST_P(ConformanceTest, DescriptorsAtTheEdgeOfRam) {
  for (const uint64_t end : {kLowEnd, kHighStart + kHighBytes}) {
    ASSERT_TRUE(start());
    memory.write_bytes(end - 8, std::vector<uint8_t>(8, 0x77));
    driver().queue(0).add(std::vector<Buffer>{{end - 8, 8}, {kAnswer, 8, true}});
    driver().notify(0);
    EXPECT_EQ(bench->wait_used(0, 1)[0].length, 8u);
    EXPECT_EQ(memory.read<uint64_t>(kAnswer), 0x7777777777777777u);
    driver().queue(0).add(std::vector<Buffer>{{kData, 8}, {end - 4, 4, true}});
    driver().notify(0);
    EXPECT_EQ(bench->wait_used(0, 1)[0].length, 4u);
  }
}

TEST_P(ConformanceTest, DescriptorsBeyondRamStopTheDevice) {
  struct Case {
    uint64_t address;
    uint32_t length;
  };
  for (const Case& c : {Case{kLowEnd - 8, 9}, Case{kLowEnd, 1}, Case{kHighStart - 1, 2}, Case{kHighStart - 4096, 8192},
                        Case{0, 0xffffffff}, Case{kHighStart + kHighBytes - 1, 2}, Case{~uint64_t{0}, 1},
                        Case{~uint64_t{0} - 7, 16}, Case{~uint64_t{0} - 0xfff, 0x2000}, Case{0xe0000000, 64}}) {
    for (const bool writes : {false, true}) {
      ASSERT_TRUE(start());
      driver().queue(0).add(std::vector<Buffer>{{c.address, c.length, writes}});
      driver().notify(0);
      EXPECT_TRUE(needs_reset()) << c.address << " " << c.length;
      EXPECT_TRUE(TransportBench::eventually([&] { return (driver().take_interrupt() & 2) != 0; }));
      EXPECT_TRUE(driver().queue(0).collect().empty());
    }
  }
  ASSERT_TRUE(start()) << "a reset helps";
  offer(0, 1);
  expect_copied(0, 1);
}

TEST_P(ConformanceTest, ZeroLengthsAreNoBuffers) {
  ASSERT_TRUE(start());
  driver().queue(0).add(std::vector<Buffer>{{~uint64_t{0}, 0}, {kData, 4}, {0, 0, true}, {kAnswer, 4, true}});
  driver().notify(0);
  EXPECT_EQ(bench->wait_used(0, 1)[0].length, 4u);
  driver().queue(0).add(std::vector<Buffer>{{0, 0}});
  driver().notify(0);
  EXPECT_EQ(bench->wait_used(0, 1)[0].length, 0u);
}

TEST_P(SplitConformanceTest, LoopsStopTheDevice) {
  ASSERT_TRUE(start(kFeatureIndirect));
  driver().queue(0).write_descriptor(0, kData, 4, kDescriptorNext, 1);
  driver().queue(0).write_descriptor(1, kData, 4, kDescriptorNext, 0);
  driver().queue(0).publish(0);
  driver().notify(0);
  EXPECT_TRUE(needs_reset());
  ASSERT_TRUE(start(kFeatureIndirect));  // the same in a table
  for (unsigned i = 0; i < 2; ++i) {
    memory.write<uint64_t>(kTable + 16 * i, kData);
    memory.write<uint32_t>(kTable + 16 * i + 8, 4);
    memory.write<uint16_t>(kTable + 16 * i + 12, kDescriptorNext);
    memory.write<uint16_t>(kTable + 16 * i + 14, static_cast<uint16_t>(1 - i));
  }
  driver().queue(0).write_descriptor(0, kTable, 32, kDescriptorIndirect, 0);
  driver().queue(0).publish(0);
  driver().notify(0);
  EXPECT_TRUE(needs_reset());
}

TEST_P(ConformanceTest, ATableInATableStopsTheDevice) {
  ASSERT_TRUE(start(kFeatureIndirect));
  driver().queue(0).add(std::vector<Buffer>{{kData, 4}}, kTable);
  memory.write<uint16_t>(kTable + (std::get<1>(GetParam()) ? 14 : 12), kDescriptorIndirect);
  driver().notify(0);
  EXPECT_TRUE(needs_reset());
}

TEST_P(ConformanceTest, RingsBeyondRamStopTheDevice) {
  using Area = VirtioDriver::Area;
  for (const auto& [area, address] : std::vector<std::pair<Area, uint64_t>>{{Area::kDescriptors, kLowEnd - 16},
                                                                            {Area::kDriver, ~uint64_t{0} - 3},
                                                                            {Area::kDevice, 0x80000000},
                                                                            {Area::kDescriptors, 0x100008},
                                                                            {Area::kDevice, kHighStart + kHighBytes}}) {
    ASSERT_TRUE(driver().negotiate(ring_features()));
    driver().set_queue_size(0, kRingSize);
    driver().set_queue_area(0, Area::kDescriptors, 0x100000);
    driver().set_queue_area(0, Area::kDriver, 0x108000);
    driver().set_queue_area(0, Area::kDevice, 0x10c000);
    driver().set_queue_area(0, area, address);
    driver().enable_queue(0);
    driver().driver_ok();
    EXPECT_TRUE(needs_reset());
    driver().notify(0);
  }
}

TEST_P(ConformanceTest, NothingHappensBeforeDriverOk) {
  driver().notify(0);
  ASSERT_TRUE(driver().negotiate(ring_features()));
  driver().notify(0);
  driver().set_up_queue(0, kRingSize);
  offer(0, 6);
  settle();
  EXPECT_TRUE(driver().queue(0).collect().empty());
  driver().driver_ok();
  expect_copied(0, 6);  // what was there is found without another notification
}

TEST_P(ConformanceTest, NothingHappensAfterAReset) {
  ASSERT_TRUE(start(0, 2));
  device->hold = true;
  offer(1, 1);
  ASSERT_TRUE(TransportBench::eventually([&] { return device->held() == 1; }));
  driver().set_status(0);
  EXPECT_EQ(driver().status(), 0u);
  EXPECT_EQ(device->held(), 0u) << "the buffer is the driver's";
  device->hold = false;
  offer(0, 2);
  driver().notify(1);
  settle();
  EXPECT_TRUE(driver().queue(0).collect().empty());
  EXPECT_TRUE(driver().queue(1).collect().empty());
  EXPECT_EQ(driver().take_interrupt(), 0u);
  EXPECT_FALSE(driver().queue_enabled(0));
  ASSERT_TRUE(start(0, 2));
  offer(1, 3);
  expect_copied(1, 3);
}

TEST_P(ConformanceTest, AnyNotificationIsHarmless) {
  ASSERT_TRUE(start());
  if (kind() == TransportKind::kMmio) {
    for (uint64_t value = 0; value < 0x10000; ++value) bench->physical.write(kTransportBase + 0x50, value, 4);
    for (unsigned bit = 0; bit < 32; ++bit) bench->physical.write(kTransportBase + 0x50, uint64_t{1} << bit, 4);
  } else {
    for (uint64_t offset = 0; offset < 0x1000; ++offset)
      bench->physical.write(kTransportBase + 0x3000 + offset, offset * 0x10001, 1u << (offset % 4));
  }
  offer(0, 4);
  expect_copied(0, 4);
}

TEST_P(ConformanceTest, ResetsAtAnyMomentOfALoad) {
  for (unsigned round = 0; round < 30; ++round) {
    ASSERT_TRUE(start(kFeatureEventIndex, 4));
    for (unsigned i = 0; i < round % 7; ++i) offer(i % 4, static_cast<uint8_t>(round));
    driver().set_status(0);
    const auto before = memory.read_bytes(kAnswer, 0x1000);
    settle();
    EXPECT_EQ(memory.read_bytes(kAnswer, 0x1000), before);
  }
}

// ---- state ----

// A buffer that the device holds, or has not yet seen, reaches the driver from the device that takes over.
TEST_P(ConformanceTest, StateTravelsAtEachStageOfABuffer) {
  enum Stage { kNotSeen, kHeld, kInterruptPending };
  for (const uint64_t features : {uint64_t{0}, kFeatureInOrder | kFeatureEventIndex}) {
    for (const Stage stage : {kNotSeen, kHeld, kInterruptPending}) {
      build();
      ASSERT_TRUE(start(features, 2));
      device->hold = stage == kHeld;
      if (stage == kNotSeen) bench->device().quiesce();
      offer(1, 0x5a);
      if (stage == kHeld) {
        ASSERT_TRUE(TransportBench::eventually([&] { return device->held() == 1; }));
      }
      if (stage == kInterruptPending) {
        ASSERT_TRUE(TransportBench::eventually([&] { return bench->irqs.line.load(); }));
      }
      if (stage != kNotSeen) bench->device().quiesce();
      move_device(bench, [this] { build(); });
      bench->device().resume();
      if (stage == kHeld) {
        EXPECT_EQ(device->held(), 1u);
        device->finish_held();
      }
      expect_copied(1, 0x5a);
      ASSERT_TRUE(TransportBench::eventually([&] { return bench->irqs.line.load(); })) << stage;
      EXPECT_EQ(driver().take_interrupt(), 1u);
      offer(0, 0x33);
      expect_copied(0, 0x33);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ConformanceTest, all_transports(), transport_name);
INSTANTIATE_TEST_SUITE_P(Rings, MmioConformanceTest,
                         ::testing::Combine(::testing::Values(TransportKind::kMmio), ::testing::Bool()),
                         transport_name);
INSTANTIATE_TEST_SUITE_P(Rings, PciConformanceTest,
                         ::testing::Combine(::testing::Values(TransportKind::kPci), ::testing::Bool()), transport_name);
INSTANTIATE_TEST_SUITE_P(Transports, SplitConformanceTest,
                         ::testing::Combine(::testing::Values(TransportKind::kPci, TransportKind::kMmio),
                                            ::testing::Values(false)),
                         transport_name);

}  // namespace
}  // namespace rhea::devices::virtio
