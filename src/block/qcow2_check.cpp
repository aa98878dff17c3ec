// SPDX-License-Identifier: Apache-2.0
// Counting what refers to each cluster, and comparing.
#include "block/qcow2_check.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <unordered_map>
#include <unordered_set>

#include "base/endian.h"
#include "block/layer.h"
#include "block/qcow2_refcounts.h"

namespace rhea::block::qcow2 {
namespace {

constexpr size_t kMaximumFindings = 20;
constexpr uint32_t kMaximumSnapshots = 65536, kMaximumBitmaps = 65535;
constexpr uint64_t kMaximumDirectoryBytes = 64u << 20;
constexpr uint64_t kBitmapTableMask = kOffsetMask;

// Bits of the entries that no version gives a meaning.
constexpr uint64_t kL1Reserved = 0x7f000000000001ff, kL2Reserved = 0x3f000000000001fe, kRefcountTableReserved = 0x1ff;

using Bytes = std::vector<std::byte>;

// How often each cluster of the file is referred to. In small pieces, so that memory follows what is used and not what
// a sparse file's length claims.
class Counts {
 public:
  uint64_t get(uint64_t cluster) const {
    const auto piece = pieces_.find(cluster / kPiece);
    return piece == pieces_.end() ? 0 : piece->second[cluster % kPiece];
  }
  void add(uint64_t cluster) {
    uint32_t& count = pieces_.try_emplace(cluster / kPiece).first->second[cluster % kPiece];
    if (count != UINT32_MAX) ++count;
    end_ = std::max(end_, cluster + 1);
  }
  uint64_t end() const { return end_; }
  template <typename Visit>
  void each(Visit visit) const {
    for (const auto& [index, piece] : pieces_)
      for (uint64_t i = 0; i < kPiece; ++i)
        if (piece[i] != 0) visit(index * kPiece + i, uint64_t{piece[i]});
  }

 private:
  static constexpr uint64_t kPiece = 64;
  std::unordered_map<uint64_t, std::array<uint32_t, kPiece>> pieces_;
  uint64_t end_ = 0;
};

class Checker {
 public:
  Checker(int fd, const Header& header, const CheckOptions& options)
      : file_(fd), fd_(fd), header_(header), options_(options) {
    report_.dirty = (header.incompatible & kDirty) != 0;
    report_.marked_corrupt = (header.incompatible & kCorrupt) != 0;
  }

  Result<CheckReport> run() {
    struct stat info{};
    if (fstat(fd_, &info) != 0) return fail(Error::from_errno(errno, "looking at the image"));
    file_clusters_ = (static_cast<uint64_t>(lseek(fd_, 0, SEEK_END)) + cluster() - 1) >> header_.cluster_bits;
    used_.add(0);
    count_l1(header_.l1_offset, header_.l1_entries, "the disk", true);
    RHEA_TRY(count_snapshots());
    RHEA_TRY(count_bitmaps());
    const Counts without_counts = used_;
    RHEA_TRY(load_refcounts());
    compare();
    check_marks();
    report_.end_bytes = used_.end() << header_.cluster_bits;
    if (options_.repair && report_.corruptions == 0 && !report_.clean()) {
      RHEA_TRY(rebuild(without_counts));
      report_.repaired = true;
    }
    return std::move(report_);
  }

 private:
  uint64_t cluster() const { return header_.cluster_bytes(); }
  template <typename... Arguments>
  void find(uint64_t& counter, fmt::format_string<Arguments...> text, Arguments&&... arguments) {
    ++counter;
    if (report_.findings.size() < kMaximumFindings)
      report_.findings.push_back(fmt::format(text, std::forward<Arguments>(arguments)...));
  }

  // --- what refers to clusters ---

  // References to all the clusters of a range; false if it is no place that can be referred to.
  bool count(uint64_t offset, uint64_t bytes, std::string_view what) {
    if (offset > uint64_t{1} << 62 || bytes > uint64_t{1} << 40) {
      find(report_.corruptions, "{} lies at {:#x}, which is no place", what, offset);
      return false;
    }
    const uint64_t first = offset >> header_.cluster_bits;
    const uint64_t end = (offset + bytes + cluster() - 1) >> header_.cluster_bits;
    if (end > file_clusters_) {
      find(report_.corruptions, "{} lies at {:#x}, beyond the file's end", what, offset);
      return false;
    }
    for (uint64_t at = first; at < end; ++at) used_.add(at);
    return true;
  }
  bool count_aligned(uint64_t offset, uint64_t bytes, std::string_view what) {
    if (offset % cluster() == 0) return count(offset, bytes, what);
    find(report_.corruptions, "{} lies at {:#x}, which is not the start of a cluster", what, offset);
    return false;
  }

