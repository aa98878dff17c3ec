// SPDX-License-Identifier: Apache-2.0
// Reference counts.
#include "block/qcow2_refcounts.h"

#include <algorithm>
#include <cerrno>

#include "base/endian.h"

namespace rhea::block::qcow2 {
namespace {

constexpr unsigned kBatch = 64;

int write_u64(ImageFile& file, uint64_t offset, uint64_t value) {
  std::byte bytes[8];
  base::store_be(bytes, value);
  return file.write(offset, bytes);
}

}  // namespace

uint64_t refcount_in(std::span<const std::byte> block, unsigned order, uint64_t entry) {
  const unsigned bits = 1u << order;
  if (bits < 8) {
    const auto byte = std::to_integer<uint64_t>(block[entry * bits / 8]);
    return byte >> (entry * bits % 8) & ((1u << bits) - 1);
  }
  uint64_t count = 0;
  for (unsigned i = 0; i < bits / 8; ++i) count = count << 8 | std::to_integer<uint64_t>(block[entry * bits / 8 + i]);
  return count;
}

void put_refcount_in(std::span<std::byte> block, unsigned order, uint64_t entry, uint64_t count) {
  const unsigned bits = 1u << order;
  if (bits < 8) {
    const unsigned shift = entry * bits % 8;
    std::byte& byte = block[entry * bits / 8];
    const auto mask = static_cast<std::byte>(((1u << bits) - 1) << shift);
    byte = (byte & ~mask) | (static_cast<std::byte>(count << shift) & mask);
    return;
  }
  for (unsigned i = bits / 8; i-- > 0; count >>= 8) block[entry * bits / 8 + i] = static_cast<std::byte>(count);
}

Result<Refcounts> Refcounts::load(ImageFile& file, const Header& header) {
  Refcounts counts(file, header);
  const uint64_t bytes = uint64_t{header.refcount_table_clusters} << header.cluster_bits;
  std::vector<std::byte> raw(bytes);
  if (const int error = file.read(header.refcount_table_offset, raw))
    return fail(Error::from_errno(error, "reading the table of reference counts"));
  counts.table_.resize(bytes / 8);
  for (size_t i = 0; i < counts.table_.size(); ++i) {
    counts.table_[i] = base::load_be<uint64_t>(&raw[8 * i]);
    if (counts.table_[i] % header.cluster_bytes() != 0)
      return fail(ErrorCode::kCorrupt, "qcow2: a block of reference counts is misplaced");
  }
  return counts;
}

int Refcounts::write_entry(const Block& block, uint64_t entry) {
  const unsigned bits = 1u << header_.refcount_order;
  const uint64_t first = entry * bits / 8, bytes = std::max(1u, bits / 8);
  return file_->write(block.offset + first, std::span(block.bytes).subspan(first, bytes));
}

int Refcounts::block_of(uint64_t cluster, bool make, Block*& block) {
  const uint64_t index = cluster / entries_per_block();
  if (const auto found = blocks_.find(index); found != blocks_.end()) {
    block = &found->second;
    return 0;
  }
  block = nullptr;
  if (index >= table_.size() || table_[index] == 0) return make ? make_block(index, block) : 0;
  Block loaded{.offset = table_[index], .bytes = std::vector<std::byte>(header_.cluster_bytes())};
  if (const int error = file_->read(loaded.offset, loaded.bytes)) return error;
  block = &blocks_.emplace(index, std::move(loaded)).first->second;
  return 0;
}

// A new block takes the first cluster of those that it counts: nothing is there, since no block counted it.
int Refcounts::make_block(uint64_t index, Block*& block) {
  if (index >= table_.size()) {  // which makes the block too
    if (const int error = grow_table(index)) return error;
    block = &blocks_.at(index);
    return 0;
  }
  Block made{.offset = index * entries_per_block() << header_.cluster_bits,
             .bytes = std::vector<std::byte>(header_.cluster_bytes())};
  put(made, 0, 1);
  if (int error = file_->write(made.offset, made.bytes); error || (error = file_->sync())) return error;
  if (const int error = write_u64(*file_, header_.refcount_table_offset + 8 * index, made.offset)) return error;
  table_[index] = made.offset;
  block = &blocks_.emplace(index, std::move(made)).first->second;
  return 0;
}

// The table moves to where its last block will count: block and table lie behind each other there, counted by the
// block.
int Refcounts::grow_table(uint64_t index) {
  const uint64_t per_cluster = header_.cluster_bytes() / 8;
  const uint64_t clusters = (std::max<uint64_t>(index + 1, table_.size() * 2) + per_cluster - 1) / per_cluster;
  if (clusters + 1 >= entries_per_block() || clusters > kMaximumRefcountTableBytes >> header_.cluster_bits)
    return EFBIG;
  const uint64_t first = index * entries_per_block();
  Block made{.offset = first << header_.cluster_bits, .bytes = std::vector<std::byte>(header_.cluster_bytes())};
  for (uint64_t i = 0; i <= clusters; ++i) put(made, i, 1);
  std::vector<uint64_t> table = table_;
  table.resize(clusters * per_cluster);
  table[index] = made.offset;
  const uint64_t offset = (first + 1) << header_.cluster_bits;
  std::vector<std::byte> raw(clusters << header_.cluster_bits);
  for (size_t i = 0; i < table.size(); ++i) base::store_be(&raw[8 * i], table[i]);
  int error = file_->write(made.offset, made.bytes);
  if (!error) error = file_->write(offset, raw);
  if (!error) error = file_->sync();
  std::byte fields[12];
  base::store_be<uint64_t>(fields, offset);
  base::store_be<uint32_t>(fields + 8, static_cast<uint32_t>(clusters));
  if (!error) error = file_->write(kRefcountTableField, fields);  // within one sector
  if (!error) error = file_->sync();
  if (error) return error;
  const uint64_t old_offset = header_.refcount_table_offset, old_clusters = header_.refcount_table_clusters;
  table_ = std::move(table);
  header_.refcount_table_offset = offset;
  header_.refcount_table_clusters = static_cast<uint32_t>(clusters);
  blocks_.emplace(index, std::move(made));
  for (uint64_t i = 0; i < old_clusters && !error; ++i) error = release(old_offset + (i << header_.cluster_bits));
  return error;
}

int Refcounts::change(uint64_t cluster, int delta, uint64_t& count) {
  Block* block = nullptr;
  if (const int error = block_of(cluster, delta > 0, block)) return error;
  if (!block) return EIO;
  const uint64_t entry = cluster % entries_per_block();
  count = get(*block, entry);
  if (delta < 0 && count == 0) return EIO;  // corrupt: what is referred to counts as free
  const uint64_t most = header_.refcount_order == 6 ? UINT64_MAX : (uint64_t{1} << (1u << header_.refcount_order)) - 1;
  if (delta > 0 && count == most) return EOVERFLOW;
  count = delta > 0 ? count + 1 : count - 1;
  put(*block, entry, count);
  return write_entry(*block, entry);
}

int Refcounts::reserve() {
  std::vector<uint64_t> found;
  while (found.size() < kBatch) {
    const uint64_t cluster = next_++;  // before a table that moves gives up clusters, and next_ goes back
    Block* block = nullptr;
    if (const int error = block_of(cluster, true, block)) return error;
    if (get(*block, cluster % entries_per_block()) != 0) continue;
    uint64_t count = 0;
    if (const int error = change(cluster, 1, count)) return error;
    found.push_back(cluster);
  }
  if (const int error = file_->sync()) return error;
  reserved_.assign(found.rbegin(), found.rend());
  return 0;
}

int Refcounts::allocate(uint64_t& offset) {
  if (reserved_.empty())
    if (const int error = reserve()) return error;
  offset = reserved_.back() << header_.cluster_bits;
  reserved_.pop_back();
  return 0;
}

int Refcounts::allocate_run(uint64_t clusters, uint64_t& offset) {
  uint64_t first = next_;
  for (uint64_t at = first; at < first + clusters; ++at) {
    Block* block = nullptr;
    if (const int error = block_of(at, true, block)) return error;
    if (get(*block, at % entries_per_block()) != 0) first = at + 1;
  }
  for (uint64_t at = first; at < first + clusters; ++at) {
    uint64_t count = 0;
    if (const int error = change(at, 1, count)) return error;
  }
  offset = first << header_.cluster_bits;
  return file_->sync();
}

int Refcounts::retain(uint64_t offset) {
  uint64_t count = 0;
  return change(offset >> header_.cluster_bits, 1, count);
}

int Refcounts::release(uint64_t offset) {
  const uint64_t cluster = offset >> header_.cluster_bits;
  uint64_t count = 0;
  if (const int error = change(cluster, -1, count)) return error;
  if (count == 0) next_ = std::min(next_, cluster);
  return 0;
}

int Refcounts::release_reserved() {
  int error = 0;
  for (; !reserved_.empty() && !error; reserved_.pop_back()) error = release(reserved_.back() << header_.cluster_bits);
  return error;
}

}  // namespace rhea::block::qcow2
