// SPDX-License-Identifier: Apache-2.0
// Keeps two users from writing one image. QEMU's convention: shared open-file-description locks on single bytes say
// what the holder does with the file (from offset 100) and what it does not want others to do (from offset 200).
#pragma once

#include <string>

#include "base/error.h"

namespace rhea::block {

// Locks the open file `fd` for reading alone or for writing too, until it is closed. `path` is for the message.
// Errors: kBusy if another process uses the file in a way that does not go together. File systems without locks pass.
Status lock_image(int fd, bool writable, const std::string& path);

}  // namespace rhea::block
