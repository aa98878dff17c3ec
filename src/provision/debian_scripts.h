// SPDX-License-Identifier: Apache-2.0
// The shell scripts that turn Debian's packages into a guest that starts fast and knows where it is.
#pragma once

#include <string_view>

namespace rhea::provision {

// Of the first two, $1 is the root of the new system; they run as (its) root.
extern const std::string_view kDebianBeforePackages;  // when only the essential packages are there
extern const std::string_view kDebianAfterPackages;   // when all are
// By sh -eu. $1: archive of the system; $2: a folder to work in, which gets base.raw, vmlinuz and initrd; $3: size of
// the disk; $4: the text of kDebianFillDisk; then the words of a command under which that has the right to make files
// of any owner, none if it has it anyway.
extern const std::string_view kDebianMakeDisk;
extern const std::string_view kDebianFillDisk;

}  // namespace rhea::provision
