// SPDX-License-Identifier: Apache-2.0
// The 8042 keyboard controller with a PS/2 keyboard and a PS/2 mouse.
// Spec: [PS/2]. Not implemented: keyboard lock, password.
// Threads: any; own lock.
#pragma once

#include <functional>
#include <mutex>
#include <span>

#include "devices/input/i8042/ps2_device.h"
#include "io/address_space.h"
#include "io/device.h"
#include "io/device_spec.h"
#include "io/irq.h"

namespace rhea::devices {

inline constexpr io::DeviceSpec kI8042Spec = {
    .name = "i8042", .help = "keyboard controller with PS/2 keyboard and mouse", .state_version = 1};

class I8042 final : public io::Device, public io::IoHandler {
 public:
  struct Context {
    io::IrqLine keyboard_irq;             // ISA IRQ 1
    io::IrqLine mouse_irq;                // ISA IRQ 12
    std::function<void()> request_reset;  // the reset pulse; called on the vCPU thread, outside the lock
    // The A20 bit of the output port, whenever it may have changed; under the lock.
    std::function<void(bool level)> set_a20 = {};
  };
  explicit I8042(Context context);

  void map_into(io::AddressSpace& ports);  // 0x60, 0x64

  std::string_view name() const override { return "i8042"; }
  void reset() override;
  void save_state(state::StateWriter& writer) const override;
  Status load_state(state::StateReader& reader) override;

  // Offsets are port numbers.
  uint64_t io_read(uint64_t port, unsigned size_bytes) override;
  void io_write(uint64_t port, uint64_t value, unsigned size_bytes) override;

  void key(std::span<const uint8_t> scan_code_set2);
  void move_mouse(int dx, int dy, int dz, uint8_t buttons);

 private:
  uint8_t read_data();
  uint8_t status() const;
  bool write_command(uint8_t value);  // true: a reset was asked for
  bool write_data(uint8_t value);
  bool write_output_port(uint8_t value);
  uint8_t output_port() const;
  void set_a20(bool level);
  void put_output(uint8_t value, bool aux);
  void fill_output();
  void update_irqs();
  uint8_t translate(uint8_t set2_code);

  mutable std::mutex mutex_;
  io::IrqLine keyboard_irq_, mouse_irq_;
  std::function<void()> request_reset_;
  std::function<void(bool)> set_a20_;
  Ps2Keyboard keyboard_;
  Ps2Mouse mouse_;
  uint8_t config_ = 0;
  uint8_t pending_command_ = 0;  // controller command that waits for its data byte
  bool last_write_was_command_ = false;
  bool output_full_ = false, output_from_aux_ = false, output_from_controller_ = false;
  uint8_t output_ = 0;
  bool a20_ = true;
  bool translate_break_ = false;  // an 0xf0 prefix was swallowed
};

}  // namespace rhea::devices
