// SPDX-License-Identifier: Apache-2.0
// Network cards as the user names them, and what they are plugged into.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/event_loop.h"
#include "io/device_spec.h"
#include "net/network.h"

namespace rhea::machine {

// A network card: `--net user`, `--net tap=NAME`, `--net bridge=NAME`, each with properties behind it.
struct NetworkOptions {
  enum class Kind : uint8_t { kUser, kTap, kBridge };
  Kind kind = Kind::kUser;
  std::string interface;                      // tap device or bridge
  std::optional<std::array<uint8_t, 6>> mac;  // nothing: one is chosen, the same each time
  uint16_t mtu = 1500;
  unsigned queues = 1;  // pairs
  bool link_up = true;
  std::vector<net::Forward> forwards;          // user: ports of the host that lead to the guest
  std::string machine_name = "rhea";           // user: what DHCP says; others: part of what the MAC address is made of
  std::function<void()> on_thread_start = {};  // user: on the network's own thread, before it does anything
};
// Errors: kInvalidArgument, with the nearest right word.
Result<NetworkOptions> parse_network(std::string_view text);
const io::DeviceSpec& network_spec();

// The card's address: what the user said, or one that is locally administered and the same each time. `index`: among
// the machine's cards.
std::array<uint8_t, 6> mac_of(const NetworkOptions& options, size_t index);

// What the card `index` is plugged into; `user_index`: among the user networks before it. Errors: as those of net.
Result<std::unique_ptr<net::Network>> create_network(const NetworkOptions& options, size_t index, unsigned user_index,
                                                     base::EventLoop& loop);

}  // namespace rhea::machine
