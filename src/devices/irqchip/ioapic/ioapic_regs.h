// SPDX-License-Identifier: Apache-2.0
// Registers of the 82093AA I/O APIC (version 0x20, with EOI register). Spec: [82093AA], [ICH9 13.5].
#pragma once

#include <cstdint>

namespace rhea::devices::ioapic_regs {

inline constexpr uint64_t kBase = 0xfec00000;
inline constexpr uint64_t kSizeBytes = 0x1000;

inline constexpr uint64_t kRegisterSelect = 0x00, kWindow = 0x10, kEoi = 0x40;
inline constexpr uint8_t kIdRegister = 0, kVersionRegister = 1, kArbitrationRegister = 2, kRedirectionTable = 0x10;
inline constexpr uint32_t kVersion = 0x20;

inline constexpr uint64_t kDeliveryModeShift = 8, kDeliveryModeMask = 0x700;
inline constexpr uint64_t kLogical = 1u << 11, kDeliveryPending = 1u << 12, kActiveLow = 1u << 13,
                          kRemoteIrr = 1u << 14, kLevel = 1u << 15, kMasked = 1u << 16;
inline constexpr uint64_t kWritable = 0xff000000'0001afffull;  // not delivery status, remote IRR, reserved bits
inline constexpr uint8_t kModeFixed = 0, kModeLowest = 1, kModeSmi = 2, kModeNmi = 4, kModeInit = 5, kModeExtInt = 7;

}  // namespace rhea::devices::ioapic_regs
