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

namespace {
constexpr uint64_t kMinimumCacheBytes = uint64_t{1} << 20;
constexpr uint64_t kMaximumCacheBytes = uint64_t{1}
                                        << 30;  // blocks and thunks reach each other with 32-bit displacements
// A block never needs more than this: checked after every block.
constexpr uint64_t kBlockRoomBytes = uint64_t{128} << 10;
}  // namespace

Runtime::Runtime(Context& context, const RuntimeOptions& options, CodeCache cache)
    : context_(context), options_(options), cache_(std::move(cache)) {}

Result<std::unique_ptr<Runtime>> Runtime::create(Context& context, const RuntimeOptions& options) {
  if (options.code_cache_bytes < kMinimumCacheBytes || options.code_cache_bytes > kMaximumCacheBytes)
    return fail(ErrorCode::kInvalidArgument, "the code cache takes from 1 MiB to 1 GiB");
  if (!__builtin_cpu_supports("bmi2") || !__builtin_cpu_supports("avx2"))
    return fail(ErrorCode::kUnsupported, "the dbt engine needs a host processor with AVX2 and BMI2 (x86-64-v3)");
  CodeCache cache = RHEA_TRY(CodeCache::create(options.code_cache_bytes));
  std::unique_ptr<Runtime> runtime(new Runtime(context, options, std::move(cache)));
#ifdef RHEA_INJECT_BUGS
  context.inject_bug = options.inject_bug ? options.inject_bug : injected_by_environment();
#endif
  Emitter emitter(runtime->cache_.position(), runtime->cache_.exec_delta());
  runtime->thunks_ = emit_thunks(emitter, context);
  runtime->cache_.commit(emitter.position());
  runtime->cache_.set_reset_point();
  if (!options.perf_map.empty()) {
    runtime->perf_map_ = RHEA_TRY(PerfMap::create(options.perf_map));
    runtime->name_thunks();
  }
  runtime->log_storage_.reset(new uint32_t[6 * size_t{kFillLogCapacity}]);
  runtime->code_global_.reset(new uint8_t[kTlbEntries]());
  uint32_t* storage = runtime->log_storage_.get();
  for (FillLog* log : {&runtime->data_log_[0], &runtime->data_log_[1], &runtime->code_log_[0], &runtime->code_log_[1],
                       &runtime->jump_log_[0], &runtime->jump_log_[1]}) {
    log->entries = storage;
    storage += kFillLogCapacity;
  }
  for (const uint32_t index : {0u, 0xffffu}) {
    for (uint32_t mmu = 0; mmu < kMmuModes; ++mmu) runtime->clear_data_entry(mmu << 16 | index);
    runtime->clear_code_entry(index);
    for (uint32_t slot = 0; slot < kJumpCacheSlots; ++slot) runtime->clear_jump_entry(slot << 16 | index);
  }
  context.runtime = runtime.get();
  runtime->x87_pointers_always_ = !((context.cpu_model->cpuid(7, 0).ebx >> 6) & 1);
  runtime->translator_ = std::make_unique<Translator>(*runtime);
  runtime->on_view_changed(context.physical->view());
  context.physical->add_listener(runtime.get());
  context.memory->add_observer(runtime.get());
  return runtime;
}

// The thunks follow one another from the start of the code cache.
void Runtime::name_thunks() {
  std::vector<std::pair<uint64_t, std::string_view>> starts = {
      {reinterpret_cast<uint64_t>(thunks_.enter), "rhea_enter"},
      {thunks_.exit, "rhea_exit"},
      {thunks_.dispatch, "rhea_dispatch"},
      {thunks_.branch, "rhea_branch"},
      {thunks_.link, "rhea_link"},
      {thunks_.memory, "rhea_memory"},
      {thunks_.memory_after, "rhea_memory_after"},
      {thunks_.system, "rhea_system"},
      {thunks_.segment, "rhea_segment"},
      {thunks_.raise, "rhea_raise"},
      {thunks_.budget, "rhea_budget"},
      {thunks_.native_fault, "rhea_native_fault"}};
  std::ranges::sort(starts);
  const uint64_t end = cache_.exec_base() + cache_.used();
  for (size_t i = 0; i < starts.size(); ++i)
    perf_map_->add(starts[i].first, (i + 1 < starts.size() ? starts[i + 1].first : end) - starts[i].first,
                   starts[i].second);
}

Runtime::~Runtime() {
  context_.physical->remove_listener(this);
  context_.memory->remove_observer(this);
}

void Runtime::on_view_changed(const io::FlatView& view) {
  ram_count_ = 0;
  for (const io::Range& range : view.ranges()) {
    if (range.kind == io::RangeKind::kMmio || ram_count_ == kMaxRamPieces) continue;
    RamPiece& piece = ram_[ram_count_++];
    piece = {.start = range.start, .end = range.end(), .host = range.host, .meta = nullptr};
    if (range.kind == io::RangeKind::kRam) piece.meta = &context_.memory->page_meta(memory::GuestPhysAddr{range.start});
  }
  flush_tlb({.kind = FlushRequest::Kind::kAll});
}

ExitReason Runtime::run() {
  context_.exit_reason = ExitReason::kNone;
  thunks_.enter(&context_, thunks_.dispatch);
  return context_.exit_reason;
}

