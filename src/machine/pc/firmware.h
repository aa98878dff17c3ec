// SPDX-License-Identifier: Apache-2.0
// What a PC's firmware would leave in memory and in the boot processor before it starts a kernel.
#pragma once

#include "cpu/lapic.h"
#include "io/address_space.h"
#include "machine/pc/layout.h"
#include "memory/guest_memory.h"

namespace rhea::machine {

// Writes the BIOS data area, ACPI tables and SMBIOS; returns the RSDP's address.
Result<uint64_t> write_firmware_tables(memory::GuestMemory& memory, const PlatformDescription& platform);

// Virtual wire mode: the 8259s' interrupts and NMIs reach the boot processor. [MP-1.4 3.6.2.2]
void program_boot_lapic(cpu::Lapic& lapic);

// The 8259s at the vectors that a BIOS gives them (8 and 0x70), all inputs masked.
void program_boot_pics(io::AddressSpace& ports);

}  // namespace rhea::machine
