// SPDX-License-Identifier: Apache-2.0
// What a hostile guest finds: RAM filled with a known pattern, tables, code, and the state that each vCPU starts in.
//
// Every fault's handler moves the saved instruction pointer on by one byte and returns, so that random bytes are tried
// from every offset instead of ending at the first fault; handlers of interrupts acknowledge them.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/cpu_model.h"
#include "cpu/cpu_state.h"
#include "tests/hostile/case.h"

namespace rhea::tests::hostile {

inline constexpr uint64_t kRamBytes = uint64_t{4} << 20;
inline constexpr uint64_t kGdt = 0x1000, kIdt = 0x2000, kTss = 0x3000, kLdt = 0x5000, kHandlers = 0x6000;
inline constexpr uint64_t kCode = 0x10000, kCodeStep = 0x1000;  // one page for each vCPU, in every mode
inline constexpr uint64_t kLongTables = 0x20000, kPagingTables = 0x28000, kPaeTables = 0x2a000;
inline constexpr uint64_t kStacks = 0x40000, kKernelStacks = 0x48000, kStackStep = 0x1000;
inline constexpr uint64_t kShared = 0x50000, kSharedBytes = 0x10000;
inline constexpr uint64_t kBars = 0xd0000000;  // where programs put the memory of PCI cards

// A page of RAM that nothing has been put into: words that are no address of any process.
uint64_t pattern_at(uint64_t physical);

// Writes what lies below the video memory, over the pattern; `ram` has at least 640 KiB.
void build_memory(const Case& value, std::vector<uint8_t>& ram);

// The state vCPU `index` starts in. It is one that a processor can be in, whatever the case says.
cpu::CpuState initial_state(const Case& value, unsigned index, const cpu::CpuModel& model);

// The mode of one vCPU: that of the case, unless it is mixed.
Mode mode_of(const Case& value, unsigned index);

}  // namespace rhea::tests::hostile
