// SPDX-License-Identifier: Apache-2.0
// Registers of the high precision event timer. [IA-PC-HPET 2.3]
#pragma once

#include <cstdint>

namespace rhea::devices::hpet_regs {

inline constexpr uint64_t kBase = 0xfed00000;
inline constexpr uint64_t kSizeBytes = 0x400;
inline constexpr unsigned kTimers = 3;

// The counter: 64 bits at 100 MHz.
inline constexpr uint64_t kTickNs = 10;
inline constexpr uint64_t kPeriodFemtoseconds = kTickNs * 1'000'000;

// Register offsets, each 64 bits.
inline constexpr uint64_t kCapabilitiesRegister = 0x000;
inline constexpr uint64_t kConfiguration = 0x010;
inline constexpr uint64_t kInterruptStatus = 0x020;
inline constexpr uint64_t kMainCounter = 0x0f0;
inline constexpr uint64_t kTimerBlocks = 0x100, kTimerBlockBytes = 0x20;
inline constexpr uint64_t kTimerConfiguration = 0x00, kTimerComparator = 0x08, kTimerFsbRoute = 0x10;  // in a block

inline constexpr uint32_t kCapabilitiesLow = 0x8086u << 16              // vendor
                                             | 1u << 15                 // legacy replacement
                                             | 1u << 13                 // the counter is 64 bits wide
                                             | (kTimers - 1) << 8 | 1;  // revision
inline constexpr uint64_t kCapabilities = kPeriodFemtoseconds << 32 | kCapabilitiesLow;

// General configuration.
inline constexpr uint64_t kEnable = 1u << 0;
inline constexpr uint64_t kLegacyReplacement = 1u << 1;

// Timer configuration and capabilities.
inline constexpr uint64_t kLevel = 1u << 1;
inline constexpr uint64_t kInterruptEnable = 1u << 2;
inline constexpr uint64_t kPeriodic = 1u << 3;
inline constexpr uint64_t kPeriodicCapable = 1u << 4;
inline constexpr uint64_t kWideCapable = 1u << 5;
inline constexpr uint64_t kSetAccumulator = 1u << 6;  // Tn_VAL_SET_CNF
inline constexpr uint64_t k32Bit = 1u << 8;
inline constexpr unsigned kRouteShift = 9;
inline constexpr uint64_t kRouteMask = 0x1fu << kRouteShift;
inline constexpr uint64_t kFsbEnable = 1u << 14;
inline constexpr uint64_t kFsbCapable = 1u << 15;
inline constexpr uint64_t kRoutes = 0x00f00000;  // I/O APIC inputs 20 to 23, as on ICH9 [ICH9 20.1.5]
inline constexpr uint64_t kTimerCapabilities = kRoutes << 32 | kFsbCapable | kWideCapable | kPeriodicCapable;
inline constexpr uint64_t kTimerWritable =
    kLevel | kInterruptEnable | kPeriodic | kSetAccumulator | k32Bit | kRouteMask | kFsbEnable;

}  // namespace rhea::devices::hpet_regs
