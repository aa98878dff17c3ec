// SPDX-License-Identifier: Apache-2.0
// Parsing of the command line with CLI11; its exceptions end here.
#include "app/options.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <string_view>

#include "base/strings.h"
#include "machine/pc/machine.h"
#include "sandbox/sandbox.h"

namespace rhea::app {
namespace {

constexpr std::string_view kVersion = "rhea 0.1.0";
constexpr std::array<std::string_view, 4> kCommands = {"run", "image", "version", "help"};
constexpr std::array<std::string_view, 3> kEngines = {"auto", "dbt", "kvm"};
constexpr std::array<std::string_view, 4> kConsoles = {"tty", "stdio", "file:PATH", "none"};
constexpr std::array<std::string_view, 2> kConsoleDevices = {"serial", "virtio"};
constexpr std::array<std::string_view, 4> kTransports = {"pci", "pci-ports", "mmio", "mmio-cmdline"};
constexpr std::array<std::string_view, 2> kSandbox = {"on", "off"};
constexpr std::array<std::string_view, 2> kClocks = {"host", "instructions"};

// Options as the user typed them, before they are checked.
struct Raw {
  std::string memory, cpus = "1", console, sandbox, clock = "host", dbt_opt = "1", dbt_verify = "0", dbt_cache = "256M";
  bool no_reboot = false;
  std::vector<std::string> disks, forwards, networks;
  std::string transport = "pci", balloon = "on", console_device = "serial";
  std::vector<std::string> ports;
};

std::unexpected<Error> usage(std::string message) { return fail(ErrorCode::kInvalidArgument, std::move(message)); }

void add_run_options(CLI::App& run, RunOptions& options, Raw& raw) {
  run.add_option("WHAT", options.what,
                 "debian: a Debian 12 that Rhea makes at the first start, and keeps; or a disk image; or a kernel")
      ->type_name("");
  run.add_flag("--snapshot", options.snapshot, "Throw away what the guest writes to its disks when it ends");
  run.add_flag("--fresh", options.fresh,
               "With debian: a new disk for the machine of this name; its old one is kept once, as NAME.qcow2.old");
  run.add_option(
         "--mirror", options.mirror,
         "With debian: the archive its packages come from, when it is made and in the guest (default Debian's own)")
      ->type_name("URL");
  run.add_option("--kernel", options.kernel, "Kernel: bzImage, vmlinux (ELF), PVH or Multiboot 1")->type_name("FILE");
  run.add_option("--initrd", options.initrds, "Initial RAM disk, or Multiboot module; may be given several times")
      ->type_name("FILE")
      ->expected(1)
      ->take_all();
  run.add_option("--append", options.command_line, "Kernel command line")->type_name("STRING");
  run.add_option("-m,--memory", raw.memory, "Guest memory: 512M, 4G, ... (default 512M; debian 1G)")->type_name("SIZE");
  run.add_option("-c,--cpus", raw.cpus, "Number of processors, 1 to 255 (default 1)")->type_name("N");
  run.add_option("--cpu", options.cpu_model, "Processor model: x86-64-v2, x86-64-v3, max (default max)")
      ->type_name("MODEL");
  run.add_option("--engine", options.engine, "Engine: auto, dbt, kvm (default auto)")->type_name("ENGINE");
  run.add_option("--name", options.name,
                 "Name of the virtual machine, and of its disk with debian (default debian, else rhea)")
      ->type_name("NAME");
  run.add_option("--console", raw.console,
                 "Serial console: tty, stdio, file:PATH, none (default tty on a terminal, else stdio)")
      ->type_name("KIND");
  run.add_option(
         "--console-device", raw.console_device,
         "What the console is to the guest: serial (ttyS0), virtio (hvc0, follows the terminal's size) (default "
         "serial)")
      ->type_name("KIND");
  run.add_option("--port", raw.ports,
                 "A channel from the guest, /dev/virtio-ports/NAME there, into a file; may be given several times: "
                 "NAME=file:PATH")
      ->type_name("NAME=file:PATH")
      ->expected(1)
      ->take_all();
  run.add_option("--balloon", raw.balloon,
                 "Memory that the guest frees goes back to this host: on, off; or a SIZE to which the guest shall "
                 "shrink (default on)")
      ->type_name("on|off|SIZE");
  run.add_option("--disk", raw.disks,
                 "Disk image, may be given several times: FILE[,format=raw|qcow2 (default: qcow2 if it ends in .qcow2, "
                 "else raw)][,readonly=on][,serial=TEXT][,queues=N][,block=512|4096]")
      ->type_name("FILE[,...]")
      ->expected(1)
      ->take_all();
  run.add_option(
         "--net", raw.networks,
         "Network card, may be given several times: user (outbound through this host's sockets, no privileges), "
         "tap=NAME or bridge=NAME (of this host), none (default user); behind it "
         "[,mac=ADDRESS][,mtu=N][,queues=N][,link=up|down]")
      ->type_name("KIND[,...]")
      ->expected(1)
      ->take_all();
  run.add_option("--transport", raw.transport,
                 "How virtio devices reach the guest: pci; pci-ports (each behind a PCI Express port of its own); mmio "
                 "(memory-mapped registers, announced by ACPI); mmio-cmdline "
                 "(the same, announced on the kernel's command line) (default pci)")
      ->type_name("KIND");
  run.add_option("--forward", raw.forwards,
                 "Lead a port of this host to the guest, by the first user network: tcp:2222:22, "
                 "udp:[ADDRESS:]PORT:PORT")
      ->type_name("FORWARD")
      ->expected(1)
      ->take_all();
  run.add_option("--capture", options.capture,
                 "Write all frames of the network cards to a file that tcpdump and Wireshark read (pcap)")
      ->type_name("FILE");
  run.add_flag("--no-reboot", raw.no_reboot, "End with status 4 where the guest asks for a reset");
  run.add_option("--sandbox", raw.sandbox,
                 "Confine the running VM to the system calls it needs: on, off (default on; not with --dbt-verify)")
      ->type_name("on|off");
  run.add_option("--trace", options.traces, "Trace categories, comma-separated, or all")->type_name("CATEGORY");
  run.add_flag("--stats", options.statistics, "Print statistics at the end");
  run.add_flag("--debug-exit", options.debug_exit, "Port 0xf4 ends the VM: writing v exits with status (v << 1) | 1");
  run.add_option("--debugcon", options.debugcon, "Output of port 0xe9 goes to a file or stdio")
      ->type_name("PATH|stdio");
  run.add_option("--gdb", options.gdb, "Serve gdb on tcp:HOST:PORT or unix:PATH")->type_name("ADDRESS");
  run.add_flag("--gdb-wait", options.gdb_wait, "Do not start the guest until the debugger continues it");
  run.add_option("--clock", raw.clock, "Guest time: host, or instructions (deterministic) (default host)")
      ->type_name("CLOCK");
  run.add_option("--dbt-opt", raw.dbt_opt, "Translator: 0 is the reference mode, 1 optimises (default 1)")
      ->type_name("N");
  run.add_option("--dbt-verify", raw.dbt_verify,
                 "Run a second machine in reference mode in step and compare every N instructions")
      ->type_name("N");
  run.add_option("--dbt-cache", raw.dbt_cache, "Size of the translator's code cache (default 256M)")->type_name("SIZE");
  run.add_option("--dbt-perf-map", options.dbt_perf_map, "Write a map of translated code for perf")->type_name("PATH");
}

// The first argument that CLI11 left over, as an error. `app` supplies the option names.
std::unexpected<Error> unexpected_argument(const std::vector<std::string>& rest, const CLI::App& app) {
  const std::string& word = rest.front();
  if (word.size() < 2 || word[0] != '-') return usage(fmt::format("unexpected argument '{}'", word));
  std::string name = word.substr(0, word.find('='));
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& long_name : option->get_lnames()) names.push_back("--" + long_name);
  }
  std::vector<std::string_view> candidates(names.begin(), names.end());
  return usage(fmt::format("unknown option '{}'{}", name, base::did_you_mean(name, candidates)));
}

