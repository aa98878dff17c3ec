// SPDX-License-Identifier: Apache-2.0
// The choice between the engines.
#include "block/async_file.h"

#include "block/pool_file.h"
#include "block/uring_file.h"

namespace rhea::block {

Result<std::unique_ptr<AsyncFile>> AsyncFile::create(base::EventLoop& loop, int fd, bool allow_io_uring) {
  if (allow_io_uring)
    if (auto file = create_uring_file(loop, fd)) return file;
  return create_pool_file(loop, fd);
}

}  // namespace rhea::block
