// SPDX-License-Identifier: Apache-2.0
// CPU models: which CPUID leaves and features a guest sees.
#pragma once

#include <bitset>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "cpu/cpu_state.h"

namespace rhea::cpu {

struct CpuidResult {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  bool operator==(const CpuidResult&) const = default;
};

inline constexpr size_t kMaxFeatures = 128;

// What a model is made from: the answers of the processor that we run on. Tests bring their own.
struct HostCpu {
  std::function<CpuidResult(uint32_t leaf, uint32_t subleaf)> cpuid;
  uint64_t xcr0 = 0;  // what the host's operating system enabled; 0 without OSXSAVE

  static HostCpu native();
};

// The frequency of the local APIC timer's input and of the "crystal" in leaf 0x15: one tick per nanosecond.
inline constexpr uint64_t kBusFrequencyHz = 1'000'000'000;

// The CPUID answers of one virtual processor model; dynamic bits (OSXSAVE, APIC id, XSAVE size by XCR0)
// are filled in at execution: see execute_cpuid().
class CpuModel {
 public:
  struct Options {
    std::string name = "max";  // x86-64-v2, x86-64-v3, max
    uint64_t tsc_frequency_hz = 0;
    unsigned cpu_count = 1;
    // Names of features that the engine cannot give, whatever the host has: "max" does without them.
    std::vector<std::string> withheld = {};
    // Offers the AVX-512 of the host in "max". Off while not every instruction of it is translated: for tests.
    bool avx512 = false;
  };
  // A leaf and a sub-leaf that the model has an answer for.
  struct Leaf {
    uint32_t leaf = 0, subleaf = 0;
  };
  // Errors: kInvalidArgument for an unknown name (with the nearest right one), kUnsupported with the list
  // of features that the host lacks.
  static Result<CpuModel> create(const Options& options);
  static Result<CpuModel> create(const Options& options, const HostCpu& host);

  static std::vector<std::string_view> model_names();

  // The static answer for a leaf, following the out-of-range rules of the vendor. [SDM-2A CPUID]
  CpuidResult cpuid(uint32_t leaf, uint32_t subleaf) const;

  // All that cpuid() does not make up, in ascending order.
  std::vector<Leaf> leaves() const;
  // Does this leaf's answer depend on ECX?
  static bool has_subleaves(uint32_t leaf);

  // By the lower-case name used in isa/x86/cpuid_names; "" is always there, unknown names never.
  // Not for code that runs with the guest's vector registers live; cpuid() and execute_cpuid() are.
  bool has(std::string_view feature) const;
  std::vector<std::string_view> feature_names() const;  // everything offered, in table order
  uint64_t supported_xcr0() const { return supported_xcr0_; }
  unsigned physical_address_bits() const { return physical_address_bits_; }
  bool intel() const { return intel_; }
  const std::string& name() const { return name_; }

  // IA32_ARCH_CAPABILITIES (MSR 0x10a), and the bits of CR4 that may be set without #GP.
  uint64_t arch_capabilities() const { return arch_capabilities_; }
  uint64_t supported_cr4() const { return supported_cr4_; }

 private:
  friend class CpuModelBuilder;
  struct Entry {
    uint32_t leaf, subleaf;
    CpuidResult result;
  };
  const CpuidResult* find(uint32_t leaf, uint32_t subleaf) const;

  std::string name_;
  std::vector<Entry> entries_;  // sorted; what is not here is all zero
  std::bitset<kMaxFeatures> features_;
  uint64_t supported_xcr0_ = 1;
  uint64_t supported_cr4_ = 0;
  uint64_t arch_capabilities_ = 0;
  uint32_t max_basic_ = 0, max_extended_ = 0, max_hypervisor_ = 0;
  unsigned physical_address_bits_ = 40;
  bool intel_ = true;
};

// CPUID as the guest's processor number `apic_id` executes it in this state: the static answer plus OSXSAVE,
// APIC ids, the APIC bit and the XSAVE sizes. Pure; the vCPU's thread.
CpuidResult execute_cpuid(const CpuModel& model, const CpuState& state, uint32_t apic_id, bool apic_enabled,
                          uint32_t leaf, uint32_t subleaf);

}  // namespace rhea::cpu
