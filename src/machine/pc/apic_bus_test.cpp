// SPDX-License-Identifier: Apache-2.0
// Who hears what on the APIC bus: destination modes, shorthands and message forms.
#include "machine/pc/apic_bus.h"

#include <gtest/gtest.h>

#include "io/instruction_clock.h"

namespace rhea::machine {
namespace {

class ApicBusTest : public testing::Test {
 protected:
  ApicBusTest() {
    for (unsigned id = 0; id < 4; ++id) {
      cpu::Lapic::Options options;
      options.id = id;
      options.bootstrap = id == 0;
      lapics_.push_back(std::make_unique<cpu::Lapic>(options, clock_, bus_));
      lapics_.back()->reset();
      bus_.add(*lapics_.back());
      lapics_.back()->io_write(0xf0, 0x1ff, 4);                     // enable
      lapics_.back()->io_write(0xd0, uint64_t{1} << (24 + id), 4);  // flat logical id
    }
  }
  // The APICs that have exactly this vector to deliver; takes it from them.
  std::vector<unsigned> receivers(uint8_t vector) {
    std::vector<unsigned> ids;
    for (unsigned id = 0; id < lapics_.size(); ++id) {
      if (lapics_[id]->pending() != cpu::LapicEvent::kInterrupt) continue;
      EXPECT_EQ(lapics_[id]->acknowledge_interrupt(), vector);
      lapics_[id]->io_write(0xb0, 0, 4);
      ids.push_back(id);
    }
    return ids;
  }
  using Ids = std::vector<unsigned>;

  io::InstructionClock clock_;
  io::IrqRouter router_;
  ApicBus bus_{router_};
  std::vector<std::unique_ptr<cpu::Lapic>> lapics_;
};

TEST_F(ApicBusTest, Messages) {
  auto send = [&](uint64_t address, uint32_t data) { bus_.deliver_msi({.address = address, .data = data}); };
  send(0xfee02000, 0x41);
  EXPECT_EQ(receivers(0x41), Ids{2});
  send(0xfeeff000, 0x42);
  EXPECT_EQ(receivers(0x42), (Ids{0, 1, 2, 3}));
  send(0xfee0a004, 0x43);  // logical 1010
  EXPECT_EQ(receivers(0x43), (Ids{1, 3}));
  send(0xfee09000, 0x44);
  EXPECT_EQ(receivers(0x44), Ids{});
  send(0x12345678, 0x45);
  send(0x1fee00000, 0x45);
  EXPECT_EQ(receivers(0x45), Ids{});
  send(0xfee00000, 0x8046);  // level, de-asserted
  EXPECT_EQ(receivers(0x46), Ids{});
}

TEST_F(ApicBusTest, LowestPriorityGoesToOneAndRotates) {
  std::vector<int> hits(4);
  for (int i = 0; i < 40; ++i) {
    bus_.deliver_msi({.address = 0xfee0f004, .data = 0x0150});
    Ids ids = receivers(0x50);
    ASSERT_EQ(ids.size(), 1u);
    ++hits[ids[0]];
  }
  for (int count : hits) EXPECT_GT(count, 0);
}

TEST_F(ApicBusTest, InterprocessorInterrupts) {
  bus_.send_ipi(0, (uint64_t{3} << 56) | 0x4000 | 0x61);
  EXPECT_EQ(receivers(0x61), Ids{3});
  bus_.send_ipi(1, 0xc4000 | 0x62);  // all excluding self
  EXPECT_EQ(receivers(0x62), (Ids{0, 2, 3}));
  bus_.send_ipi(1, 0x84000 | 0x63);  // all including self
  EXPECT_EQ(receivers(0x63), (Ids{0, 1, 2, 3}));
  bus_.send_ipi(0, (uint64_t{0x6} << 56) | 0x4800 | 0x64);  // logical
  EXPECT_EQ(receivers(0x64), (Ids{1, 2}));
}

TEST_F(ApicBusTest, InitAndStartup) {
  bus_.send_ipi(0, 0xc4500);
  EXPECT_FALSE(lapics_[0]->take_init());
  for (unsigned id : {1u, 2u, 3u}) EXPECT_TRUE(lapics_[id]->take_init()) << id;
  bus_.send_ipi(0, 0xc8500);  // level de-assert: nothing
  EXPECT_FALSE(lapics_[1]->take_init());
  bus_.send_ipi(0, (uint64_t{2} << 56) | 0x4600 | 0x9a);
  EXPECT_EQ(lapics_[2]->take_sipi(), std::optional<uint8_t>(0x9a));
  EXPECT_EQ(lapics_[1]->take_sipi(), std::nullopt);
}

TEST_F(ApicBusTest, X2apicDestinationsAreThirtyTwoBitsWide) {
  uint64_t base = lapics_[0]->apic_base();
  ASSERT_TRUE(lapics_[0]->write_msr(0x1b, base | (1u << 10)));
  bus_.send_ipi(0, (uint64_t{2} << 32) | 0x4000 | 0x71);
  EXPECT_EQ(receivers(0x71), Ids{2});
}

TEST_F(ApicBusTest, ExtIntGoesToTheBootProcessor) {
  for (auto& lapic : lapics_) lapic->io_write(0x350, 0x700, 4);
  bus_.set_ext_int(true);
  EXPECT_EQ(lapics_[0]->pending(), cpu::LapicEvent::kExtInt);
  EXPECT_EQ(lapics_[1]->pending(), cpu::LapicEvent::kNone);
}

}  // namespace
}  // namespace rhea::machine
