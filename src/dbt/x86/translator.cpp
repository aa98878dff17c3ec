// SPDX-License-Identifier: Apache-2.0
// What the translator knows of every row before it sees an instruction.
#include "dbt/x86/translator.h"

#include <string_view>

#include "cpu/cpu_model.h"
#include "dbt/x86/block_builder.h"

namespace rhea::dbt {

using isa::x86::RowInfo;
using How = isa::x86::Translation;

namespace {

bool has_letter(std::string_view operands, std::string_view letters) {
  // Operand columns are "access letter size": the letter is the first capital of each.
  bool at_start = true;
  for (const char c : operands) {
    if (c == ',')
      at_start = true;
    else if (at_start && c >= 'A' && c <= 'Z') {
      if (letters.find(c) != std::string_view::npos) return true;
      at_start = false;
    }
  }
  return false;
}

FpuClass fpu_class(const RowInfo& row) {
  if (row.name == "WAIT") return FpuClass::kWait;
  if (row.translation == How::kFpuEnv)
    return row.map == 0 ? FpuClass::kX87 : FpuClass::kNone;  // the system function checks
  if (row.map == 0 && row.opcode >= 0xd8 && row.opcode <= 0xdf && row.translation != How::kSystem)
    return FpuClass::kX87;
  const bool vex = row.encoding.find("VEX.") != std::string_view::npos;
  const bool vector =
      has_letter(row.operands, "VWUHLK") || row.feature == "avx" || row.name.find("MXCSR") != std::string_view::npos;
  if (row.encoding.find("EVEX.") != std::string_view::npos || row.feature.starts_with("avx512"))
    return FpuClass::kAvx512;
  if (vex) return vector ? FpuClass::kAvx : FpuClass::kVexGpr;
  if (has_letter(row.operands, "PQN") || row.feature == "mmx") return FpuClass::kMmx;
  return vector ? FpuClass::kSse : FpuClass::kNone;
}

bool offered(const cpu::CpuModel& model, std::string_view features) {
  while (!features.empty()) {
    const size_t plus = features.find('+');
    if (!model.has(features.substr(0, plus))) return false;
    if (plus == std::string_view::npos) break;
    features.remove_prefix(plus + 1);
  }
  return true;
}

}  // namespace

Translator::Translator(const cpu::CpuModel& model) {
  facts_.resize(isa::x86::row_count());
  for (unsigned i = 0; i < isa::x86::row_count(); ++i) {
    const RowInfo& row = isa::x86::row_info(static_cast<isa::x86::RowId>(i));
    facts_[i].offered = offered(model, row.feature);
    facts_[i].fpu = fpu_class(row);
  }
}

Block* Translator::translate(Runtime& vcpu, const BlockRequest& request) const {
  return BlockBuilder(vcpu, *this, request).build();
}

}  // namespace rhea::dbt
