// SPDX-License-Identifier: Apache-2.0
// What the repeated instructions share: counts, pointers, and when to look for interrupts.
#pragma once

#include <atomic>

#include "dbt/system/internal.h"

namespace rhea::dbt {

inline bool repeats(const Insn& insn) { return insn.rep || insn.repne; }

// Moves RSI or RDI by some bytes in the direction of DF.
inline void advance_register(Context& context, unsigned reg, unsigned address_size, uint64_t bytes) {
  uint64_t value = context.state.gpr[reg];
  write_register(context, reg, address_size, context.direction_flag ? value - bytes : value + bytes);
}

// Interrupts are taken between iterations, and TF and breakpoints trap after each. [SDM-2B REP]
inline bool must_leave_repeat(Context& context) {
  if (std::atomic_ref(context.exit_request).load(std::memory_order_relaxed)) return true;
  if (context.interrupt_flag && std::atomic_ref(context.irq_pending).load(std::memory_order_relaxed)) return true;
  return (context.state.rflags & cpu::rflags::kTf) || context.state.debug_pending != 0;
}

// Leaves a repeated instruction with iterations to come: RF is set in what an event now pushes. [SDM-3B 17.3.1.1]
inline Next leave_repeat(Context& context) {
  context.state.rflags |= cpu::rflags::kRf;
  return Next::kDispatch;
}

}  // namespace rhea::dbt
