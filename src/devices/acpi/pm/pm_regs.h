// SPDX-License-Identifier: Apache-2.0
// The ACPI fixed hardware block: what the FADT and the DSDT must say. Spec: [ACPI-6.5 4.8].
#pragma once

#include <cstdint>

namespace rhea::devices::pm_regs {

// Port block, offsets from PMBASE as in [ICH9 13.8.3].
inline constexpr uint16_t kDefaultBase = 0x600;
inline constexpr uint16_t kBlockBytes = 0x80;
inline constexpr uint16_t kPm1Event = 0x00;    // status 2 bytes, enable 2 bytes: PM1_EVT_LEN 4
inline constexpr uint16_t kPm1Control = 0x04;  // PM1_CNT_LEN 2
inline constexpr uint16_t kTimer = 0x08;       // PM_TMR_LEN 4
inline constexpr uint16_t kGpe0 = 0x20;        // status 8 bytes, enable 8 bytes: GPE0_BLK_LEN 16
inline constexpr uint16_t kGpe0Bytes = 16;
inline constexpr uint8_t kGpe0Events = 64;
inline constexpr uint16_t kSmiEnable = 0x30, kSmiStatus = 0x34;                 // 4 bytes each
inline constexpr uint32_t kGlobalSmiEnable = 1u << 0, kApmSmiEnable = 1u << 5;  // of SMI_EN
inline constexpr uint32_t kApmSmiStatus = 1u << 5;                              // of SMI_STS

inline constexpr uint16_t kSmiCommandPort = 0xb2, kSmiDataPort = 0xb3;
inline constexpr uint8_t kAcpiEnable = 0x02, kAcpiDisable = 0x03;

inline constexpr unsigned kSciGsi = 9;  // level-triggered, active high
inline constexpr uint64_t kTimerHz = 3'579'545;

inline constexpr uint16_t kTimerStatus = 1u << 0, kGlobalStatus = 1u << 5, kPowerButton = 1u << 8,
                          kSleepButton = 1u << 9, kRtcStatus = 1u << 10, kWakeStatus = 1u << 15;
inline constexpr uint16_t kPm1StatusBits =
    kTimerStatus | kGlobalStatus | kPowerButton | kSleepButton | kRtcStatus | kWakeStatus;
inline constexpr uint16_t kPm1EnableBits = kTimerStatus | kGlobalStatus | kPowerButton | kSleepButton | kRtcStatus;
inline constexpr uint16_t kSciEnable = 1u << 0, kBusMasterReload = 1u << 1, kSleepEnable = 1u << 13;
inline constexpr unsigned kSleepTypeShift = 10;
inline constexpr uint16_t kSleepTypeMask = 7u << kSleepTypeShift;
inline constexpr uint8_t kSleepTypeS5 = 7;  // for the DSDT's \_S5 package

}  // namespace rhea::devices::pm_regs
