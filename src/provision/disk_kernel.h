// SPDX-License-Identifier: Apache-2.0
// The kernel that a Debian on a disk would start: there is no firmware that looks for it.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace rhea::provision {

struct DiskKernel {
  std::string release;  // "6.1.0-56-cloud-amd64"
  std::vector<std::byte> kernel, initrd;
};

// The newest kernel of /boot that has an initrd, on a qcow2 disk with ext4 on all of it; nothing if it and its initrd
// are what the files `kernel` and `initrd` hold (by release and sizes). Errors: kBusy while another machine writes to
// the disk; otherwise that, and why, it could not be read.
Result<std::optional<DiskKernel>> kernel_on_disk(const std::string& disk, const std::string& kernel,
                                                 const std::string& initrd);

// --- for tests ---
// The release that a bzImage says it is; empty: says nothing. [Linux boot protocol, kernel_version]
std::string release_of(const std::string& kernel);
// By the numbers in them, as packages are ordered: 6.1.0-9 before 6.1.0-10.
bool older_release(std::string_view a, std::string_view b);

}  // namespace rhea::provision
