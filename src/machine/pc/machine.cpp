// SPDX-License-Identifier: Apache-2.0
// Putting the PC together and running it.
//
// Whatever ends or interrupts the guest goes one way: request() records the action and asks all vCPUs to stop; each
// vCPU thread reports to the event loop when it has; once all are parked, handle_stopped() does what was asked, with
// nothing running. A device may therefore ask for a reset from inside a port write.
#include "machine/pc/machine.h"

#include <fcntl.h>
#include <fmt/format.h>

#include "base/check.h"
#include "devices/virtio/balloon/balloon.h"
#include "devices/virtio/console/console.h"
#include "machine/boot/boot_cpu.h"
#include "machine/boot/boot_files.h"
#include "machine/boot/loader.h"
#include "machine/pc/cpu_dump.h"
#include "machine/pc/firmware.h"

namespace rhea::machine {
namespace {

constexpr uint64_t kPhysicalAddressSpaceBytes = uint64_t{1} << 52;
constexpr uint64_t kPortSpaceBytes = 65536;

}  // namespace

Machine::Machine(Options options, Environment environment, const MemoryLayout& layout)
    : options_(std::move(options)),
      loop_(environment.loop),
      log_(environment.log),
      layout_(layout),
      clock_(std::move(environment.clock)),
      cpu_model_(std::move(environment.cpu_model)),
      create_engine_(std::move(environment.create_engine)),
      on_vcpu_start_(std::move(environment.on_vcpu_start)),
      physical_("physical", kPhysicalAddressSpaceBytes),
      ports_("ports", kPortSpaceBytes) {}

// All are stopped before the first is destroyed: one that runs may send an interrupt to any other.
Machine::~Machine() {
  request_stop_of_all();
  for (const auto& thread : threads_) thread->quit();
  threads_.clear();
}

Result<std::unique_ptr<Machine>> Machine::create(Options options, Environment environment) {
  if (options.cpu_count == 0 || options.cpu_count > kMaxCpus) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("{} processors asked for; a machine has 1 to {}", options.cpu_count, kMaxCpus));
  }
  MemoryLayout layout =
      RHEA_TRY(MemoryLayout::create(options.memory_bytes, environment.cpu_model.physical_address_bits()));
  std::unique_ptr<Machine> machine(new Machine(std::move(options), std::move(environment), layout));
  RHEA_TRY(machine->build());
  return machine;
}

Status Machine::build() {
  RHEA_TRY(open_boot_files());
  auto extents = layout_.extents();
  memory_ = RHEA_TRY(memory::GuestMemory::create(extents, {.name = "rhea-ram"}));
  map_memory();
  RHEA_TRY(create_devices());
  RHEA_TRY(create_processors());
  reset_hardware();
  return boot();
}

Status Machine::open_boot_files() {
  kernel_file_ = RHEA_TRY(open_boot_file(options_.kernel_path, "kernel"));
  for (const std::string& path : options_.initrd_paths)
    initrd_files_.push_back(RHEA_TRY(open_boot_file(path, "initial RAM disk")));
  return {};
}

void Machine::map_memory() {
  for (const memory::RamRegion& region : memory_->regions()) {
    auto map_ram = [&](uint64_t start, uint64_t end, const char* name) {
      if (start >= end) return;
      physical_.map({.start = start,
                     .size_bytes = end - start,
                     .kind = io::RangeKind::kRam,
                     .host = region.host + (start - region.start.value),
                     .name = name});
    };
    uint64_t end = region.start.value + region.size_bytes;
    if (region.start.value == 0) {
      // The video window has no RAM and, without a display, nothing else.
      map_ram(0, kVideoHoleStart, "ram-low");
      map_ram(kVideoHoleEnd, end, "ram");
    } else {
      map_ram(region.start.value, end, "ram-high");
    }
  }
}

