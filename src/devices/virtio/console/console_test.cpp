// SPDX-License-Identifier: Apache-2.0
// The console under both transports: bytes both ways, ports, sizes, state.
#include "devices/virtio/console/console.h"

#include <gtest/gtest.h>

#include <cstring>
#include <mutex>

#include "devices/virtio/console/console_wire.h"
#include "devices/virtio/transport_bench_test.h"
#include "devices/virtio/virtio_regs.h"

namespace rhea::devices::virtio {
namespace {

using namespace console;
using Buffer = testing::VirtqueueDriver::Buffer;
constexpr uint64_t kOut = 0x10000, kIn = 0x20000, kControl = 0x30000;

class FakeBackend final : public CharBackend {
 public:
  void write(std::span<const std::byte> data) override {
    const std::lock_guard lock(mutex);
    for (const std::byte byte : data) text += static_cast<char>(byte);
  }
  void set_receiver(CharReceiver* to) override { receiver = to; }
  void on_receive_ready() override { ++ready; }
  size_t type(std::string_view keys) { return receiver->receive(std::as_bytes(std::span(keys))); }
  std::string written() {
    const std::lock_guard lock(mutex);
    return text;
  }
  std::mutex mutex;
  std::string text;
  CharReceiver* receiver = nullptr;
  std::atomic<int> ready{0};
};

class ConsoleTest : public ::testing::TestWithParam<TransportAndRing> {
 protected:
  ConsoleTest() { build(); }
  void build() {
    bench.reset();  // a backend has one device at a time
    auto created =
        Console::create({.ports = {{.backend = &terminal}, {.name = "org.example.agent", .backend = &agent}}},
                        {.memory = memory.get(), .thread = *thread});
    ASSERT_TRUE(created);
    device = created->get();
    bench = std::make_unique<TransportBench>(std::get<0>(GetParam()), memory, std::move(*created));
  }
  bool start(uint64_t features) {
    return driver().start(features | (std::get<1>(GetParam()) ? kFeaturePacked : 0), 6, 16);
  }
  testing::VirtioDriver& driver() { return bench->driver(); }
  void put(unsigned queue, std::string_view text) {
    memory.write_bytes(kOut, std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
    driver().queue(queue).add(std::vector<Buffer>{{kOut, static_cast<uint32_t>(text.size())}});
    driver().notify(queue);
    EXPECT_EQ(bench->wait_used(queue, 1).size(), 1u);
  }
  void offer(unsigned queue, unsigned buffers, uint32_t length = 64) {
    for (unsigned i = 0; i < buffers; ++i)
      driver().queue(queue).add(std::vector<Buffer>{{kIn + 0x1000 * queue + 0x100 * i, length, true}});
    driver().notify(queue);
  }
  std::string got(unsigned queue, unsigned buffer, uint32_t length) {
    const auto bytes = memory.read_bytes(kIn + 0x1000 * queue + 0x100 * buffer, length);
    return {bytes.begin(), bytes.end()};
  }
  struct Message {
    uint32_t port;
    uint16_t event, value;
    bool operator==(const Message&) const = default;
  };
  void control(const Message& message) {
    memory.write<uint32_t>(kControl, message.port);
    memory.write<uint16_t>(kControl + 4, message.event);
    memory.write<uint16_t>(kControl + 6, message.value);
    driver().queue(kControlTransmit).add(std::vector<Buffer>{{kControl, 8}});
    driver().notify(kControlTransmit);
    EXPECT_EQ(bench->wait_used(kControlTransmit, 1).size(), 1u);
  }
  Message told(unsigned buffer) {
    const uint64_t at = kIn + 0x1000 * kControlReceive + 0x100 * buffer;
    return {memory.read<uint32_t>(at), memory.read<uint16_t>(at + 4), memory.read<uint16_t>(at + 6)};
  }

  testing::FakeGuestMemory memory{8 << 20};
  FakeBackend terminal, agent;
  std::unique_ptr<base::IoThread> thread = *base::IoThread::create("test-io");
  std::unique_ptr<TransportBench> bench;
  Console* device = nullptr;
};

TEST_P(ConsoleTest, ASinglePortCarriesBytesBothWays) {
  ASSERT_TRUE(start(0));
  put(1, "hello\n");
  EXPECT_EQ(terminal.written(), "hello\n");
  EXPECT_EQ(terminal.type("keys"), 4u);  // before there is a buffer
  offer(0, 2);
  const auto used = bench->wait_used(0, 1);
  ASSERT_EQ(used.size(), 1u);
  EXPECT_EQ(got(0, 0, used[0].length), "keys");
  EXPECT_EQ(terminal.type("more"), 4u);
  EXPECT_EQ(bench->wait_used(0, 1)[0].length, 4u);
  EXPECT_EQ(got(0, 1, 4), "more");
  EXPECT_EQ(terminal.ready, 2);
}

TEST_P(ConsoleTest, InputWaitsInABoundedPlace) {
  ASSERT_TRUE(start(0));
  const std::string much(10000, 'x');
  const size_t taken = terminal.type(much);
  EXPECT_LT(taken, much.size());
  EXPECT_EQ(terminal.type("y"), 0u);
  EXPECT_EQ(terminal.receiver->receive_capacity(), 0u);
  offer(0, 1, 100);
  EXPECT_EQ(bench->wait_used(0, 1)[0].length, 100u);
  EXPECT_TRUE(TransportBench::eventually([&] { return terminal.receiver->receive_capacity() == 100; }));
}

TEST_P(ConsoleTest, PortsAreIntroducedAndOpened) {
  ASSERT_TRUE(start(kFeatureMultiport | kFeatureSize));
  device->set_size(132, 43);
  EXPECT_EQ(driver().read_configuration(kMaximumPorts, 4), 2u);
  offer(kControlReceive, 12);
  control({0, kDeviceReady, 1});
  EXPECT_EQ(bench->wait_used(kControlReceive, 2).size(), 2u);
  EXPECT_EQ(told(0), (Message{0, kDeviceAdd, 1}));
  EXPECT_EQ(told(1), (Message{1, kDeviceAdd, 1}));
  control({0, kPortReady, 1});
  control({1, kPortReady, 1});
  EXPECT_EQ(bench->wait_used(kControlReceive, 4).size(), 4u);
  EXPECT_EQ(told(2), (Message{0, kConsolePort, 1}));
  EXPECT_EQ(told(3), (Message{0, kPortOpen, 1}));
  EXPECT_EQ(told(4), (Message{1, kPortName, 1}));
  EXPECT_EQ(got(kControlReceive, 4, 25).substr(8), "org.example.agent");
  EXPECT_EQ(told(5), (Message{1, kPortOpen, 1}));
  control({0, kPortOpen, 1});
  EXPECT_EQ(bench->wait_used(kControlReceive, 1)[0].length, 12u);
  EXPECT_EQ(told(6), (Message{0, kResize, 0}));
  EXPECT_EQ(memory.read<uint16_t>(kIn + 0x1000 * kControlReceive + 0x600 + 8), 132);
  EXPECT_EQ(memory.read<uint16_t>(kIn + 0x1000 * kControlReceive + 0x600 + 10), 43);
  device->set_size(80, 24);
  EXPECT_EQ(bench->wait_used(kControlReceive, 1)[0].length, 12u);
  EXPECT_EQ(driver().read_configuration(kColumns, 2), 80u);

  put(transmit_queue(1), "to the agent");
  EXPECT_EQ(agent.written(), "to the agent");
  offer(receive_queue(1), 1);
  EXPECT_EQ(agent.type("from it"), 7u);
  thread->run_sync([] {});
  EXPECT_TRUE(driver().queue(receive_queue(1)).collect().empty()) << "nobody has it open";
  control({1, kPortOpen, 1});
  EXPECT_EQ(bench->wait_used(receive_queue(1), 1)[0].length, 7u);
  control({7, kPortReady, 1});  // no such port
  control({1, 99, 1});
  put(transmit_queue(0), "still here");
  EXPECT_EQ(terminal.written(), "still here");
}

TEST_P(ConsoleTest, ADriverThatTakesNoMessagesGetsNoMoreOfThem) {
  ASSERT_TRUE(start(kFeatureMultiport));
  for (unsigned i = 0; i < 600; ++i) control({1, kPortReady, 1});
  offer(kControlReceive, 14);
  EXPECT_EQ(bench->wait_used(kControlReceive, 14).size(), 14u);
}

TEST_P(ConsoleTest, StateTravelsAtEachStage) {
  for (unsigned stage = 0; stage < 4; ++stage) {  // output not taken; input without buffer; message without one; used
    SCOPED_TRACE(stage);
    build();
    terminal.text.clear();
    ASSERT_TRUE(start(kFeatureMultiport));
    control({0, kPortOpen, 1});
    offer(kControlReceive, 1);
    EXPECT_EQ(bench->wait_used(kControlReceive, 1).size(), 1u);  // the size
    if (stage == 0) {
      bench->device().quiesce();
      memory.write_bytes(kOut, std::vector<uint8_t>{'o', 'k'});
      driver().queue(1).add(std::vector<Buffer>{{kOut, 2}});
      driver().notify(1);
    }
    if (stage == 1) EXPECT_EQ(terminal.type("input"), 5u);
    if (stage == 2) control({0, kDeviceReady, 1});
    if (stage == 3) {
      driver().take_interrupt();
      offer(0, 1);
      EXPECT_EQ(terminal.type("input"), 5u);
      ASSERT_TRUE(TransportBench::eventually([&] { return bench->irqs.line.load(); }));
    }
    if (stage != 0) bench->device().quiesce();
    move_device(bench, [this] { build(); });
    bench->device().resume();
    if (stage == 0) {
      EXPECT_EQ(bench->wait_used(1, 1).size(), 1u);
      EXPECT_EQ(terminal.written(), "ok");
    }
    if (stage == 1) offer(0, 1);
    if (stage == 1 || stage == 3) {
      EXPECT_EQ(bench->wait_used(0, 1)[0].length, 5u);
      EXPECT_EQ(got(0, 0, 5), "input");
    }
    if (stage == 2) {
      offer(kControlReceive, 3);
      EXPECT_EQ(bench->wait_used(kControlReceive, 3).size(), 3u);
      EXPECT_EQ(told(0), (Message{0, kDeviceAdd, 1}));
      EXPECT_EQ(told(1), (Message{1, kDeviceAdd, 1}));
      EXPECT_EQ(told(2), (Message{0, kResize, 0})) << "the terminal here may have another size";
    }
    EXPECT_TRUE(TransportBench::eventually([&] { return bench->irqs.line.load(); }));
  }
}

INSTANTIATE_TEST_SUITE_P(All, ConsoleTest, all_transports(), transport_name);

}  // namespace
}  // namespace rhea::devices::virtio
