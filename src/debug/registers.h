// SPDX-License-Identifier: Apache-2.0
// CpuState as gdb sees it: numbered registers of fixed size, described by a target description.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cpu/cpu_state.h"

namespace rhea::debug {

unsigned register_count();
unsigned register_bytes(unsigned number);  // number < register_count()

// The target description (target.xml): i386:x86-64 core, sse, avx, avx512 where the host has it, segments, and Rhea's
// system registers.
const std::string& target_description();

// Little-endian value of a register.
std::vector<uint8_t> read_register(const cpu::CpuState& state, unsigned number);

// Writes one; `value` has register_bytes(number) bytes. Values that no processor can hold are adjusted (reserved flag
// and MXCSR bits) or refused with false (a RIP or base that is not canonical). Selectors and control registers cannot
// be changed by a debugger: writing the value they have succeeds, another is refused.
bool write_register(cpu::CpuState& state, unsigned number, std::span<const uint8_t> value);

// Sets RIP, unless the address is not canonical.
bool set_rip(cpu::CpuState& state, uint64_t address);

}  // namespace rhea::debug
