// SPDX-License-Identifier: Apache-2.0
// Frames in and out. [VIRTIO-1.2 5.1.6]
#include <algorithm>
#include <cstring>

#include "devices/virtio/net/net.h"
#include "devices/virtio/net/net_wire.h"

namespace rhea::devices::virtio {

using namespace net;
using rhea::net::FrameOffload;
using rhea::net::Segmentation;

namespace {

constexpr size_t kMaximumArrived = 1024;  // frames that wait for buffers
constexpr unsigned kFramesAtOnce = 256;   // of one queue, then the others have their turn
constexpr size_t kMaximumBuffers = 256;   // for one frame

std::vector<std::byte> packet_of(std::span<const std::byte> frame, const FrameOffload& offload) {
  std::vector<std::byte> packet(kHeaderBytes + frame.size());
  std::memcpy(packet.data(), &offload, sizeof offload);
  std::memcpy(packet.data() + kHeaderBytes, frame.data(), frame.size());
  return packet;
}

FrameOffload offload_of(std::span<const std::byte> packet) {
  FrameOffload offload;
  std::memcpy(&offload, packet.data(), sizeof offload);
  return offload;
}

// The same for both directions of a flow. Frames without ports are one flow for each pair of hosts.
uint8_t flow_hash(std::span<const std::byte> frame) {
  const auto headers = rhea::net::find_headers(frame);
  if (!headers) return 0;
  uint32_t hash = 0;
  const size_t address_bytes = headers->ip6 ? 16 : 4, addresses = headers->network + (headers->ip6 ? 8 : 12);
  for (size_t at = 0; at < 2 * address_bytes; at += 4) hash ^= rhea::net::get_be32(frame, addresses + at);
  hash ^= uint32_t{rhea::net::get_be16(frame, headers->transport)} ^ rhea::net::get_be16(frame, headers->transport + 2);
  hash ^= hash >> 16;
  return static_cast<uint8_t>(hash ^ hash >> 8);
}

}  // namespace

// ---- receiving ----

// The network's thread.
bool Net::arrive(std::span<const std::byte> frame, const FrameOffload& offload) {
  if (!serving_ || !options_.link_up) return true;  // nobody listens
  if (frame.size() < rhea::net::kMinimumFrameBytes || frame.size() > rhea::net::kMaximumFrameBytes) return true;
  const unsigned pair = steer(frame);
  const std::lock_guard lock(mutex_);
  if (arrived_count_ < kMaximumArrived) {
    arrived_[pair].push_back(packet_of(frame, offload));
    ++arrived_count_;
    if (arrived_[pair].size() == 1) bell_->ring();  // else it has been rung, or the queue waits for buffers
  }
  held_back_ = arrived_count_ == kMaximumArrived;
  return !held_back_;
}

// To the queue of the pair that the driver sends the same flow on. [VIRTIO-1.2 5.1.6.5.6.1]
unsigned Net::steer(std::span<const std::byte> frame) const {
  const unsigned active = active_pairs_;
  if (active == 1) return 0;
  return std::min<unsigned>(steering_[flow_hash(frame)], active - 1);
}

void Net::learn(std::span<const std::byte> frame, unsigned pair) {
  if (active_pairs_ > 1) steering_[flow_hash(frame)] = static_cast<uint8_t>(pair);
}

bool Net::wanted(const Packet& packet) {
  const std::lock_guard lock(mutex_);
  return filter_.wants(std::span(packet).subspan(kHeaderBytes), mac_);
}

// What the driver does not take undone (any more), done: the packets in its place. False: it is good as it is.
bool Net::finish(const Packet& packet, std::vector<Packet>& parts) const {
  const FrameOffload offload = offload_of(packet);
  if (receives_.takes(offload) && (receives_.checksum || offload.flags == 0)) return false;
  std::vector<std::byte> frame(packet.begin() + kHeaderBytes, packet.end());
  rhea::net::hand_over(frame, offload, receives_, [&parts](std::span<const std::byte> part, const FrameOffload& left) {
    parts.push_back(packet_of(part, left));
  });
  return true;
}

void Net::serve_receive(unsigned pair) {
  Queue& ring = queue(receive_queue(pair));
  if (!ring.running()) return;
  std::deque<Packet> frames;
  {
    const std::lock_guard lock(mutex_);
    frames.swap(arrived_[pair]);
  }
  const size_t taken = frames.size();
  ring.set_notifications(false);  // of buffers; where there are too few, deliver() asks for them
  bool more = true, delivered = false;
  while (more && !frames.empty()) {
    std::vector<Packet> parts;
    if (!wanted(frames.front())) {
      frames.pop_front();
    } else if (finish(frames.front(), parts)) {
      frames.pop_front();
      frames.insert(frames.begin(), std::make_move_iterator(parts.begin()), std::make_move_iterator(parts.end()));
    } else if (more = deliver(ring, frames.front()); more) {
      frames.pop_front();
      delivered = true;
    }
  }
  if (delivered) signal(receive_queue(pair));
  bool resume = false;
  {
    const std::lock_guard lock(mutex_);
    const bool came = !arrived_[pair].empty();  // meanwhile
    arrived_count_ = arrived_count_ - taken + frames.size();
    arrived_[pair].insert(arrived_[pair].begin(), std::make_move_iterator(frames.begin()),
                          std::make_move_iterator(frames.end()));
    resume = held_back_ && arrived_count_ < kMaximumArrived / 2;
    if (resume) held_back_ = false;
    if (came && more) bell_->ring();
  }
  if (resume) network_->receive_more();
}

// As many buffers as the bytes need, into buffers_; all there are for one frame where they are too small. False: they
// are not there yet; those that are stay the ring's, and the driver will notify when it adds some.
bool Net::take_buffers(Queue& ring, uint64_t bytes) {
  const size_t most = negotiated(kFeatureMergeable) ? kMaximumBuffers : 1;
  buffers_.clear();
  uint64_t room = 0;
  while (room < bytes && buffers_.size() < most) {
    if (auto chain = ring.pop()) {
      room += chain->writable_bytes;
      buffers_.push_back(std::move(*chain));
      continue;
    }
    if (!ring.broken()) {
      ring.set_notifications(true);
      if (!ring.empty()) continue;  // added in between
    }
    for (; !buffers_.empty(); buffers_.pop_back()) ring.put_back(buffers_.back());
    return false;
  }
  return true;
}

bool Net::deliver(Queue& ring, Packet& packet) {
  if (!take_buffers(ring, packet.size())) return false;
  uint64_t room = 0;
  for (const Chain& chain : buffers_) room += chain.writable_bytes;
  const bool fits = room >= packet.size() && buffers_.front().writable_bytes >= kHeaderBytes;
  const auto count = static_cast<uint16_t>(buffers_.size());
  std::memcpy(packet.data() + kHeaderBuffers, &count, sizeof count);
  std::span<const std::byte> rest = packet;
  for (const Chain& chain : buffers_) {  // what does not fit is dropped, its buffers come back empty
    const size_t written = fits ? write_to(memory(), chain.writable, 0, rest) : 0;
    rest = rest.subspan(written);
    ring.push(chain, static_cast<uint32_t>(written));
  }
  return true;
}

// ---- sending ----

void Net::serve_transmit(unsigned pair) {
  Queue& ring = queue(transmit_queue(pair));
  unsigned count = 0;
  for (;;) {
    ring.set_notifications(false);
    while (count < kFramesAtOnce) {
      const auto chain = ring.pop();
      if (!chain) break;
      transmit(*chain, pair);
      ring.push(*chain, 0);
      ++count;
    }
    if (count != 0) signal(transmit_queue(pair));
    if (count == kFramesAtOnce) return bell_->ring();
    ring.set_notifications(true);
    if (ring.empty()) return;
  }
}

// GUEST-CONTROLLED: the header. hand_over() compares it with the frame.
void Net::transmit(const Chain& chain, unsigned pair) {
  if (chain.readable_bytes < kHeaderBytes + rhea::net::kMinimumFrameBytes ||
      chain.readable_bytes > kHeaderBytes + rhea::net::kMaximumFrameBytes || !options_.link_up)
    return;
  std::array<std::byte, kHeaderBytes> header;
  read_from(chain.readable, 0, header);
  sending_.resize(chain.readable_bytes - kHeaderBytes);
  read_from(chain.readable, kHeaderBytes, sending_);
  FrameOffload offload = offload_of(header);
  offload.flags &= FrameOffload::kNeedsChecksum;
  switch (offload.kind()) {
    case Segmentation::kNone: break;
    case Segmentation::kTcp4:
      if (!negotiated(kFeatureHostTso4)) return;
      break;
    case Segmentation::kTcp6:
      if (!negotiated(kFeatureHostTso6)) return;
      break;
    case Segmentation::kUdp:
      if (!negotiated(kFeatureHostUso)) return;
      break;
    default: return;
  }
  learn(sending_, pair);
  rhea::net::hand_over(
      sending_, offload, network_->sends(),
      [this](std::span<const std::byte> frame, const FrameOffload& left) { network_->send(frame, left); });
}

}  // namespace rhea::devices::virtio
