// SPDX-License-Identifier: Apache-2.0
// A decoded x86 instruction: which table row it is, its operands, and enough of its encoding to write it
// again with other registers.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace rhea::isa::x86 {

// Every row of rows.inc, in order.
enum class RowId : uint16_t;

enum class OperandKind : uint8_t {
  kNone,
  kGpr,     // reg 0-15; high_byte: AH, CH, DH, BH are reg 0, 1, 2, 3 with high_byte set
  kVector,  // XMM/YMM/ZMM register 0-31; size tells which
  kMmx,
  kMask,     // opmask register k0-k7; size: of the data
  kX87,      // ST(reg)
  kSegment,  // ES CS SS DS FS GS = 0-5
  kControl,
  kDebug,
  kMemory,      // see Insn::mem
  kImmediate,   // Insn::imm (sign- or zero-extended as the instruction uses it)
  kRelative,    // branch displacement in Insn::imm, relative to the next instruction
  kFarPointer,  // offset in Insn::imm, selector in Insn::imm2
  kConstant,    // implied constant (shift by 1): value in Insn::imm
};

enum class OperandAccess : uint8_t { kNone = 0, kRead = 1, kWrite = 2, kReadWrite = 3, kAddressOnly = 4 };

// Which part of the encoding names an operand: what the translator rewrites when it maps registers.
// Memory operands of ModRM have kModrmRm; VSIB index registers have no operand of their own.
enum class OperandSource : uint8_t { kImplicit, kModrmReg, kModrmRm, kVexVvvv, kOpcodeReg, kImmediate, kIs4, kMoffs };

struct Operand {
  OperandKind kind = OperandKind::kNone;
  OperandAccess access = OperandAccess::kNone;
  uint8_t reg = 0;
  bool high_byte = false;
  uint16_t size_bytes = 0;  // of the data; 0 where the instruction has no fixed size (XSAVE, FXSAVE have theirs)
  OperandSource source = OperandSource::kImplicit;
  bool implicit = false;  // source == kImplicit: not encoded in ModRM, VEX.vvvv, opcode register bits or immediate
};

inline constexpr uint8_t kNoRegister = 0xff;
inline constexpr uint8_t kRipBase = 0xfe;

struct MemoryRef {
  uint8_t base = kNoRegister;   // GPR, kRipBase, or none
  uint8_t index = kNoRegister;  // GPR, or vector register if vsib
  uint8_t scale = 1;            // 1, 2, 4, 8
  uint8_t segment = 3;          // effective segment after defaults and overrides: ES CS SS DS FS GS = 0-5
  uint8_t address_size = 8;     // bytes: 2, 4, 8
  bool vsib = false;
  int64_t displacement = 0;  // sign-extended; for moffs the absolute offset
};

enum class CpuMode : uint8_t { k16, k32, k64 };  // default code size of the segment being executed

enum class Vex : uint8_t { kNone, kVex, kEvex };

struct Insn {
  RowId row{};
  uint8_t length = 0;
  uint8_t operand_count = 0;
  uint8_t operand_size = 4;                       // effective operand size in bytes: 2, 4, 8 (1 for byte forms)
  bool lock = false, rep = false, repne = false;  // as prefixes in force (not when mandatory parts of the opcode)
  std::array<Operand, 4> operands{};
  MemoryRef mem{};  // valid if has_memory
  bool has_memory = false;
  int64_t imm = 0;
  int64_t imm2 = 0;  // second immediate (ENTER, EXTRQ) or far selector

  // Encoding, for writing it again.
  uint8_t map = 0;  // 0: one-byte, 1: 0F, 2: 0F38, 3: 0F3A; of EVEX also 5 and 6
  uint8_t opcode = 0;
  bool has_modrm = false;
  uint8_t modrm = 0;
  uint8_t modrm_reg = 0;             // with REX.R / VEX.R
  uint8_t modrm_rm = 0;              // with REX.B / VEX.B, register form
  uint8_t mandatory_prefix = 0;      // 0, 0x66, 0xf2, 0xf3 as part of the opcode
  bool operand_size_prefix = false;  // 66 present and not mandatory
  bool rex_w = false;                // REX.W / VEX.W
  bool has_rex = false;
  Vex vex = Vex::kNone;
  uint8_t vex_vvvv = 0;  // register number
  uint8_t vex_l = 0;     // vector length: 0: 128, 1: 256, 2: 512 bits
  // Of EVEX: mask register (0: none), zeroing instead of merging, EVEX.b: broadcast with a memory operand, otherwise
  // rounding control (then L'L is the rounding mode) or "suppress all exceptions". [SDM-2A 2.7]
  uint8_t evex_mask = 0;
  bool evex_zeroing = false, evex_b = false;
  uint8_t evex_rounding = 0;
  uint8_t imm_bytes = 0;  // immediate bytes at the end of the encoding (without displacement)
};

enum class DecodeStatus : uint8_t {
  kOk,
  kNeedMore,  // the bytes ran out: fetch more (next page) and call again
  kInvalid,   // #UD
  kTooLong,   // over 15 bytes: #GP(0)
};

// Decodes one instruction. Pure; any thread; allocates nothing. LOCK on what cannot be locked is kInvalid.
// Whether the CPU model offers the row's feature is the caller's question (row_info(row).feature).
DecodeStatus decode(std::span<const uint8_t> bytes, CpuMode mode, Insn& out);

}  // namespace rhea::isa::x86
