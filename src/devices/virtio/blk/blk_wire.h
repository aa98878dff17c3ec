// SPDX-License-Identifier: Apache-2.0
// The block device's numbers. Spec: [VIRTIO-1.2 5.2].
#pragma once

#include <cstdint>

namespace rhea::devices::virtio::blk {

inline constexpr uint64_t kFeatureSegmentMaximum = 1u << 2, kFeatureReadOnly = 1u << 5, kFeatureBlockSize = 1u << 6,
                          kFeatureFlush = 1u << 9, kFeatureTopology = 1u << 10, kFeatureWriteCacheSwitch = 1u << 11,
                          kFeatureQueues = 1u << 12, kFeatureDiscard = 1u << 13, kFeatureWriteZeroes = 1u << 14;

inline constexpr unsigned kSectorBytes = 512, kSerialBytes = 20, kHeaderBytes = 16, kRangeBytes = 16;

enum RequestType : uint32_t { kIn = 0, kOut = 1, kFlush = 4, kGetId = 8, kDiscard = 11, kWriteZeroes = 13 };
enum RequestStatus : uint8_t { kOk = 0, kIoError = 1, kUnsupported = 2 };
inline constexpr uint32_t kRangeUnmap = 1;  // flag of a discard or write-zeroes range

// Offsets in the configuration.
enum Configuration : uint32_t {
  kCapacity = 0,
  kSegmentMaximum = 12,
  kBlockSize = 20,
  kPhysicalBlockExponent = 24,
  kMinimumIoSize = 26,
  kOptimalIoSize = 28,
  kWriteback = 32,
  kQueueCount = 34,
  kDiscardSectors = 36,
  kDiscardSegments = 40,
  kDiscardAlignment = 44,
  kZeroesSectors = 48,
  kZeroesSegments = 52,
  kZeroesMayUnmap = 56,
  kConfigurationBytes = 60,
};

}  // namespace rhea::devices::virtio::blk
