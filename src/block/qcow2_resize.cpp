// SPDX-License-Identifier: Apache-2.0
// A disk that becomes larger or smaller, and compressed clusters.
//
// The header's new size is written last when the disk grows, and first when it shrinks: whatever is interrupted, the
// image is whole, and what becomes visible is zero.
#include <zlib.h>

#include <algorithm>
#include <cerrno>

#include "base/endian.h"
#include "block/qcow2_image.h"

namespace rhea::block {

using namespace qcow2;

namespace {

constexpr size_t kSizeField = 24, kL1Field = 36;

uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

int Qcow2Image::resize(uint64_t bytes) {
  if (bytes == size_bytes()) return 0;
  if (header_.version == 2 && header_.snapshots != 0) return EOPNOTSUPP;  // which do not say how long the disk was
  if (int error = flush()) return error;
  if (bytes > size_bytes()) return grow(bytes);
  if (const int error = write_size(bytes)) return error;
  const uint64_t old = header_.disk_bytes;
  header_.disk_bytes = bytes;
  // What lies behind the new end is given up.
  for (uint64_t at = round_up(bytes, cluster_bytes()); at < old; at += cluster_bytes()) {
    Table* table = nullptr;
    if (const int error = table_of(at, false, table)) return error;
    if (!table) {
      at = (table_index(at) + 1) * header_.l2_entries() * cluster_bytes() - cluster_bytes();
      continue;
    }
    if (table->entries[entry_index(at)] != 0)
      if (const int error = set_entry(at, 0)) return error;
  }
  return flush();
}

int Qcow2Image::grow(uint64_t bytes) {
  const uint64_t old = size_bytes();
  const uint64_t per_entry = header_.l2_entries() * cluster_bytes();
  if (const int error = grow_l1((bytes + per_entry - 1) / per_entry)) return error;
  // The last cluster may hold anything behind the old end, and a backing file may be longer than the disk was.
  if (old % cluster_bytes() != 0)
    if (const int error = clear_tail(old)) return error;
  header_.disk_bytes = bytes;
  const uint64_t hidden = backing_ ? std::min(bytes, backing_->size_bytes()) : 0;
  for (uint64_t at = round_up(old, cluster_bytes()); at < bytes; at += cluster_bytes()) {
    Table* table = nullptr;
    if (const int error = table_of(at, false, table)) return error;
    if (!table && at >= hidden) {
      at = (table_index(at) + 1) * per_entry - cluster_bytes();
      continue;
    }
    bool zeroed = false;
    if (const int error = make_zero(at, true, zeroed)) return error;
    if (zeroed) continue;
    if (const int error = replace(at, std::vector<std::byte>(cluster_bytes()))) return error;
  }
  if (const int error = flush()) return error;
  return write_size(bytes);
}

int Qcow2Image::write_size(uint64_t bytes) {
  std::byte raw[8];
  base::store_be<uint64_t>(raw, bytes);
  if (const int error = tables_file_->write(kSizeField, raw)) return error;
  return tables_file_->sync();
}

// The first-level table moves where there is room for it.
int Qcow2Image::grow_l1(uint64_t entries) {
  if (entries <= l1_.size()) return 0;
  const uint64_t bytes = round_up(entries * 8, cluster_bytes());
  if (bytes > kMaximumL1Bytes) return EFBIG;
  const uint64_t old_offset = header_.l1_offset, old_bytes = round_up(l1_.size() * 8, cluster_bytes());
  uint64_t place = 0;
  if (const int error = refcounts_.allocate_run(bytes >> header_.cluster_bits, place)) return error;
  std::vector<uint64_t> grown = l1_;
  grown.resize(entries);
  std::vector<std::byte> raw(bytes), fields(12);
  for (size_t i = 0; i < grown.size(); ++i) base::store_be(&raw[8 * i], grown[i]);
  base::store_be<uint32_t>(&fields[0], static_cast<uint32_t>(entries));
  base::store_be<uint64_t>(&fields[4], place);
  int error = tables_file_->write(place, raw);
  if (!error) error = tables_file_->sync();
  if (!error) error = tables_file_->write(kL1Field, fields);  // within one sector
  if (!error) error = tables_file_->sync();
  if (error) return error;
  l1_ = std::move(grown);
  header_.l1_offset = place;
  header_.l1_entries = static_cast<uint32_t>(entries);
  for (uint64_t at = 0; at < old_bytes; at += cluster_bytes()) refcounts_.release(old_offset + at);
  return 0;
}

// Zeros from `end`, the disk's old end, to the end of its cluster.
int Qcow2Image::clear_tail(uint64_t end) {
  const uint64_t first = end - end % cluster_bytes();
  Table* table = nullptr;
  if (const int error = table_of(first, false, table)) return error;
  const uint64_t entry = table ? table->entries[entry_index(first)] : 0;
  const bool zero = header_.version == 3 && !(entry & kCompressed) && (entry & kZero);
  if (zero || (entry == 0 && !(backing_ && first < backing_->size_bytes()))) return 0;
  std::vector<std::byte> bytes(cluster_bytes());
  if (const int error = read(first, bytes)) return error;  // beyond the disk's end there are zeros
  return replace(first, bytes);
}

int Qcow2Image::replace(uint64_t offset, std::span<const std::byte> bytes) {
  uint64_t place = 0;
  if (const int error = allocate(place)) return error;
  if (int error = tables_file_->write(place, bytes); error || (error = point_to(offset, place))) {
    abandon(place);
    return error;
  }
  return 0;
}

int Qcow2Image::write_compressed(uint64_t offset, std::span<const std::byte> bytes) {
  std::vector<std::byte> packed(bytes.size());
  z_stream stream{};
  if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) != Z_OK) return ENOMEM;
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  const bool smaller = deflate(&stream, Z_FINISH) == Z_STREAM_END && stream.total_out < bytes.size();
  const uint64_t length = stream.total_out;
  deflateEnd(&stream);
  if (!smaller || header_.zstd) return replace(offset, bytes);
  packed.resize(length);
  uint64_t place = 0;
  if (int error = place_compressed(length, place); error || (error = tables_file_->write(place, packed))) return error;
  const unsigned offset_bits = 62 - (header_.cluster_bits - 8);
  const uint64_t sectors = (place + length - 1) / 512 - place / 512;
  return set_entry(offset, kCompressed | sectors << offset_bits | place);
}

// Behind the last compressed data, in the same cluster and on into the next if that follows on: each cluster is counted
// once for each that has bytes in it.
int Qcow2Image::place_compressed(uint64_t length, uint64_t& place) {
  const uint64_t cluster = cluster_bytes();
  const uint64_t room = packed_end_ % cluster ? cluster - packed_end_ % cluster : 0;
  if (length <= room) {
    place = packed_end_;
    packed_end_ += length;
    return refcounts_.retain(place);
  }
  uint64_t next = 0;
  if (const int error = refcounts_.allocate(next)) return error;
  if (room != 0 && next == packed_end_ + room) {
    place = packed_end_;
    packed_end_ += length;
    return refcounts_.retain(place);
  }
  place = next;
  packed_end_ = next + length;
  return 0;
}

}  // namespace rhea::block
