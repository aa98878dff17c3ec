// SPDX-License-Identifier: Apache-2.0
// The instruction table against itself: unambiguous, and each column consistent with the others.
#include "isa/x86/rows.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "isa/x86/generate.h"
#include "isa/x86/row_encoding.h"

namespace rhea::isa::x86 {
namespace {

constexpr uint32_t kGroups[] = {accept::kPrefixAll, accept::kModeAll, accept::kLAll,
                                accept::kModAll,    accept::kRegAll,  accept::kRmAll};

// Whether some instruction matches both.
bool overlap(uint32_t a, uint32_t b) {
  for (uint32_t group : kGroups)
    if (!(a & b & group)) return false;
  return true;
}

TEST(Rows, NoTwoRowsMatchTheSameBytes) {
  for (const OpcodeEntry& entry : kOpcodeTable.entries)
    for (unsigned i = 0; i < entry.count; ++i)
      for (unsigned j = i + 1; j < entry.count; ++j) {
        const Candidate &first = kOpcodeTable.candidates[entry.first + i],
                        &second = kOpcodeTable.candidates[entry.first + j];
        if (!overlap(first.accept, second.accept)) continue;
        // Allowed only if the first is the special case of the second.
        EXPECT_TRUE((first.accept & second.accept) == first.accept && first.accept != second.accept)
            << row_info(RowId{first.row}).name << " and " << row_info(RowId{second.row}).name;
      }
}

TEST(Rows, EveryRowExistsInSomeMode) {
  for (unsigned id = 0; id < row_count(); ++id) {
    const auto row = static_cast<RowId>(id);
    EXPECT_FALSE(forms(row, CpuMode::k64).empty() && forms(row, CpuMode::k32).empty()) << row_info(row).name;
  }
}

TEST(Rows, NamesAreUnique) {
  std::set<std::string_view> names;
  for (unsigned id = 0; id < row_count(); ++id) EXPECT_TRUE(names.insert(row_info(static_cast<RowId>(id)).name).second);
}

TEST(Rows, CopiedRowsExistIn64BitModeOrAreRewritten) {
  for (unsigned id = 0; id < row_count(); ++id) {
    const auto row = static_cast<RowId>(id);
    const RowInfo& info = row_info(row);
    const bool copied = info.translation == Translation::kCopy || info.translation == Translation::kCopyX87 ||
                        info.translation == Translation::kShiftCl || info.translation == Translation::kCopyRcx;
    if (!copied || info.opcode == 0x82 || row == RowId::INC_Zv || row == RowId::DEC_Zv) continue;
    EXPECT_FALSE(forms(row, CpuMode::k64).empty()) << info.name;
    EXPECT_FALSE(info.privileged) << info.name;
    EXPECT_FALSE(info.string) << info.name;
  }
}

TEST(Rows, ColumnsAgree) {
  for (unsigned id = 0; id < row_count(); ++id) {
    const auto row = static_cast<RowId>(id);
    const RowInfo& info = row_info(row);
    const RowEncoding& encoding = row_encoding(row);
    EXPECT_EQ(info.flags_written & info.flags_undefined, 0) << info.name;
    if (info.without_feature != row) {
      const RowInfo& other = row_info(info.without_feature);
      EXPECT_TRUE(other.feature.empty() && other.operands.substr(1) == info.operands.substr(1)) << info.name;
    }
    if (info.lockable) {
      ASSERT_GT(encoding.operand_count, 0) << info.name;
      EXPECT_EQ(encoding.operands[0].access, OperandAccess::kReadWrite) << info.name;
      EXPECT_FALSE(info.register_only) << info.name;
    }
    if (info.memory_alignment) {
      EXPECT_FALSE(info.register_only) << info.name;
    }
    if (encoding.vex) {
      EXPECT_FALSE(info.feature.empty()) << info.name;
    }
    if (!encoding.vex && encoding.operand_count) {
      EXPECT_FALSE(encoding.uses_vvvv) << info.name;
    }
    for (const OperandSpec& operand : encoding.operands) {
      if (operand.place == Place::kMemory || operand.place == Place::kVsib) {
        EXPECT_TRUE(info.memory_only) << info.name;
      }
      if (operand.place == Place::kRmVectorOnly || operand.place == Place::kRmMmxOnly) {
        EXPECT_TRUE(info.register_only) << info.name;
      }
    }
  }
}

TEST(Rows, FlagEffectsOfShifts) {
  const uint8_t shift_by_zero[] = {0xc1, 0xe0, 0x20}, shift_by_one[] = {0xc1, 0xe0, 0x21}, by_cl[] = {0xd3, 0xe0};
  Insn insn;
  ASSERT_EQ(decode(shift_by_zero, CpuMode::k64, insn), DecodeStatus::kOk);
  EXPECT_EQ(flag_effects(insn).written | flag_effects(insn).undefined, 0);
  ASSERT_EQ(decode(shift_by_one, CpuMode::k64, insn), DecodeStatus::kOk);
  EXPECT_EQ(flag_effects(insn).written | flag_effects(insn).undefined, kFlagAll);
  ASSERT_EQ(decode(by_cl, CpuMode::k64, insn), DecodeStatus::kOk);
  EXPECT_EQ(flag_effects(insn).read, kFlagAll);
}

}  // namespace
}  // namespace rhea::isa::x86
