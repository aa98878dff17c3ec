// SPDX-License-Identifier: Apache-2.0
// Decoded instructions as text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "isa/x86/insn.h"

namespace rhea::isa::x86 {

// Intel syntax as `objdump -M intel` prints it, without raw bytes: "mov    rax,QWORD PTR [rbp-0x8]".
// `ip` is the instruction's own address: branch targets and RIP-relative addresses are shown absolute.
std::string disassemble(const Insn& insn, uint64_t ip);

// The row's mnemonic for this operand (or address) size, without prefixes: "cdqe".
std::string_view mnemonic(const Insn& insn);

// "rax", "ax", "al"; size in bytes 1, 2, 4, 8. High-byte registers AH..BH: reg 0-3 with high_byte.
std::string_view gpr_name(unsigned reg, unsigned size_bytes, bool high_byte = false);
std::string_view segment_name(unsigned segment);

}  // namespace rhea::isa::x86
