// SPDX-License-Identifier: Apache-2.0
#include "provision/debian.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <utility>

#include "base/fd.h"
#include "base/strings.h"
#include "block/file_lock.h"
#include "block/image_tools.h"
#include "provision/debian_scripts.h"
#include "provision/program.h"
#include "provision/progress.h"

namespace rhea::provision {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSystem = "debian-12", kRelease = "bookworm";
constexpr std::string_view kDiskSize = "8G";
// The archive, the unpacked tree and the disk lie side by side for a moment.
constexpr uint64_t kBuildBytes = uint64_t{1500} << 20;
// The kernel takes 2047 bytes of command line, and the user's words come after these.
constexpr size_t kKeyBytes = 1200;
constexpr const char* kPackages =
    "apt-utils,ca-certificates,dbus,initramfs-tools,iproute2,iputils-ping,kmod,less,libnss-myhostname,"
    "linux-image-cloud-amd64,nano,openssh-server,procps,systemd-resolved,systemd-sysv,tzdata,udev,zstd";

// Removes a folder with all that is in it, unless it is kept.
class TemporaryFolder {
 public:
  static Result<TemporaryFolder> create(const std::string& prefix) {
    std::string path = prefix + "XXXXXX";
    if (!mkdtemp(path.data())) return fail(Error::from_errno(errno, fmt::format("creating a folder {}", path)));
    return TemporaryFolder(std::move(path));
  }
  TemporaryFolder(TemporaryFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  std::string at(std::string_view name) const { return fmt::format("{}/{}", path_, name); }
  const std::string& path() const { return path_; }

  // The folder takes its place under its own name at once, whole.
  Status move_to(const std::string& target) {
    if (rename(path_.c_str(), target.c_str()) != 0)
      return fail(Error::from_errno(errno, fmt::format("moving {} to {}", path_, target)));
    path_.clear();
    return {};
  }

 private:
  explicit TemporaryFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

Status write_file(const std::string& path, std::string_view text) {
  const base::UniqueFd file = RHEA_TRY(base::open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  return base::write_all(file.get(), std::as_bytes(std::span(text)));
}

Status check_tools() {
  if (geteuid() != 0)
    return fail(
        ErrorCode::kPermissionDenied,
        "making a Debian system needs root for now (owners of files, device nodes): run this once as root, with "
        "XDG_DATA_HOME set to a folder of yours, and give the files to yourself");
  struct Tool {
    const char* program;
    const char* package;
  };
  constexpr std::array kTools = {Tool{"mmdebstrap", "mmdebstrap"}, Tool{"mke2fs", "e2fsprogs"}, Tool{"tar", "tar"}};
  std::vector<std::string_view> packages;
  for (const Tool& tool : kTools)
    if (!program_exists(tool.program)) packages.emplace_back(tool.package);
  if (packages.empty()) return {};
  return fail(ErrorCode::kNotFound,
              fmt::format("making a Debian system needs programs that are not installed: apt-get install {}",
                          fmt::join(packages, " ")));
}

Status check_room(const std::string& folder) {
  struct statvfs info{};
  if (statvfs(folder.c_str(), &info) != 0) return {};
  const uint64_t free_bytes = uint64_t{info.f_bavail} * info.f_frsize;
  if (free_bytes >= kBuildBytes) return {};
  return fail(ErrorCode::kExhausted,
              fmt::format("{} has {} MiB left, and making a Debian system takes {} MiB: make room, or set "
                          "XDG_DATA_HOME to a folder on another disk",
                          folder, free_bytes >> 20, kBuildBytes >> 20));
}

// Runs a program whose lines move the progress bar, and keeps them all in a log.
Status run_logged(const std::vector<std::string>& argv, const std::string& log_path, Progress& progress) {
  const base::UniqueFd log = RHEA_TRY(base::open_file(log_path, O_WRONLY | O_CREAT | O_APPEND, 0644));
  std::string last, said;  // the last line, and the last that calls itself an error
  const auto on_line = [&](std::string_view line) {
    const std::string text = fmt::format("{}\n", line);
    [[maybe_unused]] const Status written = base::write_all(log.get(), std::as_bytes(std::span(text)));
    last = line;
    if (line.starts_with("E:") || line.find("No space left") != std::string_view::npos) said = line;
    if (const auto stage = stage_of(line)) progress.show(stage->percent, stage->what);
  };
  const int status = RHEA_TRY(run_program(argv, on_line));
  if (status == 0) return {};
  if (status == 128 + SIGINT || status == 130) return fail(ErrorCode::kBusy, "interrupted");
  const std::string& words = said.empty() ? last : said;
  return fail(ErrorCode::kIo,
              fmt::format("{} failed with status {}{}{}", argv.front(), status, words.empty() ? "" : ": ", words));
}

std::vector<std::string> mmdebstrap_command(const TemporaryFolder& work) {
  // Hooks are read by a shell: a quote in the folder's name is written as it takes one.
  const auto hook = [&work](std::string_view kind, std::string_view script) {
    std::string path = work.at(script);
    for (size_t at = 0; (at = path.find('\'', at)) != std::string::npos; at += 4) path.replace(at, 1, "'\\''");
    return fmt::format("--{}-hook=sh -eu '{}' \"$1\"", kind, path);
  };
  std::vector<std::string> argv = {"mmdebstrap",
                                   "--variant=minbase",
                                   "--format=tar",
                                   fmt::format("--include={}", kPackages),
                                   hook("essential", "before.sh"),
                                   hook("customize", "after.sh"),
                                   "--aptopt=Acquire::Languages \"none\""};
  for (const char* rule : {"path-exclude=/usr/share/man/*", "path-exclude=/usr/share/doc/*",
                           "path-include=/usr/share/doc/*/copyright", "path-exclude=/usr/share/locale/*"})
    argv.push_back(fmt::format("--dpkgopt={}", rule));
  argv.emplace_back(kRelease);
  argv.push_back(work.at("system.tar"));
  return argv;
}

std::vector<std::string> disk_command(const TemporaryFolder& work) {
  return {"sh", "-eu", work.at("disk.sh"), work.at("system.tar"), work.path(), std::string(kDiskSize)};
}

Status build(const std::string& images, const std::string& target, const DebianOptions& options) {
  RHEA_TRY(check_tools());
  RHEA_TRY(check_room(images));
  fmt::print(options.messages, "Making Debian 12 from its packages: once, for a minute or two. It is kept in {}\n",
             target);
  Progress progress(options.messages, options.terminal);
  TemporaryFolder work = RHEA_TRY(TemporaryFolder::create(fmt::format("{}/.{}-", images, kSystem)));
  RHEA_TRY(write_file(work.at("before.sh"), kDebianBeforePackages));
  RHEA_TRY(write_file(work.at("after.sh"), kDebianAfterPackages));
  RHEA_TRY(write_file(work.at("disk.sh"), kDebianMakeDisk));
  const std::string log = fmt::format("{}/{}.log", images, kSystem);
  unlink(log.c_str());
  const auto failed = [&](const Error& error) {
    progress.finish();
    return fail(error.context(fmt::format("making a Debian system (all that was said is in {})", log)));
  };
  if (const auto made = run_logged(mmdebstrap_command(work), log, progress); !made) return failed(made.error());
  progress.show(92, "making the disk");
  if (const auto made = run_logged(disk_command(work), log, progress); !made) return failed(made.error());
  for (const char* name : {"system.tar", "before.sh", "after.sh", "disk.sh"}) unlink(work.at(name).c_str());
  RHEA_TRY(work.move_to(target));
  unlink(log.c_str());
  progress.show(100, "done");
  return {};
}

// The disk makes room for a new one, but is kept once: what follows may fail, and people err. Not while it is in use.
Status set_aside(const std::string& disk) {
  std::error_code error;
  if (!fs::exists(disk, error)) return {};
  const base::UniqueFd fd = RHEA_TRY(base::open_file(disk, O_RDWR));
  RHEA_TRY(block::lock_image(fd.get(), true, disk));
  const std::string old = disk + ".old";
  if (rename(disk.c_str(), old.c_str()) != 0)
    return fail(Error::from_errno(errno, fmt::format("renaming {} to {}", disk, old)));
  return {};
}

// The kernel's words: where the system is, who it is, who may log in.
std::string command_line(const std::string& name, const std::vector<std::string>& keys) {
  std::string line = fmt::format("root=/dev/vda rw console=ttyS0 quiet systemd.hostname={}", name);
  if (!keys.empty())
    line += fmt::format(" systemd.set_credential=ssh.authorized_keys.root:\"{}\"", fmt::join(keys, "\\n"));
  return line;
}

}  // namespace

Result<std::string> images_folder() {
  if (const char* data = std::getenv("XDG_DATA_HOME"); data && data[0] == '/')
    return fmt::format("{}/rhea/images", data);
  if (const char* home = std::getenv("HOME"); home && home[0] == '/')
    return fmt::format("{}/.local/share/rhea/images", home);
  return fail(ErrorCode::kNotFound, "images have no place: set HOME, or XDG_DATA_HOME, to a folder");
}

Result<std::optional<std::string>> known_system(std::string_view word) {
  if (word == "debian" || word == "debian:12" || word == "debian:bookworm") return std::string(kSystem);
  if (word.starts_with("debian:"))
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("'{}' is not known here: Debian 12 is (debian, debian:12)", word));
  return std::nullopt;
}

Status check_machine_name(std::string_view name) {
  const bool good =
      !name.empty() && name.size() <= 63 && name != "base" && std::isalnum(static_cast<unsigned char>(name.front())) &&
      std::ranges::all_of(name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '-'; });
  if (good) return {};
  return fail(ErrorCode::kInvalidArgument,
              fmt::format("a machine's name is up to 63 letters, digits and '-', and not 'base'; '{}' is not", name));
}

std::vector<std::string> public_keys(const std::string& folder, size_t limit) {
  std::vector<std::string> keys;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() != ".pub") continue;
    const auto bytes = base::read_file(entry.path().string(), 64 << 10);
    if (!bytes) continue;
    const std::string_view text(reinterpret_cast<const char*>(bytes->data()), bytes->size());
    const std::vector<std::string_view> words = base::split(text.substr(0, text.find('\n')), ' ');
    if (words.size() < 2) continue;
    const auto plain = [](std::string_view word) {
      return std::ranges::all_of(word, [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) || std::string_view("+/=-.@").contains(c);
      });
    };
    const bool type = words[0].starts_with("ssh-") || words[0].starts_with("ecdsa-") || words[0].starts_with("sk-");
    if (type && plain(words[0]) && plain(words[1])) keys.push_back(fmt::format("{} {}", words[0], words[1]));
  }
  std::ranges::sort(keys, [](const std::string& a, const std::string& b) {
    return a.size() != b.size() ? a.size() < b.size() : a < b;
  });
  size_t used = 0;
  std::erase_if(keys, [&](const std::string& key) { return (used += key.size() + 2) > limit; });
  return keys;
}

