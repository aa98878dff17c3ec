// SPDX-License-Identifier: Apache-2.0
// What a disk is to the device that shows it to the guest: a range of bytes, read and written asynchronously.
#pragma once

#include <sys/uio.h>

#include <cerrno>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/event_loop.h"

namespace rhea::block {

class AsyncFile;
class WriteLog;

enum class Operation : uint8_t { kRead, kWrite, kFlush, kDiscard, kWriteZeroes };

// One request. The buffers are the caller's (guest RAM, for one) and stay valid until `done`, which is called once, on
// the disk's loop, with 0 or an errno value; it may be called from within submit().
struct Request {
  Operation operation = Operation::kRead;
  uint64_t offset = 0, length = 0;  // bytes; within the disk
  std::vector<iovec> buffers;       // kRead, kWrite: `length` bytes in all
  bool may_unmap = false;           // kWriteZeroes: space may be given back
  std::function<void(int error)> done;
};

// Threads: all calls on the loop the disk was opened for, but for size_bytes() and the constant facts.
class Disk {
 public:
  virtual ~Disk() = default;  // no request is under way
  virtual uint64_t size_bytes() const = 0;
  virtual bool read_only() const = 0;
  virtual std::string_view format() const = 0;
  virtual uint32_t block_bytes() const { return 512; }           // smallest unit of a request
  virtual uint32_t optimal_block_bytes() const { return 4096; }  // what the host does without reading first
  virtual void submit(Request request) = 0;
  // Writes whole clusters compressed, where the format can; EOPNOTSUPP where it cannot. `bytes` begins and ends at a
  // multiple of compressed_unit(), or at the disk's end. Blocks; no other request is under way in these bytes.
  virtual uint64_t compressed_unit() const { return 0; }  // 0: it cannot
  virtual int write_compressed(uint64_t, std::span<const std::byte>) { return EOPNOTSUPP; }
  // The disk is so long from now on; what is cut off is lost. Blocks; no request is under way. 0 or an errno value.
  virtual int resize(uint64_t) { return EOPNOTSUPP; }
  // The first byte from `offset` on that may be other than zero, as far as can be told without reading; size_bytes() if
  // there is none. Blocks for a moment.
  virtual uint64_t next_data(uint64_t offset) { return offset; }
};

// Wakes up on `done` of the last of several requests, with the first error.
struct OpenOptions {
  bool read_only = false;
  std::string format = "raw";     // never guessed from what a guest may have written
  bool backing_anywhere = false;  // a backing file may lie outside the image's folder
  std::string trusted_backing;    // this one may (its canonical path); what it names in turn may not
  bool allow_io_uring = true;     // otherwise, or without it, a pool of threads
  // Tests: what stands between the disk and the files that it reads and writes asynchronously, and who sees the writes
  // of the topmost image's tables.
  std::function<std::unique_ptr<AsyncFile>(std::unique_ptr<AsyncFile>)> wrap_file = {};
  WriteLog* table_log = nullptr;
};

// Opens the image at `path` for `loop`, and locks it against other users, in a way that QEMU's own locks respect.
// Errors name the file and say what to do.
Result<std::unique_ptr<Disk>> open_disk(base::EventLoop& loop, const std::string& path, const OpenOptions& options);

}  // namespace rhea::block
