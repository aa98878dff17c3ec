// SPDX-License-Identifier: Apache-2.0
// Every CPUID feature bit that Rhea may ever offer, who provides it and which models contain it.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "cpu/cpu_model.h"

namespace rhea::cpu {

enum class CpuidRegister : uint8_t { kEax, kEbx, kEcx, kEdx };

// Who makes the feature true.
enum class Provider : uint8_t {
  kHost,    // instructions that run as the host's own: offered only where the host has it
  kEngine,  // paging modes, MSRs and instructions that Rhea executes itself: needs nothing of the host
};

// The smallest model with the feature; larger ones contain it too.
enum class Level : uint8_t {
  kV2,       // x86-64-v2 and up
  kV3,       // x86-64-v3 and up
  kMax,      // only max
  kAvx512,   // only max, and only if CpuModel::Options::avx512 asks for it
  kInherit,  // describes how copied instructions behave: every model has it exactly if the host does
  kSmp,      // only with more than one processor
  kAmd,      // only where the guest's vendor is AMD
};

struct Feature {
  std::string_view name;  // lower case, as in isa/x86/cpuid_names
  uint32_t leaf;
  uint32_t subleaf;
  CpuidRegister reg;
  uint8_t bit;
  Provider provider;
  Level level;
};

// All of them. What is not in this table is never advertised.
std::span<const Feature> features();

// The index into features(), also by an alias ("lzcnt" for "abm"); nullopt if there is no such feature.
std::optional<size_t> find_feature(std::string_view name);

// The register of `result` that `reg` names.
uint32_t& select(CpuidResult& result, CpuidRegister reg);

}  // namespace rhea::cpu
