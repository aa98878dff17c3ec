// SPDX-License-Identifier: Apache-2.0
#include "provision/debian.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <sys/mman.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <span>

#include "base/fd.h"
#include "base/strings.h"
#include "block/file_lock.h"
#include "block/image_tools.h"
#include "provision/debian_build.h"
#include "provision/disk_kernel.h"

namespace rhea::provision {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSystem = "debian-12";
// The firmware's tables have 64 KiB.
constexpr size_t kKeyBytes = 48 << 10;

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

// The disk that everything else stands on is gone, or a file beside it. What is there is not touched.
Status check_whole(const std::string& folder) {
  std::error_code error;
  std::vector<std::string> missing, machines;
  for (const char* name : {"base.raw", "vmlinuz", "initrd"})
    if (!fs::exists(fmt::format("{}/{}", folder, name), error)) missing.emplace_back(name);
  if (missing.empty()) return {};
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (entry.path().extension() == ".qcow2") machines.push_back(entry.path().stem());
  std::ranges::sort(machines);
  return fail(
      ErrorCode::kNotFound,
      fmt::format(
          "{0} lacks {1}{2}: put {3} back, or begin anew: mv {0} {0}.old", folder, fmt::join(missing, " and "),
          machines.empty() ? "" : fmt::format(", which the machines there need ({})", fmt::join(machines, ", ")),
          missing.size() == 1 ? "it" : "them"));
}

// Who may log in: a credential for systemd, which gives it to the guest's ssh server.
void add_keys(DebianMachine& machine, std::vector<std::string> keys) {
  size_t used = 0;
  const size_t all = keys.size();
  std::erase_if(keys, [&](const std::string& key) { return (used += key.size() + 1) > kKeyBytes; });
  machine.keys = keys.size();
  machine.keys_left_out = all - keys.size();
  if (!keys.empty())
    machine.oem_strings.push_back(
        fmt::format("io.systemd.credential:ssh.authorized_keys.root={}", fmt::join(keys, "\n")));
}

// A file without a name, for what is read from the disk.
Result<std::string> hold(DebianMachine& machine, const char* name, std::span<const std::byte> bytes) {
  base::UniqueFd file(memfd_create(name, MFD_CLOEXEC));
  if (!file) return fail(Error::from_errno(errno, fmt::format("making room for the {}", name)));
  RHEA_TRY(base::write_all(file.get(), bytes));
  machine.held_files.push_back(std::make_shared<base::UniqueFd>(std::move(file)));
  return fmt::format("/proc/self/fd/{}", machine.held_files.back()->get());
}

// The guest's own newest kernel, where it is another than the one that the system was made with.
Status choose_kernel(DebianMachine& machine) {
  const auto found = kernel_on_disk(machine.disk, machine.kernel, machine.initrd);
  if (!found && found.error().code() == ErrorCode::kBusy) return std::unexpected(found.error());
  if (!found)
    machine.kernel_note = fmt::format("it starts the kernel that it was made with, {} ({})", release_of(machine.kernel),
                                      found.error().to_string());
  if (!found || !*found) return {};
  machine.kernel_note = fmt::format("it starts the kernel on its disk, {}", (*found)->release);
  machine.kernel = RHEA_TRY(hold(machine, "kernel", (*found)->kernel));
  machine.initrd = RHEA_TRY(hold(machine, "initrd", (*found)->initrd));
  return {};
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

std::vector<std::string> public_keys(const std::string& folder) {
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
    // A certificate is no key: it would have to be signed by an authority that the guest knows.
    if (words[0].find("-cert-v") != std::string_view::npos) continue;
    if (type && plain(words[0]) && plain(words[1])) keys.push_back(fmt::format("{} {}", words[0], words[1]));
  }
  std::ranges::sort(keys, [](const std::string& a, const std::string& b) {
    return a.size() != b.size() ? a.size() < b.size() : a < b;
  });
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
  if (!options.mirror.empty()) RHEA_TRY(check_mirror(options.mirror));
  std::error_code error;
  fs::create_directories(options.images, error);
  if (error) return fail(Error::from_errno(error.value(), fmt::format("creating the folder {}", options.images)));
  const std::string folder = fmt::format("{}/{}", options.images, kSystem);
  DebianMachine machine{
      .kernel = folder + "/vmlinuz",
      .initrd = folder + "/initrd",
      .disk = fmt::format("{}/{}.qcow2", folder, options.name),
      .command_line = fmt::format("root=/dev/vda rw console=ttyS0 quiet systemd.hostname={}", options.name)};
  // Whoever else makes it at this moment is waited for.
  const base::UniqueFd lock = RHEA_TRY(base::open_file(options.images + "/.lock", O_RDWR | O_CREAT, 0644));
  while (flock(lock.get(), LOCK_EX) != 0)
    if (errno != EINTR) return fail(Error::from_errno(errno, fmt::format("locking {}/.lock", options.images)));
  if (!fs::exists(folder, error)) RHEA_TRY(build_debian(options.images, folder, options));
  RHEA_TRY(check_whole(folder));
  if (options.fresh) RHEA_TRY(set_aside(machine.disk));
  if (!fs::exists(machine.disk, error))
    RHEA_TRY(block::create_image({.path = machine.disk, .backing_file = "base.raw", .backing_format = "raw"}));
  RHEA_TRY(choose_kernel(machine));
  if (!options.keys_folder.empty()) add_keys(machine, public_keys(options.keys_folder));
  return machine;
}

}  // namespace rhea::provision
