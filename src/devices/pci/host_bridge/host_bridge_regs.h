// SPDX-License-Identifier: Apache-2.0
// The host bridge of the Q35 chipset, as far as guests look at it. Spec: [Q35 5] Intel 316966-002.
#pragma once

#include <cstdint>

namespace rhea::devices::host_bridge_regs {

inline constexpr uint16_t kVendor = 0x8086, kDevice = 0x29c0;
inline constexpr uint32_t kHostBridgeClass = 0x060000;
inline constexpr uint16_t kPciExBar = 0x60;                              // 64 bits
inline constexpr uint64_t kPciExBarEnable = 1, kPciExBarLengthMask = 6;  // 00: 256 MiB, 01: 128 MiB, 10: 64 MiB
inline constexpr uint64_t kDefaultEcamBase = 0xb0000000, kEcamBytes = 256ull << 20;
inline constexpr uint64_t kPciExBarAddressMask = 0xf'f000'0000ull;  // bits 35:28

// Memory that only processors in SMM see. [Q35 5.1.31, 5.1.32]
inline constexpr uint16_t kSmram = 0x9d, kEsmramc = 0x9e;
inline constexpr uint32_t kSmramOpen = 0x40, kSmramLock = 0x10, kSmramEnable = 0x08, kSmramSegmentA = 0x02;
inline constexpr uint32_t kTsegEnable = 1, kTsegSizeMask = 6;  // 00: 1 MiB, 01: 2 MiB, 10: 8 MiB
inline constexpr uint32_t kEsmramcFixed = 0x38;                // caching, which nothing shows
inline constexpr uint64_t kSmramBase = 0xa0000, kSmramBytes = 0x20000;

}  // namespace rhea::devices::host_bridge_regs
