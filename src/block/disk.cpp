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
  base::UniqueFd fd(open(path.c_str(), (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
  if (!fd) {
    const int error = errno;
    if ((error == EACCES || error == EROFS) && !options.read_only)
      return fail(Error::from_errno(
          error, fmt::format("cannot open {} for writing (add readonly=on to use it as it is)", path)));
    return fail(Error::from_errno(error, fmt::format("cannot open {}", path)));
  }
  RHEA_TRY(lock_image(fd.get(), !options.read_only, path));
  if (options.format == "raw") return open_raw_disk(loop, std::move(fd), path, options);
  if (options.format == "qcow2") return open_qcow2_disk(loop, std::move(fd), path, options);
  return fail(ErrorCode::kUnsupported,
              fmt::format("{}: unknown disk format '{}' (known: raw, qcow2)", path, options.format));
}

}  // namespace rhea::block
