// SPDX-License-Identifier: Apache-2.0
// One file of a backing chain: where each range of the disk's bytes lies.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace rhea::block {

class AsyncFile;

// Blocking calls, on the disk's thread.
class Layer {
 public:
  enum class Kind : uint8_t { kData, kZero, kCompressed };
  struct Extent {
    Kind kind = Kind::kZero;
    uint64_t length = 0;     // bytes from the asked offset on that are alike
    Layer* layer = nullptr;  // whose file it is; kData, kCompressed
    uint64_t offset = 0;     // kData: in that file; kCompressed: of the disk
    uint64_t entry = 0;      // kCompressed
  };

  virtual ~Layer() = default;
  virtual uint64_t size_bytes() const = 0;
  virtual int fd() const = 0;
  AsyncFile* file() const { return file_; }
  void set_file(AsyncFile* file) { file_ = file; }

  // Looks `offset` up; at least one and at most `length` bytes, which lie within the disk. 0 or an errno value.
  virtual int map(uint64_t offset, uint64_t length, Extent& extent) = 0;
  // A compressed extent's bytes.
  virtual int read_compressed(const Extent& extent, std::span<std::byte> out);
  // Reads through the chain; beyond the disk's end there are zeros.
  int read(uint64_t offset, std::span<std::byte> out);

 private:
  AsyncFile* file_ = nullptr;
};

std::unique_ptr<Layer> make_raw_layer(base::UniqueFd fd, uint64_t size_bytes);

// open() of an image: never waits, as a FIFO without a writer would make it, and takes files and block devices only.
// Errors name the path; their code tells a permission that is missing.
Result<base::UniqueFd> open_image_file(const std::string& path, int flags);

// Length of an open image file or block device.
Result<uint64_t> size_of_image_file(int fd, const std::string& path);

// The first byte from `offset` on, and before `end`, that lies outside a hole of the file; `end` if there is none, or
// `offset` where the file system does not tell.
uint64_t next_data_in_file(int fd, uint64_t offset, uint64_t end);

// Sees what an image's tables are written with, and when that was made to last. For tests.
class WriteLog {
 public:
  virtual ~WriteLog() = default;
  virtual void on_write(uint64_t offset, std::span<const std::byte> data) = 0;
  virtual void on_sync() = 0;
};

// An image's own file, for its tables: blocking calls that return 0 or an errno value.
class ImageFile {
 public:
  explicit ImageFile(int fd, WriteLog* log = nullptr) : fd_(fd), log_(log) {}  // `fd` and `log` outlive it
  int read(uint64_t offset, std::span<std::byte> out) const;  // what lies beyond the file's end reads as zeros
  int write(uint64_t offset, std::span<const std::byte> data);
  // All that was written lasts. Failures are remembered: what could not be written counts as clean to the kernel
  // afterwards, so that a second call would succeed over lost data. After one, all fail, until the file is opened anew.
  int sync();

 private:
  int fd_;
  WriteLog* log_;
  int sync_error_ = 0;
};

// pread and pwrite of everything: 0 or an errno value. What lies beyond the file's end reads as zeros.
int read_fully(int fd, uint64_t offset, std::span<std::byte> out);
int write_fully(int fd, uint64_t offset, std::span<const std::byte> data);

}  // namespace rhea::block
