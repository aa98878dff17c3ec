// SPDX-License-Identifier: Apache-2.0
// Fuzzes the real-time clock through its registers and its saved state.
#include "devices/timers/rtc/rtc.h"
#include "testing/device_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rhea::devices;
  using namespace rhea::testing;
  DeviceHarness harness;
  Rtc rtc({.memory_below_4g_bytes = 1 << 30}, {.clock = harness.clock, .irq = harness.line(8)});
  rtc.map_into(harness.ports);
  constexpr FuzzRange kRanges[] = {{.start = 0x70, .size_bytes = 2}};
  fuzz_device(harness, rtc, kRanges, {data, size},
              [&](unsigned, FuzzInput& input) { harness.clock.advance(uint64_t{input.take<uint32_t>()} << 16); });
  return 0;
}
