// SPDX-License-Identifier: Apache-2.0
// One vCPU's side of the translator: dispatch, soft TLBs, jump caches, the slow paths of memory accesses. What the
// vCPUs of a VM share is in code_space.h.
//
// Threads: everything here runs on the vCPU's thread unless said otherwise. Functions of dispatch.cpp,
// memory_path.cpp, tlb.cpp and services.cpp are compiled for general registers only, because the guest's
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
#include "dbt/runtime/code_space.h"
#include "dbt/runtime/thunks.h"
#include "dbt/system/system.h"

namespace rhea::dbt {

class BlockBuilder;

struct Counters {
  uint64_t blocks_translated = 0, guest_bytes_translated = 0, host_bytes = 0;
  uint64_t links = 0, dispatches = 0, indirect_misses = 0, polls = 0;
  uint64_t tlb_misses = 0, tlb_flushes = 0, page_flushes = 0, mmio = 0, page_crossings = 0, code_page_stores = 0;
  uint64_t exclusive_steps = 0, revocations = 0, yields = 0, system_calls = 0, exceptions = 0, interrupts = 0,
           native_faults = 0, halts = 0;
};

// How long a guest may spin, in PAUSE instructions of some 140 cycles, before it gives others its processor.
inline constexpr uint32_t kPausesBeforeYield = 64;

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

class Runtime final : public io::ViewListener {
 public:
  // `context` is wired (memory, spaces, clock, model, lapic) and outlives the runtime. `index`: which of the VM's
  // vCPUs it is; all of them share `space`.
  static Result<std::unique_ptr<Runtime>> create(Context& context, std::shared_ptr<CodeSpace> space, unsigned index);
  // A VM of one vCPU.
  static Result<std::unique_ptr<Runtime>> create(Context& context, const RuntimeOptions& options);
  ~Runtime() override;

  // Runs until the context's exit_reason is set; returns it. On the vCPU thread.
  ExitReason run();

  const RuntimeOptions& options() const { return options_; }
  Counters& counters() { return counters_; }
  Context& context() { return context_; }
  CodeSpace& space() { return *space_; }
  CodeCache& cache() { return space_->cache(); }
  const Thunks& thunks() const { return thunks_; }
  Arena& arena() { return space_->arena(); }

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
  void undo_branch(uint32_t info);
  ThunkResult raise_at(uint32_t info, uint64_t return_address);
  Block* block_of_host(uint64_t exec_address) const { return space_->by_host().find(exec_address); }
  const HostPoint* point_of_host(const Block& block, uint64_t exec_address) const;
  void invalidate(uint64_t physical, uint64_t length);  // translations of these bytes, which have just been written
  // True if stores to the page need not be announced. Pages under a data breakpoint are looked at but not filled in.
  bool fill_data_tlb(uint64_t linear, const Translation& translation, std::byte* host, MmuIndex mmu, bool for_write);
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
  // nullptr if the first instruction crosses into a page that cannot be fetched now. May wait for other vCPUs: the
  // caller holds nothing of the code cache.
  Block* translate(uint64_t rip, uint64_t physical, uint32_t mode);
  // What device_code() hands out: code that lies outside RAM and ROM, read before translation. `part` 1: on the page
  // after the block's first.
  const uint8_t* device_code(unsigned part) const { return device_code_[part].bytes; }
  // Remembers a page that the block under translation also needs, and that must be prepared first.
  void need_page(uint64_t page) { needed_page_ = page; }
  void see_ranges();  // of the view, after state.in_smm may have changed; TLBs are flushed
  bool on_fault(int signo, void* info, void* ucontext);  // signal handler side; async-signal-safe

  void on_view_changed(const io::FlatView& view) override;  // any thread: taken up before the next instruction

