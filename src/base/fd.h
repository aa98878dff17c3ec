// SPDX-License-Identifier: Apache-2.0
// Owners of file descriptors and of memory mappings, and whole-buffer reads and writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"

namespace rhea::base {

// Closes its descriptor at the end of its life. -1 is empty.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

// Unmaps its pages at the end of its life.
class UniqueMapping {
 public:
  UniqueMapping() = default;
  // Takes ownership of an existing mapping.
  UniqueMapping(void* address, size_t size_bytes) : address_(address), size_bytes_(size_bytes) {}
  UniqueMapping(UniqueMapping&& other) noexcept
      : address_(std::exchange(other.address_, nullptr)), size_bytes_(std::exchange(other.size_bytes_, 0)) {}
  UniqueMapping& operator=(UniqueMapping&& other) noexcept {
    if (this != &other) {
      reset();
      address_ = std::exchange(other.address_, nullptr);
      size_bytes_ = std::exchange(other.size_bytes_, 0);
    }
    return *this;
  }
  ~UniqueMapping() { reset(); }

  // mmap() with its arguments; `what` names the purpose in the error.
  static Result<UniqueMapping> create(size_t size_bytes, int protection, int flags, int fd, uint64_t offset,
                                      const std::string& what);
  // Private zeroed pages, read-write, committed as they are touched.
  static Result<UniqueMapping> anonymous(size_t size_bytes, const std::string& what);

  void* get() const { return address_; }
  std::byte* bytes() const { return static_cast<std::byte*>(address_); }
  size_t size_bytes() const { return size_bytes_; }
  explicit operator bool() const { return address_ != nullptr; }
  void reset();

 private:
  void* address_ = nullptr;
  size_t size_bytes_ = 0;
};

// open() with O_CLOEXEC; the error names the path.
Result<UniqueFd> open_file(const std::string& path, int flags, unsigned mode = 0);
// Writes all of `data`, across short writes and EINTR. EAGAIN is an error (kBusy).
Status write_all(int fd, std::span<const std::byte> data);
// The whole file, refused beyond `limit_bytes`.
Result<std::vector<std::byte>> read_file(const std::string& path, uint64_t limit_bytes);

}  // namespace rhea::base
