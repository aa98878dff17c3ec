// SPDX-License-Identifier: Apache-2.0
// What follows a load of a segment register.
#pragma once

#include "dbt/system/internal.h"

namespace rhea::dbt {

enum class InterruptShadow : uint8_t { kNone, kForStack };  // MOV SS and POP SS hold interrupts off, LSS does not

inline Next after_segment_load(Context& context, unsigned segment, InterruptShadow shadow) {
  if (segment == cpu::kSs) {
    if (shadow == InterruptShadow::kNone) return Next::kDispatch;
    context.state.mov_ss_shadow = true;
    return Next::kInterruptShadow;
  }
  // 64-bit code ignores all but the bases of FS and GS, which translations read at run time.
  return context.state.code64() ? Next::kContinue : Next::kDispatch;
}

}  // namespace rhea::dbt
