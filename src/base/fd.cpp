// SPDX-License-Identifier: Apache-2.0
// Descriptor and mapping owners.
#include "base/fd.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace rhea::base {

void UniqueFd::reset(int fd) {
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

Result<UniqueMapping> UniqueMapping::create(size_t size_bytes, int protection, int flags, int fd, uint64_t offset,
                                            const std::string& what) {
  void* address = ::mmap(nullptr, size_bytes, protection, flags, fd, static_cast<off_t>(offset));
  if (address == MAP_FAILED) {
    return fail(Error::from_errno(errno, fmt::format("cannot map {} bytes for {}", size_bytes, what)));
  }
  return UniqueMapping(address, size_bytes);
}

Result<UniqueMapping> UniqueMapping::anonymous(size_t size_bytes, const std::string& what) {
  return create(size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, what);
}

void UniqueMapping::reset() {
  if (address_ != nullptr) ::munmap(address_, size_bytes_);
  address_ = nullptr;
  size_bytes_ = 0;
}

Result<UniqueFd> open_file(const std::string& path, int flags, unsigned mode) {
  UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd) return fail(Error::from_errno(errno, fmt::format("cannot open '{}'", path)));
  return fd;
}

Status write_all(int fd, std::span<const std::byte> data) {
  while (!data.empty()) {
    const ssize_t written = ::write(fd, data.data(), data.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return fail(Error::from_errno(errno, "cannot write"));
    }
    data = data.subspan(static_cast<size_t>(written));
  }
  return {};
}

Result<std::vector<std::byte>> read_file(const std::string& path, uint64_t limit_bytes) {
  UniqueFd fd = RHEA_TRY(open_file(path, O_RDONLY));
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0) return fail(Error::from_errno(errno, fmt::format("cannot stat '{}'", path)));
  if (S_ISDIR(info.st_mode)) return fail(ErrorCode::kInvalidArgument, fmt::format("'{}' is a directory", path));
  auto too_large = [&] {
    return fail(ErrorCode::kExhausted, fmt::format("'{}' is larger than the limit of {} bytes", path, limit_bytes));
  };
  const uint64_t announced = info.st_size > 0 ? static_cast<uint64_t>(info.st_size) : 0;
  if (announced > limit_bytes) return too_large();

  // The size is a hint only: pipes and /proc files announce none, and files may grow while being read.
  std::vector<std::byte> content(announced + 1);
  size_t filled = 0;
  for (;;) {
    if (filled == content.size()) {
      if (filled > limit_bytes) return too_large();
      content.resize(std::min<uint64_t>(std::max<uint64_t>(filled * 2, 4096), limit_bytes + 1));
      if (filled == content.size()) return too_large();
    }
    const ssize_t got = ::read(fd.get(), content.data() + filled, content.size() - filled);
    if (got < 0) {
      if (errno == EINTR) continue;
      return fail(Error::from_errno(errno, fmt::format("cannot read '{}'", path)));
    }
    if (got == 0) break;
    filled += static_cast<size_t>(got);
  }
  if (filled > limit_bytes) return too_large();
  content.resize(filled);
  return content;
}

}  // namespace rhea::base