Status Machine::create_devices() {
  router_.connect_msi_sink(&apic_bus_);
  router_.connect_ext_int_sink(&apic_bus_);
  requests_ = {.reset = [this] { request(Action::kReset); },
               .power_off = [this] { request(Action::kPowerOff); },
               .debug_exit = [this](uint32_t status) { request(Action::kDebugExit, status); },
               .smi =
                   [this] {
                     constexpr uint8_t kSmi = 2;  // a delivery mode
                     for (const auto& lapic : lapics_) lapic->deliver(kSmi, 0, false);
                   }};
  options_.board.memory_below_4g_bytes = layout_.low_bytes();
  options_.board.memory_above_4g_bytes = layout_.high_bytes();
  pci_ = std::make_unique<devices::PciBus>(
      devices::PciBus::Context{.memory = physical_, .ports = ports_, .router = router_});
  Board board{.clock = *clock_,
              .physical = physical_,
              .ports = ports_,
              .router = router_,
              .pci = *pci_,
              .a20 = a20_gate_,
              .low_ram = memory_->regions().front().host,
              .options = options_.board,
              .requests = requests_};
  for (const BoardDevice& spec : device_registry()) {
    if (!spec.wanted(options_.board)) continue;
    auto device = spec.create(board);
    if (!device) return fail(device.error().context(fmt::format("cannot create device {}", spec.name)));
    devices_.push_back({std::string(spec.name), spec.state_version, std::move(*device)});
  }
  RHEA_TRY(create_virtio_devices(board, *memory_, io_threads_, devices_));
  power_management_ = board.power_management;
  virtio_mmio_ = board.virtio_mmio;
  balloon_ = board.balloon;
  console_ = board.console;
  return {};
}

Status Machine::create_processors() {
  for (unsigned i = 0; i < options_.cpu_count; ++i) {
    cpu::Lapic::Options lapic_options;
    lapic_options.id = i;
    lapic_options.bootstrap = i == 0;
    lapics_.push_back(std::make_unique<cpu::Lapic>(lapic_options, *clock_, apic_bus_));
    apic_bus_.add(*lapics_.back());
  }
  engine_ = RHEA_TRY(create_engine_(cpu::EngineContext{.memory = *memory_,
                                                       .physical = physical_,
                                                       .ports = ports_,
                                                       .clock = *clock_,
                                                       .irq = router_,
                                                       .cpu_model = cpu_model_,
                                                       .vcpus = options_.cpu_count,
                                                       .device_threads = !io_threads_.empty()}));
  for (unsigned i = 0; i < options_.cpu_count; ++i) {
    std::unique_ptr<cpu::Vcpu> vcpu = RHEA_TRY(engine_->create_vcpu(i, *lapics_[i]));
    lapics_[i]->set_kick([raw = vcpu.get()] { raw->kick(); });
    threads_.push_back(std::make_unique<VcpuThread>(std::move(vcpu), i, on_vcpu_start_,
                                                    [this, i] { post([this, i] { on_vcpu_stopped(i); }); }));
  }
  return {};
}

void Machine::reset_hardware() {
  for (const NamedDevice& entry : devices_) entry.device->reset();
  for (const auto& lapic : lapics_) lapic->reset();
}

Status Machine::boot() {
  BootFiles files =
      RHEA_TRY(read_boot_files(kernel_file_, options_.kernel_path, initrd_files_, options_.initrd_paths, *memory_));
  PlatformDescription platform = layout_.describe(options_.cpu_count, options_.name);
  platform.oem_strings = options_.oem_strings;
  std::string command_line = options_.command_line;
  if (options_.board.transport == VirtioTransport::kMmioCommandLine)
    command_line += (command_line.empty() || virtio_mmio_.empty() ? "" : " ") + virtio_mmio_parameters(virtio_mmio_);
  else
    platform.virtio_mmio = virtio_mmio_;
  uint64_t rsdp = RHEA_TRY(write_firmware_tables(*memory_, platform));
  const MemoryMap map = layout_.memory_map();
  auto loaded = load_kernel({.kernel = files.kernel,
                             .modules = files.modules,
                             .command_line = command_line,
                             .map = map,
                             .memory = *memory_,
                             .rsdp_address = rsdp});
  if (!loaded) return fail(loaded.error().context(options_.kernel_path));
  kernel_description_ = loaded->description;
  RHEA_TRACE(log_, base::Trace::kLoader, "{}: {}", options_.kernel_path, loaded->description);
  program_mtrrs(loaded->state, kPciHoleStart, cpu_model_.physical_address_bits());
  program_boot_lapic(*lapics_.front());
  program_boot_pics(ports_);
  threads_.front()->vcpu().set_state(loaded->state);
  const auto waiting = std::make_unique<cpu::CpuState>(application_processor_state());
  for (size_t i = 1; i < threads_.size(); ++i) threads_[i]->vcpu().set_state(*waiting);
  return {};
}

