// SPDX-License-Identifier: Apache-2.0
// Unpacks compressed kernels natively on the host, with a hard limit on what comes out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace rhea::machine {

enum class Compression : uint8_t { kNone, kGzip, kXz, kZstd, kLz4, kBzip2, kLzma, kLzo };

// By magic number; kNone if nothing matches.
Compression detect_compression(std::span<const std::byte> data);
std::string_view compression_name(Compression compression);

// Unpacks the first stream in `data`; bytes after its end are ignored (Linux appends the unpacked size).
// Errors: kCorrupt for broken or truncated data, kExhausted if more than `limit_bytes` come out,
// kUnsupported for what detect_compression() names but nothing here unpacks (LZO).
Result<std::vector<std::byte>> decompress(std::span<const std::byte> data, uint64_t limit_bytes);

}  // namespace rhea::machine
