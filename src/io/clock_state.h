// SPDX-License-Identifier: Apache-2.0
// What of a clock is saved: the same for every kind of clock, so that a VM may resume under another kind.
#pragma once

#include <cstdint>

#include "base/numeric.h"

namespace rhea::io {

struct ClockState {
  static constexpr uint32_t kStateVersion = 2;  // 2: reference_tsc, reference_ns
  uint64_t now_ns = 0;
  uint64_t tsc = 0;
  uint64_t tsc_frequency_hz = 0;
  int64_t wall_time_ns = 0;                      // Unix time; only a clock with a wall time of its own goes on from it
  uint64_t reference_tsc = 0, reference_ns = 0;  // Clock::tsc_reference()

  template <class Archive>
  static void describe(Archive& archive, auto& self) {
    archive.field("now_ns", self.now_ns);
    archive.field("tsc", self.tsc);
    archive.field("tsc_frequency_hz", self.tsc_frequency_hz);
    archive.field("wall_time_ns", self.wall_time_ns);
    archive.field_since(2, "reference_tsc", self.reference_tsc);
    archive.field_since(2, "reference_ns", self.reference_ns);
    if constexpr (Archive::kLoading) {
      if (archive.version() < 2) {
        self.reference_tsc = self.tsc;
        self.reference_ns = self.now_ns;
      }
    }
  }

  // A TSC that counts on from this state at its frequency.
  uint64_t tsc_at(uint64_t at_ns) const { return tsc + base::mul_div(at_ns - now_ns, tsc_frequency_hz, 1'000'000'000); }
  static constexpr uint64_t kMinFrequencyHz = 1'000'000, kMaxFrequencyHz = 100'000'000'000;
  bool plausible() const { return tsc_frequency_hz >= kMinFrequencyHz && tsc_frequency_hz <= kMaxFrequencyHz; }
};

}  // namespace rhea::io
