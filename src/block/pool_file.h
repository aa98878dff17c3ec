// SPDX-License-Identifier: Apache-2.0
// AsyncFile by a small pool of threads, for hosts without io_uring.
#pragma once

#include "block/async_file.h"

namespace rhea::block {

Result<std::unique_ptr<AsyncFile>> create_pool_file(base::EventLoop& loop, int fd);

}  // namespace rhea::block
