// SPDX-License-Identifier: Apache-2.0
// What every boot protocol gets from the machine, and what it gives back.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "cpu/cpu_state.h"
#include "machine/boot/memory_map.h"
#include "memory/guest_memory.h"

namespace rhea::machine {

// An initial RAM disk or Multiboot module.
struct BootModule {
  std::vector<std::byte> data;
  std::string command_line;  // Multiboot and PVH: the module's own string
};

struct BootRequest {
  std::span<const std::byte> kernel;  // GUEST-CONTROLLED: the file as it is
  std::span<const BootModule> modules;
  std::string command_line;
  const MemoryMap& map;
  memory::GuestMemory& memory;
  uint64_t rsdp_address = 0;  // 0: no ACPI
};

struct BootResult {
  cpu::CpuState state;
  std::string description;  // "Linux 6.1.0 (bzImage, xz), 64-bit entry 0x1000000"
};

}  // namespace rhea::machine
