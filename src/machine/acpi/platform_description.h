// SPDX-License-Identifier: Apache-2.0
// What firmware tables say about the machine: filled by the machine, read by the table builders.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rhea::machine {

// A virtio device with memory-mapped registers.
struct VirtioMmioSlot {
  uint32_t base = 0, size_bytes = 0;
  unsigned gsi = 0;  // level-triggered, shared
};

struct PlatformDescription {
  unsigned cpu_count = 1;        // LAPIC IDs 0 .. cpu_count-1
  uint64_t low_ram_bytes = 0;    // RAM from 0 up to the PCI hole
  uint64_t high_ram_bytes = 0;   // RAM from 4 GiB
  uint64_t ecam_base = 0;        // 256 MiB for buses 0-255
  uint32_t mmio_low_start = 0;   // PCI window between RAM and ECAM
  uint32_t mmio_low_end = 0;     // exclusive
  uint32_t mmio_high_start = 0;  // PCI window between ECAM and the chips below 4 GiB
  uint32_t mmio_high_end = 0;
  uint64_t mmio64_start = 0;  // PCI window above RAM; empty if the two are equal
  uint64_t mmio64_end = 0;
  uint16_t pm_base = 0x600;
  std::vector<VirtioMmioSlot> virtio_mmio = {};
  std::string name;                      // of the virtual machine, for SMBIOS
  std::vector<std::string> oem_strings;  // for SMBIOS: texts for the guest's system, such as systemd's credentials
};

}  // namespace rhea::machine
