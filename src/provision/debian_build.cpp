// SPDX-License-Identifier: Apache-2.0
#include "provision/debian_build.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <pwd.h>
#include <signal.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <span>
#include <utility>

#include "base/fd.h"
#include "base/strings.h"
#include "provision/debian_scripts.h"
#include "provision/program.h"
#include "provision/progress.h"

namespace rhea::provision {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kRelease = "bookworm";
constexpr std::string_view kDiskSize = "8G";
// The archive, the unpacked tree and the disk lie side by side for a moment.
constexpr uint64_t kBuildBytes = uint64_t{1500} << 20;
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

// Whether the file gives this user a range of ids, by name or by number. [subuid(5)]
bool has_range(const char* file, const passwd& user) {
  const auto bytes = base::read_file(file, 1 << 20);
  if (!bytes) return false;
  const std::string_view text(reinterpret_cast<const char*>(bytes->data()), bytes->size());
  const auto lines = base::split(text, '\n');
  return std::ranges::any_of(lines, [&user](std::string_view line) {
    const std::string_view owner = line.substr(0, line.find(':'));
    return owner == user.pw_name || owner == std::to_string(user.pw_uid);
  });
}

// Without root: owners of files are ids that the user may give away, within a namespace.
Status check_user() {
  const passwd* const user = getpwuid(geteuid());
  if (user && has_range("/etc/subuid", *user) && has_range("/etc/subgid", *user)) return {};
  return fail(
      ErrorCode::kPermissionDenied,
      fmt::format("making a Debian system takes root, or a range of user ids of your own: as root, once: usermod "
                  "--add-subuids 100000-165535 --add-subgids 100000-165535 {}",
                  user ? user->pw_name : "USER"));
}

Status check_tools() {
  struct Tool {
    const char* program;
    const char* package;
  };
  constexpr std::array kTools = {Tool{"mmdebstrap", "mmdebstrap"}, Tool{"mke2fs", "e2fsprogs"}, Tool{"tar", "tar"}};
  std::vector<std::string_view> packages;
  for (const Tool& tool : kTools)
    if (!program_exists(tool.program)) packages.emplace_back(tool.package);
  if (geteuid() != 0 && !program_exists("newuidmap")) packages.emplace_back("uidmap");
  if (!packages.empty())
    return fail(ErrorCode::kNotFound,
                fmt::format("making a Debian system needs programs that are not installed: apt-get install {}",
                            fmt::join(packages, " ")));
  if (geteuid() != 0) return check_user();
  return {};
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
  const base::UniqueFd log = RHEA_TRY(base::open_file(log_path, O_WRONLY | O_CREAT | O_APPEND, 0600));
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
  if (status == 128 + SIGINT || status == 128 + SIGTERM || status == 128 + SIGHUP || status == 128 + SIGQUIT)
    return fail(ErrorCode::kBusy, "interrupted");
  const std::string& words = said.empty() ? last : said;
  return fail(ErrorCode::kIo,
              fmt::format("{} failed with status {}{}{}", argv.front(), status, words.empty() ? "" : ": ", words));
}

// The lines of sources.list for an archive of the user's choice. Its security updates lie beside it, or come from
// Debian.
std::vector<std::string> sources(const std::string& mirror, const std::string& scratch) {
  std::string base = mirror;
  while (base.ends_with('/')) base.pop_back();
  std::string security = base + "-security";
  const auto probe = run_program({"/usr/lib/apt/apt-helper", "download-file",
                                  fmt::format("{}/dists/{}-security/InRelease", security, kRelease), scratch},
                                 [](std::string_view) {});
  unlink(scratch.c_str());
  if (!probe || *probe != 0) security = "http://deb.debian.org/debian-security";
  return {fmt::format("deb {} {} main", base, kRelease), fmt::format("deb {} {}-updates main", base, kRelease),
          fmt::format("deb {} {}-security main", security, kRelease)};
}

// A mirror that stands still outlives the dates in it: what the host's apt was told of that holds for the same mirror.
std::vector<std::string> host_checks() {
  std::vector<std::string> options;
  [[maybe_unused]] const auto status = run_program({"apt-config", "dump"}, [&options](std::string_view line) {
    for (const std::string_view check : {"Acquire::Check-Valid-Until \"false\";", "Acquire::Check-Date \"false\";"})
      if (line == check) options.push_back(fmt::format("--aptopt={}", check.substr(0, check.size() - 1)));
  });
  return options;
}

// Where the host's own packages of this release come from, if not from Debian's own servers.
std::string host_mirror() {
  std::string found;
  [[maybe_unused]] const auto status = run_program(
      {"apt-get", "indextargets", "--format", "$(REPO_URI)", fmt::format("Suite: {}", kRelease),
       "Created-By: Packages"},
      [&found](std::string_view line) {
        if (found.empty() && line.starts_with("http") && line.find(".debian.org/") == std::string_view::npos)
          found = line;
      });
  return found;
}

// Hooks are handed over as text: without root they run as a user who may not read our folder.
std::vector<std::string> mmdebstrap_command(const TemporaryFolder& work, const DebianOptions& options) {
  std::vector<std::string> argv = {"mmdebstrap",
                                   geteuid() == 0 ? "--mode=root" : "--mode=unshare",
                                   "--variant=minbase",
                                   "--format=tar",
                                   fmt::format("--include={}", kPackages),
                                   fmt::format("--essential-hook={}", kDebianBeforePackages),
                                   fmt::format("--customize-hook={}", kDebianAfterPackages),
                                   "--aptopt=Acquire::Languages \"none\""};
  for (const char* rule : {"path-exclude=/usr/share/man/*", "path-exclude=/usr/share/doc/*",
                           "path-include=/usr/share/doc/*/copyright", "path-exclude=/usr/share/locale/*"})
    argv.push_back(fmt::format("--dpkgopt={}", rule));
  std::vector<std::string> archives;
  if (!options.mirror.empty()) {
    archives = sources(options.mirror, work.at("probe"));
    for (std::string& option : host_checks()) argv.push_back(std::move(option));
  }
  argv.emplace_back(kRelease);
  argv.push_back(work.at("system.tar"));
  for (std::string& archive : archives) argv.push_back(std::move(archive));
  return argv;
}

std::vector<std::string> disk_command(const TemporaryFolder& work) {
  std::vector<std::string> argv = {"sh",
                                   "-euc",
                                   std::string(kDebianMakeDisk),
                                   "sh",
                                   work.at("system.tar"),
                                   work.path(),
                                   std::string(kDiskSize),
                                   std::string(kDebianFillDisk)};
  if (geteuid() != 0) argv.insert(argv.end(), {"mmdebstrap", "--unshare-helper"});
  return argv;
}

// Whoever has the lock finds only what somebody was kept from removing: killed, or without power.
void remove_leftovers(const std::string& images, std::string_view prefix) {
  std::error_code error;
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(images, error))
    if (entry.path().filename().string().starts_with(prefix)) found.push_back(entry.path());
  for (const fs::path& path : found) fs::remove_all(path, error);
}

