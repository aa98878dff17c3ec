// SPDX-License-Identifier: Apache-2.0
// Turns guest x86 code into blocks of host x86-64 code.
//
// Principle: the guest's arithmetic flags live in the host's flags register throughout a block, and nothing
// the translator adds of its own touches them: address translation, polling and linking use LEA, RORX, PEXT
// and JRCXZ only. So flags are exact at every instruction, faults included, with no liveness analysis; and
// every instruction that only touches registers, flags and memory operands is the guest's own, written again.
#pragma once

#include <cstdint>
#include <vector>

#include "dbt/runtime/block.h"
#include "isa/x86/rows.h"

namespace rhea::dbt {

class Runtime;

// How a row depends on the state of the FPU and vector units.
enum class FpuClass : uint8_t { kNone, kX87, kWait, kMmx, kSse, kAvx, kVexGpr };

class Translator {
 public:
  explicit Translator(Runtime& runtime);

  // Translates the block at `rip` (guest-physical `physical`) for mode word `mode` and registers it.
  // nullptr if its first instruction crosses into a page that cannot be fetched now.
  Block* translate(uint64_t rip, uint64_t physical, uint32_t mode);

  // Facts about each row for this CPU model.
  struct RowFacts {
    bool offered = true;  // the CPU model has the row's features
    FpuClass fpu = FpuClass::kNone;
  };
  const RowFacts& facts(isa::x86::RowId row) const { return facts_[static_cast<size_t>(row)]; }

 private:
  Runtime& runtime_;
  std::vector<RowFacts> facts_;
};

}  // namespace rhea::dbt
