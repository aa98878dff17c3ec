// SPDX-License-Identifier: Apache-2.0
// Translated blocks, the links between them and the maps that find them.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "isa/x86/insn.h"

namespace rhea::dbt {

struct Block;

// A direct jump out of a block. Unlinked it goes to its stub, which asks the dispatcher. `to` and `next_incoming`
// change under the code space's lock; the rest is constant.
struct Link {
  Block* from = nullptr;
  Block* to = nullptr;
  Link* next_incoming = nullptr;  // in to->incoming
  uint8_t* site = nullptr;        // writable alias of the rel32 to patch
  uint64_t stub = 0;              // executable address it jumps to while unlinked
  int32_t target_offset = 0;      // target IP - code_base; within the page
  uint32_t mode = 0;              // mode word at the target
};

// From host code back to the guest instruction it belongs to.
struct HostPoint {
  uint32_t host_offset;   // from Block::code_start
  uint16_t guest_offset;  // from code_base (up to 4095 + 15)
  uint8_t guest_length;
  uint8_t index;  // of the instruction in the block
};

inline constexpr uint64_t kNoPage = ~uint64_t{0};

struct Block {
  uint64_t physical = 0;           // of the first byte
  uint64_t second_page = kNoPage;  // guest-physical page of the bytes past the page end, for a straddling instruction
  uint32_t mode = 0;
  uint16_t guest_bytes = 0;
  uint16_t instruction_count = 0;
  std::atomic<bool> valid{true};           // changes under the code space's lock
  uint64_t code_start = 0, code_end = 0;   // executable addresses
  uint64_t indirect_entry = 0;             // expects the IP in r14
  uint64_t direct_entry = 0;               // expects code_base to be right
  std::atomic<Block*> next_hash{nullptr};  // kept when the block leaves its chain: somebody may be reading it
  Block* next_in_page[2] = {nullptr, nullptr};
  Link* incoming = nullptr;
  HostPoint* points = nullptr;
  uint32_t point_count = 0;
  uint8_t link_count = 0;
  Link links[2];

  bool overlaps(uint64_t start, uint64_t end) const {  // guest-physical range [start, end)
    const uint64_t page_end = (physical | 0xfff) + 1;
    const uint64_t first_end = physical + guest_bytes < page_end ? physical + guest_bytes : page_end;
    if (start < first_end && end > physical) return true;
    if (second_page == kNoPage) return false;
    const uint64_t second_end = second_page + (physical + guest_bytes - page_end);
    return start < second_end && end > second_page;
  }
};

// A decoded instruction kept for a system function.
struct InsnRecord {
  isa::x86::Insn insn;
  uint16_t guest_offset = 0;
  bool masked_memory = false;  // execute_masked_memory() instead of execute_system()
};

// Bump allocator of blocks and their tables; freed as a whole with the code cache. One thread at a time.
class Arena {
 public:
  ~Arena();
  void* allocate(size_t bytes, size_t alignment);
  template <class T>
  T* make(size_t count = 1) {
    T* objects = static_cast<T*>(allocate(sizeof(T) * count, alignof(T)));
    for (size_t i = 0; i < count; ++i) new (objects + i) T();
    return objects;
  }
  void reset();
  uint64_t bytes() const { return chunks_.empty() ? 0 : chunk_ * kChunkBytes + used_; }

 private:
  static constexpr size_t kChunkBytes = size_t{1} << 20;
  std::vector<uint8_t*> chunks_;
  size_t chunk_ = 0, used_ = kChunkBytes;
};

// Finds blocks by the host code they became: all that were made since the last clear(), in order of their code.
// Blocks are added by one thread at a time, and found on any. General registers only.
class HostIndex {
 public:
  static Result<HostIndex> create(uint64_t code_cache_bytes);
  bool full() const { return count_.load(std::memory_order_relaxed) == capacity_; }
  void append(Block* block);                 // not while full()
  Block* find(uint64_t exec_address) const;  // the block whose code holds the address, or nullptr
  size_t size() const { return count_.load(std::memory_order_relaxed); }
  Block* at(size_t index) const { return blocks_[index]; }
  void clear() { count_.store(0, std::memory_order_relaxed); }
  HostIndex(HostIndex&& other) noexcept
      : mapping_(std::move(other.mapping_)), blocks_(other.blocks_), capacity_(other.capacity_) {}

 private:
  HostIndex() = default;
  base::UniqueMapping mapping_;  // mapped, not allocated: what is not used costs nothing
  Block** blocks_ = nullptr;
  size_t capacity_ = 0;
  std::atomic<size_t> count_{0};
};

// Finds blocks by (guest-physical address, mode word) and by page. find() is safe on any thread that keeps clear()
// from running, and in general-register-only code; everything else under the code space's lock.
class BlockMap {
 public:
  BlockMap();
  Block* find(uint64_t physical, uint32_t mode, uint64_t second_page = kNoPage) const;
  void insert(Block* block);
  void remove(Block* block);
  Block* page_head(uint64_t page) const;  // page: guest-physical page address
  void clear();
  uint64_t size() const { return size_; }

  // Next block on `page` after `block`.
  static Block* next_on_page(const Block* block, uint64_t page) {
    return block->next_in_page[(block->physical & ~uint64_t{0xfff}) == page ? 0 : 1];
  }

 private:
  static constexpr unsigned kHashBits = 17, kPageBits = 16;
  struct PageEntry {
    uint64_t page = kNoPage;
    Block* head = nullptr;
    PageEntry* next = nullptr;
  };
  static uint64_t hash(uint64_t physical, uint32_t mode) {
    return ((physical ^ (uint64_t{mode} << 29)) * 0x9e3779b97f4a7c15) >> (64 - kHashBits);
  }
  PageEntry* page_entry(uint64_t page) const;
  void unlink_from_page(Block* block, uint64_t page, unsigned which);

  std::vector<std::atomic<Block*>> buckets_;
  std::vector<PageEntry*> pages_;
  Arena page_arena_;
  uint64_t size_ = 0;
};

}  // namespace rhea::dbt
