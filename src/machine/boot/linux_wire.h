// SPDX-License-Identifier: Apache-2.0
// Layout of the Linux/x86 setup header and zero page. [Linux Documentation/arch/x86/boot.rst, zero-page.rst]
#pragma once

#include <cstddef>
#include <cstdint>

namespace rhea::machine::linux_boot {

// The setup header, at the same offsets in the file and in the zero page.
inline constexpr size_t kHeaderStart = 0x1f1;
inline constexpr size_t kSetupSectors = 0x1f1;        // u8, 0 means 4
inline constexpr size_t kBootFlag = 0x1fe;            // u16
inline constexpr size_t kJump = 0x200;                // u16, second byte: header length from 0x202
inline constexpr size_t kMagic = 0x202;               // "HdrS"
inline constexpr size_t kVersion = 0x206;             // u16
inline constexpr size_t kKernelVersion = 0x20e;       // u16, file offset - 0x200 of a string
inline constexpr size_t kTypeOfLoader = 0x210;        // u8
inline constexpr size_t kLoadFlags = 0x211;           // u8
inline constexpr size_t kCode32Start = 0x214;         // u32
inline constexpr size_t kRamdiskImage = 0x218;        // u32
inline constexpr size_t kRamdiskSize = 0x21c;         // u32
inline constexpr size_t kCommandLinePointer = 0x228;  // u32
inline constexpr size_t kInitrdAddressMax = 0x22c;    // u32
inline constexpr size_t kKernelAlignment = 0x230;     // u32
inline constexpr size_t kRelocatable = 0x234;         // u8
inline constexpr size_t kXLoadFlags = 0x236;          // u16
inline constexpr size_t kCommandLineSize = 0x238;     // u32, without the final NUL
inline constexpr size_t kPayloadOffset = 0x248;       // u32, from the start of the protected-mode code
inline constexpr size_t kPayloadLength = 0x24c;       // u32
inline constexpr size_t kPreferredAddress = 0x258;    // u64
inline constexpr size_t kInitSize = 0x260;            // u32
inline constexpr size_t kHeaderEndMax = 0x290;        // the zero page's room for the header ends here

// Zero page only.
inline constexpr size_t kZeroPageBytes = 4096;
inline constexpr size_t kAcpiRsdpAddress = 0x070;  // u64
inline constexpr size_t kExtRamdiskImage = 0x0c0;  // u32
inline constexpr size_t kExtRamdiskSize = 0x0c4;   // u32
inline constexpr size_t kE820Count = 0x1e8;        // u8
inline constexpr size_t kE820Table = 0x2d0;        // 20 bytes each
inline constexpr size_t kE820Max = 128;

inline constexpr uint16_t kBootFlagValue = 0xaa55;
inline constexpr uint32_t kMagicValue = 0x53726448;  // "HdrS"
inline constexpr uint8_t kLoadedHigh = 0x01, kKaslrFlag = 0x02, kCanUseHeap = 0x80;
inline constexpr uint16_t kXlfKernel64 = 0x01;
inline constexpr uint8_t kUndefinedLoader = 0xff;
inline constexpr uint64_t kEntry64Offset = 0x200;

}  // namespace rhea::machine::linux_boot
