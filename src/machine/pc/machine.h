// SPDX-License-Identifier: Apache-2.0
// The PC: RAM, buses, chips and processors put together, started, reset and ended.
//
//   create() -> run() -> MachineExit       run() returns once; the machine may then be looked at and destroyed.
//
// Threads: create(), run(), save_state() and the debugger's calls on the thread of the event loop, which run() runs;
// request_stop(), press_power_button() from any thread. One further thread per vCPU.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/io_thread.h"
#include "base/log.h"
#include "cpu/cpu_model.h"
#include "cpu/engine.h"
#include "cpu/lapic.h"
#include "devices/pci/pci_bus.h"
#include "io/address_space.h"
#include "io/clock.h"
#include "io/irq.h"
#include "machine/pc/apic_bus.h"
#include "machine/pc/layout.h"
#include "machine/pc/vcpu_thread.h"
#include "machine/registry/registry.h"
#include "memory/guest_memory.h"

namespace rhea::machine {

struct MachineExit {
  enum class Kind {
    kPoweredOff,      // the guest entered S5
    kResetRequested,  // the guest asked for a reset and Options::reboot is off
    kShutdown,        // triple fault; `text` shows the processor's state
    kDebugExit,       // `status` is (v << 1) | 1
    kStopped,         // request_stop()
    kHostError,       // `text` says what failed
  };
  Kind kind = Kind::kStopped;
  uint32_t status = 0;
  std::string text = {};
};

using EngineFactory = std::function<Result<std::unique_ptr<cpu::Engine>>(const cpu::EngineContext&)>;

class Machine {
 public:
  struct Options {
    std::string name = "rhea";
    uint64_t memory_bytes = uint64_t{512} << 20;
    unsigned cpu_count = 1;
    std::string kernel_path;
    std::vector<std::string> initrd_paths;  // Multiboot and PVH kernels get each as a module
    std::string command_line;
    std::vector<std::string> oem_strings;  // SMBIOS: none empty, up to 255
    bool reboot = true;                    // a reset restarts the guest
    bool start_paused = false;             // for a debugger: resume() starts it
    BoardOptions board;                    // its memory sizes are filled in
  };
  // What the machine stands on. Log and loop outlive it.
  struct Environment {
    base::EventLoop& loop;
    base::Log& log;
    std::unique_ptr<io::Clock> clock;
    cpu::CpuModel cpu_model;
    EngineFactory create_engine;
    VcpuThread::OnStart on_vcpu_start = {};  // on each vCPU's thread, before it runs guest code
  };
  static constexpr unsigned kMaxCpus = 255;  // APIC IDs 0 to 254; 255 is the broadcast of 8-bit destinations

  // Errors: what the user gave that does not work, in one line.
  static Result<std::unique_ptr<Machine>> create(Options options, Environment environment);
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  // Runs the event loop until the guest's end.
  MachineExit run();

  // Instead of run(), for drivers that run machines in step: at most `instructions` on the caller's thread (fewer if
  // the guest halts), by a deterministic clock. A reset that the guest asks for is done; its end is returned.
  std::optional<MachineExit> run_slice(uint64_t instructions);

  // Before run(): calls `function` on each thread that devices have for themselves, one after the other.
  void on_each_io_thread(const std::function<void()>& function);

  // Any thread. False if the guest has not enabled ACPI: then nothing in it listens.
  bool press_power_button();
  void request_stop();
  // The terminal behind the virtio console has another size, in characters. Without such a console nothing happens.
  void set_console_size(uint16_t columns, uint16_t rows);

  // Every device, processor and clock; RAM is not included. Only while paused or before run().
  void save_state(state::StateWriter& writer);
  Status load_state(state::StateReader& reader);
  // Between these two no device touches RAM or interrupts: what is in flight is finished before the first returns.
  // save_state() and load_state() see to it for themselves; who copies RAM as well calls these around both. They nest.
  void quiesce_devices();
  void resume_devices();

