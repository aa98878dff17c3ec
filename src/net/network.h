// SPDX-License-Identifier: Apache-2.0
// What a network card is plugged into: takes Ethernet frames and hands over those that come.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/event_loop.h"
#include "net/offload.h"

namespace rhea::net {

inline constexpr size_t kMinimumFrameBytes = 14, kMaximumFrameBytes = 65535 + 14 + 8;  // with two VLAN tags

class Network {
 public:
  // On the network's own thread (see each kind); must not block. The frame is the network's again when it returns.
  // False: the frame was taken, but there is no room for more; a network that can hold frames back waits for
  // receive_more(), others go on and what does not fit is lost.
  using Receiver = std::function<bool(std::span<const std::byte> frame, const FrameOffload& offload)>;
  virtual ~Network() = default;
  // What send() takes undone. Constant.
  virtual Offloads sends() const { return {}; }
  // What the receiver takes undone from now on; nothing before the first call. Frames that are under way may still
  // come as before. Any thread.
  virtual void set_receives(const Offloads&) {}
  // From when it returns the former receiver is not running and is not called again. Any thread but the network's own.
  virtual void set_receiver(Receiver receiver) = 0;
  virtual void receive_more() {}  // any thread
  // Any thread; copies. Frames that the network cannot take now are dropped, as on a wire. `offload` says nothing that
  // sends() does not; it has been checked against the frame (hand_over()).
  virtual void send(std::span<const std::byte> frame, const FrameOffload& offload) = 0;
};

// A TCP or UDP port of the host that leads into the guest.
struct Forward {
  bool udp = false;
  std::string host_address = "127.0.0.1";
  uint16_t host_port = 0, guest_port = 0;
};
// "tcp:2222:22", "udp:5353:53", "tcp:0.0.0.0:8080:80". Errors: kInvalidArgument with the form that is expected.
Result<Forward> parse_forward(std::string_view text);

struct UserNetworkOptions {
  std::string guest_name = "rhea";  // what DHCP tells the guest its name is
  unsigned index = 0;               // among the machine's user networks: each has addresses of its own; up to 250
  uint16_t mtu = 1500;
  std::vector<Forward> forwards;
  std::function<void()> on_thread_start = {};  // on the network's own thread, before it does anything; may be empty
};

// TCP, UDP and ping to the outside through the host's sockets, without privileges: DHCP gives the guest 10.0.2.15, the
// gateway is 10.0.2.2, DNS 10.0.2.3; with an index N it is 10.0.(2+N). It works on a thread of its own. Errors: a
// forwarded port that is taken.
Result<std::unique_ptr<Network>> create_user_network(const UserNetworkOptions& options);

struct TapOptions {
  std::string interface;  // of a tap device that exists, or (with rights) of one that is made, and goes with the VM
  std::string bridge;     // instead: a bridge of the host's, which a new tap device joins
  std::array<uint8_t, 6> guest_mac{};
  uint16_t mtu = 1500;
};

// A tap device of the host's. It works on `loop`'s thread; the loop outlives it. Errors: no rights, no such bridge, a
// name that is taken, a MAC address that the bridge has already: each says what to do.
Result<std::unique_ptr<Network>> create_tap_network(base::EventLoop& loop, const TapOptions& options);

}  // namespace rhea::net
