// SPDX-License-Identifier: Apache-2.0
#include "provision/ext4_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace rhea::provision {
namespace {

constexpr uint64_t kSuperblock = 1024;
constexpr uint16_t kMagic = 0xef53, kExtentMagic = 0xf30a;
constexpr uint32_t kRecover = 0x4, k64Bit = 0x80;
// File types in folders, journal to be replayed, extents, 64 bits, flexible groups, checksum seed, large folders.
constexpr uint32_t kKnownIncompatible = 0x2 | kRecover | 0x40 | k64Bit | 0x200 | 0x2000 | 0x4000;
constexpr uint32_t kFlagExtents = 0x80000, kFlagEncrypted = 0x800;
constexpr uint16_t kModeType = 0xf000, kModeFolder = 0x4000, kModeFile = 0x8000;
constexpr uint32_t kRootInode = 2;
constexpr uint64_t kMaximumFolderBytes = 16 << 20;
constexpr unsigned kMaximumDepth = 5;
constexpr uint16_t kUnwritten = 0x8000;  // longer extents: as many blocks more, which read as zeros

template <class T>
T load(std::span<const std::byte> bytes, size_t at) {
  T value{};
  std::memcpy(&value, bytes.data() + at, sizeof value);  // little-endian, as the host
  return value;
}

std::unexpected<Error> corrupt(std::string_view what) {
  return fail(ErrorCode::kCorrupt, fmt::format("the file system is damaged: {}", what));
}

}  // namespace

Result<Ext4Files> Ext4Files::open(ReadAt read) {
  Ext4Files files(std::move(read));
  RHEA_TRY(files.read_superblock());
  return files;
}

Status Ext4Files::read_superblock() {
  std::array<std::byte, 1024> super{};
  RHEA_TRY(read_(kSuperblock, super));
  if (load<uint16_t>(super, 0x38) != kMagic) return fail(ErrorCode::kUnsupported, "no ext4 file system is there");
  const auto incompatible = load<uint32_t>(super, 0x60), log_block = load<uint32_t>(super, 0x18);
  if (incompatible & ~kKnownIncompatible)
    return fail(ErrorCode::kUnsupported,
                fmt::format("the ext4 file system has features that are not known here ({:#x})",
                            incompatible & ~kKnownIncompatible));
  if (log_block > 6) return corrupt("its block size");
  block_bytes_ = uint64_t{1024} << log_block;
  inode_bytes_ = load<uint32_t>(super, 0x4c) == 0 ? 128 : load<uint16_t>(super, 0x58);
  descriptor_bytes_ = incompatible & k64Bit ? load<uint16_t>(super, 0xfe) : 32;
  inodes_ = load<uint32_t>(super, 0x00);
  inodes_per_group_ = load<uint32_t>(super, 0x28);
  first_block_ = load<uint32_t>(super, 0x14);
  blocks_ = load<uint32_t>(super, 0x04) | (incompatible & k64Bit ? uint64_t{load<uint32_t>(super, 0x150)} << 32 : 0);
  clean_ = !(incompatible & kRecover);
  if (inode_bytes_ < 128 || inode_bytes_ > block_bytes_ || descriptor_bytes_ < 32 || descriptor_bytes_ > block_bytes_ ||
      inodes_per_group_ == 0 || first_block_ > 1 || blocks_ > ~uint64_t{0} / block_bytes_ / 2)
    return corrupt("its superblock");
  return {};
}

Result<Ext4Files::Inode> Ext4Files::inode(uint32_t number) {
  if (number == 0 || number > inodes_) return corrupt("a number of an inode");
  const uint64_t group = (number - 1) / inodes_per_group_, index = (number - 1) % inodes_per_group_;
  std::vector<std::byte> descriptor(descriptor_bytes_);
  RHEA_TRY(read_((uint64_t{first_block_} + 1) * block_bytes_ + group * descriptor_bytes_, descriptor));
  uint64_t table = load<uint32_t>(descriptor, 0x08);
  if (descriptor_bytes_ >= 64) table |= uint64_t{load<uint32_t>(descriptor, 0x28)} << 32;
  if (table >= blocks_) return corrupt("the place of inodes");
  std::array<std::byte, 128> bytes{};
  RHEA_TRY(read_(table * block_bytes_ + index * inode_bytes_, bytes));
  return Inode{.mode = load<uint16_t>(bytes, 0x00),
               .flags = load<uint32_t>(bytes, 0x20),
               .size_bytes = load<uint32_t>(bytes, 0x04) | uint64_t{load<uint32_t>(bytes, 0x6c)} << 32,
               .extents = {bytes.begin() + 0x28, bytes.begin() + 0x28 + 60}};
}

