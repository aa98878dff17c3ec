// SPDX-License-Identifier: Apache-2.0
// The console device's numbers. Spec: [VIRTIO-1.2 5.3].
#pragma once

#include <cstdint>

namespace rhea::devices::virtio::console {

inline constexpr uint64_t kFeatureSize = 1u << 0, kFeatureMultiport = 1u << 1;

// Offsets in the configuration.
enum Configuration : uint32_t { kColumns = 0, kRows = 2, kMaximumPorts = 4, kConfigurationBytes = 12 };

// Control messages: id (32 bits), event (16), value (16), then what the event adds. [VIRTIO-1.2 5.3.6.2]
inline constexpr unsigned kControlBytes = 8;
enum Event : uint16_t {
  kDeviceReady = 0,
  kDeviceAdd = 1,
  kDeviceRemove = 2,
  kPortReady = 3,
  kConsolePort = 4,
  kResize = 5,
  kPortOpen = 6,
  kPortName = 7,
};

// Port 0 has the first two queues; those of the others stand behind the two for control. [VIRTIO-1.2 5.3.2]
inline constexpr unsigned kControlReceive = 2, kControlTransmit = 3;
constexpr unsigned receive_queue(unsigned port) { return port == 0 ? 0 : 2 * port + 2; }
constexpr unsigned transmit_queue(unsigned port) { return receive_queue(port) + 1; }

}  // namespace rhea::devices::virtio::console
