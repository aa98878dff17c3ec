// SPDX-License-Identifier: Apache-2.0
// The code space's ordinary side: set-up, flushes, pages that become code, writes by devices.
#include "dbt/runtime/code_space.h"

#include <sched.h>

#include <algorithm>

#include "dbt/inject_bug.h"
#include "dbt/runtime/runtime.h"
#include "dbt/x86/translator.h"

namespace rhea::dbt {

namespace {

constexpr uint64_t kMinimumCacheBytes = uint64_t{1} << 20;
// Blocks and thunks reach each other with 32-bit displacements.
constexpr uint64_t kMaximumCacheBytes = uint64_t{1} << 30;
// A block never needs more than this: checked before every block.
constexpr uint64_t kBlockRoomBytes = uint64_t{128} << 10;

unsigned usable_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return static_cast<unsigned>(std::max(1, CPU_COUNT(&set)));
}

}  // namespace

CodeSpace::CodeSpace(memory::GuestMemory& memory, const RuntimeOptions& options, CodeCache cache, HostIndex by_host)
    : memory_(memory), options_(options), cache_(std::move(cache)), by_host_(std::move(by_host)) {
  for (const memory::RamRegion& region : memory.regions())
    ram_.push_back({.start = region.start.value,
                    .end = region.start.value + region.size_bytes,
                    .meta = &memory.page_meta(region.start)});
  crowded_ = options.vcpus > usable_processors();
}

Result<std::shared_ptr<CodeSpace>> CodeSpace::create(memory::GuestMemory& memory, const cpu::CpuModel& model,
                                                     const RuntimeOptions& options, const Context& context) {
  if (options.code_cache_bytes < kMinimumCacheBytes || options.code_cache_bytes > kMaximumCacheBytes)
    return fail(ErrorCode::kInvalidArgument, "the code cache takes from 1 MiB to 1 GiB");
  if (options.instruction_clock && options.vcpus > 1)
    return fail(ErrorCode::kInvalidArgument, "the deterministic clock counts the instructions of one vCPU only");
  if (!__builtin_cpu_supports("bmi2") || !__builtin_cpu_supports("avx2"))
    return fail(ErrorCode::kUnsupported, "the dbt engine needs a host processor with AVX2 and BMI2 (x86-64-v3)");
  CodeCache cache = RHEA_TRY(CodeCache::create(options.code_cache_bytes));
  HostIndex by_host = RHEA_TRY(HostIndex::create(options.code_cache_bytes));
  std::shared_ptr<CodeSpace> space(new CodeSpace(memory, options, std::move(cache), std::move(by_host)));
#ifdef RHEA_INJECT_BUGS
  space->inject_bug_ = context.inject_bug;
#endif
  Emitter emitter(space->cache_.position(), space->cache_.exec_delta());
  space->thunks_ = emit_thunks(emitter, context);
  space->cache_.commit(emitter.position());
  space->cache_.set_reset_point();
  space->translator_ = std::make_unique<Translator>(model);
  if (!options.perf_map.empty()) {
    space->perf_map_ = RHEA_TRY(PerfMap::create(options.perf_map));
    space->name_thunks();
  }
  memory.add_observer(space.get());
  return space;
}

CodeSpace::~CodeSpace() { memory_.remove_observer(this); }

