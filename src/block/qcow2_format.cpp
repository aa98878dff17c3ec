// SPDX-License-Identifier: Apache-2.0
// Checks of qcow2's header: everything in it comes from whoever wrote the file.
#include "block/qcow2_format.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/endian.h"

namespace rhea::block::qcow2 {
namespace {

constexpr uint32_t kExtensionEnd = 0, kExtensionBackingFormat = 0xe2792aca, kExtensionBitmaps = 0x23852875;
constexpr size_t kVersion2HeaderBytes = 72;
constexpr uint32_t kMaximumNameBytes = 1023;

std::unexpected<Error> unsupported(std::string what) {
  return fail(ErrorCode::kUnsupported, fmt::format("qcow2: {}", what));
}
std::unexpected<Error> corrupt(std::string what) { return fail(ErrorCode::kCorrupt, fmt::format("qcow2: {}", what)); }

// Header extensions, of which only the backing file's format and the place of bitmaps matter here.
void parse_extensions(std::span<const std::byte> bytes, size_t at, Header& header) {
  while (at + 8 <= bytes.size()) {
    const auto type = base::load_be<uint32_t>(&bytes[at]), length = base::load_be<uint32_t>(&bytes[at + 4]);
    at += 8;
    if (type == kExtensionEnd || length > bytes.size() - at) return;
    if (type == kExtensionBackingFormat)
      header.backing_format.assign(reinterpret_cast<const char*>(&bytes[at]), length);
    if (type == kExtensionBitmaps && length >= 24) {
      header.bitmaps = base::load_be<uint32_t>(&bytes[at]);
      header.bitmap_directory_bytes = base::load_be<uint64_t>(&bytes[at + 8]);
      header.bitmap_directory_offset = base::load_be<uint64_t>(&bytes[at + 16]);
    }
    at += (length + 7) & ~size_t{7};
  }
}

Status check_tables(const Header& header) {
  const uint64_t cluster = header.cluster_bytes();
  if (header.disk_bytes > kMaximumDiskBytes) return corrupt("the disk is larger than any can be");
  const uint64_t per_l1 = cluster * header.l2_entries();
  const uint64_t needed = (header.disk_bytes + per_l1 - 1) / per_l1;
  if (header.l1_entries < needed || uint64_t{header.l1_entries} * 8 > kMaximumL1Bytes)
    return corrupt("the first-level table does not fit the disk's size");
  if (header.l1_offset % cluster != 0 || header.refcount_table_offset % cluster != 0 ||
      header.refcount_table_offset == 0)
    return corrupt("a table is misplaced");
  if (header.refcount_table_clusters == 0 ||
      header.refcount_table_clusters > (kMaximumRefcountTableBytes >> header.cluster_bits) + 1)
    return corrupt("the table of reference counts has an impossible size");
  return {};
}

}  // namespace

CompressedPlace compressed_place(uint64_t entry, unsigned cluster_bits) {
  const unsigned offset_bits = 62 - (cluster_bits - 8);
  const uint64_t offset = entry & ((uint64_t{1} << offset_bits) - 1);
  const uint64_t sectors = ((entry & ~(kCopied | kCompressed)) >> offset_bits) + 1;
  return {.offset = offset, .bytes = sectors * 512 - offset % 512};
}

Result<Header> parse_header(std::span<const std::byte> bytes) {
  if (bytes.size() < kVersion2HeaderBytes || base::load_be<uint32_t>(&bytes[0]) != kMagic)
    return fail(ErrorCode::kInvalidArgument, "not a qcow2 image");
  const auto u32 = [&](size_t at) { return base::load_be<uint32_t>(&bytes[at]); };
  const auto u64 = [&](size_t at) { return base::load_be<uint64_t>(&bytes[at]); };
  Header header;
  header.version = u32(4);
  if (header.version != 2 && header.version != 3)
    return unsupported(fmt::format("version {} is not known", header.version));
  header.cluster_bits = u32(20);
  if (header.cluster_bits < kMinimumClusterBits || header.cluster_bits > kMaximumClusterBits)
    return corrupt("impossible cluster size");
  header.disk_bytes = u64(24);
  if (const uint32_t method = u32(32))
    return unsupported(method == 2 ? "LUKS-encrypted images are not supported" : "encrypted images are not supported");
  header.l1_entries = u32(36);
  header.l1_offset = u64(40);
  header.refcount_table_offset = u64(48);
  header.refcount_table_clusters = u32(56);
  header.snapshots = u32(60);
  header.snapshots_offset = u64(64);
  size_t header_bytes = kVersion2HeaderBytes;
  if (header.version == 3) {
    if (bytes.size() < kHeaderBytes) return corrupt("the header is cut off");
    header.incompatible = u64(72);
    header.autoclear = u64(88);
    header.refcount_order = u32(96);
    header_bytes = u32(100);
    if (header.refcount_order > 6) return corrupt("impossible width of reference counts");
    if (header_bytes < 104 || header_bytes > bytes.size()) return corrupt("impossible length of the header");
    if ((header.incompatible & kCompressionType) && header_bytes > 104) header.zstd = bytes[104] == std::byte{1};
    if ((header.incompatible & kCompressionType) && !header.zstd) return unsupported("an unknown kind of compression");
  }
  if (const uint64_t unknown = header.incompatible & ~kKnownIncompatible)
    return unsupported(fmt::format("incompatible features {:#x} are not known", unknown));
  if (header.incompatible & kExternalData) return unsupported("an external data file is not supported");
  if (header.incompatible & kExtendedL2) return unsupported("extended L2 entries (subclusters) are not supported");
  RHEA_TRY(check_tables(header));
  parse_extensions(bytes, header_bytes, header);
  if (const uint64_t at = u64(8)) {
    const uint32_t length = u32(16);
    if (length > kMaximumNameBytes || at > bytes.size() || length > bytes.size() - at)
      return corrupt("the backing file's name is misplaced");
    header.backing_file.assign(reinterpret_cast<const char*>(&bytes[at]), length);
  }
  return header;
}

}  // namespace rhea::block::qcow2
