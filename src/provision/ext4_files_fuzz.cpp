// SPDX-License-Identifier: Apache-2.0
// A small file system with /boot/vmlinuz, in which the input changes words wherever it likes.
#include <cstring>

#include "provision/ext4_files.h"

namespace {

constexpr size_t kBlock = 1024, kInodes = 3, kRootFolder = 5, kBootFolder = 6, kData = 7;
constexpr uint32_t kBoot = 11, kKernel = 12;

class Template {
 public:
  std::vector<std::byte> disk = std::vector<std::byte>(64 * kBlock);
  template <class T>
  void put(size_t at, T value) {
    std::memcpy(disk.data() + at, &value, sizeof value);
  }
  void inode(uint32_t number, uint16_t mode, uint32_t bytes, uint32_t block) {
    const size_t at = kInodes * kBlock + (number - 1) * 128, tree = at + 0x28;
    put(at, mode);
    put(at + 0x04, bytes);
    put(at + 0x20, uint32_t{0x80000});
    put(tree, uint16_t{0xf30a});
    put(tree + 2, uint16_t{1});
    put(tree + 4, uint16_t{4});
    put(tree + 12 + 4, static_cast<uint16_t>((bytes + kBlock - 1) / kBlock));
    put(tree + 12 + 8, block);
  }
  void entry(size_t block, uint32_t inode, const char* name) {
    put(block * kBlock, inode);
    put(block * kBlock + 4, uint16_t{kBlock});
    put(block * kBlock + 6, static_cast<uint8_t>(std::strlen(name)));
    std::memcpy(disk.data() + block * kBlock + 8, name, std::strlen(name));
  }
  Template() {
    const size_t super = kBlock;
    put(super + 0x00, uint32_t{16});
    put(super + 0x04, uint32_t{64});
    put(super + 0x14, uint32_t{1});
    put(super + 0x28, uint32_t{16});
    put(super + 0x38, uint16_t{0xef53});
    put(super + 0x4c, uint32_t{1});
    put(super + 0x58, uint16_t{128});
    put(super + 0x60, uint32_t{0x42});
    put(2 * kBlock + 8, static_cast<uint32_t>(kInodes));
    inode(2, 0x41ed, kBlock, kRootFolder);
    inode(kBoot, 0x41ed, kBlock, kBootFolder);
    inode(kKernel, 0x81a4, 3000, kData);
    entry(kRootFolder, kBoot, "boot");
    entry(kBootFolder, kKernel, "vmlinuz");
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rhea;
  const bool unchanged = size < 7;
  Template made;
  auto& disk = made.disk;
  for (; size >= 7; data += 7, size -= 7) {
    uint16_t at = 0;
    std::memcpy(&at, data, sizeof at);
    // Most of what matters lies in the first blocks.
    const size_t where = data[2] & 1 ? at % (8 * kBlock) : at;
    std::memcpy(disk.data() + std::min(where, disk.size() - 4), data + 3, 4);
  }
  uint64_t reads = 0;
  auto files = provision::Ext4Files::open([&](uint64_t offset, std::span<std::byte> out) -> Status {
    if (++reads > 100'000) __builtin_trap();
    if (offset > disk.size() || out.size() > disk.size() - offset) return fail(ErrorCode::kIo, "beyond the disk");
    std::memcpy(out.data(), disk.data() + offset, out.size());
    return {};
  });
  if (!files) return 0;
  [[maybe_unused]] const auto names = files->list("boot");
  if (const auto file = files->find("boot", "vmlinuz")) {
    const auto bytes = files->read(*file, 1 << 20);
    if (unchanged && (!bytes || bytes->size() != 3000)) __builtin_trap();
  } else if (unchanged) {
    __builtin_trap();
  }
  return 0;
}
