// SPDX-License-Identifier: Apache-2.0
// Matching of the debug registers. Only breakpoints that L or G enables are looked at or reported.
#include "dbt/system/debug_registers.h"

#include "dbt/system/internal.h"

namespace rhea::dbt {

namespace {

constexpr uint64_t kPageBits = ~uint64_t{0xfff};

struct Breakpoint {
  uint64_t start = 0;  // aligned to its length: the low bits of the address are ignored [SDM-3B 17.2.5]
  uint64_t address = 0;
  unsigned size_bytes = 1;
  BreakpointKind kind = BreakpointKind::kExecute;
};

constexpr bool contains(unsigned kinds, BreakpointKind kind) { return kinds & static_cast<unsigned>(kind); }
constexpr unsigned set_of(BreakpointKind kind) { return static_cast<unsigned>(kind); }

Breakpoint breakpoint(const cpu::CpuState& state, unsigned index) {
  constexpr uint8_t kSizes[4] = {1, 2, 8, 4};
  uint64_t field = state.dr[7] >> (16 + 4 * index);
  Breakpoint result;
  result.address = state.dr[index];
  result.size_bytes = kSizes[(field >> 2) & 3];
  result.start = result.address & ~uint64_t{result.size_bytes - 1};
  result.kind = static_cast<BreakpointKind>(1u << (field & 3));
  return result;
}

// Calls match(breakpoint) for those enabled whose kind is among `kinds`; the bits of those that match.
template <class Match>
uint32_t collect(const Context& context, unsigned kinds, Match match) {
  const cpu::CpuState& state = context.state;
  uint32_t bits = 0;
  for (unsigned i = 0; i < 4; ++i) {
    if (!((state.dr[7] >> (2 * i)) & 3)) continue;
    Breakpoint candidate = breakpoint(state, i);
    if (contains(kinds, candidate.kind) && match(candidate)) bits |= 1u << i;
  }
  return bits;
}

bool overlaps(const Breakpoint& breakpoint, uint64_t start, unsigned size_bytes) {
  return start - breakpoint.start < breakpoint.size_bytes || breakpoint.start - start < size_bytes;
}

unsigned data_kinds(bool write) {
  return set_of(BreakpointKind::kReadWrite) | (write ? set_of(BreakpointKind::kWrite) : 0);
}

}  // namespace

uint32_t data_breakpoints(const Context& context, uint64_t linear, unsigned size_bytes, bool write) {
  return collect(context, data_kinds(write), [&](const Breakpoint& b) { return overlaps(b, linear, size_bytes); });
}

uint32_t instruction_breakpoints(const Context& context, uint64_t linear) {
  return collect(context, set_of(BreakpointKind::kExecute), [&](const Breakpoint& b) { return b.address == linear; });
}

// The encoding is undefined, and nothing matches, without CR4.DE. [SDM-3B 17.2.4]
uint32_t port_breakpoints(const Context& context, uint16_t port, unsigned size_bytes) {
  if (!(context.state.cr4 & cpu::cr4::kDe)) return 0;
  return collect(context, set_of(BreakpointKind::kPort),
                 [&](const Breakpoint& b) { return overlaps(b, port, size_bytes); });
}

bool data_page_watched(const Context& context, uint64_t linear, bool write) {
  if (!breakpoints_enabled(context)) return false;
  return collect(context, data_kinds(write),
                 [&](const Breakpoint& b) { return ((b.start ^ linear) & kPageBits) == 0; }) != 0;
}

bool code_page_watched(const Context& context, uint64_t linear) {
  return collect(context, set_of(BreakpointKind::kExecute),
                 [&](const Breakpoint& b) { return ((b.address ^ linear) & kPageBits) == 0; }) != 0;
}

void report_debug_exception(Context& context, uint64_t bits) {
  cpu::CpuState& state = context.state;
  if (context.cpu_model->intel()) state.dr[6] &= ~uint64_t{kDr6Breakpoints};
  state.dr[6] |= bits;
  state.dr[7] &= ~kDr7GeneralDetect;
}

}  // namespace rhea::dbt
