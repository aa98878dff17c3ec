// SPDX-License-Identifier: Apache-2.0
// Fuzzes the I/O APIC through its registers and its saved state.
#include "devices/irqchip/ioapic/ioapic.h"
#include "testing/device_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rhea::devices;
  using namespace rhea::testing;
  DeviceHarness harness;
  Ioapic ioapic({.router = harness.router});
  ioapic.map_into(harness.physical);
  harness.router.connect_gsi_sink(&ioapic);
  harness.router.connect_eoi_listener(&ioapic);
  constexpr FuzzRange kRanges[] = {{.port = false, .start = 0xfec00000, .size_bytes = 0x1000},
                                   {.port = false, .start = 0xfec00000, .size_bytes = 1},
                                   {.port = false, .start = 0xfec00010, .size_bytes = 1}};
  fuzz_device(harness, ioapic, kRanges, {data, size},
              [&](unsigned, FuzzInput& input) { harness.router.broadcast_eoi(input.take<uint8_t>()); });
  return 0;
}
