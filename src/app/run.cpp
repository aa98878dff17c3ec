// SPDX-License-Identifier: Apache-2.0
// Sets up what a machine stands on (loop, clock, console, signals, engine), runs it, and reports its end.
#include "app/run.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "app/console.h"
#include "app/debugger.h"
#include "app/engines.h"
#include "app/lockstep.h"
#include "app/system.h"
#include "app/terminal.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/strings.h"
#include "io/host_clock.h"
#include "io/instruction_clock.h"
#include "machine/pc/machine.h"
#include "sandbox/sandbox.h"

namespace rhea::app {
namespace {

using machine::Machine;
using machine::MachineExit;

Status check_host_memory(uint64_t memory_bytes) {
  struct sysinfo info{};
  if (sysinfo(&info) != 0) return {};
  const uint64_t host_bytes = (uint64_t{info.totalram} + info.totalswap) * info.mem_unit;
  if (memory_bytes <= host_bytes) return {};
  return fail(ErrorCode::kInvalidArgument, fmt::format("memory of {} is more than this host has ({} MiB)",
                                                       base::format_size(memory_bytes), host_bytes >> 20));
}

// The thread of a user-mode network follows changes of the host's name servers, and reads no other file. Where the
// kernel cannot see to that, it is left to what the thread's own code does.
void confine_network_thread() {
  static constexpr const char* kReadable[] = {"/etc/resolv.conf"};
  [[maybe_unused]] const Status confined = sandbox::Sandbox::confine_files(kReadable);
}

// Everything that lives as long as the machine, destroyed in reverse order: the terminal is restored last but
// before the final messages.
class Session {
 public:
  explicit Session(const RunOptions& options) : options_(options) {}
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  Result<MachineExit> run();
  const std::string& statistics() const { return statistics_; }

 private:
  Status open_console();
  Status open_debugcon();
  Status open_ports();
  void follow_terminal_size();
  Status create_clock();
  Status create_machine();
  Status confine();
  void confine_thread(sandbox::Sandbox::Role role, const std::string& name);
  void on_signal(int signo);
  void end_machine();

