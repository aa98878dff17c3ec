// SPDX-License-Identifier: Apache-2.0
// Fuzzes the keyboard controller through its registers and its saved state.
#include "devices/input/i8042/i8042.h"
#include "testing/device_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rhea::devices;
  using namespace rhea::testing;
  DeviceHarness harness;
  I8042 controller({.keyboard_irq = harness.line(1), .mouse_irq = harness.line(12), .request_reset = [] {}});
  controller.map_into(harness.ports);
  constexpr FuzzRange kRanges[] = {{.start = 0x60, .size_bytes = 1}, {.start = 0x64, .size_bytes = 1}};
  fuzz_device(harness, controller, kRanges, {data, size}, [&](unsigned kind, FuzzInput& input) {
    if (kind & 1) {
      const auto code = input.take<uint32_t>();
      controller.key({reinterpret_cast<const uint8_t*>(&code), 1 + (code >> 30)});
    } else {
      const auto x = input.take<int32_t>(), y = input.take<int32_t>();
      controller.move_mouse(x, y, x ^ y, input.take<uint8_t>());
    }
  });
  return 0;
}
