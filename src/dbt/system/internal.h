// SPDX-License-Identifier: Apache-2.0
// What the files of dbt/system share: descriptors, stacks under construction, operands, small register helpers.
//
// Everything here runs with the guest's vector registers live: no floating point, no libc.
#pragma once

#include <array>
#include <cstdint>

#include "cpu/cpu_model.h"
#include "dbt/system/debug_registers.h"
#include "dbt/system/descriptors.h"
#include "dbt/system/system.h"
#include "isa/x86/insn.h"
#include "isa/x86/rows.h"

// The value of a Fallible expression, or returns its exception from the enclosing function.
#define GUEST_TRY(expression)                           \
  ({                                                    \
    auto guest_try_result = (expression);               \
    if (!guest_try_result) [[unlikely]]                 \
      return std::unexpected(guest_try_result.error()); \
    *std::move(guest_try_result);                       \
  })

namespace rhea::dbt {

using isa::x86::Insn;
using isa::x86::Operand;
using isa::x86::OperandKind;

inline std::unexpected<Exception> gp0() { return raise(kGeneralProtection, 0); }
inline std::unexpected<Exception> undefined() { return raise(kInvalidOpcode); }

// ---- processor modes and registers ----
inline bool real_or_v86(const Context& context) {
  return !context.state.protected_mode() || context.state.virtual8086();
}
inline bool is_canonical(uint64_t address) {
  return static_cast<uint64_t>(static_cast<int64_t>(address << 16) >> 16) == address;
}
inline uint64_t size_mask(unsigned size_bytes) {
  return size_bytes >= 8 ? ~uint64_t{0} : (uint64_t{1} << (size_bytes * 8)) - 1;
}
inline int64_t sign_extend(uint64_t value, unsigned size_bytes) {
  unsigned shift = 64 - size_bytes * 8;
  return static_cast<int64_t>(value << shift) >> shift;
}
// Writes a general register as instructions do: 8- and 16-bit writes keep the rest, 32-bit ones zero-extend.
inline void write_register(Context& context, unsigned reg, unsigned size_bytes, uint64_t value) {
  uint64_t& target = context.state.gpr[reg];
  if (size_bytes >= 4) {
    target = value & size_mask(size_bytes);
  } else {
    target = (target & ~size_mask(size_bytes)) | (value & size_mask(size_bytes));
  }
}
inline uint64_t read_register(const Context& context, unsigned reg, unsigned size_bytes) {
  return context.state.gpr[reg] & size_mask(size_bytes);
}
inline unsigned code_address_size(const Context& context) {
  if (context.state.code64()) return 8;
  return context.state.segment[cpu::kCs].default_big() ? 4 : 2;
}
inline uint64_t next_rip(const Context& context, const Insn& insn) {
  uint64_t next = context.state.rip + insn.length;
  return context.state.code64() ? next : next & 0xffffffff;
}
inline Next finish(Context& context, const Insn& insn, Next next = Next::kContinue) {
  context.state.rip = next_rip(context, insn);
  return next;
}
inline Fallible<void> require_cpl0(const Context& context) {
  if (context.state.cpl() != 0) return gp0();
  return {};
}

// Calls `function` with the guest's vector registers put away, so that it may be ordinary C++.
template <class Function>
void with_vectors_saved(Context& context, Function&& function) {
  call_with_vectors_saved(
      context, [](void* argument) { (*static_cast<std::remove_reference_t<Function>*>(argument))(); }, &function);
}

// Copies without libc, whose memcpy would use vector registers.
inline void copy_bytes(void* to, const void* from, uint64_t size_bytes) {
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size_bytes) : : "memory");
}
inline void zero_bytes(void* to, uint64_t size_bytes) {
  asm volatile("rep stosb" : "+D"(to), "+c"(size_bytes) : "a"(0) : "memory");
}

// ---- guest-physical memory (linear.cpp) ----
// The piece of the physical address space that holds `physical`; nullptr in a hole.
const io::Range* find_range(const Context& context, uint64_t physical);
// Host address of RAM at `physical`, nullptr unless all of it is RAM.
std::byte* ram_pointer(const Context& context, uint64_t physical, uint64_t size_bytes);
// Accesses of any size within one page, RAM or not.
void read_physical(Context& context, uint64_t physical, void* out, unsigned size_bytes);
void write_physical(Context& context, uint64_t physical, const void* data, unsigned size_bytes);
// Loads and stores of guest RAM, single where the size is a power of two.
uint64_t load_host(const void* host, unsigned size_bytes);
void store_host(void* host, uint64_t value, unsigned size_bytes);
// Linear addresses wrap at 4 GiB outside long mode.
inline uint64_t wrap_linear(const Context& context, uint64_t linear) {
  return context.state.long_mode_active() ? linear : linear & 0xffffffff;
}

// ---- operands (operands.cpp) ----
uint64_t effective_offset(const Context& context, const Insn& insn);
Fallible<uint64_t> operand_address(Context& context, const Insn& insn, unsigned size_bytes, Access access,
                                   uint64_t offset = 0);
