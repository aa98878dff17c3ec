// SPDX-License-Identifier: Apache-2.0
// The virtio network card over a net::Network. Spec: [VIRTIO-1.2 5.1].
// Not implemented: segmentation offloads, several queue pairs, receive filters (not offered, or nothing to filter on a
// network of one guest).
// Threads: queues are served on the I/O thread; frames arrive on the network's.
#pragma once

#include <array>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/io_thread.h"
#include "devices/virtio/virtio_device.h"
#include "net/network.h"

namespace rhea::devices::virtio {

class Net final : public VirtioDevice {
 public:
  using Mac = std::array<uint8_t, 6>;
  struct Options {
    std::string name = "net0";
    Mac mac{};
    uint16_t mtu = 1500;
  };
  struct Context {
    memory::GuestMemory& memory;
    base::IoThread& thread;
    std::unique_ptr<rhea::net::Network> network;
  };
  static Result<std::unique_ptr<Net>> create(const Options& options, Context context);
  ~Net() override;

 protected:
  void on_start() override;
  void on_stop() override;
  void on_reset() override { receive_chains_.clear(); }
  void on_queue_started(unsigned) override { bell_->ring(); }
  void on_queue_stopped(unsigned index) override;
  void on_notify(unsigned) override { bell_->ring(); }
  void fill_configuration(std::span<std::byte> out) override;
  void save_device(state::StateWriter& writer) const override;
  void load_device(state::StateReader& reader) override;

 private:
  Net(const Options& options, Context context);
  void serve();
  void serve_receive();
  bool deliver(std::span<const std::byte> frame);  // false: not enough buffers yet
  void serve_transmit();
  void transmit(const Chain& chain);
  void serve_control();
  uint8_t control(const Chain& chain);

  const Options options_;
  base::IoThread& thread_;
  std::unique_ptr<rhea::net::Network> network_;
  std::unique_ptr<base::Doorbell> bell_;
  bool serving_ = false;               // I/O thread
  std::vector<Chain> receive_chains_;  // I/O thread: taken for the frame that waits
  std::mutex mutex_;
  std::deque<std::vector<std::byte>> arrived_;
  Mac mac_;  // as the driver may have changed it; under mutex_
};

}  // namespace rhea::devices::virtio
