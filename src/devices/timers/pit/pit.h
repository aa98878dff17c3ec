// SPDX-License-Identifier: Apache-2.0
// The 8254 programmable interval timer with port 0x61. Channel 0 drives IRQ 0, channel 2 the speaker.
// Spec: [8254], [ICH9 13.7.1]. Not implemented: sound. Threads: any; own lock.
#pragma once

#include <memory>
#include <mutex>
#include <optional>

#include "io/address_space.h"
#include "io/clock.h"
#include "io/device.h"
#include "io/device_spec.h"
#include "io/irq.h"
#include "platform/x86/pit_state.h"

namespace rhea::devices {

inline constexpr io::DeviceSpec kPitSpec = {
    .name = "pit", .help = "8254 interval timer and port 0x61", .state_version = 1};

class Pit final : public io::Device, public io::IoHandler {
 public:
  struct Context {
    io::Clock& clock;
    io::IrqLine irq;  // ISA IRQ 0
  };
  explicit Pit(const Context& context);
  ~Pit() override;

  void map_into(io::AddressSpace& ports);  // 0x40-0x43, 0x61
  // While another chip has channel 0's interrupt line (the HPET in legacy replacement). Not part of the state here.
  void set_irq_replaced(bool replaced);

  std::string_view name() const override { return "pit"; }
  void reset() override;
  void save_state(state::StateWriter& writer) const override;
  Status load_state(state::StateReader& reader) override;

  // Offsets are port numbers.
  uint64_t io_read(uint64_t port, unsigned size_bytes) override;
  void io_write(uint64_t port, uint64_t value, unsigned size_bytes) override;

  platform::PitState state() const;
  void set_state(const platform::PitState& state);

 private:
  uint8_t read_byte(uint16_t port);
  void write_byte(uint16_t port, uint8_t value);
  void write_control(uint8_t value, uint64_t now);
  void write_count(unsigned index, uint8_t value, uint64_t now);
  void write_port61(uint8_t value, uint64_t now);
  uint8_t read_count(unsigned index, uint64_t now);
  uint64_t now_tick() const;
  void schedule(uint64_t now);
  void on_timer();
  void set_irq(bool level) { irq_.set(level && !irq_replaced_); }

  io::Clock& clock_;
  mutable std::mutex mutex_;
  io::IrqLine irq_;
  bool irq_replaced_ = false;
  platform::PitState state_;
  std::optional<uint64_t> next_edge_;  // tick of channel 0's next rising edge that the timer is armed for
  std::unique_ptr<io::Timer> timer_;
};

}  // namespace rhea::devices
