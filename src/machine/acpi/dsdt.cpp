// SPDX-License-Identifier: Apache-2.0
// The DSDT of the PC. Interrupt pins go through link objects, because only a link can say that a PCI line of
// this machine is active high ([ACPI-6.5 6.2.13]: a bare GSI in _PRT means active low).
#include "machine/acpi/dsdt.h"

#include <fmt/format.h>

#include "devices/acpi/pm/pm_regs.h"
#include "devices/pci/pci_bus.h"
#include "devices/timers/hpet/hpet_regs.h"
#include "machine/acpi/aml.h"

namespace rhea::machine {
namespace {

using namespace aml;
namespace pm = devices::pm_regs;

constexpr unsigned kPciLinks = 8, kFirstPciGsi = 16;
constexpr uint8_t kPresentEnabledShown = 0x0f;

std::string link_name(unsigned gsi) { return fmt::format("GSI{}", static_cast<char>('A' + gsi - kFirstPciGsi)); }

Term interrupt_link(unsigned gsi) {
  Term interrupt = Resources().level_interrupt(gsi).buffer();
  return device(link_name(gsi),
                {name("_HID", eisa_id("PNP0C0F")), name("_UID", integer(gsi)),
                 name("_STA", integer(kPresentEnabledShown)), name("_PRS", interrupt), name("_CRS", interrupt),
                 method("_SRS", 1, Serialized::kNo, {}), method("_DIS", 0, Serialized::kNo, {})});
}

Term routing_table() {
  Terms entries;
  for (unsigned slot = 0; slot < 32; ++slot) {
    for (unsigned pin = 0; pin < 4; ++pin) {
      unsigned gsi = devices::PciBus::intx_gsi(static_cast<uint8_t>(slot), static_cast<uint8_t>(pin));
      entries.push_back(package(
          {integer((uint64_t{slot} << 16) | 0xffff), integer(pin), path("\\_SB." + link_name(gsi)), integer(0)}));
    }
  }
  return name("_PRT", package(entries));
}

Term host_bridge_resources(const PlatformDescription& platform) {
  Resources resources;
  resources.bus_numbers(0, 255).io(0xcf8, 8).io_window(0, 0x0cf7).io_window(0x0d00, 0xffff);
  resources.memory_window(0xa0000, 0xbffff);
  if (platform.mmio_low_end > platform.mmio_low_start)
    resources.memory_window(platform.mmio_low_start, platform.mmio_low_end - 1);
  if (platform.mmio_high_end > platform.mmio_high_start)
    resources.memory_window(platform.mmio_high_start, platform.mmio_high_end - 1);
  if (platform.mmio64_end > platform.mmio64_start)
    resources.memory_window64(platform.mmio64_start, platform.mmio64_end - 1);
  return name("_CRS", resources.buffer());
}

// Grants control of PCI Express capabilities and keeps everything that no hardware here has. [PCI-FW-3.3 4.5]
Term operating_system_capabilities() {
  constexpr std::string_view kPciHostBridge = "33db4d5b-1ff7-401c-9657-7441c03dd766";
  constexpr uint64_t kCapabilityControl = 0x10, kUnknownUuid = 0x04;
  return method("_OSC", 4, Serialized::kYes,
                {create_dword_field(arg(3), 0, "CDW1"),
                 if_else(equal(arg(0), uuid(kPciHostBridge)),
                         {create_dword_field(arg(3), 8, "CDW3"),
                          bit_and(path("CDW3"), integer(kCapabilityControl), path("CDW3"))},
                         {bit_or(path("CDW1"), integer(kUnknownUuid), path("CDW1"))}),
                 return_value(arg(3))});
}

Term isa_device(std::string_view device_name, std::string_view id, const Resources& resources, Terms extra = {}) {
  Terms body = {name("_HID", eisa_id(id)), name("_STA", integer(kPresentEnabledShown)),
                name("_CRS", resources.buffer())};
  for (Term& term : extra) body.push_back(std::move(term));
  return device(device_name, body);
}

Term lpc_bridge(const PlatformDescription& platform) {
  auto board = Resources()
                   .io(0x61, 1)
                   .io(0x80, 1)
                   .io(0x92, 1)
                   .io(pm::kSmiCommandPort, 2)
                   .io(0x4d0, 2)
                   .io(platform.pm_base, pm::kBlockBytes)
                   .memory32(static_cast<uint32_t>(platform.ecam_base), 256u << 20);
  return device("LPC", {name("_ADR", integer(0x001f0000)),
                        isa_device("PIC", "PNP0000", Resources().io(0x20, 2).io(0xa0, 2).irq(2)),
                        isa_device("PIT", "PNP0100", Resources().io(0x40, 4).irq(0)),
                        isa_device("RTC", "PNP0B00", Resources().io(0x70, 2).irq(8)),
                        isa_device("KBD", "PNP0303", Resources().io(0x60, 1).io(0x64, 1).irq(1)),
                        isa_device("MOU", "PNP0F13", Resources().irq(12)),
                        isa_device("COM1", "PNP0501", Resources().io(0x3f8, 8).irq(4), {name("_UID", integer(1))}),
                        isa_device("COM2", "PNP0501", Resources().io(0x2f8, 8).irq(3), {name("_UID", integer(2))}),
                        isa_device("BRD", "PNP0C02", board)});
}

Term pci_root(const PlatformDescription& platform) {
  return device("PCI0", {name("_HID", eisa_id("PNP0A08")), name("_CID", eisa_id("PNP0A03")), name("_UID", integer(0)),
                         name("_SEG", integer(0)), name("_BBN", integer(0)), name("_CBA", integer(platform.ecam_base)),
                         host_bridge_resources(platform), routing_table(), operating_system_capabilities(),
                         lpc_bridge(platform)});
}

// The identifier under which Linux knows such devices; virtio itself defines none for ACPI.
Term virtio_mmio_device(unsigned index, const VirtioMmioSlot& slot) {
  return device(
      fmt::format("VR{:02X}", index),
      {name("_HID", string("LNRO0005")), name("_UID", integer(index)), name("_STA", integer(kPresentEnabledShown)),
       name("_CRS", Resources().memory32(slot.base, slot.size_bytes).level_interrupt(slot.gsi).buffer())});
}

}  // namespace

ByteImage build_dsdt_aml(const PlatformDescription& platform) {
  Terms board;
  for (unsigned cpu = 0; cpu < platform.cpu_count; ++cpu)
    board.push_back(
        device(fmt::format("C{:03X}", cpu), {name("_HID", string("ACPI0007")), name("_UID", integer(cpu))}));
  for (unsigned i = 0; i < kPciLinks; ++i) board.push_back(interrupt_link(kFirstPciGsi + i));
  board.push_back(pci_root(platform));
  board.push_back(isa_device("HPET", "PNP0103",
                             Resources().memory32(static_cast<uint32_t>(devices::hpet_regs::kBase),
                                                  static_cast<uint32_t>(devices::hpet_regs::kSizeBytes)),
                             {name("_UID", integer(0))}));

  for (unsigned i = 0; i < platform.virtio_mmio.size(); ++i)
    board.push_back(virtio_mmio_device(i, platform.virtio_mmio[i]));

  return sequence(
      {name("\\_S5", package({integer(pm::kSleepTypeS5), integer(pm::kSleepTypeS5), integer(0), integer(0)})),
       name("\\PICF", integer(0)), method("\\_PIC", 1, Serialized::kNo, {store(arg(0), path("\\PICF"))}),
       scope("\\_SB", board)});
}

}  // namespace rhea::machine
