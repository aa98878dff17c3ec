// SPDX-License-Identifier: Apache-2.0
// Checksums and segmentation in software. Frames come from a guest: every length in them is checked.
#include "net/offload.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

namespace rhea::net {
namespace {

constexpr size_t kMacBytes = 12, kTypeBytes = 2, kTagBytes = 4;
constexpr uint16_t kTypeIp4 = 0x0800, kTypeIp6 = 0x86dd, kTypeTag = 0x8100, kTypeServiceTag = 0x88a8;
constexpr size_t kIp4Bytes = 20, kIp6Bytes = 40, kTcpBytes = 20, kUdpBytes = 8;
constexpr uint8_t kProtocolTcp = 6, kProtocolUdp = 17;

uint8_t get8(std::span<const std::byte> bytes, size_t at) { return std::to_integer<uint8_t>(bytes[at]); }

// The IP header behind the Ethernet header and up to two VLAN tags.
std::optional<FrameHeaders> find_network(std::span<const std::byte> frame) {
  size_t at = kMacBytes;
  for (unsigned tags = 0;; ++tags) {
    if (at + kTypeBytes > frame.size()) return std::nullopt;
    const uint16_t type = get_be16(frame, at);
    if ((type != kTypeTag && type != kTypeServiceTag) || tags == 2) break;
    at += kTagBytes;
  }
  const uint16_t type = get_be16(frame, at);
  if (type != kTypeIp4 && type != kTypeIp6) return std::nullopt;
  const FrameHeaders headers{.ip6 = type == kTypeIp6, .network = at + kTypeBytes};
  if (headers.network + (headers.ip6 ? kIp6Bytes : kIp4Bytes) > frame.size()) return std::nullopt;
  return headers;
}

// With network and transport known: where the payload begins. False: beyond the frame.
bool find_payload(std::span<const std::byte> frame, FrameHeaders& headers) {
  const size_t least = headers.udp ? kUdpBytes : kTcpBytes;
  if (headers.transport + least > frame.size()) return false;
  const size_t length = headers.udp ? kUdpBytes : size_t{4} * (get8(frame, headers.transport + 12) >> 4);
  headers.payload = headers.transport + length;
  return length >= least && headers.payload <= frame.size();
}

// The headers of a frame that is to be cut, if they are what the offload says and something lies behind them.
std::optional<FrameHeaders> headers_to_cut(std::span<const std::byte> frame, const FrameOffload& offload) {
  auto headers = find_network(frame);
  if (!headers || offload.segment_bytes == 0) return std::nullopt;
  const Segmentation kind = offload.kind();
  if (kind != Segmentation::kTcp4 && kind != Segmentation::kTcp6 && kind != Segmentation::kUdp) return std::nullopt;
  headers->udp = kind == Segmentation::kUdp;
  headers->transport = offload.checksum_start;
  if (!headers->udp && headers->ip6 != (kind == Segmentation::kTcp6)) return std::nullopt;
  if (headers->ip6) {  // extension headers may stand between
    if (headers->network + kIp6Bytes > headers->transport) return std::nullopt;
  } else {
    const size_t ip_bytes = size_t{4} * (get8(frame, headers->network) & 0xf);
    if (ip_bytes < kIp4Bytes || headers->network + ip_bytes != headers->transport) return std::nullopt;
    if (get8(frame, headers->network + 9) != (headers->udp ? kProtocolUdp : kProtocolTcp)) return std::nullopt;
  }
  if (offload.checksum_offset != (headers->udp ? kUdpChecksumOffset : kTcpChecksumOffset)) return std::nullopt;
  if (!find_payload(frame, *headers) || headers->payload == frame.size()) return std::nullopt;
  // Each segment has all the headers: long ones and short segments would make a frame thousands of times itself.
  constexpr size_t kMostHeaderBytes = size_t{1} << 20;
  const size_t segments = (frame.size() - headers->payload + offload.segment_bytes - 1) / offload.segment_bytes;
  if (segments * headers->payload > kMostHeaderBytes) return std::nullopt;
  return headers;
}

// Sums everything from `start` and stores the result. The places are within the frame.
void complete_checksum(std::span<std::byte> frame, size_t start, size_t offset) {
  uint16_t sum = fold_checksum(add_to_checksum(0, frame.subspan(start)));
  if (sum == 0) sum = 0xffff;  // to UDP zero means that there is none; to others the two are the same
  put_be16(frame, start + offset, sum);
}

// What differs from segment to segment. `index`: which one; `payload`: the first of its bytes, within all of them.
struct Cut {
  uint32_t index = 0;
  size_t payload = 0;
  bool last = false;
};
void adapt_headers(std::span<std::byte> segment, const FrameHeaders& headers, const Cut& cut) {
  if (!headers.ip6) put_be16(segment, headers.network + 4, get_be16(segment, headers.network + 4) + size_t{cut.index});
  fit_lengths(segment, headers);
  if (!headers.udp) {
    const size_t sequence = headers.transport + 4;
    put_be32(segment, sequence, get_be32(segment, sequence) + static_cast<uint32_t>(cut.payload));
    uint8_t flags = get8(segment, headers.transport + kTcpFlagsOffset);
    if (!cut.last) flags &= static_cast<uint8_t>(~(kTcpFin | kTcpPush));
    if (cut.index != 0) flags &= static_cast<uint8_t>(~kTcpWindowReduced);
    segment[headers.transport + kTcpFlagsOffset] = std::byte{flags};
  }
  start_checksum(segment, headers);
}

void cut_and_hand_over(std::span<const std::byte> frame, const FrameOffload& offload, const FrameHeaders& headers,
                       const Offloads& taken, const FrameSink& sink) {
  const size_t total = frame.size() - headers.payload;
  std::vector<std::byte> segment;
  Cut cut;
  for (; cut.payload < total; ++cut.index, cut.payload += offload.segment_bytes) {
    const size_t part = std::min<size_t>(offload.segment_bytes, total - cut.payload);
    cut.last = cut.payload + part == total;
    segment.assign(frame.begin(), frame.begin() + static_cast<ptrdiff_t>(headers.payload));
    const auto data = frame.subspan(headers.payload + cut.payload, part);
    segment.insert(segment.end(), data.begin(), data.end());
    adapt_headers(segment, headers, cut);
    if (taken.checksum) {
      sink(segment, {.flags = FrameOffload::kNeedsChecksum,
                     .checksum_start = offload.checksum_start,
                     .checksum_offset = offload.checksum_offset});
    } else {
      complete_checksum(segment, offload.checksum_start, offload.checksum_offset);
      sink(segment, {});
    }
  }
}

}  // namespace

bool Offloads::takes(const FrameOffload& offload) const {
  if ((offload.segmentation & FrameOffload::kExplicitCongestion) && !congestion) return false;
  switch (offload.kind()) {
    case Segmentation::kNone: return true;
    case Segmentation::kTcp4: return tcp4;
    case Segmentation::kTcp6: return tcp6;
    case Segmentation::kUdp: return udp;
  }
  return false;
}

uint16_t get_be16(std::span<const std::byte> bytes, size_t at) {
  return static_cast<uint16_t>(get8(bytes, at) << 8 | get8(bytes, at + 1));
}

uint32_t get_be32(std::span<const std::byte> bytes, size_t at) {
  return uint32_t{get_be16(bytes, at)} << 16 | get_be16(bytes, at + 2);
}

void put_be16(std::span<std::byte> bytes, size_t at, size_t value) {
  bytes[at] = static_cast<std::byte>(value >> 8);
  bytes[at + 1] = static_cast<std::byte>(value);
}

void put_be32(std::span<std::byte> bytes, size_t at, uint32_t value) {
  put_be16(bytes, at, value >> 16);
  put_be16(bytes, at + 2, value & 0xffff);
}

std::optional<FrameHeaders> find_headers(std::span<const std::byte> frame) {
  auto headers = find_network(frame);
  if (!headers) return std::nullopt;
  uint8_t protocol = 0;
  if (headers->ip6) {
    protocol = get8(frame, headers->network + 6);
    headers->transport = headers->network + kIp6Bytes;
  } else {
    const size_t ip_bytes = size_t{4} * (get8(frame, headers->network) & 0xf);
    if (ip_bytes < kIp4Bytes) return std::nullopt;
    if (get_be16(frame, headers->network + 6) & 0x3fff) return std::nullopt;  // more fragments, or not the first
    protocol = get8(frame, headers->network + 9);
    headers->transport = headers->network + ip_bytes;
  }
  if (protocol != kProtocolTcp && protocol != kProtocolUdp) return std::nullopt;
  headers->udp = protocol == kProtocolUdp;
  if (!find_payload(frame, *headers)) return std::nullopt;
  return headers;
}

void fit_lengths(std::span<std::byte> frame, const FrameHeaders& headers) {
  if (headers.ip6) {
    put_be16(frame, headers.network + 4, frame.size() - headers.network - kIp6Bytes);
  } else {
    const auto ip = frame.subspan(headers.network, headers.transport - headers.network);
    put_be16(ip, 2, frame.size() - headers.network);
    put_be16(ip, 10, 0);
    put_be16(ip, 10, fold_checksum(add_to_checksum(0, ip)));
  }
  if (headers.udp) put_be16(frame, headers.transport + 4, frame.size() - headers.transport);
}

void start_checksum(std::span<std::byte> frame, const FrameHeaders& headers) {
  const size_t addresses = headers.network + (headers.ip6 ? 8 : 12);
  uint64_t sum = add_to_checksum(0, frame.subspan(addresses, headers.ip6 ? 32 : 8));
  sum += headers.udp ? kProtocolUdp : kProtocolTcp;
  sum += frame.size() - headers.transport;
  put_be16(frame, headers.transport + (headers.udp ? kUdpChecksumOffset : kTcpChecksumOffset),
           static_cast<uint16_t>(~fold_checksum(sum)));
}

uint64_t add_to_checksum(uint64_t sum, std::span<const std::byte> bytes) {
  // Words as the host has them: the sum comes out with its bytes swapped, which is undone once. [RFC-1071 2]
  uint64_t words = 0;
  const std::byte* at = bytes.data();
  size_t left = bytes.size();
  for (; left >= 8; at += 8, left -= 8) {
    uint64_t eight = 0;
    std::memcpy(&eight, at, 8);
    words += (eight & 0xffffffff) + (eight >> 32);
  }
  uint64_t rest = 0;
  if (left) std::memcpy(&rest, at, left);
  words += (rest & 0xffffffff) + (rest >> 32);
  while (words >> 16) words = (words & 0xffff) + (words >> 16);
  return sum + std::byteswap(static_cast<uint16_t>(words));
}

uint16_t fold_checksum(uint64_t sum) {
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

bool hand_over(std::span<std::byte> frame, const FrameOffload& offload, const Offloads& taken, const FrameSink& sink) {
  FrameOffload left = offload;
  left.flags &= FrameOffload::kNeedsChecksum | FrameOffload::kChecksumValid;
  if (!offload.needs_checksum()) {
    if (offload.segmentation != 0) return false;  // segments need their checksums made
    if (!taken.checksum) left.flags = 0;
    sink(frame, left);
    return true;
  }
  if (size_t{offload.checksum_start} + offload.checksum_offset + 2 > frame.size()) return false;
  if (offload.segmentation != 0) {
    const auto headers = headers_to_cut(frame, offload);
    if (!headers) return false;
    if (!taken.takes(offload)) {
      cut_and_hand_over(frame, offload, *headers, taken, sink);
      return true;
    }
    // A driver's sum of the pseudo-header may be that of a segment.
    if (!taken.checksum) start_checksum(frame, *headers);
  }
  if (!taken.checksum) {
    complete_checksum(frame, offload.checksum_start, offload.checksum_offset);
    left = {.segmentation = offload.segmentation,
            .header_bytes = offload.header_bytes,
            .segment_bytes = offload.segment_bytes};
  }
  sink(frame, left);
  return true;
}

}  // namespace rhea::net