Fallible<uint64_t> read_memory_operand(Context& context, const Insn& insn, unsigned size_bytes, uint64_t offset = 0);
Fallible<void> write_memory_operand(Context& context, const Insn& insn, uint64_t value, unsigned size_bytes,
                                    uint64_t offset = 0);
// A general register or memory operand of `size_bytes`.
Fallible<uint64_t> read_operand(Context& context, const Insn& insn, const Operand& operand, unsigned size_bytes);
Fallible<void> write_operand(Context& context, const Insn& insn, const Operand& operand, uint64_t value,
                             unsigned size_bytes);
// #AC(0) for a misaligned explicit access at CPL 3 where CR0.AM and EFLAGS.AC are set.
Fallible<void> check_alignment(const Context& context, uint64_t linear, unsigned alignment);

// ---- flags ----
// Arithmetic flags from an RFLAGS image; the rest of RFLAGS stays.
inline void set_arithmetic_flags(Context& context, uint64_t flags) {
  context.arith_flags = static_cast<uint32_t>(((flags & 0xd5) << 8) | ((flags & cpu::rflags::kOf) ? 1 : 0));
}
inline bool flag(const Context& context, uint64_t mask) { return context.rflags() & mask; }
inline void set_zero_flag(Context& context, bool value) {
  context.arith_flags = (context.arith_flags & ~0x4000u) | (value ? 0x4000u : 0);
}
// Flags of left - right at this size.
uint64_t subtraction_flags(uint64_t left, uint64_t right, unsigned size_bytes);
// SF, ZF and PF of a result.
uint64_t result_flags(uint64_t result, unsigned size_bytes);
// RFLAGS that POPF or IRET leaves: `allowed` are the bits that may change.
inline uint64_t merge_flags(uint64_t old_flags, uint64_t new_flags, uint64_t allowed) {
  return (old_flags & ~allowed) | (new_flags & allowed) | cpu::rflags::kFixed1;
}

// ---- pieces shared between instructions ----
// Changes CS and SS and with them the CPL.
inline void set_code(Context& context, const cpu::Segment& segment, uint64_t rip) {
  context.state.segment[cpu::kCs] = segment;
  context.state.rip = rip;
}
// PAE paging outside long mode keeps its four page-directory pointers in the processor. [SDM-3A 4.4.1]
inline bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer) {
  return (cr0 & cpu::cr0::kPg) && (cr4 & cpu::cr4::kPae) && !(efer & cpu::efer::kLma);
}
inline bool pae_paging(const cpu::CpuState& state) { return pae_paging(state.cr0, state.cr4, state.efer); }
// The pointers that CR3 names; #GP(0) if one has reserved bits set (control.cpp).
Fallible<std::array<uint64_t, 4>> read_pdptes(Context& context, uint64_t cr3);
// The time stamp counter as RDTSC gives it.
uint64_t guest_tsc(Context& context);
uint32_t apic_id(Context& context);
cpu::CpuidResult static_cpuid(const Context& context, uint32_t leaf, uint32_t subleaf = 0);
// #NM where CR0.EM or CR0.TS forbids x87.
Fallible<void> require_x87(const Context& context);

