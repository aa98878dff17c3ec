// SPDX-License-Identifier: Apache-2.0
// The 16550A UART. Transmission is immediate; reception is paced by the backend's flow control, never by
// the baud rate, except for the FIFO timeout interrupt, which follows the programmed character time.
// Spec: [PC16550D]. Not implemented: DMA signalling pins (RXRDY, TXRDY). Threads: any; own lock.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <string>

#include "devices/serial/char_backend.h"
#include "io/address_space.h"
#include "io/clock.h"
#include "io/device.h"
#include "io/device_spec.h"
#include "io/irq.h"

namespace rhea::devices {

inline constexpr io::PropertySpec kUart16550Properties[] = {
    {.name = "port",
     .type = io::PropertyType::kUint,
     .help = "first I/O port",
     .default_value = "0x3f8",
     .max = 0xfff8},
};
inline constexpr io::DeviceSpec kUart16550Spec = {
    .name = "serial", .help = "16550A UART", .state_version = 1, .properties = kUart16550Properties};

class Uart16550 final : public io::Device, public io::IoHandler, public CharReceiver {
 public:
  struct Options {
    std::string name = "serial0";
    uint16_t port = 0x3f8;
  };
  struct Context {
    io::Clock& clock;
    io::IrqLine irq;
    CharBackend* backend = nullptr;  // nullptr: bytes vanish, nothing is received; outlives the UART
  };
  Uart16550(const Options& options, const Context& context);
  ~Uart16550() override;

  void map_into(io::AddressSpace& ports);

  std::string_view name() const override { return options_.name; }
  void reset() override;
  void save_state(state::StateWriter& writer) const override;
  Status load_state(state::StateReader& reader) override;

  uint64_t io_read(uint64_t offset, unsigned size_bytes) override;
  void io_write(uint64_t offset, uint64_t value, unsigned size_bytes) override;

  // CharReceiver: nothing is taken in loopback mode or while the FIFO is full.
  size_t receive_capacity() const override;
  size_t receive(std::span<const std::byte> data) override;
  void receive_break() override;

 private:
  struct Received {
    uint8_t data = 0;
    uint8_t errors = 0;  // LSR parity, framing, break bits of this character
  };
  uint8_t read_byte(uint8_t offset, bool& wake_backend);
  void write_byte(uint8_t offset, uint8_t value, bool& transmit, bool& wake_backend);
  uint8_t read_data();
  uint8_t read_iir();
  void write_fcr(uint8_t value);
  void write_mcr(uint8_t value);
  bool push(Received character);
  void clear_receive_fifo();
  bool fifo_enabled() const;
  unsigned trigger_level() const;
  size_t capacity_locked() const;
  uint64_t character_time_ns() const;
  uint8_t modem_lines() const;
  uint8_t interrupt_id() const;
  void refresh_line_status();
  void update_irq();
  void arm_timeout();
  void on_timeout();

  Options options_;
  io::Clock& clock_;
  CharBackend* backend_;
  mutable std::mutex mutex_;
  io::IrqLine irq_;
  uint8_t ier_ = 0, lcr_ = 0, mcr_ = 0, lsr_ = 0, msr_ = 0, scr_ = 0, fcr_ = 0;
  uint16_t divisor_ = 0;
  bool thr_interrupt_ = false;  // THRE interrupt pending: cleared by reading IIR or writing THR
  bool timeout_pending_ = false;
  uint64_t timeout_deadline_ns_ = 0;  // 0: not armed
  std::array<Received, 16> fifo_{};
  unsigned fifo_head_ = 0, fifo_count_ = 0;
  std::unique_ptr<io::Timer> timer_;
};

}  // namespace rhea::devices
