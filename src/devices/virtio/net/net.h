// SPDX-License-Identifier: Apache-2.0
// The virtio network card over a net::Network. Spec: [VIRTIO-1.2 5.1].
// What the driver leaves undone in a frame and the network does not take is done here, and the other way round, so all
// offloads are offered on any network.
// Not implemented: hashes and RSS, UDP fragmentation (UFO; USO is there), coalescing of interrupts, speed and duplex:
// none is offered.
// Threads: queues are served on the I/O thread; frames arrive on the network's.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/io_thread.h"
#include "devices/virtio/net/receive_filter.h"
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
    unsigned pairs = 1;   // of queues, 1 to net::kMaximumPairs
    bool link_up = true;  // else the cable is out
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
  void on_reset() override;
  void on_queue_started(unsigned) override { bell_->ring(); }
  void on_queue_stopped(unsigned index) override;
  void on_notify(unsigned) override { bell_->ring(); }
  void fill_configuration(std::span<std::byte> out) override;
  void save_device(state::StateWriter& writer) const override;
  void load_device(state::StateReader& reader) override;

 private:
  // A frame on its way to the driver, as it will lie in the buffers: header and all.
  using Packet = std::vector<std::byte>;

  Net(const Options& options, Context context);
  unsigned pairs() const;          // that the driver may use
  unsigned control_queue() const;  // [VIRTIO-1.2 5.1.2]
  void serve();

  // net_data.cpp
  bool arrive(std::span<const std::byte> frame, const rhea::net::FrameOffload& offload);
  unsigned steer(std::span<const std::byte> frame) const;
  void learn(std::span<const std::byte> frame, unsigned pair);
  bool wanted(const Packet& packet);
  bool finish(const Packet& packet, std::vector<Packet>& parts) const;
  void serve_receive(unsigned pair);
  bool deliver(Queue& ring, Packet& packet);  // false: not enough buffers yet
  bool take_buffers(Queue& ring, uint64_t bytes);
  void serve_transmit(unsigned pair);
  void transmit(const Chain& chain, unsigned pair);

  // net_control.cpp
  void serve_control();
  bool control(const Chain& chain);
  bool control_receive(uint8_t what, std::span<const std::byte> data);
  bool control_mac(uint8_t what, std::span<const std::byte> data);
  bool control_vlan(uint8_t what, std::span<const std::byte> data);
  bool control_pairs(uint8_t what, std::span<const std::byte> data);
  bool control_offloads(uint8_t what, std::span<const std::byte> data);
  void set_guest_offloads(uint64_t features);

  const Options options_;
  base::IoThread& thread_;
  std::unique_ptr<rhea::net::Network> network_;
  std::unique_ptr<base::Doorbell> bell_;
  std::atomic<bool> serving_ = false;  // written on the I/O thread
  std::atomic<unsigned> active_pairs_ = 1;
  std::array<std::atomic<uint8_t>, 256> steering_{};  // by a flow's hash: the pair that its driver sends on

  // The I/O thread's; while that does not serve, whoever stopped it.
  ReceiveFilter filter_;
  uint64_t guest_offloads_ = 0;   // features
  bool offloads_chosen_ = false;  // by a command, and not only by the negotiation
  rhea::net::Offloads receives_;
  std::vector<Chain> buffers_;  // for the frame being delivered
  Packet sending_;

  std::mutex mutex_;
  std::vector<std::deque<Packet>> arrived_;  // for each pair
  size_t arrived_count_ = 0;
  bool held_back_ = false;  // the network was told that there is no room
  Mac mac_;                 // as the driver may have changed it
  bool announce_ = false;
};

}  // namespace rhea::devices::virtio
