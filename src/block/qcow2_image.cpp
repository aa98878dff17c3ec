// SPDX-License-Identifier: Apache-2.0
// Cluster tables of a qcow2 image.
#include "block/qcow2_image.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>

#include "base/endian.h"

namespace rhea::block {

using namespace qcow2;

namespace {

constexpr uint64_t kCacheBytes = 32 << 20;
constexpr size_t kMaximumDirtyTables = 64;
constexpr size_t kAutoclearField = 88;

bool inflate_raw(std::span<const std::byte> in, std::span<std::byte> out) {
  z_stream stream{};
  if (inflateInit2(&stream, -12) != Z_OK) return false;
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(in.data()));
  stream.avail_in = static_cast<uInt>(in.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  const int result = inflate(&stream, Z_FINISH);
  // The last sector may hold more than the stream.
  const bool whole = stream.avail_out == 0 && (result == Z_STREAM_END || result == Z_BUF_ERROR || result == Z_OK);
  inflateEnd(&stream);
  return whole;
}

bool decompress_zstd(std::span<const std::byte> in, std::span<std::byte> out) {
  std::unique_ptr<ZSTD_DStream, decltype(&ZSTD_freeDStream)> stream(ZSTD_createDStream(), ZSTD_freeDStream);
  ZSTD_inBuffer source{in.data(), in.size(), 0};
  ZSTD_outBuffer target{out.data(), out.size(), 0};
  while (target.pos < target.size) {
    const size_t before = target.pos + source.pos;
    if (ZSTD_isError(ZSTD_decompressStream(stream.get(), &target, &source)) || target.pos + source.pos == before)
      return false;
  }
  return true;
}

}  // namespace

Qcow2Image::Qcow2Image(base::UniqueFd fd, const Header& header, std::unique_ptr<Layer> backing, bool writable,
                       std::unique_ptr<ImageFile> file, Refcounts refcounts)
    : fd_(std::move(fd)),
      header_(header),
      backing_(std::move(backing)),
      writable_(writable),
      tables_file_(std::move(file)),
      refcounts_(std::move(refcounts)) {}

Result<std::unique_ptr<Qcow2Image>> Qcow2Image::open(base::UniqueFd fd, const Header& header,
                                                     std::unique_ptr<Layer> backing, bool writable, WriteLog* log) {
  if (writable && (header.incompatible & kCorrupt))
    return fail(ErrorCode::kCorrupt, "qcow2: the image is marked corrupt; open it readonly=on and save what is in it");
  auto file = std::make_unique<ImageFile>(fd.get(), log);
  auto refcounts = RHEA_TRY(Refcounts::load(*file, header));
  std::unique_ptr<Qcow2Image> image(
      new Qcow2Image(std::move(fd), header, std::move(backing), writable, std::move(file), std::move(refcounts)));
  RHEA_TRY(image->load_l1());
  if (writable && header.version == 3 && header.autoclear != 0) {
    // What these features keep, such as dirty bitmaps, does not follow our writes.
    std::byte zero[8] = {};
    if (const int error = image->tables_file_->write(kAutoclearField, zero))
      return fail(Error::from_errno(error, "writing the image's header"));
  }
  return image;
}

Qcow2Image::~Qcow2Image() {
  if (writable_ && flush() == 0 && refcounts_.release_reserved() == 0) tables_file_->sync();
}

Status Qcow2Image::load_l1() {
  std::vector<std::byte> raw(size_t{header_.l1_entries} * 8);
  if (const int error = tables_file_->read(header_.l1_offset, raw))
    return fail(Error::from_errno(error, "reading the first-level table"));
  for (size_t at = 0; at < raw.size(); at += 8) l1_.push_back(base::load_be<uint64_t>(&raw[at]));
  return {};
}

// ---- tables ----

// The tables say what cannot be: the image is marked, so that nothing more is written on such ground, here or by
// others.
int Qcow2Image::found_corrupt() {
  if (!writable_ || corrupt_) return EIO;
  corrupt_ = true;
  if (header_.version < 3) return EIO;
  header_.incompatible |= kCorrupt;
  std::byte raw[8];
  base::store_be<uint64_t>(raw, header_.incompatible);
  tables_file_->write(kIncompatibleField, raw);
  return EIO;
}

int Qcow2Image::evict() {
  const size_t most = std::max<size_t>(4, kCacheBytes >> header_.cluster_bits);
  if (dirty_tables_ > kMaximumDirtyTables)
    if (const int error = flush()) return error;
  while (tables_.size() >= most) {
    auto oldest = tables_.end();
    for (auto it = tables_.begin(); it != tables_.end(); ++it)
      if (!it->second.dirty && (oldest == tables_.end() || it->second.used < oldest->second.used)) oldest = it;
    if (oldest == tables_.end()) return flush();
    tables_.erase(oldest);
  }
  return 0;
}

int Qcow2Image::load_table(uint64_t index, Table*& table) {
  const uint64_t place = l1_[index] & kOffsetMask;
  if (place % cluster_bytes() != 0) return found_corrupt();
  std::vector<std::byte> raw(cluster_bytes());
  if (const int error = tables_file_->read(place, raw)) return error;
  Table loaded{.entries = std::vector<uint64_t>(header_.l2_entries()), .place = place};
  for (size_t i = 0; i < loaded.entries.size(); ++i) loaded.entries[i] = base::load_be<uint64_t>(&raw[8 * i]);
  table = &tables_.emplace(index, std::move(loaded)).first->second;
  return 0;
}

// A table that a snapshot shares, or that is not there yet, gets a place of its own.
int Qcow2Image::own_table(uint64_t index, Table& table) {
  if (l1_[index] & kCopied) return 0;
  uint64_t place = 0;
  if (const int error = refcounts_.allocate(place)) return error;
  if (l1_[index] & kOffsetMask) to_release_.push_back(l1_[index] & kOffsetMask);
  table.place = place;
  l1_[index] = place | kCopied;
  l1_dirty_[index] = true;
  if (!table.dirty) ++dirty_tables_;
  table.dirty = true;
  return 0;
}

// nullptr where there is none (only if not for writing).
int Qcow2Image::table_of(uint64_t offset, bool for_writing, Table*& table) {
  const uint64_t index = table_index(offset);
  table = nullptr;
  if (index >= l1_.size()) return EIO;
  if (const auto found = tables_.find(index); found != tables_.end()) {
    table = &found->second;
  } else {
    if (!(l1_[index] & kOffsetMask) && !for_writing) return 0;
    if (const int error = evict()) return error;
    if (l1_[index] & kOffsetMask) {
      if (const int error = load_table(index, table)) return error;
    } else {
      table = &tables_.emplace(index, Table{.entries = std::vector<uint64_t>(header_.l2_entries())}).first->second;
    }
  }
  table->used = ++clock_;
  return for_writing ? own_table(index, *table) : 0;
}

// ---- reading ----

int Qcow2Image::map(uint64_t offset, uint64_t length, Extent& extent) {
  const uint64_t within = offset & (cluster_bytes() - 1);
  length = std::min(length, cluster_bytes() - within);
  Table* table = nullptr;
  if (const int error = table_of(offset, false, table)) return error;
  const uint64_t entry = table ? table->entries[entry_index(offset)] : 0;
  if (entry & kCompressed) {
    extent = {.kind = Kind::kCompressed, .length = length, .layer = this, .offset = offset, .entry = entry};
    return 0;
  }
  if (header_.version == 3 && (entry & kZero)) {
    extent = {.kind = Kind::kZero, .length = length};
    return 0;
  }
  const uint64_t place = entry & kOffsetMask;
  if (place != 0) {
    if (place % cluster_bytes() != 0) return found_corrupt();
    extent = {.kind = Kind::kData, .length = length, .layer = this, .offset = place + within};
    return 0;
  }
  if (!backing_ || offset >= backing_->size_bytes()) {
    extent = {.kind = Kind::kZero, .length = length};
    return 0;
  }
  return backing_->map(offset, std::min(length, backing_->size_bytes() - offset), extent);
}

int Qcow2Image::read_compressed(const Extent& extent, std::span<std::byte> out) {
  const CompressedPlace place = compressed_place(extent.entry, header_.cluster_bits);
  std::vector<std::byte> packed(place.bytes), cluster(cluster_bytes());
  if (const int error = tables_file_->read(place.offset, packed)) return error;
  if (!(header_.zstd ? decompress_zstd(packed, cluster) : inflate_raw(packed, cluster))) return EIO;
  const uint64_t within = extent.offset & (cluster_bytes() - 1);
  std::copy_n(cluster.begin() + static_cast<ptrdiff_t>(within), out.size(), out.begin());
  return 0;
}

// ---- writing ----

int Qcow2Image::find_writable(uint64_t offset, uint64_t& place, bool& in_place) {
  Table* table = nullptr;
  in_place = false;
  if (corrupt_) return EIO;
  if (const int error = table_of(offset, false, table)) return error;
  const uint64_t entry = table ? table->entries[entry_index(offset)] : 0;
  if ((entry & kCompressed) || !(entry & kCopied) || (header_.version == 3 && (entry & kZero))) return 0;
  // The table itself may be shared: then its entries are no longer ours alone, whatever they say.
  if (!(l1_[table_index(offset)] & kCopied)) return 0;
  place = entry & kOffsetMask;
  if (place == 0) return 0;
  if (place % cluster_bytes() != 0) return found_corrupt();
  in_place = true;
  return 0;
}

// Remembers the clusters that an entry refers to, to be given up when nothing on the medium does.
void Qcow2Image::give_up(uint64_t entry) {
  if (entry & kCompressed) {
    const CompressedPlace place = compressed_place(entry, header_.cluster_bits);
    const uint64_t last = (place.offset + place.bytes - 1) >> header_.cluster_bits;
    for (uint64_t at = place.offset >> header_.cluster_bits; at <= last; ++at)
      to_release_.push_back(at << header_.cluster_bits);
  } else if (entry & kOffsetMask) {
    to_release_.push_back(entry & kOffsetMask);
  }
}

int Qcow2Image::set_entry(uint64_t offset, uint64_t entry) {
  Table* table = nullptr;
  if (const int error = table_of(offset, true, table)) return error;
  uint64_t& slot = table->entries[entry_index(offset)];
  if (slot == entry) return 0;
  if ((slot & kOffsetMask) != (entry & kOffsetMask) || (slot & kCompressed)) give_up(slot);
  slot = entry;
  if (!table->dirty) ++dirty_tables_;
  table->dirty = true;
  return 0;
}

int Qcow2Image::point_to(uint64_t offset, uint64_t place) { return set_entry(offset, place | kCopied); }

int Qcow2Image::make_zero(uint64_t offset, bool may_unmap, bool& done) {
  Table* table = nullptr;
  done = true;
  if (corrupt_) return EIO;
  if (const int error = table_of(offset, false, table)) return error;
  const uint64_t entry = table ? table->entries[entry_index(offset)] : 0;
  const bool hides_backing = backing_ && offset < backing_->size_bytes();
  if (entry == 0 && !hides_backing) return 0;
  if (header_.version == 2) {
    if (hides_backing || !may_unmap) {
      done = false;
      return 0;
    }
    return set_entry(offset, 0);
  }
  // Its space is kept where it may be used again in place, and the caller wants that.
  const bool keep = !may_unmap && (entry & kCopied) && !(entry & kCompressed);
  return set_entry(offset, keep ? entry | kZero : kZero);
}

// ---- to the medium ----

int Qcow2Image::write_table(Table& table) {
  std::vector<std::byte> raw(cluster_bytes());
  for (size_t i = 0; i < table.entries.size(); ++i) base::store_be(&raw[8 * i], table.entries[i]);
  return tables_file_->write(table.place, raw);
}

int Qcow2Image::write_l1() {
  for (const auto& [index, dirty] : l1_dirty_) {
    std::byte raw[8];
    base::store_be(raw, l1_[index]);
    if (const int error = tables_file_->write(header_.l1_offset + 8 * index, raw)) return error;
  }
  return 0;
}

int Qcow2Image::flush() {
  if (const int error = tables_file_->sync()) return error;
  if (dirty_tables_ != 0) {
    for (auto& [index, table] : tables_)
      if (table.dirty)
        if (const int error = write_table(table)) return error;
    if (const int error = tables_file_->sync()) return error;
  }
  if (!l1_dirty_.empty()) {
    if (int error = write_l1(); error || (error = tables_file_->sync())) return error;
    l1_dirty_.clear();
  }
  for (auto& [index, table] : tables_) table.dirty = false;
  dirty_tables_ = 0;
  return release_given_up();
}

void Qcow2Image::unpin(uint64_t place) {
  const auto pin = pins_.find(place & ~(cluster_bytes() - 1));
  if (--pin->second == 0) pins_.erase(pin);
}

// Those in use wait for a later flush.
int Qcow2Image::release_given_up() {
  std::vector<uint64_t> kept;
  int error = 0;
  while (!to_release_.empty()) {
    const uint64_t place = to_release_.back();
    if (pins_.contains(place))
      kept.push_back(place);
    else if ((error = refcounts_.release(place)) != 0)
      break;
    to_release_.pop_back();
  }
  to_release_.insert(to_release_.end(), kept.begin(), kept.end());
  return error;
}

}  // namespace rhea::block
