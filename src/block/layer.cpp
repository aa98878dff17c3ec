// SPDX-License-Identifier: Apache-2.0
// Reading through a backing chain.
#include "block/layer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace rhea::block {
namespace {

class RawLayer final : public Layer {
 public:
  RawLayer(base::UniqueFd fd, uint64_t size_bytes) : fd_(std::move(fd)), size_bytes_(size_bytes) {}
  uint64_t size_bytes() const override { return size_bytes_; }
  int fd() const override { return fd_.get(); }
  int map(uint64_t offset, uint64_t length, Extent& extent) override {
    extent = {.kind = Kind::kData, .length = length, .layer = this, .offset = offset};
    return 0;
  }

 private:
  base::UniqueFd fd_;
  const uint64_t size_bytes_;
};

}  // namespace

int ImageFile::read(uint64_t offset, std::span<std::byte> out) const { return read_fully(fd_, offset, out); }

int ImageFile::write(uint64_t offset, std::span<const std::byte> data) {
  const int error = write_fully(fd_, offset, data);
  if (!error && log_) log_->on_write(offset, data);
  return error;
}

int ImageFile::sync() {
  if (!sync_error_ && fdatasync(fd_) != 0) sync_error_ = errno;
  if (!sync_error_ && log_) log_->on_sync();
  return sync_error_;
}

std::unique_ptr<Layer> make_raw_layer(base::UniqueFd fd, uint64_t size_bytes) {
  return std::make_unique<RawLayer>(std::move(fd), size_bytes);
}

Result<base::UniqueFd> open_image_file(const std::string& path, int flags) {
  base::UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return fail(Error::from_errno(errno, fmt::format("cannot open {}", path)));
  struct stat info{};
  if (fstat(fd.get(), &info) != 0) return fail(Error::from_errno(errno, path));
  if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode))
    return fail(ErrorCode::kInvalidArgument, fmt::format("{} is neither a file nor a block device", path));
  // An io_uring would take it as word to fail (EAGAIN) where a read has to wait for the medium.
  if (fcntl(fd.get(), F_SETFL, fcntl(fd.get(), F_GETFL) & ~O_NONBLOCK) != 0)
    return fail(Error::from_errno(errno, path));
  return fd;
}

Result<uint64_t> size_of_image_file(int fd, const std::string& path) {
  const off_t end = lseek(fd, 0, SEEK_END);
  if (end < 0) return fail(Error::from_errno(errno, path));
  return static_cast<uint64_t>(end);
}

uint64_t next_data_in_file(int fd, uint64_t offset, uint64_t end) {
  const off_t found = lseek(fd, static_cast<off_t>(offset), SEEK_DATA);
  if (found < 0) return errno == ENXIO ? end : offset;
  return std::clamp(static_cast<uint64_t>(found), offset, end);
}

int read_fully(int fd, uint64_t offset, std::span<std::byte> out) {
  while (!out.empty()) {
    const ssize_t got = pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    if (got == 0) {
      std::ranges::fill(out, std::byte{0});
      return 0;
    }
    out = out.subspan(static_cast<size_t>(got));
    offset += static_cast<uint64_t>(got);
  }
  return 0;
}

int write_fully(int fd, uint64_t offset, std::span<const std::byte> data) {
  while (!data.empty()) {
    const ssize_t put = pwrite(fd, data.data(), data.size(), static_cast<off_t>(offset));
    if (put < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    data = data.subspan(static_cast<size_t>(put));
    offset += static_cast<uint64_t>(put);
  }
  return 0;
}

int Layer::read_compressed(const Extent&, std::span<std::byte>) { return EIO; }

int Layer::read(uint64_t offset, std::span<std::byte> out) {
  while (!out.empty()) {
    if (offset >= size_bytes()) {
      std::ranges::fill(out, std::byte{0});
      return 0;
    }
    Extent extent;
    if (const int error = map(offset, std::min<uint64_t>(out.size(), size_bytes() - offset), extent)) return error;
    const auto part = out.first(extent.length);
    int error = 0;
    switch (extent.kind) {
      case Kind::kZero: std::ranges::fill(part, std::byte{0}); break;
      case Kind::kData: error = read_fully(extent.layer->fd(), extent.offset, part); break;
      case Kind::kCompressed: error = extent.layer->read_compressed(extent, part); break;
    }
    if (error) return error;
    offset += extent.length;
    out = out.subspan(extent.length);
  }
  return 0;
}

}  // namespace rhea::block
