// SPDX-License-Identifier: Apache-2.0
// What holds for each virtio device of ours, under both transports: negotiation of all it offers, queues, resets, state
// of a request at every stage.
#include <gtest/gtest.h>

#include <condition_variable>
#include <cstring>
#include <deque>

#include "devices/virtio/balloon/balloon.h"
#include "devices/virtio/blk/blk.h"
#include "devices/virtio/blk/blk_wire.h"
#include "devices/virtio/console/console.h"
#include "devices/virtio/net/net.h"
#include "devices/virtio/rng/rng.h"
#include "devices/virtio/transport_bench_test.h"
#include "devices/virtio/virtio_regs.h"

namespace rhea::devices::virtio {
namespace {

using Buffer = testing::VirtqueueDriver::Buffer;
constexpr uint64_t kRequest = 0x10000, kData = 0x20000, kStatusByte = 0x30000;

// A disk in memory that may keep its requests for a while.
class SlowDisk final : public block::Disk {
 public:
  struct Shared {
    std::vector<uint8_t> bytes = std::vector<uint8_t>(1 << 20, 0x42);
    std::atomic<bool> hold{false};
    std::deque<block::Request> held;  // I/O thread
    std::atomic<unsigned> reads{0};
  };
  explicit SlowDisk(Shared& shared) : s_(shared) {}
  uint64_t size_bytes() const override { return s_.bytes.size(); }
  bool read_only() const override { return false; }
  std::string_view format() const override { return "memory"; }
  void submit(block::Request request) override {
    if (s_.hold) return s_.held.push_back(std::move(request));
    finish(s_, request);
  }
  static void finish(Shared& shared, block::Request& request) {
    if (request.operation == block::Operation::kRead) {
      ++shared.reads;
      uint64_t at = request.offset;
      for (const iovec& piece : request.buffers) {
        std::memcpy(piece.iov_base, &shared.bytes[at], piece.iov_len);
        at += piece.iov_len;
      }
    }
    request.done(0);
  }

 private:
  Shared& s_;
};

struct QuietNetwork final : rhea::net::Network {
  void set_receiver(Receiver) override {}
  void send(std::span<const std::byte>, const rhea::net::FrameOffload&) override {}
};

enum class Kind : uint8_t { kBlk, kNet, kRng, kConsole, kBalloon };
constexpr Kind kKinds[] = {Kind::kBlk, Kind::kNet, Kind::kRng, Kind::kConsole, Kind::kBalloon};

using Parameters = std::tuple<Kind, TransportKind, bool>;

class EveryDeviceTest : public ::testing::TestWithParam<Parameters> {
 protected:
  EveryDeviceTest() { build(); }
  Kind kind() const { return std::get<0>(GetParam()); }
  std::unique_ptr<VirtioDevice> create() {
    switch (kind()) {
      case Kind::kBlk:
        return std::move(*Blk::create(
            {.queues = 4}, {.memory = memory.get(), .thread = *thread, .disk = std::make_unique<SlowDisk>(disk)}));
      case Kind::kNet:
        return std::move(
            *Net::create({}, {.memory = memory.get(), .thread = *thread, .network = std::make_unique<QuietNetwork>()}));
      case Kind::kRng: return std::move(*Rng::create("rng0", {.memory = memory.get(), .thread = *thread}));
      case Kind::kConsole:
        return std::move(*Console::create({.ports = {{}, {.name = "a"}}}, {.memory = memory.get(), .thread = *thread}));
      case Kind::kBalloon: return std::move(*Balloon::create("b", {.memory = memory.get(), .thread = *thread}));
    }
    return nullptr;
  }
  void build() {
    bench.reset();
    bench = std::make_unique<TransportBench>(std::get<1>(GetParam()), memory, create());
  }
  testing::VirtioDriver& driver() { return bench->driver(); }
  unsigned queues() {
    unsigned count = 0;
    while (driver().queue_maximum(count) != 0) ++count;
    return count;
  }
  // All that is offered, in the ring's format wanted.
  bool start() {
    const uint64_t format = std::get<2>(GetParam()) ? 0 : kFeaturePacked;
    return driver().start(driver().offered() & ~format, queues(), 16);
  }
  // A request whose answer is known, to the queue where such go.
  unsigned ask() {
    std::vector<Buffer> buffers;
    unsigned queue = 0;
    switch (kind()) {
      case Kind::kBlk:
        memory.write<uint32_t>(kRequest, blk::kIn);
        memory.write<uint64_t>(kRequest + 8, 3);
        memory.write<uint8_t>(kStatusByte, 0xee);
        buffers = {{kRequest, 16}, {kData, 512, true}, {kStatusByte, 1, true}};
        break;
      case Kind::kNet:
        queue = 1;
        buffers = {{kRequest, 12 + 60}};
        break;
      case Kind::kRng: buffers = {{kData, 32, true}}; break;
      case Kind::kConsole:
        queue = 1;
        buffers = {{kRequest, 10}};
        break;
      case Kind::kBalloon: buffers = {{kRequest, 4}}; break;
    }
    driver().queue(queue).add(buffers);
    driver().notify(queue);
    return queue;
  }
  void expect_answer(unsigned queue) {
    ASSERT_EQ(bench->wait_used(queue, 1).size(), 1u);
    if (kind() == Kind::kBlk) {
      EXPECT_EQ(memory.read<uint8_t>(kStatusByte), blk::kOk);
      EXPECT_EQ(memory.read<uint8_t>(kData + 511), 0x42);
    }
    if (kind() == Kind::kRng)
      EXPECT_NE(memory.read_bytes(kData, 32), std::vector<uint8_t>(32)) << "thirty-two random zeros";
  }
  // The state goes to a device of its own kind, made anew; the old one is gone.
  void move() {
    move_device(bench, [this] { build(); });
    bench->device().resume();
  }