uint16_t Runtime::jump_cache_slot(uint32_t word) {
  for (unsigned i = 0; i < jump_mode_count_; ++i)
    if (jump_modes_[i] == word) return static_cast<uint16_t>(i);
  if (jump_mode_count_ == kJumpCacheSlots) {
    cache_flush_wanted_ = true;  // modes of long ago, the kernel's start for one, hold slots that nobody uses
    return kJumpCacheSlots;
  }
  jump_modes_[jump_mode_count_] = word;
  return static_cast<uint16_t>(jump_mode_count_++);
}

void Runtime::mark_code_page(uint64_t page) {
  const RamPiece* piece = find_ram(page);
  if (!piece || !piece->meta) return;
  auto& meta = piece->meta[(page - piece->start) >> 12];
  if (meta.fetch_or(memory::kPageHasCode) & memory::kPageHasCode) return;
  if (!injected(context_, 65)) revoke_write(piece->host + (page - piece->start));
}

Block* Runtime::translate(uint64_t rip, uint64_t physical, uint32_t word) {
  // The tables of very small blocks may outgrow their code.
  if (cache_.room() < kBlockRoomBytes || arena_.bytes() > options_.code_cache_bytes || cache_flush_wanted_)
    flush_cache();
  Block* const block = translator_->translate(rip, physical, word);
  if (perf_map_ && block) perf_map_->add_block(block->code_start, block->code_end - block->code_start, rip, word);
  return block;
}

void Runtime::register_block(Block* block) {
  ++counters_.blocks_translated;
  counters_.guest_bytes_translated += block->guest_bytes;
  counters_.host_bytes += block->code_end - block->code_start;
  by_host_.push_back(block);
  if (block->valid) blocks_.insert(block);
}

void Runtime::flush_cache() {
  ++counters_.cache_flushes;
  ++flush_generation_;
  for (const Block* block : by_host_) {
    for (const uint64_t page : {block->physical & ~uint64_t{0xfff}, block->second_page}) {
      const RamPiece* piece = page == kNoPage ? nullptr : find_ram(page);
      if (piece && piece->meta) piece->meta[(page - piece->start) >> 12].fetch_and(~memory::kPageHasCode);
    }
  }
  blocks_.clear();
  by_host_.clear();
  arena_.reset();
  cache_.reset();
  flush_jumps(0);
  flush_jumps(1);
  jump_mode_count_ = 0;
  cache_flush_wanted_ = false;
}

void Runtime::on_write(memory::GuestPhysAddr start, uint64_t length_bytes) {
  std::lock_guard lock(remote_mutex_);
  if (!remote_writes_.empty() && remote_writes_.back().first + remote_writes_.back().second == start.value) {
    remote_writes_.back().second += length_bytes;
  } else if (remote_writes_.size() < kMaximumRemoteWrites) {
    remote_writes_.emplace_back(start.value, length_bytes);
  } else {
    remote_writes_overflowed_ = true;
  }
  remote_pending_.store(true, std::memory_order_release);
  request_exit();
}

void Runtime::drain_remote_writes() {
  std::vector<std::pair<uint64_t, uint64_t>> writes;
  {
    std::lock_guard lock(remote_mutex_);
    writes.swap(remote_writes_);
    cache_flush_wanted_ |= std::exchange(remote_writes_overflowed_, false);
    remote_pending_.store(false, std::memory_order_release);
  }
  if (cache_flush_wanted_) flush_cache();  // the dispatcher is between blocks here
  for (const auto& [start, length] : writes) invalidate(start, length);
}

void Runtime::set_breakpoints(std::vector<uint64_t> linear) {
  breakpoints_ = std::move(linear);
  cache_flush_wanted_ = true;  // blocks may run past a new breakpoint
  flush_cache();
}

bool Runtime::is_breakpoint(uint64_t linear) const {
  return std::find(breakpoints_.begin(), breakpoints_.end(), linear) != breakpoints_.end();
}

// Runs inside the signal handler: only plain stores, no locks, no allocation.
bool Runtime::on_fault(int, void*, void* ucontext_pointer) {
  auto* uc = static_cast<ucontext_t*>(ucontext_pointer);
  greg_t* regs = uc->uc_mcontext.gregs;
  const auto pc = static_cast<uint64_t>(regs[REG_RIP]);
  if (!cache_.contains_exec(pc) || static_cast<uint64_t>(regs[REG_RSP]) != reinterpret_cast<uint64_t>(&context_))
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
      "stores to code pages {}\nblocks invalidated   {}\nsystem functions     {}\nexceptions           {}\ninterrupts  "
      "         {}\n"
      "native faults        {}\nhalts                {}\n",
      c.blocks_translated, c.guest_bytes_translated, c.host_bytes, cache_.used(), c.cache_flushes, c.links,
      c.dispatches, c.indirect_misses, c.polls, c.tlb_misses, c.tlb_flushes, c.page_flushes, c.mmio, c.page_crossings,
      c.code_page_stores, c.blocks_invalidated, c.system_calls, c.exceptions, c.interrupts, c.native_faults, c.halts);
}

}  // namespace rhea::dbt
