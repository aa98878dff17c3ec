// SPDX-License-Identifier: Apache-2.0
// Writes valid random encodings of a table row: what the differential suite and the decoder's own tests run.
#pragma once

#include <cstdint>
#include <vector>

#include "isa/x86/insn.h"
#include "isa/x86/rows.h"

namespace rhea::isa::x86 {

// A small reproducible random source (splitmix64).
class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  uint32_t below(uint32_t bound) { return static_cast<uint32_t>(((next() >> 32) * bound) >> 32); }
  bool chance(uint32_t numerator, uint32_t denominator) { return below(denominator) < numerator; }

 private:
  uint64_t state_;
};

enum class Form : uint8_t {
  kFixed,     // no ModRM operand to choose (PUSHF, MOV r,imm, MOVS, moffs, Jcc)
  kRegister,  // ModRM.rm is a register
  kMemory,    // ModRM.rm is memory
};
enum class PrefixChoice : uint8_t { kNone, kLock, kRep, kRepne };

// One combination of operand form, operand size, vector length, REX.W and prefix in which a row is valid.
struct FormSpec {
  Form form = Form::kFixed;
  uint8_t operand_size = 0;  // as Insn::operand_size will be; 0: the row has no choice
  uint8_t vex_l = 0;
  bool rex_w = false;   // derived from operand_size where that decides; set alone for WIG rows
  bool evex_b = false;  // broadcast, rounding or no exceptions
  PrefixChoice prefix = PrefixChoice::kNone;
  bool operator==(const FormSpec&) const = default;
};

// All valid combinations of a row in a mode; empty if the row does not exist there.
std::vector<FormSpec> forms(RowId row, CpuMode mode);

struct GenerateOptions {
  CpuMode mode = CpuMode::k64;
  FormSpec form;
  uint16_t allowed_gprs = 0xffff;         // for register operands (bits 0-15; 8-15 only used in 64-bit mode).
                                          // High-byte registers AH..BH occur if RAX..RBX are allowed (no REX then)
  uint32_t allowed_vectors = 0xffffffff;  // 16-31 with EVEX only
  uint16_t allowed_bases = 0xffff;        // base registers of memory operands; 0: no base
  uint16_t allowed_indexes = 0;           // index registers (RSP never); 0: no index. VSIB takes allowed_vectors
  bool allow_rip_relative = false;        // 64-bit mode: base RIP with a probability of 1/4 (displacement as below)
  bool allow_high_byte = true;
  int32_t displacement_min = -128;  // inclusive; encoded as disp8 or disp32 at random where both fit
  int32_t displacement_max = 127;
  uint8_t address_size = 0;         // 0: the mode's own; 2, 4, 8: with a 67 prefix if needed
  uint8_t segment = kNoRegister;    // override to emit, ES CS SS DS FS GS = 0-5
  bool redundant_prefixes = false;  // sometimes adds prefixes without effect (repeated 66, ignored segments, REX 40)
  bool set_immediate = false;       // else random (immediates of branches too)
  int64_t immediate = 0;
};

// Appends one encoding of `row` to `out`. False (and nothing appended) if the options leave no valid
// encoding: the form is not one of forms(), or every register it needs is disallowed.
bool generate(RowId row, const GenerateOptions& options, Rng& random, std::vector<uint8_t>& out);

}  // namespace rhea::isa::x86
