// SPDX-License-Identifier: Apache-2.0
// Raw images.
#include "block/raw_disk.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "block/async_file.h"
#include "block/layer.h"

namespace rhea::block {
namespace {

constexpr uint64_t kSectorBytes = 512;
constexpr size_t kZeroBytes = size_t{1} << 16;
alignas(4096) constexpr std::byte kZeros[kZeroBytes] = {};

class RawDisk final : public Disk {
 public:
  RawDisk(base::UniqueFd fd, std::unique_ptr<AsyncFile> file, uint64_t size_bytes, bool read_only)
      : fd_(std::move(fd)), file_(std::move(file)), size_bytes_(size_bytes), read_only_(read_only) {}

  uint64_t size_bytes() const override { return size_bytes_; }
  bool read_only() const override { return read_only_; }
  std::string_view format() const override { return "raw"; }
  int resize(uint64_t bytes) override {
    if (ftruncate(fd_.get(), static_cast<off_t>(bytes)) != 0 || fsync(fd_.get()) != 0) return errno;
    size_bytes_ = bytes;
    return 0;
  }
  uint64_t next_data(uint64_t offset) override { return next_data_in_file(fd_.get(), offset, size_bytes_); }

  void submit(Request request) override {
    switch (request.operation) {
      case Operation::kRead: return file_->read(request.offset, std::move(request.buffers), std::move(request.done));
      case Operation::kWrite: return file_->write(request.offset, std::move(request.buffers), std::move(request.done));
      case Operation::kFlush: return flush(std::move(request));
      case Operation::kDiscard: return discard(std::move(request));
      case Operation::kWriteZeroes: return write_zeroes(std::move(request));
    }
  }

 private:
  static constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

  // A failure is final, as ImageFile has it.
  void flush(Request request) {
    if (sync_error_) return request.done(sync_error_);
    file_->sync([this, done = std::move(request.done)](int error) {
      if (error) sync_error_ = error;
      done(error);
    });
  }

  // A hint: where the file system cannot make holes, nothing happens.
  void discard(Request request) {
    file_->allocate(kPunch, request.offset, request.length, [done = std::move(request.done)](int error) {
      done(error == EOPNOTSUPP || error == ENODEV ? 0 : error);
    });
  }

  void write_zeroes(Request request) {
    const int mode = request.may_unmap ? kPunch : FALLOC_FL_ZERO_RANGE;
    const uint64_t offset = request.offset, length = request.length;
    file_->allocate(mode, offset, length, [this, request = std::move(request)](int error) mutable {
      if (error != EOPNOTSUPP && error != ENODEV) return request.done(error);
      write_zero_buffers(std::move(request));
    });
  }

  // Zeros in pieces, one page of them written again and again.
  void write_zero_buffers(Request request) {
    if (request.length == 0) return request.done(0);
    constexpr uint64_t kPieces = 256;
    std::vector<iovec> buffers;
    uint64_t bytes = std::min<uint64_t>(request.length, kPieces * kZeroBytes);
    const uint64_t offset = request.offset;
    request.offset += bytes;
    request.length -= bytes;
    for (; bytes != 0; bytes -= buffers.back().iov_len)
      buffers.push_back({const_cast<std::byte*>(kZeros), std::min<size_t>(bytes, kZeroBytes)});
    file_->write(offset, std::move(buffers), [this, request = std::move(request)](int error) mutable {
      if (error) return request.done(error);
      write_zero_buffers(std::move(request));
    });
  }

  base::UniqueFd fd_;
  std::unique_ptr<AsyncFile> file_;
  uint64_t size_bytes_;
  const bool read_only_;
  int sync_error_ = 0;
};

}  // namespace

Result<std::unique_ptr<Disk>> open_raw_disk(base::EventLoop& loop, base::UniqueFd fd, const std::string& path,
                                            const OpenOptions& options) {
  const uint64_t size_bytes = RHEA_TRY(size_of_image_file(fd.get(), path));
  if (size_bytes == 0 || size_bytes % kSectorBytes != 0)
    return fail(
        ErrorCode::kInvalidArgument,
        fmt::format("{} is no raw disk image: {} bytes are no whole number of 512-byte sectors", path, size_bytes));
  auto file = RHEA_TRY(AsyncFile::create(loop, fd.get(), options.allow_io_uring));
  if (options.wrap_file) file = options.wrap_file(std::move(file));
  return std::make_unique<RawDisk>(std::move(fd), std::move(file), size_bytes, options.read_only);
}

}  // namespace rhea::block
