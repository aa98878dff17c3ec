// SPDX-License-Identifier: Apache-2.0
// Several processors: how they start, stop, are reset and told about, and the whole machine used by all at once.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <latch>
#include <random>
#include <thread>
#include <utility>

#include "machine/pc/machine_fixture.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::machine {
namespace {

using cpu::StopReason;
using testing::HasSubstr;

constexpr uint64_t kIcrLow = 0x300, kSpurious = 0xf0, kEoi = 0xb0;

// INIT, then twice the start-up interrupt, to all others. [SDM-3A 9.4.4.1]
void start_others(FakeVcpu& vcpu, uint8_t vector) {
  vcpu.lapic().io_write(kIcrLow, 0xc4500, 4);
  vcpu.lapic().io_write(kIcrLow, 0xc4600u | vector, 4);
  vcpu.lapic().io_write(kIcrLow, 0xc4600u | vector, 4);
}

class SmpTest : public MachineTest {
 protected:
  SmpTest() { options_.cpu_count = 4; }
};

TEST_F(SmpTest, OthersWaitForTheirStartUpInterrupt) {
  std::atomic<int> started{0};
  std::atomic<unsigned> vectors{0};
  auto program = [&](FakeVcpu& vcpu) {
    if (vcpu.index() == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      EXPECT_EQ(started, 0);
      start_others(vcpu, 0x9a);
      return vcpu.wait_for_stop();
    }
    cpu::CpuState state;
    vcpu.get_state(state);
    EXPECT_EQ(state.segment[cpu::kCs].base, 0x9a000u);
    vectors |= state.segment[cpu::kCs].selector;
    return ++started == 3 ? power_off(vcpu) : vcpu.wait_for_stop();
  };
  EXPECT_EQ(run(program).kind, MachineExit::Kind::kPoweredOff);
  EXPECT_EQ(started, 3);
  EXPECT_EQ(vectors, 0x9a00u);
}

TEST_F(SmpTest, StartStateIsWhatAFirmwareLeaves) {
  auto machine = create(power_off);
  ASSERT_TRUE(machine);
  auto boot = std::make_unique<cpu::CpuState>(), other = std::make_unique<cpu::CpuState>();
  (*machine)->vcpu(0).get_state(*boot);
  EXPECT_EQ(boot->rip, kKernelEntry);
  EXPECT_FALSE(boot->wait_for_sipi);
  for (unsigned i = 1; i < 4; ++i) {
    (*machine)->vcpu(i).get_state(*other);
    EXPECT_TRUE(other->wait_for_sipi);
    EXPECT_EQ(other->rip, 0xfff0u);
    EXPECT_EQ(other->mtrr_base, boot->mtrr_base) << "or the guest complains of inconsistent memory types";
    EXPECT_EQ(other->mtrr_mask, boot->mtrr_mask);
    EXPECT_EQ(other->mtrr_fixed, boot->mtrr_fixed);
    EXPECT_EQ(other->mtrr_def_type, boot->mtrr_def_type);
    EXPECT_EQ((*machine)->lapic(i).apic_base(), 0xfee00800u) << "no bootstrap bit";
  }
  EXPECT_EQ((*machine)->lapic(0).apic_base(), 0xfee00900u);
}

TEST_F(SmpTest, AnyProcessorEndsTheMachineWithItsStatus) {
  options_.board.debug_exit = true;
  for (unsigned chosen = 0; chosen < 4; ++chosen) {
    MachineExit exit = run([&](FakeVcpu& vcpu) {
      if (vcpu.index() == 0) start_others(vcpu, 1);
      if (vcpu.index() == chosen) vcpu.out(kDebugExitPort, chosen);
      return vcpu.wait_for_stop();
    });
    EXPECT_EQ(exit.kind, MachineExit::Kind::kDebugExit);
    EXPECT_EQ(exit.status, 2 * chosen + 1);
  }
}

TEST_F(SmpTest, ResetByAnyProcessorStartsAllAnew) {
  std::atomic<int> boots{0};
  auto program = [&](FakeVcpu& vcpu) {
    if (vcpu.index() == 0) {
      EXPECT_EQ(vcpu.lapic().io_read(kSpurious, 4), 0x1ffu);
      ++boots;
      start_others(vcpu, 1);
      return vcpu.wait_for_stop();
    }
    EXPECT_EQ(vcpu.lapic().io_read(kSpurious, 4), 0xffu) << "reset";
    vcpu.lapic().io_write(kSpurious, 0x1ff, 4);
    if (static_cast<int>(vcpu.index()) != boots) return vcpu.wait_for_stop();
    if (boots == 3) return power_off(vcpu);
    vcpu.out(kResetPort, 0x06);
    return vcpu.wait_for_stop();
  };
  EXPECT_EQ(run(program).kind, MachineExit::Kind::kPoweredOff);
  EXPECT_EQ(boots, 3);
}

TEST_F(SmpTest, TripleFaultOfAnyProcessorIsTheEnd) {
  MachineExit exit = run([](FakeVcpu& vcpu) {
    if (vcpu.index() == 0) {
      vcpu.lapic().io_write(0x310, 2u << 24, 4);
      vcpu.lapic().io_write(kIcrLow, 0x4601, 4);
    }
    return vcpu.index() == 2 ? StopReason::kShutdown : vcpu.wait_for_stop();
  });
  EXPECT_EQ(exit.kind, MachineExit::Kind::kShutdown);
  EXPECT_THAT(exit.text, HasSubstr("vCPU 2:\n  mode real"));
  EXPECT_THAT(exit.text, HasSubstr("vCPU 0: mode 32-bit protected CPL 0 rip 0000000000100040"));
  EXPECT_THAT(exit.text, HasSubstr("vCPU 3: waits for its start-up interrupt"));
}

TEST_F(SmpTest, SimultaneousStopsAreToldOneAfterTheOther) {
  std::atomic<int> phase{0};
  std::latch all_run(3);
  auto machine = create([&](FakeVcpu& vcpu) {
    if (vcpu.index() == 0) {
      if (phase == 0) start_others(vcpu, 1);
      return vcpu.wait_for_stop();
    }
    if (phase != 0) return vcpu.wait_for_stop();
    all_run.arrive_and_wait();
    return StopReason::kDebug;
  });
  ASSERT_TRUE(machine);
  std::vector<unsigned> told;
  (*machine)->set_stop_listener([&](unsigned index, StopReason reason) {
    phase = 1;
    if (reason == StopReason::kStopped) return (*machine)->request_stop();
    EXPECT_EQ(reason, StopReason::kDebug);
    EXPECT_TRUE((*machine)->paused());
    told.push_back(index);
    if (told.size() == 3) loop_->post([&] { (*machine)->pause(); });
    (*machine)->resume();
  });
  EXPECT_EQ((*machine)->run().kind, MachineExit::Kind::kStopped);
  std::ranges::sort(told);
  EXPECT_EQ(told, (std::vector<unsigned>{1, 2, 3}));
}

TEST_F(SmpTest, OneProcessorStepsWhileTheOthersStand) {
  options_.start_paused = true;
  auto machine = create([](FakeVcpu& vcpu) { return vcpu.single_step ? StopReason::kDebug : vcpu.wait_for_stop(); });
  ASSERT_TRUE(machine);
  cpu::CpuState state;
  for (unsigned i = 0; i < 4; ++i) {
    (*machine)->vcpu(i).get_state(state);
    state.wait_for_sipi = false;
    (*machine)->vcpu(i).set_state(state);
  }
  std::vector<unsigned> told;
  (*machine)->set_stop_listener([&](unsigned index, StopReason reason) {
    EXPECT_EQ(reason, StopReason::kDebug);
    told.push_back(index);
    if (told.size() == 3) return (*machine)->request_stop();
    (*machine)->step(told.size() == 1 ? 3 : 1);
  });
  loop_->post([&] { (*machine)->step(2); });
  EXPECT_EQ((*machine)->run().kind, MachineExit::Kind::kStopped);
  EXPECT_EQ(told, (std::vector<unsigned>{2, 3, 1}));
  for (unsigned i : {1u, 2u, 3u}) EXPECT_EQ(static_cast<FakeVcpu&>((*machine)->vcpu(i)).runs, 1);
  EXPECT_EQ(static_cast<FakeVcpu&>((*machine)->vcpu(0)).runs, 0);
}

// Stops of their own race with pauses: none is lost, nobody is left behind parked.
TEST_F(SmpTest, PausesAndStopsRace) {
  options_.cpu_count = 8;
  std::atomic<int> debug_stops{0};
  auto machine = create([&](FakeVcpu& vcpu) {
    if (vcpu.index() == 0) start_others(vcpu, 1);
    for (int i = 0; i < 20 && !vcpu.stop_requested(); ++i) std::this_thread::yield();
    if (vcpu.stop_requested()) return StopReason::kStopped;
    ++debug_stops;
    return StopReason::kDebug;
  });
  ASSERT_TRUE(machine);
  int told = 0, pauses = 0;
  (*machine)->set_stop_listener([&](unsigned, StopReason reason) {
    if (reason == StopReason::kDebug) ++told;
    for (unsigned i = 0; i < 8; ++i) {
      cpu::CpuState state;
      (*machine)->vcpu(i).get_state(state);  // a data race unless all are parked
      (*machine)->vcpu(i).set_state(state);
    }
    if (told >= 300) return (*machine)->request_stop();
    (*machine)->resume();
    if (++pauses % 3 == 0) loop_->post([&] { (*machine)->pause(); });
  });
  EXPECT_EQ((*machine)->run().kind, MachineExit::Kind::kStopped);
  EXPECT_GE(told, 300);
  EXPECT_LE(debug_stops - told, 7);
}

TEST_F(SmpTest, ResetsByAllAtOnce) {
  options_.cpu_count = 8;
  std::atomic<int> boots{0};
  auto program = [&](FakeVcpu& vcpu) {
    if (vcpu.index() == 0) {
      ++boots;
      start_others(vcpu, 1);
    }
    if (boots >= 50) return power_off(vcpu);
    vcpu.out(vcpu.index() % 2 ? 0xcf9 : 0x92, 0);
    vcpu.out(vcpu.index() % 2 ? 0xcf9 : 0x92, vcpu.index() % 2 ? 6 : 1);
    return vcpu.wait_for_stop();
  };
  EXPECT_EQ(run(program).kind, MachineExit::Kind::kPoweredOff);
  EXPECT_EQ(boots, 50);
}

TEST_F(SmpTest, AFullHouseStartsStopsAndResets) {
  options_.cpu_count = Machine::kMaxCpus;
  std::atomic<unsigned> started{0};
  std::atomic<int> boots{0};
  auto program = [&](FakeVcpu& vcpu) {
    if (vcpu.index() == 0) {
      ++boots;
      started = 0;
      start_others(vcpu, 1);
    } else if (++started == 254) {
      if (boots == 2) return power_off(vcpu);
      vcpu.out(kResetPort, 0x06);
    }
    return vcpu.wait_for_stop();
  };
  EXPECT_EQ(run(program).kind, MachineExit::Kind::kPoweredOff);
}

TEST_F(SmpTest, DestroyedWhileItsProcessorsRun) {
  std::atomic<int> running{0};
  auto machine = create([&](FakeVcpu& vcpu) {
    if (vcpu.index() == 0) start_others(vcpu, 1);
    ++running;
    while (!vcpu.stop_requested()) vcpu.lapic().io_write(kIcrLow, 0x84061, 4);  // to all
    return StopReason::kStopped;
  });
  ASSERT_TRUE(machine);
  std::thread quitter([&] {
    while (running < 4) std::this_thread::yield();
    loop_->quit();
  });
  (*machine)->run();
  quitter.join();
  machine->reset();
  loop_->run_once(0);  // what the threads posted at their end finds nobody
}

TEST_F(SmpTest, StateOfEveryProcessorTravels) {
  auto first = create(power_off), second = create(power_off);
  ASSERT_TRUE(first && second);
  auto state = std::make_unique<cpu::CpuState>();
  for (unsigned i = 0; i < 4; ++i) {
    (*first)->vcpu(i).get_state(*state);
    state->gpr[cpu::kRbx] = 0x1000 + i;
    state->wait_for_sipi = i == 2;
    (*first)->vcpu(i).set_state(*state);
    (*first)->lapic(i).io_write(0x80, i << 4, 4);
  }
  state::StateWriter writer;
  (*first)->save_state(writer);
  const auto bytes = std::move(writer).finish();
  auto reader = state::StateReader::open(bytes);
  ASSERT_TRUE(reader);
  const Status loaded = (*second)->load_state(*reader);
  ASSERT_TRUE(loaded) << loaded.error().to_string();
  for (unsigned i = 0; i < 4; ++i) {
    (*second)->vcpu(i).get_state(*state);
    EXPECT_EQ(state->gpr[cpu::kRbx], 0x1000 + i);
    EXPECT_EQ(state->wait_for_sipi, i == 2);
    EXPECT_EQ((*second)->lapic(i).io_read(0x80, 4), i << 4);
  }
  options_.cpu_count = 3;
  auto other = create(power_off);
  auto refused = state::StateReader::open(bytes);
  const Status status = (*other)->load_state(*refused);
  ASSERT_FALSE(status);
  EXPECT_THAT(status.error().to_string(), HasSubstr("another number of processors"));
}

// Everything that a guest can reach, by all processors at once, while timers run. What this looks for, the thread
// sanitizer sees, and deadlocks.
class Hammer {
 public:
  explicit Hammer(FakeVcpu& vcpu) : vcpu_(vcpu), random_(vcpu.index() + 1) {}

