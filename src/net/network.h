// SPDX-License-Identifier: Apache-2.0
// What a network card is plugged into: takes Ethernet frames and hands over those that come.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace rhea::net {

inline constexpr size_t kMinimumFrameBytes = 14, kMaximumFrameBytes = 65550;  // header and what an offload may add

class Network {
 public:
  // On the network's own thread; must not block. The frame is the caller's again when it returns.
  using Receiver = std::function<void(std::span<const std::byte> frame)>;
  virtual ~Network() = default;
  // From when it returns the former receiver is not running and is not called again. Any thread but the network's own.
  virtual void set_receiver(Receiver receiver) = 0;
  // Any thread; copies. Frames that the network cannot take now are dropped, as on a wire.
  virtual void send(std::span<const std::byte> frame) = 0;
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
  std::vector<Forward> forwards;
  std::function<void()> on_thread_start = {};  // on the network's own thread, before it does anything; may be empty
};

// TCP, UDP and ping to the outside through the host's sockets, without privileges: DHCP gives the guest 10.0.2.15, the
// gateway is 10.0.2.2, DNS 10.0.2.3. Errors: a forwarded port that is taken.
Result<std::unique_ptr<Network>> create_user_network(const UserNetworkOptions& options);

}  // namespace rhea::net
