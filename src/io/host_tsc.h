// SPDX-License-Identifier: Apache-2.0
// What the host's time stamp counter is good for: its frequency, and whether it may serve as a clock.
#pragma once

#include <cstdint>

namespace rhea::io {

struct HostTsc {
  uint64_t frequency_hz = 0;
  bool reliable = false;  // constant rate, in step on all processors
};

// Takes about 10 ms, asleep. [SDM-3B 18.7.3] for the CPUID leaves; the result is within 50 ppm of
// CLOCK_MONOTONIC_RAW.
HostTsc measure_host_tsc();

inline uint64_t read_host_tsc() { return __builtin_ia32_rdtsc(); }

}  // namespace rhea::io
