// SPDX-License-Identifier: Apache-2.0
// A network card's life: features, start and stop, configuration, state.
#include "devices/virtio/net/net.h"

#include <algorithm>
#include <cstring>

#include "devices/virtio/net/net_wire.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices::virtio {

using namespace net;

namespace {

constexpr uint16_t kQueueSize = 256, kControlQueueSize = 64;
constexpr uint64_t kFeatures =
    kFeatureChecksum | kFeatureGuestChecksum | kFeatureGuestOffloads | kFeatureMtu | kFeatureMac | kFeatureGuestTso4 |
    kFeatureGuestTso6 | kFeatureGuestEcn | kFeatureHostTso4 | kFeatureHostTso6 | kFeatureHostEcn | kFeatureMergeable |
    kFeatureStatus | kFeatureControl | kFeatureControlReceive | kFeatureControlVlan | kFeatureControlReceiveExtra |
    kFeatureGuestAnnounce | kFeatureControlMac | kFeatureGuestUso4 | kFeatureGuestUso6 | kFeatureHostUso;

std::vector<uint16_t> queue_sizes(unsigned pairs) {
  std::vector<uint16_t> sizes(size_t{2} * pairs, kQueueSize);
  sizes.push_back(kControlQueueSize);
  return sizes;
}

}  // namespace

Result<std::unique_ptr<Net>> Net::create(const Options& options, Context context) {
  if (options.pairs == 0 || options.pairs > kMaximumPairs)
    return fail(ErrorCode::kInvalidArgument, "a network card has 1 to 16 pairs of queues");
  base::IoThread& thread = context.thread;
  std::unique_ptr<Net> net(new Net(options, std::move(context)));
  net->bell_ = RHEA_TRY(base::Doorbell::create(thread.loop(), [device = net.get()] { device->serve(); }));
  net->network_->set_receiver(
      [device = net.get()](std::span<const std::byte> frame, const rhea::net::FrameOffload& offload) {
        return device->arrive(frame, offload);
      });
  return net;
}

Net::Net(const Options& options, Context context)
    : VirtioDevice({.name = options.name,
                    .type = DeviceType::kNet,
                    .features = kFeatures | (options.pairs > 1 ? kFeatureMultiQueue : 0),
                    .queue_sizes = queue_sizes(options.pairs),
                    .configuration_bytes = kConfigurationBytes},
                   context.memory),
      options_(options),
      thread_(context.thread),
      network_(std::move(context.network)),
      arrived_(options.pairs),
      mac_(options.mac) {}

Net::~Net() {
  set_status(0);
  network_.reset();  // its thread calls back no more
}

unsigned Net::pairs() const { return negotiated(kFeatureMultiQueue) ? options_.pairs : 1; }

unsigned Net::control_queue() const { return 2 * pairs(); }

void Net::on_start() {
  thread_.run_sync([this] {
    constexpr uint64_t kAll = kFeatureGuestChecksum | kFeatureGuestTso4 | kFeatureGuestTso6 | kFeatureGuestEcn |
                              kFeatureGuestUso4 | kFeatureGuestUso6;
    uint64_t offered = 0;
    for (uint64_t bit = 1; bit != 0; bit <<= 1)
      if ((kAll & bit) && negotiated(bit)) offered |= bit;
    set_guest_offloads(offloads_chosen_ ? guest_offloads_ & offered : offered);
    filter_.filter_vlans(negotiated(kFeatureControlVlan));
    serving_ = true;
  });
  bell_->ring();
  bool announce = false;
  {
    const std::lock_guard lock(mutex_);
    announce = announce_;
  }
  if (announce) configuration_changed();
}

// Nothing is held between two turns of serve(): buffers taken for a frame that did not fit were put back.
void Net::on_stop() {
  thread_.run_sync([this] { serving_ = false; });
}

void Net::on_reset() {
  filter_.reset();
  offloads_chosen_ = false;
  active_pairs_ = 1;
  const std::lock_guard lock(mutex_);
  mac_ = options_.mac;
  announce_ = false;
  for (auto& frames : arrived_) frames.clear();
  arrived_count_ = 0;
}

void Net::on_queue_stopped(unsigned index) {
  thread_.run_sync([this, index] { queue(index).stop(); });
}

void Net::serve() {
  if (!serving_) return;
  for (unsigned pair = 0; pair < pairs(); ++pair) serve_transmit(pair);
  serve_control();
  for (unsigned pair = 0; pair < pairs(); ++pair) serve_receive(pair);
  for (unsigned index = 0; index <= control_queue(); ++index)
    if (queue(index).broken()) return needs_reset();
}

void Net::fill_configuration(std::span<std::byte> out) {
  const std::lock_guard lock(mutex_);
  const auto status = static_cast<uint16_t>((options_.link_up ? kLinkUp : 0) | (announce_ ? kAnnounce : 0));
  const auto pairs = static_cast<uint16_t>(options_.pairs);
  std::memcpy(out.data() + kMacOffset, mac_.data(), mac_.size());
  std::memcpy(out.data() + kStatusOffset, &status, 2);
  std::memcpy(out.data() + kPairsOffset, &pairs, 2);
  std::memcpy(out.data() + kMtuOffset, &options_.mtu, 2);
}

void Net::save_device(state::StateWriter& writer) const {
  writer.field("mac", mac_);
  writer.field("active_pairs", active_pairs_.load());
  writer.field("guest_offloads", guest_offloads_);
  writer.field("offloads_chosen", offloads_chosen_);
  writer.section("filter", 1, [this](state::StateWriter& section) { filter_.save(section); });
}

// Where the machine goes on, the network may be another: the driver is asked to say where it is. [VIRTIO-1.2 5.1.6.5.4]
void Net::load_device(state::StateReader& reader) {
  unsigned active = 1;
  Mac mac{};
  reader.field("mac", mac);
  reader.field("active_pairs", active);
  reader.field("guest_offloads", guest_offloads_);
  reader.field("offloads_chosen", offloads_chosen_);
  reader.section("filter", 1, [this](state::StateReader& section) { filter_.load(section); });
  reader.validate(active >= 1 && active <= options_.pairs, "more pairs of queues than the card has");
  if (!reader.ok()) return;
  active_pairs_ = active;
  const std::lock_guard lock(mutex_);
  mac_ = mac;
  announce_ = true;
  for (auto& frames : arrived_) frames.clear();
  arrived_count_ = 0;
}

}  // namespace rhea::devices::virtio
