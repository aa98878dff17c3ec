// SPDX-License-Identifier: Apache-2.0
// Construction and printing of errors.
#include "base/error.h"

#include <cerrno>
#include <cstring>

namespace rhea {
namespace {

ErrorCode code_from_errno(int errno_value) {
  switch (errno_value) {
    case EINVAL:
    case ENAMETOOLONG:
    case ENOTDIR:
    case EISDIR: return ErrorCode::kInvalidArgument;
    case ENOENT:
    case ENODEV:
    case ENXIO: return ErrorCode::kNotFound;
    case EACCES:
    case EPERM:
    case EROFS: return ErrorCode::kPermissionDenied;
    case ENOSYS:
    case EOPNOTSUPP: return ErrorCode::kUnsupported;
    case ENOMEM:
    case ENOSPC:
    case EMFILE:
    case ENFILE:
    case EFBIG:
    case EDQUOT: return ErrorCode::kExhausted;
    case EBUSY:
    case EAGAIN:
    case ETXTBSY:
    case EADDRINUSE: return ErrorCode::kBusy;
    default: return ErrorCode::kIo;
  }
}

}  // namespace

Error Error::from_errno(int errno_value, std::string message) {
  char buffer[128];
  message += ": ";
  message += strerror_r(errno_value, buffer, sizeof buffer);  // the GNU form: thread-safe, returns the text
  return Error(code_from_errno(errno_value), std::move(message));
}

Error Error::context(std::string message) const {
  Error outer(code_, std::move(message));
  outer.cause_ = std::make_shared<const Error>(*this);
  return outer;
}

std::string Error::to_string() const {
  std::string line = message_;
  for (const Error* link = cause(); link != nullptr; link = link->cause()) {
    line += ": ";
    line += link->message_;
  }
  return line;
}

}  // namespace rhea
