// SPDX-License-Identifier: Apache-2.0
// ELF executables as kernels: loadable segments at physical addresses, entry point, PVH note.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "machine/boot/memory_map.h"
#include "memory/guest_memory.h"

namespace rhea::machine {

struct ElfSegment {
  uint64_t virtual_address = 0;
  uint64_t physical_address = 0;
  uint64_t memory_bytes = 0;        // >= data.size(); the rest is zero
  std::span<const std::byte> data;  // points into the parsed file
  bool executable = false;
};

struct ElfImage {
  bool is_64bit = false;
  uint64_t entry = 0;
  std::vector<ElfSegment> segments;   // PT_LOAD with memory, file order
  std::optional<uint32_t> pvh_entry;  // XEN_ELFNOTE_PHYS32_ENTRY
};

bool looks_like_elf(std::span<const std::byte> file);

// Every range is inside the file and no address wraps once this succeeds. Errors: kCorrupt, kUnsupported.
Result<ElfImage> parse_elf(std::span<const std::byte> file);

// Claims and writes all segments at their physical addresses.
Status load_elf_segments(const ElfImage& image, memory::GuestMemory& memory, Placement& placement);

// Writes `data` followed by zeros up to `memory_bytes`.
Status write_zero_extended(memory::GuestMemory& memory, uint64_t address, std::span<const std::byte> data,
                           uint64_t memory_bytes);

}  // namespace rhea::machine
