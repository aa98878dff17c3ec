// SPDX-License-Identifier: Apache-2.0
// CPUID on KVM: the model's answers as KVM's table, and what of the models KVM cannot give.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "cpu/cpu_model.h"
#include "cpu/cpu_state.h"
#include "engine/kvm/kvm_device.h"
#include "engine/kvm/kvm_layout.h"

namespace rhea::engine_kvm {

// A list of entries behind its header, in one piece of memory.
class CpuidTable {
 public:
  explicit CpuidTable(size_t entries);
  ListHeader* header() { return reinterpret_cast<ListHeader*>(storage_.data()); }
  std::span<kvm_cpuid_entry2> entries();
  std::span<const kvm_cpuid_entry2> entries() const;

 private:
  std::vector<uint64_t> storage_;
};

// What the vCPU with this APIC ID answers. KVM itself follows what changes while the guest runs (OSXSAVE, sizes).
CpuidTable cpuid_table(const cpu::CpuModel& model, const cpu::CpuState& state, uint32_t apic_id);

// What KVM and the host can give. Errors: as ioctl().
Result<CpuidTable> supported_cpuid(const KvmDevice& device);

// The features of Rhea's models that a guest cannot have with this table: KVM lacks them, or they need KVM's own
// local APIC, which is not used.
std::vector<std::string> withheld_features(const CpuidTable& supported);

}  // namespace rhea::engine_kvm
