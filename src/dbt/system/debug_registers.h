// SPDX-License-Identifier: Apache-2.0
// What the debug registers match. [SDM-3B 17.2]
//
// Nothing here runs while DR7 enables nothing: pages under a data breakpoint are kept out of the data TLB for the kinds
// of access that it watches, so that these go through the slow paths, which ask here; pages under an instruction
// breakpoint run one instruction at a time through the dispatcher, which asks here too. A data or I/O breakpoint is
// noted in CpuState::debug_pending and becomes a #DB trap at the next instruction boundary.
//
// General registers only.
#pragma once

#include <cstdint>

#include "dbt/context.h"

namespace rhea::dbt {

inline constexpr uint32_t kDr6Breakpoints = 0xf, kDr6GeneralDetect = 1u << 13, kDr6SingleStep = 1u << 14,
                          kDr6TaskSwitch = 1u << 15;
inline constexpr uint64_t kDr7Enables = 0xff, kDr7LocalEnables = 0x155, kDr7GeneralDetect = 1u << 13;

// The R/W field of a breakpoint, as a set.
enum class BreakpointKind : uint8_t { kExecute = 1u << 0, kWrite = 1u << 1, kPort = 1u << 2, kReadWrite = 1u << 3 };

inline bool breakpoints_enabled(const Context& context) { return context.state.dr[7] & kDr7Enables; }

// The bits of DR6 for the enabled breakpoints that an access of data meets, an instruction at `linear`, or a port.
uint32_t data_breakpoints(const Context& context, uint64_t linear, unsigned size_bytes, bool write);
uint32_t instruction_breakpoints(const Context& context, uint64_t linear);
uint32_t port_breakpoints(const Context& context, uint16_t port, unsigned size_bytes);

// Whether any breakpoint watches accesses of this kind to the page of `linear`, or instructions in it.
bool data_page_watched(const Context& context, uint64_t linear, bool write);
bool code_page_watched(const Context& context, uint64_t linear);

inline void note_data_access(Context& context, uint64_t linear, unsigned size_bytes, bool write) {
  if (breakpoints_enabled(context)) [[unlikely]]
    context.state.debug_pending |= data_breakpoints(context, linear, size_bytes, write);
}
inline void note_port_access(Context& context, uint16_t port, unsigned size_bytes) {
  if (breakpoints_enabled(context)) [[unlikely]]
    context.state.debug_pending |= port_breakpoints(context, port, size_bytes);
}

// DR6 for a #DB that reports `bits`; B0-B3 are those of this exception alone on Intel's processors. General detection
// ends with it. [SDM-3B 17.2.3]
void report_debug_exception(Context& context, uint64_t bits);

}  // namespace rhea::dbt
