// SPDX-License-Identifier: Apache-2.0
// A card behind a port: bus numbers, windows, bus mastering, pins, the port's reset of what is behind it.
#include "devices/pci/root_port/root_port.h"

#include <gtest/gtest.h>

#include "testing/device_harness.h"

namespace rhea::devices {
namespace {

class Registers final : public io::IoHandler {
 public:
  uint64_t io_read(uint64_t offset, unsigned) override { return 0x40 + offset; }
  void io_write(uint64_t, uint64_t, unsigned) override {}
};

class Card final : public PciFunction {
 public:
  Card()
      : PciFunction({.name = "card",
                     .vendor = 0x1af4,
                     .device = 0x1000,
                     .class_code = 0x020000,
                     .revision = 3,
                     .subsystem_vendor = 0x1af4,
                     .subsystem = 1,
                     .interrupt_pin = 2}) {
    add_bar(0, {.kind = BarKind::kMemory32, .size_bytes = 4096, .handler = &registers});
    add_bar(2, {.kind = BarKind::kMemory64, .size_bytes = 4096, .prefetchable = true, .handler = &registers});
  }
  void on_upstream_changed() override { ++changes; }
  Registers registers;
  int changes = 0;
};

class RootPortTest : public ::testing::Test {
 protected:
  static constexpr uint8_t kPort = 3 << 3 | 1;
  RootPortTest() {
    EXPECT_TRUE(bus_.add(port_, 3, 1).has_value());
    EXPECT_TRUE(port_.secondary_bus().add(card_, 0, 0).has_value());
    port_.set_occupied();
  }
  void port(uint16_t offset, uint32_t value, unsigned size = 2) { bus_.config_write(0, kPort, offset, value, size); }
  uint32_t port(uint16_t offset) { return bus_.config_read(0, kPort, offset, 2); }
  uint32_t card(uint16_t offset, unsigned size = 4, uint8_t bus = 5) { return bus_.config_read(bus, 0, offset, size); }
  void number() {
    port(0x18, 0x00070500, 4);  // bus 5, and up to 7 behind it
  }

