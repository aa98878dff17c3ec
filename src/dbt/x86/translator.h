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

namespace rhea::cpu {
class CpuModel;
}  // namespace rhea::cpu

namespace rhea::dbt {

class Runtime;

// How a row depends on the state of the FPU and vector units.
enum class FpuClass : uint8_t { kNone, kX87, kWait, kMmx, kSse, kAvx, kAvx512, kVexGpr };

// A block to be made: at `rip`, which lies at guest-physical `physical`, for mode word `mode`. `second_page`: where the
// page after it lies, for an instruction that crosses into it; kNoPage if that page cannot be fetched.
struct BlockRequest {
  uint64_t rip, physical, second_page;
  uint32_t mode;
};

// Shared by the vCPUs of a VM; translate() under the code space's lock.
class Translator {
 public:
  explicit Translator(const cpu::CpuModel& model);

  // Translates the block on behalf of `vcpu` and registers it. nullptr if its first instruction crosses into a page
  // that cannot be fetched, or must be prepared first (Runtime::need_page).
  Block* translate(Runtime& vcpu, const BlockRequest& request) const;

  // Facts about each row for this CPU model.
  struct RowFacts {
    bool offered = true;  // the CPU model has the row's features
    FpuClass fpu = FpuClass::kNone;
  };
  const RowFacts& facts(isa::x86::RowId row) const { return facts_[static_cast<size_t>(row)]; }

 private:
  std::vector<RowFacts> facts_;
};

}  // namespace rhea::dbt