// ---- instructions, one function per mnemonic or family ----
using SystemFunction = Fallible<Next> (*)(Context&, const Insn&);
#define RHEA_SYSTEM_FUNCTION(name) Fallible<Next> name(Context& context, const Insn& insn)
namespace op {
// far.cpp, far_return.cpp, fast_call.cpp
RHEA_SYSTEM_FUNCTION(jmp_far);
RHEA_SYSTEM_FUNCTION(call_far);
RHEA_SYSTEM_FUNCTION(ret_far);
RHEA_SYSTEM_FUNCTION(iret);
RHEA_SYSTEM_FUNCTION(syscall);
RHEA_SYSTEM_FUNCTION(sysret);
RHEA_SYSTEM_FUNCTION(sysenter);
RHEA_SYSTEM_FUNCTION(sysexit);
RHEA_SYSTEM_FUNCTION(int_n);
RHEA_SYSTEM_FUNCTION(int3);
RHEA_SYSTEM_FUNCTION(int1);
RHEA_SYSTEM_FUNCTION(into);
// control.cpp, misc.cpp
RHEA_SYSTEM_FUNCTION(mov_cr);
RHEA_SYSTEM_FUNCTION(mov_dr);
RHEA_SYSTEM_FUNCTION(clts);
RHEA_SYSTEM_FUNCTION(lmsw);
RHEA_SYSTEM_FUNCTION(smsw);
RHEA_SYSTEM_FUNCTION(xsetbv);
RHEA_SYSTEM_FUNCTION(xgetbv);
RHEA_SYSTEM_FUNCTION(invlpg);
RHEA_SYSTEM_FUNCTION(invpcid);
RHEA_SYSTEM_FUNCTION(wbinvd);
RHEA_SYSTEM_FUNCTION(hlt);
RHEA_SYSTEM_FUNCTION(rsm);  // smm.cpp
RHEA_SYSTEM_FUNCTION(cli);
RHEA_SYSTEM_FUNCTION(sti);
RHEA_SYSTEM_FUNCTION(clac);
RHEA_SYSTEM_FUNCTION(stac);
RHEA_SYSTEM_FUNCTION(undefined_opcode);
RHEA_SYSTEM_FUNCTION(swapgs);
RHEA_SYSTEM_FUNCTION(rdfsbase);
RHEA_SYSTEM_FUNCTION(rdgsbase);
RHEA_SYSTEM_FUNCTION(wrfsbase);
RHEA_SYSTEM_FUNCTION(wrgsbase);
RHEA_SYSTEM_FUNCTION(rdrand);
RHEA_SYSTEM_FUNCTION(rdtsc);
RHEA_SYSTEM_FUNCTION(rdtscp);
RHEA_SYSTEM_FUNCTION(rdpid);
RHEA_SYSTEM_FUNCTION(rdpmc);
RHEA_SYSTEM_FUNCTION(cpuid);
RHEA_SYSTEM_FUNCTION(movdir64b);
RHEA_SYSTEM_FUNCTION(cld);
RHEA_SYSTEM_FUNCTION(std_);
// hypercalls.cpp
RHEA_SYSTEM_FUNCTION(vmcall);
// descriptor_tables.cpp
RHEA_SYSTEM_FUNCTION(lgdt);
RHEA_SYSTEM_FUNCTION(lidt);
RHEA_SYSTEM_FUNCTION(sgdt);
RHEA_SYSTEM_FUNCTION(sidt);
RHEA_SYSTEM_FUNCTION(lldt);
RHEA_SYSTEM_FUNCTION(ltr);
RHEA_SYSTEM_FUNCTION(sldt);
RHEA_SYSTEM_FUNCTION(str);
RHEA_SYSTEM_FUNCTION(lar);
RHEA_SYSTEM_FUNCTION(lsl);
RHEA_SYSTEM_FUNCTION(verr);
RHEA_SYSTEM_FUNCTION(verw);
RHEA_SYSTEM_FUNCTION(arpl);
// msr.cpp
RHEA_SYSTEM_FUNCTION(rdmsr);
RHEA_SYSTEM_FUNCTION(wrmsr);
// io.cpp
RHEA_SYSTEM_FUNCTION(in);
RHEA_SYSTEM_FUNCTION(out);
RHEA_SYSTEM_FUNCTION(ins);
RHEA_SYSTEM_FUNCTION(outs);
// strings.cpp
RHEA_SYSTEM_FUNCTION(movs);
RHEA_SYSTEM_FUNCTION(stos);
RHEA_SYSTEM_FUNCTION(lods);
RHEA_SYSTEM_FUNCTION(cmps);
RHEA_SYSTEM_FUNCTION(scas);
// stack.cpp
RHEA_SYSTEM_FUNCTION(pushf);
RHEA_SYSTEM_FUNCTION(popf);
RHEA_SYSTEM_FUNCTION(pusha);
RHEA_SYSTEM_FUNCTION(popa);
RHEA_SYSTEM_FUNCTION(push);
RHEA_SYSTEM_FUNCTION(pop);
RHEA_SYSTEM_FUNCTION(enter);
RHEA_SYSTEM_FUNCTION(leave);
// legacy.cpp
RHEA_SYSTEM_FUNCTION(mov_segment);
RHEA_SYSTEM_FUNCTION(load_far_pointer);
RHEA_SYSTEM_FUNCTION(aaa);
RHEA_SYSTEM_FUNCTION(aas);
RHEA_SYSTEM_FUNCTION(aam);
RHEA_SYSTEM_FUNCTION(aad);
RHEA_SYSTEM_FUNCTION(daa);
RHEA_SYSTEM_FUNCTION(das);
RHEA_SYSTEM_FUNCTION(bound);
RHEA_SYSTEM_FUNCTION(xlat);
RHEA_SYSTEM_FUNCTION(salc);
// state_instructions.cpp, x87_environment.cpp
RHEA_SYSTEM_FUNCTION(fxsave);
RHEA_SYSTEM_FUNCTION(fxrstor);
RHEA_SYSTEM_FUNCTION(xsave);
RHEA_SYSTEM_FUNCTION(xsaveopt);
RHEA_SYSTEM_FUNCTION(xsavec);
RHEA_SYSTEM_FUNCTION(xsaves);
RHEA_SYSTEM_FUNCTION(xrstor);
RHEA_SYSTEM_FUNCTION(xrstors);
RHEA_SYSTEM_FUNCTION(fnstenv);
RHEA_SYSTEM_FUNCTION(fldenv);
RHEA_SYSTEM_FUNCTION(fnsave);
RHEA_SYSTEM_FUNCTION(frstor);
RHEA_SYSTEM_FUNCTION(fninit);
}  // namespace op

}  // namespace rhea::dbt
