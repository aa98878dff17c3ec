// SPDX-License-Identifier: Apache-2.0
// Fuzzes the HPET through its registers and its saved state.
#include "devices/timers/hpet/hpet.h"
#include "testing/device_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rhea::devices;
  using namespace rhea::testing;
  DeviceHarness harness;
  Hpet hpet({.clock = harness.clock, .router = harness.router});
  hpet.reset();
  hpet.map_into(harness.physical);
  constexpr uint64_t kBase = hpet_regs::kBase;
  constexpr FuzzRange kRanges[] = {{.port = false, .start = kBase, .size_bytes = 0x400},
                                   {.port = false, .start = kBase + 0x10, .size_bytes = 1},
                                   {.port = false, .start = kBase + 0xf0, .size_bytes = 1},
                                   {.port = false, .start = kBase + 0x100, .size_bytes = 1},
                                   {.port = false, .start = kBase + 0x108, .size_bytes = 1},
                                   {.port = false, .start = kBase + 0x120, .size_bytes = 0x20}};
  fuzz_device(harness, hpet, kRanges, {data, size});
  return 0;
}
