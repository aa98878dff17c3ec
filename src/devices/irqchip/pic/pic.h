// SPDX-License-Identifier: Apache-2.0
// The pair of 8259A interrupt controllers of a PC, with the edge/level control registers.
// Spec: [8259A]; ELCR [ICH9 13.4]. Not implemented: MCS-80/85 mode (CALL sequence), buffered mode pins:
// no PC can observe them. Threads: any; own lock.
#pragma once

#include <mutex>

#include "io/address_space.h"
#include "io/device.h"
#include "io/device_spec.h"
#include "io/irq.h"
#include "platform/x86/pic_state.h"

namespace rhea::devices {

inline constexpr io::DeviceSpec kPicSpec = {
    .name = "pic", .help = "pair of 8259A interrupt controllers", .state_version = 1};

class Pic final : public io::Device, public io::IoHandler, public io::GsiSink, public io::ExtIntSource {
 public:
  struct Context {
    io::IrqRouter& router;  // receives the INTR output through set_ext_int()
  };
  explicit Pic(const Context& context);

  // Registers its ports (0x20, 0xa0, 0x4d0). The router must be told: connect_gsi_sink, connect_ext_int_source.
  void map_into(io::AddressSpace& ports);

  std::string_view name() const override { return "pic"; }
  void reset() override;
  void save_state(state::StateWriter& writer) const override;
  Status load_state(state::StateReader& reader) override;

  // Offsets are port numbers.
  uint64_t io_read(uint64_t port, unsigned size_bytes) override;
  void io_write(uint64_t port, uint64_t value, unsigned size_bytes) override;

  // GSIs 0-15 are the ISA IRQs; 2 (the cascade) and 16 upwards are not connected.
  void set_gsi(unsigned gsi, bool level) override;

  bool ext_int_pending() const override;
  uint8_t acknowledge_ext_int() override;

  platform::PicState state() const;  // a copy, for engines with a chip of their own and for tests
  void set_state(const platform::PicState& state);

 private:
  uint8_t read_byte(uint16_t port);
  void write_byte(uint16_t port, uint8_t value);
  void write_command(unsigned index, uint8_t value);
  void write_data(unsigned index, uint8_t value);
  void write_ocw2(unsigned index, uint8_t value);
  uint8_t read_command(unsigned index);
  void set_line(unsigned index, unsigned input, bool level);
  int pending_input(unsigned index) const;
  uint8_t acknowledge(unsigned index, int input);
  void update_output();

  io::IrqRouter& router_;
  mutable std::mutex mutex_;
  platform::PicState state_;
  bool output_ = false;
};

}  // namespace rhea::devices