  bool read(uint64_t offset, Bytes& out, std::string_view what) {
    const int error = file_.read(offset, out);
    if (error) find(report_.corruptions, "{} at {:#x} cannot be read: {}", what, offset, strerror(error));
    return error == 0;
  }

  void count_l1(uint64_t offset, uint32_t entries, std::string_view what, bool of_disk) {
    if (entries == 0 || !count_aligned(offset, uint64_t{entries} * 8, fmt::format("the first-level table of {}", what)))
      return;
    Bytes raw(size_t{entries} * 8);
    if (!read(offset, raw, "a first-level table")) return;
    for (uint32_t i = 0; i < entries; ++i) {
      const uint64_t entry = base::load_be<uint64_t>(&raw[size_t{i} * 8]);
      const uint64_t place = entry & kOffsetMask;
      if (entry & kL1Reserved)
        find(report_.corruptions, "the entry {:#x} of a first-level table has bits set that mean nothing", entry);
      if (of_disk && options_.on_progress) options_.on_progress(i, entries);
      if (place == 0) continue;
      if (of_disk) marks_.push_back({offset + uint64_t{i} * 8, entry});
      if (!count_aligned(place, cluster(), fmt::format("second-level table {} of {}", i, what))) continue;
      // No writer has one table stand in two places of the disk; it would multiply what a small file makes us remember.
      if (of_disk && !disk_tables_.insert(place).second) {
        find(report_.corruptions, "the second-level table at {:#x} stands in several places", place);
        continue;
      }
      if (++tables_walked_ > kMostTables) {
        if (tables_walked_ == kMostTables + 1)
          find(report_.corruptions, "the image claims more second-level tables than {}", uint64_t{kMostTables});
        continue;
      }
      count_l2(place, of_disk);
    }
  }

  void count_l2(uint64_t table, bool of_disk) {
    Bytes raw(cluster());
    if (!read(table, raw, "a second-level table")) return;
    const size_t step = header_.l2_entry_bytes();
    for (size_t at = 0; at < raw.size(); at += step) {
      const uint64_t entry = base::load_be<uint64_t>(&raw[at]);
      if (entry & kCompressed) {
        count_compressed(entry, of_disk);
        continue;
      }
      if (entry & kL2Reserved)
        find(report_.corruptions, "the entry {:#x} of a second-level table has bits set that mean nothing", entry);
      const uint64_t place = entry & kOffsetMask;
      if (place == 0) continue;
      if (of_disk) ++report_.clusters;
      if (count_aligned(place, cluster(), "data") && of_disk) marks_.push_back({table + at, entry});
    }
  }

  void count_compressed(uint64_t entry, bool of_disk) {
    const CompressedPlace place = compressed_place(entry, header_.cluster_bits);
    if (of_disk) {
      ++report_.clusters;
      ++report_.compressed_clusters;
    }
    if (entry & kCopied) find(report_.corruptions, "compressed data at {:#x} is marked as unshared", place.offset);
    // By whole sectors: the last of them may go on behind the file's end.
    const uint64_t first = place.offset & ~uint64_t{511};
    count(first, place.offset + place.bytes - first, "compressed data");
  }

  Status count_snapshots() {
    if (header_.snapshots == 0) return {};
    if (header_.snapshots > kMaximumSnapshots) return corrupt("the number of snapshots is impossible");
    uint64_t at = header_.snapshots_offset;
    for (uint32_t i = 0; i < header_.snapshots; ++i) {
      Bytes head(40);
      if (!read(at, head, "the table of snapshots")) return {};
      const auto u16 = [&](size_t place) { return base::load_be<uint16_t>(&head[place]); };
      const auto u32 = [&](size_t place) { return base::load_be<uint32_t>(&head[place]); };
      const uint32_t entries = u32(8);
      if (uint64_t{entries} * 8 > kMaximumL1Bytes) return corrupt("a snapshot's first-level table is too large");
      count_l1(base::load_be<uint64_t>(&head[0]), entries, fmt::format("snapshot {}", i + 1), false);
      const uint64_t bytes = 40 + uint64_t{u32(36)} + u16(12) + u16(14);
      at += (bytes + 7) & ~uint64_t{7};
      if (at - header_.snapshots_offset > kMaximumDirectoryBytes) return corrupt("the table of snapshots is too large");
    }
    count_aligned(header_.snapshots_offset, at - header_.snapshots_offset, "the table of snapshots");
    return {};
  }

