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

#include "io/address_space.h"
#include "io/clock.h"
#include "io/device.h"
#include "io/irq.h"

namespace rhea::devices {

class Rtc final : public io::Device, public io::IoHandler {
 public:
  struct Options {
    uint64_t memory_below_4g_bytes = 0;  // all RAM under the PCI hole, for the CMOS memory-size bytes
    uint64_t memory_above_4g_bytes = 0;
  };
  struct Context {
    io::Clock& clock;
    io::IrqLine irq;                                 // ISA IRQ 8
    std::function<void(bool)> set_nmi_masked = {};   // bit 7 of port 0x70 changed; may be empty
  };
  Rtc(const Options& options, const Context& context);
  ~Rtc() override;

  void map_into(io::AddressSpace& ports);  // 0x70-0x71

  std::string_view name() const override { return "rtc"; }
  void reset() override;
  void save_state(state::StateWriter& writer) const override;
  Status load_state(state::StateReader& reader) override;

  // Offsets are port numbers.
  uint64_t io_read(uint64_t port, unsigned size_bytes) override;
  void io_write(uint64_t port, uint64_t value, unsigned size_bytes) override;

 private:
  uint8_t read_byte(uint16_t port);
  void write_byte(uint16_t port, uint8_t value);
  uint8_t read_register(uint8_t index);
  void write_register(uint8_t index, uint8_t value);
  int64_t guest_time_ns() const;
  void store_time_fields();
  void load_time_from_fields();
  bool clock_stopped() const;
  uint8_t encode(unsigned value) const;
  unsigned decode(uint8_t value) const;
  uint64_t periodic_interval_ns() const;
  void collect_events();
  void update_irq();
  void schedule();
  void on_timer();

  Options options_;
  io::Clock& clock_;
  std::function<void(bool)> set_nmi_masked_;
  mutable std::mutex mutex_;
  io::IrqLine irq_;
  std::array<uint8_t, 128> cmos_{};
  uint8_t index_ = 0;
  bool nmi_masked_ = false;
  int64_t offset_ns_ = 0;         // guest time minus wall time
  int64_t last_second_ = 0;       // guest second up to which update and alarm events are accounted for
  uint64_t periodic_base_ns_ = 0; // machine time of the last accounted periodic tick
  std::unique_ptr<io::Timer> timer_;
};

}  // namespace rhea::devices
