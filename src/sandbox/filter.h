// SPDX-License-Identifier: Apache-2.0
// Allow lists as programs for the kernel's seccomp filter, compiled by libseccomp.
#pragma once

#include <linux/filter.h>

#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "sandbox/allow_list.h"

namespace rhea::sandbox {

// A call that no rule allows raises SIGSYS on the thread that made it, and is not executed.
class Filter {
 public:
  // Allocates and opens a descriptor: before any confinement.
  static Result<Filter> create(std::span<const std::span<const Rule>> lists);

  enum class Scope { kThread, kProcess };
  // For good: no filter can be taken away again, and threads inherit it. Errors leave everything as it was. Allocates
  // nothing.
  Status install(Scope scope) const;

 private:
  explicit Filter(std::vector<sock_filter> program) : program_(std::move(program)) {}
  std::vector<sock_filter> program_;
};

}  // namespace rhea::sandbox