  testing::FakeGuestMemory memory{8 << 20};
  SlowDisk::Shared disk;
  std::unique_ptr<base::IoThread> thread = *base::IoThread::create("test-io");
  std::unique_ptr<TransportBench> bench;
};

TEST_P(EveryDeviceTest, TakesAllThatItOffers) {
  ASSERT_TRUE(start());
  expect_answer(ask());
  EXPECT_FALSE(driver().status() & testing::VirtioDriver::kNeedsReset);
}

TEST_P(EveryDeviceTest, EmptyBuffersAndNoneAreHarmless) {
  ASSERT_TRUE(start());
  for (unsigned queue = 0; queue < queues(); ++queue) driver().notify(queue);
  for (unsigned queue = 0; queue < queues(); ++queue) {
    driver().queue(queue).add(std::vector<Buffer>{{0, 0}});
    driver().queue(queue).add(std::vector<Buffer>{{kRequest, 1}});
    driver().queue(queue).add(std::vector<Buffer>{{kData, 1, true}});
    driver().notify(queue);
  }
  thread->run_sync([] {});
  ASSERT_TRUE(start()) << "whatever it made of that, a reset helps";
  expect_answer(ask());
}

TEST_P(EveryDeviceTest, ResetsWhileItWorks) {
  for (unsigned round = 0; round < 20; ++round) {
    ASSERT_TRUE(start());
    ask();
    if (round % 2) driver().set_status(0);
    if (round % 3 == 0) bench->device().reset();
    if (round % 3 == 0) bench->connect();
  }
  ASSERT_TRUE(start());
  expect_answer(ask());
}

TEST_P(EveryDeviceTest, QueuesAreResetOneByOne) {
  ASSERT_TRUE(start());
  for (unsigned queue = 0; queue < queues(); ++queue) {
    driver().reset_queue(queue);
    EXPECT_FALSE(driver().queue_enabled(queue));
    driver().set_up_queue(queue, 8);
  }
  expect_answer(ask());
}

TEST_P(EveryDeviceTest, AFreshStateTravels) {
  bench->device().quiesce();
  move();
  ASSERT_TRUE(start());
  expect_answer(ask());
}

TEST_P(EveryDeviceTest, ARequestNotTakenTravels) {
  ASSERT_TRUE(start());
  bench->device().quiesce();
  const unsigned queue = ask();
  thread->run_sync([] {});
  EXPECT_TRUE(driver().queue(queue).collect().empty());
  move();
  expect_answer(queue);
  EXPECT_TRUE(TransportBench::eventually([&] { return bench->irqs.line.load(); }));
  expect_answer(ask());
}

TEST_P(EveryDeviceTest, APendingInterruptTravels) {
  ASSERT_TRUE(start());
  const unsigned queue = ask();
  ASSERT_TRUE(TransportBench::eventually([&] { return bench->irqs.line.load(); }));
  bench->device().quiesce();
  move();
  EXPECT_TRUE(bench->irqs.line);
  EXPECT_TRUE(driver().take_interrupt() & 1);  // a network card asks to be announced, besides
  expect_answer(queue);
  expect_answer(ask());
}

std::string name_of(const ::testing::TestParamInfo<Parameters>& info) {
  constexpr std::string_view kNames[] = {"Blk", "Net", "Rng", "Console", "Balloon"};
  return std::string(kNames[static_cast<unsigned>(std::get<0>(info.param))]) +
         (std::get<1>(info.param) == TransportKind::kPci ? "Pci" : "Mmio") +
         (std::get<2>(info.param) ? "Packed" : "Split");
}

INSTANTIATE_TEST_SUITE_P(All, EveryDeviceTest,
                         ::testing::Combine(::testing::ValuesIn(kKinds),
                                            ::testing::Values(TransportKind::kPci, TransportKind::kMmio),
                                            ::testing::Bool()),
                         name_of);

class DiskInFlightTest : public EveryDeviceTest {};

// What the disk works on is finished before the state is taken: the answer is in RAM, and is not asked for again.
TEST_P(DiskInFlightTest, ASubmittedRequestIsFinishedForASave) {
  ASSERT_TRUE(start());
  disk.hold = true;
  const unsigned queue = ask();
  const auto held = [this] {
    size_t count = 0;
    thread->run_sync([&] { count = disk.held.size(); });
    return count;
  };
  ASSERT_TRUE(TransportBench::eventually([&] { return held() == 1; }));
  std::atomic<bool> quiet{false};
  std::thread saver([&] {
    bench->device().quiesce();
    quiet = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(quiet) << "a request is under way";
  thread->loop().post([this] {
    SlowDisk::finish(disk, disk.held.front());
    disk.held.clear();
  });
  saver.join();
  disk.hold = false;
  EXPECT_EQ(memory.read<uint8_t>(kStatusByte), blk::kOk);
  move();
  EXPECT_EQ(driver().take_interrupt(), 1u);
  expect_answer(queue);
  EXPECT_EQ(disk.reads, 1u);
  expect_answer(ask());
}

INSTANTIATE_TEST_SUITE_P(All, DiskInFlightTest,
                         ::testing::Combine(::testing::Values(Kind::kBlk),
                                            ::testing::Values(TransportKind::kPci, TransportKind::kMmio),
                                            ::testing::Bool()),
                         name_of);

}  // namespace
}  // namespace rhea::devices::virtio
