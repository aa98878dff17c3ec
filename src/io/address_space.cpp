// SPDX-License-Identifier: Apache-2.0
// Overlay of ranges, publication of views, accesses as the bus makes them.
#include "io/address_space.h"

#include <sched.h>

#include <algorithm>

#include "base/numeric.h"
#include "memory/access.h"

namespace rhea::io {
namespace {

// Beyond this many kept views publication waits for the guards to be gone, instead of trying again later.
constexpr size_t kMaxViews = 16 * AddressSpace::kKeptViews;

uint64_t load_host(const std::byte* host, unsigned size_bytes) {
  switch (size_bytes) {
    case 1: return memory::load_relaxed<uint8_t>(host);
    case 2: return memory::load_relaxed<uint16_t>(host);
    case 4: return memory::load_relaxed<uint32_t>(host);
    default: return memory::load_relaxed<uint64_t>(host);
  }
}

void store_host(std::byte* host, uint64_t value, unsigned size_bytes) {
  switch (size_bytes) {
    case 1: return memory::store_relaxed(host, static_cast<uint8_t>(value));
    case 2: return memory::store_relaxed(host, static_cast<uint16_t>(value));
    case 4: return memory::store_relaxed(host, static_cast<uint32_t>(value));
    default: return memory::store_relaxed(host, value);
  }
}

// The first range that ends behind `address`: it holds the address, or stands behind a hole. Last bytes are
// compared, not ends: a range may end at 2^64.
auto first_ending_after(const std::vector<Range>& ranges, uint64_t address) {
  return std::ranges::lower_bound(ranges, address, {},
                                  [](const Range& range) { return range.start + (range.size_bytes - 1); });
}

}  // namespace

const Range* FlatView::find(uint64_t address) const {
  const auto at = first_ending_after(ranges_, address);
  return at != ranges_.end() && at->start <= address ? &*at : nullptr;
}

AddressSpace::AddressSpace(std::string name, uint64_t size_bytes) : name_(std::move(name)), size_bytes_(size_bytes) {
  views_.push_back(std::make_unique<const FlatView>(std::vector<Range>()));
  current_.store(views_.back().get());
}

AddressSpace::~AddressSpace() = default;

AddressSpace::MappingId AddressSpace::map(Range range, int priority, Seen seen) {
  const std::lock_guard lock(mutex_);
  const MappingId id = next_id_++;
  // GUEST-CONTROLLED: BARs put ranges anywhere. What lies beyond the space's end is cut off, not an error.
  if (range.start >= size_bytes_) {
    range.size_bytes = 0;
  } else {
    range.size_bytes = std::min(range.size_bytes, size_bytes_ - range.start);
  }
  mappings_.push_back({.id = id, .priority = priority, .seen = seen, .range = std::move(range)});
  publish();
  return id;
}

void AddressSpace::unmap(MappingId id) {
  const std::lock_guard lock(mutex_);
  if (std::erase_if(mappings_, [&](const Mapping& mapping) { return mapping.id == id; }) != 0) publish();
}

void AddressSpace::set_address_mask(uint64_t mask) {
  const std::lock_guard lock(mutex_);
  address_mask_ = mask;
  publish();
}

// Cuts the space at every start and end and gives each piece to the topmost mapping over it. There are tens of
// mappings, so the plain quadratic way will do. Those that are seen as `hidden` says are left out.
std::vector<Range> AddressSpace::overlay(Seen hidden) const {
  std::vector<const Mapping*> order;
  std::vector<uint64_t> cuts;
  for (const Mapping& mapping : mappings_) {
    if (mapping.range.size_bytes == 0 || mapping.seen == hidden) continue;
    order.push_back(&mapping);
    cuts.push_back(mapping.range.start);
    cuts.push_back(mapping.range.end());
  }
  std::ranges::sort(order, [](const Mapping* a, const Mapping* b) {
    return a->priority != b->priority ? a->priority > b->priority : a->id > b->id;
  });
  std::ranges::sort(cuts);
  cuts.erase(std::ranges::unique(cuts).begin(), cuts.end());

  std::vector<Range> ranges;
  const Mapping* previous = nullptr;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    const auto top = std::ranges::find_if(order, [&](const Mapping* mapping) {
      return mapping->range.start <= cuts[i] && cuts[i] < mapping->range.end();
    });
    const Mapping* mapping = top == order.end() ? nullptr : *top;
    if (mapping != nullptr && mapping == previous) {
      ranges.back().size_bytes += cuts[i + 1] - cuts[i];
    } else if (mapping != nullptr) {
      Range piece = mapping->range;
      const uint64_t skipped = cuts[i] - piece.start;
      piece.start = cuts[i];
      piece.size_bytes = cuts[i + 1] - cuts[i];
      piece.handler_offset += skipped;
      if (piece.host != nullptr) piece.host += skipped;
      ranges.push_back(std::move(piece));
    }
    previous = mapping;
  }
  return ranges;
}

