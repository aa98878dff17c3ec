// SPDX-License-Identifier: Apache-2.0
// Joins TCP segments that follow each other into one long frame, for a receiver that takes such: each frame costs the
// guest far more than its bytes do. What comes out could have been cut into what came in (FrameOffload).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "net/offload.h"

namespace rhea::net {

// Threads: one. Order is kept: a frame that does not continue the one that is held pushes that out first.
class Coalescer {
 public:
  explicit Coalescer(FrameSink sink) : sink_(std::move(sink)) {}
  // A frame whose checksums are right: what comes out is marked so. `taken`: what the receiver takes now; segments are
  // joined only if that has checksums and long frames of their kind.
  void add(std::span<const std::byte> frame, const Offloads& taken);
  // Hands out what is held. To be called when nothing more comes at once.
  void flush();

 private:
  bool continues(std::span<const std::byte> frame, const FrameHeaders& headers) const;

  FrameSink sink_;
  std::vector<std::byte> held_;  // empty: nothing
  FrameHeaders headers_;
  size_t segment_bytes_ = 0;  // payload of the first segment
  unsigned segments_ = 0;
  uint32_t next_sequence_ = 0;
  bool complete_ = false;  // a short segment or a push was the last one
};

}  // namespace rhea::net
