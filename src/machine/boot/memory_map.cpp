// SPDX-License-Identifier: Apache-2.0
// Placement of boot structures in guest RAM.
#include "machine/boot/memory_map.h"

#include <fmt/format.h>

#include <algorithm>

namespace rhea::machine {
namespace {

std::string describe_size(uint64_t bytes) {
  if (bytes >= (1u << 20)) return fmt::format("{} MiB", (bytes + (1u << 20) - 1) >> 20);
  return fmt::format("{} KiB", (bytes + 1023) >> 10);
}

}  // namespace

void Placement::take(uint64_t start, uint64_t size_bytes, std::string_view what) {
  Taken taken{start, start + size_bytes, std::string(what)};
  auto position = std::ranges::upper_bound(taken_, start, {}, &Taken::start);
  taken_.insert(position, std::move(taken));
}

Status Placement::claim(uint64_t start, uint64_t size_bytes, std::string_view what) {
  if (size_bytes == 0) return {};
  uint64_t end = 0;
  if (__builtin_add_overflow(start, size_bytes, &end))
    return fail(ErrorCode::kInvalidArgument, fmt::format("{} at {:#x} wraps around the end of memory", what, start));
  bool in_ram = std::ranges::any_of(map_, [&](const MemoryMapEntry& entry) {
    return entry.type == MemoryType::kRam && start >= entry.start && end <= entry.end();
  });
  if (!in_ram) {
    return fail(ErrorCode::kExhausted,
                fmt::format("{} needs memory {:#x}-{:#x}, which is not all guest RAM; more memory (-m) may help", what,
                            start, end - 1));
  }
  for (const Taken& taken : taken_) {
    if (start < taken.end && taken.start < end)
      return fail(ErrorCode::kInvalidArgument, fmt::format("{} at {:#x}-{:#x} overlaps {} at {:#x}-{:#x}", what, start,
                                                           end - 1, taken.what, taken.start, taken.end - 1));
  }
  take(start, size_bytes, what);
  return {};
}

std::vector<Placement::Gap> Placement::gaps(uint64_t minimum, uint64_t limit) const {
  std::vector<Gap> result;
  for (const MemoryMapEntry& entry : map_) {
    if (entry.type != MemoryType::kRam) continue;
    uint64_t cursor = std::max(entry.start, minimum);
    uint64_t end = std::min(entry.end(), limit);
    for (const Taken& taken : taken_) {
      if (taken.end <= cursor || taken.start >= end) continue;
      if (taken.start > cursor) result.push_back({cursor, taken.start});
      cursor = taken.end;
    }
    if (cursor < end) result.push_back({cursor, end});
  }
  return result;
}

Result<uint64_t> Placement::claim_low(uint64_t size_bytes, uint64_t alignment, uint64_t minimum, uint64_t limit,
                                      std::string_view what) {
  for (const Gap& gap : gaps(minimum, limit)) {
    uint64_t start = (gap.start + alignment - 1) & ~(alignment - 1);
    if (start >= gap.start && start <= gap.end && gap.end - start >= size_bytes) {
      take(start, size_bytes, what);
      return start;
    }
  }
  return fail(ErrorCode::kExhausted,
              fmt::format("{} ({}) does not fit in the guest's memory", what, describe_size(size_bytes)));
}

Result<uint64_t> Placement::claim_high(uint64_t size_bytes, uint64_t alignment, uint64_t minimum, uint64_t limit,
                                       std::string_view what) {
  std::optional<uint64_t> best;
  for (const Gap& gap : gaps(minimum, limit)) {
    if (gap.end - gap.start < size_bytes) continue;
    uint64_t start = (gap.end - size_bytes) & ~(alignment - 1);
    if (start >= gap.start && (!best || start > *best)) best = start;
  }
  if (!best)
    return fail(ErrorCode::kExhausted,
                fmt::format("{} ({}) does not fit in the guest's memory", what, describe_size(size_bytes)));
  take(*best, size_bytes, what);
  return *best;
}

}  // namespace rhea::machine