// As a firmware leaves them: the memory types of the boot processor, then INIT.
cpu::CpuState Machine::application_processor_state() const {
  cpu::CpuState state;
  cpu::reset_to_power_on(state, cpu_model_.cpuid(1, 0).eax);
  program_mtrrs(state, kPciHoleStart, cpu_model_.physical_address_bits());
  state.wait_for_sipi = true;
  return state;
}

MachineExit Machine::run() {
  RHEA_CHECK(!exit_);
  if (options_.start_paused) {
    paused_ = true;
  } else {
    resume_all();
  }
  loop_.run();
  return exit_.value_or(MachineExit{});
}

std::optional<MachineExit> Machine::run_slice(uint64_t instructions) {
  RHEA_CHECK(threads_.size() == 1 && all_parked());
  if (exit_) return exit_;
  paused_ = true;  // nothing here wakes the processor's own thread
  in_slice_ = true;
  note_stop(0, vcpu(0).run(instructions));
  in_slice_ = false;
  handle_stopped();
  return exit_;
}

void Machine::on_each_io_thread(const std::function<void()>& function) {
  for (const auto& thread : io_threads_) thread->run_sync(function);
}

bool Machine::press_power_button() {
  power_management_->press_power_button();
  return power_management_->acpi_enabled();
}

void Machine::set_console_size(uint16_t columns, uint16_t rows) {
  if (console_) console_->set_size(columns, rows);
}

void Machine::request_stop() { request(Action::kStop); }

// The first request wins: what comes later was asked by a guest that has ended already. But who wants the machine's end
// does not get a restart instead.
void Machine::request(Action action, uint32_t status) {
  {
    std::lock_guard lock(action_mutex_);
    const bool ends_restart = action == Action::kStop && action_ == Action::kReset;
    if (action_ != Action::kNone && !ends_restart) return;
    action_ = action;
    action_status_ = status;
  }
  if (in_slice_) vcpu(0).request_stop();
  stop_processors();
}

void Machine::post(std::function<void()> function) {
  loop_.post([alive = std::weak_ptr(alive_), function = std::move(function)] {
    if (!alive.expired()) function();
  });
}

void Machine::request_stop_of_all() {
  for (const auto& thread : threads_) thread->request_stop();
}

// What waits to be done is done even if all are parked already, or were and have been resumed meanwhile.
void Machine::stop_processors() {
  request_stop_of_all();
  post([this] {
    if (exit_ || !stop_wanted()) return;
    if (all_parked()) return handle_stopped();
    request_stop_of_all();
  });
}

bool Machine::stop_wanted() {
  std::lock_guard lock(action_mutex_);
  return action_ != Action::kNone || pause_requested_;
}

bool Machine::all_parked() const {
  for (const auto& thread : threads_) {
    if (!thread->parked()) return false;
  }
  return true;
}

void Machine::note_stop(unsigned index, cpu::StopReason reason) {
  using enum cpu::StopReason;
  if (reason == kDebug || reason == kShutdown || reason == kFailed) stops_.push_back({index, reason});
}

// A stop that has been looked at already, with those of the others, is not there to be taken any more.
void Machine::on_vcpu_stopped(unsigned index) {
  if (exit_) return;
  const auto reason = threads_[index]->take_stop();
  if (!reason) return;
  note_stop(index, *reason);
  if (all_parked()) return handle_stopped();
  // Nobody wants it stopped: the request was for what has been done already.
  if (!stop_wanted() && stops_.empty()) return threads_[index]->resume();
  request_stop_of_all();
}

