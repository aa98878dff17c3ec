// SPDX-License-Identifier: Apache-2.0
// The fakes do what tests believe they do; and what they lead to works end to end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "testing/device_harness.h"
#include "testing/guest_memory_fake.h"

namespace rhea::testing {
namespace {

using ::testing::ElementsAre;

TEST(FakeClock, TimersFireOnTheirDeadlines) {
  FakeClock clock;
  std::vector<uint64_t> at;
  std::unique_ptr<io::Timer> periodic;
  periodic = clock.create_timer([&] {
    at.push_back(clock.now_ns());
    periodic->arm(clock.now_ns() + 10);
  });
  periodic->arm(5);
  clock.advance(4);
  EXPECT_TRUE(at.empty());
  clock.advance(31);
  EXPECT_THAT(at, ElementsAre(5, 15, 25, 35));
  EXPECT_EQ(clock.now_ns(), 35u);
  EXPECT_EQ(clock.next_deadline(), 45u);
  clock.set_wall_time_ns(1000);
  clock.advance(1);
  EXPECT_EQ(clock.wall_time_ns(), 1001);
}

// A small timer device: port 0 arms an interrupt in as many ns, port 4 acknowledges.
class Alarm final : public io::Device, public io::IoHandler {
 public:
  Alarm(io::Clock& clock, io::IrqLine line)
      : clock_(clock), line_(line), timer_(clock.create_timer([this] { line_.set(true); })) {}
  std::string_view name() const override { return "alarm"; }
  void reset() override {
    timer_->cancel();
    line_.set(false);
    delay_ = 0;
  }
  void save_state(state::StateWriter& writer) const override { writer.field("delay", delay_); }
  Status load_state(state::StateReader& reader) override {
    reader.field("delay", delay_);
    return reader.status();
  }
  uint64_t io_read(uint64_t offset, unsigned) override { return offset == 0 ? delay_ : line_.level(); }
  void io_write(uint64_t offset, uint64_t value, unsigned) override {
    if (offset == 4) return line_.set(false);
    delay_ = static_cast<uint32_t>(value);
    timer_->arm(clock_.now_ns() + value);
  }

 private:
  io::Clock& clock_;
  io::IrqLine line_;
  uint32_t delay_ = 0;
  std::unique_ptr<io::Timer> timer_;
};

TEST(DeviceHarness, DrivesADevice) {
  DeviceHarness harness;
  Alarm alarm(harness.clock, harness.line(5));
  harness.map_ports(0x100, 8, alarm);
  harness.map_mmio(0xfe000000, 8, alarm);
  harness.out32(0x100, 500);
  harness.clock.advance(499);
  EXPECT_FALSE(harness.irqs.levels[5]);
  harness.clock.advance(1);
  EXPECT_TRUE(harness.irqs.levels[5]);
  EXPECT_EQ(harness.in8(0x104), 1);
  harness.write8(0xfe000004, 0);
  EXPECT_FALSE(harness.irqs.levels[5]);
  EXPECT_EQ(harness.irqs.rising_edges[5], 1u);
  EXPECT_EQ(harness.read32(0xfe000000), 500u);

  const auto file = DeviceHarness::save(alarm);
  alarm.reset();
  EXPECT_EQ(harness.in32(0x100), 0u);
  ASSERT_TRUE(DeviceHarness::load(alarm, file));
  EXPECT_EQ(harness.in32(0x100), 500u);
  const auto newer = DeviceHarness::save(alarm, 2);
  EXPECT_EQ(DeviceHarness::load(alarm, newer).error().code(), ErrorCode::kUnsupported);
}

TEST(FakeGuestMemory, TypedAccess) {
  FakeGuestMemory ram(1 << 20);
  FakeWriteObserver observer;
  ram->add_observer(&observer);
  ram->page_meta({0x2000}).store(memory::kPageHasCode);
  ram.write<uint32_t>(0x1ffe, 0x44332211);
  EXPECT_EQ(ram.read<uint16_t>(0x1fff), 0x3322);
  EXPECT_THAT(ram.read_bytes(0x1ffe, 4), ElementsAre(0x11, 0x22, 0x33, 0x44));
  EXPECT_THAT(observer.writes, ElementsAre(FakeWriteObserver::Write{0x2000, 4096}));
  ram->remove_observer(&observer);
}

}  // namespace
}  // namespace rhea::testing
