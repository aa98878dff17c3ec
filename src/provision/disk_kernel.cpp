// SPDX-License-Identifier: Apache-2.0
#include "provision/disk_kernel.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <filesystem>
#include <memory>

#include "base/event_loop.h"
#include "base/fd.h"
#include "block/disk.h"
#include "provision/ext4_files.h"

namespace rhea::provision {
namespace {

constexpr uint64_t kMaximumKernelBytes = uint64_t{256} << 20, kMaximumInitrdBytes = uint64_t{512} << 20;
constexpr std::string_view kFolder = "boot", kKernelPrefix = "vmlinuz-", kInitrdPrefix = "initrd.img-";

// One read at a time, waited for.
class WaitingDisk {
 public:
  static Result<WaitingDisk> open(const std::string& path) {
    WaitingDisk disk;
    disk.loop_ = RHEA_TRY(base::EventLoop::create());
    disk.disk_ = RHEA_TRY(block::open_disk(*disk.loop_, path, {.read_only = true, .format = "qcow2"}));
    return disk;
  }
  // Whole blocks are read, and what is asked for is copied out of them.
  Status read(uint64_t offset, std::span<std::byte> out) {
    constexpr uint64_t kUnit = 4096;
    const uint64_t end = disk_->size_bytes();
    if (offset > end || out.size() > end - offset) return fail(ErrorCode::kCorrupt, "a place beyond the disk's end");
    const uint64_t from = offset / kUnit * kUnit, to = std::min((offset + out.size() + kUnit - 1) / kUnit * kUnit, end);
    std::vector<std::byte> blocks(to - from);
    bool done = false;
    int failed = 0;
    disk_->submit({.operation = block::Operation::kRead,
                   .offset = from,
                   .length = blocks.size(),
                   .buffers = {{blocks.data(), blocks.size()}},
                   .done = [&](int error) {
                     failed = error;
                     done = true;
                   }});
    while (!done) loop_->run_once(-1);
    if (failed) return fail(Error::from_errno(failed, "reading the disk"));
    std::memcpy(out.data(), blocks.data() + (offset - from), out.size());
    return {};
  }

 private:
  WaitingDisk() = default;
  std::unique_ptr<base::EventLoop> loop_;  // outlives the disk
  std::unique_ptr<block::Disk> disk_;
};

uint64_t size_of(const std::string& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  return error ? 0 : size;
}

std::string newest_release(const std::vector<std::string>& names) {
  std::string newest;
  for (const std::string_view name : names) {
    if (!name.starts_with(kKernelPrefix)) continue;
    const std::string release(name.substr(kKernelPrefix.size()));
    if (std::ranges::find(names, fmt::format("{}{}", kInitrdPrefix, release)) == names.end()) continue;
    if (newest.empty() || older_release(newest, release)) newest = release;
  }
  return newest;
}

}  // namespace

std::string release_of(const std::string& kernel) {
  constexpr size_t kMagicAt = 0x202, kReleaseAt = 0x20e, kSetupStart = 0x200, kLongest = 128;
  std::array<char, 64 << 10> head{};
  const auto file = base::open_file(kernel, O_RDONLY | O_NONBLOCK);
  if (!file || pread(file->get(), head.data(), head.size(), 0) < 0x300) return "";
  uint16_t at = 0;
  std::memcpy(&at, &head[kReleaseAt], sizeof at);
  if (std::memcmp(&head[kMagicAt], "HdrS", 4) != 0 || at == 0 || kSetupStart + at + kLongest > head.size()) return "";
  const std::string_view text(&head[kSetupStart + at], kLongest);
  return std::string(text.substr(0, std::min(text.find_first_of(std::string_view(" \0", 2)), text.size())));
}

bool older_release(std::string_view a, std::string_view b) {
  const auto digit = [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; };
  while (!a.empty() && !b.empty()) {
    if (digit(a.front()) && digit(b.front())) {
      const auto number = [&digit](std::string_view& text) {
        text.remove_prefix(std::min(text.find_first_not_of('0'), text.size()));
        size_t end = 0;
        while (end < text.size() && digit(text[end])) ++end;
        const std::string_view digits = text.substr(0, end);
        text.remove_prefix(end);
        return digits;
      };
      const std::string_view left = number(a), right = number(b);
      if (left.size() != right.size()) return left.size() < right.size();
      if (left != right) return left < right;
      continue;
    }
    if (a.front() != b.front()) return a.front() < b.front();
    a.remove_prefix(1);
    b.remove_prefix(1);
  }
  return a.empty() && !b.empty();
}

Result<std::optional<DiskKernel>> kernel_on_disk(const std::string& disk, const std::string& kernel,
                                                 const std::string& initrd) {
  WaitingDisk source = RHEA_TRY(WaitingDisk::open(disk));
  Ext4Files files = RHEA_TRY(
      Ext4Files::open([&source](uint64_t offset, std::span<std::byte> out) { return source.read(offset, out); }));
  const std::string release = newest_release(RHEA_TRY(files.list(kFolder)));
  if (release.empty()) return fail(ErrorCode::kNotFound, "its /boot has no kernel with an initrd");
  const auto kernel_file = RHEA_TRY(files.find(kFolder, fmt::format("{}{}", kKernelPrefix, release)));
  const auto initrd_file = RHEA_TRY(files.find(kFolder, fmt::format("{}{}", kInitrdPrefix, release)));
  if (release == release_of(kernel) && kernel_file.size_bytes == size_of(kernel) &&
      initrd_file.size_bytes == size_of(initrd))
    return std::nullopt;
  // What the journal still holds may be the very files.
  if (!files.clean())
    return fail(ErrorCode::kUnsupported,
                fmt::format("its kernel {} cannot be trusted: the system was not powered off", release));
  DiskKernel found{.release = release, .kernel = {}, .initrd = {}};
  found.kernel = RHEA_TRY(files.read(kernel_file, kMaximumKernelBytes));
  found.initrd = RHEA_TRY(files.read(initrd_file, kMaximumInitrdBytes));
  return found;
}

}  // namespace rhea::provision
