// SPDX-License-Identifier: Apache-2.0
// The one list of devices that a machine can have: name, state version, when it is wanted, how it is made.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "devices/acpi/pm/pm.h"
#include "devices/pci/pci_bus.h"
#include "devices/serial/char_backend.h"
#include "devices/timers/pit/pit.h"
#include "devices/timers/rtc/rtc.h"
#include "io/address_space.h"
#include "io/clock.h"
#include "io/device.h"
#include "io/irq.h"
#include "machine/acpi/platform_description.h"
#include "machine/pc/a20_gate.h"
#include "machine/registry/virtio_devices.h"

namespace rhea::machine {

// How virtio devices reach the guest. `kPciPorts`: each behind a PCI Express port of its own. `kMmio`: announced by
// ACPI; `kMmioCommandLine`: on the kernel's command line, for kernels without ACPI.
enum class VirtioTransport : uint8_t { kPci, kPciPorts, kMmio, kMmioCommandLine };

// What the user chose about the board's devices.
struct BoardOptions {
  uint64_t memory_below_4g_bytes = 0;
  uint64_t memory_above_4g_bytes = 0;
  devices::CharBackend* serial[2] = {};  // COM1, COM2; nullptr: nothing attached
  bool debug_exit = false;
  std::function<void(std::span<const std::byte>)> debugcon;  // empty: no such device
  std::vector<DiskOptions> disks;
  bool entropy = false;                           // a virtio entropy device
  bool balloon = false;                           // a virtio balloon: memory that the guest frees goes back to the host
  uint64_t balloon_bytes = 0;                     // what the guest is to give away at once
  std::vector<ConsolePortOptions> console_ports;  // of a virtio console; empty: none
  std::vector<NetworkOptions> networks;
  VirtioTransport transport = VirtioTransport::kPci;
  std::string capture;  // file for all frames of the network cards, in pcap format; empty: none
};

// What devices ask of the machine. vCPU threads, outside device locks.
struct BoardRequests {
  std::function<void()> reset;
  std::function<void()> power_off;
  std::function<void(uint32_t status)> debug_exit;
  std::function<void()> smi;  // of all processors
};

// What a factory finds, and what it leaves for factories further down the list.
struct Board {
  io::Clock& clock;
  io::AddressSpace& physical;
  io::AddressSpace& ports;
  io::IrqRouter& router;
  devices::PciBus& pci;
  A20Gate& a20;
  std::byte* low_ram;  // host address of RAM at 0
  const BoardOptions& options;
  const BoardRequests& requests;

  io::IoHandler* reset_register = nullptr;
  devices::AcpiPm* power_management = nullptr;
  std::vector<VirtioMmioSlot> virtio_mmio = {};
  devices::virtio::Balloon* balloon = nullptr;
  devices::virtio::Console* console = nullptr;
  devices::Pit* pit = nullptr;  // PIT and RTC hand their interrupt lines to the HPET where it asks for them
  devices::Rtc* rtc = nullptr;
};

// One device of the board.
struct BoardDevice {
  std::string_view name;  // of the instance: its section in saved state
  std::string_view description;
  uint32_t state_version;
  bool (*wanted)(const BoardOptions&);
  // Makes the device, maps its registers and connects its interrupts.
  Result<std::unique_ptr<io::Device>> (*create)(Board& board);
};

// In the order of creation and of reset.
std::span<const BoardDevice> device_registry();

}  // namespace rhea::machine