  // --- debugger; event loop's thread ---
  // Told of stops that pause(), step(), a breakpoint or a triple fault cause; with a listener a triple fault pauses
  // the machine instead of ending it. All processors are stopped then. Where several stopped of themselves at the same
  // time, each stop is told: the next one when the machine is resumed, which then does not run.
  using StopListener = std::function<void(unsigned vcpu, cpu::StopReason reason)>;
  void set_stop_listener(StopListener listener) { stop_listener_ = std::move(listener); }
  void pause();
  void resume();
  void step(unsigned vcpu);
  bool paused() const { return paused_; }

  unsigned cpu_count() const { return static_cast<unsigned>(threads_.size()); }
  cpu::Vcpu& vcpu(unsigned index) { return threads_[index]->vcpu(); }
  cpu::Lapic& lapic(unsigned index) { return *lapics_[index]; }
  memory::GuestMemory& memory() { return *memory_; }
  io::AddressSpace& physical() { return physical_; }
  io::AddressSpace& ports() { return ports_; }
  io::IrqRouter& router() { return router_; }
  io::Clock& clock() { return *clock_; }
  const MemoryLayout& layout() const { return layout_; }
  const std::string& kernel_description() const { return kernel_description_; }

  // For --stats, after run().
  std::string statistics() const;

 private:
  enum class Action { kNone, kReset, kPowerOff, kDebugExit, kStop };

  Machine(Options options, Environment environment, const MemoryLayout& layout);
  Status build();
  Status open_boot_files();
  void map_memory();
  Status create_devices();
  Status create_processors();
  Status boot();  // firmware tables, kernel, the processors' state
  cpu::CpuState application_processor_state() const;
  void reset_hardware();
  void request(Action action, uint32_t status = 0);
  void post(std::function<void()> function);  // to the loop; not called once the machine has gone
  void request_stop_of_all();
  void stop_processors();
  bool stop_wanted();
  void on_vcpu_stopped(unsigned index);
  void note_stop(unsigned index, cpu::StopReason reason);
  void handle_stopped();  // all vCPUs are parked
  bool do_action(Action action, uint32_t status);
  void tell_stopped(unsigned index, cpu::StopReason reason);
  std::string describe_processors(unsigned index);
  void finish(MachineExit exit);
  void resume_all();
  void start_step(unsigned index);
  bool all_parked() const;

  Options options_;
  base::EventLoop& loop_;
  base::Log& log_;
  MemoryLayout layout_;
  // Declared in the order in which each may use those before it: destruction runs backwards.
  std::unique_ptr<io::Clock> clock_;
  cpu::CpuModel cpu_model_;
  EngineFactory create_engine_;
  VcpuThread::OnStart on_vcpu_start_;
  std::unique_ptr<memory::GuestMemory> memory_;
  io::AddressSpace physical_, ports_;
  io::IrqRouter router_;
  ApicBus apic_bus_{router_};
  A20Gate a20_gate_{physical_};
  BoardRequests requests_;
  std::unique_ptr<devices::PciBus> pci_;
  std::vector<std::unique_ptr<base::IoThread>> io_threads_;
  std::vector<NamedDevice> devices_;
  devices::AcpiPm* power_management_ = nullptr;
  std::vector<VirtioMmioSlot> virtio_mmio_;
  devices::virtio::Balloon* balloon_ = nullptr;
  devices::virtio::Console* console_ = nullptr;
  std::vector<std::unique_ptr<cpu::Lapic>> lapics_;
  std::unique_ptr<cpu::Engine> engine_;
  base::UniqueFd kernel_file_;
  std::vector<base::UniqueFd> initrd_files_;
  std::string kernel_description_;

  std::mutex action_mutex_;
  Action action_ = Action::kNone;
  uint32_t action_status_ = 0;

  // Event loop's thread only.
  StopListener stop_listener_;
  bool paused_ = false;
  bool pause_requested_ = false;
  bool in_slice_ = false;
  unsigned quiesced_ = 0;
  std::optional<unsigned> stepping_;  // the one vCPU that runs
  struct Stop {
    unsigned vcpu;
    cpu::StopReason reason;  // kDebug or kShutdown
  };
  std::deque<Stop> stops_;  // those that vCPUs made of themselves and that have not been told yet
  std::optional<MachineExit> exit_;
  std::shared_ptr<char> alive_ = std::make_shared<char>();  // for what is posted

  std::vector<std::unique_ptr<VcpuThread>> threads_;  // first to go
};

}  // namespace rhea::machine
