// SPDX-License-Identifier: Apache-2.0
// Fuzzes configuration space by both ways in, with a card whose BARs the guest may put anywhere.
#include "devices/pci/host_bridge/host_bridge.h"

#include "devices/acpi/reset_register/reset_register.h"
#include "devices/pci/lpc_bridge/lpc_bridge.h"
#include "testing/device_fuzz.h"

namespace {

class Registers final : public rhea::io::IoHandler {
 public:
  explicit Registers(uint64_t size_bytes) : size_bytes_(size_bytes) {}
  uint64_t io_read(uint64_t offset, unsigned size_bytes) override {
    RHEA_CHECK(offset + size_bytes <= size_bytes_);
    return 0;
  }
  void io_write(uint64_t offset, uint64_t, unsigned size_bytes) override {
    RHEA_CHECK(offset + size_bytes <= size_bytes_);
  }

 private:
  uint64_t size_bytes_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rhea::devices;
  using namespace rhea::testing;
  DeviceHarness harness;
  PciBus bus({.memory = harness.physical, .ports = harness.ports, .router = harness.router});
  ResetRegister reset({.request_reset = [] {}});
  HostBridge bridge({}, {.bus = bus, .reset_register = &reset});
  RHEA_CHECK(bridge.install().has_value());
  LpcBridge lpc({});
  RHEA_CHECK(bus.add(lpc, 0x1f, 0).has_value());
  Registers small(32), page(4096), large(0x4000);
  PciFunction card({.name = "card", .vendor = 1, .device = 2, .class_code = 0xff0000, .interrupt_pin = 2});
  card.add_bar(0, {.kind = BarKind::kIo, .size_bytes = 32, .handler = &small});
  card.add_bar(1, {.kind = BarKind::kMemory32, .size_bytes = 4096, .handler = &page});
  card.add_bar(4, {.kind = BarKind::kMemory64, .size_bytes = 0x4000, .handler = &large});
  RHEA_CHECK(bus.add(card, 3, 1).has_value());
  constexpr uint64_t kEcam = 0xb0000000;
  constexpr FuzzRange kRanges[] = {{.start = 0xcf8, .size_bytes = 8},
                                   {.port = false, .start = kEcam, .size_bytes = 256},
                                   {.port = false, .start = kEcam + 0x60, .size_bytes = 8},
                                   {.port = false, .start = kEcam + (3 << 15) + (1 << 12), .size_bytes = 64},
                                   {.port = false, .start = kEcam + (0x1f << 15), .size_bytes = 4096},
                                   {.port = false, .start = kEcam, .size_bytes = 256u << 20},
                                   {.port = false, .start = 0, .size_bytes = 0xffffffff},
                                   {.start = 0, .size_bytes = 65536}};
  fuzz_device(harness, bridge, kRanges, {data, size}, [&](unsigned kind, FuzzInput& input) {
    if (kind < 2)
      fuzz_damaged_load(card, input);
    else if (kind < 4)
      card.reset();
    else if (kind < 10)
      harness.ports.write((kind & 1) ? 0xcfc : 0xcf8, input.take<uint32_t>() | ((kind & 1) ? 0 : 1u << 31), 4);
    else
      card.set_intx(kind & 1);
  });
  return 0;
}