Result<uint64_t> number(std::string_view option, std::string_view text, uint64_t minimum, uint64_t maximum) {
  auto value = base::parse_unsigned(text);
  if (!value || *value < minimum || *value > maximum)
    return usage(fmt::format("{} takes a number from {} to {}, not '{}'", option, minimum, maximum, text));
  return *value;
}

Result<uint64_t> size(std::string_view option, std::string_view text) {
  auto value = base::parse_size(text);
  if (!value) return usage(fmt::format("{} takes a size such as 512M or 4G, not '{}'", option, text));
  return *value;
}

template <size_t N>
std::unexpected<Error> unknown_choice(std::string_view option, std::string_view value,
                                      const std::array<std::string_view, N>& choices) {
  std::string hint = base::did_you_mean(value, choices);
  if (hint.empty()) hint = fmt::format(" (one of: {})", fmt::join(choices, ", "));
  return usage(fmt::format("unknown {} '{}'{}", option, value, hint));
}

Status set_console(RunOptions& options, const std::string& text) {
  if (text.empty()) {
    options.console = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) ? ConsoleKind::kTty : ConsoleKind::kStdio;
  } else if (text == "tty") {
    options.console = ConsoleKind::kTty;
  } else if (text == "stdio") {
    options.console = ConsoleKind::kStdio;
  } else if (text == "none") {
    options.console = ConsoleKind::kNone;
  } else if (text.starts_with("file:") && text.size() > 5) {
    options.console = ConsoleKind::kFile;
    options.console_path = text.substr(5);
  } else {
    return unknown_choice("console", text, kConsoles);
  }
  return {};
}

