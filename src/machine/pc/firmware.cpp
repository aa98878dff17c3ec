// SPDX-License-Identifier: Apache-2.0
// The firmware's part of a direct boot.
#include "machine/pc/firmware.h"

#include <fmt/format.h>

#include <tuple>

#include "machine/acpi/smbios.h"
#include "machine/acpi/tables.h"
#include "machine/byte_image.h"

namespace rhea::machine {
namespace {

constexpr uint64_t kBiosDataArea = 0x400;

// The fields that operating systems still read. [BIOS data area of the IBM PC/AT]
ByteImage build_bios_data_area() {
  constexpr uint16_t kOneSerialPairAndFpu = 0x0402;  // equipment word: two serial ports, coprocessor
  ByteImage area(0x100);
  area.put16(0x00, 0x3f8);
  area.put16(0x02, 0x2f8);
  area.put16(0x0e, static_cast<uint16_t>(kExtendedBiosDataStart >> 4));
  area.put16(0x10, kOneSerialPairAndFpu);
  area.put16(0x13, static_cast<uint16_t>(kExtendedBiosDataStart >> 10));  // KiB of conventional memory
  return area;
}

Status place(memory::GuestMemory& memory, uint64_t address, uint64_t end, const ByteImage& image,
             std::string_view what) {
  if (image.size() > end - address || !memory.write({address}, image.span()))
    return fail(ErrorCode::kInternal, fmt::format("{} ({} bytes) do not fit at {:#x}", what, image.size(), address));
  return {};
}

}  // namespace

Result<uint64_t> write_firmware_tables(memory::GuestMemory& memory, const PlatformDescription& platform) {
  ByteImage extended_area(16);
  extended_area.put8(0, 1);  // its size in KiB
  RHEA_TRY(place(memory, kBiosDataArea, kBiosDataArea + 0x100, build_bios_data_area(), "BIOS data"));
  RHEA_TRY(place(memory, kExtendedBiosDataStart, kVideoHoleStart, extended_area, "BIOS data"));
  RHEA_TRY(place(memory, kAcpiTablesBase, kAcpiTablesEnd, build_acpi_tables(platform, kAcpiTablesBase), "ACPI tables"));
  RHEA_TRY(place(memory, kSmbiosBase, kSmbiosEnd, build_smbios(platform, static_cast<uint32_t>(kSmbiosBase)),
                 "SMBIOS tables"));
  return kAcpiTablesBase;
}

void program_boot_lapic(cpu::Lapic& lapic) {
  constexpr uint64_t kSpurious = 0xf0, kLint0 = 0x350, kLint1 = 0x360;
  lapic.io_write(kSpurious, 0x1ff, 4);  // enabled, spurious vector 255
  lapic.io_write(kLint0, 0x700, 4);     // ExtINT
  lapic.io_write(kLint1, 0x400, 4);     // NMI
}

void program_boot_pics(io::AddressSpace& ports) {
  constexpr uint16_t kMaster = 0x20, kSlave = 0xa0;
  constexpr uint8_t kInitialise = 0x11, kMasterVector = 0x08, kSlaveVector = 0x70, k8086Mode = 0x01, kAllMasked = 0xff;
  constexpr uint8_t kSlaveOnInput2 = 0x04, kSlaveId = 0x02;
  for (auto [port, vector, cascade] :
       {std::tuple{kMaster, kMasterVector, kSlaveOnInput2}, std::tuple{kSlave, kSlaveVector, kSlaveId}}) {
    ports.write(port, kInitialise, 1);
    for (uint8_t value : {vector, cascade, k8086Mode, kAllMasked}) ports.write(port + 1u, value, 1);
  }
}

}  // namespace rhea::machine
