// SPDX-License-Identifier: Apache-2.0
// A qcow2 image as a disk: requests cut into clusters, data moved asynchronously.
#pragma once

#include <memory>
#include <string>

#include "base/fd.h"
#include "block/disk.h"
#include "block/layer.h"

namespace rhea::block {

// Takes the open, locked file; opens the backing chain (readable only). Errors name what is not supported or wrong.
Result<std::unique_ptr<Disk>> open_qcow2_disk(base::EventLoop& loop, base::UniqueFd fd, const std::string& path,
                                              const OpenOptions& options);

}  // namespace rhea::block