Status set_balloon(RunOptions& options, const std::string& text) {
  options.balloon = text != "off";
  if (text == "on" || text == "off") return {};
  options.balloon_size_bytes = RHEA_TRY(size("--balloon", text));
  if (options.balloon_size_bytes == 0 || options.balloon_size_bytes > options.memory_bytes)
    return usage(fmt::format("--balloon {}: the guest has {}", text, base::format_size(options.memory_bytes)));
  return {};
}

Status set_console_device(RunOptions& options, const Raw& raw) {
  if (raw.console_device != "serial" && raw.console_device != "virtio")
    return unknown_choice("console device", raw.console_device, kConsoleDevices);
  options.virtio_console = raw.console_device == "virtio";
  for (const std::string& text : raw.ports) {
    const size_t at = text.find("=file:");
    if (at == 0 || at == std::string::npos || at + 6 == text.size())
      return usage(fmt::format("--port takes NAME=file:PATH, not '{}'", text));
    options.ports.push_back({.name = text.substr(0, at), .path = text.substr(at + 6)});
  }
  if (options.ports.size() > 30) return usage("--port may be given 30 times");
  return {};
}

Status set_transport(RunOptions& options, const std::string& text) {
  using machine::VirtioTransport;
  if (text == "pci-ports") {
    options.transport = VirtioTransport::kPciPorts;
  } else if (text == "mmio") {
    options.transport = VirtioTransport::kMmio;
  } else if (text == "mmio-cmdline") {
    options.transport = VirtioTransport::kMmioCommandLine;
  } else if (text != "pci") {
    return unknown_choice("transport", text, kTransports);
  }
  return {};
}

