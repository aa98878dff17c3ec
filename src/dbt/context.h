// SPDX-License-Identifier: Apache-2.0
// The per-vCPU context of the translator: everything translated code reaches through RSP.
//
// Inside the code cache pinned guest registers, arithmetic flags, x87, vector registers and MXCSR are in
// the host's own; at every call of a C++ function they are in the context: GPRs in state.gpr, arithmetic
// flags in arith_flags, vector state still in the host registers (general-register-only functions) or in
// state.xsave (the others; see runtime/thunks).
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/cpu_state.h"
#include "io/address_space.h"
#include "io/clock.h"
#include "io/irq.h"
#include "memory/guest_memory.h"

namespace rhea::cpu {
class CpuModel;
class Lapic;
}  // namespace rhea::cpu

namespace rhea::io {
class InstructionClock;
}  // namespace rhea::io

namespace rhea::dbt {

class Runtime;

// MMU modes: each has its own data TLB arrays.
enum class MmuIndex : uint8_t {
  kUser = 0,          // CPL 3
  kSupervisor = 1,    // CPL 0-2, user pages refused where SMAP is on
  kSupervisorAc = 2,  // CPL 0-2 with EFLAGS.AC set or SMAP off
};
inline constexpr unsigned kMmuModes = 3;
inline constexpr unsigned kTlbEntries = 65536;        // direct-mapped by bits 12-27 of the address
inline constexpr unsigned kJumpCacheEntries = 65536;  // direct-mapped by bits 0-15 of RIP
inline constexpr unsigned kJumpCacheSlots = 16;

// Tags are negated so that translated code can compare without touching the flags. Zero means unused: as a
// tag it could only match page (or RIP) 0, whose index is 0, or an access that wraps from the last page to it,
// whose index is the last. For these two invalid_tag() is one that matches only page -0x2000 (index 0xfffe) or
// RIP -0x2000 (index 0xe000). So no address ever hits an entry that was not filled for it.
inline constexpr uint64_t invalid_tag(uint32_t index) { return index != 0 && index != 0xffff ? 0 : 0x2000; }

struct DataTlb {
  std::array<uint64_t, kTlbEntries> read_tag;  // -(virtual page address)
  std::array<uint64_t, kTlbEntries> write_tag;
  std::array<uint64_t, kTlbEntries> addend;  // host page address - virtual page address
};
struct CodeTlb {
  std::array<uint64_t, kTlbEntries> tag;   // -(virtual page address + user bit)
  std::array<uint64_t, kTlbEntries> page;  // -(guest-physical page address)
};
struct JumpCache {
  std::array<uint64_t, kJumpCacheEntries> tag;     // -RIP
  std::array<uint64_t, kJumpCacheEntries> target;  // host address of the indirect entry
};

// State components of XSAVE that live in the host's registers while guest code runs: x87, SSE and AVX always, those of
// AVX-512 while the guest's XCR0 enables them. (What it has in them otherwise waits in CpuState::xsave.) [SDM-1 13.1]
inline constexpr uint32_t kBaseComponents = 7, kAvx512Components = 0xe0;
inline constexpr uint32_t vector_components(uint64_t xcr0) {
  return kBaseComponents | (static_cast<uint32_t>(xcr0) & kAvx512Components);
}

// What the dispatcher must do before it runs the next block.
enum class ExitReason : uint32_t { kNone, kStopped, kHalted, kShutdown, kDebug, kInstructionLimit };

// The access to a port that has raised an SMI: what the handler needs to have it made again. [APM-2 10.2.5]
struct PortTrap {
  uint64_t rip = 0, rcx = 0, rsi = 0, rdi = 0;  // before it
  uint32_t word = 0;                            // port in 31-16, size, kind, valid; 0: there was none
};

struct alignas(4096) Context {
  cpu::CpuState state;

