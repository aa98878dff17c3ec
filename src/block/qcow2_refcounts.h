// SPDX-License-Identifier: Apache-2.0
// Reference counts of a qcow2 image's clusters, and the handing out of free ones. Spec: [QCOW2 refcounts].
//
// A cluster is counted on the medium before anything can point to it: so a crash may leave clusters that nothing
// points to, never a pointer to a cluster that counts as free. To pay for that seldom, clusters are reserved in
// batches.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "block/layer.h"
#include "block/qcow2_format.h"

namespace rhea::block::qcow2 {

// One count of a block of them, each 2^order bits wide.
uint64_t refcount_in(std::span<const std::byte> block, unsigned order, uint64_t entry);
void put_refcount_in(std::span<std::byte> block, unsigned order, uint64_t entry, uint64_t count);

class Refcounts {
 public:
  // `file` outlives it.
  static Result<Refcounts> load(ImageFile& file, const Header& header);

  // A free cluster, counted once on the medium: its offset in the file, or an errno value.
  int allocate(uint64_t& offset);
  // The same for so many clusters that follow on each other.
  int allocate_run(uint64_t clusters, uint64_t& offset);
  // One reference more to the cluster that holds `offset`; not on the medium before the next sync.
  int retain(uint64_t offset);
  // One reference less to the cluster that holds `offset`; what nothing refers to may be handed out again.
  int release(uint64_t offset);
  // Gives back what was reserved and not used.
  int release_reserved();

 private:
  struct Block {
    uint64_t offset = 0;
    std::vector<std::byte> bytes;
  };
  Refcounts(ImageFile& file, const Header& header) : file_(&file), header_(header) {}
  uint64_t entries_per_block() const { return header_.cluster_bytes() * 8 >> header_.refcount_order; }
  uint64_t get(const Block& block, uint64_t entry) const {
    return refcount_in(block.bytes, header_.refcount_order, entry);
  }
  void put(Block& block, uint64_t entry, uint64_t count) const {
    put_refcount_in(block.bytes, header_.refcount_order, entry, count);
  }
  int block_of(uint64_t cluster, bool make, Block*& block);
  int make_block(uint64_t index, Block*& block);
  int grow_table(uint64_t index);
  int write_entry(const Block& block, uint64_t entry);
  int reserve();
  int change(uint64_t cluster, int delta, uint64_t& count);

  ImageFile* file_;
  Header header_;
  std::vector<uint64_t> table_;
  std::map<uint64_t, Block> blocks_;  // by index into the table
  uint64_t next_ = 0;                 // no cluster before it is free, as far as is known
  std::vector<uint64_t> reserved_;    // clusters, the next one last
};

}  // namespace rhea::block::qcow2
