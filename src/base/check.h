// SPDX-License-Identifier: Apache-2.0
// Always-on checks for our own bugs. No check that a guest can reach may use these.
#pragma once

namespace rhea::base {

// Prints "file:line: check failed: condition" to stderr and aborts. Any thread.
[[noreturn]] void check_failed(const char* file, int line, const char* condition);

}  // namespace rhea::base

#define RHEA_CHECK(condition)                                     \
  do {                                                            \
    if (!(condition)) [[unlikely]]                                \
      ::rhea::base::check_failed(__FILE__, __LINE__, #condition); \
  } while (false)
#define RHEA_UNREACHABLE() ::rhea::base::check_failed(__FILE__, __LINE__, "unreachable")