  // Bitmaps that another program keeps in the image: their clusters are in use, whatever they say.
  Status count_bitmaps() {
    if (header_.bitmaps == 0) return {};
    if (header_.bitmaps > kMaximumBitmaps || header_.bitmap_directory_bytes > kMaximumDirectoryBytes)
      return corrupt("the directory of bitmaps has an impossible size");
    if (!count_aligned(header_.bitmap_directory_offset, header_.bitmap_directory_bytes, "the directory of bitmaps"))
      return {};
    Bytes directory(header_.bitmap_directory_bytes);
    if (!read(header_.bitmap_directory_offset, directory, "the directory of bitmaps")) return {};
    size_t at = 0;
    for (uint32_t i = 0; i < header_.bitmaps; ++i) {
      if (directory.size() - at < 24) return corrupt("the directory of bitmaps is cut off");
      const uint64_t table = base::load_be<uint64_t>(&directory[at]);
      const uint32_t entries = base::load_be<uint32_t>(&directory[at + 8]);
      const uint64_t bytes =
          24 + uint64_t{base::load_be<uint32_t>(&directory[at + 20])} + base::load_be<uint16_t>(&directory[at + 18]);
      at = std::min<uint64_t>(directory.size(), at + ((bytes + 7) & ~uint64_t{7}));
      if (uint64_t{entries} * 8 > kMaximumDirectoryBytes) return corrupt("a bitmap's table has an impossible size");
      if (!count_aligned(table, uint64_t{entries} * 8, "a bitmap's table")) continue;
      Bytes raw(size_t{entries} * 8);
      if (!read(table, raw, "a bitmap's table")) continue;
      for (size_t entry = 0; entry < raw.size(); entry += 8)
        if (const uint64_t place = base::load_be<uint64_t>(&raw[entry]) & kBitmapTableMask)
          count_aligned(place, cluster(), "a bitmap");
    }
    return {};
  }

  // --- comparing with the counts ---

  Status load_refcounts() {
    count_aligned(header_.refcount_table_offset, uint64_t{header_.refcount_table_clusters} << header_.cluster_bits,
                  "the table of reference counts");
    table_.resize(uint64_t{header_.refcount_table_clusters} << header_.cluster_bits);
    if (const int error = file_.read(header_.refcount_table_offset, table_))
      return fail(Error::from_errno(error, "reading the table of reference counts"));
    for (size_t at = 0; at < table_.size(); at += 8) {
      if (const uint64_t entry = base::load_be<uint64_t>(&table_[at]); entry & kRefcountTableReserved)
        find(report_.corruptions, "the entry {:#x} for a block of reference counts has bits set that mean nothing",
             entry);
      if (const uint64_t place = block_place(at / 8))
        if (!count_aligned(place, cluster(), "a block of reference counts")) base::store_be<uint64_t>(&table_[at], 0);
    }
    return {};
  }
  uint64_t block_place(uint64_t index) const {
    return index < table_.size() / 8 ? base::load_be<uint64_t>(&table_[index * 8]) & kOffsetMask : 0;
  }
  uint64_t entries_per_block() const { return cluster() * 8 >> header_.refcount_order; }

  void compare() {
    Bytes block(cluster());
    std::unordered_map<uint64_t, bool> counted;
    for (uint64_t index = 0; index < table_.size() / 8; ++index) {
      const uint64_t place = block_place(index);
      if (place == 0 || !read(place, block, "a block of reference counts")) continue;
      counted[index] = true;
      if (std::ranges::all_of(block, [](std::byte byte) { return byte == std::byte{0}; })) {
        counted.erase(index);  // as if it were not there
        continue;
      }
      for (uint64_t entry = 0; entry < entries_per_block(); ++entry) {
        const uint64_t at = index * entries_per_block() + entry;
        const uint64_t says = refcount_in(block, header_.refcount_order, entry), is = used_.get(at);
        if (says > is) find(report_.leaks, "cluster {} is counted {} times and used {} times: leaked", at, says, is);
        if (says < is) find(report_.miscounted, "cluster {} is counted {} times and used {} times", at, says, is);
      }
    }
    used_.each([&](uint64_t at, uint64_t is) {
      if (!counted.contains(at / entries_per_block()))
        find(report_.miscounted, "cluster {} is not counted and used {} times", at, is);
    });
  }

  // An entry says of its cluster that nothing else refers to it: true or not?
  bool wrong(uint64_t entry) const {
    const bool alone = used_.get((entry & kOffsetMask) >> header_.cluster_bits) == 1;
    return ((entry & kCopied) != 0) != alone;
  }
  void check_marks() {
    for (const auto& [place, entry] : marks_)
      if (wrong(entry))
        find(report_.miscounted, "the entry {:#x} at {:#x} is marked as {} and is not", entry, place,
             entry & kCopied ? "unshared" : "shared");
  }

  // --- repairing ---

  Status corrupt(std::string what) { return fail(ErrorCode::kCorrupt, fmt::format("qcow2: {}", what)); }

