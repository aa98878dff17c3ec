// SPDX-License-Identifier: Apache-2.0
// Everything a device wants of a machine, without one: address spaces, interrupt router, clock, memory; and the
// driver's side: port and MMIO accesses, save and load.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "io/address_space.h"
#include "io/device.h"
#include "io/irq.h"
#include "state/state_reader.h"
#include "state/state_writer.h"
#include "testing/clock_fake.h"
#include "testing/irq_fake.h"

namespace rhea::testing {

struct DeviceHarness {
  io::AddressSpace physical{"physical", uint64_t{1} << 46};
  io::AddressSpace ports{"ports", 65536};
  io::IrqRouter router;
  FakeIrqSinks irqs{router};
  FakeClock clock;

  io::IrqLine line(unsigned gsi) { return io::IrqLine(&router, gsi); }

  void map_ports(uint16_t first, uint64_t count, io::IoHandler& handler) {
    ports.map(
        {.start = first, .size_bytes = count, .kind = io::RangeKind::kMmio, .handler = &handler, .name = "device"});
  }
  void map_mmio(uint64_t start, uint64_t size_bytes, io::IoHandler& handler) {
    physical.map({.start = start,
                  .size_bytes = size_bytes,
                  .kind = io::RangeKind::kMmio,
                  .handler = &handler,
                  .name = "device"});
  }

  uint8_t in8(uint16_t port) { return static_cast<uint8_t>(ports.read(port, 1)); }
  uint16_t in16(uint16_t port) { return static_cast<uint16_t>(ports.read(port, 2)); }
  uint32_t in32(uint16_t port) { return static_cast<uint32_t>(ports.read(port, 4)); }
  void out8(uint16_t port, uint8_t value) { ports.write(port, value, 1); }
  void out16(uint16_t port, uint16_t value) { ports.write(port, value, 2); }
  void out32(uint16_t port, uint32_t value) { ports.write(port, value, 4); }

  uint8_t read8(uint64_t address) { return static_cast<uint8_t>(physical.read(address, 1)); }
  uint16_t read16(uint64_t address) { return static_cast<uint16_t>(physical.read(address, 2)); }
  uint32_t read32(uint64_t address) { return static_cast<uint32_t>(physical.read(address, 4)); }
  uint64_t read64(uint64_t address) { return physical.read(address, 8); }
  void write8(uint64_t address, uint8_t value) { physical.write(address, value, 1); }
  void write16(uint64_t address, uint16_t value) { physical.write(address, value, 2); }
  void write32(uint64_t address, uint32_t value) { physical.write(address, value, 4); }
  void write64(uint64_t address, uint64_t value) { physical.write(address, value, 8); }

  // The device's section as the machine would save it.
  static std::vector<std::byte> save(const io::Device& device, uint32_t version = 1) {
    state::StateWriter writer("test", 1);
    writer.section(device.name(), version, [&](state::StateWriter& section) { device.save_state(section); });
    return std::move(writer).finish();
  }
  static Status load(io::Device& device, const std::vector<std::byte>& file, uint32_t newest_version = 1) {
    state::StateReader reader = RHEA_TRY(state::StateReader::open(file));
    Status loaded;
    reader.section(device.name(), newest_version,
                   [&](state::StateReader& section) { loaded = device.load_state(section); });
    RHEA_TRY(std::move(loaded));
    return reader.status();
  }
};

}  // namespace rhea::testing
