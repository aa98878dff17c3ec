// SPDX-License-Identifier: Apache-2.0
// The PC's physical address map.
#include "machine/pc/layout.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/strings.h"
#include "devices/acpi/pm/pm_regs.h"
#include "devices/timers/hpet/hpet_regs.h"

namespace rhea::machine {

Result<MemoryLayout> MemoryLayout::create(uint64_t memory_bytes, unsigned physical_address_bits) {
  if (memory_bytes % (1u << 20) != 0)
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("memory of {} bytes is not a whole number of MiB", memory_bytes));
  const uint64_t limit = std::min(kMaxMemoryBytes, uint64_t{1} << (std::clamp(physical_address_bits, 36u, 52u) - 1));
  if (memory_bytes < kMinMemoryBytes || memory_bytes > limit) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("memory of {} is out of range: {} to {}", base::format_size(memory_bytes),
                            base::format_size(kMinMemoryBytes), base::format_size(limit)));
  }
  MemoryLayout layout;
  layout.low_bytes_ = std::min(memory_bytes, kPciHoleStart);
  layout.high_bytes_ = memory_bytes - layout.low_bytes_;
  // A PCI window above RAM, as large as addresses allow, up to 64 GiB.
  constexpr uint64_t kWindowAlignment = uint64_t{1} << 30, kWindowMax = uint64_t{64} << 30;
  uint64_t ram_end = kFourGiB + layout.high_bytes_;
  layout.mmio64_start_ = (ram_end + kWindowAlignment - 1) & ~(kWindowAlignment - 1);
  uint64_t address_end = uint64_t{1} << std::clamp(physical_address_bits, 36u, 52u);
  layout.mmio64_end_ = std::max(layout.mmio64_start_, std::min(layout.mmio64_start_ + kWindowMax, address_end));
  return layout;
}

std::vector<memory::GuestMemory::Extent> MemoryLayout::extents() const {
  std::vector<memory::GuestMemory::Extent> result = {{{0}, low_bytes_}};
  if (high_bytes_ != 0) result.push_back({{kFourGiB}, high_bytes_});
  return result;
}

MemoryMap MemoryLayout::memory_map() const {
  MemoryMap map = {
      {0, kExtendedBiosDataStart, MemoryType::kRam},
      {kExtendedBiosDataStart, kVideoHoleStart - kExtendedBiosDataStart, MemoryType::kReserved},
      {kAcpiTablesBase, kFirmwareAreaEnd - kAcpiTablesBase, MemoryType::kReserved},
      {kFirmwareAreaEnd, low_bytes_ - kFirmwareAreaEnd, MemoryType::kRam},
      {kEcamBase, kEcamBytes, MemoryType::kReserved},
      {kVirtioMmioBase, kChipsStart - kVirtioMmioBase, MemoryType::kReserved},
      {kChipsStart, 0x1000, MemoryType::kReserved},
      {devices::hpet_regs::kBase, 0x1000, MemoryType::kReserved},
      {kLocalApicBase, 0x1000, MemoryType::kReserved},
  };
  if (high_bytes_ != 0) map.push_back({kFourGiB, high_bytes_, MemoryType::kRam});
  return map;
}

PlatformDescription MemoryLayout::describe(unsigned cpu_count, const std::string& name) const {
  return {.cpu_count = cpu_count,
          .low_ram_bytes = low_bytes_,
          .high_ram_bytes = high_bytes_,
          .ecam_base = kEcamBase,
          .mmio_low_start = static_cast<uint32_t>(kPciHoleStart),
          .mmio_low_end = static_cast<uint32_t>(kEcamBase),
          .mmio_high_start = static_cast<uint32_t>(kEcamBase + kEcamBytes),
          .mmio_high_end = static_cast<uint32_t>(kVirtioMmioBase),
          .mmio64_start = mmio64_start_,
          .mmio64_end = mmio64_end_,
          .pm_base = devices::pm_regs::kDefaultBase,
          .name = name};
}

}  // namespace rhea::machine
