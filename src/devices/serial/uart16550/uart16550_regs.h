// SPDX-License-Identifier: Apache-2.0
// Registers of the 16550A UART. Spec: [PC16550D] National Semiconductor, June 1995.
#pragma once

#include <cstdint>

namespace rhea::devices::uart_regs {

inline constexpr uint16_t kCom1Port = 0x3f8, kCom2Port = 0x2f8;
inline constexpr unsigned kCom1Irq = 4, kCom2Irq = 3;
inline constexpr unsigned kPortCount = 8;
inline constexpr unsigned kFifoBytes = 16;
inline constexpr uint32_t kClockHz = 1'843'200;

enum Register : uint8_t { kData = 0, kIer = 1, kIir = 2, kFcr = 2, kLcr = 3, kMcr = 4, kLsr = 5, kMsr = 6, kScr = 7 };

inline constexpr uint8_t kIerReceive = 0x01, kIerTransmitEmpty = 0x02, kIerLineStatus = 0x04, kIerModemStatus = 0x08;
inline constexpr uint8_t kIirNone = 0x01, kIirModemStatus = 0x00, kIirTransmitEmpty = 0x02, kIirReceive = 0x04,
                         kIirLineStatus = 0x06, kIirTimeout = 0x0c, kIirFifos = 0xc0;
inline constexpr uint8_t kFcrEnable = 0x01, kFcrClearReceive = 0x02, kFcrClearTransmit = 0x04, kFcrDmaMode = 0x08,
                         kFcrTrigger = 0xc0;
inline constexpr uint8_t kLcrWordLength = 0x03, kLcrStop = 0x04, kLcrParity = 0x08, kLcrBreak = 0x40, kLcrDlab = 0x80;
inline constexpr uint8_t kMcrDtr = 0x01, kMcrRts = 0x02, kMcrOut1 = 0x04, kMcrOut2 = 0x08, kMcrLoop = 0x10;
inline constexpr uint8_t kLsrDataReady = 0x01, kLsrOverrun = 0x02, kLsrParity = 0x04, kLsrFraming = 0x08,
                         kLsrBreak = 0x10, kLsrThrEmpty = 0x20, kLsrTransmitterEmpty = 0x40, kLsrFifoError = 0x80;
inline constexpr uint8_t kMsrDeltaCts = 0x01, kMsrDeltaDsr = 0x02, kMsrTrailingRing = 0x04, kMsrDeltaDcd = 0x08,
                         kMsrCts = 0x10, kMsrDsr = 0x20, kMsrRing = 0x40, kMsrDcd = 0x80;

}  // namespace rhea::devices::uart_regs
