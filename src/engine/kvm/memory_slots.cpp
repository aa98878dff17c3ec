// SPDX-License-Identifier: Apache-2.0
#include "engine/kvm/memory_slots.h"

#include <fmt/format.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "engine/kvm/run_gate.h"

namespace rhea::engine_kvm {

namespace {
constexpr uint64_t kPageBytes = 4096;

bool contains(const std::vector<MemorySlot>& slots, const MemorySlot& wanted) {
  return std::ranges::any_of(slots, [&](const MemorySlot& slot) { return slot.same_memory(wanted); });
}
}  // namespace

std::vector<MemorySlot> slots_of(const io::FlatView& view, bool read_only_slots) {
  std::vector<MemorySlot> slots;
  for (const io::Range& range : view.ranges()) {
    if (range.kind == io::RangeKind::kMmio) continue;
    const bool read_only = range.kind == io::RangeKind::kRom;
    if (read_only && !read_only_slots) continue;
    const uint64_t skipped = -range.start & (kPageBytes - 1);
    if (range.size_bytes <= skipped) continue;
    MemorySlot slot{.start = range.start + skipped,
                    .size_bytes = (range.size_bytes - skipped) & ~(kPageBytes - 1),
                    .host = range.host + skipped,
                    .read_only = read_only};
    // KVM maps page to page.
    if (slot.size_bytes == 0 || (reinterpret_cast<uintptr_t>(slot.host) & (kPageBytes - 1))) continue;
    slots.push_back(slot);
  }
  return slots;
}

MemorySlots::MemorySlots(int vm_fd, io::AddressSpace& physical, RunGate& gate, Limits limits)
    : vm_fd_(vm_fd), physical_(physical), gate_(gate), limits_(limits) {
  physical_.add_listener(this);
  apply(physical_.view());
}

MemorySlots::~MemorySlots() { physical_.remove_listener(this); }

void MemorySlots::on_view_changed(const io::FlatView& view) { apply(view); }

std::string MemorySlots::failure() const {
  std::lock_guard lock(mutex_);
  return failure_;
}

uint32_t MemorySlots::free_id() const {
  uint32_t id = 0;
  while (std::ranges::any_of(slots_, [id](const MemorySlot& slot) { return slot.id == id; })) ++id;
  return id;
}

bool MemorySlots::set(const MemorySlot& slot, bool present) {
  kvm_userspace_memory_region region{};
  region.slot = slot.id;
  region.flags = slot.read_only ? KVM_MEM_READONLY : 0;
  region.guest_phys_addr = slot.start;
  region.memory_size = present ? slot.size_bytes : 0;
  region.userspace_addr = reinterpret_cast<uint64_t>(slot.host);
  if (ioctl(vm_fd_, KVM_SET_USER_MEMORY_REGION, &region) == 0) return true;
  if (failure_.empty())
    failure_ = fmt::format("KVM refuses memory at {:#x}, {} bytes: {}", slot.start, slot.size_bytes, strerror(errno));
  failed_.store(true, std::memory_order_release);
  return false;
}

// Slots that stay are not touched; what overlaps has to go before what replaces it comes.
void MemorySlots::apply(const io::FlatView& view) {
  std::vector<MemorySlot> wanted = slots_of(view, limits_.read_only_slots);
  if (wanted.size() > limits_.slots) wanted.resize(limits_.slots);
  std::lock_guard lock(mutex_);
  const bool removes = !std::ranges::all_of(slots_, [&](const MemorySlot& slot) { return contains(wanted, slot); });
  const auto change = [&] {
    std::erase_if(slots_, [&](const MemorySlot& slot) {
      if (contains(wanted, slot)) return false;
      set(slot, false);
      return true;
    });
    for (MemorySlot& slot : wanted) {
      if (contains(slots_, slot)) continue;
      slot.id = free_id();
      if (set(slot, true)) slots_.push_back(slot);
    }
  };
  if (removes)
    gate_.with_all_out(change);
  else
    change();
}

}  // namespace rhea::engine_kvm
