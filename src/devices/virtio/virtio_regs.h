// SPDX-License-Identifier: Apache-2.0
// Numbers of virtio that devices and transports share. Spec: [VIRTIO-1.2 2, 5, 6].
#pragma once

#include <cstdint>

namespace rhea::devices::virtio {

// Device status. [VIRTIO-1.2 2.1]
inline constexpr uint8_t kStatusAcknowledge = 1, kStatusDriver = 2, kStatusDriverOk = 4, kStatusFeaturesOk = 8,
                         kStatusNeedsReset = 64, kStatusFailed = 128;

// Feature bits that belong to no device type. [VIRTIO-1.2 6]
inline constexpr uint64_t kFeatureIndirect = uint64_t{1} << 28, kFeatureEventIndex = uint64_t{1} << 29,
                          kFeatureVersion1 = uint64_t{1} << 32, kFeaturePacked = uint64_t{1} << 34,
                          kFeatureInOrder = uint64_t{1} << 35, kFeatureRingReset = uint64_t{1} << 40;

// Descriptor flags. [VIRTIO-1.2 2.7.5, 2.8.1]
inline constexpr uint16_t kDescriptorNext = 1, kDescriptorWrite = 2, kDescriptorIndirect = 4,
                          kPackedAvailable = 1u << 7, kPackedUsed = 1u << 15;

// Split ring flags; event suppression of the packed ring. [VIRTIO-1.2 2.7.7, 2.7.10, 2.8.10]
inline constexpr uint16_t kAvailableNoInterrupt = 1, kUsedNoNotify = 1;
inline constexpr uint16_t kEventsEnabled = 0, kEventsDisabled = 1, kEventsAtDescriptor = 2;

inline constexpr uint16_t kMaximumQueueSize = 1024;
inline constexpr uint16_t kNoVector = 0xffff;

// Device types. [VIRTIO-1.2 5]
enum class DeviceType : uint8_t { kNet = 1, kBlock = 2, kConsole = 3, kEntropy = 4, kBalloon = 5 };

inline constexpr uint16_t kPciVendor = 0x1af4, kPciDeviceBase = 0x1040;

}  // namespace rhea::devices::virtio
