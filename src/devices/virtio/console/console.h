// SPDX-License-Identifier: Apache-2.0
// The virtio console: a terminal and any number of named byte channels. Spec: [VIRTIO-1.2 5.3].
// Not implemented: emergency writes (not offered). Of one buffer at most a mebibyte is put out.
// Threads: queues are served on the I/O thread, where backends are written to; input from the backends' threads.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/io_thread.h"
#include "devices/serial/char_backend.h"
#include "devices/virtio/virtio_device.h"

namespace rhea::devices::virtio {

class Console final : public VirtioDevice {
 public:
  // Port 0 is the console (hvc0 to Linux); the others are channels that the guest finds by name.
  struct PortOptions {
    std::string name;                // empty for port 0
    CharBackend* backend = nullptr;  // outlives the device; nullptr: nothing attached
  };
  struct Options {
    std::string name = "console0";
    std::vector<PortOptions> ports = {{}};  // 1 to 31
  };
  struct Context {
    memory::GuestMemory& memory;
    base::IoThread& thread;  // of its own: a backend may hold it up
  };
  // Errors: kInvalidArgument for no port or too many.
  static Result<std::unique_ptr<Console>> create(Options options, const Context& context);
  ~Console() override;

  // The terminal has another size. Any thread.
  void set_size(uint16_t columns, uint16_t rows);

 protected:
  void on_start() override;
  void on_stop() override;
  void on_reset() override;
  void on_notify(unsigned) override { bell_->ring(); }
  void on_queue_started(unsigned) override { bell_->ring(); }
  void on_queue_stopped(unsigned index) override;
  void fill_configuration(std::span<std::byte> out) override;
  void save_device(state::StateWriter& writer) const override;
  void load_device(state::StateReader& reader) override;

 private:
  class Port;
  Console(Options options, const Context& context);
  void serve();
  void serve_control_transmit();
  void serve_control_receive();
  void serve_output(unsigned port);
  void serve_input(unsigned port);
  void handle_control(uint32_t port, uint16_t event, uint16_t value);
  void tell(uint32_t port, uint16_t event, uint16_t value, std::span<const std::byte> more = {});
  void tell_size();
  bool multiport() const;

  base::IoThread& thread_;
  std::vector<std::unique_ptr<Port>> ports_;
  std::unique_ptr<base::Doorbell> bell_;
  bool serving_ = false;                          // I/O thread
  std::deque<std::vector<std::byte>> to_driver_;  // I/O thread: control messages that wait for buffers
  mutable std::mutex mutex_;
  uint16_t columns_ = 80, rows_ = 25;  // under mutex_
  bool size_changed_ = false;          // under mutex_
};

}  // namespace rhea::devices::virtio
