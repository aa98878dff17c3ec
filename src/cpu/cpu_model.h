// SPDX-License-Identifier: Apache-2.0
// CPU models: which CPUID leaves and features a guest sees.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace rhea::cpu {

struct CpuidResult {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  bool operator==(const CpuidResult&) const = default;
};

// The CPUID answers of one virtual processor model; dynamic bits (OSXSAVE, APIC id, XSAVE size by XCR0)
// are filled in by the engine at execution.
class CpuModel {
 public:
  struct Options {
    std::string name = "max";  // x86-64-v2, x86-64-v3, max
    uint64_t tsc_frequency_hz = 0;
    unsigned cpu_count = 1;
  };
  // Errors: kInvalidArgument for an unknown name (with the nearest right one), kUnsupported with the list
  // of features that the host lacks.
  static Result<CpuModel> create(const Options& options);

  // The static answer for a leaf, following the out-of-range rules of the vendor. [SDM-2A CPUID]
  CpuidResult cpuid(uint32_t leaf, uint32_t subleaf) const;

  bool has(std::string_view feature) const;   // by the lower-case name used in isa/x86/cpuid_names
  uint64_t supported_xcr0() const { return supported_xcr0_; }
  unsigned physical_address_bits() const { return physical_address_bits_; }
  bool intel() const { return intel_; }

 private:
  std::map<std::pair<uint32_t, uint32_t>, CpuidResult> leaves_;
  uint64_t supported_xcr0_ = 1;
  unsigned physical_address_bits_ = 40;
  bool intel_ = true;
};

}  // namespace rhea::cpu
