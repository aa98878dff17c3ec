// SPDX-License-Identifier: Apache-2.0
// Reads and writes of a file that do not block the loop: through io_uring, else by a pool of threads.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/fd.h"

namespace rhea::block {

// Threads: the loop's. Completions are called there, never from within the call that started them.
class AsyncFile {
 public:
  using Done = std::function<void(int error)>;  // 0 or an errno value
  virtual ~AsyncFile() = default;               // nothing is under way

  // Reads or writes all of the buffers at `offset`. What lies beyond the file's end reads as zeros.
  virtual void read(uint64_t offset, std::vector<iovec> buffers, Done done) = 0;
  virtual void write(uint64_t offset, std::vector<iovec> buffers, Done done) = 0;
  virtual void sync(Done done) = 0;  // data, and what is needed to find it, is on the medium
  // fallocate(2) with `mode`; EOPNOTSUPP where the file system cannot.
  virtual void allocate(int mode, uint64_t offset, uint64_t length, Done done) = 0;
  virtual std::string_view engine() const = 0;

  // `fd` outlives the file.
  static Result<std::unique_ptr<AsyncFile>> create(base::EventLoop& loop, int fd, bool allow_io_uring);
};

}  // namespace rhea::block
