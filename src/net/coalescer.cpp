// SPDX-License-Identifier: Apache-2.0
// Which segments may be joined, and how.
#include "net/coalescer.h"

#include <algorithm>

namespace rhea::net {
namespace {

constexpr size_t kMaximumPacketBytes = 65535;  // what an IP header can say
constexpr size_t kSequence = 4, kAcknowledgement = 8, kWindow = 14;

bool same(std::span<const std::byte> a, std::span<const std::byte> b, size_t from, size_t to) {
  return std::ranges::equal(a.subspan(from, to - from), b.subspan(from, to - from));
}

uint8_t tcp_flags(std::span<const std::byte> frame, const FrameHeaders& headers) {
  return std::to_integer<uint8_t>(frame[headers.transport + kTcpFlagsOffset]);
}

// The length that the IP header says is the frame's: nothing is padded or cut off.
bool whole(std::span<const std::byte> frame, const FrameHeaders& headers) {
  const size_t length = get_be16(frame, headers.network + (headers.ip6 ? 4 : 2));
  return frame.size() == (headers.ip6 ? headers.transport : headers.network) + length;
}

}  // namespace

bool Coalescer::continues(std::span<const std::byte> frame, const FrameHeaders& headers) const {
  if (held_.empty() || complete_) return false;
  if (headers.ip6 != headers_.ip6 || headers.network != headers_.network || headers.transport != headers_.transport ||
      headers.payload != headers_.payload)
    return false;
  const size_t bytes = frame.size() - headers.payload;
  if (bytes > segment_bytes_ || held_.size() + bytes - headers.network > kMaximumPacketBytes) return false;
  const std::span<const std::byte> held = held_;
  const size_t ip = headers.network, tcp = headers.transport;
  if (!same(held, frame, 0, ip)) return false;
  // All of the IP header but length, identification and checksum.
  if (headers.ip6
          ? !same(held, frame, ip, ip + 4) || !same(held, frame, ip + 6, tcp)
          : !same(held, frame, ip, ip + 2) || !same(held, frame, ip + 6, ip + 10) || !same(held, frame, ip + 12, tcp))
    return false;
  // All of the TCP header but the place in the stream, push and checksum.
  return same(held, frame, tcp, tcp + kSequence) && get_be32(frame, tcp + kSequence) == next_sequence_ &&
         same(held, frame, tcp + kAcknowledgement, tcp + kTcpFlagsOffset) &&
         same(held, frame, tcp + kWindow, tcp + kTcpChecksumOffset) &&
         same(held, frame, tcp + kTcpChecksumOffset + 2, headers.payload);
}

void Coalescer::add(std::span<const std::byte> frame, const Offloads& taken) {
  const auto headers = taken.checksum ? find_headers(frame) : std::nullopt;
  const bool joinable = headers && !headers->udp && (headers->ip6 ? taken.tcp6 : taken.tcp4) &&
                        headers->transport == headers->network + (headers->ip6 ? 40 : 20) &&
                        headers->payload < frame.size() && whole(frame, *headers) &&
                        (tcp_flags(frame, *headers) & ~kTcpPush) == kTcpAcknowledge;
  if (!joinable) {
    flush();
    sink_(frame, {.flags = taken.checksum ? FrameOffload::kChecksumValid : uint8_t{0}});
    return;
  }
  const size_t bytes = frame.size() - headers->payload;
  if (continues(frame, *headers)) {
    held_.insert(held_.end(), frame.begin() + static_cast<ptrdiff_t>(headers->payload), frame.end());
    ++segments_;
  } else {
    flush();
    held_.assign(frame.begin(), frame.end());
    headers_ = *headers;
    segment_bytes_ = bytes;
    segments_ = 1;
  }
  next_sequence_ = get_be32(frame, headers->transport + kSequence) + static_cast<uint32_t>(bytes);
  complete_ = bytes < segment_bytes_ || (tcp_flags(frame, *headers) & kTcpPush);
  if (tcp_flags(frame, *headers) & kTcpPush) held_[headers->transport + kTcpFlagsOffset] |= std::byte{kTcpPush};
}

void Coalescer::flush() {
  if (held_.empty()) return;
  FrameOffload offload{.flags = FrameOffload::kChecksumValid};
  if (segments_ > 1) {
    fit_lengths(held_, headers_);
    start_checksum(held_, headers_);
    offload = {.flags = FrameOffload::kNeedsChecksum,
               .segmentation = static_cast<uint8_t>(headers_.ip6 ? Segmentation::kTcp6 : Segmentation::kTcp4),
               .header_bytes = static_cast<uint16_t>(headers_.payload),
               .segment_bytes = static_cast<uint16_t>(segment_bytes_),
               .checksum_start = static_cast<uint16_t>(headers_.transport),
               .checksum_offset = kTcpChecksumOffset};
  }
  sink_(held_, offload);
  held_.clear();
}

}  // namespace rhea::net
