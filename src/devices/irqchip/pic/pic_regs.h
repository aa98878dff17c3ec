// SPDX-License-Identifier: Apache-2.0
// Ports and command bits of the 8259A pair. Spec: [8259A] Intel 231468-003, [ICH9 13.4].
#pragma once

#include <cstdint>

namespace rhea::devices::pic_regs {

inline constexpr uint16_t kPrimaryCommand = 0x20, kPrimaryData = 0x21;
inline constexpr uint16_t kSecondaryCommand = 0xa0, kSecondaryData = 0xa1;
inline constexpr uint16_t kPrimaryElcr = 0x4d0, kSecondaryElcr = 0x4d1;

inline constexpr uint8_t kIcw1 = 0x10, kIcw1Icw4 = 0x01, kIcw1Single = 0x02, kIcw1Level = 0x08;
inline constexpr uint8_t kIcw4AutoEoi = 0x02, kIcw4SpecialFullyNested = 0x10;
inline constexpr uint8_t kOcw3 = 0x08;
inline constexpr uint8_t kOcw3ReadRegister = 0x02, kOcw3ReadIsr = 0x01, kOcw3Poll = 0x04;
inline constexpr uint8_t kOcw3SpecialMaskEnable = 0x40, kOcw3SpecialMask = 0x20;

// OCW2 bits 7:5.
enum class Ocw2 : uint8_t {
  kClearRotateOnAutoEoi = 0,
  kEoi = 1,
  kNop = 2,
  kSpecificEoi = 3,
  kSetRotateOnAutoEoi = 4,
  kRotateOnEoi = 5,
  kSetPriority = 6,
  kRotateOnSpecificEoi = 7,
};

// Inputs that are edge-triggered whatever ELCR says: timer, keyboard, cascade; RTC and FPU.
inline constexpr uint8_t kPrimaryElcrMask = 0xf8, kSecondaryElcrMask = 0xde;
inline constexpr unsigned kCascade = 2;

}  // namespace rhea::devices::pic_regs
