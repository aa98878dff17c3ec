// SPDX-License-Identifier: Apache-2.0
// Ports, status and command bytes of the 8042 keyboard controller, its keyboard and its mouse.
// Spec: [PS/2] IBM Personal System/2 Hardware Interface Technical Reference, keyboard and auxiliary device controller.
#pragma once

#include <cstdint>

namespace rhea::devices::i8042_regs {

inline constexpr uint16_t kDataPort = 0x60, kCommandPort = 0x64;

inline constexpr uint8_t kStatusOutputFull = 0x01, kStatusInputFull = 0x02, kStatusSystemFlag = 0x04,
                         kStatusCommand = 0x08, kStatusUnlocked = 0x10, kStatusAuxData = 0x20, kStatusTimeout = 0x40,
                         kStatusParity = 0x80;

inline constexpr uint8_t kConfigKeyboardInterrupt = 0x01, kConfigAuxInterrupt = 0x02, kConfigSystemFlag = 0x04,
                         kConfigKeyboardDisable = 0x10, kConfigAuxDisable = 0x20, kConfigTranslate = 0x40;

inline constexpr uint8_t kReadConfig = 0x20, kWriteConfig = 0x60, kDisableAux = 0xa7, kEnableAux = 0xa8,
                         kTestAux = 0xa9, kSelfTest = 0xaa, kTestKeyboard = 0xab, kDisableKeyboard = 0xad,
                         kEnableKeyboard = 0xae, kReadInputPort = 0xc0, kReadOutputPort = 0xd0, kWriteOutputPort = 0xd1,
                         kWriteKeyboardOutput = 0xd2, kWriteAuxOutput = 0xd3, kWriteAux = 0xd4, kDisableA20 = 0xdd,
                         kEnableA20 = 0xdf, kPulseOutputPort = 0xf0;
inline constexpr uint8_t kOutputPortNotReset = 0x01, kOutputPortA20 = 0x02, kOutputPortKeyboardFull = 0x10,
                         kOutputPortAuxFull = 0x20;
inline constexpr uint8_t kSelfTestPassed = 0x55, kInterfaceTestPassed = 0x00;

inline constexpr uint8_t kAck = 0xfa, kResend = 0xfe, kDeviceTestPassed = 0xaa;

}  // namespace rhea::devices::i8042_regs
