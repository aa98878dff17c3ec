// SPDX-License-Identifier: Apache-2.0
// Fuzzes the 8259A pair through its registers and its saved state.
#include "devices/irqchip/pic/pic.h"
#include "testing/device_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rhea::devices;
  using namespace rhea::testing;
  DeviceHarness harness;
  Pic pic({.router = harness.router});
  pic.map_into(harness.ports);
  harness.router.connect_gsi_sink(&pic);
  harness.router.connect_ext_int_source(&pic);
  constexpr FuzzRange kRanges[] = {
      {.start = 0x20, .size_bytes = 2}, {.start = 0xa0, .size_bytes = 2}, {.start = 0x4d0, .size_bytes = 2}};
  fuzz_device(harness, pic, kRanges, {data, size},
              [&](unsigned, FuzzInput&) { (void)harness.router.acknowledge_ext_int(); });
  return 0;
}
