// SPDX-License-Identifier: Apache-2.0
// Fuzzes the 8254 through its registers and its saved state.
#include "devices/timers/pit/pit.h"
#include "testing/device_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rhea::devices;
  using namespace rhea::testing;
  DeviceHarness harness;
  Pit pit({.clock = harness.clock, .irq = harness.line(0)});
  pit.map_into(harness.ports);
  constexpr FuzzRange kRanges[] = {{.start = 0x40, .size_bytes = 4}, {.start = 0x61, .size_bytes = 1}};
  fuzz_device(harness, pit, kRanges, {data, size});
  return 0;
}