Error explained(const Error& error, const DebianOptions& options, const std::string& log) {
  Error whole = error.context(fmt::format("making a Debian system (all that was said is in {})", log));
  const std::string text = whole.to_string();
  const bool fetching = text.find("fetch") != std::string::npos || text.find("resolve") != std::string::npos ||
                        text.find("onnect") != std::string::npos || text.find("apt-get update") != std::string::npos;
  if (!options.mirror.empty() || !fetching) return whole;
  const std::string mirror = host_mirror();
  return Error(whole.code(), fmt::format("{}; --mirror URL names another archive of Debian{}", text,
                                         mirror.empty() ? "" : fmt::format(" (this host's own is {})", mirror)));
}

}  // namespace

Status check_mirror(std::string_view url) {
  const bool good = (url.starts_with("http://") || url.starts_with("https://")) && url.size() > 8 &&
                    std::ranges::all_of(url, [](char c) { return c > ' ' && c < '\x7f' && c != '"' && c != '['; });
  if (good) return {};
  return fail(ErrorCode::kInvalidArgument,
              fmt::format("--mirror takes the address of a Debian archive (http://HOST/debian), not '{}'", url));
}

Status build_debian(const std::string& images, const std::string& target, const DebianOptions& options) {
  RHEA_TRY(check_tools());
  const std::string prefix = fmt::format(".{}-", fs::path(target).filename().string());
  remove_leftovers(images, prefix);
  RHEA_TRY(check_room(images));
  fmt::print(options.messages, "Making Debian 12 from its packages: once, for a minute or two. It is kept in {}\n",
             target);
  Progress progress(options.messages, options.terminal);
  TemporaryFolder work = RHEA_TRY(TemporaryFolder::create(fmt::format("{}/{}", images, prefix)));
  const std::string log = target + ".log";
  unlink(log.c_str());
  const auto failed = [&](const Error& error) {
    progress.finish();
    return fail(explained(error, options, log));
  };
  if (const auto made = run_logged(mmdebstrap_command(work, options), log, progress); !made)
    return failed(made.error());
  progress.show(92, "making the disk");
  if (const auto made = run_logged(disk_command(work), log, progress); !made) return failed(made.error());
  unlink(work.at("system.tar").c_str());
  RHEA_TRY(work.move_to(target));
  unlink(log.c_str());
  progress.show(100, "done");
  return {};
}

}  // namespace rhea::provision