std::optional<Stage> stage_of(std::string_view line) {
  static constexpr struct {
    std::string_view start;
    Stage stage;
  } kStages[] = {{"I: running apt-get update", {1, "reading package lists"}},
                 {"I: downloading packages", {8, "downloading packages"}},
                 {"I: extracting archives", {15, "unpacking the essential packages"}},
                 {"I: installing essential packages", {22, "setting up the essential packages"}},
                 {"I: installing remaining packages", {35, "installing packages"}},
                 {"I: running --customize-hook", {75, "setting up the system"}},
                 {"I: cleaning package lists", {80, "cleaning up"}},
                 {"I: creating tarball", {82, "packing the system"}}};
  for (const auto& [start, stage] : kStages)
    if (line.starts_with(start)) return stage;
  return std::nullopt;
}

Result<DebianMachine> prepare_debian(const DebianOptions& options) {
  RHEA_TRY(check_machine_name(options.name));
  std::error_code error;
  fs::create_directories(options.images, error);
  if (error) return fail(Error::from_errno(error.value(), fmt::format("creating the folder {}", options.images)));
  const std::string folder = fmt::format("{}/{}", options.images, kSystem);
  DebianMachine machine{.kernel = folder + "/vmlinuz",
                        .initrd = folder + "/initrd",
                        .disk = fmt::format("{}/{}.qcow2", folder, options.name),
                        .command_line = {}};
  // Whoever else makes it at this moment is waited for.
  const base::UniqueFd lock = RHEA_TRY(base::open_file(options.images + "/.lock", O_RDWR | O_CREAT, 0644));
  while (flock(lock.get(), LOCK_EX) != 0)
    if (errno != EINTR) return fail(Error::from_errno(errno, fmt::format("locking {}/.lock", options.images)));
  if (!fs::exists(folder + "/base.raw", error)) RHEA_TRY(build(options.images, folder, options));
  if (options.fresh) RHEA_TRY(set_aside(machine.disk));
  if (!fs::exists(machine.disk, error))
    RHEA_TRY(block::create_image({.path = machine.disk, .backing_file = "base.raw", .backing_format = "raw"}));
  const std::vector<std::string> keys =
      options.keys_folder.empty() ? std::vector<std::string>{} : public_keys(options.keys_folder, kKeyBytes);
  machine.has_keys = !keys.empty();
  machine.command_line = command_line(options.name, keys);
  return machine;
}

}  // namespace rhea::provision