  void step() {
    switch (random_() % 8) {
      case 0:
      case 1:
      case 2: return port();
      case 3: return ioapic();
      case 4: return local_apic();
      case 5: return configuration();
      case 6: return signals();
      default: return take();
    }
  }

 private:
  unsigned pick(unsigned count) { return static_cast<unsigned>(random_() % count); }
  void port() {
    // All chips; resets and power-off are left out, as are the ports that only those react to.
    constexpr uint16_t kPorts[] = {0x20,  0x21,  0xa0,  0xa1,  0x40,  0x41,  0x42,  0x43,  0x60,  0x61,
                                   0x70,  0x71,  0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x2f8,
                                   0x2f9, 0x600, 0x602, 0x608, 0x620, 0x628, 0xb2,  0xb3,  0x4d0, 0x4d1};
    const uint16_t port = kPorts[pick(std::size(kPorts))];
    const unsigned size = port >= 0x600 ? 1u << pick(3) : 1;
    if (random_() % 2)
      vcpu_.in(port, size);
    else
      vcpu_.out(port, static_cast<uint32_t>(random_()), port >= 0x600 && port < 0x604 ? 2 : 1);
  }
  void ioapic() {
    vcpu_.write(0xfec00000, pick(0x44));
    if (random_() % 2)
      vcpu_.read(0xfec00010);
    else
      vcpu_.write(0xfec00010, (pick(4) << 24) | (random_() & 0x8fff) | 0x40);
    if (pick(16) == 0) vcpu_.write(0xfec00040, pick(256));
  }
  void local_apic() {
    constexpr uint64_t kTimer = 0x320, kInitialCount = 0x380, kLint0 = 0x350;
    switch (pick(8)) {
      case 0: vcpu_.lapic().io_write(kIcrLow, 0x84000 | (0x30 + pick(200)), 4); break;
      case 1: vcpu_.lapic().io_write(kIcrLow, 0xc4900 | (0x30 + pick(200)), 4); break;
      case 2: vcpu_.lapic().io_write(0x310, pick(5) << 24, 4); break;
      case 3: vcpu_.lapic().io_write(kIcrLow, (0x30 + pick(200)) | (pick(2) ? 0x800 : 0), 4); break;
      case 4: vcpu_.lapic().io_write(kTimer, (pick(2) ? 0x20000 : 0) | 0x50, 4); break;
      case 5: vcpu_.lapic().io_write(kInitialCount, pick(100'000), 4); break;
      case 6: vcpu_.lapic().io_write(kLint0, pick(2) ? 0x700 : 0x8045, 4); break;
      default: vcpu_.lapic().io_read(pick(0x40) << 4, 4); break;
    }
  }
  void configuration() {
    constexpr uint16_t kAddress = 0xcf8, kData = 0xcfc;
    if (random_() % 2) {
      vcpu_.out(kAddress, 0x80000000 | pick(2) * 0xf800 | (pick(64) << 2), 4);
      if (random_() % 2)
        vcpu_.in(kData, 4);
      else
        vcpu_.out(kData, static_cast<uint32_t>(random_()), 4);
    } else {
      vcpu_.read(kEcamBase + (pick(2) * 0xf8000 | (pick(1024) << 2)));
    }
  }
  void signals() {
    if (random_() % 2)
      vcpu_.router().send_msi({.address = 0xfee00000 | pick(256) << 12 | pick(4) << 2,
                               .data = (0x40 + pick(100)) | (pick(2) ? 0xc000u : 0)});
    else
      vcpu_.clock().now_ns();
  }
  // What an engine does between two instructions.
  void take() {
    cpu::Lapic& lapic = vcpu_.lapic();
    switch (lapic.pending()) {
      case cpu::LapicEvent::kInterrupt:
        lapic.acknowledge_interrupt();
        lapic.io_write(kEoi, 0, 4);
        break;
      case cpu::LapicEvent::kExtInt: vcpu_.router().acknowledge_ext_int(); break;
      case cpu::LapicEvent::kNmi: lapic.take_nmi(); break;
      case cpu::LapicEvent::kSmi: lapic.take_smi(); break;
      case cpu::LapicEvent::kInit: lapic.take_init(); break;
      case cpu::LapicEvent::kSipi: lapic.take_sipi(); break;
      case cpu::LapicEvent::kNone: break;
    }
  }

  FakeVcpu& vcpu_;
  std::minstd_rand random_;
};

TEST_F(SmpTest, AllChipsUsedByAllProcessorsAtOnce) {
  constexpr int kSteps = 30'000;
  std::atomic<unsigned> done{0};
  std::array<bool, 4> hammered{};
  auto machine = create([&](FakeVcpu& vcpu) {
    if (!std::exchange(hammered[vcpu.index()], true)) {
      if (vcpu.index() == 0) start_others(vcpu, 1);
      vcpu.lapic().io_write(kSpurious, 0x1ff, 4);
      vcpu.lapic().io_write(0xd0, 1u << (24 + vcpu.index()), 4);
      Hammer hammer(vcpu);
      for (int i = 0; i < kSteps; ++i) hammer.step();
      ++done;
    }
    return done == 4 ? power_off(vcpu) : vcpu.wait_for_stop();
  });
  ASSERT_TRUE(machine);
  (*machine)->set_stop_listener([&](unsigned, StopReason) { (*machine)->resume(); });
  std::thread outside([&] {
    while (done < 4) {
      (*machine)->press_power_button();
      loop_->post([&] { (*machine)->pause(); });
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  });
  EXPECT_EQ((*machine)->run().kind, MachineExit::Kind::kPoweredOff);
  outside.join();
}

}  // namespace
}  // namespace rhea::machine
