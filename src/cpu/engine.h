// SPDX-License-Identifier: Apache-2.0
// The one interface behind which an execution engine (dbt, kvm) runs virtual processors.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"
#include "cpu/cpu_model.h"
#include "cpu/cpu_state.h"
#include "io/address_space.h"
#include "io/clock.h"
#include "io/irq.h"
#include "memory/guest_memory.h"

namespace rhea::cpu {

class Lapic;

// Why Vcpu::run() returned.
enum class StopReason {
  kStopped,           // request_stop() was called
  kShutdown,          // triple fault
  kDebug,             // breakpoint or single step on behalf of a debugger
  kFailed,            // the engine cannot go on: failure() says why
  kInstructionLimit,  // deterministic runs: the instruction budget given to run() is used up
};

// What an engine needs of the machine. All references outlive the engine.
struct EngineContext {
  memory::GuestMemory& memory;
  io::AddressSpace& physical;  // guest-physical
  io::AddressSpace& ports;     // 64 KiB of I/O ports
  io::Clock& clock;
  io::IrqRouter& irq;  // for the ExtINT acknowledge cycle
  const CpuModel& cpu_model;
  unsigned vcpus = 1;           // how many the machine creates, indices 0 to vcpus - 1
  bool device_threads = false;  // threads of devices read and write guest RAM while vCPUs run
};

// One virtual processor. run() is called on the vCPU's own thread; save/load/translate only while run()
// is not active; kick() and request_stop() from any thread.
class Vcpu {
 public:
  virtual ~Vcpu() = default;

  // Executes until something needs the caller. HLT, MMIO and port I/O are handled inside.
  // instruction_limit: 0 for none; only meaningful with a deterministic clock.
  virtual StopReason run(uint64_t instruction_limit = 0) = 0;

  virtual void kick() = 0;          // re-evaluate pending interrupts soon; wakes a halted vCPU
  virtual void request_stop() = 0;  // make run() return kStopped at an instruction boundary

  virtual void get_state(CpuState& state) const = 0;
  virtual void set_state(const CpuState& state) = 0;

  // Guest-virtual to guest-physical by the current paging mode; no side effects. For debuggers.
  virtual bool translate_for_debug(uint64_t linear, uint64_t& physical) const = 0;

  // Debugger control: stop before executing these linear addresses; single-step the next run().
  virtual void set_breakpoints(const std::vector<uint64_t>& linear_addresses) = 0;
  virtual void set_single_step(bool on) = 0;

  // After kFailed: why, in one line, perhaps with lines of detail. Otherwise empty.
  virtual std::string failure() const { return {}; }

  virtual std::string statistics() const = 0;  // human-readable, many lines, for --stats
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::string_view name() const = 0;
  virtual Result<std::unique_ptr<Vcpu>> create_vcpu(unsigned index, Lapic& lapic) = 0;
};

}  // namespace rhea::cpu
