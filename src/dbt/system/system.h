// SPDX-License-Identifier: Apache-2.0
// System semantics of the guest processor: paging, segmentation, exceptions, interrupts, privileged and
// complex instructions, executed from the decoded instruction.
//
// Threads: the vCPU's own. All files of this folder are compiled for general registers only: they run while
// the guest's vector registers are live in the host's (calls into devices go through call_with_vectors_saved).
#pragma once

#include <cstdint>
#include <expected>

#include "dbt/context.h"
#include "isa/x86/insn.h"

namespace rhea::dbt {

enum Vector : uint8_t {
  kDivideError = 0,
  kDebugException = 1,
  kNmi = 2,
  kBreakpoint = 3,
  kOverflow = 4,
  kBoundRange = 5,
  kInvalidOpcode = 6,
  kDeviceNotAvailable = 7,
  kDoubleFault = 8,
  kInvalidTss = 10,
  kSegmentNotPresent = 11,
  kStackFault = 12,
  kGeneralProtection = 13,
  kPageFault = 14,
  kX87Error = 16,
  kAlignmentCheck = 17,
  kMachineCheck = 18,
  kSimdError = 19
};

// An exception on its way to the guest. For #PF, `address` goes to CR2 at delivery.
struct Exception {
  uint8_t vector = 0;
  bool has_error_code = false;
  uint32_t error_code = 0;
  uint64_t address = 0;
  uint64_t dr6_bits = 0;  // #DB: bits to merge into DR6
};
template <class T>
using Fallible = std::expected<T, Exception>;

inline std::unexpected<Exception> raise(uint8_t vector) { return std::unexpected(Exception{.vector = vector}); }
inline std::unexpected<Exception> raise(uint8_t vector, uint32_t error_code) {
  return std::unexpected(Exception{.vector = vector, .has_error_code = true, .error_code = error_code});
}

// What the dispatcher does after a system function.
enum class Next : uint8_t {
  kContinue,         // state.rip is the next instruction and nothing that translations depend on changed
  kDispatch,         // look up state.rip afresh (branch, mode, CPL, paging or segment change)
  kHalt,             // HLT executed: state.rip is after it
  kShutdown,         // triple fault
  kInterruptShadow,  // STI / MOV SS / POP SS: run one more instruction before interrupts are looked at
};

// ---- paging (paging.cpp) ----
enum class Access : uint8_t { kRead, kWrite, kExecute };

struct Translation {
  uint64_t physical = 0;      // of the address itself
  uint64_t page_size = 4096;  // of the mapping
  bool writable = false;      // writes by this privilege would succeed too, and D is set
  bool global = false;
};

// Walks the guest's page tables for one access, sets A (and D for writes) by compare-exchange, checks
// permissions: WP, NX, SMEP, SMAP, U/S, reserved bits. `user`: the access is made with user privilege.
// `mmu` kSupervisor means SMAP is enforced for supervisor accesses (implicit ones always are).
// No paging: identity. The linear address is truncated to 32 bits outside long mode by the caller.
// Errors: #PF with its error code and address. [SDM-3A 4.6, 4.7]
Fallible<Translation> translate(Context& context, uint64_t linear, Access access, MmuIndex mmu);
// As translate(), with no side effects and no permission checks; for debuggers. False if not mapped.
bool translate_for_debug(const Context& context, uint64_t linear, uint64_t& physical);

// ---- guest memory by linear address (linear.cpp) ----
// Sizes 1-16 bytes (read_linear/write_linear), page crossing and MMIO included; a write that will fault
// changes nothing. kSupervisor for implicit system accesses (descriptor tables, TSS, exception frames).
Fallible<uint64_t> read_linear(Context& context, uint64_t linear, unsigned size_bytes, MmuIndex mmu);
Fallible<void> write_linear(Context& context, uint64_t linear, uint64_t value, unsigned size_bytes, MmuIndex mmu);
// Any length up to 4096 bytes; the write form probes every page before it changes any.
Fallible<void> read_linear_bytes(Context& context, uint64_t linear, void* out, unsigned size_bytes, MmuIndex mmu);
Fallible<void> write_linear_bytes(Context& context, uint64_t linear, const void* data, unsigned size_bytes,
                                  MmuIndex mmu);
// Checks that a write of [linear, linear+size) would succeed (and sets A/D bits as it would).
Fallible<void> probe_write(Context& context, uint64_t linear, unsigned size_bytes, MmuIndex mmu);
// A bus access of 1, 2, 4 or 8 bytes to what is no RAM, the processor's own local APIC included. Vectors saved.
uint64_t bus_read(Context& context, uint64_t physical, unsigned size_bytes);
void bus_write(Context& context, uint64_t physical, uint64_t value, unsigned size_bytes);
// Notes where the local APIC's registers lie, after IA32_APIC_BASE may have changed. Vectors saved.
void refresh_local_apic(Context& context);
// The MMU mode of explicit data accesses at the current CPL, AC and CR4.SMAP.
MmuIndex current_mmu(const Context& context);

// ---- segmentation (segments.cpp) ----
// The linear address of an access through a segment: canonical, limit, type and null checks.
// #SS(0) for SS, else #GP(0). [SDM-3A 5.3, 5.4]
Fallible<uint64_t> linear_address(Context& context, unsigned segment, uint64_t offset, unsigned size_bytes,
                                  Access access);
// Loads ES, SS, DS, FS or GS as MOV/POP/Lxx do in the current mode. [SDM-2B MOV]
Fallible<void> load_segment(Context& context, unsigned segment, uint16_t selector);

// ---- exceptions and interrupts (events.cpp) ----
// Delivers through the IDT (or IVT in real mode) with all checks, stack switch and IST; handles contributory
// and double faults itself. kDispatch, or kShutdown after a triple fault. state.rip is the RIP to push.
Next deliver_exception(Context& context, const Exception& exception);
Next deliver_interrupt(Context& context, uint8_t vector);                                // external, or NMI as vector 2
Fallible<Next> software_interrupt(Context& context, uint8_t vector, uint64_t next_rip);  // INT n, INT3, INTO

// Whether a virtual interrupt that the monitor announced (VIP) is due: the next instruction raises #GP(0) instead.
// [SDM-3B 21.3.3.4]
bool virtual_interrupt_due(const Context& context);

// ---- system management mode (smm.cpp) ----
// Takes an SMI: saves the state and makes the handler what runs next.
void enter_smm(Context& context);

// ---- instructions ----
// Executes a decoded instruction of a row whose Translation is kSystem (and the listed complex ones: PUSHF/POPF,
// PUSHA/POPA, ENTER, far transfers, segment loads, string instructions with any prefix, port I/O, ...).
// On entry state.rip is the instruction's own; on success it is advanced (or set by the branch); on an
// exception the registers are as before the instruction (or as the SDM says for REP).
Fallible<Next> execute_system(Context& context, const isa::x86::Insn& insn);
// Whether execute_system() knows the row.
bool has_system_function(isa::x86::RowId row);

// The same for rows whose Translation is kMaskMem: masked loads and stores, gathers (masked_memory.cpp).
Fallible<Next> execute_masked_memory(Context& context, const isa::x86::Insn& insn);

// Handy pieces that translated code calls directly.
Next syscall_instruction(Context& context, uint64_t next_rip);  // after checks; see execute_system

// ---- services that the runtime gives to this folder (runtime/services.cpp) ----
struct FlushRequest {
  enum class Kind : uint8_t { kAll, kNonGlobal, kPage } kind = Kind::kAll;
  uint64_t linear = 0;
};
void flush_tlb(Context& context, const FlushRequest& request);
// The processor has entered or left SMM (state.in_smm): sees the physical address space anew, forgets its TLBs.
void change_view(Context& context);
// Fast path of read_linear/write_linear: the host address if the TLB holds the page for this access, else nullptr.
void* tlb_lookup(Context& context, uint64_t linear, unsigned size_bytes, Access access, MmuIndex mmu);
// A CPU-side store of ours to guest RAM: like a guest store, it drops translations of what it overwrites.
void note_store(Context& context, uint64_t physical, unsigned size_bytes);
// Calls function(argument) with the guest's vector state saved to state.xsave and restored afterwards.
void call_with_vectors_saved(Context& context, void (*function)(void*), void* argument);
// Writes the live vector/x87 state to state.xsave / loads it back (for FXSAVE, XSAVE and friends).
void save_vectors(Context& context);
void load_vectors(Context& context);
// After a change of XCR0: from now on the host's registers hold the components that it enables. Vectors live.
void follow_xcr0(Context& context);

}  // namespace rhea::dbt
