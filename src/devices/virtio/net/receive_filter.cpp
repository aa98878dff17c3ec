// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/net/receive_filter.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices::virtio {

using namespace net;

namespace {

constexpr ReceiveFilter::Mac kBroadcast = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
constexpr size_t kMacBytes = 6, kTypeOffset = 12, kTagOffset = 14;

bool contains(const std::vector<ReceiveFilter::Mac>& addresses, const ReceiveFilter::Mac& address) {
  return std::ranges::find(addresses, address) != addresses.end();
}

}  // namespace

bool ReceiveFilter::set_mode(uint8_t mode, bool on) {
  if (mode >= kReceiveModes) return false;
  modes_ = static_cast<uint8_t>((modes_ & ~(1u << mode)) | (unsigned{on} << mode));
  return true;
}

// GUEST-CONTROLLED: the count may be anything; the bytes that are there bound it.
bool ReceiveFilter::take_table(std::span<const std::byte>& bytes, Table& table) {
  uint32_t count = 0;
  if (bytes.size() < sizeof count) return false;
  std::memcpy(&count, bytes.data(), sizeof count);
  bytes = bytes.subspan(sizeof count);
  if (count > bytes.size() / kMacBytes) return false;
  table = {.addresses = {}, .all = count > kMaximumAddresses};
  for (uint32_t i = 0; i < count && !table.all; ++i)
    std::memcpy(table.addresses.emplace_back().data(), bytes.data() + kMacBytes * i, kMacBytes);
  bytes = bytes.subspan(kMacBytes * count);
  return true;
}

bool ReceiveFilter::set_tables(std::span<const std::byte> tables) {
  Table unicast, multicast;
  if (!take_table(tables, unicast) || !take_table(tables, multicast)) return false;
  unicast_ = std::move(unicast);
  multicast_ = std::move(multicast);
  return true;
}

bool ReceiveFilter::set_vlan(uint16_t vlan, bool member) {
  if (vlan >= kVlans) return false;
  vlans_.set(vlan, member);
  return true;
}

bool ReceiveFilter::wants(std::span<const std::byte> frame, const Mac& own) const {
  if (filter_vlans_ && frame.size() >= kTagOffset + 2 && frame[kTypeOffset] == std::byte{0x81} &&
      frame[kTypeOffset + 1] == std::byte{0}) {
    const auto tag =
        std::to_integer<unsigned>(frame[kTagOffset]) << 8 | std::to_integer<unsigned>(frame[kTagOffset + 1]);
    if (!vlans_.test(tag & (kVlans - 1))) return false;
  }
  if (mode(kPromiscuous)) return true;
  Mac to;
  std::memcpy(to.data(), frame.data(), to.size());
  if (to == kBroadcast) return !mode(kNoBroadcast);
  if (to[0] & 1)
    return !mode(kNoMulticast) && (mode(kAllMulticast) || multicast_.all || contains(multicast_.addresses, to));
  return !mode(kNoUnicast) && (mode(kAllUnicast) || to == own || unicast_.all || contains(unicast_.addresses, to));
}

void ReceiveFilter::save(state::StateWriter& writer) const {
  writer.field("modes", modes_);
  for (const auto& [name, table] : {std::pair{"unicast", &unicast_}, std::pair{"multicast", &multicast_}}) {
    writer.section(name, 1, [table](state::StateWriter& section) {
      std::vector<uint8_t> bytes;
      for (const Mac& mac : table->addresses) bytes.insert(bytes.end(), mac.begin(), mac.end());
      section.field("addresses", bytes);
      section.field("all", table->all);
    });
  }
  writer.field("filter_vlans", filter_vlans_);
  std::vector<uint16_t> vlans;
  for (size_t vlan = 0; vlan < kVlans; ++vlan)
    if (vlans_.test(vlan)) vlans.push_back(static_cast<uint16_t>(vlan));
  writer.field("vlans", vlans);
}

void ReceiveFilter::load(state::StateReader& reader) {
  reset();
  reader.field("modes", modes_);
  for (const auto& [name, table] : {std::pair{"unicast", &unicast_}, std::pair{"multicast", &multicast_}}) {
    reader.section(name, 1, [table](state::StateReader& section) {
      std::vector<uint8_t> bytes;
      section.field("addresses", bytes);
      section.field("all", table->all);
      section.validate(bytes.size() % kMacBytes == 0 && bytes.size() <= kMacBytes * kMaximumAddresses,
                       "is no table of addresses");
      if (!section.ok()) return;
      table->addresses.resize(bytes.size() / kMacBytes);
      for (size_t i = 0; i < table->addresses.size(); ++i)
        std::memcpy(table->addresses[i].data(), &bytes[kMacBytes * i], kMacBytes);
    });
  }
  reader.field("filter_vlans", filter_vlans_);
  std::vector<uint16_t> vlans;
  reader.field("vlans", vlans);
  for (const uint16_t vlan : vlans) reader.validate(set_vlan(vlan, true), "names a VLAN that cannot be");
}

}  // namespace rhea::devices::virtio
