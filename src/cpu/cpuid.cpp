// SPDX-License-Identifier: Apache-2.0
// The CPUID instruction, from a finished model and the processor's state.
//
// Compiled for general registers only and free of library calls: an engine may call it while the guest's
// vector registers are live in the host's.
#include "cpu/cpu_model.h"

namespace rhea::cpu {

namespace {

constexpr uint32_t kHypervisorBase = 0x40000000;
constexpr uint32_t kHypervisorEnd = 0x40000100;
constexpr uint32_t kExtendedBase = 0x80000000;
constexpr uint32_t kLegacyXsaveBytes = 576;  // legacy region and header [SDM-1 13.4]

bool is_topology(uint32_t leaf) { return leaf == 0xb || leaf == 0x1f; }

// Bytes of an XSAVE area that holds the components of `mask`. Sub-leaf i of leaf 0xD gives size (EAX) and
// standard-format offset (EBX). [SDM-1 13.4.3]
uint32_t xsave_bytes(const CpuModel& model, uint64_t mask, bool compacted) {
  uint32_t end = kLegacyXsaveBytes;
  for (uint32_t i = 2; i < 63; ++i) {
    if (!((mask >> i) & 1)) continue;
    CpuidResult component = model.cpuid(0xd, i);
    if (compacted) {
      if (component.ecx & 2) end = (end + 63) & ~63u;
      end += component.eax;
    } else if (component.ebx + component.eax > end) {
      end = component.ebx + component.eax;
    }
  }
  return end;
}

}  // namespace

bool CpuModel::has_subleaves(uint32_t leaf) {
  return leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == 0x1f || leaf == 0x8000001d;
}

const CpuidResult* CpuModel::find(uint32_t leaf, uint32_t subleaf) const {
  size_t low = 0, high = entries_.size();
  while (low < high) {
    size_t middle = (low + high) / 2;
    const Entry& entry = entries_[middle];
    if (entry.leaf == leaf && entry.subleaf == subleaf) return &entry.result;
    if (entry.leaf < leaf || (entry.leaf == leaf && entry.subleaf < subleaf))
      low = middle + 1;
    else
      high = middle;
  }
  return nullptr;
}

CpuidResult CpuModel::cpuid(uint32_t leaf, uint32_t subleaf) const {
  bool hypervisor = leaf >= kHypervisorBase && leaf < kHypervisorEnd;
  bool in_range = leaf >= kExtendedBase ? leaf <= max_extended_
                  : hypervisor          ? leaf <= max_hypervisor_
                                        : leaf <= max_basic_;
  if (!in_range) {
    // Intel answers with the highest basic leaf, AMD with zeros. [SDM-2A CPUID] [APM-3 E.2]
    if (!intel_ || hypervisor) return {};
    leaf = max_basic_;
  }
  const CpuidResult* result = find(leaf, has_subleaves(leaf) ? subleaf : 0);
  if (result != nullptr) return *result;
  // Past the last level the topology leaves echo the sub-leaf number. [SDM-2A CPUID leaf 0BH]
  if (is_topology(leaf)) return {.ecx = subleaf & 0xff};
  return {};
}

CpuidResult execute_cpuid(const CpuModel& model, const CpuState& state, uint32_t apic_id, bool apic_enabled,
                          uint32_t leaf, uint32_t subleaf) {
  constexpr uint32_t kApicBit = 1u << 9, kOsxsaveBit = 1u << 27, kSyscallBit = 1u << 11;
  CpuidResult result = model.cpuid(leaf, subleaf);
  switch (leaf) {
    case 1:
      result.ebx = (result.ebx & 0x00ffffff) | (apic_id << 24);
      if (state.cr4 & cr4::kOsxsave) result.ecx |= kOsxsaveBit;
      if (!apic_enabled) result.edx &= ~kApicBit;
      break;
    case 0xd:
      if (result == CpuidResult{}) break;
      if (subleaf == 0) result.ebx = xsave_bytes(model, state.xcr0, false);
      // XCR0 | IA32_XSS in the compacted format, where XSAVEC or XSAVES exist. [SDM-2A CPUID leaf 0DH]
      if (subleaf == 1 && (result.eax & 0b1010)) result.ebx = xsave_bytes(model, state.xcr0 | state.xss, true);
      break;
    case 0xb:
    case 0x1f: result.edx = apic_id; break;
    case 0x80000001:
      if (!model.intel() && !apic_enabled) result.edx &= ~kApicBit;
      // Intel's SYSCALL exists in 64-bit mode only, and says so only there. [SDM-2A CPUID 80000001H]
      if (model.intel() && !state.code64()) result.edx &= ~kSyscallBit;
      break;
    case 0x8000001e:
      if (model.intel()) break;
      result.eax = apic_id;
      result.ebx = (result.ebx & ~0xffu) | (apic_id & 0xff);
      break;
    default: break;
  }
  return result;
}

}  // namespace rhea::cpu
