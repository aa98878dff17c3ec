// SPDX-License-Identifier: Apache-2.0
// Configuration space: identification, masks, BAR sizing and decoding, capabilities, INTx.
#include "devices/pci/pci_function.h"

#include <gtest/gtest.h>

#include "devices/pci/pci_bus.h"
#include "testing/device_harness.h"

namespace rhea::devices {
namespace {

class Registers final : public io::IoHandler {
 public:
  uint64_t io_read(uint64_t offset, unsigned) override { return 0x40 + offset; }
  void io_write(uint64_t offset, uint64_t value, unsigned) override { last = offset << 32 | value; }
  uint64_t last = 0;
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
                     .interrupt_pin = 1}) {
    add_bar(0, {.kind = BarKind::kIo, .size_bytes = 32, .handler = &registers});
    add_bar(1, {.kind = BarKind::kMemory32, .size_bytes = 4096, .handler = &registers});
    add_bar(4, {.kind = BarKind::kMemory64, .size_bytes = 0x4000, .prefetchable = true, .handler = &registers});
  }
  void on_config_written(uint16_t offset, unsigned) override { written = offset; }
  Registers registers;
  int written = -1;
};

class PciFunctionTest : public ::testing::Test {
 protected:
  PciFunctionTest() { EXPECT_TRUE(bus_.add(card_, 3, 0).has_value()); }
  uint32_t get(uint16_t offset, unsigned size = 4) { return bus_.config_read(0, 3 << 3, offset, size); }
  void set(uint16_t offset, uint32_t value, unsigned size = 4) { bus_.config_write(0, 3 << 3, offset, value, size); }

  testing::DeviceHarness h_;
  PciBus bus_{{.memory = h_.physical, .ports = h_.ports, .router = h_.router}};
  Card card_;
};

TEST_F(PciFunctionTest, Identification) {
  EXPECT_EQ(get(0), 0x10001af4u);
  EXPECT_EQ(get(8), 0x02000003u);
  EXPECT_EQ(get(0x2c), 0x00011af4u);
  EXPECT_EQ(get(0x3d, 1), 1u);
  set(0, 0xffffffff);
  set(8, 0xffffffff);
  EXPECT_EQ(get(0), 0x10001af4u) << "read-only";
  EXPECT_EQ(get(8), 0x02000003u);
  set(0x3c, 0xff, 1);
  EXPECT_EQ(get(0x3c, 2), 0x01ffu);
  EXPECT_EQ(get(0x0e, 1), 0u);
}

TEST_F(PciFunctionTest, AbsentFunctionsReadAllOnes) {
  EXPECT_EQ(bus_.config_read(0, 4 << 3, 0, 4), 0xffffffffu);
  EXPECT_EQ(bus_.config_read(0, 3 << 3 | 1, 0, 2), 0xffffu);
  EXPECT_EQ(bus_.config_read(1, 3 << 3, 0, 4), 0xffffffffu);
  bus_.config_write(1, 3 << 3, 4, 7, 2);
  EXPECT_EQ(get(4, 2), 0u);
}

TEST_F(PciFunctionTest, BarSizing) {
  const uint32_t expected[] = {0xffffffe1, 0xfffff000, 0, 0, 0xffffc00c, 0xffffffff};
  for (unsigned i = 0; i < 6; ++i) {
    set(static_cast<uint16_t>(0x10 + 4 * i), 0xffffffff);
    EXPECT_EQ(get(static_cast<uint16_t>(0x10 + 4 * i)), expected[i]) << i;
  }
  set(0x30, 0xffffffff);
  EXPECT_EQ(get(0x30), 0u) << "no ROM";
}

TEST_F(PciFunctionTest, BarsDecodeOnlyWhenEnabled) {
  set(0x10, 0xc000);
  set(0x14, 0xfebf0000);
  set(0x20, 0x00004000);
  set(0x24, 0x00000010);
  EXPECT_EQ(h_.in8(0xc001), 0xff);
  set(4, 1, 2);
  EXPECT_EQ(h_.in8(0xc001), 0x41);
  EXPECT_EQ(h_.read8(0xfebf0002), 0xff);
  set(4, 3, 2);
  EXPECT_EQ(h_.read8(0xfebf0002), 0x42);
  EXPECT_EQ(h_.read8(0x1000004003), 0x43);
  EXPECT_EQ(h_.read8(0x1000008000), 0xff) << "beyond its end";
  set(0x14, 0xfebe0000);
  EXPECT_EQ(h_.read8(0xfebf0002), 0xff) << "moved";
  EXPECT_EQ(h_.read8(0xfebe0002), 0x42);
  set(4, 0, 2);
  EXPECT_EQ(h_.in8(0xc001), 0xff);
  EXPECT_EQ(h_.read8(0xfebe0002), 0xff);
}

