// SPDX-License-Identifier: Apache-2.0
// The PC's physical address map: where RAM, PCI windows, chips and firmware tables are.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "machine/acpi/platform_description.h"
#include "machine/boot/memory_map.h"
#include "memory/guest_memory.h"

namespace rhea::machine {

inline constexpr uint64_t kVideoHoleStart = 0xa0000, kVideoHoleEnd = 0xc0000;
inline constexpr uint64_t kFirmwareAreaStart = 0xc0000, kFirmwareAreaEnd = 0x100000;
inline constexpr uint64_t kAcpiTablesBase = 0xe0000, kAcpiTablesEnd = 0xf0000;
inline constexpr uint64_t kSmbiosBase = 0xf0000, kSmbiosEnd = 0x100000;
inline constexpr uint64_t kExtendedBiosDataStart = 0x9fc00;
inline constexpr uint64_t kPciHoleStart = 0xc0000000;  // RAM below 4 GiB ends here at the latest
inline constexpr uint64_t kEcamBase = 0xe0000000, kEcamBytes = 256u << 20;
inline constexpr uint64_t kChipsStart = 0xfec00000;      // I/O APIC, HPET, local APICs, firmware flash
inline constexpr uint64_t kVirtioMmioBase = 0xfeb00000;  // below the chips: 4 KiB for each device on that transport
inline constexpr uint64_t kLocalApicBase = 0xfee00000;
inline constexpr uint64_t kFourGiB = uint64_t{1} << 32;

inline constexpr uint64_t kMinMemoryBytes = uint64_t{2} << 20, kMaxMemoryBytes = uint64_t{1} << 40;

class MemoryLayout {
 public:
  // Errors: kInvalidArgument for too little, too much, or not a whole number of MiB.
  static Result<MemoryLayout> create(uint64_t memory_bytes, unsigned physical_address_bits);

  uint64_t low_bytes() const { return low_bytes_; }    // from 0
  uint64_t high_bytes() const { return high_bytes_; }  // from 4 GiB
  std::vector<memory::GuestMemory::Extent> extents() const;
  MemoryMap memory_map() const;  // E820
  PlatformDescription describe(unsigned cpu_count, const std::string& name) const;

 private:
  uint64_t low_bytes_ = 0, high_bytes_ = 0;
  uint64_t mmio64_start_ = 0, mmio64_end_ = 0;
};

}  // namespace rhea::machine
