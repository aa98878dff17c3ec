// SPDX-License-Identifier: Apache-2.0
// Runs one hostile guest on a whole machine of four vCPUs, and looks at what it could have learned.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "tests/hostile/case.h"

namespace rhea::tests::hostile {

struct Outcome {
  std::string end;   // how the guest ended, for people
  std::string leak;  // what it saw that it must not see; empty: nothing
};

class Arena {
 public:
  Arena();
  ~Arena();
  // One case at a time. `cpu_milliseconds`: of the process, after which the guest is stopped.
  Outcome run(const Case& value, unsigned cpu_milliseconds);

 private:
  struct Secret;
  std::string kernel_path_, disk_path_;
  base::UniqueFd kernel_, disk_;
  std::unique_ptr<Secret> secret_;
  std::vector<uint8_t> pattern_;
};

}  // namespace rhea::tests::hostile
