// SPDX-License-Identifier: Apache-2.0
// The runtime's ordinary side: set-up, translation, cache flushes, faults, statistics.
#include "dbt/runtime/runtime.h"

#include <signal.h>
#include <ucontext.h>

#include <fmt/format.h>

#include <algorithm>

#include "base/fault_dispatcher.h"
#include "cpu/cpu_model.h"
#include "cpu/lapic.h"
#include "dbt/inject_bug.h"
#include "dbt/runtime/entry_points.h"
#include "dbt/x86/translator.h"

namespace rhea::dbt {

Runtime::Runtime(Context& context, std::shared_ptr<CodeSpace> space, unsigned index)
    : context_(context),
      space_(std::move(space)),
      options_(space_->options()),
      thunks_(space_->thunks()),
      writer_bit_(uint32_t{1} << (memory::kPageWriterShift + index % memory::kPageWriterBits)) {
  member_.poke = [this] { request_exit(); };
}

Result<std::unique_ptr<Runtime>> Runtime::create(Context& context, const RuntimeOptions& options) {
#ifdef RHEA_INJECT_BUGS
  context.inject_bug = options.inject_bug ? options.inject_bug : injected_by_environment();
#endif
  return create(context, RHEA_TRY(CodeSpace::create(*context.memory, *context.cpu_model, options, context)), 0);
}

Result<std::unique_ptr<Runtime>> Runtime::create(Context& context, std::shared_ptr<CodeSpace> space, unsigned index) {
#ifdef RHEA_INJECT_BUGS
  context.inject_bug = space->options().inject_bug ? space->options().inject_bug : injected_by_environment();
#endif
  std::unique_ptr<Runtime> runtime(new Runtime(context, std::move(space), index));
  runtime->log_storage_.reset(new uint32_t[6 * size_t{kFillLogCapacity}]);
  runtime->code_global_.reset(new uint8_t[kTlbEntries]());
  uint32_t* storage = runtime->log_storage_.get();
  for (FillLog* log : {&runtime->data_log_[0], &runtime->data_log_[1], &runtime->code_log_[0], &runtime->code_log_[1],
                       &runtime->jump_log_[0], &runtime->jump_log_[1]}) {
    log->entries = storage;
    storage += kFillLogCapacity;
  }
  for (const uint32_t index_in_table : {0u, 0xffffu}) {
    for (uint32_t mmu = 0; mmu < kMmuModes; ++mmu) runtime->clear_data_entry(mmu << 16 | index_in_table);
    runtime->clear_code_entry(index_in_table);
    for (uint32_t slot = 0; slot < kJumpCacheSlots; ++slot) runtime->clear_jump_entry(slot << 16 | index_in_table);
  }
  context.runtime = runtime.get();
  runtime->x87_pointers_always_ = !((context.cpu_model->cpuid(7, 0).ebx >> 6) & 1);
  runtime->load_view(context.physical->view());
  refresh_local_apic(context);
  context.physical->add_listener(runtime.get());
  runtime->space_->attach(*runtime);
  return runtime;
}

Runtime::~Runtime() {
  context_.physical->remove_listener(this);
  context_.ranges = nullptr;
  space_->detach(*this);
}

namespace {

// Calls lost(start, length) for what was RAM or ROM and is not the same memory any more.
template <class Lost>
void for_each_lost(const std::vector<io::Range>& before, const std::vector<io::Range>& after, Lost lost) {
  for (const io::Range& old : before) {
    if (old.kind == io::RangeKind::kMmio) continue;
    uint64_t from = old.start;
    for (const io::Range& now : after) {
      if (now.kind == io::RangeKind::kMmio || now.end() <= from || now.start >= old.end()) continue;
      if (now.host - now.start != old.host - old.start) continue;
      if (now.start > from) lost(from, now.start - from);
      from = now.end();
    }
    if (from < old.end()) lost(from, old.end() - from);
  }
}

}  // namespace

void Runtime::load_view(const io::FlatView& view) {
  // Blocks are found by physical address: of what is other memory now, none may be found.
  const auto lost = [this](uint64_t start, uint64_t length) { space_->invalidate(start, length); };
  for_each_lost(ranges_, view.ranges(), lost);
  for_each_lost(smm_ranges_, view.smm_ranges(), lost);
  ranges_ = view.ranges();
  smm_ranges_ = view.smm_ranges();
  view_address_mask_ = view.address_mask();
  see_ranges();
}

// In SMM the A20 gate is open. [SDM-3C 32.6]
void Runtime::see_ranges() {
  const bool smm = context_.state.in_smm;
  const std::vector<io::Range>& ranges = smm ? smm_ranges_ : ranges_;
  context_.ranges = &ranges;
  context_.address_mask = smm ? ~uint64_t{0} : view_address_mask_;
  ram_count_ = 0;
  for (const io::Range& range : ranges) {
    if (range.kind == io::RangeKind::kMmio || ram_count_ == kMaxRamPieces) continue;
    RamPiece& piece = ram_[ram_count_++];
    piece = {.start = range.start, .end = range.end(), .host = range.host, .meta = nullptr};
    if (range.kind == io::RangeKind::kRam) piece.meta = &context_.memory->page_meta(memory::GuestPhysAddr{range.start});
  }
  flush_tlb({.kind = FlushRequest::Kind::kAll});
}

void Runtime::on_view_changed(const io::FlatView&) {
  view_changed_.store(true, std::memory_order_release);
  request_exit();
}

ExitReason Runtime::run() {
  context_.exit_reason = ExitReason::kNone;
  refresh_local_apic(context_);
  begin_running();
  thunks_.enter(&context_, thunks_.dispatch);
  if (exclusive_) end_exclusive_step();
  space_->rendezvous().leave(member_);
  return context_.exit_reason;
}

// ---- among the vCPUs ----

void Runtime::begin_running() {
  space_->rendezvous().enter(member_);
  take_requests();
}

// The dispatcher is between blocks here: nothing of the code cache or the TLBs is in use.
void Runtime::take_requests() {
  if (view_changed_.exchange(false, std::memory_order_acquire)) {
    const io::AddressSpace::ViewGuard view(*context_.physical);
    load_view(*view);
  }
  uint64_t posted;
  {
    std::lock_guard lock(mailbox_mutex_);
    if (revoke_all_) {
      flush_data(0);
      flush_data(1);
    }
    for (std::byte* page : revokes_) revoke_write(page);
    counters_.revocations += revokes_.size();
    revoke_all_ = false;
    revokes_.clear();
    posted = revokes_posted_;
  }
  if (revokes_done_.load(std::memory_order_relaxed) == posted) return;
  revokes_done_.store(posted, std::memory_order_release);
  space_->rendezvous().notify();
}

uint64_t Runtime::post_revoke(std::byte* host_page) {
  uint64_t ticket;
  {
    std::lock_guard lock(mailbox_mutex_);
    if (revoke_all_ || revokes_.size() == kMaxRevokes) {
      revoke_all_ = true;
      revokes_.clear();
    } else {
      revokes_.push_back(host_page);
    }
    ticket = ++revokes_posted_;
  }
  request_exit();
  std::atomic_thread_fence(std::memory_order_seq_cst);  // posted, before revoked() looks whether it runs
  return ticket;
}

void Runtime::wait_outside(const std::function<bool()>& done) {
  Rendezvous& rendezvous = space_->rendezvous();
  if (exclusive_) return rendezvous.wait(done);  // nobody runs: whatever was asked of them is as good as done
  rendezvous.leave(member_);
  rendezvous.wait(done);
  begin_running();
}

void Runtime::begin_exclusive_step() {
  space_->rendezvous().begin_exclusive(&member_);
  exclusive_ = true;
  exclusive_wanted_ = false;
  ++counters_.exclusive_steps;
  take_requests();
}

void Runtime::end_exclusive_step() {
  exclusive_ = false;
  space_->rendezvous().end_exclusive(&member_);
  take_requests();
}

void Runtime::flush_code_space() {
  if (exclusive_) return space_->flush();
  space_->rendezvous().begin_exclusive(&member_);
  if (space_->flush_wanted()) space_->flush();  // another vCPU may have done it
  space_->rendezvous().end_exclusive(&member_);
  take_requests();
}

void Runtime::forget_jumps() {
  flush_jumps(0);
  flush_jumps(1);
}

// Bytes of code that lies in a device: read before the code space is locked, because a device may do anything.
void Runtime::read_device_code(unsigned part, uint64_t physical, unsigned size) {
  DeviceCode& code = device_code_[part];
  if (find_ram(physical)) return;
  for (unsigned i = 0; i < size; ++i) code.bytes[i] = static_cast<uint8_t>(context_.physical->read(physical + i, 1));
}

Block* Runtime::translate(uint64_t rip, uint64_t physical, uint32_t word) {
  constexpr unsigned kMaximumLength = 15;
  const uint64_t page = physical & ~uint64_t{0xfff};
  const auto in_page = static_cast<unsigned>(std::min<uint64_t>(memory::kPageSize - (physical - page), kMaximumLength));
  for (uint64_t needed = kNoPage;;) {
    if (space_->flush_wanted()) flush_code_space();
    space_->prepare_page(*this, page);
    if (needed != kNoPage) space_->prepare_page(*this, needed);
    // No more waiting, which may have brought another view, from here on.
    read_device_code(0, physical, in_page);
    uint64_t second_page = kNoPage;
    if (in_page < kMaximumLength) {
      if (const auto second = fetch_address(next_page(linear_ip(rip)))) {
        second_page = *second & ~uint64_t{0xfff};
        read_device_code(1, second_page, kMaximumLength - in_page);
      }
    }
    RawLock lock(space_->mutex());
    if (!space_->prepared(page, exclusive_) || space_->flush_wanted()) continue;
    if (Block* const block = space_->blocks().find(physical, word, second_page)) return block;  // another vCPU's work
    needed_page_ = kNoPage;
    Block* const block = space_->translator().translate(*this, {rip, physical, second_page, word});
    if (!block && needed_page_ != kNoPage) {
      needed = needed_page_;
      continue;
    }
    if (!block) return nullptr;
    ++counters_.blocks_translated;
    counters_.guest_bytes_translated += block->guest_bytes;
    counters_.host_bytes += block->code_end - block->code_start;
    if (PerfMap* map = space_->perf_map())
      map->add_block(block->code_start, block->code_end - block->code_start, rip, word);
    return block;
  }
}

void Runtime::set_breakpoints(std::vector<uint64_t> linear) {
  breakpoints_ = std::move(linear);
  space_->rendezvous().begin_exclusive(nullptr);
  space_->flush();  // blocks may run past a new breakpoint
  space_->rendezvous().end_exclusive(nullptr);
}

bool Runtime::is_breakpoint(uint64_t linear) const {
  return std::find(breakpoints_.begin(), breakpoints_.end(), linear) != breakpoints_.end();
}

// Runs inside the signal handler: only plain stores, no locks, no allocation.
bool Runtime::on_fault(int, void*, void* ucontext_pointer) {
  auto* uc = static_cast<ucontext_t*>(ucontext_pointer);
  greg_t* regs = uc->uc_mcontext.gregs;
  const auto pc = static_cast<uint64_t>(regs[REG_RIP]);
  if (!space_->cache().contains_exec(pc) ||
      static_cast<uint64_t>(regs[REG_RSP]) != reinterpret_cast<uint64_t>(&context_))
    return false;
  switch (regs[REG_TRAPNO]) {
    case kDivideError:
    case kInvalidOpcode:
    case kGeneralProtection:
    case kX87Error:
    case kSimdError:
    case kAlignmentCheck: native_.vector = static_cast<uint8_t>(regs[REG_TRAPNO]); break;
    default: return false;
  }
  native_.pc = pc;
  static constexpr int kRegister[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                        REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  for (unsigned gpr = 0; gpr < 16; ++gpr)
    if (const uint8_t host = host_register(static_cast<uint8_t>(gpr)); host != kHNone)
      context_.state.gpr[gpr] = static_cast<uint64_t>(regs[kRegister[host]]);
  const auto flags = static_cast<uint64_t>(regs[REG_EFL]);
  context_.arith_flags =
      static_cast<uint32_t>(((flags & 0xd5) << 8) | (injected(context_, 66) ? 0 : (flags >> 11) & 1));
  regs[REG_RIP] = static_cast<greg_t>(thunks_.native_fault);
  return true;
}

std::string Runtime::statistics() const {
  const Counters& c = counters_;
  return fmt::format(
      "blocks translated    {}\nguest bytes          {}\nhost bytes           {}\ncode cache used      {}\ncache "
      "flushes        {}\n"
      "links made           {}\ndispatches           {}\nindirect misses      {}\npolls taken          {}\n"
      "tlb misses           {}\ntlb flushes          {}\npage flushes         {}\ndevice accesses      {}\npage "
      "crossings       {}\n"
      "stores to code pages {}\nblocks invalidated   {}\nexclusive steps      {}\nrevocations          {}\nyields      "
      "         {}\nsystem functions     {}\nexceptions           {}\ninterrupts  "
      "         {}\n"
      "native faults        {}\nhalts                {}\n",
      c.blocks_translated, c.guest_bytes_translated, c.host_bytes, space_->cache().used(), space_->flushes(), c.links,
      c.dispatches, c.indirect_misses, c.polls, c.tlb_misses, c.tlb_flushes, c.page_flushes, c.mmio, c.page_crossings,
      c.code_page_stores, space_->blocks_invalidated(), c.exclusive_steps, c.revocations, c.yields, c.system_calls,
      c.exceptions, c.interrupts, c.native_faults, c.halts);
}

}  // namespace rhea::dbt
