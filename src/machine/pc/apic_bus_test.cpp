// SPDX-License-Identifier: Apache-2.0
// Who hears what on the APIC bus: destination modes, shorthands and message forms.
#include "machine/pc/apic_bus.h"

#include <gtest/gtest.h>

#include "io/instruction_clock.h"

namespace rhea::machine {
namespace {

class ApicBusTest : public testing::Test {
 protected:
  ApicBusTest() { add_up_to(4); }
  void add_up_to(unsigned count) {
    for (auto id = static_cast<unsigned>(lapics_.size()); id < count; ++id) {
      cpu::Lapic::Options options;
      options.id = id;
      options.bootstrap = id == 0;
      lapics_.push_back(std::make_unique<cpu::Lapic>(options, clock_, bus_));
      lapics_.back()->reset();
      bus_.add(*lapics_.back());
      lapics_.back()->io_write(0xf0, 0x1ff, 4);                         // enable
      lapics_.back()->io_write(0xd0, uint64_t{1} << (24 + id % 8), 4);  // flat logical id
    }
  }
  void enter_x2apic(unsigned id) { ASSERT_TRUE(lapics_[id]->write_msr(0x1b, lapics_[id]->apic_base() | (1u << 10))); }
  // The APICs that have exactly this vector to deliver; takes it from them.
  std::vector<unsigned> receivers(uint8_t vector) {
    std::vector<unsigned> ids;
    for (unsigned id = 0; id < lapics_.size(); ++id) {
      if (lapics_[id]->pending() != cpu::LapicEvent::kInterrupt) continue;
      EXPECT_EQ(lapics_[id]->acknowledge_interrupt(), vector);
      if (lapics_[id]->apic_base() & (1u << 10))
        EXPECT_TRUE(lapics_[id]->write_msr(0x80b, 0));
      else
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

// [SDM-3A table 11-3] What has no vector reaches APICs whether software has enabled them or not.
TEST_F(ApicBusTest, DeliveryModes) {
  lapics_[1]->io_write(0xf0, 0xff, 4);  // disabled by software
  using Event = cpu::LapicEvent;
  const std::pair<uint64_t, Event> cases[] = {{0x4200, Event::kSmi}, {0x4400, Event::kNmi}};
  for (const auto& [icr, event] : cases) {
    bus_.send_ipi(0, (uint64_t{1} << 56) | icr);
    EXPECT_EQ(lapics_[1]->pending(), event);
    EXPECT_TRUE(event == Event::kSmi ? lapics_[1]->take_smi() : lapics_[1]->take_nmi());
    bus_.deliver_msi({.address = 0xfee01000, .data = static_cast<uint32_t>(icr)});
    EXPECT_EQ(lapics_[1]->pending(), event);
    EXPECT_TRUE(event == Event::kSmi ? lapics_[1]->take_smi() : lapics_[1]->take_nmi());
  }
  bus_.send_ipi(0, (uint64_t{1} << 56) | 0x4040);
  bus_.send_ipi(0, (uint64_t{1} << 56) | 0x4700);  // ExtINT: not a valid IPI
  EXPECT_EQ(lapics_[1]->pending(), Event::kNone);
  bus_.send_ipi(0, (uint64_t{1} << 56) | 0x4100 | 0x50);  // lowest priority, and nobody who takes part
  EXPECT_EQ(lapics_[1]->pending(), Event::kNone);
  // By logical destination one of those that take part.
  for (int i = 0; i < 12; ++i) {
    bus_.send_ipi(0, (uint64_t{0xf} << 56) | 0x4900 | 0x51);
    const Ids ids = receivers(0x51);
    ASSERT_EQ(ids.size(), 1u);
    EXPECT_NE(ids[0], 1u);
  }
  bus_.send_ipi(0, 0x84100 | 0x52);  // by shorthand all of them
  EXPECT_EQ(receivers(0x52), (Ids{0, 2, 3}));
}

TEST_F(ApicBusTest, IoApicMessages) {
  // RH and DM as an I/O APIC sets them: lowest priority among a logical destination, level-triggered.
  for (int i = 0; i < 8; ++i) {
    bus_.deliver_msi({.address = 0xfee0600c, .data = 0xc158});
    const Ids ids = receivers(0x58);
    ASSERT_EQ(ids.size(), 1u);
    EXPECT_TRUE(ids[0] == 1 || ids[0] == 2);
  }
  bus_.deliver_msi({.address = 0xfee02008, .data = 0x4059});  // redirection hint, physical: that one
  EXPECT_EQ(receivers(0x59), Ids{2});
  bus_.deliver_msi({.address = 0xfee00000, .data = 0x4700});  // ExtINT: comes over LINT0
  EXPECT_EQ(lapics_[0]->pending(), cpu::LapicEvent::kNone);
}

TEST_F(ApicBusTest, ClusterModel) {
  for (unsigned id = 0; id < 4; ++id) {
    lapics_[id]->io_write(0xe0, 0x0fffffff, 4);
    lapics_[id]->io_write(0xd0, (id / 2u) << 28 | 1u << (24 + id % 2u), 4);
  }
  bus_.send_ipi(0, (uint64_t{0x13} << 56) | 0x4800 | 0x61);
  EXPECT_EQ(receivers(0x61), (Ids{2, 3}));
  bus_.send_ipi(0, (uint64_t{0x01} << 56) | 0x4800 | 0x62);
  EXPECT_EQ(receivers(0x62), Ids{0});
  bus_.send_ipi(0, (uint64_t{0xff} << 56) | 0x4800 | 0x63);
  EXPECT_EQ(receivers(0x63), (Ids{0, 1, 2, 3}));
}

TEST_F(ApicBusTest, X2apicDestinationsAreThirtyTwoBitsWide) {
  enter_x2apic(0);
  bus_.send_ipi(0, (uint64_t{2} << 32) | 0x4000 | 0x71);
  EXPECT_EQ(receivers(0x71), Ids{2});
  bus_.send_ipi(0, (uint64_t{0x102} << 32) | 0x4000 | 0x71);
  EXPECT_EQ(receivers(0x71), Ids{});
  bus_.send_ipi(0, (uint64_t{0xffffffff} << 32) | 0x4000 | 0x72);
  EXPECT_EQ(receivers(0x72), (Ids{0, 1, 2, 3}));
  bus_.send_ipi(0, (uint64_t{0xff} << 32) | 0x4000 | 0x73);
  EXPECT_EQ(receivers(0x73), (Ids{1, 2, 3})) << "255 is a broadcast to xAPICs alone";
  // From eight bits it is one to all.
  bus_.send_ipi(1, (uint64_t{0xff} << 56) | 0x4000 | 0x74);
  EXPECT_EQ(receivers(0x74), (Ids{0, 1, 2, 3}));
  bus_.deliver_msi({.address = 0xfeeff000, .data = 0x4075});
  EXPECT_EQ(receivers(0x75), (Ids{0, 1, 2, 3}));
}

TEST_F(ApicBusTest, X2apicClustersOfMany) {
  add_up_to(255);
  for (unsigned id = 0; id < lapics_.size(); ++id) enter_x2apic(id);
  auto logical = [&](uint32_t destination, uint8_t vector) {
    bus_.send_ipi(3, (uint64_t{destination} << 32) | 0x4800 | vector);
    return receivers(vector);
  };
  EXPECT_EQ(logical(0x00008001, 0x80), (Ids{0, 15}));
  EXPECT_EQ(logical(0x00020003, 0x81), (Ids{32, 33}));
  EXPECT_EQ(logical(0x000fffff, 0x82).size(), 15u) << "the last cluster has no 255";
  EXPECT_EQ(logical(0x00100001, 0x83), Ids{});
  EXPECT_EQ(logical(0xffffffff, 0x84).size(), 255u);
  bus_.send_ipi(3, (uint64_t{254} << 32) | 0x4000 | 0x85);
  EXPECT_EQ(receivers(0x85), Ids{254});
  bus_.send_ipi(3, 0xc4000 | 0x86);
  EXPECT_EQ(receivers(0x86).size(), 254u);
  std::vector<int> hits(255);
  for (int i = 0; i < 64; ++i) {
    bus_.send_ipi(3, (uint64_t{0x0003ffff} << 32) | 0x4900 | 0x87);  // lowest priority
    const Ids ids = receivers(0x87);
    ASSERT_EQ(ids.size(), 1u);
    ++hits[ids[0]];
  }
  for (unsigned id = 0; id < 255; ++id) EXPECT_EQ(hits[id] > 0, id / 16 == 3) << id;
}

TEST_F(ApicBusTest, HypercallsNameProcessorsById) {
  lapics_[2]->io_write(0xd0, 0, 4);
  EXPECT_TRUE(bus_.send_to(2, 0, 0x91));
  EXPECT_EQ(receivers(0x91), Ids{2});
  EXPECT_FALSE(bus_.send_to(4, 0, 0x91));
  EXPECT_FALSE(bus_.send_to(0xffffffff, 0, 0x91));
  bus_.wake(3);
  bus_.wake(77);
  for (unsigned id = 0; id < 4; ++id) EXPECT_EQ(lapics_[id]->take_wake(), id == 3) << id;
}

TEST_F(ApicBusTest, ExtIntGoesToTheBootProcessor) {
  for (auto& lapic : lapics_) lapic->io_write(0x350, 0x700, 4);
  bus_.set_ext_int(true);
  EXPECT_EQ(lapics_[0]->pending(), cpu::LapicEvent::kExtInt);
  EXPECT_EQ(lapics_[1]->pending(), cpu::LapicEvent::kNone);
}

}  // namespace
}  // namespace rhea::machine
