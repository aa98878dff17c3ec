// SPDX-License-Identifier: Apache-2.0
// Linking of blocks, and dropping those whose guest bytes change.
//
// General registers only: runs with the guest's vector registers in place.
#include "dbt/inject_bug.h"
#include "dbt/runtime/runtime.h"

namespace rhea::dbt {

namespace {
void patch_rel32(Link& link, ptrdiff_t exec_delta, uint64_t target) {
  // SAFETY: a link site is a 4-byte aligned displacement, so the store is atomic for a fetching processor.
  const uint64_t site = reinterpret_cast<uint64_t>(link.site) + static_cast<uint64_t>(exec_delta);
  std::atomic_ref(*reinterpret_cast<uint32_t*>(link.site))
      .store(static_cast<uint32_t>(target - (site + 4)), std::memory_order_release);
}
}  // namespace

void Runtime::link(Link* link, Block* target) {
  ++counters_.links;
  link->to = target;
  link->next_incoming = target->incoming;
  target->incoming = link;
  patch_rel32(*link, cache_.exec_delta(), target->direct_entry);
}

void Runtime::invalidate_block(Block* block) {
  ++counters_.blocks_invalidated;
  block->valid = false;
  context_.code_invalidated = 1;
  blocks_.remove(block);
  for (Link* incoming = block->incoming; incoming;) {
    Link* next = incoming->next_incoming;
    if (!injected(context_, 62)) patch_rel32(*incoming, cache_.exec_delta(), incoming->stub);
    incoming->to = nullptr;
    incoming->next_incoming = nullptr;
    incoming = next;
  }
  block->incoming = nullptr;
  for (unsigned i = 0; i < block->link_count; ++i) {
    Link& own = block->links[i];
    if (!own.to) continue;
    for (Link** at = &own.to->incoming; *at; at = &(*at)->next_incoming)
      if (*at == &own) {
        *at = own.next_incoming;
        break;
      }
    patch_rel32(own, cache_.exec_delta(), own.stub);
    own.to = nullptr;
  }
  // The block's page offset fixes 12 of the jump cache's 16 index bits.
  for (uint32_t slot = 0; slot < jump_mode_count_; ++slot)
    for (uint32_t high = 0; high < kJumpCacheEntries; high += 4096) {
      const auto index = high | static_cast<uint32_t>(block->physical & 0xfff);
      if (context_.jump_cache[slot].target[index] == block->indirect_entry && !injected(context_, 63))
        clear_jump_entry(slot << 16 | index);
    }
}

void Runtime::invalidate(uint64_t physical, uint64_t length) {
  const uint64_t end = physical + length;
  for (uint64_t page = physical & ~uint64_t{0xfff}; page < end; page += memory::kPageSize) {
    const RamPiece* piece = find_ram(page);
    if (!piece || !piece->meta) continue;
    auto& meta = piece->meta[(page - piece->start) >> 12];
    if (!(meta.load(std::memory_order_relaxed) & memory::kPageHasCode)) continue;
    for (Block* block = blocks_.page_head(page); block;) {
      Block* next = BlockMap::next_on_page(block, page);
      if (block->overlaps(physical, end) && !(injected(context_, 64) && page == block->second_page))
        invalidate_block(block);
      block = next;
    }
    if (!blocks_.page_head(page)) meta.fetch_and(~memory::kPageHasCode, std::memory_order_relaxed);
  }
}

}  // namespace rhea::dbt
