// SPDX-License-Identifier: Apache-2.0
// The devices that a machine has any number of: virtio on PCI or with memory-mapped registers, each with its
// properties.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/io_thread.h"
#include "devices/serial/char_backend.h"
#include "io/device.h"
#include "io/device_spec.h"
#include "machine/registry/networks.h"
#include "memory/guest_memory.h"

namespace rhea::devices::virtio {
class Balloon;
class Console;
}  // namespace rhea::devices::virtio

namespace rhea::machine {

struct Board;
struct VirtioMmioSlot;

// What the user says of a disk: `--disk FILE,readonly=on,...`.
inline constexpr std::string_view kFormatByName = "by-name";  // to be resolved before a machine is made with it

struct DiskOptions {
  std::string path;
  std::string format = "raw";
  std::string serial;
  bool read_only = false;
  unsigned queues = 1;
  uint32_t block_bytes = 512;
  bool backing_anywhere = false;
  std::string trusted_backing;  // as in block::OpenOptions
  bool io_uring = true;
};
// Errors: kInvalidArgument, with the nearest right property.
Result<DiskOptions> parse_disk(std::string_view text);
const io::DeviceSpec& disk_spec();

// A port of the virtio console: the first is the terminal, the others are channels with names.
struct ConsolePortOptions {
  std::string name;
  devices::CharBackend* backend = nullptr;  // outlives the machine
};

// A device as the machine keeps it.
struct NamedDevice {
  std::string name;  // of the instance: its section in saved state
  uint32_t state_version = 1;
  std::unique_ptr<io::Device> device;
};

// Makes the disks, network cards, entropy device, balloon and console that the board's options ask for. `threads` takes
// the threads they work on, and outlives the devices.
Status create_virtio_devices(Board& board, memory::GuestMemory& memory,
                             std::vector<std::unique_ptr<base::IoThread>>& threads, std::vector<NamedDevice>& devices);

// What a kernel without ACPI is told of devices with memory-mapped registers, to be appended to its command line.
std::string virtio_mmio_parameters(std::span<const VirtioMmioSlot> slots);

}  // namespace rhea::machine