  testing::DeviceHarness h_;
  PciBus::Context context_{.memory = h_.physical, .ports = h_.ports, .router = h_.router};
  PciBus bus_{context_};
  RootPort port_{{.name = "port1", .number = 1, .multifunction = true}, context_};
  Card card_;
};

TEST_F(RootPortTest, SaysThatItIsAPortWithADevice) {
  EXPECT_EQ(bus_.config_read(0, kPort, 0x0a, 2), 0x0604u);
  EXPECT_EQ(bus_.config_read(0, kPort, 0x0e, 1), 0x81u);
  const auto at = static_cast<uint16_t>(bus_.config_read(0, kPort, 0x34, 1));
  EXPECT_EQ(bus_.config_read(0, kPort, at, 1), 0x10u);
  EXPECT_EQ(port(static_cast<uint16_t>(at + 2)), 0x0142u) << "version 2, a root port with a slot";
  EXPECT_EQ(port(static_cast<uint16_t>(at + 0x1a)) & 0x40, 0x40u) << "occupied";
  EXPECT_EQ(bus_.config_read(0, kPort, static_cast<uint16_t>(at + 0x14), 4) >> 19, 2u) << "slot 2";
  EXPECT_EQ(bus_.config_read(0, kPort, static_cast<uint16_t>(at + 0x14), 4) & 0x40, 0u) << "no hot plug";
}

TEST_F(RootPortTest, ItsBusAnswersToItsNumber) {
  EXPECT_EQ(card(0), 0xffffffffu) << "no number yet";
  number();
  EXPECT_EQ(card(0), 0x10001af4u);
  EXPECT_EQ(card(0, 4, 6), 0xffffffffu) << "nothing is on the buses behind it";
  EXPECT_EQ(card(0, 4, 4), 0xffffffffu);
  EXPECT_EQ(bus_.config_read(5, 1 << 3, 0, 4), 0xffffffffu) << "one slot";
  port(0x18, 0x00000000, 4);
  EXPECT_EQ(card(0), 0xffffffffu);
}

TEST_F(RootPortTest, WindowsLetAccessesThrough) {
  number();
  bus_.config_write(5, 0, 0x10, 0xc0100000, 4);
  bus_.config_write(5, 0, 0x18, 0x00000000, 4);
  bus_.config_write(5, 0, 0x1c, 0x00000002, 4);
  bus_.config_write(5, 0, 0x04, 2, 2);
  EXPECT_NE(h_.read8(0xc0100004), 0x44) << "no window";
  port(0x20, 0xc010);
  port(0x22, 0xc010);
  EXPECT_NE(h_.read8(0xc0100004), 0x44) << "the port decodes no memory";
  port(0x04, 2);
  EXPECT_EQ(h_.read8(0xc0100004), 0x44);
  EXPECT_NE(h_.read8(0x200000004), 0x44);
  port(0x24, 0x0000);
  port(0x26, 0x0000);
  port(0x28, 2, 4);
  port(0x2c, 2, 4);
  EXPECT_EQ(h_.read8(0x200000004), 0x44) << "the prefetchable window reaches above 4 GiB";
  port(0x20, 0xc020);
  port(0x22, 0xc010);
  EXPECT_NE(h_.read8(0xc0100004), 0x44) << "a window whose end lies before its start is none";
  EXPECT_GT(card_.changes, 0);
}

TEST_F(RootPortTest, BusMasteringNeedsBoth) {
  number();
  bus_.config_write(5, 0, 0x04, 4, 2);
  EXPECT_FALSE(card_.bus_master());
  port(0x04, 4);
  EXPECT_TRUE(card_.bus_master());
  bus_.config_write(5, 0, 0x04, 0, 2);
  EXPECT_FALSE(card_.bus_master());
}

TEST_F(RootPortTest, PinsComeOutAtThePortsLines) {
  card_.set_intx(true);  // INTB of device 0 is INTB of the port's device
  EXPECT_TRUE(h_.irqs.levels[PciBus::intx_gsi(3, 1)]);
  card_.set_intx(false);
  EXPECT_FALSE(h_.irqs.levels[PciBus::intx_gsi(3, 1)]);
}

TEST_F(RootPortTest, ASecondaryResetReachesTheCard) {
  number();
  bus_.config_write(5, 0, 0x04, 6, 2);
  port(0x3e, 0x40);
  EXPECT_EQ(card(0x04, 2), 0u);
  bus_.config_write(5, 0, 0x04, 6, 2);
  port(0x3e, 0x40);
  EXPECT_EQ(card(0x04, 2), 6u) << "the bit was set already";
}

TEST_F(RootPortTest, StateTravels) {
  number();
  port(0x04, 6);
  port(0x20, 0xc010);
  port(0x22, 0xc010);
  bus_.config_write(5, 0, 0x10, 0xc0100000, 4);
  bus_.config_write(5, 0, 0x04, 6, 2);
  const auto card_state = h_.save(card_), port_state = h_.save(port_);
  testing::DeviceHarness other;
  PciBus::Context context{.memory = other.physical, .ports = other.ports, .router = other.router};
  PciBus bus(context);
  RootPort port({.name = "port1", .number = 1, .multifunction = true}, context);
  Card card;
  ASSERT_TRUE(bus.add(port, 3, 1).has_value());
  ASSERT_TRUE(port.secondary_bus().add(card, 0, 0).has_value());
  ASSERT_TRUE(h_.load(card, card_state).has_value());
  ASSERT_TRUE(h_.load(port, port_state).has_value());
  EXPECT_EQ(bus.config_read(5, 0, 0, 4), 0x10001af4u);
  EXPECT_EQ(other.read8(0xc0100004), 0x44);
  EXPECT_TRUE(card.bus_master());
}

}  // namespace
}  // namespace rhea::devices
