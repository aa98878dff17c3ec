// SPDX-License-Identifier: Apache-2.0
// A raw image: the file's bytes are the disk's.
#pragma once

#include <memory>
#include <string>

#include "base/fd.h"
#include "block/disk.h"

namespace rhea::block {

// Takes the open, locked file. A file whose size is no multiple of 512 is refused.
Result<std::unique_ptr<Disk>> open_raw_disk(base::EventLoop& loop, base::UniqueFd file, const std::string& path,
                                            const OpenOptions& options);

}  // namespace rhea::block
