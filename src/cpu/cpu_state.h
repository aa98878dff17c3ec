// SPDX-License-Identifier: Apache-2.0
// The architectural state of one x86-64 processor, engine-neutral.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace rhea::cpu {

enum Gpr : uint8_t { kRax, kRcx, kRdx, kRbx, kRsp, kRbp, kRsi, kRdi, kR8, kR9, kR10, kR11, kR12, kR13, kR14, kR15 };
enum SegmentIndex : uint8_t { kEs, kCs, kSs, kDs, kFs, kGs, kLdtr, kTr, kSegmentCount };

// A segment register with its hidden part. [SDM-3A 3.4.3]
// `attributes` holds descriptor bits 40-55 as they stand in the descriptor's upper dword >> 8:
// type 0-3, S 4, DPL 5-6, P 7, (limit 8-11 zero), AVL 12, L 13, D/B 14, G 15. `limit` is in bytes, G applied.
struct Segment {
  uint64_t base = 0;
  uint32_t limit = 0xffff;
  uint16_t selector = 0;
  uint16_t attributes = 0;

  bool present() const { return attributes & 0x80; }
  bool usable() const { return attributes & 0x80; }
  unsigned type() const { return attributes & 0xf; }
  bool is_system() const { return !(attributes & 0x10); }
  bool is_code() const { return (attributes & 0x18) == 0x18; }
  unsigned dpl() const { return (attributes >> 5) & 3; }
  bool long_mode() const { return attributes & 0x2000; }
  bool default_big() const { return attributes & 0x4000; }
  bool granular() const { return attributes & 0x8000; }
  bool operator==(const Segment&) const = default;
};

struct DescriptorTable {
  uint64_t base = 0;
  uint16_t limit = 0xffff;
  bool operator==(const DescriptorTable&) const = default;
};

namespace rflags {
inline constexpr uint64_t kCf = 1u << 0, kFixed1 = 1u << 1, kPf = 1u << 2, kAf = 1u << 4, kZf = 1u << 6, kSf = 1u << 7,
                          kTf = 1u << 8, kIf = 1u << 9, kDf = 1u << 10, kOf = 1u << 11, kIopl = 3u << 12,
                          kNt = 1u << 14, kRf = 1u << 16, kVm = 1u << 17, kAc = 1u << 18, kVif = 1u << 19,
                          kVip = 1u << 20, kId = 1u << 21;
inline constexpr uint64_t kArithmetic = kCf | kPf | kAf | kZf | kSf | kOf;
}  // namespace rflags

namespace cr0 {
inline constexpr uint64_t kPe = 1u << 0, kMp = 1u << 1, kEm = 1u << 2, kTs = 1u << 3, kEt = 1u << 4, kNe = 1u << 5,
                          kWp = 1u << 16, kAm = 1u << 18, kNw = 1u << 29, kCd = 1u << 30, kPg = 1u << 31;
}
namespace cr4 {
inline constexpr uint64_t kVme = 1u << 0, kPvi = 1u << 1, kTsd = 1u << 2, kDe = 1u << 3, kPse = 1u << 4, kPae = 1u << 5,
                          kMce = 1u << 6, kPge = 1u << 7, kPce = 1u << 8, kOsfxsr = 1u << 9, kOsxmmexcpt = 1u << 10,
                          kUmip = 1u << 11, kLa57 = 1u << 12, kFsgsbase = 1u << 16, kPcide = 1u << 17,
                          kOsxsave = 1u << 18, kSmep = 1u << 20, kSmap = 1u << 21;
}
namespace efer {
inline constexpr uint64_t kSce = 1u << 0, kLme = 1u << 8, kLma = 1u << 10, kNxe = 1u << 11;
}

inline constexpr size_t kMtrrVariableCount = 8;
inline constexpr size_t kXsaveAreaBytes = 4096;  // room for what later CPU models offer; sized by CPUID 0xD

