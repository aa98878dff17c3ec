// SPDX-License-Identifier: Apache-2.0
// The network device's numbers. Spec: [VIRTIO-1.2 5.1].
#pragma once

#include <cstdint>

namespace rhea::devices::virtio::net {

inline constexpr uint64_t kFeatureChecksum = 1u << 0, kFeatureMtu = 1u << 3, kFeatureMac = 1u << 5,
                          kFeatureMergeable = 1u << 15, kFeatureStatus = 1u << 16, kFeatureControl = 1u << 17,
                          kFeatureControlReceive = 1u << 18, kFeatureControlMac = 1u << 23;

enum QueueIndex : unsigned { kReceive = 0, kTransmit = 1, kControl = 2, kQueues = 3 };

// The header before each frame.
inline constexpr unsigned kHeaderBytes = 12;
inline constexpr unsigned kHeaderFlags = 0, kHeaderGsoType = 1, kHeaderChecksumStart = 6, kHeaderChecksumOffset = 8,
                          kHeaderBuffers = 10;
inline constexpr uint8_t kNeedsChecksum = 1, kGsoNone = 0;

// The configuration.
inline constexpr uint32_t kMacOffset = 0, kStatusOffset = 6, kMtuOffset = 10, kConfigurationBytes = 12;
inline constexpr uint16_t kLinkUp = 1;

// Control commands.
inline constexpr uint8_t kClassReceive = 0, kClassMac = 1, kMacTableSet = 0, kMacAddressSet = 1;
inline constexpr uint8_t kReceiveCommands = 6;  // promiscuous ... no broadcast
inline constexpr uint8_t kAcknowledged = 0, kRefused = 1;

}  // namespace rhea::devices::virtio::net