// One node of an extent tree, and what is below it. GUEST-CONTROLLED: budgets end trees that loop or overlap.
Status Ext4Files::fill(std::span<const std::byte> node, unsigned depth_above, Fill& into) {
  if (node.size() < 12 || load<uint16_t>(node, 0) != kExtentMagic) return corrupt("an extent tree");
  const auto count = load<uint16_t>(node, 2), depth = load<uint16_t>(node, 6);
  if (depth >= depth_above || size_t{12} + size_t{12} * count > node.size()) return corrupt("an extent tree");
  for (size_t at = 12; at < 12 + size_t{12} * count; at += 12) {
    if (depth != 0) {
      const uint64_t child = load<uint32_t>(node, at + 4) | uint64_t{load<uint16_t>(node, at + 8)} << 32;
      if (child >= blocks_ || into.nodes_left-- == 0) return corrupt("an extent tree");
      std::vector<std::byte> block(block_bytes_);
      RHEA_TRY(read_(child * block_bytes_, block));
      RHEA_TRY(fill(block, depth, into));
      continue;
    }
    const uint64_t first = load<uint32_t>(node, at) * block_bytes_;
    uint64_t length = load<uint16_t>(node, at + 4);
    const uint64_t start = load<uint32_t>(node, at + 8) | uint64_t{load<uint16_t>(node, at + 6)} << 32;
    if (length > kUnwritten || first >= into.out.size()) continue;
    if (start >= blocks_ || length > blocks_ - start || length > into.blocks_left) return corrupt("an extent");
    into.blocks_left -= length;
    length = std::min(length * block_bytes_, into.out.size() - first);
    RHEA_TRY(read_(start * block_bytes_, std::span(into.out).subspan(first, length)));
  }
  return {};
}

Result<std::vector<std::byte>> Ext4Files::data(const Inode& inode, uint64_t limit_bytes) {
  if (inode.size_bytes > limit_bytes)
    return fail(ErrorCode::kExhausted, fmt::format("a file of {} bytes is larger than is taken", inode.size_bytes));
  if (!(inode.flags & kFlagExtents) || (inode.flags & kFlagEncrypted))
    return fail(ErrorCode::kUnsupported, "a file is stored in a way that is not known here");
  const uint64_t blocks = inode.size_bytes / block_bytes_ + 1;
  // An extent may begin before the file's end and go on; no tree needs as many nodes as its file has blocks.
  Fill into{.out = std::vector<std::byte>(inode.size_bytes), .nodes_left = blocks, .blocks_left = blocks + kUnwritten};
  RHEA_TRY(fill(inode.extents, kMaximumDepth + 1, into));
  return std::move(into.out);
}

Result<std::vector<Ext4Files::Entry>> Ext4Files::entries(uint32_t folder_inode) {
  const Inode folder = RHEA_TRY(inode(folder_inode));
  if ((folder.mode & kModeType) != kModeFolder) return fail(ErrorCode::kNotFound, "what should be a folder is none");
  const std::vector<std::byte> bytes = RHEA_TRY(data(folder, kMaximumFolderBytes));
  std::vector<Entry> found;
  for (size_t at = 0; at + 8 <= bytes.size();) {
    const auto number = load<uint32_t>(bytes, at);
    const auto length = load<uint16_t>(bytes, at + 4);
    const auto name_bytes = load<uint8_t>(bytes, at + 6);
    if (length < 8 || length > bytes.size() - at || name_bytes > length - 8) return corrupt("a folder");
    const std::string name(reinterpret_cast<const char*>(bytes.data() + at + 8), name_bytes);
    if (number != 0 && name_bytes != 0) found.push_back({number, name});
    at += length;
  }
  return found;
}

Result<uint32_t> Ext4Files::look_up(uint32_t folder_inode, std::string_view name) {
  const std::vector<Entry> all = RHEA_TRY(entries(folder_inode));
  const auto entry = std::ranges::find(all, name, &Entry::name);
  if (entry == all.end()) return fail(ErrorCode::kNotFound, fmt::format("there is no {}", name));
  return entry->inode;
}

Result<Ext4Files::File> Ext4Files::find(std::string_view folder, std::string_view name) {
  const uint32_t parent = RHEA_TRY(look_up(kRootInode, folder));
  const uint32_t number = RHEA_TRY(look_up(parent, name));
  const Inode found = RHEA_TRY(inode(number));
  if ((found.mode & kModeType) != kModeFile) return fail(ErrorCode::kNotFound, fmt::format("{} is no file", name));
  return File{found.size_bytes, number};
}

Result<std::vector<std::string>> Ext4Files::list(std::string_view folder) {
  const uint32_t number = RHEA_TRY(look_up(kRootInode, folder));
  std::vector<std::string> names;
  for (Entry& entry : RHEA_TRY(entries(number))) names.push_back(std::move(entry.name));
  return names;
}

Result<std::vector<std::byte>> Ext4Files::read(const File& file, uint64_t limit_bytes) {
  const Inode found = RHEA_TRY(inode(file.inode));
  return data(found, limit_bytes);
}

}  // namespace rhea::provision
