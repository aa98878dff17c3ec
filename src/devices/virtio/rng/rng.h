// SPDX-License-Identifier: Apache-2.0
// The virtio entropy device: random bytes of the host's kernel. Spec: [VIRTIO-1.2 5.4].
// Threads: buffers are filled on the I/O thread.
#pragma once

#include <memory>
#include <string>

#include "base/io_thread.h"
#include "devices/virtio/virtio_device.h"

namespace rhea::devices::virtio {

class Rng final : public VirtioDevice {
 public:
  struct Context {
    memory::GuestMemory& memory;
    base::IoThread& thread;
  };
  static Result<std::unique_ptr<Rng>> create(const std::string& name, const Context& context);
  ~Rng() override;

 protected:
  void on_start() override;
  void on_stop() override;
  void on_notify(unsigned) override { bell_->ring(); }
  void on_queue_started(unsigned) override { bell_->ring(); }
  void on_queue_stopped(unsigned index) override;
  void fill_configuration(std::span<std::byte>) override {}

 private:
  Rng(const std::string& name, const Context& context);
  void serve();

  base::IoThread& thread_;
  std::unique_ptr<base::Doorbell> bell_;
  bool serving_ = false;  // I/O thread
};

}  // namespace rhea::devices::virtio
