// SPDX-License-Identifier: Apache-2.0
// RDMSR and WRMSR. A register that is not here raises #GP(0), as does a value with reserved bits set.
//
// Spec: SDM-4 chapter 2; kvmclock in paravirtual.cpp. The local APIC answers for its own registers.
#include "dbt/system/internal.h"

#include "cpu/lapic.h"
#include "dbt/system/msr.h"

namespace rhea::dbt {

namespace {

namespace fer = cpu::efer;

enum Msr : uint32_t {
  kP5McAddr = 0x0,
  kP5McType = 0x1,
  kTsc = 0x10,
  kPlatformId = 0x17,
  kApicBase = 0x1b,
  kEblCrPoweron = 0x2a,
  kSmiCount = 0x34,
  kTscAdjust = 0x3b,
  kSpecCtrl = 0x48,
  kPredCmd = 0x49,
  kUcodeWrite = 0x79,
  kBiosSignId = 0x8b,
  kFsbFreq = 0xcd,
  kPlatformInfo = 0xce,
  kMtrrCap = 0xfe,
  kArchCapabilities = 0x10a,
  kFlushCmd = 0x10b,
  kMiscFeatures = 0x140,
  kSysenterCs = 0x174,
  kSysenterEsp = 0x175,
  kSysenterEip = 0x176,
  kMcgCap = 0x179,
  kMcgStatus = 0x17a,
  kPerfStatus = 0x198,
  kMiscEnable = 0x1a0,
  kDebugCtl = 0x1d9,
  kMtrrPhysBase0 = 0x200,
  kMtrrPhysMaskLast = 0x20f,
  kMtrrFix64k = 0x250,
  kMtrrFix16k0 = 0x258,
  kMtrrFix16k1 = 0x259,
  kMtrrFix4kFirst = 0x268,
  kMtrrFix4kLast = 0x26f,
  kPat = 0x277,
  kMtrrDefType = 0x2ff,
  kTscDeadline = 0x6e0,
  kX2apicFirst = 0x800,
  kX2apicLast = 0x8ff,
  kXss = 0xda0,
  kEfer = 0xc0000080,
  kStar = 0xc0000081,
  kLstar = 0xc0000082,
  kCstar = 0xc0000083,
  kSfmask = 0xc0000084,
  kFsBase = 0xc0000100,
  kGsBase = 0xc0000101,
  kKernelGsBase = 0xc0000102,
  kTscAux = 0xc0000103,
};

// CPUID bits that decide whether a register exists.
bool cpuid_bit(const Context& context, uint32_t leaf, uint32_t cpu::CpuidResult::* reg, unsigned bit,
               uint32_t subleaf = 0) {
  return (static_cpuid(context, leaf, subleaf).*reg >> bit) & 1;
}
constexpr auto kEax = &cpu::CpuidResult::eax;
constexpr auto kEbx = &cpu::CpuidResult::ebx;
constexpr auto kEcx = &cpu::CpuidResult::ecx;
constexpr auto kEdx = &cpu::CpuidResult::edx;

bool has_spec_ctrl(const Context& context) {
  return cpuid_bit(context, 7, kEdx, 26) || cpuid_bit(context, 7, kEdx, 27) || cpuid_bit(context, 7, kEdx, 31) ||
         cpuid_bit(context, 0x80000008, kEbx, 14);
}
bool has_ibpb(const Context& context) {
  return cpuid_bit(context, 7, kEdx, 26) || cpuid_bit(context, 0x80000008, kEbx, 12);
}
bool has_tsc_aux(const Context& context) {
  return cpuid_bit(context, 0x80000001, kEdx, 27) || cpuid_bit(context, 7, kEcx, 22);
}

uint64_t supported_xss(const Context& context) {
  cpu::CpuidResult result = static_cpuid(context, 0xd, 1);
  return result.eax & 8 ? (uint64_t{result.edx} << 32) | result.ecx : 0;
}

// ---- memory types ----

bool valid_mtrr_type(uint64_t type) { return type == 0 || type == 1 || (type >= 4 && type <= 6); }
bool valid_pat_type(uint64_t type) { return valid_mtrr_type(type) || type == 7; }

template <class Predicate>
bool all_bytes(uint64_t value, Predicate valid) {
  for (unsigned shift = 0; shift < 64; shift += 8)
    if (!valid((value >> shift) & 0xff)) return false;
  return true;
}

// The storage of a fixed- or variable-range MTRR; nullptr if `index` is none.
uint64_t* mtrr_slot(cpu::CpuState& state, uint32_t index) {
  if (index >= kMtrrPhysBase0 && index <= kMtrrPhysMaskLast) {
    unsigned pair = (index - kMtrrPhysBase0) / 2;
    return index & 1 ? &state.mtrr_mask[pair] : &state.mtrr_base[pair];
  }
  if (index == kMtrrFix64k) return &state.mtrr_fixed[0];
  if (index == kMtrrFix16k0 || index == kMtrrFix16k1) return &state.mtrr_fixed[1 + index - kMtrrFix16k0];
  if (index >= kMtrrFix4kFirst && index <= kMtrrFix4kLast) return &state.mtrr_fixed[3 + index - kMtrrFix4kFirst];
  return nullptr;
}

bool valid_mtrr(const Context& context, uint32_t index, uint64_t value) {
  if (index > kMtrrPhysMaskLast) return all_bytes(value, valid_mtrr_type);
  uint64_t reserved = ~uint64_t{0} << context.cpu_model->physical_address_bits();
  if (index & 1) return (value & (reserved | 0x7ff)) == 0;
  return (value & (reserved | 0xf00)) == 0 && valid_mtrr_type(value & 0xff);
}

// ---- time ----

void set_tsc_adjust(Context& context, uint64_t value) {
  context.state.tsc_adjust = value;
  with_vectors_saved(context, [&] {
    context.tsc_offset = context.clock->tsc_offset() + value;
    context.lapic->set_tsc_adjust(value);
  });
  update_system_time(context);
}

// ---- the two instructions ----

std::optional<uint64_t> read_lapic(Context& context, uint32_t index) {
  uint64_t value = 0;
  bool ok = false;
  with_vectors_saved(context, [&] { ok = context.lapic->read_msr(index, value); });
  if (!ok) return std::nullopt;
  return value;
}

bool write_lapic(Context& context, uint32_t index, uint64_t value) {
  bool ok = false;
  with_vectors_saved(context, [&] {
    ok = context.lapic->write_msr(index, value);
    if (index == kApicBase) refresh_local_apic(context);
  });
  return ok;
}

bool is_lapic_register(const Context& context, uint32_t index) {
  return index == kApicBase || (index >= kX2apicFirst && index <= kX2apicLast) ||
         (index == kTscDeadline && cpuid_bit(context, 1, kEcx, 24));
}

uint64_t platform_info(Context& context) {
  uint64_t ratio = 0;
  with_vectors_saved(context, [&] { ratio = context.clock->tsc_frequency_hz() / 100'000'000; });
  return (ratio & 0xff) << 8;
}

// ---- registers of one fixed value: fixed_msrs.inc ----

enum class Vendor : uint8_t { kIntel, kAmd };
enum class Writes : uint8_t { kIgnored, kRefused };
struct FixedMsr {
  uint32_t index;
  Vendor vendor;
  uint64_t value;
  Writes writes;
};
constexpr FixedMsr kFixedMsrs[] = {
#define FIXED_MSR(index, name, vendor, value, writes) {index, Vendor::vendor, value, Writes::writes},
#include "dbt/system/fixed_msrs.inc"
#undef FIXED_MSR
};

const FixedMsr* find_fixed(const Context& context, uint32_t index) {
  const Vendor vendor = context.cpu_model->intel() ? Vendor::kIntel : Vendor::kAmd;
  for (const FixedMsr& msr : kFixedMsrs)
    if (msr.index == index && msr.vendor == vendor) return &msr;
  return nullptr;
}

std::optional<uint64_t> read_fixed(const Context& context, uint32_t index) {
  const FixedMsr* msr = find_fixed(context, index);
  return msr ? std::optional(msr->value) : std::nullopt;
}

bool write_fixed(const Context& context, uint32_t index) {
  const FixedMsr* msr = find_fixed(context, index);
  return msr && msr->writes == Writes::kIgnored;
}

// Registers of one fixed value, or that exist only where CPUID says so.
std::optional<uint64_t> read_feature_msr(Context& context, uint32_t index) {
  const cpu::CpuState& state = context.state;
  switch (index) {
    case kP5McAddr:
    case kP5McType:
    case kPlatformId:
    case kEblCrPoweron:
    case kMiscFeatures:
    case kDebugCtl: return 0;
    case kFsbFreq: return 3;
    case kSmiCount: return context.cpu_model->intel() ? std::optional<uint64_t>(state.smi_count) : std::nullopt;
    case kPlatformInfo: return platform_info(context);
    case kPerfStatus: return 0;
    case kBiosSignId: return state.bios_sign_id ? state.bios_sign_id : uint64_t{1} << 32;
    case kMcgCap: return 0;  // no banks
    case kMcgStatus: return state.mcg_status;
    case kMtrrCap: return 0x500 | cpu::kMtrrVariableCount;  // WC, fixed ranges
    case kArchCapabilities:
      if (!cpuid_bit(context, 7, kEdx, 29)) return std::nullopt;
      return context.cpu_model->arch_capabilities();
    case kSpecCtrl:
      if (!has_spec_ctrl(context)) return std::nullopt;
      return state.spec_ctrl;
    case kTscAux:
      if (!has_tsc_aux(context)) return std::nullopt;
      return state.tsc_aux;
    case kXss:
      if (!cpuid_bit(context, 0xd, kEax, 3, 1)) return std::nullopt;
      return state.xss;
    default: return read_fixed(context, index);
  }
}

std::optional<uint64_t> read_msr(Context& context, uint32_t index) {
  cpu::CpuState& state = context.state;
  switch (index) {
    case kTsc: return guest_tsc(context);
    case kTscAdjust: return state.tsc_adjust;
    case kSysenterCs: return state.sysenter_cs;
    case kSysenterEsp: return state.sysenter_esp;
    case kSysenterEip: return state.sysenter_eip;
    case kMiscEnable: return state.misc_enable | 0x1800;  // no branch trace, no PEBS
    case kPat: return state.pat;
    case kMtrrDefType: return state.mtrr_def_type;
    case kEfer: return state.efer;
    case kStar: return state.star;
    case kLstar: return state.lstar;
    case kCstar: return state.cstar;
    case kSfmask: return state.sfmask;
    case kFsBase: return state.segment[cpu::kFs].base;
    case kGsBase: return state.segment[cpu::kGs].base;
    case kKernelGsBase: return state.kernel_gs_base;
    default: break;
  }
  if (is_lapic_register(context, index)) return read_lapic(context, index);
  if (const uint64_t* slot = mtrr_slot(state, index)) return *slot;
  if (is_paravirtual_msr(index)) return read_paravirtual_msr(context, index);
  return read_feature_msr(context, index);
}

bool write_efer(Context& context, uint64_t value) {
  cpu::CpuState& state = context.state;
  uint64_t allowed = fer::kSce | fer::kLme | fer::kLma;
  if (cpuid_bit(context, 0x80000001, kEdx, 20)) allowed |= fer::kNxe;
  if (value & ~allowed) return false;
  uint64_t changed = value ^ state.efer;
  if ((changed & fer::kLme) && (state.cr0 & cpu::cr0::kPg)) return false;
  state.efer = (value & ~fer::kLma) | (state.efer & fer::kLma);
  if (changed & fer::kNxe) flush_tlb(context, {.kind = FlushRequest::Kind::kAll});
  return true;
}

bool set_canonical(uint64_t& target, uint64_t value) {
  if (!is_canonical(value)) return false;
  target = value;
  return true;
}

bool set_masked(uint64_t& target, uint64_t value, uint64_t allowed) {
  if (value & ~allowed) return false;
  target = value;
  return true;
}

bool write_mtrr_def_type(cpu::CpuState& state, uint64_t value) {
  return valid_mtrr_type(value & 0xff) && set_masked(state.mtrr_def_type, value, 0xcff);
}

bool write_spec_ctrl(Context& context, uint64_t value) {
  if (!has_spec_ctrl(context)) return false;
  uint64_t allowed = 1;
  if (cpuid_bit(context, 7, kEdx, 27) || cpuid_bit(context, 0x80000008, kEbx, 15)) allowed |= 2;
  if (cpuid_bit(context, 7, kEdx, 31) || cpuid_bit(context, 0x80000008, kEbx, 24)) allowed |= 4;
  return set_masked(context.state.spec_ctrl, value, allowed);
}

// Registers whose writes have no effect, within what may be written.
bool write_feature_msr(Context& context, uint32_t index, uint64_t value) {
  cpu::CpuState& state = context.state;
  switch (index) {
    case kP5McAddr:
    case kP5McType:
    case kMiscFeatures: return value == 0;
    case kDebugCtl: return (value & ~uint64_t{3}) == 0;  // LBR and BTF are asked for by debuggers, and not offered
    case kBiosSignId:
    case kUcodeWrite: return true;
    case kEblCrPoweron: return value == 0;
    case kMcgStatus: return set_masked(state.mcg_status, value, 7);
    case kSpecCtrl: return write_spec_ctrl(context, value);
    case kPredCmd: return has_ibpb(context) && (value & ~uint64_t{1}) == 0;
    case kFlushCmd: return cpuid_bit(context, 7, kEdx, 28) && (value & ~uint64_t{1}) == 0;
    case kTscAux: return has_tsc_aux(context) && set_masked(state.tsc_aux, value, 0xffffffff);
    case kXss: return cpuid_bit(context, 0xd, kEax, 3, 1) && set_masked(state.xss, value, supported_xss(context));
    default: return write_fixed(context, index);
  }
}

bool write_msr(Context& context, uint32_t index, uint64_t value) {
  cpu::CpuState& state = context.state;
  switch (index) {
    case kTsc: set_tsc_adjust(context, state.tsc_adjust + (value - guest_tsc(context))); return true;
    case kTscAdjust: set_tsc_adjust(context, value); return true;
    case kSysenterCs: state.sysenter_cs = value & 0xffffffff; return true;
    case kSysenterEsp: return set_canonical(state.sysenter_esp, value);
    case kSysenterEip: return set_canonical(state.sysenter_eip, value);
    case kMiscEnable: state.misc_enable = value; return true;
    case kPat: return all_bytes(value, valid_pat_type) && set_masked(state.pat, value, ~uint64_t{0});
    case kMtrrDefType: return write_mtrr_def_type(state, value);
    case kEfer: return write_efer(context, value);
    case kStar: state.star = value; return true;
    case kLstar: return set_canonical(state.lstar, value);
    case kCstar: return set_canonical(state.cstar, value);
    case kSfmask: return set_masked(state.sfmask, value, 0xffffffff);
    case kFsBase: return set_canonical(state.segment[cpu::kFs].base, value);
    case kGsBase: return set_canonical(state.segment[cpu::kGs].base, value);
    case kKernelGsBase: return set_canonical(state.kernel_gs_base, value);
    default: break;
  }
  if (is_lapic_register(context, index)) return write_lapic(context, index, value);
  if (uint64_t* slot = mtrr_slot(state, index)) {
    if (!valid_mtrr(context, index, value)) return false;
    *slot = value;
    return true;
  }
  if (is_paravirtual_msr(index)) return write_paravirtual_msr(context, index, value);
  return write_feature_msr(context, index, value);
}

}  // namespace

namespace op {

RHEA_SYSTEM_FUNCTION(rdmsr) {
  GUEST_TRY(require_cpl0(context));
  std::optional<uint64_t> value = read_msr(context, static_cast<uint32_t>(read_register(context, cpu::kRcx, 4)));
  if (!value) return gp0();
  write_register(context, cpu::kRax, 4, *value);
  write_register(context, cpu::kRdx, 4, *value >> 32);
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(wrmsr) {
  GUEST_TRY(require_cpl0(context));
  auto index = static_cast<uint32_t>(read_register(context, cpu::kRcx, 4));
  uint64_t value = (read_register(context, cpu::kRdx, 4) << 32) | read_register(context, cpu::kRax, 4);
  if (!write_msr(context, index, value)) return gp0();
  return finish(context, insn, index == kEfer ? Next::kDispatch : Next::kContinue);
}

}  // namespace op

}  // namespace rhea::dbt
