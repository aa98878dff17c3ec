// SPDX-License-Identifier: Apache-2.0
// Both ways into configuration space, and the two bridges.
#include "devices/pci/host_bridge/host_bridge.h"

#include <gtest/gtest.h>

#include "devices/acpi/reset_register/reset_register.h"
#include "devices/pci/lpc_bridge/lpc_bridge.h"
#include "testing/device_harness.h"

namespace rhea::devices {
namespace {

constexpr uint64_t kEcam = 0xb0000000;

class HostBridgeTest : public ::testing::Test {
 protected:
  HostBridgeTest() {
    EXPECT_TRUE(bridge_.install().has_value());
    EXPECT_TRUE(bus_.add(lpc_, 0x1f, 0).has_value());
  }
  uint32_t legacy(uint32_t address) {
    h_.out32(0xcf8, 0x80000000 | address);
    return h_.in32(0xcfc);
  }

  testing::DeviceHarness h_;
  int resets_ = 0;
  ResetRegister reset_{{.request_reset = [this] { ++resets_; }}};
  PciBus bus_{{.memory = h_.physical, .ports = h_.ports, .router = h_.router}};
  HostBridge bridge_{{}, {.bus = bus_, .reset_register = &reset_}};
  LpcBridge lpc_{{}};
};

TEST_F(HostBridgeTest, ConfigurationMechanismOne) {
  // As kernels look whether it is there.
  h_.out8(0xcfb, 0x01);
  const uint32_t before = h_.in32(0xcf8);
  h_.out32(0xcf8, 0x80000000);
  EXPECT_EQ(h_.in32(0xcf8), 0x80000000u);
  h_.out32(0xcf8, before);

  EXPECT_EQ(legacy(0), 0x29c08086u);
  EXPECT_EQ(legacy(8), 0x06000000u);
  EXPECT_EQ(legacy(0xf800), 0x29188086u);
  EXPECT_EQ(legacy(0x0800), 0xffffffffu);
  h_.out32(0xcf8, 0x80000000);
  EXPECT_EQ(h_.in16(0xcfe), 0x29c0);
  EXPECT_EQ(h_.in8(0xcfd), 0x80);
  h_.out32(0xcf8, 0);
  EXPECT_EQ(h_.in32(0xcfc), 0xffffffffu) << "not enabled";
  h_.out32(0xcf8, 0xffffffff);
  EXPECT_EQ(h_.in32(0xcf8), 0x80fffffcu);
}

TEST_F(HostBridgeTest, WithoutRamThereIsNoSmram) {
  bus_.config_write(0, 0, 0x9d, 0xff, 1);
  EXPECT_EQ(bus_.config_read(0, 0, 0x9d, 1), 0x02u);
}

TEST(HostBridgeSmram, OpenClosedLocked) {
  testing::DeviceHarness h;
  PciBus bus{{.memory = h.physical, .ports = h.ports, .router = h.router}};
  std::vector<std::byte> ram(16 << 20);
  HostBridge bridge({}, {.bus = bus, .low_ram = ram.data(), .low_ram_bytes = ram.size()});
  ASSERT_TRUE(bridge.install().has_value());
  ram[0xa0000] = std::byte{0x5a};
  const auto seen = [&](const std::vector<io::Range>& ranges, uint64_t address) {
    return io::FlatView(ranges).find(address) != nullptr;
  };
  const auto outside = [&](uint64_t address) { return seen(h.physical.view().ranges(), address); };
  const auto inside = [&](uint64_t address) { return seen(h.physical.view().smm_ranges(), address); };
  EXPECT_FALSE(outside(0xa0000) || inside(0xa0000));
  bus.config_write(0, 0, 0x9d, 0x08, 1);
  EXPECT_TRUE(!outside(0xa0000) && inside(0xa0000) && inside(0xbffff));
  bus.config_write(0, 0, 0x9d, 0x48, 1);
  EXPECT_TRUE(outside(0xa0000) && inside(0xa0000));
  EXPECT_EQ(h.physical.read(0xa0000, 1), 0x5au);
  bus.config_write(0, 0, 0x9e, 0x03, 1);  // TSEG of 2 MiB
  EXPECT_EQ(bus.config_read(0, 0, 0x9e, 1), 0x3bu);
  EXPECT_TRUE(outside(14 << 20) && !inside(14 << 20) && !outside((14 << 20) - 1));
  const auto open = testing::DeviceHarness::save(bridge);
  bus.config_write(0, 0, 0x9d, 0x58, 1);
  EXPECT_EQ(bus.config_read(0, 0, 0x9d, 1), 0x1au) << "a lock closes";
  bus.config_write(0, 0, 0x9d, 0x40, 1);
  bus.config_write(0, 0, 0x9e, 0x00, 1);
  EXPECT_EQ(bus.config_read(0, 0, 0x9d, 1), 0x1au);
  EXPECT_EQ(bus.config_read(0, 0, 0x9e, 1), 0x3bu);
  EXPECT_TRUE(!outside(0xa0000) && inside(0xa0000));
  bridge.reset();
  EXPECT_EQ(bus.config_read(0, 0, 0x9d, 1), 0x02u);
  EXPECT_FALSE(inside(0xa0000) || outside(14 << 20));
  ASSERT_TRUE(testing::DeviceHarness::load(bridge, open).has_value());
  EXPECT_TRUE(outside(0xa0000));
}

TEST_F(HostBridgeTest, NarrowAccessesToTheAddressPortAreSomethingElse) {
  h_.out32(0xcf8, 0x80000000);
  h_.out8(0xcf8, 0x40);
  h_.out16(0xcfa, 0x1234);
  EXPECT_EQ(h_.in32(0xcf8), 0x80000000u);
  EXPECT_EQ(h_.in8(0xcf8), 0xff);
  EXPECT_EQ(h_.in8(0xcfa), 0xff) << "mechanism #2 is not here";
}

TEST_F(HostBridgeTest, ResetRegisterLivesAtCf9) {
  h_.out8(0xcf9, 0x02);
  EXPECT_EQ(h_.in8(0xcf9), 0x02);
  h_.out8(0xcf9, 0x06);
  EXPECT_EQ(resets_, 1);
  h_.out32(0xcf8, 0x80000600);
  EXPECT_EQ(resets_, 1) << "a configuration address is not a reset";
}

TEST_F(HostBridgeTest, Ecam) {
  EXPECT_EQ(h_.read32(kEcam), 0x29c08086u);
  EXPECT_EQ(h_.read16(kEcam + (0x1f << 15) + 2), 0x2918);
  EXPECT_EQ(h_.read64(kEcam), 0x00000000'29c08086ull);
  EXPECT_EQ(h_.read32(kEcam + (1 << 20)), 0xffffffffu);
  EXPECT_EQ(h_.read32(kEcam + 0x100), 0u) << "extended space of a bridge without any";
  EXPECT_EQ(h_.read32(kEcam + 1), 0x0029c080u);
  h_.write8(kEcam + (0x1f << 15) + 0x60, 0x0b);
  EXPECT_EQ(legacy(0xf860) & 0xff, 0x0bu);
  EXPECT_EQ(h_.read32(kEcam + (256u << 20) - 4), 0xffffffffu);
}

TEST_F(HostBridgeTest, PciExBarMovesTheWindow) {
  EXPECT_EQ(legacy(0x60), 0xb0000001u);
  h_.out32(0xcf8, 0x80000060);
  h_.out32(0xcfc, 0xe0000001);
  EXPECT_EQ(h_.read32(0xe0000000), 0x29c08086u);
  EXPECT_EQ(h_.read32(kEcam), 0xffffffffu);
  h_.out32(0xcfc, 0xe4000005);  // 64 MiB
  EXPECT_EQ(h_.read32(0xe4000000), 0x29c08086u);
  EXPECT_EQ(h_.read32(0xe8000000), 0xffffffffu);
  h_.out32(0xcfc, 0xe0000000);
  EXPECT_EQ(h_.read32(0xe0000000), 0xffffffffu);
  h_.out32(0xcfc, 0xe0000007);
  EXPECT_EQ(h_.read32(0xe0000000), 0xffffffffu) << "reserved length";
  bridge_.reset();
  EXPECT_EQ(h_.read32(kEcam), 0x29c08086u);
}

TEST_F(HostBridgeTest, LpcBridgeShowsThePmBase) {
  EXPECT_EQ(legacy(0xf840), 0x601u);
  EXPECT_EQ(legacy(0xf844) & 0xff, 0x80u);
  h_.out32(0xcfc, 0);
  EXPECT_EQ(legacy(0xf808), 0x06010002u);
  EXPECT_EQ(legacy(0xf804) & 0xffff, 7u);
  EXPECT_EQ(legacy(0xf860), 0x80808080u);
}

TEST_F(HostBridgeTest, SaveAndLoad) {
  h_.out32(0xcf8, 0x80000060);
  h_.out32(0xcfc, 0xe0000001);
  const auto file = testing::DeviceHarness::save(bridge_);
  testing::DeviceHarness other;
  PciBus bus({.memory = other.physical, .ports = other.ports, .router = other.router});
  HostBridge copy({}, {.bus = bus});
  ASSERT_TRUE(copy.install().has_value());
  ASSERT_TRUE(testing::DeviceHarness::load(copy, file).has_value());
  EXPECT_EQ(testing::DeviceHarness::save(copy), file);
  EXPECT_EQ(other.read32(0xe0000000), 0x29c08086u);
  EXPECT_EQ(other.in32(0xcfc), 0xe0000001u);
  LpcBridge lpc({});
  EXPECT_FALSE(testing::DeviceHarness::load(lpc, file).has_value()) << "another device's section";
}

}  // namespace
}  // namespace rhea::devices
