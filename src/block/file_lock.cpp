// SPDX-License-Identifier: Apache-2.0
// Byte locks on an image.
#include "block/file_lock.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <cerrno>
#include <cstdint>
#include <initializer_list>

namespace rhea::block {
namespace {

constexpr off_t kUses = 100, kRefuses = 200;
enum Use : uint8_t { kConsistentRead = 0, kWrite = 1, kResize = 3 };

struct flock byte_lock(short type, off_t at) {
  struct flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = at;
  lock.l_len = 1;
  return lock;
}

}  // namespace

Status lock_image(int fd, bool writable, const std::string& path) {
  const auto take = [fd](off_t at) {
    struct flock lock = byte_lock(F_RDLCK, at);
    return fcntl(fd, F_OFD_SETLK, &lock) == 0;
  };
  const auto held_by_another = [fd](off_t at) {
    struct flock lock = byte_lock(F_WRLCK, at);
    return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
  };
  const auto busy = [&] {
    return fail(ErrorCode::kBusy,
                fmt::format("{} is in use by another program; stop that, or use an overlay of the image", path));
  };
  // First what we do and refuse, then a look at what others do and refuse: of two at once, one sees the other.
  for (const Use use : {kConsistentRead, kWrite, kResize}) {
    if ((writable || use == kConsistentRead) && !take(kUses + use)) {
      if (errno == EACCES || errno == EAGAIN) return busy();
      return {};  // no locks here
    }
    if (use != kConsistentRead && !take(kRefuses + use)) return busy();
  }
  for (const Use use : {kConsistentRead, kWrite, kResize}) {
    if ((writable || use == kConsistentRead) && held_by_another(kRefuses + use)) return busy();
    if (use != kConsistentRead && held_by_another(kUses + use)) return busy();
  }
  return {};
}

}  // namespace rhea::block
