// SPDX-License-Identifier: Apache-2.0
// The translator's runtime: code cache, blocks, dispatch, soft TLBs, code invalidation.
//
// Threads: everything here runs on the vCPU's thread unless said otherwise. Functions of dispatch.cpp,
// memory_path.cpp, tlb.cpp and invalidate.cpp are compiled for general registers only, because the guest's
// vector registers stay in the host's while they run.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "dbt/context.h"
#include "dbt/mode.h"
#include "dbt/runtime/block.h"
#include "dbt/runtime/code_cache.h"
#include "dbt/runtime/perf_map.h"
#include "dbt/runtime/thunks.h"
#include "dbt/system/system.h"

namespace rhea::dbt {

class Translator;
class BlockBuilder;

struct RuntimeOptions {
  int opt_level = 1;               // 0: reference mode: one-instruction blocks, no linking, no jump caches
  bool instruction_clock = false;  // count instructions exactly
  uint64_t code_cache_bytes = uint64_t{256} << 20;
  uint32_t tlb_index_mask = kTlbEntries - 1;  // tests: fewer usable TLB entries
  int inject_bug = 0;                         // test builds: seeds translator bug N
  std::string perf_map;                       // path of a perf map to write, empty for none
};

struct Counters {
  uint64_t blocks_translated = 0, guest_bytes_translated = 0, host_bytes = 0, cache_flushes = 0;
  uint64_t links = 0, dispatches = 0, indirect_misses = 0, polls = 0;
  uint64_t tlb_misses = 0, tlb_flushes = 0, page_flushes = 0, mmio = 0, page_crossings = 0, code_page_stores = 0;
  uint64_t blocks_invalidated = 0, system_calls = 0, exceptions = 0, interrupts = 0, native_faults = 0, halts = 0;
};

// What a C++ function called from translated code wants done next; returned in RAX:RDX.
struct ThunkResult {
  uint64_t action;  // ThunkAction
  uint64_t value;
};
enum ThunkAction : uint64_t {
  kActionContinue = 0,  // return to the call site (memory path: try the access again)
  kActionProceed = 1,   // memory path: access through [r14 + value]
  kActionResume = 2,    // all registers from the context; jump to host address `value` with r14 = state.rip
};

// What may follow a store that went the slow way: leave the block if it was modified, or (the block ends
// with a jump anyway) go on.
enum class AfterStore : uint8_t { kMayLeave, kStay };

class Runtime final : public memory::WriteObserver, public io::ViewListener {
 public:
  // `context` is wired (memory, spaces, clock, model, lapic) and outlives the runtime.
  static Result<std::unique_ptr<Runtime>> create(Context& context, const RuntimeOptions& options);
  ~Runtime() override;

  // Runs until the context's exit_reason is set; returns it. On the vCPU thread.
  ExitReason run();

  const RuntimeOptions& options() const { return options_; }
  Counters& counters() { return counters_; }
  Context& context() { return context_; }
  CodeCache& cache() { return cache_; }
  const Thunks& thunks() const { return thunks_; }
  BlockMap& blocks() { return blocks_; }
  Arena& arena() { return arena_; }

