// SPDX-License-Identifier: Apache-2.0
// The MC146818 real-time clock with 128 bytes of CMOS; time comes from the machine's wall clock (UTC).
// Spec: [MC146818]. Not implemented: square-wave output (no pin), daylight saving switch (the bit is kept).
// Threads: any; own lock.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "io/address_space.h"
#include "io/clock.h"
#include "io/device.h"
#include "io/device_spec.h"
#include "io/irq.h"

namespace rhea::devices {

inline constexpr io::DeviceSpec kRtcSpec = {
    .name = "rtc", .help = "MC146818 real-time clock and CMOS", .state_version = 1};

class Rtc final : public io::Device, public io::IoHandler {
 public:
  struct Options {
    uint64_t memory_below_4g_bytes = 0;  // all RAM under the PCI hole, for the CMOS memory-size bytes
    uint64_t memory_above_4g_bytes = 0;
  };
  struct Context {
    io::Clock& clock;
    io::IrqLine irq;                                // ISA IRQ 8
    std::function<void(bool)> set_nmi_masked = {};  // bit 7 of port 0x70 changed; may be empty
  };
  Rtc(const Options& options, const Context& context);
  ~Rtc() override;

  void map_into(io::AddressSpace& ports);  // 0x70-0x71
  // While another chip has the interrupt line (the HPET in legacy replacement). Not part of the state here.
  void set_irq_replaced(bool replaced);

  std::string_view name() const override { return "rtc"; }
  void reset() override;
  void save_state(state::StateWriter& writer) const override;
  Status load_state(state::StateReader& reader) override;

  // Offsets are port numbers.
  uint64_t io_read(uint64_t port, unsigned size_bytes) override;
  void io_write(uint64_t port, uint64_t value, unsigned size_bytes) override;

 private:
  uint8_t read_byte(uint16_t port);
  bool write_byte(uint16_t port, uint8_t value);  // true: the NMI mask changed
  uint8_t read_register(uint8_t index);
  void write_register(uint8_t index, uint8_t value);
  void write_register_a(uint8_t value);
  void write_register_b(uint8_t value);
  bool stopped() const;  // SET, or the divider held in reset: time stands in cmos_
  int64_t guest_time_ns() const;
  int64_t phase_ns() const;          // into the current second
  void store_time();                 // the running time to cmos_
  void load_time(int64_t phase_ns);  // ... and back: phase_ns into the second
  uint8_t encode(unsigned value) const;
  unsigned decode(uint8_t value) const;
  uint8_t encode_hour(unsigned hour) const;
  unsigned decode_hour(uint8_t value) const;
  bool alarm_matches(uint8_t index, unsigned value) const;
  std::optional<int64_t> next_alarm(int64_t after_second) const;
  std::optional<uint64_t> period_ticks() const;  // of the 32.768 kHz crystal
  uint64_t crystal_ticks() const;
  void collect_events();
  void schedule();
  void on_timer();
  void write_memory_size();
  void update_irq();

  Options options_;
  io::Clock& clock_;
  std::function<void(bool)> set_nmi_masked_;
  mutable std::mutex mutex_;
  io::IrqLine irq_;
  bool irq_replaced_ = false;
  std::array<uint8_t, 128> cmos_{};
  uint8_t index_ = 0;
  bool nmi_masked_ = false;
  int64_t offset_ns_ = 0;     // guest time minus wall time
  int64_t last_second_ = 0;   // guest second up to which update and alarm events are accounted for
  uint64_t last_period_ = 0;  // number of the periodic interval accounted for
  std::unique_ptr<io::Timer> timer_;
};

}  // namespace rhea::devices