  // --- among the vCPUs of the VM ---
  Rendezvous::Member& member() { return member_; }
  uint32_t writer_bit() const { return writer_bit_; }  // in the metadata of pages
  uint64_t post_revoke(std::byte* host_page);          // any thread: asks it to give up writing the page unseen
  bool revoked(uint64_t ticket) const {                // any thread: it has, or will before it runs
    return revokes_done_.load(std::memory_order_acquire) >= ticket || !member_.running.load(std::memory_order_seq_cst);
  }
  void wait_outside(const std::function<bool()>& done);  // not running; holds nothing of the code cache
  bool exclusive() const { return exclusive_; }
  void forget_jumps();  // any thread, while the vCPU does not run

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
  Runtime(Context& context, std::shared_ptr<CodeSpace> space, unsigned index);
  void begin_running();
  void take_requests();
  void load_view(const io::FlatView& view);
  void begin_exclusive_step();
  void end_exclusive_step();
  void flush_code_space();
  ThunkResult restart_exclusively(uint64_t return_address);
  ThunkResult restart_alone(uint64_t return_address);
  bool runs_alone() const;
  void settle_previous();
  void initialise();
  void start_up(uint8_t vector);
  bool is_local_apic(uint64_t physical) const { return ((physical & ~uint64_t{0xfff}) | 1) == context_.apic_page; }
  ThunkResult leave(ExitReason reason) {
    context_.exit_reason = reason;
    return {kActionResume, thunks_.exit};
  }
  bool handle_requests(ThunkResult& result);  // true: leave with `result`
  ThunkResult fault_at(const Exception& exception, uint64_t return_address);
  void settle_trap(isa::x86::RowId row);
  bool take_trap(ThunkResult& result);
  bool take_instruction_breakpoint(uint64_t linear, ThunkResult& result);
  bool at_breakpoint(uint64_t linear);
  Fallible<Block*> obtain_block(uint64_t rip, uint32_t word);
  ThunkResult refuse_access(const Exception& exception, uint64_t linear, uint32_t info, uint64_t return_address);
  void set_rip_from_host(uint64_t return_address);
  void correct_instruction_count(const Block& block, const HostPoint& point, unsigned executed);
  ThunkResult cross_page_access(uint64_t linear, uint32_t info, uint64_t return_address);
  // masked_access.cpp
  ThunkResult masked_access(uint64_t linear, uint32_t info, uint64_t return_address);
  void copy_selected(bool to_guest);
  bool selects_any(unsigned size) const;
  ThunkResult code_store(uint64_t physical, unsigned size, std::byte* host, uint64_t linear);
  ThunkResult device_access(uint64_t linear, uint64_t physical, unsigned size, uint32_t info);
  void settle_clock_at_access();
  void copy_piece(uint64_t physical, std::byte* data, unsigned size, bool to_guest);
  void deliver_pending_interrupt();
  Block* find_block(uint64_t rip, uint64_t physical, uint32_t mode);

  Context& context_;
  const std::shared_ptr<CodeSpace> space_;
  const RuntimeOptions options_;
  const Thunks thunks_;
  Counters counters_;
  uint64_t needed_page_ = kNoPage;
  struct DeviceCode {
    uint8_t bytes[16] = {};
  } device_code_[2];
  void read_device_code(unsigned part, uint64_t physical, unsigned size);
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

  // Of the view that this vCPU knows, outside and in SMM: one of them is Context::ranges.
  std::vector<io::Range> ranges_, smm_ranges_;
  uint64_t view_address_mask_ = ~uint64_t{0};
  // RAM and ROM of the same, flattened so that general-register-only code can search it.
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
    bool code_store = false;  // the access itself goes to a page with translated code: physical[0], size
    uint8_t size = 0;
    uint8_t first_size = 0;  // bytes in the first piece; the rest is in the second
    uint64_t physical[2] = {};
    uint64_t offset = 0;     // into context.bounce
    bool x87_store = false;  // an unmasked exception suppresses the store
    bool refused = false;    // ... and the fault `exception`, which it would meet otherwise
    bool masked = false;     // only the bytes of `bytes` are accessed
    uint64_t bytes = 0;
    Exception exception{};
    uint16_t fop = 0;  // x87 pointers before it
    uint64_t fip = 0, fdp = 0;
  } bounce_;

  // What other threads ask of this vCPU; done before it runs on.
  Rendezvous::Member member_;
  const uint32_t writer_bit_;
  std::mutex mailbox_mutex_;
  static constexpr size_t kMaxRevokes = 256;
  std::vector<std::byte*> revokes_;  // pages to give up writing unseen
  bool revoke_all_ = false;          // they have become too many: all pages (a vCPU may sleep for long)
  uint64_t revokes_posted_ = 0;
  std::atomic<uint64_t> revokes_done_{0};
  std::atomic<bool> view_changed_{false};
  bool alone_wanted_ = false;      // the next instruction is a block of its own
  bool in_ss_shadow_ = false;      // the instruction being run follows a MOV SS or POP SS
  bool exclusive_ = false;         // the instruction being run keeps all other vCPUs stopped
  bool exclusive_wanted_ = false;  // ... the next one does
  std::vector<uint64_t> breakpoints_;
  uint64_t skip_breakpoint_ = ~uint64_t{0};
  uint64_t access_return_ = 0;  // where the memory access being made will return to
  struct {
    uint64_t pc = 0;
    uint8_t vector = 0;
  } native_;
  friend class BlockBuilder;
};

}  // namespace rhea::dbt
