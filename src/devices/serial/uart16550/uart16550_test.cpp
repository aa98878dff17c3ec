// SPDX-License-Identifier: Apache-2.0
// The 16550A against its data sheet, and against what drivers probe for.
#include "devices/serial/uart16550/uart16550.h"

#include <gtest/gtest.h>

#include "testing/device_harness.h"

namespace rhea::devices {
namespace {

class FakeBackend final : public CharBackend {
 public:
  void write(std::span<const std::byte> data) override {
    for (const std::byte byte : data) sent += static_cast<char>(byte);
  }
  void set_receiver(CharReceiver* new_receiver) override { receiver = new_receiver; }
  void on_receive_ready() override { ++ready; }
  size_t send(std::string_view text) { return receiver->receive(std::as_bytes(std::span(text))); }

  std::string sent;
  CharReceiver* receiver = nullptr;
  int ready = 0;
};

constexpr uint16_t kThr = 0x3f8, kIer = 0x3f9, kIir = 0x3fa, kLcr = 0x3fb, kMcr = 0x3fc, kLsr = 0x3fd, kMsr = 0x3fe,
                   kScr = 0x3ff;

class UartTest : public ::testing::Test {
 protected:
  UartTest() { uart_.map_into(h_.ports); }
  void open() {  // 115200 8N1, FIFOs with trigger 8, interrupts connected
    h_.out8(kLcr, 0x83);
    h_.out8(kThr, 1);
    h_.out8(kIer, 0);
    h_.out8(kLcr, 0x03);
    h_.out8(kIir, 0x81);
    h_.out8(kMcr, 0x0b);
  }
  bool irq() { return h_.irqs.levels[4]; }

