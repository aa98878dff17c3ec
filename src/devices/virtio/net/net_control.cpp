// SPDX-License-Identifier: Apache-2.0
// Commands of the driver. [VIRTIO-1.2 5.1.6.5]
#include <cstring>

#include "devices/virtio/net/net.h"
#include "devices/virtio/net/net_wire.h"

namespace rhea::devices::virtio {

using namespace net;

namespace {

constexpr size_t kMaximumCommandBytes = 64 << 10;

// The number that a command's data are, all of them.
template <class T>
std::optional<T> number(std::span<const std::byte> data) {
  if (data.size() != sizeof(T)) return std::nullopt;
  T value{};
  std::memcpy(&value, data.data(), sizeof value);
  return value;
}

}  // namespace

void Net::serve_control() {
  Queue& ring = queue(control_queue());
  while (auto chain = ring.pop()) {
    const std::byte answer{control(*chain) ? kAcknowledged : kRefused};
    const size_t written = write_to(memory(), chain->writable, 0, std::span(&answer, 1));
    ring.push(*chain, static_cast<uint32_t>(written));
    signal(control_queue());
  }
}

bool Net::control(const Chain& chain) {
  if (chain.readable_bytes < 2 || chain.readable_bytes > kMaximumCommandBytes) return false;
  std::vector<std::byte> command(chain.readable_bytes);
  read_from(chain.readable, 0, command);
  const auto what = std::to_integer<uint8_t>(command[1]);
  const auto data = std::span<const std::byte>(command).subspan(2);
  switch (std::to_integer<uint8_t>(command[0])) {
    case kClassReceive: return control_receive(what, data);
    case kClassMac: return control_mac(what, data);
    case kClassVlan: return control_vlan(what, data);
    case kClassMultiQueue: return control_pairs(what, data);
    case kClassGuestOffloads: return control_offloads(what, data);
    case kClassAnnounce: {
      if (!negotiated(kFeatureGuestAnnounce) || what != kAnnounceAcknowledge) return false;
      const std::lock_guard lock(mutex_);
      announce_ = false;
      return true;
    }
    default: return false;
  }
}

bool Net::control_receive(uint8_t what, std::span<const std::byte> data) {
  const auto on = number<uint8_t>(data);
  const uint64_t feature = what <= kAllMulticast ? kFeatureControlReceive : kFeatureControlReceiveExtra;
  return on && negotiated(feature) && filter_.set_mode(what, *on != 0);
}

bool Net::control_mac(uint8_t what, std::span<const std::byte> data) {
  if (what == kMacTableSet) return negotiated(kFeatureControlReceive) && filter_.set_tables(data);
  const auto mac = number<Mac>(data);
  if (what != kMacAddressSet || !mac || !negotiated(kFeatureControlMac)) return false;
  const std::lock_guard lock(mutex_);
  mac_ = *mac;
  return true;
}

bool Net::control_vlan(uint8_t what, std::span<const std::byte> data) {
  const auto vlan = number<uint16_t>(data);
  if (!vlan || !negotiated(kFeatureControlVlan) || (what != kVlanAdd && what != kVlanRemove)) return false;
  return filter_.set_vlan(*vlan, what == kVlanAdd);
}

bool Net::control_pairs(uint8_t what, std::span<const std::byte> data) {
  const auto count = number<uint16_t>(data);
  if (!count || what != kPairsSet || !negotiated(kFeatureMultiQueue) || *count == 0 || *count > pairs()) return false;
  active_pairs_ = *count;
  return true;
}

bool Net::control_offloads(uint8_t what, std::span<const std::byte> data) {
  const auto features = number<uint64_t>(data);
  if (!features || what != kGuestOffloadsSet || !negotiated(kFeatureGuestOffloads) || !negotiated(*features))
    return false;
  offloads_chosen_ = true;
  set_guest_offloads(*features);
  return true;
}

// Long frames come with checksums to be made: one does not go without the other. [VIRTIO-1.2 5.1.3.1]
void Net::set_guest_offloads(uint64_t features) {
  guest_offloads_ = features;
  const bool checksum = features & kFeatureGuestChecksum;
  receives_ = {.checksum = checksum,
               .tcp4 = checksum && (features & kFeatureGuestTso4),
               .tcp6 = checksum && (features & kFeatureGuestTso6),
               .udp = checksum && (features & kFeatureGuestUso4) && (features & kFeatureGuestUso6),
               .congestion = (features & kFeatureGuestEcn) != 0};
  network_->set_receives(receives_);
}

}  // namespace rhea::devices::virtio
