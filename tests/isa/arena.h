// SPDX-License-Identifier: Apache-2.0
// The linear memory that test cases see: the same pages, protections and contents in a native process and
// in a guest.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace rhea::tests::isa {

inline constexpr uint64_t kPage = 4096;

// Backing pages. All are part of the memory image that is set before and compared after a case.
enum class BackingPage : uint8_t {
  kCode0,
  kCode1,
  kData0,
  kData1,
  kReadOnly,
  kData2,
  kStack0,
  kStack1,
  kLow,
  kSelfModifying,
  kCount
};
inline constexpr size_t kBackingPages = static_cast<size_t>(BackingPage::kCount);
inline constexpr size_t kImageBytes = kBackingPages * kPage;

enum class Protection : uint8_t { kReadWrite, kReadOnly, kReadExecute, kReadWriteExecute };

struct ArenaMapping {
  uint64_t linear;
  BackingPage page;
  Protection protection;
};

// Everything is below 2 GiB, so that absolute and 32-bit addressing reach it, and once more far above
// 4 GiB, so that truncated pointers are noticed; both views share the backing pages.
inline constexpr uint64_t kHighOffset = 0x1234'0000'0000;
inline constexpr uint64_t kCodeLinear = 0x1000'0000;   // code0, code1, then nothing
inline constexpr uint64_t kDataLinear = 0x1000'4000;   // data0, data1, read-only, then nothing
inline constexpr uint64_t kData2Linear = 0x1000'a000;  // between unmapped pages
inline constexpr uint64_t kStackLinear = 0x1000'c000;  // stack0, stack1 between unmapped pages
inline constexpr uint64_t kLowLinear = 0x8000;         // within reach of 16-bit addressing
inline constexpr uint64_t kSelfModifyingLinear = 0x1001'0000;

inline constexpr std::array<ArenaMapping, 19> kArena{{
    {kCodeLinear, BackingPage::kCode0, Protection::kReadExecute},
    {kCodeLinear + kPage, BackingPage::kCode1, Protection::kReadExecute},
    {kDataLinear, BackingPage::kData0, Protection::kReadWrite},
    {kDataLinear + kPage, BackingPage::kData1, Protection::kReadWrite},
    {kDataLinear + 2 * kPage, BackingPage::kReadOnly, Protection::kReadOnly},
    {kData2Linear, BackingPage::kData2, Protection::kReadWrite},
    {kStackLinear, BackingPage::kStack0, Protection::kReadWrite},
    {kStackLinear + kPage, BackingPage::kStack1, Protection::kReadWrite},
    {kLowLinear, BackingPage::kLow, Protection::kReadWrite},
    {kSelfModifyingLinear, BackingPage::kSelfModifying, Protection::kReadWriteExecute},
    {kHighOffset + kCodeLinear, BackingPage::kCode0, Protection::kReadExecute},
    {kHighOffset + kCodeLinear + kPage, BackingPage::kCode1, Protection::kReadExecute},
    {kHighOffset + kDataLinear, BackingPage::kData0, Protection::kReadWrite},
    {kHighOffset + kDataLinear + kPage, BackingPage::kData1, Protection::kReadWrite},
    {kHighOffset + kDataLinear + 2 * kPage, BackingPage::kReadOnly, Protection::kReadOnly},
    {kHighOffset + kData2Linear, BackingPage::kData2, Protection::kReadWrite},
    {kHighOffset + kStackLinear, BackingPage::kStack0, Protection::kReadWrite},
    {kHighOffset + kStackLinear + kPage, BackingPage::kStack1, Protection::kReadWrite},
    {kHighOffset + kSelfModifyingLinear, BackingPage::kSelfModifying, Protection::kReadWriteExecute},
}};

inline constexpr size_t image_offset(BackingPage page) { return static_cast<size_t>(page) * kPage; }

// What code pages hold around the code: INT3, so that every way out of the code ends in #BP.
inline constexpr uint8_t kFill = 0xcc;

}  // namespace rhea::tests::isa
