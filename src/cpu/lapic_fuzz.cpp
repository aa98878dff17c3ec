// SPDX-License-Identifier: Apache-2.0
// Fuzzes the local APIC through its registers, MSRs, messages and saved state.
#include <cstring>
#include <span>

#include "cpu/lapic.h"
#include "cpu/lapic_regs.h"
#include "testing/device_harness.h"

namespace {

class NullBus final : public rhea::cpu::LapicBus {
 public:
  void send_ipi(unsigned, uint64_t) override {}
  void broadcast_eoi(uint8_t) override {}
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using rhea::testing::DeviceHarness;
  rhea::testing::FakeClock clock;
  NullBus bus;
  rhea::cpu::Lapic lapic({.id = 3}, clock, bus);
  // Each operation: kind, register, eight bytes of value.
  for (; size >= 10; data += 10, size -= 10) {
    uint64_t value = 0;
    std::memcpy(&value, data + 2, sizeof value);
    switch (data[0] % 12) {
      case 0: lapic.io_write(uint64_t{data[1]} << 4, value, 4); break;
      case 1: lapic.io_write(value & 0xfff, value, 1u << (data[1] & 3)); break;
      case 2: (void)lapic.io_read(value & 0xfff, 1u << (data[1] & 3)); break;
      case 3: lapic.write_msr(0x800u + data[1], value); break;
      case 4: lapic.write_msr((data[1] & 1) ? 0x1b : 0x6e0, value); break;
      case 5: lapic.read_msr(0x800u + data[1], value); break;
      case 6: lapic.deliver(data[1] & 7, static_cast<uint8_t>(value), value & 0x100); break;
      case 7: clock.advance(value & 0xfffff); break;
      case 8:
        (void)lapic.pending();
        (void)lapic.acknowledge_interrupt();
        break;
      case 9:
        lapic.set_ext_int(value & 1);
        (void)lapic.matches(static_cast<uint32_t>(value >> 8), value & 2);
        break;
      case 10:
        lapic.set_tsc_adjust(value);
        (void)lapic.take_init();
        break;
      default: {
        const auto saved = DeviceHarness::save(lapic);
        if (!DeviceHarness::load(lapic, saved)) __builtin_trap();
        break;
      }
    }
  }
  return 0;
}
