// SPDX-License-Identifier: Apache-2.0
// State of one local APIC, shared by the software LAPIC and by engines with one of their own.
#pragma once

#include <array>
#include <cstdint>

namespace rhea::platform {

// The LAPIC timer counts a 1 GHz bus clock: with divide-by-1 a tick is a nanosecond. CPUID 0x15 reports
// this as the crystal frequency, so guests need not calibrate it.
inline constexpr uint64_t kLapicTimerHz = 1'000'000'000;

enum LapicLvt : uint8_t { kLvtTimer, kLvtThermal, kLvtPerf, kLvtLint0, kLvtLint1, kLvtError, kLvtCount };

// [SDM-3A 11.4.1] Register images as the guest reads them, except where said otherwise.
struct LapicState {
  static constexpr uint32_t kStateVersion = 2;  // 2: woken

  uint32_t id = 0;         // the x2APIC ID; the xAPIC ID register shows its low byte
  uint64_t apic_base = 0;  // IA32_APIC_BASE
  uint32_t tpr = 0;
  uint32_t ldr = 0;  // xAPIC form; the x2APIC one derives from `id`
  uint32_t dfr = 0xffffffff;
  uint32_t svr = 0xff;
  uint32_t esr = 0;          // as read
  uint32_t esr_pending = 0;  // errors since the last write of ESR
  uint64_t icr = 0;
  std::array<uint32_t, 8> irr{}, isr{}, tmr{};
  std::array<uint32_t, kLvtCount> lvt{};
  uint32_t initial_count = 0;
  uint32_t divide_config = 0;
  uint64_t timer_start_ns = 0;  // machine clock when initial_count was written (last reload if periodic)
  uint64_t tsc_deadline = 0;    // IA32_TSC_DEADLINE; 0 disarmed
  uint64_t tsc_adjust = 0;
  bool timer_running = false;  // one-shot or periodic: has not expired for good
  bool ext_int_level = false;  // INTR from the 8259 pair
  bool nmi_pending = false;
  bool smi_pending = false;
  bool init_pending = false;
  bool sipi_pending = false;
  uint8_t sipi_vector = 0;
  bool woken = false;  // by a hypercall: the next HLT ends at once

  template <class Archive>
  static void describe(Archive& archive, auto& self) {
    archive.field("id", self.id);
    archive.field("apic_base", self.apic_base);
    archive.field("tpr", self.tpr);
    archive.field("ldr", self.ldr);
    archive.field("dfr", self.dfr);
    archive.field("svr", self.svr);
    archive.field("esr", self.esr);
    archive.field("esr_pending", self.esr_pending);
    archive.field("icr", self.icr);
    archive.field("irr", self.irr);
    archive.field("isr", self.isr);
    archive.field("tmr", self.tmr);
    archive.field("lvt", self.lvt);
    archive.field("initial_count", self.initial_count);
    archive.field("divide_config", self.divide_config);
    archive.field("timer_start_ns", self.timer_start_ns);
    archive.field("tsc_deadline", self.tsc_deadline);
    archive.field("tsc_adjust", self.tsc_adjust);
    archive.field("timer_running", self.timer_running);
    archive.field("ext_int_level", self.ext_int_level);
    archive.field("nmi_pending", self.nmi_pending);
    archive.field("smi_pending", self.smi_pending);
    archive.field("init_pending", self.init_pending);
    archive.field("sipi_pending", self.sipi_pending);
    archive.field("sipi_vector", self.sipi_vector);
    archive.field_since(2, "woken", self.woken);
  }
};

}  // namespace rhea::platform
