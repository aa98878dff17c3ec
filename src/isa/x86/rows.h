// SPDX-License-Identifier: Apache-2.0
// The instruction table: one row per encoding, the only description of instructions in Rhea.
#pragma once

#include <cstdint>
#include <string_view>

#include "isa/x86/insn.h"

namespace rhea::isa::x86 {

// One enumerator per row, named as the row: RowId::ADD_Ev_Gv.
enum class RowId : uint16_t {
#define ROW(name, ...) name,
#include "isa/x86/rows.inc"
#undef ROW
};

// How the translator handles a row. Anything not kCopy has a translation function of its own.
// [docs/architecture.md, "An instruction is three touches"]
enum class Translation : uint8_t {
  kCopy,     // written again with host registers and a translated address; touches only its operands,
             // arithmetic flags and vector/x87 state
  kCopyX87,  // as kCopy, and records FIP/FOP/FDP
  kShiftCl,  // as kCopy with CL as count (SHL.. r/m,CL; SHLD/SHRD ..,CL)
  kCopyRcx,  // as kCopy with implicit read and/or write of ECX/RCX (CMPXCHG8B/16B, PCMPxSTRI)
  kNop,      // no effect (NOP, ENDBR, PAUSE, prefetches, CLFLUSH family, fences stay kCopy)
  kLea,
  kBitString,  // BT BTS BTR BTC m,r: the register's upper bits add to the address
  kMovGpr,     // plain MOV between GPR, memory and immediate, moffs included
  kXchgAcc,    // XCHG rAX, r (opcode 90+r)
  kPush,
  kPop,
  kPusha,
  kPopa,
  kPushf,
  kPopf,
  kEnter,
  kLeave,
  kJmpRel,
  kJcc,
  kJcxz,
  kLoop,
  kCallRel,
  kJmpInd,
  kCallInd,
  kRet,
  kString,   // MOVS STOS LODS CMPS SCAS, with or without REP
  kFlagOps,  // LAHF SAHF, CLC STC CMC stay kCopy
  kCld,
  kStd,
  kCli,
  kSti,
  kStac,
  kClac,
  kRdtsc,
  kRdtscp,
  kRdpid,
  kXgetbv,
  kMaskMem,    // MASKMOVDQU, MASKMOVQ, VMASKMOV, VPMASKMOV, VPGATHER, VGATHER
  kFpuEnv,     // FNINIT FLDENV FNSTENV FNSAVE FRSTOR FXSAVE FXRSTOR XSAVE XSAVEOPT XSAVEC XSAVES XRSTOR XRSTORS
  kSystem,     // everything else: by the system function of that name, from the decoded instruction
  kUndefined,  // UD0 UD1 UD2 and rows kept only for their #UD
};

enum FlagBits : uint16_t {
  kFlagC = 1,
  kFlagP = 4,
  kFlagA = 16,
  kFlagZ = 64,
  kFlagS = 128,
  kFlagO = 2048,
  kFlagAll = kFlagC | kFlagP | kFlagA | kFlagZ | kFlagS | kFlagO
};

struct RowInfo {
  std::string_view name;      // unique row name, "ADD_Ev_Gv"
  std::string_view mnemonic;  // "add"; "cbw|cwde|cdqe" where it depends on the operand size 2|4|8
                              // (of JCXZ: on the address size)
  Translation translation;
  uint16_t flags_read;
  uint16_t flags_written;    // defined result (includes cleared/set)
  uint16_t flags_undefined;  // left undefined
  std::string_view feature;  // "", "sse2", "avx2", "bmi1", ...: names of isa/x86/cpuid_names
  uint8_t map, opcode;
  bool lockable;
  bool privileged;  // CPL 0 only
  bool memory_only, register_only;
  uint8_t memory_alignment;  // 0, or 16/32/64 for forms that raise #GP when misaligned
  uint16_t implicit_read;    // GPRs (bit n: register n) read beyond those in Insn::operands
  uint16_t implicit_write;
  bool implicit_xmm0_write;  // PCMPESTRM, PCMPISTRM
  bool string;               // REP/REPE/REPNE apply
  uint8_t element_bytes;     // EVEX: of one element in memory, as the mask counts them; 0: no such form
  bool memory_whole;         // EVEX: the memory operand is accessed as a whole whatever the mask says
  bool memory_repeated;     // EVEX: elements serve several lanes each, and are accessed if the mask selects any of them
  bool memory_packed;       // EVEX: selected elements stand side by side in memory (compress, expand)
  uint8_t memory_fraction;  // the memory operand is this part (1, 2, 4, 8) of a vector: so many lanes fewer
  RowId without_feature;    // the row itself: #UD where the feature is missing
  std::string_view encoding;  // the columns of rows.inc as they stand
  std::string_view operands;
};

const RowInfo& row_info(RowId row);

// Makes an instruction whose feature the CPU model lacks into what such a processor executes (TZCNT: BSF, LZCNT: BSR).
// False: it raises #UD.
bool substitute_without_feature(Insn& insn);
unsigned row_count();

// Flags of one decoded instruction, exact where the row is not: a shift by a constant that masks to zero
// touches none; what is written only sometimes (shift by CL, REP CMPS) is in `read` too, since the old value may show.
struct FlagEffects {
  uint16_t read = 0, written = 0, undefined = 0;
};
FlagEffects flag_effects(const Insn& insn);

inline const RowInfo& row_info(const Insn& insn) { return row_info(insn.row); }

}  // namespace rhea::isa::x86
