// SPDX-License-Identifier: Apache-2.0
// Registers of the MC146818 real-time clock and the CMOS bytes that a PC firmware leaves. Spec: [MC146818].
#pragma once

#include <cstdint>

namespace rhea::devices::rtc_regs {

inline constexpr uint16_t kIndexPort = 0x70, kDataPort = 0x71;
inline constexpr uint8_t kNmiDisable = 0x80;
inline constexpr unsigned kCmosBytes = 128;

enum Register : uint8_t {
  kSeconds = 0x00,
  kSecondsAlarm = 0x01,
  kMinutes = 0x02,
  kMinutesAlarm = 0x03,
  kHours = 0x04,
  kHoursAlarm = 0x05,
  kDayOfWeek = 0x06,
  kDayOfMonth = 0x07,
  kMonth = 0x08,
  kYear = 0x09,
  kRegisterA = 0x0a,
  kRegisterB = 0x0b,
  kRegisterC = 0x0c,
  kRegisterD = 0x0d,
  kShutdown = 0x0f,
  kEquipment = 0x14,
  kBaseMemoryLow = 0x15,      // KiB below 640 KiB, two bytes
  kExtendedMemoryLow = 0x17,  // KiB above 1 MiB, two bytes, at most 64 MiB
  kExtendedMemoryLow2 = 0x30,
  kCentury = 0x32,
  kMemoryAbove16mLow = 0x34,  // 64 KiB units above 16 MiB, two bytes
  kMemoryAbove4gLow = 0x5b,   // 64 KiB units above 4 GiB, three bytes
};

inline constexpr uint8_t kUpdateInProgress = 0x80, kDividerMask = 0x70, kDividerNormal = 0x20, kDividerReset = 0x60,
                         kRateMask = 0x0f;
inline constexpr uint8_t kSet = 0x80, kPeriodicEnable = 0x40, kAlarmEnable = 0x20, kUpdateEnable = 0x10,
                         kSquareWave = 0x08, kBinary = 0x04, k24Hour = 0x02, kDaylightSaving = 0x01;
inline constexpr uint8_t kInterruptRequest = 0x80, kPeriodicFlag = 0x40, kAlarmFlag = 0x20, kUpdateFlag = 0x10;
inline constexpr uint8_t kValidRamAndTime = 0x80;
inline constexpr uint8_t kAlarmDontCare = 0xc0, kPm = 0x80;

// UIP rises 244 us before the update. [MC146818 "Update-In-Progress"]
inline constexpr int64_t kUipLeadNs = 244'141;

}  // namespace rhea::devices::rtc_regs