void Machine::handle_stopped() {
  for (unsigned i = 0; i < threads_.size(); ++i) {
    if (const auto reason = threads_[i]->take_stop()) note_stop(i, *reason);
  }
  Action action;
  uint32_t status;
  {
    std::lock_guard lock(action_mutex_);
    action = std::exchange(action_, Action::kNone);
    status = action_status_;
  }
  const std::optional<unsigned> stepped = std::exchange(stepping_, std::nullopt);
  if (stepped) vcpu(*stepped).set_single_step(false);
  if (!do_action(action, status)) return;
  // The instruction was the one that reset the machine: a step that has ended, too.
  if (stepped && action == Action::kReset) note_stop(0, cpu::StopReason::kDebug);

  const bool pause_requested = std::exchange(pause_requested_, false);
  if (!stops_.empty()) {
    const Stop stop = stops_.front();
    if (stop.reason == cpu::StopReason::kFailed)
      return finish({.kind = MachineExit::Kind::kHostError,
                     .text = fmt::format("the engine cannot go on: {}\n{}", vcpu(stop.vcpu).failure(),
                                         describe_processors(stop.vcpu))});
    if (stop.reason == cpu::StopReason::kShutdown && !stop_listener_)
      return finish({.kind = MachineExit::Kind::kShutdown, .text = describe_processors(stop.vcpu)});
    stops_.pop_front();
    return tell_stopped(stop.vcpu, stop.reason);
  }
  if (pause_requested) return tell_stopped(0, cpu::StopReason::kStopped);
  if (paused_) return;
  if (stepped) return start_step(*stepped);
  resume_all();
}

// False: that was the end.
bool Machine::do_action(Action action, uint32_t status) {
  switch (action) {
    case Action::kNone: return true;
    case Action::kPowerOff: finish({.kind = MachineExit::Kind::kPoweredOff}); return false;
    case Action::kDebugExit: finish({.kind = MachineExit::Kind::kDebugExit, .status = status}); return false;
    case Action::kStop: finish({.kind = MachineExit::Kind::kStopped}); return false;
    case Action::kReset: break;
  }
  if (!options_.reboot) {
    finish({.kind = MachineExit::Kind::kResetRequested});
    return false;
  }
  stops_.clear();  // of processors that are as new
  reset_hardware();
  auto booted = boot();
  if (!booted)
    finish({.kind = MachineExit::Kind::kHostError,
            .text = booted.error().context("cannot restart the guest").to_string()});
  return booted.has_value();
}

void Machine::tell_stopped(unsigned index, cpu::StopReason reason) {
  paused_ = true;
  if (stop_listener_) stop_listener_(index, reason);
}

// The processor that died in full, the others by a line each.
std::string Machine::describe_processors(unsigned index) {
  auto state = std::make_unique<cpu::CpuState>();
  vcpu(index).get_state(*state);
  if (threads_.size() == 1) return dump_cpu_state(*state);
  std::string text = fmt::format("vCPU {}:\n{}", index, dump_cpu_state(*state));
  for (unsigned i = 0; i < threads_.size(); ++i) {
    if (i == index) continue;
    vcpu(i).get_state(*state);
    text += fmt::format("vCPU {}: {}\n", i, summarise_cpu_state(*state));
  }
  return text;
}

void Machine::finish(MachineExit exit) {
  exit_ = std::move(exit);
  loop_.quit();
}

void Machine::resume_all() {
  paused_ = false;
  for (const auto& thread : threads_) thread->resume();
}

void Machine::pause() {
  pause_requested_ = true;
  stop_processors();
}

void Machine::resume() {
  if (!paused_ || exit_) return;
  if (stops_.empty()) return resume_all();
  paused_ = false;
  post([this] {
    if (!exit_ && !paused_ && all_parked()) handle_stopped();
  });
}

void Machine::step(unsigned index) {
  if (paused_ && !exit_ && index < threads_.size()) start_step(index);
}

void Machine::start_step(unsigned index) {
  paused_ = false;
  stepping_ = index;
  vcpu(index).set_single_step(true);
  threads_[index]->resume();
}

std::string Machine::statistics() const {
  std::string text;
  for (size_t i = 0; i < threads_.size(); ++i) {
    if (threads_.size() > 1) text += fmt::format("vCPU {}:\n", i);
    text += threads_[i]->vcpu().statistics();
  }
  if (balloon_)
    text += fmt::format("balloon: {} KiB given back to the host, {} KiB kept from the guest\n",
                        balloon_->returned_bytes() >> 10, balloon_->actual_bytes() >> 10);
  return text;
}

}  // namespace rhea::machine
