// SPDX-License-Identifier: Apache-2.0
// Opening images by format.
#include "block/disk.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <cerrno>

#include "base/fd.h"
#include "base/strings.h"
#include "block/file_lock.h"
#include "block/qcow2_disk.h"
#include "block/raw_disk.h"

namespace rhea::block {

Result<std::unique_ptr<Disk>> open_disk(base::EventLoop& loop, const std::string& path, const OpenOptions& options) {
  auto opened = open_image_file(path, options.read_only ? O_RDONLY : O_RDWR);
  if (!opened && opened.error().code() == ErrorCode::kPermissionDenied && !options.read_only)
    return fail(opened.error().context("a disk is written to (add readonly=on to use it as it is)"));
  base::UniqueFd fd = RHEA_TRY(std::move(opened));
  RHEA_TRY(lock_image(fd.get(), !options.read_only, path));
  if (options.format == "raw") return open_raw_disk(loop, std::move(fd), path, options);
  if (options.format == "qcow2") return open_qcow2_disk(loop, std::move(fd), path, options);
  return fail(ErrorCode::kUnsupported,
              fmt::format("{}: unknown disk format '{}' (known: raw, qcow2)", path, options.format));
}

}  // namespace rhea::block
