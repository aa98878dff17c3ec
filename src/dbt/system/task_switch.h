// SPDX-License-Identifier: Apache-2.0
// Hardware task switching, outside long mode. [SDM-3A 7.3]
#pragma once

#include <cstdint>

#include "dbt/system/system.h"

namespace rhea::dbt {

enum class TaskSwitchCause : uint8_t { kJump, kCall, kEvent, kReturn };

struct TaskSwitch {
  uint16_t selector = 0;  // of the new task's TSS; the privilege to go there is checked already
  TaskSwitchCause cause = TaskSwitchCause::kJump;
  uint64_t saved_rip = 0, saved_flags = 0;  // for the old task's TSS
  uint32_t ext = 0;                         // the EXT bit of error codes
  bool has_error_code = false;              // goes onto the new task's stack
  uint32_t error_code = 0;
};

// An exception belongs to the old task, which is as before, or to the new one, whose state is loaded but for the
// hidden parts of the segments that come after the bad one. context.state tells which.
Fallible<Next> switch_task(Context& context, const TaskSwitch& request);

}  // namespace rhea::dbt
