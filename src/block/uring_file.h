// SPDX-License-Identifier: Apache-2.0
// AsyncFile on io_uring(7).
#pragma once

#include "block/async_file.h"

namespace rhea::block {

// Errors: kUnsupported where the kernel has no io_uring, or forbids it.
Result<std::unique_ptr<AsyncFile>> create_uring_file(base::EventLoop& loop, int fd);

}  // namespace rhea::block
