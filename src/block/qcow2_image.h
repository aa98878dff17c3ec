// SPDX-License-Identifier: Apache-2.0
// A qcow2 image: where the disk's clusters lie, and how they come to lie somewhere. Spec: [QCOW2].
//
// Order on the medium: what a pointer points to is there before the pointer. Changed tables stay in memory until
// flush(), which syncs data and reference counts, then writes second-level tables and syncs, then the first level and
// syncs, and only then gives up clusters that nothing points to any more. So after a crash at any moment an image is
// whole, and at worst holds clusters that nothing uses.
#pragma once

#include <cerrno>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/fd.h"
#include "block/layer.h"
#include "block/qcow2_format.h"
#include "block/qcow2_refcounts.h"

namespace rhea::block {

class Qcow2Image final : public Layer {
 public:
  // Takes the open file and what its backing file opened as (nullptr: none).
  static Result<std::unique_ptr<Qcow2Image>> open(base::UniqueFd fd, const qcow2::Header& header,
                                                  std::unique_ptr<Layer> backing, bool writable,
                                                  WriteLog* log = nullptr);
  ~Qcow2Image() override;  // flushes

  uint64_t size_bytes() const override { return header_.disk_bytes; }
  int fd() const override { return fd_.get(); }
  int map(uint64_t offset, uint64_t length, Extent& extent) override;
  int read_compressed(const Extent& extent, std::span<std::byte> out) override;

  uint64_t cluster_bytes() const { return header_.cluster_bytes(); }
  Layer* backing() const { return backing_.get(); }

  // --- writing; all return 0 or an errno value ---
  // The place of the cluster that holds `offset` if it may be overwritten there; else `in_place` is false.
  int find_writable(uint64_t offset, uint64_t& place, bool& in_place);
  // A cluster of the file for new data.
  int allocate(uint64_t& place) { return corrupt_ ? EIO : refcounts_.allocate(place); }
  // One that has come to nothing: nothing points to it.
  void abandon(uint64_t place) { refcounts_.release(place); }
  // The cluster that holds `offset` now lies at `place`, where its data has been written.
  int point_to(uint64_t offset, uint64_t place);
  // The whole cluster reads as zeros from now on. `may_unmap`: its space may be given up.
  int make_zero(uint64_t offset, bool may_unmap, bool& done);
  int flush();
  // The disk is `bytes` long from now on: what is new reads as zeros, what is cut off is lost.
  int resize(uint64_t bytes);
  // The whole cluster that holds `offset` is written, compressed if that makes it smaller.
  int write_compressed(uint64_t offset, std::span<const std::byte> bytes);
  // While it is read or written asynchronously the cluster at `place` keeps its space, whatever the tables say: what
  // comes late must not meet what is new there.
  void pin(uint64_t place) { ++pins_[place & ~(cluster_bytes() - 1)]; }
  void unpin(uint64_t place);

 private:
  struct Table {
    std::vector<uint64_t> entries;
    uint64_t place = 0;
    bool dirty = false;
    uint64_t used = 0;  // when, for eviction
  };
  Qcow2Image(base::UniqueFd fd, const qcow2::Header& header, std::unique_ptr<Layer> backing, bool writable,
             std::unique_ptr<ImageFile> file, qcow2::Refcounts refcounts);
  Status load_l1();
  int table_of(uint64_t offset, bool for_writing, Table*& table);
  int found_corrupt();
  int own_table(uint64_t index, Table& table);
  int load_table(uint64_t index, Table*& table);
  int evict();
  int set_entry(uint64_t offset, uint64_t entry);
  void give_up(uint64_t entry);
  uint64_t entry_index(uint64_t offset) const { return offset >> header_.cluster_bits & (header_.l2_entries() - 1); }
  uint64_t table_index(uint64_t offset) const { return (offset >> header_.cluster_bits) / header_.l2_entries(); }
  int release_given_up();
  int write_table(Table& table);
  int write_l1();
  int grow(uint64_t bytes);
  int grow_l1(uint64_t entries);
  int clear_tail(uint64_t end);
  int replace(uint64_t offset, std::span<const std::byte> bytes);
  int write_size(uint64_t bytes);
  int place_compressed(uint64_t length, uint64_t& place);

  base::UniqueFd fd_;
  qcow2::Header header_;
  std::unique_ptr<Layer> backing_;
  const bool writable_;
  bool corrupt_ = false;  // found so: nothing is written any more but what was pending
  std::unique_ptr<ImageFile> tables_file_;
  qcow2::Refcounts refcounts_;
  std::vector<uint64_t> l1_;
  std::map<uint64_t, bool> l1_dirty_;  // by index
  std::unordered_map<uint64_t, Table> tables_;
  uint64_t clock_ = 0;
  size_t dirty_tables_ = 0;
  std::unordered_map<uint64_t, unsigned> pins_;  // by place
  uint64_t packed_end_ = 0;                      // of the compressed data written last
  std::vector<uint64_t> to_release_;             // places of clusters, once for each reference
};

}  // namespace rhea::block
