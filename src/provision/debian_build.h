// SPDX-License-Identifier: Apache-2.0
// Making a Debian system from packages: a folder with base.raw, vmlinuz and initrd.
#pragma once

#include <string>
#include <string_view>

#include "provision/debian.h"

namespace rhea::provision {

// Makes the folder `target` (which is not there) below `images`, by mmdebstrap: as root, or in a user namespace. What
// an earlier try left behind is removed first: the caller holds the lock. Errors say what is missing or what failed,
// and nothing half-made stays but the log.
Status build_debian(const std::string& images, const std::string& target, const DebianOptions& options);

// Errors (kInvalidArgument): not the address of an archive that a guest can reach.
Status check_mirror(std::string_view url);

}  // namespace rhea::provision