// The XSAVE area is in the standard (not compacted) format. [SDM-1 13.4]
struct CpuState {
  std::array<uint64_t, 16> gpr{};
  uint64_t rip = 0;
  uint64_t rflags = rflags::kFixed1;
  std::array<Segment, kSegmentCount> segment{};
  DescriptorTable gdtr, idtr;
  uint64_t cr0 = 0, cr2 = 0, cr3 = 0, cr4 = 0, efer = 0, xcr0 = 1;
  std::array<uint64_t, 8> dr{};
  // PAE's page-directory pointers as CR3 was last loaded; all zero: not known, memory has them. [SDM-3A 4.4.1]
  std::array<uint64_t, 4> pdpte{};

  // MSRs
  uint64_t star = 0, lstar = 0, cstar = 0, sfmask = 0, kernel_gs_base = 0;
  uint64_t sysenter_cs = 0, sysenter_esp = 0, sysenter_eip = 0;
  uint64_t tsc_adjust = 0, tsc_aux = 0;
  uint64_t pat = 0x0007040600070406;
  uint64_t misc_enable = 1, spec_ctrl = 0, xss = 0, bios_sign_id = 0;
  uint64_t mtrr_def_type = 0;
  std::array<uint64_t, 11> mtrr_fixed{};
  std::array<uint64_t, kMtrrVariableCount> mtrr_base{}, mtrr_mask{};
  uint64_t mcg_status = 0;
  uint64_t kvm_system_time = 0, kvm_wall_clock = 0, kvm_async_pf = 0, kvm_steal_time = 0, kvm_pv_eoi = 0,
           kvm_poll_control = 1;

  // Interruptibility and activity.
  bool sti_shadow = false;     // interrupts held off for one instruction after STI
  bool mov_ss_shadow = false;  // ... and debug traps too after MOV SS / POP SS
  bool nmi_blocked = false;    // until IRET
  bool nmi_pending = false;
  bool halted = false;
  bool wait_for_sipi = false;  // after INIT, on every processor but the bootstrap one; nothing runs until a SIPI
  // An interrupt that has been acknowledged to its controller, and whose delivery has not begun: kInterruptTaken and
  // the vector. Only engines whose host takes interrupts ahead leave one behind.
  static constexpr uint16_t kInterruptTaken = 0x100;
  uint16_t interrupt_taken = 0;
  // System management mode. [SDM-3C 32]
  uint32_t smbase = 0x30000, smi_count = 0;
  bool in_smm = false;
  bool smi_pending = false;      // one SMI waits for the end of SMM
  bool smm_nmi_blocked = false;  // nmi_blocked as RSM restores it
  uint32_t debug_pending = 0;    // bits of DR6 that a #DB trap at the next instruction boundary will report

  alignas(64) std::array<std::byte, kXsaveAreaBytes> xsave{};

  unsigned cpl() const { return segment[kSs].dpl(); }
  bool long_mode_active() const { return efer & efer::kLma; }
  bool code64() const { return long_mode_active() && segment[kCs].long_mode(); }
  bool protected_mode() const { return cr0 & cr0::kPe; }
  bool virtual8086() const { return rflags & rflags::kVm; }
};

// What power-on or RESET leaves. [SDM-3A 10.1.1] `signature` is EAX of CPUID leaf 1 and comes to EDX; 6 for the family
// is what every model here has in it.
void reset_to_power_on(CpuState& state, uint32_t signature = 0x600);

// What an INIT leaves. [SDM-3A 10.1.1 table 10-1; APM-2 14.1.3 table 14-1] As at power-on, but for CR0.CD and CR0.NW,
// XCR0, the XSAVE area (x87, SSE, AVX) and the MSRs, which stay; EFER is cleared. The registers through which the
// guest had the hypervisor write into its memory are cleared too. wait_for_sipi is clear: the caller, who knows
// which processor this is, sets it on all but the bootstrap one.
void reset_by_init(CpuState& state, uint32_t signature);

// What a start-up IPI with this vector does to a processor that waits for one. [SDM-3A 9.4.3] Inline, because engines
// call it with the guest's vector registers in place.
inline void start_by_sipi(CpuState& state, uint8_t vector) {
  state.wait_for_sipi = state.halted = false;
  state.rip = 0;
  state.segment[kCs].selector = static_cast<uint16_t>(vector << 8);
  state.segment[kCs].base = uint64_t{vector} << 12;
}

}  // namespace rhea::cpu
