// SPDX-License-Identifier: Apache-2.0
// Processor states in which boot protocols hand over: flat 32-bit protected mode, 64-bit with identity paging.
#pragma once

#include <cstdint>

#include "base/error.h"
#include "cpu/cpu_state.h"
#include "machine/boot/memory_map.h"
#include "memory/guest_memory.h"

namespace rhea::machine {

// Selectors of the descriptor table that write_boot_gdt() leaves in guest memory.
inline constexpr uint16_t kBootCode32 = 0x08, kBootCode = 0x10, kBootData = 0x18, kBootTss = 0x20;

// Writes the boot descriptor table to low memory and returns its address. Slot 0x10 is 32- or 64-bit code.
enum class BootMode : uint8_t { kProtected32, kLong64 };
Result<uint64_t> write_boot_gdt(memory::GuestMemory& memory, Placement& placement, BootMode mode);

// Flat 32-bit protected mode without paging, interrupts off; segments 0x10/0x18. All registers zero.
void enter_protected32(cpu::CpuState& state, uint64_t gdt_address, uint32_t entry);

// 64-bit mode with the first 4 GiB identity-mapped by 2 MiB pages, interrupts off. Writes the page tables.
Status enter_long64(cpu::CpuState& state, memory::GuestMemory& memory, Placement& placement, uint64_t gdt_address,
                    uint64_t entry);

// What firmware programs before it hands over: MTRRs (write-back, with [hole_start, 4 GiB) uncached). [SDM-3A 12.11]
void program_mtrrs(cpu::CpuState& state, uint64_t hole_start, unsigned physical_address_bits);

}  // namespace rhea::machine