  // All that is written lies behind what was there until the header is written.
  Status rebuild(const Counts& old) {
    Counts counts = old;
    const uint64_t start = std::max(file_clusters_, counts.end()), per_table = cluster() / 8;
    // The new counts count themselves, and so grow with what they count.
    std::map<uint64_t, uint64_t> blocks;  // index: cluster
    uint64_t next = start, table_clusters = 0, table_start = 0;
    const auto cover = [&](uint64_t at) {
      for (uint64_t index = at / entries_per_block(); !blocks.contains(index);
           index = blocks[index] / entries_per_block())
        blocks[index] = next++;
    };
    counts.each([&](uint64_t at, uint64_t) { cover(at); });
    // Room for the table, and for the blocks that counting it takes.
    for (uint64_t room = 1;; ++room) {
      table_start = next;
      auto tried = blocks;
      uint64_t tried_next = next + room;
      for (uint64_t at = table_start; at < tried_next; ++at)
        if (!tried.contains(at / entries_per_block())) tried[at / entries_per_block()] = tried_next++;
      if ((tried.rbegin()->first + per_table) / per_table > room) continue;
      blocks = std::move(tried);
      table_clusters = room;
      next = tried_next;
      break;
    }
    if (table_clusters << header_.cluster_bits > kMaximumRefcountTableBytes)
      return fail(ErrorCode::kUnsupported, "qcow2: the image is too large for a new table of reference counts");
    for (uint64_t at = start; at < next; ++at) counts.add(at);
    return write_counts(counts, blocks, table_start, table_clusters);
  }

  Status write_counts(const Counts& counts, const std::map<uint64_t, uint64_t>& blocks, uint64_t table_start,
                      uint64_t table_clusters) {
    const uint64_t most =
        header_.refcount_order == 6 ? UINT64_MAX : (uint64_t{1} << (1u << header_.refcount_order)) - 1;
    Bytes table(table_clusters << header_.cluster_bits);
    for (const auto& [index, place] : blocks) {
      Bytes block(cluster());
      for (uint64_t entry = 0; entry < entries_per_block(); ++entry) {
        const uint64_t is = counts.get(index * entries_per_block() + entry);
        if (is > most) return corrupt("a cluster is used more often than its count can say: not repaired");
        if (is) put_refcount_in(block, header_.refcount_order, entry, is);
      }
      RHEA_TRY(write(place << header_.cluster_bits, block));
      base::store_be<uint64_t>(&table[index * 8], place << header_.cluster_bits);
    }
    RHEA_TRY(write(table_start << header_.cluster_bits, table));
    // Marks first lose what is not so: while counts are low, nothing is written in place that is shared.
    RHEA_TRY(write_marks(counts, false));
    RHEA_TRY(sync());
    Bytes fields(12);
    base::store_be<uint64_t>(&fields[0], table_start << header_.cluster_bits);
    base::store_be<uint32_t>(&fields[8], static_cast<uint32_t>(table_clusters));
    RHEA_TRY(write(kRefcountTableField, fields));
    RHEA_TRY(write_marks(counts, true));
    RHEA_TRY(sync());
    if (header_.version < 3) return {};
    Bytes features(8);
    base::store_be<uint64_t>(&features[0], header_.incompatible & ~(kDirty | kCorrupt));
    RHEA_TRY(write(kIncompatibleField, features));
    return sync();
  }

  Status write_marks(const Counts& counts, bool set) {
    for (const auto& [place, entry] : marks_) {
      const bool alone = counts.get((entry & kOffsetMask) >> header_.cluster_bits) == 1;
      if (((entry & kCopied) != 0) == alone || alone != set) continue;
      Bytes raw(8);
      base::store_be<uint64_t>(&raw[0], entry ^ kCopied);
      RHEA_TRY(write(place, raw));
    }
    return {};
  }

  Status write(uint64_t offset, std::span<const std::byte> data) {
    if (const int error = file_.write(offset, data)) return fail(Error::from_errno(error, "repairing the image"));
    return {};
  }
  Status sync() {
    if (const int error = file_.sync()) return fail(Error::from_errno(error, "repairing the image"));
    return {};
  }

  ImageFile file_;
  const int fd_;
  const Header header_;
  const CheckOptions& options_;
  CheckReport report_;
  Counts used_;
  uint64_t file_clusters_ = 0;
  Bytes table_;
  static constexpr uint64_t kMostTables = 1 << 22;  // of the disk and all its snapshots
  uint64_t tables_walked_ = 0;
  std::unordered_set<uint64_t> disk_tables_;
  struct Mark {
    uint64_t place, entry;
  };
  std::vector<Mark> marks_;  // entries of the disk's own tables
};

}  // namespace

Result<CheckReport> check_image_file(int fd, const Header& header, const CheckOptions& options) {
  return Checker(fd, header, options).run();
}

}  // namespace rhea::block::qcow2
