// SPDX-License-Identifier: Apache-2.0
// Reads files out of an ext4 file system that is not mounted. Spec: [EXT4].
// Not implemented: replaying the journal (clean() says whether it would have to be), files without extents, with inline
// data, encrypted or compressed ones, meta block groups: an error says which.
//
// All of it was written by a hostile guest: every number is checked, and work is bounded by what a caller asks for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace rhea::provision {

// Threads: one.
class Ext4Files {
 public:
  // Reads all of `out` at a byte offset of the disk; errors where it is not there.
  using ReadAt = std::function<Status(uint64_t offset, std::span<std::byte> out)>;

  // Errors: kUnsupported for what is not ext4, or uses what is not implemented.
  static Result<Ext4Files> open(ReadAt read);

  // False: it was not unmounted, and files written last may not be what they seem.
  bool clean() const { return clean_; }

  struct File {
    uint64_t size_bytes = 0;
    uint32_t inode = 0;
  };
  // A file in a folder, both by name, no links followed. Errors: kNotFound, kCorrupt.
  Result<File> find(std::string_view folder, std::string_view name);
  // Names in a folder of the root.
  Result<std::vector<std::string>> list(std::string_view folder);
  // Errors: kExhausted beyond `limit_bytes`.
  Result<std::vector<std::byte>> read(const File& file, uint64_t limit_bytes);

 private:
  struct Inode {
    uint16_t mode = 0;
    uint32_t flags = 0;
    uint64_t size_bytes = 0;
    std::vector<std::byte> extents;  // the root of their tree
  };
  struct Entry {
    uint32_t inode = 0;
    std::string name;
  };
  struct Fill {
    std::vector<std::byte> out;
    uint64_t nodes_left = 0, blocks_left = 0;
  };

  explicit Ext4Files(ReadAt read) : read_(std::move(read)) {}
  Status read_superblock();
  Result<Inode> inode(uint32_t number);
  Result<std::vector<Entry>> entries(uint32_t folder_inode);
  Result<uint32_t> look_up(uint32_t folder_inode, std::string_view name);
  Result<std::vector<std::byte>> data(const Inode& inode, uint64_t limit_bytes);
  Status fill(std::span<const std::byte> node, unsigned depth_above, Fill& into);

  ReadAt read_;
  bool clean_ = false;
  uint64_t block_bytes_ = 0, descriptor_bytes_ = 0, inode_bytes_ = 0, blocks_ = 0;
  uint32_t inodes_ = 0, inodes_per_group_ = 0, first_block_ = 0;
};

}  // namespace rhea::provision
