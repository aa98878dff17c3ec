// SPDX-License-Identifier: Apache-2.0
// Control registers, debug registers and XCR0. [SDM-3A 2.5, 2.6] [SDM-3B 17.2] [SDM-2B MOV]
#include "dbt/system/internal.h"

#include "cpu/lapic.h"

namespace rhea::dbt {

namespace {

namespace c0 = cpu::cr0;
namespace c4 = cpu::cr4;

constexpr uint64_t kCr0Writable =
    c0::kPe | c0::kMp | c0::kEm | c0::kTs | c0::kNe | c0::kWp | c0::kAm | c0::kNw | c0::kCd | c0::kPg;
constexpr uint64_t kCr3NoFlush = uint64_t{1} << 63;
constexpr uint64_t kDr6Fixed = 0xffff0ff0, kDr6Writable = 0xe00f;
constexpr uint64_t kDr7Fixed = 0x400, kDr7Writable = 0xffff23ff;

uint64_t physical_reserved(const Context& context) {
  return ~uint64_t{0} << context.cpu_model->physical_address_bits();
}

void flush_all(Context& context) { flush_tlb(context, {.kind = FlushRequest::Kind::kAll}); }

Fallible<Next> write_cr0(Context& context, uint64_t value) {
  cpu::CpuState& state = context.state;
  if (value >> 32) return gp0();
  value = (value & kCr0Writable) | c0::kEt;
  if ((value & c0::kPg) && !(value & c0::kPe)) return gp0();
  if ((value & c0::kNw) && !(value & c0::kCd)) return gp0();
  uint64_t changed = value ^ state.cr0;
  uint64_t efer = state.efer;
  if (changed & c0::kPg) {
    if (value & c0::kPg) {
      if (efer & cpu::efer::kLme) {
        if (!(state.cr4 & c4::kPae) || state.segment[cpu::kCs].long_mode()) return gp0();
        // A 16-bit TSS cannot come along. [SDM-3A 9.8.5]
        if (state.segment[cpu::kTr].usable() && state.segment[cpu::kTr].type() == kTss16Busy) return gp0();
        efer |= cpu::efer::kLma;
      } else if (pae_paging(value, state.cr4, efer)) {
        state.pdpte = GUEST_TRY(read_pdptes(context, state.cr3));
      }
    } else {
      if (state.code64() || (state.cr4 & c4::kPcide)) return gp0();
      efer &= ~cpu::efer::kLma;
    }
  } else if (pae_paging(value, state.cr4, efer) && (changed & (c0::kCd | c0::kNw))) {
    state.pdpte = GUEST_TRY(read_pdptes(context, state.cr3));
  }
  state.cr0 = value;
  state.efer = efer;
  if (changed & (c0::kPg | c0::kWp | c0::kPe)) flush_all(context);
  return Next::kDispatch;
}

Fallible<Next> write_cr3(Context& context, uint64_t value) {
  cpu::CpuState& state = context.state;
  bool pcid = state.cr4 & c4::kPcide;
  bool keep = pcid && (value & kCr3NoFlush);
  if (pcid) value &= ~kCr3NoFlush;
  if (state.long_mode_active()) {
    if (value & physical_reserved(context)) return gp0();
  } else {
    value &= 0xffffffff;
    if (pae_paging(state)) state.pdpte = GUEST_TRY(read_pdptes(context, value));
  }
  // The TLB holds one address space: what is kept is only what the same CR3 already filled.
  bool same = value == state.cr3;
  state.cr3 = value;
  if (!(keep && same)) flush_tlb(context, {.kind = FlushRequest::Kind::kNonGlobal});
  return Next::kDispatch;
}

Fallible<Next> write_cr4(Context& context, uint64_t value) {
  cpu::CpuState& state = context.state;
  if (value & ~context.cpu_model->supported_cr4()) return gp0();
  uint64_t changed = value ^ state.cr4;
  if (state.long_mode_active() && !(value & c4::kPae)) return gp0();
  if ((changed & value & c4::kPcide) && (!state.long_mode_active() || (state.cr3 & 0xfff))) return gp0();
  constexpr uint64_t kPaging = c4::kPae | c4::kPse | c4::kPge | c4::kSmep | c4::kSmap | c4::kPcide;
  if ((changed & (c4::kPae | c4::kPse | c4::kPge | c4::kSmep)) && pae_paging(state.cr0, value, state.efer))
    state.pdpte = GUEST_TRY(read_pdptes(context, state.cr3));
  state.cr4 = value;
  if (changed & kPaging) flush_all(context);
  return Next::kDispatch;
}

Fallible<Next> write_cr8(Context& context, uint64_t value) {
  if (value > 15) return gp0();
  with_vectors_saved(context, [&] { context.lapic->set_cr8(static_cast<uint8_t>(value)); });
  return Next::kDispatch;
}

Fallible<uint64_t> read_cr(Context& context, unsigned index) {
  switch (index) {
    case 0: return context.state.cr0;
    case 2: return context.state.cr2;
    case 3: return context.state.cr3;
    case 4: return context.state.cr4;
    case 8: {
      uint64_t value = 0;
      with_vectors_saved(context, [&] { value = context.lapic->cr8(); });
      return value;
    }
    default: return undefined();
  }
}

Fallible<Next> write_cr(Context& context, unsigned index, uint64_t value) {
  switch (index) {
    case 0: return write_cr0(context, value);
    case 2: context.state.cr2 = value; return Next::kContinue;
    case 3: return write_cr3(context, value);
    case 4: return write_cr4(context, value);
    case 8: return write_cr8(context, value);
    default: return undefined();
  }
}

// Combinations of components that XSETBV accepts. [SDM-1 13.3]
bool valid_xcr0(const Context& context, uint64_t value) {
  constexpr uint64_t kX87 = 1, kSse = 2, kAvx = 4, kMpx = 0x18, kAvx512 = 0xe0, kAmx = 0x60000;
  if (value & ~context.cpu_model->supported_xcr0() || !(value & kX87)) return false;
  if ((value & kAvx) && !(value & kSse)) return false;
  auto all_or_none = [&](uint64_t mask) { return (value & mask) == 0 || (value & mask) == mask; };
  if (!all_or_none(kMpx) || !all_or_none(kAvx512) || !all_or_none(kAmx)) return false;
  return !(value & kAvx512) || (value & kAvx);
}

}  // namespace

// They are loaded, and checked, with CR3 and when PAE paging is turned on or what it depends on changes.
Fallible<std::array<uint64_t, 4>> read_pdptes(Context& context, uint64_t cr3) {
  uint64_t reserved = physical_reserved(context) | 0x1e6;
  std::array<uint64_t, 4> entries{};
  for (unsigned i = 0; i < 4; ++i) {
    read_physical(context, ((cr3 & 0xffffffe0) + i * 8) & context.address_mask, &entries[i], 8);
    if ((entries[i] & 1) && (entries[i] & reserved)) return gp0();
  }
  return entries;
}

namespace op {

RHEA_SYSTEM_FUNCTION(mov_cr) {
  bool to_cr = insn.operands[0].kind == OperandKind::kControl;
  const Operand& control = insn.operands[to_cr ? 0 : 1];
  const Operand& gpr = insn.operands[to_cr ? 1 : 0];
  unsigned size = context.state.code64() ? 8 : 4;
  GUEST_TRY(require_cpl0(context));
  Next next = Next::kContinue;
  if (to_cr) {
    next = GUEST_TRY(write_cr(context, control.reg, read_register(context, gpr.reg, size)));
  } else {
    write_register(context, gpr.reg, size, GUEST_TRY(read_cr(context, control.reg)));
  }
  return finish(context, insn, next);
}

RHEA_SYSTEM_FUNCTION(mov_dr) {
  cpu::CpuState& state = context.state;
  bool to_dr = insn.operands[0].kind == OperandKind::kDebug;
  unsigned index = insn.operands[to_dr ? 0 : 1].reg;
  unsigned gpr = insn.operands[to_dr ? 1 : 0].reg;
  unsigned size = state.code64() ? 8 : 4;
  if (index > 7) return undefined();
  if (index == 4 || index == 5) {
    if (state.cr4 & c4::kDe) return undefined();
    index += 2;
  }
  GUEST_TRY(require_cpl0(context));
  if (state.dr[7] & kDr7GeneralDetect)
    return std::unexpected(Exception{.vector = kDebugException, .dr6_bits = kDr6GeneralDetect});
  if (!to_dr) {
    uint64_t value = state.dr[index];
    if (index == 6) value = kDr6Fixed | (value & kDr6Writable);
    if (index == 7) value = kDr7Fixed | (value & kDr7Writable);
    write_register(context, gpr, size, value);
    return finish(context, insn);
  }
  uint64_t value = read_register(context, gpr, size);
  if (index >= 6) {
    if (value >> 32) return gp0();
    value = index == 6 ? kDr6Fixed | (value & kDr6Writable) : kDr7Fixed | (value & kDr7Writable);
  }
  bool changed = value != state.dr[index];
  state.dr[index] = value;
  // Pages that a breakpoint now watches must leave the TLB and the jump caches; those it watched may come back as
  // they are used.
  if (changed && index != 6 && breakpoints_enabled(context)) flush_all(context);
  return finish(context, insn, Next::kDispatch);
}

RHEA_SYSTEM_FUNCTION(clts) {
  GUEST_TRY(require_cpl0(context));
  context.state.cr0 &= ~c0::kTs;
  return finish(context, insn, Next::kDispatch);
}

// Loads PE, MP, EM and TS; PE can be set but not cleared. [SDM-2A LMSW]
RHEA_SYSTEM_FUNCTION(lmsw) {
  GUEST_TRY(require_cpl0(context));
  uint64_t word = GUEST_TRY(read_operand(context, insn, insn.operands[0], 2));
  uint64_t keep_pe = context.state.cr0 & c0::kPe;
  uint64_t value = (context.state.cr0 & ~uint64_t{0xf}) | (word & 0xf) | keep_pe;
  Next next = GUEST_TRY(write_cr0(context, value));
  return finish(context, insn, next);
}

RHEA_SYSTEM_FUNCTION(xsetbv) {
  cpu::CpuState& state = context.state;
  if (!(state.cr4 & c4::kOsxsave)) return undefined();
  GUEST_TRY(require_cpl0(context));
  uint64_t value = (state.gpr[cpu::kRdx] << 32) | (state.gpr[cpu::kRax] & 0xffffffff);
  if ((state.gpr[cpu::kRcx] & 0xffffffff) != 0 || !valid_xcr0(context, value)) return gp0();
  state.xcr0 = value;
  follow_xcr0(context);
  return finish(context, insn, Next::kDispatch);
}

RHEA_SYSTEM_FUNCTION(xgetbv) {
  cpu::CpuState& state = context.state;
  if (!(state.cr4 & c4::kOsxsave)) return undefined();
  uint64_t value = state.xcr0;
  switch (state.gpr[cpu::kRcx] & 0xffffffff) {
    case 0: break;
    case 1:
      // XINUSE, where XGETBV with ECX = 1 exists. [SDM-1 13.2, 13.6]
      if (!(static_cpuid(context, 0xd, 1).eax & 4)) return gp0();
      save_vectors(context);
      value &= load_host(&state.xsave[512], 8);
      if (!state.code64()) value &= ~uint64_t{0x80};  // ZMM16-31 exist in 64-bit mode only
      break;
    default: return gp0();
  }
  write_register(context, cpu::kRax, 4, value);
  write_register(context, cpu::kRdx, 4, value >> 32);
  return finish(context, insn);
}

}  // namespace op

}  // namespace rhea::dbt
