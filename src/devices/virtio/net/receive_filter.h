// SPDX-License-Identifier: Apache-2.0
// Which frames a driver wants: modes, tables of addresses, VLANs. Spec: [VIRTIO-1.2 5.1.6.5.1 - 5.1.6.5.3].
#pragma once

#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "devices/virtio/net/net_wire.h"

namespace rhea::state {
class StateWriter;
class StateReader;
}  // namespace rhea::state

namespace rhea::devices::virtio {

// Threads: one at a time.
class ReceiveFilter {
 public:
  using Mac = std::array<uint8_t, 6>;

  // Lets everything pass, as a card whose driver has said nothing.
  void reset() { *this = {}; }
  // A mode switched on or off. False: no such mode.
  bool set_mode(uint8_t mode, bool on);
  // The two tables as the driver sends them: each a count of 32 bits and that many addresses. False: cut short.
  bool set_tables(std::span<const std::byte> tables);
  void filter_vlans(bool on) { filter_vlans_ = on; }
  bool set_vlan(uint16_t vlan, bool member);  // false: no VLAN

  // `own`: the card's address. The frame has at least an Ethernet header.
  bool wants(std::span<const std::byte> frame, const Mac& own) const;

  void save(state::StateWriter& writer) const;
  void load(state::StateReader& reader);

 private:
  static constexpr size_t kMaximumAddresses = 64, kVlans = 4096;  // a table that is longer means all
  struct Table {
    std::vector<Mac> addresses;
    bool all = false;
  };
  bool mode(net::ReceiveMode mode) const { return modes_ >> mode & 1; }
  static bool take_table(std::span<const std::byte>& bytes, Table& table);

  uint8_t modes_ = 1u << net::kPromiscuous;
  Table unicast_, multicast_;
  bool filter_vlans_ = false;
  std::bitset<kVlans> vlans_;
};

}  // namespace rhea::devices::virtio