Status set_sandbox(RunOptions& options, const std::string& text) {
  if (text.empty()) {
    options.sandbox = sandbox::Sandbox::built() && !options.dbt_verify;
    return {};
  }
  if (text != "on" && text != "off") return unknown_choice("sandbox", text, kSandbox);
  options.sandbox = text == "on";
  if (options.sandbox && !sandbox::Sandbox::built())
    return usage("--sandbox on: a build with sanitizers has no sandbox");
  if (options.sandbox && options.dbt_verify)
    return usage("--dbt-verify starts machines anew as it searches, and has no sandbox: leave --sandbox away");
  return {};
}

Status set_networks(RunOptions& options, const Raw& raw) {
  const bool none = std::ranges::find(raw.networks, "none") != raw.networks.end();
  if (none && raw.networks.size() > 1) return usage("--net none is no network: leave the other --net away");
  if (raw.networks.empty()) options.networks.emplace_back();
  for (const std::string& network : raw.networks)
    if (!none) options.networks.push_back(RHEA_TRY(machine::parse_network(network)));
  for (size_t i = 0; i < options.networks.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      if (options.networks[i].mac && options.networks[i].mac == options.networks[j].mac)
        return usage("two network cards have the same address (mac=)");
  if (!first_user_network(options.networks) && !options.forwards.empty()) return usage("--forward needs --net user");
  if (options.networks.empty() && !options.capture.empty()) return usage("--capture needs a network (--net user)");
  return {};
}

Status check_run_options(RunOptions& options, const Raw& raw) {
  if (options.kernel.empty() && options.what.empty())
    return usage("nothing to run: name a system or a file (rhea run debian), or use --kernel FILE");
  options.memory_given = !raw.memory.empty();
  if (options.memory_given) options.memory_bytes = RHEA_TRY(size("--memory", raw.memory));
  options.cpu_count = static_cast<unsigned>(RHEA_TRY(number("--cpus", raw.cpus, 1, machine::Machine::kMaxCpus)));
  options.dbt_opt = static_cast<int>(RHEA_TRY(number("--dbt-opt", raw.dbt_opt, 0, 1)));
  options.dbt_verify = RHEA_TRY(number("--dbt-verify", raw.dbt_verify, 0, ~uint64_t{0}));
  options.dbt_cache_bytes = RHEA_TRY(size("--dbt-cache", raw.dbt_cache));
  options.reboot = !raw.no_reboot;
  RHEA_TRY(set_console(options, raw.console));
  for (const std::string& disk : raw.disks) options.disks.push_back(RHEA_TRY(machine::parse_disk(disk)));
  for (const std::string& forward : raw.forwards) options.forwards.push_back(RHEA_TRY(net::parse_forward(forward)));
  RHEA_TRY(set_networks(options, raw));
  RHEA_TRY(set_transport(options, raw.transport));
  RHEA_TRY(set_console_device(options, raw));
  RHEA_TRY(set_balloon(options, raw.balloon));
  RHEA_TRY(set_sandbox(options, raw.sandbox));
  if (std::ranges::find(kEngines, options.engine) == kEngines.end())
    return unknown_choice("engine", options.engine, kEngines);
  if (raw.clock == "instructions") {
    options.clock = ClockKind::kInstructions;
  } else if (raw.clock != "host") {
    return unknown_choice("clock", raw.clock, kClocks);
  }
  if (options.dbt_verify) {
    if (!options.gdb.empty()) return usage("--dbt-verify runs two machines and has no debugger: leave --gdb away");
    if (options.console == ConsoleKind::kFile || !options.debugcon.empty())
      return usage("--dbt-verify knows the console on standard output or none, and no --debugcon");
    options.clock = ClockKind::kInstructions;
  }
  if (options.clock == ClockKind::kInstructions && (!options.disks.empty() || !options.what.empty()))
    return usage("disks take the time they take: --disk does not go with a deterministic clock");
  if (options.clock == ClockKind::kInstructions && (options.virtio_console || !options.ports.empty()))
    return usage("the virtio console has a thread of its own: it does not go with a deterministic clock");
  if (options.clock == ClockKind::kInstructions && options.cpu_count > 1)
    return usage(fmt::format("{} runs one processor: its instructions are the time; leave --cpus away",
                             options.dbt_verify ? "--dbt-verify" : "--clock=instructions"));
  if (options.engine == "kvm" && asks_for_dbt(options))
    return usage("--engine kvm has no translator: leave the --dbt options and --clock=instructions away");
  if (options.gdb_wait && options.gdb.empty()) return usage("--gdb-wait needs --gdb");
  return {};
}

}  // namespace

