// SPDX-License-Identifier: Apache-2.0
// Short system instructions: TLB and cache maintenance, IF, AC, HLT, bases, time stamps, CPUID.
#include "dbt/system/internal.h"
#include "dbt/system/virtual_interrupts.h"

#include "cpu/lapic.h"

namespace rhea::dbt {

namespace rf = cpu::rflags;

namespace {

// CLI and STI, where CR4.VME or CR4.PVI does not give them VIF.
Fallible<void> check_io_privilege(const Context& context) {
  const cpu::CpuState& state = context.state;
  if (!state.protected_mode()) return {};
  if (state.cpl() > ((state.rflags >> 12) & 3)) return gp0();
  return {};
}

Fallible<void> check_fsgsbase(const Context& context) {
  if (!context.state.code64() || !(context.state.cr4 & cpu::cr4::kFsgsbase)) return undefined();
  return {};
}

Fallible<Next> read_base(Context& context, const Insn& insn, unsigned segment) {
  GUEST_TRY(check_fsgsbase(context));
  write_register(context, insn.operands[0].reg, insn.rex_w ? 8 : 4, context.state.segment[segment].base);
  return finish(context, insn);
}

Fallible<Next> write_base(Context& context, const Insn& insn, unsigned segment) {
  GUEST_TRY(check_fsgsbase(context));
  uint64_t base = read_register(context, insn.operands[0].reg, insn.rex_w ? 8 : 4);
  if (!is_canonical(base)) return gp0();
  context.state.segment[segment].base = base;
  return finish(context, insn);
}

Fallible<void> check_tsc(const Context& context) {
  if ((context.state.cr4 & cpu::cr4::kTsd) && context.state.cpl() != 0) return gp0();
  return {};
}

void write_tsc_registers(Context& context) {
  uint64_t tsc = guest_tsc(context);
  write_register(context, cpu::kRax, 4, tsc);
  write_register(context, cpu::kRdx, 4, tsc >> 32);
}

}  // namespace

cpu::CpuidResult static_cpuid(const Context& context, uint32_t leaf, uint32_t subleaf) {
  return context.cpu_model->cpuid(leaf, subleaf);  // compiled for general registers only
}

uint64_t guest_tsc(Context& context) {
  uint64_t tsc = 0;
  with_vectors_saved(context, [&] { tsc = context.clock->tsc(); });
  return tsc + context.state.tsc_adjust;
}

uint32_t apic_id(Context& context) {
  uint64_t id = 0;
  with_vectors_saved(context, [&] {
    constexpr uint64_t kX2apicEnabled = 1 << 10;
    constexpr uint32_t kX2apicIdMsr = 0x802;
    if (!(context.lapic->apic_base() & kX2apicEnabled)) {
      id = (context.lapic->io_read(0x20, 4) >> 24) & 0xff;
    } else if (!context.lapic->read_msr(kX2apicIdMsr, id)) {
      id = 0;
    }
  });
  return static_cast<uint32_t>(id);
}

namespace op {

RHEA_SYSTEM_FUNCTION(invlpg) {
  GUEST_TRY(require_cpl0(context));
  const cpu::Segment& segment = context.state.segment[insn.mem.segment];
  uint64_t offset = effective_offset(context, insn);
  uint64_t linear = offset + segment.base;
  if (context.state.code64()) {
    bool based = insn.mem.segment == cpu::kFs || insn.mem.segment == cpu::kGs;
    linear = offset + (based ? segment.base : 0);
    if (!is_canonical(linear)) return finish(context, insn);  // does nothing [SDM-2A INVLPG]
  } else {
    linear &= 0xffffffff;
  }
  flush_tlb(context, {.kind = FlushRequest::Kind::kPage, .linear = linear});
  return finish(context, insn, Next::kDispatch);
}

RHEA_SYSTEM_FUNCTION(invpcid) {
  GUEST_TRY(require_cpl0(context));
  cpu::CpuState& state = context.state;
  uint64_t type = read_register(context, insn.operands[0].reg, state.code64() ? 8 : 4);
  uint64_t pointer = GUEST_TRY(operand_address(context, insn, 16, Access::kRead));
  uint64_t descriptor[2];
  GUEST_TRY(read_linear_bytes(context, pointer, descriptor, 16, current_mmu(context)));
  uint64_t pcid = descriptor[0], linear = descriptor[1];
  bool pcid_enabled = state.cr4 & cpu::cr4::kPcide;
  if (type > 3 || (pcid >> 12)) return gp0();
  if (type <= 1 && pcid != 0 && !pcid_enabled) return gp0();
  if (type == 0 && !is_canonical(linear)) return gp0();
  // The TLB holds entries of the present address space and global ones, no others.
  bool current = !pcid_enabled || pcid == (state.cr3 & 0xfff);
  switch (type) {
    case 0:
      if (current) flush_tlb(context, {.kind = FlushRequest::Kind::kPage, .linear = linear});
      break;
    case 1:
      if (current) flush_tlb(context, {.kind = FlushRequest::Kind::kNonGlobal});
      break;
    case 2: flush_tlb(context, {.kind = FlushRequest::Kind::kAll}); break;
    default: flush_tlb(context, {.kind = FlushRequest::Kind::kNonGlobal}); break;
  }
  return finish(context, insn, Next::kDispatch);
}

// Caches are coherent with everything the guest can see; INVD too may write them back.
RHEA_SYSTEM_FUNCTION(wbinvd) {
  GUEST_TRY(require_cpl0(context));
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(hlt) {
  GUEST_TRY(require_cpl0(context));
  return finish(context, insn, Next::kHalt);
}

RHEA_SYSTEM_FUNCTION(cli) {
  if (virtual_interrupt_flag(context)) {
    context.state.rflags &= ~rf::kVif;
    return finish(context, insn);
  }
  GUEST_TRY(check_io_privilege(context));
  context.interrupt_flag = 0;
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(sti) {
  if (virtual_interrupt_flag(context)) {
    if (context.state.rflags & rf::kVip) return gp0();
    context.state.rflags |= rf::kVif;
    return finish(context, insn);
  }
  GUEST_TRY(check_io_privilege(context));
  if (context.interrupt_flag) return finish(context, insn);
  context.interrupt_flag = 1;
  context.state.sti_shadow = true;
  return finish(context, insn, Next::kInterruptShadow);
}

RHEA_SYSTEM_FUNCTION(clac) {
  if (context.state.cpl() != 0 || context.state.virtual8086()) return undefined();
  context.state.rflags &= ~rf::kAc;
  return finish(context, insn, Next::kDispatch);
}

RHEA_SYSTEM_FUNCTION(stac) {
  if (context.state.cpl() != 0 || context.state.virtual8086()) return undefined();
  context.state.rflags |= rf::kAc;
  return finish(context, insn, Next::kDispatch);
}

RHEA_SYSTEM_FUNCTION(undefined_opcode) {
  (void)context;
  (void)insn;
  return undefined();
}

RHEA_SYSTEM_FUNCTION(swapgs) {
  cpu::CpuState& state = context.state;
  if (!state.code64()) return undefined();
  GUEST_TRY(require_cpl0(context));
  uint64_t base = state.segment[cpu::kGs].base;
  state.segment[cpu::kGs].base = state.kernel_gs_base;
  state.kernel_gs_base = base;
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(rdfsbase) { return read_base(context, insn, cpu::kFs); }
RHEA_SYSTEM_FUNCTION(rdgsbase) { return read_base(context, insn, cpu::kGs); }
RHEA_SYSTEM_FUNCTION(wrfsbase) { return write_base(context, insn, cpu::kFs); }
RHEA_SYSTEM_FUNCTION(wrgsbase) { return write_base(context, insn, cpu::kGs); }

// Under the deterministic clock only: a mix of the instruction count, the same in every run. Not secret.
RHEA_SYSTEM_FUNCTION(rdrand) {
  uint64_t value = 0;
  with_vectors_saved(context, [&] { value = context.clock->tsc(); });
  value += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  write_register(context, insn.operands[0].reg, insn.operand_size, value ^ (value >> 31));
  set_arithmetic_flags(context, cpu::rflags::kCf);
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(rdtsc) {
  GUEST_TRY(check_tsc(context));
  write_tsc_registers(context);
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(rdtscp) {
  GUEST_TRY(check_tsc(context));
  write_tsc_registers(context);
  write_register(context, cpu::kRcx, 4, context.state.tsc_aux);
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(rdpid) {
  write_register(context, insn.operands[0].reg, context.state.code64() ? 8 : 4, context.state.tsc_aux);
  return finish(context, insn);
}

// There are no performance counters: whatever ECX names does not exist.
RHEA_SYSTEM_FUNCTION(rdpmc) {
  (void)context;
  (void)insn;
  return gp0();
}

RHEA_SYSTEM_FUNCTION(cpuid) {
  auto leaf = static_cast<uint32_t>(read_register(context, cpu::kRax, 4));
  auto subleaf = static_cast<uint32_t>(read_register(context, cpu::kRcx, 4));
  uint32_t id = apic_id(context);
  bool apic_enabled = false;
  with_vectors_saved(context, [&] { apic_enabled = context.lapic->apic_base() & (1 << 11); });
  cpu::CpuidResult result = cpu::execute_cpuid(*context.cpu_model, context.state, id, apic_enabled, leaf, subleaf);
  write_register(context, cpu::kRax, 4, result.eax);
  write_register(context, cpu::kRbx, 4, result.ebx);
  write_register(context, cpu::kRcx, 4, result.ecx);
  write_register(context, cpu::kRdx, 4, result.edx);
  return finish(context, insn);
}

// Reads 64 bytes and stores them at ES:[register] as a whole. [SDM-2B MOVDIR64B]
RHEA_SYSTEM_FUNCTION(movdir64b) {
  constexpr unsigned kBytes = 64;
  alignas(kBytes) std::byte data[kBytes];
  const MmuIndex mmu = current_mmu(context);
  const uint64_t offset = read_register(context, insn.operands[0].reg, insn.mem.address_size);
  const uint64_t source = GUEST_TRY(operand_address(context, insn, kBytes, Access::kRead));
  GUEST_TRY(read_linear_bytes(context, source, data, kBytes, mmu));
  const uint64_t target = GUEST_TRY(linear_address(context, cpu::kEs, offset, kBytes, Access::kWrite));
  if (target & (kBytes - 1)) return gp0();
  if (void* host = tlb_lookup(context, target, kBytes, Access::kWrite, mmu)) {
    // In one piece, as other processors may look. SAFETY: all 64 bytes are the page's.
    asm volatile("movdir64b %1, %0" : : "r"(host), "m"(data) : "memory");
  } else {
    GUEST_TRY(write_linear_bytes(context, target, data, kBytes, mmu));
  }
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(cld) {
  context.direction_flag = 0;
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(std_) {
  context.direction_flag = 1;
  return finish(context, insn);
}

}  // namespace op

}  // namespace rhea::dbt