// The thunks follow one another from the start of the code cache.
void CodeSpace::name_thunks() {
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

void CodeSpace::attach(Runtime& vcpu) {
  rendezvous_.add(vcpu.member());
  std::lock_guard lock(vcpus_mutex_);
  vcpus_.push_back(&vcpu);
}

void CodeSpace::detach(Runtime& vcpu) {
  rendezvous_.remove(vcpu.member());
  std::lock_guard lock(vcpus_mutex_);
  std::erase(vcpus_, &vcpu);
}

void CodeSpace::register_block(Block* block) {
  by_host_.append(block);
  if (block->valid.load(std::memory_order_relaxed)) blocks_.insert(block);
}

bool CodeSpace::flush_wanted() const {
  // The tables of very small blocks may outgrow their code.
  return cache_.room() < kBlockRoomBytes || by_host_.full() || arena_.bytes() > options_.code_cache_bytes ||
         flush_wanted_.load(std::memory_order_relaxed);
}

void CodeSpace::flush() {
  RawLock lock(mutex_);
  flush_generation_.fetch_add(1, std::memory_order_relaxed);
  for (size_t i = 0; i < by_host_.size(); ++i) {
    const Block* block = by_host_.at(i);
    for (const uint64_t page : {block->physical & ~uint64_t{0xfff}, block->second_page})
      if (auto* meta = page == kNoPage ? nullptr : page_meta(page)) clear_has_code(*meta);
  }
  blocks_.clear();
  by_host_.clear();
  arena_.reset();
  cache_.reset();
  {
    std::lock_guard vcpus_lock(vcpus_mutex_);
    for (Runtime* vcpu : vcpus_) vcpu->forget_jumps();
  }
  jump_mode_count_.store(0, std::memory_order_relaxed);
  flush_wanted_.store(false, std::memory_order_relaxed);
}

uint16_t CodeSpace::jump_slot(uint32_t mode) {
  const unsigned slot = find_jump_slot(mode);
  if (slot != kJumpCacheSlots) return static_cast<uint16_t>(slot);
  const unsigned count = jump_mode_count_.load(std::memory_order_relaxed);
  if (count == kJumpCacheSlots) {
    want_flush();  // modes of long ago, the kernel's start for one, hold slots that nobody uses
    return kJumpCacheSlots;
  }
  jump_modes_[count].store(mode, std::memory_order_relaxed);
  jump_mode_count_.store(count + 1, std::memory_order_release);
  return static_cast<uint16_t>(count);
}

// A page that another vCPU is at is as good as prepared where nobody else runs: who was asked to give it up, and all of
// them were, does so before running on. (Nor could that vCPU be waited for: it waits for the end of the section.)
bool CodeSpace::prepared(uint64_t page, bool exclusive) const {
  const auto* meta = page_meta(page);
  if (!meta) return true;
  const uint32_t bits = meta->load(std::memory_order_acquire);
  return (bits & memory::kPageHasCode) && (exclusive || !(bits & memory::kPageRevoking));
}

void CodeSpace::prepare_page(Runtime& self, uint64_t page) {
  auto* const meta = page_meta(page);
  if (!meta) return;
  constexpr uint32_t kBoth = memory::kPageHasCode | memory::kPageRevoking;
  if (prepared(page, self.exclusive())) return;
  std::byte* const host = memory_.host_pointer({page}, memory::kPageSize);
  if (!smp()) {
    meta->fetch_or(memory::kPageHasCode);
    if (!bug(65)) self.revoke_write(host);
    return;
  }
  const uint32_t before = meta->fetch_or(kBoth);
  if (before & memory::kPageRevoking) {  // another vCPU is at it
    self.wait_outside([meta] { return !(meta->load(std::memory_order_acquire) & memory::kPageRevoking); });
    return;
  }
  if (before & memory::kPageHasCode) {  // ... and has just finished
    meta->fetch_and(~memory::kPageRevoking);
    rendezvous_.notify();
    return;
  }
  self.revoke_write(host);
  const uint32_t writers = before & (~uint32_t{0} << memory::kPageWriterShift);
  struct Asked {
    Runtime* vcpu;
    uint64_t ticket;
  };
  std::vector<Asked> asked;
  {
    std::lock_guard lock(vcpus_mutex_);
    for (Runtime* vcpu : vcpus_)
      if (vcpu != &self && (vcpu->writer_bit() & writers)) asked.push_back({vcpu, vcpu->post_revoke(host)});
  }
  if (!asked.empty())
    self.wait_outside(
        [&asked] { return std::ranges::all_of(asked, [](const Asked& a) { return a.vcpu->revoked(a.ticket); }); });
  // While kPageHasCode stands nobody fills a writable entry: what the mask says now is of the past.
  meta->fetch_and(~(memory::kPageRevoking | ~uint32_t{0} << memory::kPageWriterShift));
  rendezvous_.notify();
}

void CodeSpace::on_write(memory::GuestPhysAddr start, uint64_t length_bytes) {
  if (!invalidate(start.value, length_bytes)) return;
  std::lock_guard lock(vcpus_mutex_);
  for (Runtime* vcpu : vcpus_) vcpu->request_exit();  // whoever made the write leaves its block before it goes on
}

}  // namespace rhea::dbt