  // --- general registers only ---
  ThunkResult dispatch();  // by state.rip and the current mode
  ThunkResult dispatch_link(Link* link);
  ThunkResult resume_with(const Exception& exception);  // delivers, then dispatches
  ThunkResult memory_access(uint64_t linear, uint32_t info, uint64_t return_address);
  ThunkResult memory_after(uint64_t return_address, AfterStore after);
  ThunkResult run_system(const InsnRecord* record, uint64_t return_address);
  ThunkResult check_segment(uint64_t offset, uint32_t info, uint64_t return_address);
  ThunkResult native_fault();
  ThunkResult dispatch_branch(uint64_t rip, uint32_t info);
  ThunkResult raise_at(uint32_t info, uint64_t return_address);
  Block* block_of_host(uint64_t exec_address) const;  // nullptr if none
  const HostPoint* point_of_host(const Block& block, uint64_t exec_address) const;
  void invalidate(uint64_t physical, uint64_t length);  // translations of these bytes
  void invalidate_block(Block* block);
  void link(Link* link, Block* target);
  void fill_data_tlb(uint64_t linear, const Translation& translation, std::byte* host, MmuIndex mmu, bool for_write);
  void flush_tlb(const FlushRequest& request);
  // Forgets writable data TLB entries of a page that now holds code.
  void revoke_write(std::byte* host_page);
  // Code TLB: guest-physical address of a fetch; fills the code TLB.
  Fallible<uint64_t> fetch_address(uint64_t linear);
  void set_code_base(uint64_t rip, uint64_t physical) { context_.code_base = rip - (physical & 0xfff); }
  // Where an IP lies linearly (CS base, 32-bit wrap).
  uint64_t linear_ip(uint64_t rip) const;
  // The page after the one that holds a linear address; wraps at 4 GiB outside 64-bit mode.
  uint64_t next_page(uint64_t linear) const;

  // --- vectors saved (ordinary code) ---
  Block* translate(uint64_t rip, uint64_t physical, uint32_t mode);
  void register_block(Block* block);
  void mark_code_page(uint64_t page);
  void flush_cache();                                    // only from outside the code cache or when resuming
  uint16_t jump_cache_slot(uint32_t mode);               // kJumpCacheSlots if none is left
  bool on_fault(int signo, void* info, void* ucontext);  // signal handler side; async-signal-safe

  void on_view_changed(const io::FlatView& view) override;  // vCPU thread, or while it is stopped

  // WriteObserver: any thread.
  void on_write(memory::GuestPhysAddr start, uint64_t length_bytes) override;
  // Any thread: makes the vCPU leave translated code soon.
  void request_exit() { std::atomic_ref(context_.exit_request).store(1, std::memory_order_release); }

  // Debugger and exact runs.
  // Tells the deterministic clock of all instructions before the current one, which `not_executed` of those already
  // counted down are not part of. General registers only.
  void settle_clock(int64_t not_executed);
  void set_breakpoints(std::vector<uint64_t> linear);
  bool is_breakpoint(uint64_t linear) const;
  bool has_breakpoints() const { return !breakpoints_.empty(); }
  bool stop_requested = false;  // atomic access
  bool debugger_step = false;
  bool exact_budget = false;  // instructions_left is a limit to stop at

  void latch_x87_pointers();  // general registers only; state.xsave holds the current x87 state
  std::string statistics() const;

 private:
  Runtime(Context& context, const RuntimeOptions& options, CodeCache cache);
  void name_thunks();
  ThunkResult leave(ExitReason reason) {
    context_.exit_reason = reason;
    return {kActionResume, thunks_.exit};
  }
  bool handle_requests(ThunkResult& result);  // true: leave with `result`
  ThunkResult fault_at(const Exception& exception, uint64_t return_address);
  void settle_trap(isa::x86::RowId row);
  bool take_trap(ThunkResult& result);
  bool at_breakpoint(uint64_t linear);
  Fallible<Block*> obtain_block(uint64_t rip, uint32_t word);
  ThunkResult refuse_access(const Exception& exception, uint64_t linear, uint32_t info, uint64_t return_address);
  void set_rip_from_host(uint64_t return_address);
  void correct_instruction_count(const Block& block, const HostPoint& point, unsigned executed);
  ThunkResult cross_page_access(uint64_t linear, uint32_t info, uint64_t return_address);
  ThunkResult device_access(uint64_t linear, uint64_t physical, unsigned size, uint32_t info);
  void settle_clock_at_access();
  void copy_piece(uint64_t physical, std::byte* data, unsigned size, bool to_guest);
  void deliver_pending_interrupt();
  Block* find_block(uint64_t rip, uint64_t physical, uint32_t mode);
  void drain_remote_writes();

