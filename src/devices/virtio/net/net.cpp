// SPDX-License-Identifier: Apache-2.0
// Frames in and out.
#include "devices/virtio/net/net.h"

#include <algorithm>
#include <cstring>

#include "devices/virtio/net/net_wire.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices::virtio {

using namespace net;

namespace {

constexpr size_t kMaximumArrived = 1024;
constexpr uint16_t kQueueSize = 256, kControlQueueSize = 64;

// The one's complement sum of the bytes, as 16-bit big-endian words. [RFC 1071]
uint16_t checksum(std::span<const std::byte> bytes) {
  uint64_t sum = 0;
  for (size_t i = 0; i + 1 < bytes.size(); i += 2)
    sum += std::to_integer<uint64_t>(bytes[i]) << 8 | std::to_integer<uint64_t>(bytes[i + 1]);
  if (bytes.size() % 2) sum += std::to_integer<uint64_t>(bytes.back()) << 8;
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

uint16_t header16(std::span<const std::byte> header, unsigned offset) {
  uint16_t value = 0;
  std::memcpy(&value, header.data() + offset, 2);
  return value;
}

// Fills in the checksum that the driver left to the card: over everything from `start`, put `offset` bytes further.
// False: they lie beyond the frame.
bool complete_checksum(std::span<std::byte> frame, size_t start, size_t offset) {
  if (start + offset + 2 > frame.size()) return false;
  uint16_t sum = checksum(frame.subspan(start));
  if (sum == 0) sum = 0xffff;  // to UDP zero means that there is none
  frame[start + offset] = static_cast<std::byte>(sum >> 8);
  frame[start + offset + 1] = static_cast<std::byte>(sum);
  return true;
}

}  // namespace

Result<std::unique_ptr<Net>> Net::create(const Options& options, Context context) {
  base::IoThread& thread = context.thread;
  std::unique_ptr<Net> net(new Net(options, std::move(context)));
  net->bell_ = RHEA_TRY(base::Doorbell::create(thread.loop(), [device = net.get()] { device->serve(); }));
  net->network_->set_receiver([device = net.get()](std::span<const std::byte> frame) {
    {
      std::lock_guard lock(device->mutex_);
      if (device->arrived_.size() >= kMaximumArrived) return;
      device->arrived_.emplace_back(frame.begin(), frame.end());
      if (device->arrived_.size() > 1) return;  // rung for the first, or waiting for buffers
    }
    device->bell_->ring();
  });
  return net;
}

Net::Net(const Options& options, Context context)
    : VirtioDevice({.name = options.name,
                    .type = DeviceType::kNet,
                    .features = kFeatureChecksum | kFeatureMtu | kFeatureMac | kFeatureMergeable | kFeatureStatus |
                                kFeatureControl | kFeatureControlReceive | kFeatureControlMac,
                    .queue_sizes = {kQueueSize, kQueueSize, kControlQueueSize},
                    .configuration_bytes = kConfigurationBytes},
                   context.memory),
      options_(options),
      thread_(context.thread),
      network_(std::move(context.network)),
      mac_(options.mac) {}

Net::~Net() {
  set_status(0);
  network_.reset();  // its thread calls back no more
}

void Net::on_start() {
  thread_.run_sync([this] { serving_ = true; });
  bell_->ring();
}

void Net::on_stop() {
  thread_.run_sync([this] { serving_ = false; });
}

void Net::on_queue_stopped(unsigned index) {
  thread_.run_sync([this, index] {
    queue(index).stop();
    if (index == kReceive) receive_chains_.clear();
  });
}

void Net::serve() {
  if (!serving_) return;
  serve_transmit();
  serve_control();
  serve_receive();
  for (unsigned index = 0; index < kQueues; ++index)
    if (queue(index).broken()) return needs_reset();
}

// ---- receiving ----

void Net::serve_receive() {
  for (;;) {
    std::vector<std::byte> frame;
    {
      std::lock_guard lock(mutex_);
      if (arrived_.empty()) return;
      frame = arrived_.front();
    }
    if (!queue(kReceive).running() || !deliver(frame)) return;  // the next notification brings us back
    std::lock_guard lock(mutex_);
    arrived_.pop_front();
  }
}

bool Net::deliver(std::span<const std::byte> frame) {
  Queue& ring = queue(kReceive);
  const uint64_t wanted = kHeaderBytes + frame.size();
  const size_t most = negotiated(kFeatureMergeable) ? kQueueSize : 1;
  uint64_t room = 0;
  for (const Chain& chain : receive_chains_) room += chain.writable_bytes;
  while (room < wanted && receive_chains_.size() < most) {
    auto chain = ring.pop();
    if (!chain) return false;
    room += chain->writable_bytes;
    receive_chains_.push_back(std::move(*chain));
  }
  const bool fits = room >= wanted && receive_chains_.front().writable_bytes >= kHeaderBytes;
  std::vector<std::byte> packet(kHeaderBytes);
  const auto buffers = static_cast<uint16_t>(receive_chains_.size());
  std::memcpy(&packet[kHeaderBuffers], &buffers, 2);
  packet.insert(packet.end(), frame.begin(), frame.end());
  std::span<const std::byte> rest = packet;
  for (const Chain& chain : receive_chains_) {  // what does not fit is dropped, its buffers come back empty
    const size_t written = fits ? write_to(memory(), chain.writable, 0, rest) : 0;
    rest = rest.subspan(written);
    ring.push(chain, static_cast<uint32_t>(written));
  }
  receive_chains_.clear();
  signal(kReceive);
  return true;
}

// ---- sending ----

void Net::serve_transmit() {
  Queue& ring = queue(kTransmit);
  for (;;) {
    ring.set_notifications(false);
    while (auto chain = ring.pop()) {
      transmit(*chain);
      ring.push(*chain, 0);
      signal(kTransmit);
    }
    ring.set_notifications(true);
    if (ring.empty()) return;
  }
}

void Net::transmit(const Chain& chain) {
  if (chain.readable_bytes < kHeaderBytes + rhea::net::kMinimumFrameBytes ||
      chain.readable_bytes > kHeaderBytes + rhea::net::kMaximumFrameBytes)
    return;
  std::byte header[kHeaderBytes];
  read_from(chain.readable, 0, header);
  std::vector<std::byte> frame(chain.readable_bytes - kHeaderBytes);
  read_from(chain.readable, kHeaderBytes, frame);
  if (std::to_integer<uint8_t>(header[kHeaderGsoType]) != kGsoNone) return;  // not offered
  if (std::to_integer<uint8_t>(header[kHeaderFlags]) & kNeedsChecksum)
    if (!complete_checksum(frame, header16(header, kHeaderChecksumStart), header16(header, kHeaderChecksumOffset)))
      return;
  network_->send(frame);
}

// ---- control [VIRTIO-1.2 5.1.6.5] ----

void Net::serve_control() {
  Queue& ring = queue(kControl);
  while (auto chain = ring.pop()) {
    const auto answer = static_cast<std::byte>(control(*chain));
    const size_t written = write_to(memory(), chain->writable, 0, std::span(&answer, 1));
    ring.push(*chain, static_cast<uint32_t>(written));
    signal(kControl);
  }
}

uint8_t Net::control(const Chain& chain) {
  std::byte command[2 + 6];
  const size_t got = read_from(chain.readable, 0, command);
  if (got < 2) return kRefused;
  const auto kind = std::to_integer<uint8_t>(command[0]), what = std::to_integer<uint8_t>(command[1]);
  // The guest gets every frame of its network: there is nothing to switch.
  if (kind == kClassReceive) return what < kReceiveCommands ? kAcknowledged : kRefused;
  if (kind == kClassMac && what == kMacTableSet) return kAcknowledged;
  if (kind == kClassMac && what == kMacAddressSet && got == sizeof command) {
    std::lock_guard lock(mutex_);
    std::memcpy(mac_.data(), command + 2, mac_.size());
    return kAcknowledged;
  }
  return kRefused;
}

// ---- configuration ----

void Net::fill_configuration(std::span<std::byte> out) {
  std::lock_guard lock(mutex_);
  std::memcpy(out.data() + kMacOffset, mac_.data(), mac_.size());
  std::memcpy(out.data() + kStatusOffset, &kLinkUp, 2);
  std::memcpy(out.data() + kMtuOffset, &options_.mtu, 2);
}

void Net::save_device(state::StateWriter& writer) const {
  writer.field("mac", mac_);
  std::vector<SavedChain> held;
  for (const Chain& chain : receive_chains_) held.push_back(SavedChain::of(chain));
  writer.field("held", held);
}

void Net::load_device(state::StateReader& reader) {
  reader.field("mac", mac_);
  std::vector<SavedChain> held;
  reader.field("held", held);
  for (const SavedChain& saved : held) {
    auto chain = queue(kReceive).restore(saved);
    reader.validate(chain.has_value(), "holds a buffer that is no RAM");
    if (chain) receive_chains_.push_back(std::move(*chain));
  }
}

}  // namespace rhea::devices::virtio
