// SPDX-License-Identifier: Apache-2.0
// The machine's life cycle under an engine whose "guest" is a C++ function that uses the machine's ports.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>

#include "machine/pc/cpu_dump.h"
#include "machine/pc/machine_fixture.h"
#include "state/state_reader.h"
#include "state/state_writer.h"
#include "testing/virtio_driver.h"

namespace rhea::machine {
namespace {

using cpu::StopReason;
using ::testing::HasSubstr;

TEST_F(MachineTest, PowersOff) { EXPECT_EQ(run(power_off).kind, MachineExit::Kind::kPoweredOff); }

TEST_F(MachineTest, DebugExitOnlyWhereAskedFor) {
  options_.board.debug_exit = true;
  MachineExit exit = run([](FakeVcpu& vcpu) {
    vcpu.out(kDebugExitPort, 21);
    return vcpu.wait_for_stop();
  });
  EXPECT_EQ(exit.kind, MachineExit::Kind::kDebugExit);
  EXPECT_EQ(exit.status, 43u);
  options_.board.debug_exit = false;
  exit = run([](FakeVcpu& vcpu) {
    vcpu.out(kDebugExitPort, 21);
    return power_off(vcpu);
  });
  EXPECT_EQ(exit.kind, MachineExit::Kind::kPoweredOff);
}

TEST_F(MachineTest, ResetStartsTheKernelAgain) {
  int boots = 0;
  std::vector<uint8_t> masks;
  auto program = [&](FakeVcpu& vcpu) {
    cpu::CpuState state;
    vcpu.get_state(state);
    EXPECT_EQ(state.rip, 0x100040u);
    masks.push_back(static_cast<uint8_t>(vcpu.in(0x21)));
    vcpu.out(0x21, 0x5a);
    state.rip = 0xdead;
    vcpu.set_state(state);
    if (++boots == 3) return power_off(vcpu);
    if (boots == 1) {
      vcpu.out(kResetPort, 0x06);
    } else {
      vcpu.out(0x64, 0xfe);  // the keyboard controller's reset pulse
    }
    return vcpu.wait_for_stop();
  };
  EXPECT_EQ(run(program).kind, MachineExit::Kind::kPoweredOff);
  EXPECT_EQ(boots, 3);
  EXPECT_EQ(masks, std::vector<uint8_t>(3, masks.front())) << "devices are reset too";
}

TEST_F(MachineTest, NoReboot) {
  options_.reboot = false;
  MachineExit exit = run([](FakeVcpu& vcpu) {
    vcpu.out(kResetPort, 0x06);
    return vcpu.wait_for_stop();
  });
  EXPECT_EQ(exit.kind, MachineExit::Kind::kResetRequested);
}

TEST_F(MachineTest, ResetWithoutItsKernelIsAHostError) {
  MachineExit exit = run([&](FakeVcpu& vcpu) {
    EXPECT_EQ(truncate((folder_ + "/kernel").c_str(), 3), 0);
    vcpu.out(kResetPort, 0x06);
    return vcpu.wait_for_stop();
  });
  EXPECT_EQ(exit.kind, MachineExit::Kind::kHostError);
  EXPECT_THAT(exit.text, HasSubstr("cannot restart the guest"));
}

TEST_F(MachineTest, TripleFaultShowsTheProcessor) {
  MachineExit exit = run([](FakeVcpu&) { return StopReason::kShutdown; });
  EXPECT_EQ(exit.kind, MachineExit::Kind::kShutdown);
  EXPECT_THAT(exit.text, HasSubstr("rip 0000000000100040"));
  EXPECT_THAT(exit.text, HasSubstr("32-bit protected"));
}

TEST_F(MachineTest, StopsFromOutsideBeforeAndDuringTheRun) {
  auto machine = create([](FakeVcpu& vcpu) { return vcpu.wait_for_stop(); });
  ASSERT_TRUE(machine);
  (*machine)->request_stop();  // before run()
  EXPECT_EQ((*machine)->run().kind, MachineExit::Kind::kStopped);

  machine = create([](FakeVcpu& vcpu) { return vcpu.wait_for_stop(); });
  std::thread stopper([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    (*machine)->request_stop();
  });
  EXPECT_EQ((*machine)->run().kind, MachineExit::Kind::kStopped);
  stopper.join();
}

TEST_F(MachineTest, AStopFromOutsideIsNotLostToARestart) {
  Machine* raw = nullptr;
  int boots = 0;
  auto machine = create([&](FakeVcpu& vcpu) {
    if (++boots > 1) return power_off(vcpu);
    vcpu.out(kResetPort, 0x06);
    raw->request_stop();
    return vcpu.wait_for_stop();
  });
  ASSERT_TRUE(machine);
  raw = machine->get();
  EXPECT_EQ(raw->run().kind, MachineExit::Kind::kStopped);
  EXPECT_EQ(boots, 1);
}

TEST_F(MachineTest, PowerButtonReachesAnAcpiGuestOnly) {
  auto machine = create([](FakeVcpu& vcpu) { return vcpu.wait_for_stop(); });
  ASSERT_TRUE(machine);
  EXPECT_FALSE((*machine)->press_power_button());
  (*machine)->ports().write(0xb2, 2, 1);  // ACPI_ENABLE
  EXPECT_TRUE((*machine)->press_power_button());
  EXPECT_TRUE((*machine)->ports().read(0x600, 2) & (1u << 8));
}

TEST_F(MachineTest, DebuggerPausesStepsAndResumes) {
  auto machine = create([](FakeVcpu& vcpu) { return vcpu.single_step ? StopReason::kDebug : vcpu.wait_for_stop(); });
  ASSERT_TRUE(machine);
  std::vector<StopReason> stops;
  (*machine)->set_stop_listener([&](unsigned index, StopReason reason) {
    EXPECT_EQ(index, 0u);
    EXPECT_TRUE((*machine)->paused());
    stops.push_back(reason);
    switch (stops.size()) {
      case 1: return (*machine)->step(0);  // paused as asked
      case 2: return (*machine)->pause();  // stepped; stop while stopped announces again
      case 3: (*machine)->resume(); return (*machine)->pause();
      default: return (*machine)->request_stop();
    }
  });
  loop_->post([&] { (*machine)->pause(); });
  EXPECT_EQ((*machine)->run().kind, MachineExit::Kind::kStopped);
  EXPECT_EQ(stops, (std::vector<StopReason>{StopReason::kStopped, StopReason::kDebug, StopReason::kStopped,
                                            StopReason::kStopped}));
}

TEST_F(MachineTest, StartsPausedForADebugger) {
  options_.start_paused = true;
  auto machine = create(power_off);
  ASSERT_TRUE(machine);
  auto* vcpu = static_cast<FakeVcpu*>(&(*machine)->vcpu(0));
  loop_->post([&] {
    EXPECT_EQ(vcpu->runs, 0);
    (*machine)->resume();
  });
  EXPECT_EQ((*machine)->run().kind, MachineExit::Kind::kPoweredOff);
  EXPECT_EQ(vcpu->runs, 1);
}

TEST_F(MachineTest, DeadGuestStaysForTheDebugger) {
  auto machine = create([](FakeVcpu&) { return StopReason::kShutdown; });
  ASSERT_TRUE(machine);
  (*machine)->set_stop_listener([&](unsigned, StopReason reason) {
    EXPECT_EQ(reason, StopReason::kShutdown);
    (*machine)->request_stop();
  });
  EXPECT_EQ((*machine)->run().kind, MachineExit::Kind::kStopped);
}

// Between these calls a device with a thread of its own takes nothing, however loudly its driver rings.
TEST_F(MachineTest, QuietDevicesLeaveRamAlone) {
  options_.board.entropy = true;
  auto machine = create(power_off);
  ASSERT_TRUE(machine);
  testing::FakeGuestMemory memory((*machine)->memory());
  const auto config_address = [&](uint16_t offset) {
    (*machine)->ports().write(0xcf8, 0x80000000u | 2u << 11 | (offset & 0xfcu), 4);
    return static_cast<uint16_t>(0xcfc + offset % 4);
  };
  testing::PciVirtioDriver driver(
      memory, (*machine)->physical(), 0x400000,
      {.read =
           [&](uint16_t offset, unsigned size) {
             return static_cast<uint32_t>((*machine)->ports().read(config_address(offset), size));
           },
       .write = [&](uint16_t offset, uint32_t value,
                    unsigned size) { (*machine)->ports().write(config_address(offset), value, size); }},
      0xc0000000);
  ASSERT_EQ(driver.device_id(), 4u);
  ASSERT_TRUE(driver.start(0, 1, 16));
  const auto ask = [&] {
    driver.queue(0).add(std::vector<testing::VirtqueueDriver::Buffer>{{0x500000, 64, true}});
    driver.notify(0);
  };
  const auto answers = [&] {
    (*machine)->on_each_io_thread([] {});
    return driver.queue(0).collect().size();
  };
  (*machine)->quiesce_devices();
  (*machine)->quiesce_devices();  // they nest, as when a save is part of something larger
  ask();
  EXPECT_EQ(answers(), 0u);
  (*machine)->resume_devices();
  EXPECT_EQ(answers(), 0u);
  state::StateWriter writer;
  (*machine)->save_state(writer);
  EXPECT_EQ(answers(), 0u);
  (*machine)->resume_devices();
  for (int i = 0; i < 5000 && memory.read<uint16_t>(driver.queue(0).device() + 2) == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(answers(), 1u);
}

// [VIRTIO-1.2 4.2.2]: their registers are where the command line says.
TEST_F(MachineTest, DevicesWithoutPciAreAnnouncedOnTheCommandLine) {
  constexpr VirtioMmioSlot kSlots[] = {{0xfeb00000, 0x1000, 5}, {0xfeb01000, 0x1000, 6}};
  EXPECT_EQ(virtio_mmio_parameters(kSlots), "virtio_mmio.device=4K@0xfeb00000:5 virtio_mmio.device=4K@0xfeb01000:6");
  options_.board.entropy = true;
  options_.board.transport = VirtioTransport::kMmioCommandLine;
  auto machine = create(power_off);
  ASSERT_TRUE(machine);
  EXPECT_EQ((*machine)->physical().read(kVirtioMmioBase, 4), 0x74726976u);
  EXPECT_EQ((*machine)->physical().read(kVirtioMmioBase + 8, 4), 4u);
  const auto& layout = (*machine)->layout();
  EXPECT_LE(layout.describe(1, "").mmio_high_end, kVirtioMmioBase) << "no BAR may lie there";
}

TEST_F(MachineTest, StateTravelsFromOneMachineToAnother) {
  auto first = create(power_off), second = create(power_off);
  ASSERT_TRUE(first && second);
  (*first)->ports().write(0x21, 0xa5, 1);
  (*first)->ports().write(0x3ff, 0x77, 1);  // scratch register of COM1
  auto state = std::make_unique<cpu::CpuState>();
  (*first)->vcpu(0).get_state(*state);
  state->gpr[cpu::kRbx] = 0x1234567890;
  (*first)->vcpu(0).set_state(*state);
  state::StateWriter writer;
  (*first)->save_state(writer);
  auto bytes = std::move(writer).finish();

  auto reader = state::StateReader::open(bytes);
  ASSERT_TRUE(reader);
  Status loaded = (*second)->load_state(*reader);
  ASSERT_TRUE(loaded) << loaded.error().to_string();
  EXPECT_EQ((*second)->ports().read(0x21, 1), 0xa5u);
  EXPECT_EQ((*second)->ports().read(0x3ff, 1), 0x77u);
  (*second)->vcpu(0).get_state(*state);
  EXPECT_EQ(state->gpr[cpu::kRbx], 0x1234567890u);
  // Saved again, but for the clock nothing differs: the two files name the same fields.
  state::StateWriter again;
  (*second)->save_state(again);
  EXPECT_EQ(std::move(again).finish().size(), bytes.size());

  options_.memory_bytes = 32u << 20;
  auto other = create(power_off);
  auto refused = state::StateReader::open(bytes);
  Status status = (*other)->load_state(*refused);
  ASSERT_FALSE(status);
  EXPECT_THAT(status.error().to_string(), HasSubstr("other memory"));
}

TEST_F(MachineTest, InterruptsGoFromLinesAndMessagesToTheLocalApic) {
  auto machine = create(power_off);
  ASSERT_TRUE(machine);
  io::AddressSpace& physical = (*machine)->physical();
  cpu::Lapic& lapic = (*machine)->lapic(0);
  auto write_ioapic = [&](uint32_t index, uint32_t value) {
    physical.write(0xfec00000, index, 4);
    physical.write(0xfec00010, value, 4);
  };
  EXPECT_EQ(lapic.io_read(0xf0, 4), 0x1ffu) << "firmware has enabled the local APIC";
  write_ioapic(0x10 + 2 * 5 + 1, 0);
  write_ioapic(0x10 + 2 * 5, 0x61);  // pin 5, edge, fixed, vector 0x61
  io::IrqLine line(&(*machine)->router(), 5);
  line.pulse();
  ASSERT_EQ(lapic.pending(), cpu::LapicEvent::kInterrupt);
  EXPECT_EQ(lapic.acknowledge_interrupt(), 0x61);
  lapic.io_write(0xb0, 0, 4);
  (*machine)->router().send_msi({.address = 0xfee00000, .data = 0x72});
  ASSERT_EQ(lapic.pending(), cpu::LapicEvent::kInterrupt);
  EXPECT_EQ(lapic.acknowledge_interrupt(), 0x72);
  lapic.io_write(0xb0, 0, 4);
  // The 8259s reach the processor through LINT0, as firmware leaves it.
  for (auto [port, value] : std::initializer_list<std::pair<uint16_t, uint8_t>>{
           {0x20, 0x11}, {0x21, 0x20}, {0x21, 0x04}, {0x21, 0x01}, {0x21, 0x00}})
    (*machine)->ports().write(port, value, 1);
  io::IrqLine other(&(*machine)->router(), 6);
  other.set(true);
  ASSERT_EQ(lapic.pending(), cpu::LapicEvent::kExtInt);
  EXPECT_EQ((*machine)->router().acknowledge_ext_int(), 0x26);
}

TEST_F(MachineTest, MapHasRamWhereE820SaysSo) {
  options_.memory_bytes = uint64_t{3200} << 20;
  auto machine = create(power_off);
  ASSERT_TRUE(machine);
  for (const MemoryMapEntry& entry : (*machine)->layout().memory_map()) {
    if (entry.type != MemoryType::kRam) continue;
    for (uint64_t address : {entry.start, entry.end() - 8}) {
      const io::Range* range = (*machine)->physical().view().find(address);
      ASSERT_NE(range, nullptr) << std::hex << address;
      EXPECT_EQ(range->kind, io::RangeKind::kRam);
    }
  }
  EXPECT_EQ((*machine)->physical().view().find(kVideoHoleStart), nullptr);
  EXPECT_EQ((*machine)->physical().read(kEcamBase, 4), 0x29c08086u);
}

TEST_F(MachineTest, ErrorsNameWhatIsWrong) {
  auto message = [&] {
    auto machine = create(power_off);
    return machine ? std::string("created") : machine.error().to_string();
  };
  options_.cpu_count = 256;
  EXPECT_THAT(message(), HasSubstr("256 processors asked for; a machine has 1 to 255"));
  options_.cpu_count = 1;
  options_.kernel_path = folder_ + "/nothing";
  EXPECT_THAT(message(), HasSubstr("/nothing: No such file"));
  options_.kernel_path = folder_;
  EXPECT_THAT(message(), HasSubstr("is a directory"));
  options_.kernel_path = folder_ + "/kernel";
  options_.initrd_paths = {folder_ + "/missing"};
  EXPECT_THAT(message(), HasSubstr("initial RAM disk"));
  write_file("large", std::vector<std::byte>(17u << 20));
  options_.initrd_paths = {folder_ + "/large"};
  EXPECT_THAT(message(), HasSubstr("does not fit in the guest's memory"));
  options_.initrd_paths.clear();
  options_.memory_bytes = 1u << 20;
  EXPECT_THAT(message(), HasSubstr("out of range"));
  options_.memory_bytes = uint64_t{1} << 60;
  EXPECT_THAT(message(), HasSubstr("out of range"));
  options_.memory_bytes = (16u << 20) + 5;
  EXPECT_THAT(message(), HasSubstr("whole number of MiB"));
}

TEST(MemoryLayout, KeepsTheHoleFree) {
  for (uint64_t mib : {2ull, 512ull, 3071ull, 3072ull, 3073ull, 65536ull}) {
    auto layout = MemoryLayout::create(mib << 20, 46);
    ASSERT_TRUE(layout) << mib;
    EXPECT_EQ(layout->low_bytes() + layout->high_bytes(), mib << 20);
    uint64_t end = 0;
    for (const MemoryMapEntry& entry : layout->memory_map()) {
      EXPECT_GE(entry.start, end);
      EXPECT_NE(entry.size_bytes, 0u);
      end = entry.end();
      if (entry.type == MemoryType::kRam) EXPECT_TRUE(entry.end() <= kPciHoleStart || entry.start >= kFourGiB);
    }
  }
}

}  // namespace
}  // namespace rhea::machine
