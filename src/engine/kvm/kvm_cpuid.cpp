// SPDX-License-Identifier: Apache-2.0
#include "engine/kvm/kvm_cpuid.h"

#include <algorithm>
#include <cerrno>
#include <string_view>

#include "cpu/cpu_features.h"

namespace rhea::engine_kvm {

CpuidTable::CpuidTable(size_t entries) : storage_((sizeof(ListHeader) + entries * sizeof(kvm_cpuid_entry2) + 7) / 8) {
  header()->count = static_cast<uint32_t>(entries);
}

std::span<kvm_cpuid_entry2> CpuidTable::entries() {
  return {reinterpret_cast<kvm_cpuid_entry2*>(storage_.data() + 1), header()->count};
}

std::span<const kvm_cpuid_entry2> CpuidTable::entries() const {
  return const_cast<CpuidTable*>(this)->entries();  // NOLINT(cppcoreguidelines-pro-type-const-cast): the same view
}

CpuidTable cpuid_table(const cpu::CpuModel& model, const cpu::CpuState& state, uint32_t apic_id) {
  // KVM takes SYSCALL's bit as leave to use the instruction at all: 64-bit code's answer.
  cpu::CpuState asked = state;
  asked.efer |= cpu::efer::kLma;
  asked.segment[cpu::kCs].attributes |= 0x2000;
  const std::vector<cpu::CpuModel::Leaf> leaves = model.leaves();
  CpuidTable table(leaves.size());
  kvm_cpuid_entry2* entry = table.entries().data();
  for (const cpu::CpuModel::Leaf& leaf : leaves) {
    const cpu::CpuidResult result = cpu::execute_cpuid(model, asked, apic_id, true, leaf.leaf, leaf.subleaf);
    *entry++ = {.function = leaf.leaf,
                .index = leaf.subleaf,
                .flags = cpu::CpuModel::has_subleaves(leaf.leaf) ? uint32_t{KVM_CPUID_FLAG_SIGNIFCANT_INDEX} : 0,
                .eax = result.eax,
                .ebx = result.ebx,
                .ecx = result.ecx,
                .edx = result.edx};
  }
  return table;
}

Result<CpuidTable> supported_cpuid(const KvmDevice& device) {
  for (size_t entries = 128; entries <= 4096; entries *= 2) {
    CpuidTable table(entries);
    if (ioctl(device.fd(), kGetSupportedCpuid, table.header()) == 0) return table;
    if (errno != E2BIG) break;
  }
  return fail(Error::from_errno(errno, "asking KVM which CPUID bits it supports"));
}

namespace {

// Rhea's own local APIC gives them, or they describe the machine, not the processor: KVM's table says nothing of them.
constexpr std::string_view kOurs[] = {"x2apic", "tsc_deadline_timer", "hypervisor", "apic", "arat", "ht", "ss",
                                      "topoext"};
// Hypercalls and shared words that KVM serves only together with its own local APIC.
constexpr std::string_view kNeedsItsApic[] = {"kvm_pv_unhalt", "kvm_pv_send_ipi"};

bool contains(std::span<const std::string_view> names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

bool supports(const CpuidTable& supported, const cpu::Feature& feature) {
  return std::ranges::any_of(supported.entries(), [&](const kvm_cpuid_entry2& entry) {
    if (entry.function != feature.leaf || entry.index != feature.subleaf) return false;
    cpu::CpuidResult result{.eax = entry.eax, .ebx = entry.ebx, .ecx = entry.ecx, .edx = entry.edx};
    return (cpu::select(result, feature.reg) >> feature.bit & 1) != 0;
  });
}

}  // namespace

std::vector<std::string> withheld_features(const CpuidTable& supported) {
  std::vector<std::string> names;
  for (const cpu::Feature& feature : cpu::features()) {
    if (contains(kOurs, feature.name)) continue;
    if (contains(kNeedsItsApic, feature.name) || !supports(supported, feature)) names.emplace_back(feature.name);
  }
  return names;
}

}  // namespace rhea::engine_kvm
