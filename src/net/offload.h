// SPDX-License-Identifier: Apache-2.0
// What is left undone in a frame: a checksum, the cutting into segments. And doing it, for whom it is not done.
// Spec: [VIRTIO-1.2 5.1.6], [RFC-1071], [RFC-9293].
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

namespace rhea::net {

enum class Segmentation : uint8_t { kNone = 0, kTcp4 = 1, kTcp6 = 4, kUdp = 5 };  // kUdp: datagrams of one flow

// Beside each frame. As struct virtio_net_hdr of Linux's tap devices and of virtio, byte for byte.
struct FrameOffload {
  static constexpr uint8_t kNeedsChecksum = 1, kChecksumValid = 2;  // flags
  static constexpr uint8_t kExplicitCongestion = 0x80;              // in `segmentation`

  uint8_t flags = 0;
  uint8_t segmentation = 0;      // a Segmentation, maybe with kExplicitCongestion
  uint16_t header_bytes = 0;     // a hint
  uint16_t segment_bytes = 0;    // of payload, in each segment
  uint16_t checksum_start = 0;   // kNeedsChecksum: where summing starts,
  uint16_t checksum_offset = 0;  // and where, from there, the sum goes; the pseudo-header's is there already

  Segmentation kind() const { return static_cast<Segmentation>(segmentation & ~kExplicitCongestion); }
  bool needs_checksum() const { return flags & kNeedsChecksum; }
  bool plain() const { return !needs_checksum() && segmentation == 0; }
};
static_assert(sizeof(FrameOffload) == 10);

// What one side takes undone.
struct Offloads {
  bool checksum = false;
  bool tcp4 = false, tcp6 = false, udp = false;  // longer frames, to be cut into segments
  bool congestion = false;                       // also those with kExplicitCongestion

  bool takes(const FrameOffload& offload) const;  // its segmentation
  bool operator==(const Offloads&) const = default;
};

using FrameSink = std::function<void(std::span<const std::byte> frame, const FrameOffload& offload)>;

// Hands `frame` to `sink`, with what `taken` lacks done to it: it may come in several segments. `frame` is written to.
// False, and nothing handed over: the offload makes no sense for these bytes (places beyond the frame, segments of what
// is no TCP); whoever sent it is not to be believed.
bool hand_over(std::span<std::byte> frame, const FrameOffload& offload, const Offloads& taken, const FrameSink& sink);

// --- what reads and writes headers ---

// Where the headers of an IPv4 or IPv6 frame with TCP or UDP lie: offsets into it.
struct FrameHeaders {
  bool ip6 = false, udp = false;
  size_t network = 0, transport = 0, payload = 0;
};
// Of any frame, from its own bytes; nothing for what is not TCP or UDP, is a fragment, has IPv6 extension headers, or
// ends too soon. All three offsets are within the frame (payload may be its end).
std::optional<FrameHeaders> find_headers(std::span<const std::byte> frame);
// Lengths and the IPv4 header's checksum, for a frame that is as long as it now is.
void fit_lengths(std::span<std::byte> frame, const FrameHeaders& headers);
// Puts the pseudo-header's sum where the transport's checksum goes, as kNeedsChecksum wants it.
void start_checksum(std::span<std::byte> frame, const FrameHeaders& headers);

uint16_t get_be16(std::span<const std::byte> bytes, size_t at);
uint32_t get_be32(std::span<const std::byte> bytes, size_t at);
void put_be16(std::span<std::byte> bytes, size_t at, size_t value);
void put_be32(std::span<std::byte> bytes, size_t at, uint32_t value);

// The one's complement sum of the bytes as big-endian words, added to `sum` and not yet folded.
uint64_t add_to_checksum(uint64_t sum, std::span<const std::byte> bytes);
uint16_t fold_checksum(uint64_t sum);  // and its complement

inline constexpr size_t kTcpChecksumOffset = 16, kUdpChecksumOffset = 6, kTcpFlagsOffset = 13;
inline constexpr uint8_t kTcpFin = 0x01, kTcpPush = 0x08, kTcpAcknowledge = 0x10, kTcpWindowReduced = 0x80;

}  // namespace rhea::net
