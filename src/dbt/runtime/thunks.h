// SPDX-License-Identifier: Apache-2.0
// The hand-written pieces of host code between translated blocks and C++: entry, exit and helper calls.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dbt/context.h"
#include "dbt/x86/emitter.h"

namespace rhea::dbt {

// Host registers inside the code cache.
//   RAX RDX RBX RBP RSI RDI R8-R11: the guest's own; guest RCX in R13, guest RSP in R12; guest R12-R15 in
//   Context::state.gpr. RCX, R14, R15 are scratch. RSP points at the Context; the stack for C++ lies below it.
inline constexpr HostReg kScratchA = kHR14, kScratchB = kHR15, kScratchC = kHRcx;
inline constexpr HostReg kGuestRsp = kHR12, kGuestRcx = kHR13;

// The host register that holds guest register `gpr`, or kHNone if it lives in the context.
constexpr uint8_t host_register(uint8_t gpr) {
  switch (gpr) {
    case cpu::kRcx: return kGuestRcx;
    case cpu::kRsp: return kGuestRsp;
    case cpu::kR12:
    case cpu::kR13:
    case cpu::kR14:
    case cpu::kR15: return kHNone;
    default: return gpr;
  }
}

// [rsp + offset]: a field of the Context.
constexpr HostMem context_field(size_t offset) { return {.base = kHRsp, .displacement = static_cast<int32_t>(offset)}; }
constexpr HostMem gpr_slot(unsigned gpr) {
  return context_field(offsetof(Context, state) + offsetof(cpu::CpuState, gpr) + 8 * gpr);
}

// Executable addresses of the thunks.
struct Thunks {
  void (*enter)(Context* context, uint64_t target) = nullptr;  // from C++: runs until exit
  uint64_t exit = 0;                                           // resume target: back to the C++ caller of enter
  uint64_t dispatch = 0;                                       // jmp: dispatches at r14
  uint64_t branch = 0;        // jmp: as dispatch, after an indirect branch; ecx: kBranch* in entry_points.h
  uint64_t link = 0;          // jmp: r15 = Link*
  uint64_t memory = 0;        // call: r14 linear, ecx info; returns rcx = 0 try again, else access [r14 + r15]
  uint64_t memory_after = 0;  // call
  uint64_t system = 0;        // call: r15 = InsnRecord*
  uint64_t segment = 0;       // call: r14 offset, ecx info; returns r14 linear
  uint64_t raise = 0;         // call: ecx = vector | error code present << 8 | error code << 16
  uint64_t budget = 0;  // jmp: the instruction budget does not cover the block at r14 (IP); ecx = count to give back
  uint64_t native_fault = 0;  // resume target of the signal handler: state complete but for vectors
};

// Emits the thunks; called once per runtime. (The context says which seeded bug a test build has.)
Thunks emit_thunks(Emitter& emitter, const Context& context);

}  // namespace rhea::dbt
