// SPDX-License-Identifier: Apache-2.0
// Headers that lie about frames that are anything. What comes out is within bounds and no longer than what went in, but
// for the headers of its segments; what was cut can be joined.
#include <cstring>

#include "net/coalescer.h"
#include "net/offload.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rhea::net;
  if (size < sizeof(FrameOffload) + 1 + 14) return 0;
  FrameOffload offload;
  std::memcpy(&offload, data, sizeof offload);
  const uint8_t bits = data[sizeof offload];
  const Offloads taken{.checksum = (bits & 1) != 0,
                       .tcp4 = (bits & 2) != 0,
                       .tcp6 = (bits & 4) != 0,
                       .udp = (bits & 8) != 0,
                       .congestion = (bits & 16) != 0};
  const auto* const bytes = reinterpret_cast<const std::byte*>(data + sizeof offload + 1);
  std::vector<std::byte> frame(bytes, bytes + size - sizeof offload - 1);
  const size_t length = frame.size();
  size_t out = 0;
  Coalescer coalescer([&out](std::span<const std::byte> joined, const FrameOffload& left) {
    if (joined.size() < 14 || joined.size() > 65535 + 22) __builtin_trap();
    if (left.needs_checksum() && size_t{left.checksum_start} + left.checksum_offset + 2 > joined.size())
      __builtin_trap();
    out += joined.size();
  });
  coalescer.add(frame, taken);
  const bool good = hand_over(frame, offload, taken, [&](std::span<const std::byte> part, const FrameOffload& left) {
    if (part.size() > length || part.size() < 14) __builtin_trap();
    if (left.needs_checksum() && size_t{left.checksum_start} + left.checksum_offset + 2 > part.size()) __builtin_trap();
    if (left.segmentation != 0 && (!taken.takes(left) || left.segment_bytes == 0)) __builtin_trap();
    if (left.needs_checksum() && !taken.checksum) __builtin_trap();
    coalescer.add(part, taken);
  });
  coalescer.flush();
  if (good && out == 0) __builtin_trap();
  return 0;
}
