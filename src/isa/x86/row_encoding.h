// SPDX-License-Identifier: Apache-2.0
// The parsed form of rows.inc that the decoder, the disassembler and the generator work from. Internal to isa/x86.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "isa/x86/rows.h"

namespace rhea::isa::x86 {

// What a row asks of the bytes, one bit per possible value of each property. An instruction has exactly one bit of
// each group set; it matches the row if all of its bits are accepted: one AND and one compare.
namespace accept {
inline constexpr uint32_t kPrefixNone = 1u << 0, kPrefix66 = 1u << 1, kPrefixF3 = 1u << 2, kPrefixF2 = 1u << 3,
                          kPrefixAll = 0xf;
inline constexpr unsigned kModeShift = 4;  // 16, 32, 64-bit mode, each with W = 0, 1
inline constexpr uint32_t kModeAll = 0x3f << 4, kMode64 = 0x30 << 4, kModeNot64 = 0x0f << 4, kModeW0 = 0x15 << 4,
                          kModeW1 = 0x2a << 4;
inline constexpr uint32_t kL0 = 1u << 10, kL1 = 1u << 11, kL2 = 1u << 30, kLAll = kL0 | kL1 | kL2;
inline constexpr uint32_t kMemory = 1u << 12, kRegister = 1u << 13, kModAll = kMemory | kRegister;
inline constexpr uint32_t kNoRexB = kMemory, kRexB = kRegister;  // the same bits for opcodes without ModRM
inline constexpr unsigned kRegShift = 14, kRmShift = 22;
inline constexpr uint32_t kRegAll = 0xffu << kRegShift, kRmAll = 0xffu << kRmShift;
}  // namespace accept

// Where an operand comes from: the letters of rows.inc.
enum class Place : uint8_t {
  kNone,
  kRmGpr /*E*/,
  kRegGpr /*G*/,
  kRmGprOnly /*R*/,
  kVvvvGpr /*B*/,
  kOpcodeGpr /*Z*/,
  kRmVector /*W*/,
  kRegVector /*V*/,
  kRmVectorOnly /*U*/,
  kVvvvVector /*H*/,
  kImmVector /*L*/,
  kRmMmx /*Q*/,
  kRegMmx /*P*/,
  kRmMmxOnly /*N*/,
  kRmMask /*kE*/,
  kRegMask /*kG*/,
  kRmMaskOnly /*kR*/,
  kVvvvMask /*kB*/,
  kMemory /*M*/,
  kVsib /*K*/,
  kOffset /*O*/,
  kSource /*X*/,
  kDestination /*Y*/,
  kFarPointer /*A*/,
  kControl /*C*/,
  kDebug /*D*/,
  kSegment /*S*/,
  kImmediate /*I*/,
  kRelative /*J*/,
  kFixedGpr,
  kFixedSegment,
  kSt0,
  kStI,
  kXmm0,
  kOne,
};

enum class Size : uint8_t {
  kNone,
  kB,
  kW,
  kD,
  kQ,
  kT,
  kDq,
  kQq,
  kOo,
  kV,
  kZ,
  kY,
  kM,
  kX,
  kH,
  kF,
  kE,
  kA,
  kP,
  kS,
  kFx,
  kEn,
  kSa,
  kSignedByte
};

struct OperandSpec {
  Place place = Place::kNone;
  Size size = Size::kNone;         // as a register
  Size memory_size = Size::kNone;  // as memory
  OperandAccess access = OperandAccess::kNone;
  uint8_t fixed = 0;  // register number of kFixed*
  OperandSource source = OperandSource::kImplicit;
};

enum class DefaultSize : uint8_t { kUsual, kD64, kF64 };

struct RowEncoding {
  uint32_t accept = 0;
  bool vex = false;  // VEX or EVEX
  bool evex = false;
  uint8_t map = 0;
  uint8_t opcode = 0;
  bool opcode_register = false;  // 50+r: eight opcodes
  bool has_modrm = false;
  uint8_t mandatory = 0;       // 0, 66, F3, F2
  bool vex_l_selects = false;  // L gives the vector length (else 128 unless L must be 1)
  DefaultSize default_size = DefaultSize::kUsual;
  bool byte_form = false;          // operand_size is 1
  bool size_from_w = false;        // only y operands: operand_size is 4 or 8
  bool at_most_32 = false;         // port I/O: REX.W changes nothing
  bool uses_operand_size = false;  // some operand or the mnemonic depends on 66 / REX.W
  bool uses_vvvv = false;
  bool vsib = false;
  // Of EVEX.
  bool mask = false, zeroing = false;       // EVEX.aaa, EVEX.z may be other than 0
  bool broadcast = false;                   // EVEX.b may be set with a memory operand
  bool rounding = false, suppress = false;  // EVEX.b in the register form
  bool distinct = false;                    // the destination may not be a source as well
  bool element_displacement = false;        // disp8 counts elements, not whole operands
  uint8_t operand_count = 0;
  std::array<OperandSpec, 4> operands{};
};

struct OpcodeEntry {
  uint16_t first = 0;  // in kCandidates
  uint8_t count = 0;
  bool has_modrm = false;
};
struct Candidate {
  uint32_t accept = 0;
  uint16_t row = 0;
};

inline constexpr size_t kRowCount = 0
#define ROW(...) +1
#include "isa/x86/rows.inc"
#undef ROW
    ;
inline constexpr size_t kCandidateCapacity = kRowCount + 8 * 16;

struct OpcodeTable {
  std::array<OpcodeEntry, 3 * 8 * 256> entries{};  // (none, VEX or EVEX; map; opcode)
  std::array<Candidate, kCandidateCapacity> candidates{};
};

extern const std::array<RowEncoding, kRowCount> kRowEncodings;
extern const OpcodeTable kOpcodeTable;

inline const RowEncoding& row_encoding(RowId row) { return kRowEncodings[static_cast<size_t>(row)]; }

}  // namespace rhea::isa::x86
