// SPDX-License-Identifier: Apache-2.0
// Reading of kernel and RAM disk files.
#include "machine/boot/boot_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/strings.h"

namespace rhea::machine {
namespace {

constexpr uint64_t kMaxKernelFileBytes = uint64_t{1} << 30;

Result<std::vector<std::byte>> read_whole(int fd, const std::string& path, uint64_t limit_bytes) {
  struct stat info{};
  if (fstat(fd, &info) != 0) return fail(Error::from_errno(errno, fmt::format("cannot read {}", path)));
  const auto size = static_cast<uint64_t>(info.st_size);
  if (size > limit_bytes) {
    return fail(ErrorCode::kExhausted, fmt::format("{} ({} MiB) does not fit in the guest's memory ({})", path,
                                                   (size + (1u << 20) - 1) >> 20, base::format_size(limit_bytes)));
  }
  std::vector<std::byte> bytes(size);
  uint64_t done = 0;
  while (done < size) {
    ssize_t count = pread(fd, bytes.data() + done, size - done, static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail(Error::from_errno(errno, fmt::format("cannot read {}", path)));
    if (count == 0) break;  // the file shrank
    done += static_cast<uint64_t>(count);
  }
  bytes.resize(done);
  return bytes;
}

}  // namespace

Result<base::UniqueFd> open_boot_file(const std::string& path, std::string_view what) {
  base::UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return fail(Error::from_errno(errno, fmt::format("cannot open the {} {}", what, path)));
  struct stat info{};
  if (fstat(fd.get(), &info) != 0)
    return fail(Error::from_errno(errno, fmt::format("cannot open the {} {}", what, path)));
  if (!S_ISREG(info.st_mode))
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("cannot open the {} {}: {}", what, path,
                            S_ISDIR(info.st_mode) ? "it is a directory" : "it is not a regular file"));
  return fd;
}

Result<BootFiles> read_boot_files(const base::UniqueFd& kernel, const std::string& kernel_path,
                                  std::span<const base::UniqueFd> modules, std::span<const std::string> module_paths,
                                  const memory::GuestMemory& memory) {
  BootFiles files;
  files.kernel = RHEA_TRY(read_whole(kernel.get(), kernel_path, kMaxKernelFileBytes));
  uint64_t room = memory.total_bytes();
  for (size_t i = 0; i < modules.size(); ++i) {
    BootModule module;
    module.data = RHEA_TRY(read_whole(modules[i].get(), module_paths[i], room));
    module.command_line = module_paths[i];
    room -= module.data.size();
    files.modules.push_back(std::move(module));
  }
  return files;
}

}  // namespace rhea::machine
