// SPDX-License-Identifier: Apache-2.0
// Making disk images and saying what is in one: the work behind `rhea image`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "block/qcow2_check.h"

namespace rhea::block {

struct CreateOptions {
  std::string path;
  std::string format = "qcow2";        // or raw
  std::optional<uint64_t> size_bytes;  // of the disk; not given: the backing file's
  std::string backing_file;            // qcow2: as it will stand in the image, relative to its folder
  std::string backing_format;          // needed with a backing file
  unsigned mode = 0644;                // of the file, less the umask
};

// Makes a new, empty image; never overwrites a file. What fails leaves nothing behind.
Status create_image(const CreateOptions& options);

struct ImageInfo {
  std::string format;
  uint64_t disk_bytes = 0;
  uint64_t file_bytes = 0;     // what the file takes on the host
  uint64_t cluster_bytes = 0;  // qcow2
  uint32_t version = 0;        // qcow2
  std::string backing_file, backing_format;
};

// What an image's name says of its format, where the user does not: qcow2 if it ends in ".qcow2", else raw. What is in
// the file says nothing, because a guest may have written it.
std::string format_by_name(std::string_view path);
// The same, but a file that begins as a qcow2 image does, and whose name does not say so, is refused
// (kInvalidArgument): it may be an image that lost its name, or a raw disk on which a guest wrote these bytes.
// `how_to_say` ends the message: how the user tells the format.
Result<std::string> format_unsaid(const std::string& path, std::string_view how_to_say);

// `format` empty: qcow2 if the file says so, else raw; for showing only, never for opening a disk.
Result<ImageInfo> inspect_image(const std::string& path, const std::string& format);

struct ResizeOptions {
  std::string path, format;
  uint64_t size_bytes = 0;
  bool shrink = false;            // losing what lies behind the new end is meant
  bool backing_anywhere = false;  // as in OpenOptions
};
// Makes the disk in an image larger (what is new is zero) or smaller. Errors: it would shrink and that is not meant.
Status resize_image(const ResizeOptions& options);

// Opens the image, locks it, and checks it; repairs what `options` says. A raw image has nothing to check: an error.
Result<qcow2::CheckReport> check_image(const std::string& path, const qcow2::CheckOptions& options);

}  // namespace rhea::block
