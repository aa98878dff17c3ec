// SPDX-License-Identifier: Apache-2.0
// Copying a disk from an image of one format into a new one of another: the work behind `rhea image convert`.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/error.h"

namespace rhea::block {

struct ConvertOptions {
  std::string source, source_format = "raw";  // the format is the user's word: it is never guessed
  std::string target, target_format = "qcow2";
  bool compress = false;          // the target's clusters, which makes it slower to read and to make
  bool backing_anywhere = false;  // the source's backing files may lie outside its folder
  std::function<void(uint64_t done_bytes, uint64_t total_bytes)> on_progress = {};  // now and then, on this thread
};

// The target is a new file; it holds what a guest would read from the source, backing files included, and has no
// backing file. What is zero takes no room in it. Runs to its end on the calling thread. Errors: the target exists, the
// source is in use by a writer, reading or writing fails; then no
// target is left. Until it is whole the target is called TARGET.part.
Status convert_image(const ConvertOptions& options);

}  // namespace rhea::block