  Context& context_;
  RuntimeOptions options_;
  CodeCache cache_;
  Thunks thunks_;
  BlockMap blocks_;
  Arena arena_;
  std::vector<Block*> by_host_;  // in order of code_start
  std::unique_ptr<Translator> translator_;
  std::unique_ptr<PerfMap> perf_map_;
  Counters counters_;
  bool cache_flush_wanted_ = false;
  bool x87_pointers_always_ = false;
  bool step_guest_ = false;  // the block being run is single-stepped by EFLAGS.TF

  // What the TLBs hold, so that forgetting costs what was filled: [0] non-global, [1] global.
  struct FillLog {
    uint32_t* entries = nullptr;
    uint32_t count = 0;
    bool overflow = false;
  };
  static constexpr uint32_t kFillLogCapacity = 1u << 17;
  FillLog data_log_[2], code_log_[2], jump_log_[2];
  std::unique_ptr<uint32_t[]> log_storage_;
  std::unique_ptr<uint8_t[]> code_global_;  // by code TLB index: the page is global
  void log_fill(FillLog& log, uint32_t entry);
  void clear_data_entry(uint32_t entry);
  void clear_code_entry(uint32_t index);
  void clear_jump_entry(uint32_t entry);
  void flush_data(unsigned global);
  void flush_code(unsigned global);
  void flush_jumps(unsigned global);
  void fill_jump_cache(uint64_t rip, uint32_t mode, Block* block);
  uint64_t large_2m_[64] = {}, large_1g_[64] = {};  // hashed bitmaps: regions with large-page entries
  uint32_t jump_modes_[kJumpCacheSlots];
  unsigned jump_mode_count_ = 0;

  // RAM and ROM of the current view, flattened so that general-register-only code can search it.
  struct RamPiece {
    uint64_t start = 0, end = 0;
    std::byte* host = nullptr;
    std::atomic<uint32_t>* meta = nullptr;  // of the piece's first page; nullptr for ROM
  };
  static constexpr unsigned kMaxRamPieces = 64;
  RamPiece ram_[kMaxRamPieces];
  unsigned ram_count_ = 0;
  const RamPiece* find_ram(uint64_t physical) const;

  // What check_segment() hands on for a store of the x87 that its segment refuses: an address no TLB entry holds.
  static constexpr uint64_t kRefusedLinear = uint64_t{1} << 62;
  Exception segment_refusal_{};

  // The pending bounce access (memory_access with action Proceed and something to write back).
  struct Bounce {
    bool active = false;
    uint8_t size = 0;
    uint8_t first_size = 0;  // bytes in the first piece; the rest is in the second
    uint64_t physical[2] = {};
    uint64_t offset = 0;     // into context.bounce
    bool x87_store = false;  // an unmasked exception suppresses the store
    bool refused = false;    // ... and the fault `exception`, which it would meet otherwise
    Exception exception{};
    uint16_t fop = 0;  // x87 pointers before it
    uint64_t fip = 0, fdp = 0;
  } bounce_;

  // Writes announced by other threads, applied before anything else happens on the vCPU.
  std::mutex remote_mutex_;
  static constexpr size_t kMaximumRemoteWrites = 1024;
  std::vector<std::pair<uint64_t, uint64_t>> remote_writes_;
  bool remote_writes_overflowed_ = false;  // too many to list: everything is dropped
  std::atomic<bool> remote_pending_{false};
  std::vector<uint64_t> breakpoints_;
  uint64_t skip_breakpoint_ = ~uint64_t{0};
  uint32_t flush_generation_ = 0;
  uint64_t access_return_ = 0;  // where the memory access being made will return to
  struct {
    uint64_t pc = 0;
    uint8_t vector = 0;
  } native_;
  friend class BlockBuilder;
};

}  // namespace rhea::dbt
