// SPDX-License-Identifier: Apache-2.0
// Where CpuState::xsave holds the state that AVX-512 adds: as the host's XSAVE lays it out, which is the processor's
// own choice. [SDM-1 13.5.6]
#pragma once

#include <cstddef>
#include <cstdint>

namespace rhea::cpu {

inline constexpr uint64_t kMaskComponent = 0x20, kUpperZmmComponent = 0x40, kHighZmmComponent = 0x80;

struct Avx512Layout {
  size_t masks = 0;      // k0-7, 8 bytes each
  size_t upper_zmm = 0;  // bits 511:256 of ZMM0-15, 32 bytes each
  size_t high_zmm = 0;   // ZMM16-31, 64 bytes each
  bool present() const { return masks != 0; }
};

// Any thread. Not present(): the host has no such state.
const Avx512Layout& host_avx512_layout();

}  // namespace rhea::cpu
