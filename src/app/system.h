// SPDX-License-Identifier: Apache-2.0
// `rhea run WHAT`: from a system's or a file's name to a kernel, disks and a command line.
#pragma once

#include "app/options.h"

namespace rhea::app {

// What `options.what` means, put into the other options; throw-away disks for --snapshot. Prints progress and how to
// log in to stderr. Errors: a file that is not there, a
// disk without a kernel, whatever making a system may meet.
Result<RunOptions> resolve_system(const RunOptions& options);

// What a file given to `rhea run` is taken for. A name that ends in .qcow2, .img or .raw is a disk's. Else what begins
// as a kernel does is one, and anything else is a raw disk. That an image is qcow2 is never guessed from what is in it,
// which a guest may have written: only its name, or format=qcow2, says so. Errors: it cannot be read.
enum class FileKind { kKernel, kRawDisk, kQcow2Disk };
Result<FileKind> kind_of_file(const std::string& path);

}  // namespace rhea::app
