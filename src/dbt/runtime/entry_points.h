// SPDX-License-Identifier: Apache-2.0
// The C++ functions that thunks call. All are compiled for general registers only.
#pragma once

#include <cstdint>

#include "dbt/context.h"

namespace rhea::dbt {

struct Link;
struct InsnRecord;
struct ThunkResult;

ThunkResult entry_dispatch(Context* context, uint64_t rip);
ThunkResult entry_branch(Context* context, uint64_t rip, uint32_t info);
ThunkResult entry_link(Context* context, Link* link);
ThunkResult entry_budget(Context* context, uint64_t rip, uint32_t instructions);
ThunkResult entry_native_fault(Context* context);
ThunkResult entry_memory(Context* context, uint64_t linear, uint32_t info, uint64_t return_address);
ThunkResult entry_memory_after(Context* context, uint64_t, uint32_t after, uint64_t return_address);
ThunkResult entry_system(Context* context, const InsnRecord* record, uint64_t, uint64_t return_address);
ThunkResult entry_segment(Context* context, uint64_t offset, uint32_t info, uint64_t return_address);
ThunkResult entry_raise(Context* context, uint32_t info, uint64_t, uint64_t return_address);

// info words of the memory and segment thunks.
inline constexpr uint32_t kInfoSizeMask = 0xff, kInfoWrite = 1u << 8, kInfoMmuShift = 9, kInfoRead = 1u << 15,
                          kInfoAlignCheck = 1u << 14, kInfoStack = 1u << 13, kInfoX87Store = 1u << 12,
                          kInfoLocked = 1u << 11,  // a read and write that nobody may come between
    kInfoAlignmentShift = 16, kInfoAlignmentMask = 0x7f, kInfoSegmentShift = 16,
                          kInfoMasked = 1u << 23,  // see Context::access_mask
    kInfoAlways = 1u << 24;                        // the TLB is never asked

// Context::access_shape: bytes of an element, lanes << 8, and how the mask applies. [rows.inc, attributes]
inline constexpr uint32_t kShapePacked = 1u << 16, kShapeWhole = 1u << 17;

// The info word of the branch thunk: where the fault of a target that cannot be lies (the guest offset of the branch;
// that of the target where nothing branched), and the bytes the branch took off the stack (signed), or that it has
// counted a register down (kBranchCounted plus the register's width in bytes).
inline constexpr uint32_t kBranchOffsetMask = 0x1fff, kBranchPoppedShift = 13;
inline constexpr int kBranchCounted = 0x20000;

}  // namespace rhea::dbt