void AddressSpace::publish() {
  std::vector<Range> ranges = overlay(Seen::kInSmm), smm_ranges = overlay(Seen::kOutsideSmm);
  const FlatView& last = *views_.back();
  // A change that nothing shows of flushes nobody's TLB.
  if (ranges == last.ranges() && smm_ranges == last.smm_ranges() && address_mask_ == last.address_mask()) return;
  views_.push_back(std::make_unique<const FlatView>(std::move(ranges), std::move(smm_ranges), address_mask_));
  current_.store(views_.back().get(), std::memory_order_seq_cst);
  free_old_views();
  for (ViewListener* listener : listeners_) listener->on_view_changed(*views_.back());
}

// A guard counts itself, then loads the current view. So whoever holds a retired one counted itself before the
// view was replaced, and a count of zero, seen after that, proves that nobody does.
void AddressSpace::free_old_views() {
  if (views_.size() <= 2 * kKeptViews) return;
  while (guards_.load(std::memory_order_seq_cst) != 0) {
    if (views_.size() < kMaxViews) return;  // the next change tries again
    ::sched_yield();
  }
  views_.erase(views_.begin(), views_.end() - static_cast<ptrdiff_t>(kKeptViews));
}

AddressSpace::Target AddressSpace::resolve(uint64_t address) const {
  const ViewGuard guard(*this);
  const auto& ranges = guard->ranges();
  const auto at = first_ending_after(ranges, address);
  Target target;
  if (at == ranges.end()) {
    target.available = ~address;  // to the end of all addresses, less one so that it cannot wrap
  } else if (at->start > address) {
    target.available = at->start - address;
  } else {
    const uint64_t offset = address - at->start;
    target = {.kind = at->kind,
              .host = at->host == nullptr ? nullptr : at->host + offset,
              .handler = at->handler,
              .handler_offset = at->handler_offset + offset,
              .available = at->size_bytes - offset};
  }
  return target;
}

uint64_t AddressSpace::read_target(const Target& target, unsigned size_bytes) {
  if (target.host != nullptr) return load_host(target.host, size_bytes);
  if (target.handler == nullptr || target.kind != RangeKind::kMmio) return base::byte_mask(size_bytes);
  return target.handler->io_read(target.handler_offset, size_bytes) & base::byte_mask(size_bytes);
}

void AddressSpace::write_target(const Target& target, uint64_t value, unsigned size_bytes) {
  if (target.kind == RangeKind::kRam) {
    if (target.host != nullptr) store_host(target.host, value, size_bytes);
  } else if (target.handler != nullptr) {
    target.handler->io_write(target.handler_offset, value & base::byte_mask(size_bytes), size_bytes);
  }
}

uint64_t AddressSpace::read(uint64_t address, unsigned size_bytes) const {
  const Target target = resolve(address);
  if (target.available >= size_bytes) [[likely]]
    return read_target(target, size_bytes);
  uint64_t value = 0;
  for (unsigned i = 0; i < size_bytes; ++i) value |= read_target(resolve(address + i), 1) << (8 * i);
  return value;
}

void AddressSpace::write(uint64_t address, uint64_t value, unsigned size_bytes) const {
  const Target target = resolve(address);
  if (target.available >= size_bytes) [[likely]]
    return write_target(target, value, size_bytes);
  for (unsigned i = 0; i < size_bytes; ++i) write_target(resolve(address + i), (value >> (8 * i)) & 0xff, 1);
}

void AddressSpace::add_listener(ViewListener* listener) {
  const std::lock_guard lock(mutex_);
  listeners_.push_back(listener);
}

void AddressSpace::remove_listener(ViewListener* listener) {
  const std::lock_guard lock(mutex_);
  std::erase(listeners_, listener);
}

}  // namespace rhea::io
