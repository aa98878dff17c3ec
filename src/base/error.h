// SPDX-License-Identifier: Apache-2.0
// Host-side failures as values: an Error says what was being done to what, and why it failed.
#pragma once

#include <expected>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace rhea {

enum class ErrorCode {
  kInvalidArgument,
  kNotFound,
  kPermissionDenied,
  kIo,
  kUnsupported,
  kCorrupt,
  kExhausted,
  kBusy,
  kInternal,
};

// A host-side failure: code, one-line message and the chain of causes. Cheap to move, copyable.
class Error {
 public:
  Error(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}

  // An error from errno, "<message>: <strerror>"; the code is derived from the errno value.
  static Error from_errno(int errno_value, std::string message);

  ErrorCode code() const { return code_; }
  const std::string& message() const { return message_; }
  const Error* cause() const { return cause_.get(); }

  // Returns an error with `message` in front and this one as its cause (same code).
  Error context(std::string message) const;

  // "message: cause: cause" on one line, as printed to the user.
  std::string to_string() const;

 private:
  ErrorCode code_;
  std::string message_;
  std::shared_ptr<const Error> cause_;
};

template <class T>
using Result = std::expected<T, Error>;
using Status = Result<void>;

inline std::unexpected<Error> fail(ErrorCode code, std::string message) {
  return std::unexpected(Error(code, std::move(message)));
}
inline std::unexpected<Error> fail(Error error) { return std::unexpected(std::move(error)); }

}  // namespace rhea

// Evaluates a Result expression: its value, or returns the error from the enclosing function.
#define RHEA_TRY(expression)                                      \
  ({                                                              \
    auto rhea_try_result = (expression);                          \
    if (!rhea_try_result) [[unlikely]]                            \
      return std::unexpected(std::move(rhea_try_result).error()); \
    std::move(rhea_try_result).value();                           \
  })
