// SPDX-License-Identifier: Apache-2.0
// The network device's numbers. Spec: [VIRTIO-1.2 5.1].
#pragma once

#include <cstdint>

namespace rhea::devices::virtio::net {

inline constexpr uint64_t kFeatureChecksum = 1u << 0, kFeatureGuestChecksum = 1u << 1, kFeatureGuestOffloads = 1u << 2,
                          kFeatureMtu = 1u << 3, kFeatureMac = 1u << 5, kFeatureGuestTso4 = 1u << 7,
                          kFeatureGuestTso6 = 1u << 8, kFeatureGuestEcn = 1u << 9, kFeatureHostTso4 = 1u << 11,
                          kFeatureHostTso6 = 1u << 12, kFeatureHostEcn = 1u << 13, kFeatureMergeable = 1u << 15,
                          kFeatureStatus = 1u << 16, kFeatureControl = 1u << 17, kFeatureControlReceive = 1u << 18,
                          kFeatureControlVlan = 1u << 19, kFeatureControlReceiveExtra = 1u << 20,
                          kFeatureGuestAnnounce = 1u << 21, kFeatureMultiQueue = 1u << 22,
                          kFeatureControlMac = 1u << 23, kFeatureGuestUso4 = uint64_t{1} << 54,
                          kFeatureGuestUso6 = uint64_t{1} << 55, kFeatureHostUso = uint64_t{1} << 56;

// Queues: receive and transmit of pair 0, of pair 1, ...; then control. [VIRTIO-1.2 5.1.2]
enum QueueIndex : unsigned { kReceive = 0, kTransmit = 1 };
inline constexpr unsigned kMaximumPairs = 16;
constexpr unsigned receive_queue(unsigned pair) { return 2 * pair; }
constexpr unsigned transmit_queue(unsigned pair) { return 2 * pair + 1; }

// The header before each frame: net::FrameOffload, then the number of buffers.
inline constexpr unsigned kHeaderBytes = 12, kHeaderBuffers = 10;

// The configuration.
inline constexpr uint32_t kMacOffset = 0, kStatusOffset = 6, kPairsOffset = 8, kMtuOffset = 10,
                          kConfigurationBytes = 12;
inline constexpr uint16_t kLinkUp = 1, kAnnounce = 2;

// Control commands. [VIRTIO-1.2 5.1.6.5]
inline constexpr uint8_t kClassReceive = 0, kClassMac = 1, kClassVlan = 2, kClassAnnounce = 3, kClassMultiQueue = 4,
                         kClassGuestOffloads = 5;
inline constexpr uint8_t kMacTableSet = 0, kMacAddressSet = 1, kVlanAdd = 0, kVlanRemove = 1, kAnnounceAcknowledge = 0,
                         kPairsSet = 0, kGuestOffloadsSet = 0;
enum ReceiveMode : uint8_t { kPromiscuous, kAllMulticast, kAllUnicast, kNoMulticast, kNoUnicast, kNoBroadcast };
inline constexpr uint8_t kReceiveModes = 6;
inline constexpr uint8_t kAcknowledged = 0, kRefused = 1;

}  // namespace rhea::devices::virtio::net