bool asks_for_dbt(const RunOptions& options) {
  return options.dbt_opt != 1 || options.dbt_verify || !options.dbt_perf_map.empty() ||
         options.clock == ClockKind::kInstructions;
}

Result<Invocation> parse_command_line(int argc, const char* const* argv) {
  RunOptions options;
  Raw raw;
  CLI::App app("Rhea runs virtual machines: one process per machine, with or without hardware virtualization.", "rhea");
  app.set_version_flag("--version", std::string(kVersion), "Print the version");
  app.set_help_flag("-h,--help", "Print this help");
  app.allow_extras();
  CLI::App* run = app.add_subcommand("run", "Run a virtual machine");
  add_run_options(*run, options, raw);
  run->set_help_flag("-h,--help", "Print this help");
  run->allow_extras();
  run->footer(
      "Exit status: 0 the guest powered off, 1 host error, 2 usage, 3 the guest died, 4 reset asked for under "
      "--no-reboot.");
  ImageCommand image_command;
  CLI::App* image = app.add_subcommand("image", "Make disk images and look at them");
  add_image_options(*image, image_command);
  image->set_help_flag("-h,--help", "Print this help");
  CLI::App* version = app.add_subcommand("version", "Print the version");
  CLI::App* help = app.add_subcommand("help", "Explain a command: help run");
  for (CLI::App* command : {version, help}) {
    command->set_help_flag("-h,--help", "Print this help");
    command->allow_extras();
  }

  // By hand: to CLI11 the word after `help` would be the command itself.
  if (argc >= 2 && argv[1] == std::string_view("help")) {
    if (argc == 2) return Invocation{.run = std::nullopt, .print = app.help()};
    const std::string_view topic = argv[2];
    for (CLI::App* command : {run, image, version, help}) {
      if (command->get_name() == topic) return Invocation{.run = std::nullopt, .print = command->help("rhea")};
    }
    return usage(fmt::format("unknown command '{}'{}", topic, base::did_you_mean(topic, kCommands)));
  }

  try {
    app.parse(argc, const_cast<char**>(argv));  // SAFETY: CLI11 reads only
  } catch (const CLI::CallForHelp&) {
    const std::string text = run->parsed()     ? run->help("rhea")
                             : image->parsed() ? image->help("rhea", CLI::AppFormatMode::All)
                                               : app.help();
    return Invocation{.run = std::nullopt, .print = text};
  } catch (const CLI::CallForVersion&) {
    return Invocation{.run = std::nullopt, .print = fmt::format("{}\n", kVersion)};
  } catch (const CLI::Error& error) {
    return usage(error.what());
  }

  if (image->parsed()) return Invocation{.run = std::nullopt, .image = image_command, .print = {}};
  if (version->parsed()) return Invocation{.run = std::nullopt, .print = fmt::format("{}\n", kVersion)};
  if (!run->parsed()) {
    std::vector<std::string> rest = app.remaining(true);
    if (rest.empty()) return usage("no command given; `rhea --help` shows all");
    if (rest.front().starts_with('-')) return unexpected_argument(rest, app);
    return usage(fmt::format("unknown command '{}'{}", rest.front(), base::did_you_mean(rest.front(), kCommands)));
  }
  if (std::vector<std::string> rest = app.remaining(true); !rest.empty()) return unexpected_argument(rest, *run);
  RHEA_TRY(check_run_options(options, raw));
  return Invocation{.run = std::move(options), .print = {}};
}

}  // namespace rhea::app