  // Hot words of translated code.
  uint64_t code_base = 0;        // IP of the start of the guest page being executed
  uint32_t exit_request = 0;     // polled at back-edges and indirect branches (atomic access)
  uint32_t irq_pending = 0;      // something may be deliverable once IF allows (atomic access)
  uint32_t arith_flags = 0;      // bits 8-15: LAHF's AH image; bit 0: OF
  uint8_t interrupt_flag = 0;    // RFLAGS.IF
  uint8_t direction_flag = 0;    // RFLAGS.DF
  uint8_t step_pending = 0;      // the instruction just run was single-stepped
  uint8_t code_invalidated = 0;  // a store has dropped translations: the current block may be stale
  uint8_t vectors_saved = 0;     // the guest's vector state is in state.xsave at the moment
  uint8_t yield_wanted = 0;      // the guest spins, and other vCPUs may need this processor
  uint32_t pauses_left = 0;      // PAUSE instructions until then, where there are more vCPUs than processors
  uint32_t mode = 0;             // the mode word (dbt/mode.h) of the code being run
  uint32_t vector_components = kBaseComponents;  // of XSAVE, that the host's registers hold for the guest
  uint64_t page_mask = ~uint64_t{0xfff};
  uint64_t bit_masks[3] = {0x0f, 0x1f, 0x3f};  // bit index within 16, 32, 64 bits
  uint64_t sign_mask = uint64_t{1} << 63;
  uint64_t x87_summary_mask = 0x80;  // FSW.ES
  uint64_t scratch[8] = {};          // spill space inside one instruction
  uint64_t access_mask = 0;          // of an EVEX memory operand that missed the TLB: the mask register,
  uint32_t access_shape = 0;         // and how it applies (runtime/entry_points.h)
  uint64_t apic_page = 0;            // physical page of the local APIC's registers | 1; 0 while they are not mapped
  uint64_t tsc_offset = 0;           // guest TSC = host TSC + this (TSC_ADJUST included)
  int64_t instructions_left = 0;     // deterministic clock: budget, counted down per block
  int64_t instructions_settled = 0;  // what instructions_left was when the clock was last told
  uint32_t regrant = 0;              // deterministic clock: a timer may be due before the budget ends (atomic access)
  uint16_t fpu_fop = 0;              // last x87 instruction: opcode, IP and data address as the guest sees them
  uint64_t fpu_fip = 0, fpu_fdp = 0;
  uint16_t x87_last_fop = 0;  // of the last x87 instruction; becomes fpu_fop / fpu_fdp when it raised an
  uint64_t x87_last_fdp = 0;  // unmasked exception, or always on processors that keep them always
  uint64_t host_stack = 0;    // the C++ caller's stack pointer while in the code cache
  ExitReason exit_reason = ExitReason::kNone;
  PortTrap port_trap;
  alignas(64) std::array<std::byte, 192> bounce{};  // for accesses that no single host page serves

  // Wiring.
  memory::GuestMemory* memory = nullptr;
  io::AddressSpace* physical = nullptr;
  // The ranges of `physical` as this vCPU has taken note of them. A view of the address space itself may be freed while
  // a vCPU looks something up in it: others may change it as often as they like. nullptr: no vCPU runs besides (tests).
  const std::vector<io::Range>* ranges = nullptr;
  uint64_t address_mask = ~uint64_t{0};  // physical address lines that are not held at zero (the A20 gate)
  io::AddressSpace* ports = nullptr;
  io::Clock* clock = nullptr;
  io::InstructionClock* instruction_clock = nullptr;  // `clock`, where that counts instructions
  const cpu::CpuModel* cpu_model = nullptr;
  cpu::Lapic* lapic = nullptr;
  io::IrqRouter* irq = nullptr;
  Runtime* runtime = nullptr;
#ifdef RHEA_INJECT_BUGS
  int inject_bug = 0;  // the seeded bug that is active: dbt/inject_bug.h
#endif

  // --- registers as C++ code sees them between instructions ---
  uint64_t rflags() const {
    return (state.rflags & ~(cpu::rflags::kArithmetic | cpu::rflags::kIf | cpu::rflags::kDf)) | cpu::rflags::kFixed1 |
           ((arith_flags >> 8) & 0xd5) | ((arith_flags & 1) ? cpu::rflags::kOf : 0) |
           (interrupt_flag ? cpu::rflags::kIf : 0) | (direction_flag ? cpu::rflags::kDf : 0);
  }
  void set_rflags(uint64_t value) {
    state.rflags = value;
    arith_flags = static_cast<uint32_t>(((value & 0xd5) << 8) | ((value & cpu::rflags::kOf) ? 1 : 0));
    interrupt_flag = (value & cpu::rflags::kIf) != 0;
    direction_flag = (value & cpu::rflags::kDf) != 0;
  }
  uint64_t& gpr(unsigned index) { return state.gpr[index]; }

  // --- large arrays last ---
  std::array<DataTlb, kMmuModes> data_tlb;
  CodeTlb code_tlb;
  std::array<JumpCache, kJumpCacheSlots> jump_cache;
};

}  // namespace rhea::dbt
