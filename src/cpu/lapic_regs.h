// SPDX-License-Identifier: Apache-2.0
// Registers of the local APIC: xAPIC offsets >> 4, which are also the x2APIC MSRs - 0x800. [SDM-3A 11.4, 11.12]
#pragma once

#include <cstdint>

namespace rhea::cpu::lapic_regs {

enum Register : uint8_t {
  kId = 0x02,
  kVersion = 0x03,
  kTpr = 0x08,
  kApr = 0x09,
  kPpr = 0x0a,
  kEoi = 0x0b,
  kRrd = 0x0c,
  kLdr = 0x0d,
  kDfr = 0x0e,
  kSvr = 0x0f,
  kIsr0 = 0x10,
  kTmr0 = 0x18,
  kIrr0 = 0x20,
  kEsr = 0x28,
  kIcrLow = 0x30,
  kIcrHigh = 0x31,
  kLvtTimerRegister = 0x32,
  kLvtThermalRegister = 0x33,
  kLvtPerfRegister = 0x34,
  kLvtLint0Register = 0x35,
  kLvtLint1Register = 0x36,
  kLvtErrorRegister = 0x37,
  kInitialCount = 0x38,
  kCurrentCount = 0x39,
  kDivideConfig = 0x3e,
  kSelfIpi = 0x3f,
};

inline constexpr uint32_t kMsrApicBase = 0x1b, kMsrTscDeadline = 0x6e0, kMsrX2apicFirst = 0x800, kMsrX2apicLast = 0x8ff;

inline constexpr uint64_t kBaseBootstrap = 1u << 8, kBaseX2apic = 1u << 10, kBaseEnable = 1u << 11;
inline constexpr uint64_t kDefaultBase = 0xfee00000;

inline constexpr uint32_t kVersionValue = 0x50014;  // six LVT entries, no suppression of EOI broadcasts

inline constexpr uint32_t kSvrEnable = 1u << 8, kSvrFocusDisable = 1u << 9, kSvrVector = 0xff;

inline constexpr uint32_t kLvtVector = 0xff, kLvtMode = 7u << 8, kLvtDeliveryPending = 1u << 12,
                          kLvtActiveLow = 1u << 13, kLvtRemoteIrr = 1u << 14, kLvtLevel = 1u << 15,
                          kLvtMasked = 1u << 16, kLvtTimerMode = 3u << 17;

inline constexpr uint32_t kEsrRedirectableIpi = 1u << 4, kEsrSendIllegalVector = 1u << 5,
                          kEsrReceiveIllegalVector = 1u << 6, kEsrIllegalRegister = 1u << 7;

enum DeliveryMode : uint8_t {
  kFixed = 0,
  kLowestPriority = 1,
  kSmi = 2,
  kNmi = 4,
  kInit = 5,
  kStartup = 6,
  kExtInt = 7
};

inline constexpr uint32_t kIcrLogical = 1u << 11, kIcrBusy = 1u << 12, kIcrAssert = 1u << 14, kIcrLevel = 1u << 15;
inline constexpr unsigned kIcrShorthandShift = 18;
inline constexpr uint32_t kIcrWritable = 0x000ccfff;  // reserved: 13, 16, 17, 20-31; 12 is read-only
inline constexpr uint32_t kBroadcast = 0xffffffff;

inline constexpr uint8_t kFirstLegalVector = 16;

}  // namespace rhea::cpu::lapic_regs
