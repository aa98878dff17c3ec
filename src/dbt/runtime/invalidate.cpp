// SPDX-License-Identifier: Apache-2.0
// Linking of blocks, and dropping those whose guest bytes change.
//
// General registers only: runs with the guest's vector registers in place.
#include "dbt/inject_bug.h"
#include "dbt/runtime/code_space.h"
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

bool CodeSpace::bug([[maybe_unused]] int number) const {
#ifdef RHEA_INJECT_BUGS
  return inject_bug_ == number;
#else
  return false;
#endif
}

std::atomic<uint32_t>* CodeSpace::page_meta(uint64_t physical) const {
  for (const Ram& ram : ram_)
    if (physical - ram.start < ram.end - ram.start) return &ram.meta[(physical - ram.start) >> 12];
  return nullptr;
}

unsigned CodeSpace::find_jump_slot(uint32_t mode) const {
  const unsigned count = jump_mode_count_.load(std::memory_order_acquire);
  for (unsigned i = 0; i < count; ++i)
    if (jump_modes_[i].load(std::memory_order_relaxed) == mode) return i;
  return kJumpCacheSlots;
}

void CodeSpace::link(Link* link, Block* target) {
  RawLock lock(mutex_);
  if (link->to || !link->from->valid.load(std::memory_order_relaxed) || !target->valid.load(std::memory_order_relaxed))
    return;
  link->to = target;
  link->next_incoming = target->incoming;
  target->incoming = link;
  patch_rel32(*link, cache_.exec_delta(), target->direct_entry);
}

// Turns the block's entry into a jump to the dispatcher, for the jump caches of all vCPUs that still lead here.
void CodeSpace::close_entry(const Block& block) {
  // SAFETY: the entry is 16-byte aligned and starts with one instruction of seven bytes (BlockBuilder::emit_prologue),
  // so the aligned store of eight replaces whole instructions at once, whoever runs here.
  auto* const entry = reinterpret_cast<uint64_t*>(cache_.writable(block.indirect_entry));
  const auto displacement = static_cast<uint32_t>(thunks_.dispatch - (block.indirect_entry + 5));
  const uint64_t old = std::atomic_ref(*entry).load(std::memory_order_relaxed);
  std::atomic_ref(*entry).store((old & ~uint64_t{0xffffffffff}) | uint64_t{displacement} << 8 | 0xe9,
                                std::memory_order_release);
}

void CodeSpace::invalidate_block(Block* block) {
  ++blocks_invalidated_;
  block->valid.store(false, std::memory_order_relaxed);
  blocks_.remove(block);
  for (Link* incoming = block->incoming; incoming;) {
    Link* next = incoming->next_incoming;
    if (!bug(62)) patch_rel32(*incoming, cache_.exec_delta(), incoming->stub);
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
  if (!bug(63)) close_entry(*block);
}

// The page holds no translations any more. While a vCPU makes it a code page the bit stands: only as long as it does is
// nobody given a writable TLB entry, of which the writers' bits, cleared when that is done, would not tell.
void CodeSpace::clear_has_code(std::atomic<uint32_t>& meta) {
  uint32_t bits = meta.load(std::memory_order_relaxed);
  while (!(bits & memory::kPageRevoking) &&
         !meta.compare_exchange_weak(bits, bits & ~memory::kPageHasCode, std::memory_order_relaxed)) {
  }
}

bool CodeSpace::invalidate(uint64_t physical, uint64_t length) {
  bool dropped = false;
  const uint64_t end = physical + length;
  // The bytes are written; whoever translates them sees them, or this sees that there is code. (One vCPU: nobody else.)
  if (smp()) std::atomic_thread_fence(std::memory_order_seq_cst);
  for (uint64_t page = physical & ~uint64_t{0xfff}; page < end; page += memory::kPageSize) {
    auto* const meta = page_meta(page);
    if (!meta || !(meta->load(std::memory_order_relaxed) & memory::kPageHasCode)) continue;
    RawLock lock(mutex_);
    for (Block* block = blocks_.page_head(page); block;) {
      Block* next = BlockMap::next_on_page(block, page);
      if (block->overlaps(physical, end) && !(bug(64) && page == block->second_page)) {
        invalidate_block(block);
        dropped = true;
      }
      block = next;
    }
    if (!blocks_.page_head(page)) clear_has_code(*meta);
  }
  return dropped;
}

}  // namespace rhea::dbt
