// SPDX-License-Identifier: Apache-2.0
// The end of the process after a bug of our own.
#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace rhea::base {

void check_failed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "%s:%d: check failed: %s\n", file, line, condition);
  std::fflush(stderr);
  std::abort();
}

}  // namespace rhea::base
