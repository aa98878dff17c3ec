// SPDX-License-Identifier: Apache-2.0
// The mode word: everything besides the guest-physical address that a translation depends on.
#pragma once

#include <cstdint>

#include "dbt/context.h"

namespace rhea::dbt {

namespace mode {
inline constexpr uint32_t kCodeSizeMask = 3;    // 0: 16-bit, 1: 32-bit, 2: 64-bit
inline constexpr uint32_t kStackBig = 1u << 2;  // SS.B (or 64-bit)
inline constexpr uint32_t kMmuShift = 3;        // MmuIndex, two bits
inline constexpr uint32_t kMmuMask = 3u << kMmuShift;
inline constexpr uint32_t kCplUser = 1u << 5;  // CPL 3
inline constexpr uint32_t kCplZero = 1u << 6;
inline constexpr uint32_t kFpuUnavailable = 1u << 7;    // CR0.TS or CR0.EM for x87/MMX: #NM
inline constexpr uint32_t kSseUndefined = 1u << 8;      // CR0.EM or no CR4.OSFXSR: #UD
inline constexpr uint32_t kAvxUndefined = 1u << 9;      // no CR4.OSXSAVE or XCR0 without AVX: #UD
inline constexpr uint32_t kSseTaskSwitched = 1u << 10;  // CR0.TS: #NM
inline constexpr uint32_t kFlat = 1u << 11;             // CS, DS, ES, SS: base 0, full limit, plain read/write
inline constexpr uint32_t kFsPlain = 1u << 12;          // base only: no limit or type to check
inline constexpr uint32_t kGsPlain = 1u << 13;
inline constexpr uint32_t kSmap = 1u << 14;             // CR4.SMAP on, CPL < 3: the MMU index shows AC
inline constexpr uint32_t kTrap = 1u << 15;             // EFLAGS.TF, or a debugger steps
inline constexpr uint32_t kAlignCheck = 1u << 16;       // CR0.AM, EFLAGS.AC, CPL 3
inline constexpr uint32_t kTscRestricted = 1u << 17;    // CR4.TSD and CPL > 0
inline constexpr uint32_t kReal = 1u << 18;             // real or virtual-8086 mode
inline constexpr uint32_t kOneInstruction = 1u << 19;   // interrupt shadow, exact instruction counts
inline constexpr uint32_t kWaitChecksTs = 1u << 20;     // CR0.MP and TS: WAIT raises #NM
inline constexpr uint32_t kX87Emulated = 1u << 21;      // CR0.EM
inline constexpr uint32_t kAvx512Undefined = 1u << 22;  // no CR4.OSXSAVE or XCR0 without AVX-512: #UD
inline constexpr uint32_t kSmm = 1u << 31;              // the same physical address may be other memory

inline constexpr bool code64(uint32_t word) { return (word & kCodeSizeMask) == 2; }
inline constexpr MmuIndex mmu(uint32_t word) { return static_cast<MmuIndex>((word & kMmuMask) >> kMmuShift); }
inline constexpr uint32_t with_mmu(uint32_t word, MmuIndex index) {
  return (word & ~kMmuMask) | (static_cast<uint32_t>(index) << kMmuShift);
}

// The mode word of the context's present state (without kOneInstruction).
uint32_t current(const Context& context);

}  // namespace mode
}  // namespace rhea::dbt
