// SPDX-License-Identifier: Apache-2.0
// Decoder and disassembler on arbitrary bytes in every mode: what the guest's memory may hold.
#include <cstdint>
#include <span>

#include "base/check.h"
#include "isa/x86/disasm.h"
#include "isa/x86/rows.h"

using namespace rhea::isa::x86;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const uint8_t> bytes(data, size);
  for (CpuMode mode : {CpuMode::k16, CpuMode::k32, CpuMode::k64}) {
    Insn insn;
    const DecodeStatus status = decode(bytes, mode, insn);
    RHEA_CHECK(status != DecodeStatus::kNeedMore || size < 15);
    RHEA_CHECK(status != DecodeStatus::kTooLong || size >= 15);
    if (status != DecodeStatus::kOk) continue;
    RHEA_CHECK(insn.length >= 1 && insn.length <= 15 && insn.length <= size);
    RHEA_CHECK(static_cast<unsigned>(insn.row) < row_count());
    RHEA_CHECK(!disassemble(insn, 0x1000).empty());
    // The length depends on the instruction's own bytes only, and each of them is needed.
    Insn again;
    RHEA_CHECK(decode(bytes.first(insn.length), mode, again) == DecodeStatus::kOk && again.row == insn.row &&
               again.length == insn.length);
    RHEA_CHECK(decode(bytes.first(insn.length - 1u), mode, again) != DecodeStatus::kOk);
  }
  return 0;
}
