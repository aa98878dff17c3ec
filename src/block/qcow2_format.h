// SPDX-License-Identifier: Apache-2.0
// The qcow2 header and table entries. Spec: [QCOW2].
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/error.h"

namespace rhea::block::qcow2 {

inline constexpr uint32_t kMagic = 0x514649fb;  // "QFI\xfb"
inline constexpr unsigned kMinimumClusterBits = 9, kMaximumClusterBits = 21;
inline constexpr uint64_t kMaximumDiskBytes = uint64_t{1} << 56;
inline constexpr uint32_t kMaximumL1Bytes = 32u << 20, kMaximumRefcountTableBytes = 8u << 20;
inline constexpr size_t kHeaderBytes = 112;  // what of the header is looked at

// Incompatible features.
inline constexpr uint64_t kDirty = 1, kCorrupt = 2, kExternalData = 4, kCompressionType = 8, kExtendedL2 = 16;
inline constexpr uint64_t kKnownIncompatible = kDirty | kCorrupt | kExternalData | kCompressionType | kExtendedL2;

// Table entries.
inline constexpr uint64_t kCopied = uint64_t{1} << 63, kCompressed = uint64_t{1} << 62, kZero = 1;
inline constexpr uint64_t kOffsetMask = 0x00fffffffffffe00;

// Where in the header: the table of reference counts (its offset, then its clusters), and the incompatible features.
inline constexpr size_t kRefcountTableField = 48, kIncompatibleField = 72;

struct Header {
  uint32_t version = 0;
  unsigned cluster_bits = 0;
  uint64_t disk_bytes = 0;
  uint64_t l1_offset = 0, refcount_table_offset = 0;
  uint32_t l1_entries = 0, refcount_table_clusters = 0;
  uint64_t incompatible = 0, autoclear = 0;
  unsigned refcount_order = 4;  // bits of a refcount: 2^order
  uint32_t snapshots = 0;
  uint64_t snapshots_offset = 0;
  uint32_t bitmaps = 0;  // that another program keeps in the image
  uint64_t bitmap_directory_offset = 0, bitmap_directory_bytes = 0;
  bool zstd = false;
  std::string backing_file, backing_format;

  uint64_t cluster_bytes() const { return uint64_t{1} << cluster_bits; }
  size_t l2_entry_bytes() const { return incompatible & kExtendedL2 ? 16 : 8; }
  uint64_t l2_entries() const { return cluster_bytes() / l2_entry_bytes(); }
};

// The bytes of the file that an entry for compressed data refers to: up to the end of a sector.
struct CompressedPlace {
  uint64_t offset = 0, bytes = 0;
};
CompressedPlace compressed_place(uint64_t entry, unsigned cluster_bits);

// Reads and checks the header in the first bytes of a file (up to a cluster of them). Errors name what is not
// supported.
Result<Header> parse_header(std::span<const std::byte> bytes);

}  // namespace rhea::block::qcow2
