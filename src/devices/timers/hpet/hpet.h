// SPDX-License-Identifier: Apache-2.0
// The high precision event timer: a 64-bit counter at 100 MHz and three comparators, each one-shot or periodic, 32 or
// 64 bits wide, level- or edge-triggered, on an I/O APIC input, by message, or in place of the legacy timers. Spec:
// [IA-PC-HPET 2], [ICH9 20]. Not implemented: accesses narrower than 32 bits or unaligned, which the specification
// leaves undefined (reads see their bytes, writes are ignored).
// Threads: any; own lock.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <mutex>

#include "devices/timers/hpet/hpet_regs.h"
#include "io/address_space.h"
#include "io/clock.h"
#include "io/device.h"
#include "io/device_spec.h"
#include "io/irq.h"

namespace rhea::devices {

inline constexpr io::DeviceSpec kHpetSpec = {.name = "hpet", .help = "High precision event timer", .state_version = 1};

class Hpet final : public io::Device, public io::IoHandler {
 public:
  struct Context {
    io::Clock& clock;
    io::IrqRouter& router;
    // True: the legacy timers' lines, IRQ 0 and IRQ 8, are the HPET's, and PIT and RTC must leave them alone. Called
    // under the device's lock; may be empty.
    std::function<void(bool)> set_legacy_replacement = {};
  };
  explicit Hpet(const Context& context);
  ~Hpet() override;

  void map_into(io::AddressSpace& physical);  // 0xfed00000, 1 KiB

  std::string_view name() const override { return "hpet"; }
  void reset() override;
  void save_state(state::StateWriter& writer) const override;
  Status load_state(state::StateReader& reader) override;

  uint64_t io_read(uint64_t offset, unsigned size_bytes) override;
  void io_write(uint64_t offset, uint64_t value, unsigned size_bytes) override;

 private:
  struct TimerState {
    static constexpr uint32_t kStateVersion = 1;
    uint64_t config = 0;  // the writable bits
    uint64_t comparator = ~uint64_t{0};
    uint64_t period = 0;  // what was last written to the comparator in periodic mode
    uint64_t fsb_route = 0;
    uint64_t settled = ~uint64_t{0};  // the counter's value up to which matches have been dealt with

    template <class Archive>
    static void describe(Archive& archive, auto& self);
  };
  struct State {
    static constexpr uint32_t kStateVersion = 1;
    uint64_t config = 0;
    uint64_t status = 0;
    uint64_t counter = 0;  // halted: the counter; running: the counter at tick 0 of the machine's clock
    uint32_t raised = 0;   // lines that are up, by timer; kept here only in saved state
    std::array<TimerState, hpet_regs::kTimers> timer;

    template <class Archive>
    static void describe(Archive& archive, auto& self);
  };

  bool running() const { return state_.config & hpet_regs::kEnable; }
  bool legacy() const { return state_.config & hpet_regs::kLegacyReplacement; }
  uint64_t now_tick() const { return clock_.now_ns() / hpet_regs::kTickNs; }
  uint64_t counter() const { return running() ? state_.counter + now_tick() : state_.counter; }
  uint64_t read_register(uint64_t offset);
  void write_register(uint64_t offset, uint64_t mask, uint64_t value);
  void write_configuration(uint64_t value);
  void write_counter(uint64_t value);
  void write_timer_configuration(unsigned index, uint64_t value);
  void write_comparator(unsigned index, uint64_t mask, uint64_t value);
  bool settle(unsigned index);
  void fire(unsigned index);
  void update_line(unsigned index);
  void route(unsigned index);
  void schedule(unsigned index, uint64_t earliest_ns = 0);
  void apply();
  void on_timer(unsigned index);

  io::Clock& clock_;
  io::IrqRouter& router_;
  std::function<void(bool)> set_legacy_replacement_;
  mutable std::mutex mutex_;
  State state_;
  std::array<io::IrqLine, hpet_regs::kTimers> line_;
  std::array<std::unique_ptr<io::Timer>, hpet_regs::kTimers> timer_;
};

}  // namespace rhea::devices
