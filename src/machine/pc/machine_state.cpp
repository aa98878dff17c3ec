// SPDX-License-Identifier: Apache-2.0
// A machine's state as sections: board, clock, processors, devices. RAM travels apart from it.
#include <fmt/format.h>

#include <memory>

#include "cpu/cpu_state_section.h"
#include "io/host_clock.h"
#include "io/instruction_clock.h"
#include "machine/pc/machine.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::machine {
namespace {

constexpr uint32_t kMachineVersion = 1, kClockVersion = io::ClockState::kStateVersion;

void save_clock(state::StateWriter& writer, const io::Clock& clock) {
  if (const auto* host = dynamic_cast<const io::HostClock*>(&clock)) host->save_state(writer);
  if (const auto* instructions = dynamic_cast<const io::InstructionClock*>(&clock)) instructions->save_state(writer);
}

Status load_clock(state::StateReader& reader, io::Clock& clock) {
  if (auto* host = dynamic_cast<io::HostClock*>(&clock)) return host->load_state(reader);
  if (auto* instructions = dynamic_cast<io::InstructionClock*>(&clock)) return instructions->load_state(reader);
  return {};
}

}  // namespace

void Machine::quiesce_devices() {
  if (quiesced_++ != 0) return;
  for (const NamedDevice& entry : devices_) entry.device->quiesce();
}

void Machine::resume_devices() {
  if (--quiesced_ != 0) return;
  for (const NamedDevice& entry : devices_) entry.device->resume();
}

void Machine::save_state(state::StateWriter& writer) {
  quiesce_devices();
  writer.section("machine", kMachineVersion, [&](state::StateWriter& section) {
    section.field("low_bytes", layout_.low_bytes());
    section.field("high_bytes", layout_.high_bytes());
    section.field("cpu_count", static_cast<uint32_t>(threads_.size()));
  });
  writer.section("offer", kMachineVersion, [&](state::StateWriter& section) { cpu::save_offer(section, cpu_model_); });
  writer.section("clock", kClockVersion, [&](state::StateWriter& section) { save_clock(section, *clock_); });
  auto state = std::make_unique<cpu::CpuState>();
  for (size_t i = 0; i < threads_.size(); ++i) {
    threads_[i]->vcpu().get_state(*state);
    writer.section(fmt::format("cpu{}", i), cpu::kCpuStateVersion,
                   [&](state::StateWriter& section) { cpu::save(section, *state); });
    writer.section(fmt::format("lapic{}", i), platform::LapicState::kStateVersion,
                   [&](state::StateWriter& section) { lapics_[i]->save_state(section); });
  }
  for (const NamedDevice& entry : devices_) {
    writer.section(entry.name, entry.state_version,
                   [&](state::StateWriter& section) { entry.device->save_state(section); });
  }
  resume_devices();
}

Status Machine::load_state(state::StateReader& reader) {
  auto check = [&](Status status) {
    if (!status) reader.fail_with(status.error());
  };
  quiesce_devices();
  reader.section("machine", kMachineVersion, [&](state::StateReader& section) {
    uint64_t low_bytes = 0, high_bytes = 0;
    uint32_t cpu_count = 0;
    section.field("low_bytes", low_bytes);
    section.field("high_bytes", high_bytes);
    section.field("cpu_count", cpu_count);
    section.validate(low_bytes == layout_.low_bytes() && high_bytes == layout_.high_bytes(),
                     "describes a machine with other memory");
    section.validate(cpu_count == threads_.size(), "describes a machine with another number of processors");
  });
  reader.section("offer", kMachineVersion,
                 [&](state::StateReader& section) { check(cpu::load_offer(section, cpu_model_)); });
  reader.section("clock", kClockVersion, [&](state::StateReader& section) { check(load_clock(section, *clock_)); });
  auto state = std::make_unique<cpu::CpuState>();
  for (size_t i = 0; i < threads_.size() && reader.ok(); ++i) {
    reader.section(fmt::format("cpu{}", i), cpu::kCpuStateVersion, [&](state::StateReader& section) {
      Status loaded = cpu::load(section, cpu_model_, *state);
      check(loaded);
      if (loaded) threads_[i]->vcpu().set_state(*state);
    });
    reader.section(fmt::format("lapic{}", i), platform::LapicState::kStateVersion,
                   [&](state::StateReader& section) { check(lapics_[i]->load_state(section)); });
  }
  for (const NamedDevice& entry : devices_) {
    reader.section(entry.name, entry.state_version,
                   [&](state::StateReader& section) { check(entry.device->load_state(section)); });
  }
  // What goes on by itself does so with everything loaded: an interrupt finds its controllers.
  resume_devices();
  return reader.status();
}

}  // namespace rhea::machine
