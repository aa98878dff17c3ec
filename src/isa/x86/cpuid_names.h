// SPDX-License-Identifier: Apache-2.0
// Names of CPUID feature bits, as Linux and the SDM call them. Facts only: what a guest is offered is cpu/'s business.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace rhea::isa::x86 {

enum class CpuidOutput : uint8_t { kEax, kEbx, kEcx, kEdx };

struct CpuidFeature {
  std::string_view name;  // lower case: "sse4_2", "sha_ni"
  uint32_t leaf;
  uint32_t subleaf;
  CpuidOutput output;
  uint8_t bit;
};

// Ordered by leaf, subleaf, register and bit.
std::span<const CpuidFeature> cpuid_features();

// By name or alias ("lzcnt" for "abm", "pni" for "sse3"); nullptr if unknown. `feature` columns of rows may join names
// with '+': one call for each.
const CpuidFeature* find_cpuid_feature(std::string_view name);

// The name of a bit; "" if it has none here.
std::string_view cpuid_bit_name(uint32_t leaf, uint32_t subleaf, CpuidOutput output, unsigned bit);

}  // namespace rhea::isa::x86
