// SPDX-License-Identifier: Apache-2.0
// Guest RAM on one memfd, and the announcement of writes.
//
// A write and a translator meet like this: the writer stores bytes, then looks at the page's metadata; the
// translator sets kPageHasCode, then reads bytes. With a full fence between the two steps on either side at
// least one of them sees the other, so no stale translation survives a write.
#include "memory/guest_memory.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>

#include "base/check.h"
#include "base/numeric.h"
#include "base/strings.h"
#include "memory/access.h"

namespace rhea::memory {
namespace {

constexpr uint64_t kHugePageBytes = 2 << 20;
constexpr uint64_t kPhysicalLimit = uint64_t{1} << 52;  // [SDM-3A 4.1.4] MAXPHYADDR is at most 52
constexpr uint64_t kTotalLimit = uint64_t{1} << 46;     // half of what a process can map

Status check_layout(std::span<const GuestMemory::Extent> extents) {
  if (extents.empty()) return fail(ErrorCode::kInvalidArgument, "guest memory needs at least one region");
  uint64_t total = 0, previous_end = 0;
  for (const auto& extent : extents) {
    const uint64_t start = extent.start.value;
    auto bad = [&](const char* problem) {
      return fail(ErrorCode::kInvalidArgument, fmt::format("guest memory region of {} at {:#x} {}",
                                                           base::format_size(extent.size_bytes), start, problem));
    };
    if (extent.size_bytes == 0) return bad("is empty");
    if (!base::is_aligned(start, kPageSize) || !base::is_aligned(extent.size_bytes, kPageSize)) {
      return bad("is not page-aligned");
    }
    if (!base::range_fits(start, extent.size_bytes, kPhysicalLimit))
      return bad("ends beyond the physical address space");
    if (start < previous_end) return bad("overlaps its predecessor or stands before it");
    previous_end = start + extent.size_bytes;
    total += extent.size_bytes;  // cannot overflow: the regions are disjoint within 2^52
    if (total > kTotalLimit) return bad("makes more guest memory than a process can map");
  }
  return {};
}

// Maps `size_bytes` of `fd` at an address aligned for huge pages.
Result<base::UniqueMapping> map_aligned(int fd, uint64_t size_bytes) {
  const std::string what = fmt::format("{} of guest memory", base::format_size(size_bytes));
  base::UniqueMapping reserved = RHEA_TRY(base::UniqueMapping::create(
      size_bytes + kHugePageBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, what));
  const uintptr_t first = reinterpret_cast<uintptr_t>(reserved.get());
  const uintptr_t aligned = base::align_down<uintptr_t>(first + kHugePageBytes - 1, kHugePageBytes);
  void* mapped = ::mmap(reinterpret_cast<void*>(aligned), size_bytes, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0);
  if (mapped == MAP_FAILED) return fail(Error::from_errno(errno, fmt::format("cannot map {}", what)));
  // What the reservation has in excess stays reserved: it fences guest RAM off from other mappings.
  // Where shared memory knows no huge pages the advice fails, which costs nothing.
  (void)::madvise(mapped, size_bytes, MADV_HUGEPAGE);
  // A core dump is about the hypervisor: it should neither be as large as the guest nor hold its secrets.
  (void)::madvise(mapped, size_bytes, MADV_DONTDUMP);
  return reserved;
}

}  // namespace

Result<std::unique_ptr<GuestMemory>> GuestMemory::create(std::span<const Extent> extents, const Options& options) {
  RHEA_TRY(check_layout(extents));
  std::unique_ptr<GuestMemory> memory(new GuestMemory);
  for (const Extent& extent : extents) memory->total_bytes_ += extent.size_bytes;
  const uint64_t total = memory->total_bytes_;
  auto exhausted = [&](const Error& cause) {
    return fail(Error(ErrorCode::kExhausted, fmt::format("the host cannot provide {} of guest memory: {}",
                                                         base::format_size(total), cause.to_string())));
  };

  memory->fd_.reset(::memfd_create(options.name.c_str(), MFD_CLOEXEC));
  if (!memory->fd_) return fail(Error::from_errno(errno, "cannot create a memfd for guest memory"));
  if (::ftruncate(memory->fd_.get(), static_cast<off_t>(total)) != 0) {
    return exhausted(Error::from_errno(errno, "cannot size the memfd"));
  }
  auto mapping = map_aligned(memory->fd_.get(), total);
  if (!mapping) return exhausted(mapping.error());
  memory->mapping_ = std::move(*mapping);
  auto meta = base::UniqueMapping::anonymous((total >> kPageShift) * sizeof(std::atomic<uint32_t>), "page metadata");
  if (!meta) return exhausted(meta.error());
  memory->page_meta_mapping_ = std::move(*meta);
  // SAFETY: zero bytes are the zero value of a lock-free atomic word; the mapping is page-aligned.
  static_assert(std::atomic<uint32_t>::is_always_lock_free && sizeof(std::atomic<uint32_t>) == 4);
  memory->page_meta_ = static_cast<std::atomic<uint32_t>*>(memory->page_meta_mapping_.get());

  const uintptr_t first = reinterpret_cast<uintptr_t>(memory->mapping_.get());
  auto* host = reinterpret_cast<std::byte*>(base::align_down<uintptr_t>(first + kHugePageBytes - 1, kHugePageBytes));
  uint64_t page_index = 0;
  for (const Extent& extent : extents) {
    memory->regions_.push_back({.start = extent.start, .size_bytes = extent.size_bytes, .host = host});
    memory->first_page_index_.push_back(page_index);
    host += extent.size_bytes;
    page_index += extent.size_bytes >> kPageShift;
  }
  return memory;
}

GuestMemory::~GuestMemory() = default;

const RamRegion* GuestMemory::find(GuestPhysAddr address) const {
  // A PC has two regions, below and above the hole: a loop beats a search. The subtraction wraps for addresses
  // below the region's start, so that one comparison tests both ends.
  for (const RamRegion& region : regions_) {
    if (address.value - region.start.value < region.size_bytes) return &region;
  }
  return nullptr;
}

std::byte* GuestMemory::host_pointer(GuestPhysAddr start, uint64_t length_bytes) const {
  const RamRegion* region = find(start);
  if (region == nullptr || length_bytes > region->size_bytes - (start - region->start)) return nullptr;
  return region->host + (start - region->start);
}

bool GuestMemory::read(GuestPhysAddr start, std::span<std::byte> out) const {
  if (out.empty()) return true;
  if (const std::byte* host = host_pointer(start, out.size())) {
    copy_from_guest(out.data(), host, out.size());
    return true;
  }
  // The range may run through adjacent regions: all of it must be RAM before any of it is copied.
  if (!covers(start, out.size())) return false;
  while (!out.empty()) {
    const RamRegion* region = find(start);
    const uint64_t offset = start - region->start;
    const size_t part = std::min<uint64_t>(out.size(), region->size_bytes - offset);
    copy_from_guest(out.data(), region->host + offset, part);
    out = out.subspan(part);
    start = start + part;
  }
  return true;
}

bool GuestMemory::write(GuestPhysAddr start, std::span<const std::byte> data) {
  if (data.empty()) return true;
  if (!covers(start, data.size())) return false;
  const GuestPhysAddr whole_start = start;
  const uint64_t whole_bytes = data.size();
  while (!data.empty()) {
    const RamRegion* region = find(start);
    const uint64_t offset = start - region->start;
    const size_t part = std::min<uint64_t>(data.size(), region->size_bytes - offset);
    copy_to_guest(region->host + offset, data.data(), part);
    data = data.subspan(part);
    start = start + part;
  }
  mark_written(whole_start, whole_bytes);
  return true;
}

bool GuestMemory::covers(GuestPhysAddr start, uint64_t length_bytes) const {
  while (length_bytes != 0) {
    const RamRegion* region = find(start);
    if (region == nullptr) return false;
    const uint64_t available = region->size_bytes - (start - region->start);
    if (length_bytes <= available) return true;
    length_bytes -= available;
    start = start + available;
  }
  return true;
}

uint64_t GuestMemory::discard(GuestPhysAddr start, uint64_t length_bytes) {
  const uint64_t end = base::checked_add(start.value, length_bytes).value_or(~uint64_t{0});
  const uint64_t first = base::checked_align_up(start.value, kPageSize).value_or(end);
  uint64_t discarded = 0;
  for (const RamRegion& region : regions_) {
    const uint64_t from = std::max(first, region.start.value);
    const uint64_t to = std::min(base::align_down(end, kPageSize), region.start.value + region.size_bytes);
    if (from >= to) continue;
    std::byte* const host = region.host + (from - region.start.value);
    // The advice that takes shared memory away. A kernel that refuses leaves the pages as they are.
    if (::madvise(host, to - from, MADV_REMOVE) != 0) continue;
    mark_written({from}, to - from);
    discarded += to - from;
  }
  return discarded;
}

void GuestMemory::mark_written(GuestPhysAddr start, uint64_t length_bytes) {
  if (length_bytes == 0) return;
  std::atomic_thread_fence(std::memory_order_seq_cst);  // see the head of this file
  const uint64_t last = base::checked_add(start.value, length_bytes - 1).value_or(~uint64_t{0});
  for (size_t i = 0; i < regions_.size(); ++i) {
    const RamRegion& region = regions_[i];
    const uint64_t region_last = region.start.value + region.size_bytes - 1;
    if (last < region.start.value || start.value > region_last) continue;
    const uint64_t from = std::max(start.value, region.start.value);
    const uint64_t to = std::min(last, region_last);
    mark_pages(region, first_page_index_[i], (from - region.start.value) >> kPageShift,
               (to - region.start.value) >> kPageShift);
  }
}

// Tells the observers of the runs of marked pages among pages first..last of the region.
void GuestMemory::mark_pages(const RamRegion& region, uint64_t first_index, uint64_t first, uint64_t last) {
  const auto marked = [&](uint64_t page) {
    return (page_meta_[first_index + page].load(std::memory_order_relaxed) & kPageWatched) != 0;
  };
  for (uint64_t page = first; page <= last; ++page) {
    if (!marked(page)) [[likely]]
      continue;
    const uint64_t run_start = page;
    while (page < last && marked(page + 1)) ++page;
    const GuestPhysAddr at = region.start + (run_start << kPageShift);
    const uint64_t run_bytes = (page - run_start + 1) << kPageShift;
    const std::shared_lock lock(observers_mutex_);
    for (WriteObserver* observer : observers_) observer->on_write(at, run_bytes);
  }
}

std::atomic<uint32_t>& GuestMemory::page_meta(GuestPhysAddr address) {
  const RamRegion* region = find(address);
  RHEA_CHECK(region != nullptr);
  const size_t index = static_cast<size_t>(region - regions_.data());
  return page_meta_[first_page_index_[index] + ((address - region->start) >> kPageShift)];
}

void GuestMemory::add_observer(WriteObserver* observer) {
  const std::unique_lock lock(observers_mutex_);
  observers_.push_back(observer);
}

void GuestMemory::remove_observer(WriteObserver* observer) {
  const std::unique_lock lock(observers_mutex_);
  std::erase(observers_, observer);
}

}  // namespace rhea::memory