  const RunOptions& options_;
  base::Log log_;
  std::unique_ptr<RawTerminal> terminal_;
  base::UniqueFd console_file_, debugcon_file_;
  std::unique_ptr<base::EventLoop> loop_;
  std::unique_ptr<base::SignalWatch> signals_;
  std::unique_ptr<Console> console_;
  std::unique_ptr<Console> debugcon_;
  std::vector<base::UniqueFd> port_files_;
  std::vector<std::unique_ptr<Console>> ports_;
  std::unique_ptr<io::Clock> clock_;
  std::unique_ptr<sandbox::Sandbox> sandbox_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<Debugger> debugger_;
  bool user_network_ = false, tap_ = false, kvm_ = false;
  bool power_button_pressed_ = false;
  bool killed_ = false;
  std::string engine_note_;  // which engine runs and why, where nobody named it
  std::string statistics_;
};

Status Session::open_console() {
  Console::Options console;
  switch (options_.console) {
    case ConsoleKind::kNone: return {};
    case ConsoleKind::kFile:
      console_file_ = RHEA_TRY(base::open_file(options_.console_path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
      console.output_fd = console_file_.get();
      break;
    case ConsoleKind::kTty:
      if (!isatty(STDIN_FILENO))
        return fail(ErrorCode::kInvalidArgument, "--console tty needs a terminal as standard input; use stdio");
      terminal_ = RHEA_TRY(RawTerminal::create(STDIN_FILENO));
      console.escape_keys = true;
      console.on_quit = [this] { end_machine(); };
      [[fallthrough]];
    case ConsoleKind::kStdio:
      console.input_fd = STDIN_FILENO;
      console.output_fd = STDOUT_FILENO;
      break;
  }
  console_ = RHEA_TRY(Console::create(*loop_, std::move(console)));
  return {};
}

Status Session::open_debugcon() {
  if (options_.debugcon.empty() || options_.debugcon == "stdio") return {};
  debugcon_file_ = RHEA_TRY(base::open_file(options_.debugcon, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  return {};
}

Status Session::open_ports() {
  for (const RunOptions::Port& port : options_.ports) {
    port_files_.push_back(RHEA_TRY(base::open_file(port.path, O_WRONLY | O_CREAT | O_TRUNC, 0644)));
    ports_.push_back(RHEA_TRY(Console::create(*loop_, {.output_fd = port_files_.back().get()})));
  }
  return {};
}

void Session::follow_terminal_size() {
  winsize size{};
  if (terminal_ && ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col && size.ws_row)
    machine_->set_console_size(size.ws_col, size.ws_row);
}

Status Session::create_clock() {
  if (options_.clock == ClockKind::kInstructions) {
    clock_ = std::make_unique<io::InstructionClock>();
  } else {
    clock_ = RHEA_TRY(io::HostClock::create(*loop_));
  }
  return {};
}

Status Session::create_machine() {
  EngineChoice engine = RHEA_TRY(select_engine(options_));
  if (!engine.reason.empty()) engine_note_ = fmt::format("engine {}: {}", engine.name, engine.reason);
  kvm_ = engine.name == "kvm";
  cpu::CpuModel model = RHEA_TRY(cpu::CpuModel::create({.name = options_.cpu_model,
                                                        .tsc_frequency_hz = clock_->tsc_frequency_hz(),
                                                        .cpu_count = options_.cpu_count,
                                                        .withheld = std::move(engine.withheld)}));

  Machine::Options machine_options = machine_options_of(options_);
  machine_options.start_paused = options_.gdb_wait;
  if (options_.virtio_console || !ports_.empty())
    machine_options.board.console_ports.push_back({.name = "", .backend = nullptr});
  if (options_.virtio_console)
    machine_options.board.console_ports.front().backend = console_.get();
  else
    machine_options.board.serial[0] = console_.get();
  for (size_t i = 0; i < ports_.size(); ++i)
    machine_options.board.console_ports.push_back({.name = options_.ports[i].name, .backend = ports_[i].get()});
  for (machine::NetworkOptions& network : machine_options.board.networks) {
    if (network.kind != machine::NetworkOptions::Kind::kUser) {
      tap_ = true;
      continue;
    }
    user_network_ = true;
    if (options_.sandbox) network.on_thread_start = confine_network_thread;
  }
  if (!options_.debugcon.empty()) {
    // A console of its own: a reader that stalls must not keep the VM from ending.
    const int fd = debugcon_file_ ? debugcon_file_.get() : STDOUT_FILENO;
    debugcon_ = RHEA_TRY(Console::create(*loop_, {.output_fd = fd}));
    machine_options.board.debugcon = [this](std::span<const std::byte> data) { debugcon_->write(data); };
  }
  machine_ = RHEA_TRY(Machine::create(std::move(machine_options), {.loop = *loop_,
                                                                   .log = log_,
                                                                   .clock = std::move(clock_),
                                                                   .cpu_model = std::move(model),
                                                                   .create_engine = std::move(engine.factory),
                                                                   .on_vcpu_start = [this](unsigned index) {
                                                                     confine_thread(sandbox::Sandbox::Role::kVcpu,
                                                                                    fmt::format("vCPU {}", index));
                                                                   }}));
  return {};
}

// Everything is open and mapped, and no guest code has run.
Status Session::confine() {
  if (!options_.sandbox) return {};
  constexpr std::string_view kHint = "cannot confine the virtual machine (--sandbox off runs it without)";
  auto made = sandbox::Sandbox::create(
      {.connections = !options_.gdb.empty(), .network = user_network_, .tap = tap_, .kvm = kvm_});
  if (!made) return fail(made.error().context(std::string(kHint)));
  sandbox_ = std::move(*made);
  if (auto confined = sandbox_->confine_process(); !confined) return fail(confined.error().context(std::string(kHint)));
  using Role = sandbox::Sandbox::Role;
  machine_->on_each_io_thread([this] { confine_thread(Role::kDevice, "a device thread"); });
  confine_thread(Role::kDevice, "the main thread");
  return {};
}

// On the thread meant. Nobody runs less confined because the kernel was out of memory.
void Session::confine_thread(sandbox::Sandbox::Role role, const std::string& name) {
  if (!sandbox_) return;
  if (auto confined = sandbox_->confine_thread(role, name.c_str()); !confined) {
    log_.error("{}", confined.error().context(fmt::format("cannot confine {}", name)).to_string());
    std::_Exit(kExitHostError);
  }
}

// Event loop's thread.
void Session::end_machine() {
  if (console_) console_->stop_waiting();
  if (debugcon_) debugcon_->stop_waiting();
  for (const auto& port : ports_) port->stop_waiting();
  if (machine_) machine_->request_stop();
}

// SIGTERM and SIGINT ask the guest to power off; the second one ends it, and so does the first where the guest has
// no ear for it. A hang-up ends it at once.
void Session::on_signal(int signo) {
  if (signo == SIGWINCH) return follow_terminal_size();
  if (signo == SIGCONT) {
    if (terminal_) terminal_->enter_raw();
    return follow_terminal_size();
  }
  if (signo != SIGHUP && !std::exchange(power_button_pressed_, true)) {
    if (machine_->press_power_button()) return;
  }
  killed_ = true;
  end_machine();
}

Result<MachineExit> Session::run() {
  RHEA_TRY(log_.enable_traces(options_.traces));
  RHEA_TRY(check_host_memory(options_.memory_bytes));
  signal(SIGPIPE, SIG_IGN);
  loop_ = RHEA_TRY(base::EventLoop::create());
  RHEA_TRY(create_clock());
  RHEA_TRY(open_debugcon());
  RHEA_TRY(open_console());
  RHEA_TRY(open_ports());
  // Before there are other threads: they inherit the mask.
  signals_ = RHEA_TRY(base::SignalWatch::create(*loop_, {SIGTERM, SIGINT, SIGHUP, SIGCONT, SIGWINCH},
                                                [this](int signo) { on_signal(signo); }));
  RHEA_TRY(create_machine());
  if (!engine_note_.empty()) log_.info("{}", engine_note_);  // what fails says what failed, and no more
  follow_terminal_size();
  if (!options_.gdb.empty()) {
    debugger_ = RHEA_TRY(attach_debugger(*loop_, *machine_, options_.gdb));
    log_.info("gdb server listening on {}", debugger_->address());
  }
  RHEA_TRY(confine());
  MachineExit exit = machine_->run();
  if (options_.statistics) statistics_ = machine_->statistics();
  if (exit.kind == MachineExit::Kind::kStopped && killed_) {
    exit.kind = MachineExit::Kind::kHostError;
    exit.text = "ended by a signal";
  }
  return exit;
}

int report(const MachineExit& exit) {
  switch (exit.kind) {
    case MachineExit::Kind::kPoweredOff:
    case MachineExit::Kind::kStopped: return kExitPoweredOff;
    case MachineExit::Kind::kResetRequested: return kExitResetRequested;
    case MachineExit::Kind::kDebugExit: return static_cast<int>(exit.status & 0xff);
    case MachineExit::Kind::kShutdown:
      fmt::print(stderr, "rhea: the guest died of a triple fault\n{}", exit.text);
      return kExitGuestDied;
    case MachineExit::Kind::kHostError: fmt::print(stderr, "rhea: {}\n", exit.text); return kExitHostError;
  }
  return kExitHostError;
}

}  // namespace

int run_command(const RunOptions& asked) {
  Result<MachineExit> exit = fail(ErrorCode::kInternal, "not run");
  std::string statistics;
  if (asked.sandbox) sandbox::Sandbox::prepare();  // reading a disk may start threads
  const Result<RunOptions> resolved = resolve_system(asked);
  if (!resolved) {
    exit = std::unexpected(resolved.error());
  } else {
    const RunOptions& options = *resolved;
    if (options.dbt_verify) {
      signal(SIGPIPE, SIG_IGN);
      exit = run_lockstep(options);
    } else {
      Session session(options);
      exit = session.run();
      statistics = session.statistics();
    }
  }
  if (!statistics.empty()) fmt::print(stderr, "{}", statistics);
  if (exit) return report(*exit);
  fmt::print(stderr, "rhea: {}\n", exit.error().to_string());
  return exit.error().code() == ErrorCode::kInvalidArgument ? kExitUsage : kExitHostError;
}

}  // namespace rhea::app