TEST_F(PciFunctionTest, BarsInImpossiblePlacesAreNotDecoded) {
  set(4, 3, 2);
  set(0x20, 0xffffffff);
  set(0x24, 0xffffffff);
  set(0x10, 0xffffffff);
  EXPECT_EQ(h_.in8(0xffe1), 0xff);
  set(0x10, 0);
  EXPECT_EQ(h_.in8(1), 0xff);
}

TEST_F(PciFunctionTest, RamHidesABar) {
  std::vector<std::byte> ram(4096, std::byte{0x77});
  h_.physical.map(
      {.start = 0x100000, .size_bytes = 4096, .kind = io::RangeKind::kRam, .host = ram.data(), .name = "ram"});
  set(0x14, 0x100000);
  set(4, 2, 2);
  EXPECT_EQ(h_.read8(0x100000), 0x77);
}

TEST_F(PciFunctionTest, StatusBitsClearByWritingOne) {
  card_.set_config(6, 2, 0x2010);
  EXPECT_EQ(get(6, 2), 0x2010u);
  set(6, 0xffff, 2);
  EXPECT_EQ(get(6, 2), 0x0010u);
}

TEST_F(PciFunctionTest, Capabilities) {
  const uint8_t first[] = {1, 2, 3}, mask[] = {0xff, 0, 0x0f}, second[] = {9};
  const uint16_t at = card_.add_capability(0x09, first, mask);
  const uint16_t next = card_.add_capability(0x11, second);
  EXPECT_EQ(at, 0x40);
  EXPECT_EQ(next % 4, 0);
  EXPECT_EQ(get(0x34, 1), at);
  EXPECT_EQ(get(6, 2) & 0x10, 0x10u);
  EXPECT_EQ(get(static_cast<uint16_t>(at + 1), 1), next);
  EXPECT_EQ(get(static_cast<uint16_t>(next + 1), 1), 0u);
  set(static_cast<uint16_t>(at), 0xffffffff);
  EXPECT_EQ(get(at), 0x02ff0009u | uint32_t{next} << 8);
  EXPECT_EQ(card_.written, at);
}

TEST_F(PciFunctionTest, IntxFollowsTheDisableBitAndSwizzle) {
  const unsigned gsi = PciBus::intx_gsi(3, 0);
  EXPECT_EQ(gsi, 19u);
  card_.set_intx(true);
  EXPECT_TRUE(h_.irqs.levels[gsi]);
  EXPECT_EQ(get(6, 2) & 8, 8u);
  set(4, 0x400, 2);
  EXPECT_FALSE(h_.irqs.levels[gsi]);
  EXPECT_EQ(get(4) & 0x80000, 0x80000u) << "the status shows it all the same";
  set(4, 0, 2);
  EXPECT_TRUE(h_.irqs.levels[gsi]);
  card_.set_intx(false);
  EXPECT_FALSE(h_.irqs.levels[gsi]);
  EXPECT_EQ(get(6, 1) & 8, 0u);
}

TEST_F(PciFunctionTest, SlotsAreChecked) {
  Card other;
  EXPECT_FALSE(bus_.add(other, 3, 0).has_value());
  EXPECT_FALSE(bus_.add(other, 32, 0).has_value());
  EXPECT_FALSE(bus_.add(other, 0, 8).has_value());
  EXPECT_TRUE(bus_.add(other, 3, 1).has_value());
}

TEST_F(PciFunctionTest, DestructionUnplugs) {
  {
    Card other;
    ASSERT_TRUE(bus_.add(other, 5, 0).has_value());
    bus_.config_write(0, 5 << 3, 0x10, 0xd000, 4);
    bus_.config_write(0, 5 << 3, 4, 1, 2);
    EXPECT_EQ(h_.in8(0xd000), 0x40);
  }
  EXPECT_EQ(h_.in8(0xd000), 0xff);
  EXPECT_EQ(bus_.config_read(0, 5 << 3, 0, 4), 0xffffffffu);
}

TEST_F(PciFunctionTest, ResetAndSaveLoad) {
  set(0x14, 0xfebf0000);
  set(4, 0x0007, 2);
  card_.set_intx(true);
  const auto file = testing::DeviceHarness::save(card_);

  testing::DeviceHarness other;
  PciBus bus({.memory = other.physical, .ports = other.ports, .router = other.router});
  Card copy;
  ASSERT_TRUE(bus.add(copy, 3, 0).has_value());
  ASSERT_TRUE(testing::DeviceHarness::load(copy, file).has_value());
  EXPECT_EQ(testing::DeviceHarness::save(copy), file);
  EXPECT_EQ(other.read8(0xfebf0002), 0x42);
  EXPECT_TRUE(other.irqs.levels[19]);

  card_.reset();
  EXPECT_EQ(get(4, 2), 0u);
  EXPECT_EQ(h_.read8(0xfebf0002), 0xff);
  EXPECT_FALSE(h_.irqs.levels[19]);
}

}  // namespace
}  // namespace rhea::devices