  testing::DeviceHarness h_;
  FakeBackend backend_;
  Uart16550 uart_{{}, {.clock = h_.clock, .irq = h_.line(4), .backend = &backend_}};
};

TEST_F(UartTest, ResetState) {
  EXPECT_EQ(h_.in8(kLsr), 0x60);
  EXPECT_EQ(h_.in8(kIir), 0x01);
  EXPECT_EQ(h_.in8(kIer), 0x00);
  EXPECT_EQ(h_.in8(kMsr), 0xb0);
  EXPECT_EQ(h_.in8(kMcr), 0x00);
}

TEST_F(UartTest, TransmitsAtOnce) {
  for (const char c : std::string("hello")) h_.out8(kThr, static_cast<uint8_t>(c));
  EXPECT_EQ(backend_.sent, "hello");
  EXPECT_EQ(h_.in8(kLsr) & 0x60, 0x60);
}

TEST_F(UartTest, ScratchAndDivisor) {
  h_.out8(kScr, 0xa5);
  EXPECT_EQ(h_.in8(kScr), 0xa5);
  h_.out8(kLcr, 0x80);
  h_.out8(kThr, 0x34);
  h_.out8(kIer, 0x12);
  EXPECT_EQ(h_.in8(kThr), 0x34);
  EXPECT_EQ(h_.in8(kIer), 0x12);
  h_.out8(kLcr, 0x03);
  EXPECT_EQ(h_.in8(kIer), 0x00);
  EXPECT_TRUE(backend_.sent.empty());
}

// The steps of a driver that tells the 8250 family apart.
TEST_F(UartTest, AutoconfigurationFindsA16550A) {
  h_.out8(kIer, 0x0f);
  EXPECT_EQ(h_.in8(kIer) & 0x0f, 0x0f);
  h_.out8(kIer, 0xff);
  EXPECT_EQ(h_.in8(kIer), 0x0f) << "no sleep or UART-enable bits";
  h_.out8(kIer, 0x00);
  h_.out8(kMcr, 0x1a);
  EXPECT_EQ(h_.in8(kMsr) & 0xf0, 0x90) << "loopback";
  h_.out8(kMcr, 0x00);
  h_.out8(kLcr, 0xbf);
  EXPECT_NE(h_.in8(kIir), 0x00) << "no EFR here";
  h_.out8(kLcr, 0x00);
  h_.out8(kIir, 0x01);
  EXPECT_EQ(h_.in8(kIir) >> 6, 3) << "16550A, not 16550";
  h_.out8(kIir, 0x21);
  EXPECT_EQ(h_.in8(kIir) & 0x20, 0) << "no 64-byte FIFO";
  h_.out8(kLcr, 0x80);
  h_.out8(kIir, 0x21);
  EXPECT_EQ(h_.in8(kIir) & 0x20, 0);
  h_.out8(kIir, 0x00);
  EXPECT_EQ(h_.in8(kIir) >> 6, 0);
}

TEST_F(UartTest, TransmitEmptyInterrupt) {
  open();
  EXPECT_FALSE(irq());
  h_.out8(kIer, 0x02);
  EXPECT_TRUE(irq()) << "enabling it with THR empty raises it";
  EXPECT_EQ(h_.in8(kIir), 0xc2);
  EXPECT_FALSE(irq()) << "reading IIR as the source clears it";
  EXPECT_EQ(h_.in8(kIir), 0xc1);
  h_.out8(kIer, 0x00);
  h_.out8(kIer, 0x02);
  EXPECT_EQ(h_.in8(kIir), 0xc2) << "asserted again by re-enabling";
  const unsigned before = h_.irqs.rising_edges[4];
  h_.out8(kThr, 'a');
  EXPECT_TRUE(irq());
  h_.out8(kThr, 'b');
  EXPECT_EQ(h_.irqs.rising_edges[4] - before, 2u) << "each write is a new edge";
}

TEST_F(UartTest, EnablingOtherBitsDoesNotRaiseTransmitEmpty) {
  open();
  h_.out8(kIer, 0x02);
  h_.in8(kIir);
  h_.out8(kIer, 0x03);
  EXPECT_FALSE(irq());
}

TEST_F(UartTest, Out2ConnectsTheInterrupt) {
  open();
  h_.out8(kMcr, 0x03);
  h_.out8(kIer, 0x02);
  EXPECT_FALSE(irq());
  h_.out8(kMcr, 0x0b);
  EXPECT_TRUE(irq());
}

TEST_F(UartTest, ReceiveTriggerAndTimeout) {
  open();
  h_.out8(kIer, 0x01);
  EXPECT_EQ(backend_.send("1234567"), 7u);
  EXPECT_FALSE(irq());
  EXPECT_EQ(h_.in8(kLsr) & 1, 1);
  backend_.send("8");
  EXPECT_TRUE(irq());
  EXPECT_EQ(h_.in8(kIir), 0xc4);
  EXPECT_EQ(h_.in8(kThr), '1');
  EXPECT_FALSE(irq()) << "below the trigger level";
  h_.clock.advance(4 * 86'806 - 1000);  // 10 bits at 115200 baud
  EXPECT_FALSE(irq());
  h_.clock.advance(2000);
  EXPECT_TRUE(irq());
  EXPECT_EQ(h_.in8(kIir), 0xcc);
  EXPECT_EQ(h_.in8(kThr), '2');
  EXPECT_FALSE(irq()) << "a read ends the timeout";
  h_.clock.advance(400'000);
  EXPECT_TRUE(irq());
  for (const char c : std::string("345678")) EXPECT_EQ(h_.in8(kThr), c);
  EXPECT_FALSE(irq());
  EXPECT_EQ(h_.in8(kLsr) & 1, 0);
  EXPECT_EQ(h_.in8(kIir), 0xc1);
  h_.clock.advance(400'000);
  EXPECT_FALSE(irq());
}

TEST_F(UartTest, SingleCharacterWithoutFifo) {
  open();
  h_.out8(kIir, 0x00);
  h_.out8(kIer, 0x01);
  EXPECT_EQ(backend_.send("ab"), 1u);
  EXPECT_TRUE(irq());
  EXPECT_EQ(h_.in8(kIir), 0x04);
  const int ready = backend_.ready;
  EXPECT_EQ(h_.in8(kThr), 'a');
  EXPECT_GT(backend_.ready, ready) << "the backend hears that there is room";
  EXPECT_EQ(backend_.send("b"), 1u);
}

TEST_F(UartTest, FlowControlTakesSixteen) {
  open();
  EXPECT_EQ(uart_.receive_capacity(), 16u);
  EXPECT_EQ(backend_.send(std::string(40, 'x')), 16u);
  EXPECT_EQ(uart_.receive_capacity(), 0u);
  EXPECT_EQ(h_.in8(kLsr) & 0x02, 0) << "nothing overran";
  h_.out8(kIir, 0x83);
  EXPECT_EQ(uart_.receive_capacity(), 16u) << "FIFO cleared";
  EXPECT_EQ(h_.in8(kLsr) & 1, 0);
}

TEST_F(UartTest, InterruptPriorities) {
  open();
  h_.out8(kIer, 0x0f);
  backend_.send(std::string(8, 'x'));
  backend_.receiver->receive_break();
  for (int i = 0; i < 8; ++i) h_.in8(kThr);  // the break is at the top now
  EXPECT_EQ(h_.in8(kIir) & 0x0f, 0x06);
  EXPECT_EQ(h_.in8(kLsr) & 0x91, 0x91) << "break, data ready, error in the FIFO";
  EXPECT_EQ(h_.in8(kLsr) & 0x10, 0) << "cleared by the read";
  EXPECT_EQ(h_.in8(kThr), 0);
  EXPECT_EQ(h_.in8(kIir) & 0x0f, 0x02);
  h_.out8(kMcr, 0x10);
  h_.out8(kMcr, 0x0b);
  EXPECT_EQ(h_.in8(kIir) & 0x0f, 0x00) << "modem status, the lowest";
  EXPECT_NE(h_.in8(kMsr) & 0x0f, 0);
  EXPECT_EQ(h_.in8(kMsr) & 0x0f, 0);
  EXPECT_EQ(h_.in8(kIir) & 0x0f, 0x01);
}

TEST_F(UartTest, Loopback) {
  open();
  h_.out8(kMcr, 0x10);
  for (const char c : std::string("loop")) h_.out8(kThr, static_cast<uint8_t>(c));
  EXPECT_TRUE(backend_.sent.empty());
  EXPECT_EQ(uart_.receive_capacity(), 0u);
  for (const char c : std::string("loop")) EXPECT_EQ(h_.in8(kThr), c);
  const uint8_t lines[][2] = {{0x11, 0x20}, {0x12, 0x10}, {0x14, 0x40}, {0x18, 0x80}};
  for (const auto& line : lines) {
    h_.out8(kMcr, line[0]);
    EXPECT_EQ(h_.in8(kMsr) & 0xf0, line[1]);
  }
  h_.out8(kMcr, 0x14);
  h_.in8(kMsr);
  h_.out8(kMcr, 0x10);
  EXPECT_EQ(h_.in8(kMsr) & 0x0f, 0x04) << "trailing edge of ring";
}

TEST_F(UartTest, OverrunInLoopback) {
  open();
  h_.out8(kMcr, 0x10);
  for (int i = 0; i < 17; ++i) h_.out8(kThr, static_cast<uint8_t>(i));
  EXPECT_EQ(h_.in8(kLsr) & 0x02, 0x02);
  for (int i = 0; i < 16; ++i) EXPECT_EQ(h_.in8(kThr), i) << "the FIFO is kept, the last character lost";
}

TEST_F(UartTest, WideAccessTouchesBothRegisters) {
  h_.out16(kLcr, 0x0b03);
  EXPECT_EQ(h_.in8(kLcr), 0x03);
  EXPECT_EQ(h_.in8(kMcr), 0x0b);
  EXPECT_EQ(h_.in16(kLcr), 0x0b03);
}

TEST_F(UartTest, SaveAndLoad) {
  open();
  h_.out8(kIer, 0x03);
  h_.out8(kScr, 0x77);
  backend_.send("abc");
  const auto file = testing::DeviceHarness::save(uart_);
  testing::DeviceHarness other;
  FakeBackend backend;
  Uart16550 copy({}, {.clock = other.clock, .irq = other.line(4), .backend = &backend});
  copy.map_into(other.ports);
  ASSERT_TRUE(testing::DeviceHarness::load(copy, file).has_value());
  EXPECT_EQ(testing::DeviceHarness::save(copy), file);
  EXPECT_TRUE(other.irqs.levels[4]);
  EXPECT_EQ(other.in8(kIir), 0xc2);
  other.clock.advance(1'000'000);
  EXPECT_EQ(other.in8(kIir), 0xcc);
  EXPECT_EQ(other.in8(kThr), 'a');
}

TEST_F(UartTest, WithoutBackend) {
  testing::DeviceHarness other;
  Uart16550 uart({.name = "serial1", .port = 0x2f8}, {.clock = other.clock, .irq = other.line(3)});
  uart.map_into(other.ports);
  other.out8(0x2f8, 'x');
  EXPECT_EQ(other.in8(0x2fd), 0x60);
}

}  // namespace
}  // namespace rhea::devices
