// SPDX-License-Identifier: Apache-2.0
// Block tables.
#include "dbt/runtime/block.h"

#include <algorithm>

namespace rhea::dbt {

BlockMap::BlockMap() : buckets_(size_t{1} << kHashBits), pages_(size_t{1} << kPageBits) {}

Block* BlockMap::find(uint64_t physical, uint32_t mode, uint64_t second_page) const {
  for (Block* block = buckets_[hash(physical, mode)].load(std::memory_order_acquire); block;
       block = block->next_hash.load(std::memory_order_acquire))
    if (block->physical == physical && block->mode == mode &&
        (block->second_page == kNoPage || block->second_page == second_page))
      return block;
  return nullptr;
}

BlockMap::PageEntry* BlockMap::page_entry(uint64_t page) const {
  for (PageEntry* entry = pages_[(page >> 12) & ((1u << kPageBits) - 1)]; entry; entry = entry->next)
    if (entry->page == page) return entry;
  return nullptr;
}

Block* BlockMap::page_head(uint64_t page) const {
  const PageEntry* entry = page_entry(page);
  return entry ? entry->head : nullptr;
}

void BlockMap::insert(Block* block) {
  std::atomic<Block*>& bucket = buckets_[hash(block->physical, block->mode)];
  block->next_hash.store(bucket.load(std::memory_order_relaxed), std::memory_order_relaxed);
  bucket.store(block, std::memory_order_release);
  ++size_;
  const uint64_t own[2] = {block->physical & ~uint64_t{0xfff}, block->second_page};
  for (unsigned i = 0; i < 2; ++i) {
    if (own[i] == kNoPage) continue;
    if (i == 1 && own[1] == own[0]) continue;  // both halves on one physical page: listed once
    PageEntry* entry = page_entry(own[i]);
    if (!entry) {
      entry = page_arena_.make<PageEntry>();
      PageEntry*& head = pages_[(own[i] >> 12) & ((1u << kPageBits) - 1)];
      entry->page = own[i];
      entry->next = head;
      head = entry;
    }
    block->next_in_page[i] = entry->head;
    entry->head = block;
  }
}

void BlockMap::unlink_from_page(Block* block, uint64_t page, unsigned which) {
  PageEntry* entry = page_entry(page);
  if (!entry) return;
  Block** at = &entry->head;
  while (*at && *at != block) at = &(*at)->next_in_page[((*at)->physical & ~uint64_t{0xfff}) == page ? 0 : 1];
  if (*at) *at = block->next_in_page[which];
}

void BlockMap::remove(Block* block) {
  std::atomic<Block*>* at = &buckets_[hash(block->physical, block->mode)];
  Block* current = at->load(std::memory_order_relaxed);
  while (current && current != block) {
    at = &current->next_hash;
    current = at->load(std::memory_order_relaxed);
  }
  if (current) {
    at->store(block->next_hash.load(std::memory_order_relaxed), std::memory_order_release);
    --size_;
  }
  const uint64_t page = block->physical & ~uint64_t{0xfff};
  unlink_from_page(block, page, 0);
  if (block->second_page != kNoPage && block->second_page != page) unlink_from_page(block, block->second_page, 1);
}

void BlockMap::clear() {
  for (auto& bucket : buckets_) bucket.store(nullptr, std::memory_order_relaxed);
  std::fill(pages_.begin(), pages_.end(), nullptr);
  page_arena_.reset();
  size_ = 0;
}

void HostIndex::append(Block* block) {
  const size_t count = count_.load(std::memory_order_relaxed);
  blocks_[count] = block;
  count_.store(count + 1, std::memory_order_release);
}

Block* HostIndex::find(uint64_t exec_address) const {
  size_t low = 0, high = count_.load(std::memory_order_acquire);
  while (low < high) {
    const size_t middle = (low + high) / 2;
    if (blocks_[middle]->code_start <= exec_address)
      low = middle + 1;
    else
      high = middle;
  }
  if (low == 0) return nullptr;
  Block* block = blocks_[low - 1];
  return exec_address < block->code_end ? block : nullptr;
}

}  // namespace rhea::dbt
