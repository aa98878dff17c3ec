// SPDX-License-Identifier: Apache-2.0
// Looks at the instruction that faulted natively.
#include "tests/isa/tolerance.h"

#include <algorithm>
#include <optional>
#include <span>
#include <string_view>

#include "isa/x86/insn.h"
#include "isa/x86/rows.h"

namespace rhea::tests::isa {

using rhea::isa::x86::CpuMode;
using rhea::isa::x86::DecodeStatus;
using rhea::isa::x86::Insn;
using rhea::isa::x86::OperandKind;
using rhea::isa::x86::RowInfo;
using rhea::isa::x86::Translation;

namespace {

std::optional<Insn> instruction_at(const Program& program, const Input& input, uint64_t rip) {
  const std::span<const uint8_t> bytes = code_at(program, input, rip);
  Insn insn;
  if (decode(bytes, program.mode32 ? CpuMode::k32 : CpuMode::k64, insn) != DecodeStatus::kOk) return std::nullopt;
  return insn;
}

bool is_mmx(const Insn& insn) {
  return std::any_of(insn.operands.begin(), insn.operands.begin() + insn.operand_count,
                     [](const auto& operand) { return operand.kind == OperandKind::kMmx; });
}

// Does a MASKMOVQ or MASKMOVDQU select any byte? If none, faults are the processor's choice. [SDM-2B MASKMOVDQU]
bool selects_bytes(const Insn& insn, const MachineState& state) {
  const auto& mask = insn.operands[1];
  const unsigned top = state.xsave_field<uint16_t>(kXsaveFsw) >> 11 & 7;
  const bool mmx = mask.kind == OperandKind::kMmx;
  const size_t at = mmx ? kXsaveX87 + 16 * ((mask.reg - top) & 7) : kXsaveXmm + size_t{16} * mask.reg;
  for (size_t i = 0; i < (mmx ? 8u : 16u); ++i)
    if ((state.xsave[at + i] & std::byte{0x80}) != std::byte{0}) return true;
  return false;
}

// Where a MASKMOVQ or MASKMOVDQU stores, as far as its page goes: segments other than FS and GS have a base of zero.
uint64_t masked_bytes_address(const Insn& insn, const MachineState& state) {
  constexpr uint8_t kFs = 4, kGs = 5;
  return state.gpr[7] + (insn.mem.segment == kFs ? state.fs_base : insn.mem.segment == kGs ? state.gs_base : 0);
}

// #SS, #GP, #PF: an area may begin in a bad page and end beyond the canonical range.
bool is_access_fault(const Output& output) { return output.outcome.vector >= 12 && output.outcome.vector <= 14; }

void tolerate_fault(const Insn& insn, const Output& native, const Output& actual, Tolerance& tolerance) {
  const RowInfo& row = rhea::isa::x86::row_info(insn);
  // Processors touch the 512 and more bytes of FXSAVE and kin in an order of their own [SDM-1 13.7], and name any byte
  // of a masked store; what was stored or loaded before the fault may stay. What only loads leaves memory alone, and so
  // does a call that faults.
  const bool area = row.translation == Translation::kFpuEnv;
  const bool ordered = row.translation == Translation::kPusha || row.translation == Translation::kCallInd;
  const bool masked_store = insn.evex_mask && insn.operands[0].kind == OperandKind::kMemory;
  tolerance.any_fault_address =
      area || ordered || masked_store || (row.translation == Translation::kMaskMem && !insn.mem.vsib);
  const bool loads = row.mnemonic.find("rstor") != std::string_view::npos || row.mnemonic == "fldenv";
  tolerance.partial_stores =
      (area && !loads) || row.translation == Translation::kPusha || row.name == "FSTP_Mt" || row.name == "FBSTP";
  tolerance.not_judged =
      area && native.outcome.vector != actual.outcome.vector && is_access_fault(native) && is_access_fault(actual);
  tolerance.partial_loads = row.translation == Translation::kPopa;
  tolerance.x87_stack = is_mmx(insn);
  if (row.translation == Translation::kMaskMem && row.register_only &&
      (!selects_bytes(insn, native.state) || masked_bytes_address(insn, native.state) % kPage > kPage - 16))
    tolerance.not_judged = true;
  if (row.mnemonic == "vcvtps2ph") {
    tolerance.mxcsr = true;
    tolerance.not_judged = native.outcome.vector == 19 && actual.outcome.vector != 19;
  }
}

}  // namespace

Tolerance tolerance_for(const TestCase& test_case, const Input& input, const Output& native, const Output& actual,
                        bool ignore_x87_pointers) {
  Tolerance tolerance;
  tolerance.x87_pointers = ignore_x87_pointers;
  const RowInfo& info = rhea::isa::x86::row_info(test_case.row);
  if (!test_case.sequence && info.translation == Translation::kSystem) tolerance.flags = info.flags_undefined;
  constexpr uint8_t kBreakpoint = 3;
  if (native.outcome.vector == kBreakpoint) return tolerance;
  if (const auto insn = instruction_at(test_case.program, input, native.state.rip))
    tolerate_fault(*insn, native, actual, tolerance);
  return tolerance;
}

}  // namespace rhea::tests::isa
