// SPDX-License-Identifier: Apache-2.0
#include "app/system.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <span>
#include <string_view>

#include "base/fd.h"
#include "block/image_tools.h"
#include "machine/boot/loader.h"
#include "provision/debian.h"

namespace rhea::app {
namespace {

constexpr uint64_t kSystemMemoryBytes = uint64_t{1} << 30;
constexpr uint16_t kSshPort = 22, kFirstSshForward = 2222, kSshForwards = 100;

bool port_is_free(uint16_t port) {
  const base::UniqueFd probe(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  setsockopt(probe.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return probe && bind(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

// A port of this host that leads to the guest's ssh: what the user has asked for, or the first that is free.
std::optional<uint16_t> lead_to_ssh(RunOptions& options) {
  for (const net::Forward& forward : options.forwards)
    if (!forward.udp && forward.guest_port == kSshPort) return forward.host_port;
  if (!first_user_network(options.networks)) return std::nullopt;
  for (uint16_t port = kFirstSshForward; port < kFirstSshForward + kSshForwards; ++port) {
    if (!port_is_free(port)) continue;
    options.forwards.push_back({.host_port = port, .guest_port = kSshPort});
    return port;
  }
  return std::nullopt;
}

void say_how_to_log_in(const RunOptions& options, const provision::DebianMachine& machine,
                       std::optional<uint16_t> port) {
  std::string text = fmt::format("rhea: {} starts", options.name);
  if (options.console == ConsoleKind::kTty || options.console == ConsoleKind::kStdio) text += "; you will be root here";
  if (port && machine.keys != 0)
    text += fmt::format("; from elsewhere: ssh -p {} root@127.0.0.1", *port);
  else if (port)
    text += "; no ssh, because ~/.ssh has no public key (ssh-keygen makes one)";
  if (machine.keys_left_out != 0)
    text += fmt::format("; {} of your ssh keys found no room ({} did)", machine.keys_left_out, machine.keys);
  if (options.console == ConsoleKind::kTty) text += "; Ctrl-A x ends it";
  if (!machine.kernel_note.empty()) text += fmt::format("\nrhea: {}", machine.kernel_note);
  fmt::print(stderr, "{}\n", text);
}

Status resolve_debian(RunOptions& options) {
  if (!options.kernel.empty() || !options.initrds.empty())
    return fail(ErrorCode::kInvalidArgument, "debian brings its own kernel: leave --kernel and --initrd away");
  if (options.name.empty()) options.name = "debian";
  const char* home = std::getenv("HOME");
  std::string images = RHEA_TRY(provision::images_folder());
  const provision::DebianMachine machine =
      RHEA_TRY(provision::prepare_debian({.images = std::move(images),
                                          .name = options.name,
                                          .fresh = options.fresh,
                                          .terminal = isatty(STDERR_FILENO) != 0,
                                          .keys_folder = home ? fmt::format("{}/.ssh", home) : "",
                                          .mirror = options.mirror}));
  options.held_files = machine.held_files;
  options.kernel = machine.kernel;
  options.initrds = {machine.initrd};
  options.oem_strings = machine.oem_strings;
  options.command_line = machine.command_line + (options.command_line.empty() ? "" : " ") + options.command_line;
  if (!options.memory_given) options.memory_bytes = kSystemMemoryBytes;
  options.disks.insert(options.disks.begin(), {.path = machine.disk, .format = "qcow2"});
  say_how_to_log_in(options, machine, lead_to_ssh(options));
  return {};
}

Status resolve_file(RunOptions& options) {
  if (options.fresh) return fail(ErrorCode::kInvalidArgument, "--fresh goes with a system that Rhea makes (debian)");
  const FileKind kind = RHEA_TRY(kind_of_file(options.what));
  if (kind == FileKind::kKernel) {
    if (!options.kernel.empty())
      return fail(ErrorCode::kInvalidArgument, fmt::format("two kernels: {} and {}", options.what, options.kernel));
    options.kernel = options.what;
    return {};
  }
  if (options.kernel.empty())
    return fail(ErrorCode::kUnsupported,
                fmt::format("{} is a disk, and there is no firmware yet to start what is on it: give its kernel with "
                            "--kernel FILE [--initrd FILE] --append 'root=/dev/vda1 console=ttyS0'",
                            options.what));
  options.disks.insert(options.disks.begin(), {.path = options.what, .format = std::string(machine::kFormatByName)});
  return {};
}

// Where the user does not say of which format a disk is, its name does.
Status resolve_formats(RunOptions& options) {
  for (machine::DiskOptions& disk : options.disks)
    if (disk.format == machine::kFormatByName)
      disk.format =
          RHEA_TRY(block::format_unsaid(disk.path, fmt::format("--disk {},format=qcow2 (or format=raw)", disk.path)));
  return {};
}

// Each disk gets an empty image in front of it, which takes what is written.
Status make_throw_away(RunOptions& options) {
  const char* folder = std::getenv("TMPDIR");
  for (machine::DiskOptions& disk : options.disks) {
    if (disk.read_only) continue;
    std::error_code error;
    const std::string backing = std::filesystem::canonical(disk.path, error).string();
    if (error) return fail(Error::from_errno(error.value(), fmt::format("opening the disk {}", disk.path)));
    std::string name = fmt::format("{}/rhea-snapshot-XXXXXX", folder && folder[0] == '/' ? folder : "/var/tmp");
    if (!mkdtemp(name.data())) return fail(Error::from_errno(errno, fmt::format("creating a folder {}", name)));
    const std::string path = name + ".qcow2";
    const Status made =
        block::create_image({.path = path, .backing_file = backing, .backing_format = disk.format, .mode = 0600});
    rmdir(name.c_str());
    RHEA_TRY(made);
    // Without a name it is gone whenever this process is, whatever ends it.
    auto file = base::open_file(path, O_RDWR);
    unlink(path.c_str());
    options.held_files.push_back(std::make_shared<base::UniqueFd>(RHEA_TRY(std::move(file))));
    disk.path = fmt::format("/proc/self/fd/{}", options.held_files.back()->get());
    disk.format = "qcow2";
    disk.trusted_backing = backing;  // the user named it; what it names itself is judged as ever
  }
  return {};
}

}  // namespace

Result<FileKind> kind_of_file(const std::string& path) {
  const base::UniqueFd file = RHEA_TRY(base::open_file(path, O_RDONLY | O_NONBLOCK));  // a pipe would be waited for
  struct stat info{};
  if (fstat(file.get(), &info) != 0) return fail(Error::from_errno(errno, fmt::format("reading {}", path)));
  if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode))
    return fail(ErrorCode::kInvalidArgument, fmt::format("{} is neither a file nor a block device, but a {}", path,
                                                         S_ISDIR(info.st_mode)    ? "folder"
                                                         : S_ISFIFO(info.st_mode) ? "pipe"
                                                                                  : "special file"));
  if (block::format_by_name(path) == "qcow2") return FileKind::kQcow2Disk;
  if (path.ends_with(".img") || path.ends_with(".raw")) return FileKind::kRawDisk;
  std::array<std::byte, 0x2000> head{};  // as far as a kernel may begin
  const ssize_t count = pread(file.get(), head.data(), head.size(), 0);
  if (count < 0) return fail(Error::from_errno(errno, fmt::format("reading {}", path)));
  const auto bytes = std::span<const std::byte>(head).first(static_cast<size_t>(count));
  return machine::detect_kernel(bytes) == machine::KernelKind::kUnknown ? FileKind::kRawDisk : FileKind::kKernel;
}

Result<RunOptions> resolve_system(const RunOptions& asked) {
  RunOptions options = asked;
  if (options.fresh && options.snapshot)
    return fail(ErrorCode::kInvalidArgument,
                "--fresh takes the disk away for good, --snapshot keeps it: use one of them");
  if (const auto system = RHEA_TRY(provision::known_system(options.what)); system)
    RHEA_TRY(resolve_debian(options));
  else if (!options.what.empty())
    RHEA_TRY(resolve_file(options));
  else if (options.fresh)
    return fail(ErrorCode::kInvalidArgument, "--fresh goes with a system that Rhea makes (debian)");
  if (options.name.empty()) options.name = "rhea";
  if (!options.mirror.empty() && !RHEA_TRY(provision::known_system(options.what)))
    return fail(ErrorCode::kInvalidArgument, "--mirror goes with a system that Rhea makes (debian)");
  RHEA_TRY(resolve_formats(options));
  if (options.snapshot) RHEA_TRY(make_throw_away(options));
  return options;
}

}  // namespace rhea::app
