// SPDX-License-Identifier: Apache-2.0
// The balloon's numbers. Spec: [VIRTIO-1.2 5.5].
#pragma once

#include <cstdint>

namespace rhea::devices::virtio::balloon {

inline constexpr uint64_t kFeatureMustTell = 1u << 0, kFeatureStatistics = 1u << 1, kFeatureDeflateOnOom = 1u << 2,
                          kFeatureReporting = 1u << 5;

inline constexpr unsigned kPageBytes = 4096;  // whatever the guest's own pages are

// Offsets in the configuration.
enum Configuration : uint32_t { kTargetPages = 0, kActualPages = 4, kConfigurationBytes = 16 };

// A statistic: 16 bits of tag, 64 of value, packed.
inline constexpr unsigned kStatisticBytes = 10;
enum StatisticTag : uint16_t {
  kSwapIn = 0,
  kSwapOut = 1,
  kMajorFaults = 2,
  kMinorFaults = 3,
  kFreeMemory = 4,
  kTotalMemory = 5,
  kAvailableMemory = 6,
  kDiskCaches = 7,
  kHugePageAllocations = 8,
  kHugePageFailures = 9,
  kStatisticCount = 10,
};

}  // namespace rhea::devices::virtio::balloon
