// SPDX-License-Identifier: Apache-2.0
// The translations of one VM, shared by its vCPUs: code cache, blocks, links, and what keeps them true while several
// threads run, make and drop them.
//
// Three rules carry it:
//  - Blocks are made, linked and dropped under one lock, which is held for moments and never while waiting for a vCPU.
//    Finding and running them takes no lock: a dropped block is left by patching its entry and the jumps to it, and its
//    memory comes back only when the whole cache is flushed, which happens while no vCPU runs (Rendezvous).
//  - A page's bytes are translated only once no vCPU can write it unseen: kPageHasCode is set in its metadata, then
//    every vCPU that may hold a writable TLB entry for it gives that up (revoke), and only then are the bytes read.
//  - A store to such a page is made first and announced afterwards (invalidate): a translation made in between is
//    dropped, one made later has seen the new bytes. [SDM-3A 8.1.3]
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/error.h"
#include "dbt/runtime/block.h"
#include "dbt/runtime/code_cache.h"
#include "dbt/runtime/perf_map.h"
#include "dbt/runtime/raw_mutex.h"
#include "dbt/runtime/rendezvous.h"
#include "dbt/runtime/thunks.h"
#include "memory/guest_memory.h"

namespace rhea::dbt {

class Runtime;
class Translator;

struct RuntimeOptions {
  int opt_level = 1;               // 0: reference mode: one-instruction blocks, no linking, no jump caches
  bool instruction_clock = false;  // count instructions exactly; one vCPU only
  uint64_t code_cache_bytes = uint64_t{256} << 20;
  uint32_t tlb_index_mask = kTlbEntries - 1;  // tests: fewer usable TLB entries
  int inject_bug = 0;                         // test builds: seeds translator bug N
  std::string perf_map;                       // path of a perf map to write, empty for none
  unsigned vcpus = 1;                         // of the VM
  bool device_threads = false;                // threads of devices read and write guest RAM while the VM runs
};

class CodeSpace final : public memory::WriteObserver {
 public:
  // `memory` and `model` outlive it. `context`: of any vCPU (test builds: says which seeded bug is active).
  static Result<std::shared_ptr<CodeSpace>> create(memory::GuestMemory& memory, const cpu::CpuModel& model,
                                                   const RuntimeOptions& options, const Context& context);
  ~CodeSpace() override;

  const RuntimeOptions& options() const { return options_; }
  bool smp() const { return options_.vcpus > 1; }
  // Somebody sees the order in which a vCPU's accesses to RAM happen: LOCK and serialising instructions are fences.
  bool ordered() const { return smp() || options_.device_threads; }
  bool crowded() const { return crowded_; }  // more vCPUs than processors: who spins should yield
  CodeCache& cache() { return cache_; }
  const Thunks& thunks() const { return thunks_; }
  BlockMap& blocks() { return blocks_; }
  Arena& arena() { return arena_; }
  const HostIndex& by_host() const { return by_host_; }
  const Translator& translator() const { return *translator_; }
  RawMutex& mutex() { return mutex_; }
  Rendezvous& rendezvous() { return rendezvous_; }
  PerfMap* perf_map() { return perf_map_.get(); }

  void attach(Runtime& vcpu);  // ordinary code, before the vCPU runs
  void detach(Runtime& vcpu);

  // --- general registers only, any thread ---
  // The metadata word of a page of RAM, nullptr for anything else.
  std::atomic<uint32_t>* page_meta(uint64_t physical) const;
  // Drops translations of these bytes, which have just been written. True if there were any.
  bool invalidate(uint64_t physical, uint64_t length);
  void link(Link* link, Block* target);  // if both still stand
  uint32_t flush_generation() const { return flush_generation_.load(std::memory_order_relaxed); }
  // The jump cache slot of a mode word; kJumpCacheSlots if it has none.
  unsigned find_jump_slot(uint32_t mode) const;
  // As above, giving it one; with none left the cache will be flushed. Under the lock.
  uint16_t jump_slot(uint32_t mode);

  // --- ordinary code ---
  void register_block(Block* block);  // under the lock; host code is complete
  bool flush_wanted() const;          // by lack of room, or want_flush()
  void want_flush() { flush_wanted_.store(true, std::memory_order_relaxed); }
  void flush();  // in an exclusive section of the rendezvous
  // Makes sure that no vCPU but `self` (which holds nothing of the code cache) can write the page unseen, and that
  // stores to it are announced here from now on. May wait; what was found before must be found again.
  void prepare_page(Runtime& self, uint64_t page);
  // Under the lock; pages that are not RAM always are. `exclusive`: in an exclusive section of the asking vCPU's.
  bool prepared(uint64_t page, bool exclusive) const;

  // WriteObserver: any thread.
  void on_write(memory::GuestPhysAddr start, uint64_t length_bytes) override;

  uint64_t blocks_invalidated() const { return blocks_invalidated_; }
  uint64_t flushes() const { return flush_generation_.load(std::memory_order_relaxed); }

 private:
  CodeSpace(memory::GuestMemory& memory, const RuntimeOptions& options, CodeCache cache, HostIndex by_host);
  void name_thunks();
  void invalidate_block(Block* block);
  void close_entry(const Block& block);
  static void clear_has_code(std::atomic<uint32_t>& meta);
  bool bug(int number) const;

  memory::GuestMemory& memory_;
  RuntimeOptions options_;
  int inject_bug_ = 0;
  bool crowded_ = false;
  CodeCache cache_;
  HostIndex by_host_;
  Thunks thunks_;
  std::unique_ptr<Translator> translator_;
  std::unique_ptr<PerfMap> perf_map_;
  Rendezvous rendezvous_;

  struct Ram {
    uint64_t start = 0, end = 0;
    std::atomic<uint32_t>* meta = nullptr;
  };
  std::vector<Ram> ram_;  // constant

  RawMutex mutex_;
  BlockMap blocks_;
  Arena arena_;
  uint64_t blocks_invalidated_ = 0;
  std::array<std::atomic<uint32_t>, kJumpCacheSlots> jump_modes_{};
  std::atomic<unsigned> jump_mode_count_{0};
  std::atomic<bool> flush_wanted_{false};
  std::atomic<uint32_t> flush_generation_{0};

  std::mutex vcpus_mutex_;
  std::vector<Runtime*> vcpus_;
};

}  // namespace rhea::dbt
