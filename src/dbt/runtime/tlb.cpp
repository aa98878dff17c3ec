// SPDX-License-Identifier: Apache-2.0
// The soft TLBs and jump caches: filling, looking up, forgetting.
//
// Every fill is logged, so that forgetting all non-global entries costs what was filled and not the size of
// the tables. Invariant: a jump cache entry exists only while its page is in the code TLB.
//
// General registers only: runs with the guest's vector registers in place.
#include "dbt/inject_bug.h"
#include "dbt/runtime/runtime.h"
#include "dbt/system/debug_registers.h"

namespace rhea::dbt {

namespace {
constexpr uint64_t kPageBits = ~uint64_t{0xfff};
uint32_t tlb_index(uint64_t linear) { return (linear >> 12) & (kTlbEntries - 1); }
void set_region_bit(uint64_t* bitmap, uint64_t region) {
  const uint64_t hash = (region * 0x9e3779b97f4a7c15) >> 52;  // 12 bits
  bitmap[hash >> 6] |= uint64_t{1} << (hash & 63);
}
bool region_bit(const uint64_t* bitmap, uint64_t region) {
  const uint64_t hash = (region * 0x9e3779b97f4a7c15) >> 52;
  return (bitmap[hash >> 6] >> (hash & 63)) & 1;
}
}  // namespace

void Runtime::log_fill(FillLog& log, uint32_t entry) {
  if (log.count < kFillLogCapacity)
    log.entries[log.count++] = entry;
  else
    log.overflow = true;
}

bool Runtime::fill_data_tlb(uint64_t linear, const Translation& translation, std::byte* host, MmuIndex mmu,
                            bool for_write) {
  Context& c = context_;
  const uint32_t index = tlb_index(linear);
  if ((index & ~options_.tlb_index_mask) != 0) {  // tests shrink the TLB: use other entries once only
    flush_data(0);
    flush_data(1);
  }
  DataTlb& tlb = c.data_tlb[static_cast<unsigned>(mmu)];
  const uint64_t page = linear & kPageBits;
  std::byte* host_page = host - (linear & 0xfff);
  const RamPiece* piece = find_ram(translation.physical);
  bool writable = (for_write || translation.writable || injected(c, 56)) && piece && piece->meta;
  if (writable) {
    constexpr uint32_t kSeen = memory::kPageHasCode | memory::kPageDirtyTracked;
    auto& meta = piece->meta[(translation.physical >> 12) - (piece->start >> 12)];
    uint32_t bits = meta.load(std::memory_order_relaxed);
    // From when the bit is set, whoever turns the page into code asks this vCPU; from before, this sees that it did.
    if (space_->smp() && !(bits & (kSeen | writer_bit_))) bits = meta.fetch_or(writer_bit_, std::memory_order_seq_cst);
    writable = (bits & kSeen) == 0;
  }
  const bool watched = data_page_watched(c, linear, false), write_watched = data_page_watched(c, linear, true);
  tlb.read_tag[index] = !watched ? uint64_t{0} - page : invalid_tag(index);
  tlb.write_tag[index] = writable && !write_watched ? uint64_t{0} - page : invalid_tag(index);
  tlb.addend[index] = reinterpret_cast<uint64_t>(host_page) - page;
  if (translation.page_size > 4096) {
    if (translation.page_size > (uint64_t{4} << 20))
      set_region_bit(large_1g_, linear >> 30);
    else
      set_region_bit(large_2m_, linear >> 22);
  }
  log_fill(data_log_[translation.global || injected(c, 60)], static_cast<uint32_t>(mmu) << 16 | index);
  return writable;
}

void Runtime::clear_data_entry(uint32_t entry) {
  DataTlb& tlb = context_.data_tlb[entry >> 16];
  const uint32_t index = entry & 0xffff;
  tlb.read_tag[index] = tlb.write_tag[index] = invalid_tag(index);
}

void Runtime::clear_code_entry(uint32_t index) { context_.code_tlb.tag[index] = invalid_tag(index); }

void Runtime::clear_jump_entry(uint32_t entry) {
  JumpCache& cache = context_.jump_cache[entry >> 16];
  const uint32_t index = entry & 0xffff;
  cache.tag[index] = invalid_tag(index);
  cache.target[index] = thunks_.dispatch;
}

void Runtime::flush_data(unsigned global) {
  FillLog& log = data_log_[global];
  if (log.overflow) {
    for (uint32_t mmu = 0; mmu < kMmuModes; ++mmu)
      for (uint32_t i = 0; i < kTlbEntries; ++i) clear_data_entry(mmu << 16 | i);
  } else {
    for (uint32_t i = 0; i < log.count; ++i) clear_data_entry(log.entries[i]);
  }
  log.count = 0;
  log.overflow = false;
}

void Runtime::flush_code(unsigned global) {
  FillLog& log = code_log_[global];
  if (log.overflow) {
    for (uint32_t i = 0; i < kTlbEntries; ++i) clear_code_entry(i);
  } else {
    for (uint32_t i = 0; i < log.count; ++i) clear_code_entry(log.entries[i]);
  }
  log.count = 0;
  log.overflow = false;
}

void Runtime::flush_jumps(unsigned global) {
  FillLog& log = jump_log_[global];
  if (log.overflow) {
    for (uint32_t slot = 0; slot < kJumpCacheSlots; ++slot)
      for (uint32_t i = 0; i < kJumpCacheEntries; ++i) clear_jump_entry(slot << 16 | i);
  } else {
    for (uint32_t i = 0; i < log.count; ++i) clear_jump_entry(log.entries[i]);
  }
  log.count = 0;
  log.overflow = false;
}

void Runtime::flush_tlb(const FlushRequest& request) {
  switch (request.kind) {
    case FlushRequest::Kind::kAll:
      ++counters_.tlb_flushes;
      flush_data(1);
      flush_code(1);
      flush_jumps(1);
      for (auto& word : large_2m_) word = 0;
      for (auto& word : large_1g_) word = 0;
      [[fallthrough]];
    case FlushRequest::Kind::kNonGlobal:
      if (request.kind == FlushRequest::Kind::kNonGlobal) ++counters_.tlb_flushes;
      flush_data(0);
      if (!injected(context_, 59)) flush_code(0);
      flush_jumps(0);
      break;
    case FlushRequest::Kind::kPage: {
      ++counters_.page_flushes;
      const uint64_t linear = request.linear;
      if ((region_bit(large_2m_, linear >> 22) || region_bit(large_1g_, linear >> 30)) && !injected(context_, 58)) {
        flush_tlb({.kind = FlushRequest::Kind::kAll});
        break;
      }
      const uint32_t index = tlb_index(linear);
      const uint64_t tag = uint64_t{0} - (linear & kPageBits);
      for (uint32_t mmu = 0; mmu < kMmuModes; ++mmu)
        if (context_.data_tlb[mmu].read_tag[index] == tag && !injected(context_, 57))
          clear_data_entry(mmu << 16 | index);
      if (context_.code_tlb.tag[index] == tag || context_.code_tlb.tag[index] == tag - 1) {
        clear_code_entry(index);
        flush_jumps(0);
        flush_jumps(1);
      }
      break;
    }
  }
}

void Runtime::revoke_write(std::byte* host_page) {
  for (const FillLog& log : data_log_) {
    if (log.overflow) {
      flush_data(0);
      flush_data(1);
      return;
    }
    for (uint32_t i = 0; i < log.count; ++i) {
      const uint32_t entry = log.entries[i], index = entry & 0xffff;
      DataTlb& tlb = context_.data_tlb[entry >> 16];
      if (tlb.addend[index] - tlb.write_tag[index] == reinterpret_cast<uint64_t>(host_page))
        tlb.write_tag[index] = invalid_tag(index);
    }
  }
}

Fallible<uint64_t> Runtime::fetch_address(uint64_t linear) {
  Context& c = context_;
  const bool user = c.state.cpl() == 3;
  const uint32_t index = tlb_index(linear);
  const uint64_t tag = uint64_t{0} - (linear & kPageBits) - (user && !injected(c, 61));
  if (c.code_tlb.tag[index] == tag) return (uint64_t{0} - c.code_tlb.page[index]) | (linear & 0xfff);
  const auto translation = dbt::translate(c, linear, Access::kExecute, user ? MmuIndex::kUser : MmuIndex::kSupervisor);
  if (!translation) return std::unexpected(translation.error());
  if (c.code_tlb.tag[index] != invalid_tag(index)) {  // jump cache entries of the page pushed out must go
    flush_jumps(0);
    flush_jumps(1);
  }
  c.code_tlb.tag[index] = tag;
  c.code_tlb.page[index] = uint64_t{0} - (translation->physical & kPageBits);
  if (translation->page_size > 4096) {
    if (translation->page_size > (uint64_t{4} << 20))
      set_region_bit(large_1g_, linear >> 30);
    else
      set_region_bit(large_2m_, linear >> 22);
  }
  code_global_[index] = translation->global;
  log_fill(code_log_[translation->global], index);
  return translation->physical;
}

void Runtime::fill_jump_cache(uint64_t rip, uint32_t word, Block* block) {
  const unsigned slot = space_->find_jump_slot(word);
  if (slot == kJumpCacheSlots || !(word & mode::kFlat)) return;  // flat: RIP is linear
  // Translation may have waited for other vCPUs, and the TLBs may have been flushed meanwhile.
  const bool user = (word & mode::kCplUser) && !injected(context_, 61);
  if (context_.code_tlb.tag[tlb_index(rip)] != uint64_t{0} - (rip & kPageBits) - user) return;
  JumpCache& cache = context_.jump_cache[slot];
  const auto index = static_cast<uint32_t>(rip & (kJumpCacheEntries - 1));
  cache.tag[index] = uint64_t{0} - rip;
  cache.target[index] = block->indirect_entry;
  log_fill(jump_log_[code_global_[tlb_index(rip)]], slot << 16 | index);
}

}  // namespace rhea::dbt
