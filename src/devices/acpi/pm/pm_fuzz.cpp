// SPDX-License-Identifier: Apache-2.0
// Fuzzes the ACPI block through its registers and its saved state.
#include "devices/acpi/pm/pm.h"
#include "testing/device_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rhea::devices;
  using namespace rhea::testing;
  DeviceHarness harness;
  AcpiPm pm({.timer_32bit = false}, {.clock = harness.clock, .sci = harness.line(9), .power_off = [] {}});
  pm.map_into(harness.ports);
  constexpr FuzzRange kRanges[] = {
      {.start = 0x600, .size_bytes = 0x30}, {.start = 0x600, .size_bytes = 0x80}, {.start = 0xb2, .size_bytes = 2}};
  fuzz_device(harness, pm, kRanges, {data, size}, [&](unsigned, FuzzInput& input) {
    pm.press_power_button();
    pm.raise_gpe(input.take<uint8_t>());
  });
  return 0;
}
