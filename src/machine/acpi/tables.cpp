// SPDX-License-Identifier: Apache-2.0
// Builds the ACPI tables back to back behind the RSDP.
#include "machine/acpi/tables.h"

#include <string_view>
#include <vector>

#include "devices/acpi/pm/pm_regs.h"
#include "devices/acpi/reset_register/reset_register.h"
#include "devices/timers/hpet/hpet_regs.h"
#include "machine/acpi/dsdt.h"

namespace rhea::machine {
namespace {

namespace pm = devices::pm_regs;
namespace hpet = devices::hpet_regs;

constexpr size_t kHeaderBytes = 36, kRsdpBytes = 36, kFacsBytes = 64;
constexpr size_t kLengthOffset = 4, kChecksumOffset = 9;
constexpr uint32_t kLocalApicBase = 0xfee00000, kIoApicBase = 0xfec00000;

ByteImage start_table(std::string_view signature, uint8_t revision) {
  ByteImage table;
  table.text(signature).u32(0).u8(revision).u8(0).padded_text("RHEA", 6).padded_text("RHEAPC", 8);
  table.u32(1).text("RHEA").u32(1);
  RHEA_CHECK(table.size() == kHeaderBytes);
  return table;
}

ByteImage finish_table(ByteImage table) {
  table.put32(kLengthOffset, static_cast<uint32_t>(table.size()));
  table.put_checksum(kChecksumOffset, 0, table.size());
  return table;
}

ByteImage build_dsdt(const PlatformDescription& platform) {
  ByteImage table = start_table("DSDT", 2);
  table.bytes(build_dsdt_aml(platform).span());
  return finish_table(std::move(table));
}

ByteImage build_facs() {
  ByteImage table;
  table.text("FACS").u32(kFacsBytes).u32(0).u32(0).u32(0).u32(0).u64(0).u8(2);
  table.zeros(kFacsBytes - table.size());
  return table;
}

// A generic address of an I/O port block. [ACPI-6.5 5.2.3.2]
void append_port(ByteImage& table, uint16_t port, unsigned bytes, unsigned access_bytes) {
  uint8_t access = access_bytes == 1 ? 1 : access_bytes == 2 ? 2 : 3;
  if (bytes == 0) {
    table.zeros(12);
    return;
  }
  table.u8(1).u8(static_cast<uint8_t>(bytes * 8)).u8(0).u8(access).u64(port);
}

// [ACPI-6.5 5.2.9]
ByteImage build_fadt(const PlatformDescription& platform, uint64_t facs, uint64_t dsdt) {
  constexpr uint32_t kWbinvd = 1u << 0, kC1Everywhere = 1u << 2, kNoFixedSleepButton = 1u << 5,
                     kNoRtcWakeStatus = 1u << 6, kTimer32Bit = 1u << 8, kResetRegister = 1u << 10;
  constexpr uint16_t kLegacyDevices = 1u << 0, kKeyboardController = 1u << 1, kNoVga = 1u << 2;
  constexpr uint16_t kNoC2LatencyUs = 0xfff, kNoC3LatencyUs = 0xfff;
  constexpr uint8_t kRtcCentury = 0x32;
  const uint16_t base = platform.pm_base;
  const auto event = static_cast<uint16_t>(base + pm::kPm1Event),
             control = static_cast<uint16_t>(base + pm::kPm1Control);
  const auto timer = static_cast<uint16_t>(base + pm::kTimer), gpe0 = static_cast<uint16_t>(base + pm::kGpe0);

  ByteImage table = start_table("FACP", 6);
  table.u32(static_cast<uint32_t>(facs)).u32(static_cast<uint32_t>(dsdt)).u8(0).u8(0);
  table.u16(pm::kSciGsi).u32(pm::kSmiCommandPort).u8(pm::kAcpiEnable).u8(pm::kAcpiDisable).u8(0).u8(0);
  table.u32(event).u32(0).u32(control).u32(0).u32(0).u32(timer).u32(gpe0).u32(0);
  table.u8(4).u8(2).u8(0).u8(4).u8(pm::kGpe0Bytes).u8(0).u8(0).u8(0);
  table.u16(kNoC2LatencyUs).u16(kNoC3LatencyUs).u16(0).u16(0).u8(0).u8(0).u8(0).u8(0).u8(kRtcCentury);
  table.u16(kLegacyDevices | kKeyboardController | kNoVga).u8(0);
  table.u32(kWbinvd | kC1Everywhere | kNoFixedSleepButton | kNoRtcWakeStatus | kTimer32Bit | kResetRegister);
  append_port(table, devices::ResetRegister::kPort, 1, 1);
  table.u8(devices::ResetRegister::kResetValue).u16(0).u8(5);  // minor version 6.5
  table.u64(0).u64(dsdt);                                      // X_FIRMWARE_CTRL stays zero: FIRMWARE_CTRL is used
  append_port(table, event, 4, 2);
  append_port(table, 0, 0, 0);
  append_port(table, control, 2, 2);
  append_port(table, 0, 0, 0);
  append_port(table, 0, 0, 0);
  append_port(table, timer, 4, 4);
  append_port(table, gpe0, pm::kGpe0Bytes, 1);
  append_port(table, 0, 0, 0);
  append_port(table, 0, 0, 0);  // sleep control and status: not hardware-reduced
  append_port(table, 0, 0, 0);
  table.padded_text("RHEA", 8, '\0');  // hypervisor vendor identity
  RHEA_CHECK(table.size() == 276);
  return finish_table(std::move(table));
}

// [ACPI-6.5 5.2.12]
ByteImage build_madt(const PlatformDescription& platform) {
  constexpr uint32_t kHas8259 = 1, kEnabled = 1;
  constexpr uint16_t kLevelActiveHigh = 0x0d, kBusDefault = 0;
  constexpr unsigned kMaxXapicId = 254;
  ByteImage table = start_table("APIC", 5);
  table.u32(kLocalApicBase).u32(kHas8259);
  for (unsigned cpu = 0; cpu < platform.cpu_count; ++cpu) {
    if (cpu <= kMaxXapicId) {
      table.u8(0).u8(8).u8(static_cast<uint8_t>(cpu)).u8(static_cast<uint8_t>(cpu)).u32(kEnabled);
    } else {
      table.u8(9).u8(16).u16(0).u32(cpu).u32(kEnabled).u32(cpu);
    }
  }
  table.u8(1).u8(12).u8(0).u8(0).u32(kIoApicBase).u32(0);
  table.u8(2).u8(10).u8(0).u8(0).u32(2).u16(kBusDefault);
  table.u8(2).u8(10).u8(0).u8(pm::kSciGsi).u32(pm::kSciGsi).u16(kLevelActiveHigh);
  table.u8(4).u8(6).u8(0xff).u16(0).u8(1);  // NMI on LINT1 of every processor
  if (platform.cpu_count > kMaxXapicId + 1) table.u8(10).u8(12).u16(0).u32(0xffffffff).u8(1).zeros(3);
  return finish_table(std::move(table));
}

// [PCI-FW-3.3 4.1.2]
ByteImage build_mcfg(const PlatformDescription& platform) {
  ByteImage table = start_table("MCFG", 1);
  table.u64(0).u64(platform.ecam_base).u16(0).u8(0).u8(255).u32(0);
  return finish_table(std::move(table));
}

// [IA-PC-HPET 3.2.4]
ByteImage build_hpet() {
  constexpr uint8_t kMemorySpace = 0, kNumber = 0, kNoPageProtection = 0;
  constexpr uint16_t kShortestPeriodTicks = 5000;  // what a guest may ask for without losing ticks
  ByteImage table = start_table("HPET", 1);
  table.u32(hpet::kCapabilitiesLow).u8(kMemorySpace).u8(64).u8(0).u8(0).u64(hpet::kBase);
  table.u8(kNumber).u16(kShortestPeriodTicks).u8(kNoPageProtection);
  RHEA_CHECK(table.size() == 56);
  return finish_table(std::move(table));
}

// [ACPI-6.5 5.2.5.3]
void put_rsdp(ByteImage& image, uint64_t rsdt, uint64_t xsdt) {
  ByteImage rsdp;
  rsdp.text("RSD PTR ").u8(0).padded_text("RHEA", 6).u8(2).u32(static_cast<uint32_t>(rsdt));
  rsdp.u32(kRsdpBytes).u64(xsdt).u8(0).zeros(3);
  rsdp.put_checksum(8, 0, 20);
  rsdp.put_checksum(32, 0, kRsdpBytes);
  image.put_bytes(0, rsdp.span());
}

}  // namespace

ByteImage build_acpi_tables(const PlatformDescription& platform, uint64_t base) {
  ByteImage image(kRsdpBytes);
  auto append = [&](const ByteImage& table, size_t alignment) {
    image.align(alignment);
    uint64_t address = base + image.size();
    image.bytes(table.span());
    return address;
  };
  uint64_t facs = append(build_facs(), 64);
  uint64_t dsdt = append(build_dsdt(platform), 16);
  const uint64_t tables[] = {append(build_fadt(platform, facs, dsdt), 16), append(build_madt(platform), 16),
                             append(build_mcfg(platform), 16), append(build_hpet(), 16)};
  ByteImage rsdt = start_table("RSDT", 1), xsdt = start_table("XSDT", 1);
  for (uint64_t address : tables) {
    rsdt.u32(static_cast<uint32_t>(address));
    xsdt.u64(address);
  }
  uint64_t rsdt_address = append(finish_table(std::move(rsdt)), 16);
  uint64_t xsdt_address = append(finish_table(std::move(xsdt)), 16);
  put_rsdp(image, rsdt_address, xsdt_address);
  return image;
}

}  // namespace rhea::machine
