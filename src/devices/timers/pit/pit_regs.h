// SPDX-License-Identifier: Apache-2.0
// Ports and control word of the 8254 timer. Spec: [8254] Intel 231164-005; port 0x61 [ICH9 13.7.1].
#pragma once

#include <cstdint>

namespace rhea::devices::pit_regs {

inline constexpr uint16_t kChannel0 = 0x40, kControl = 0x43, kPort61 = 0x61;

inline constexpr unsigned kSelectShift = 6, kAccessShift = 4, kModeShift = 1;
inline constexpr uint8_t kSelectReadBack = 3;
inline constexpr uint8_t kControlBcd = 0x01;
inline constexpr uint8_t kReadBackNoCount = 0x20, kReadBackNoStatus = 0x10;
inline constexpr uint8_t kStatusOutput = 0x80, kStatusNullCount = 0x40;

inline constexpr uint8_t kPort61Gate2 = 0x01, kPort61Speaker = 0x02, kPort61Writable = 0x0f;
inline constexpr uint8_t kPort61Refresh = 0x10, kPort61Output2 = 0x20;
inline constexpr uint64_t kRefreshHalfPeriodNs = 15'085;  // the refresh bit toggles once per request

}  // namespace rhea::devices::pit_regs
