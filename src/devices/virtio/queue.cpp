// SPDX-License-Identifier: Apache-2.0
// Rings and buffers of a virtqueue.
#include "devices/virtio/queue.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <utility>

#include "devices/virtio/virtio_regs.h"
#include "memory/access.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices::virtio {
namespace {

constexpr unsigned kDescriptorBytes = 16;

// Layout of the split ring's areas. [VIRTIO-1.2 2.7.6, 2.7.8]
constexpr size_t kAvailableIndex = 2, kAvailableRing = 4, kUsedIndex = 2, kUsedRing = 4, kUsedElementBytes = 8;
constexpr size_t available_event(uint16_t size) { return kUsedRing + kUsedElementBytes * size; }  // in the used ring
constexpr size_t used_event(uint16_t size) { return kAvailableRing + 2 * size_t{size}; }  // in the available ring

uint16_t load16(const std::byte* at) { return memory::load_relaxed<uint16_t>(at); }
void store16(std::byte* at, uint16_t value) { memory::store_relaxed<uint16_t>(at, value); }

// Has the position passed `event` on its way from `before` to `now`? [VIRTIO-1.2 2.7.10]
bool passed(uint16_t event, uint16_t now, uint16_t before) {
  return static_cast<uint16_t>(now - event - 1) < static_cast<uint16_t>(now - before);
}

}  // namespace

size_t read_from(std::span<const Segment> segments, uint64_t skip, std::span<std::byte> out) {
  size_t done = 0;
  for (const Segment& segment : segments) {
    if (done == out.size()) break;
    if (skip >= segment.length_bytes) {
      skip -= segment.length_bytes;
      continue;
    }
    const size_t part = std::min<size_t>(segment.length_bytes - skip, out.size() - done);
    memory::copy_from_guest(out.data() + done, segment.host + skip, part);
    done += part;
    skip = 0;
  }
  return done;
}

size_t write_to(memory::GuestMemory& memory, std::span<const Segment> segments, uint64_t skip,
                std::span<const std::byte> data) {
  size_t done = 0;
  for (const Segment& segment : segments) {
    if (done == data.size()) break;
    if (skip >= segment.length_bytes) {
      skip -= segment.length_bytes;
      continue;
    }
    const size_t part = std::min<size_t>(segment.length_bytes - skip, data.size() - done);
    memory::copy_to_guest(segment.host + skip, data.data() + done, part);
    memory.mark_written(segment.address + skip, part);
    done += part;
    skip = 0;
  }
  return done;
}

void mark_written(memory::GuestMemory& memory, std::span<const Segment> segments, uint64_t length_bytes) {
  for (const Segment& segment : segments) {
    if (length_bytes == 0) break;
    const uint64_t part = std::min<uint64_t>(segment.length_bytes, length_bytes);
    memory.mark_written(segment.address, part);
    length_bytes -= part;
  }
}

std::byte* Queue::area(uint64_t address, uint64_t length_bytes, unsigned alignment) const {
  if (address % alignment != 0) return nullptr;
  return memory_.host_pointer({address}, length_bytes);
}

Status Queue::map(const QueueConfig& config, uint64_t features) {
  packed_ = features & kFeaturePacked;
  event_index_ = features & kFeatureEventIndex;
  indirect_ = features & kFeatureIndirect;
  in_order_ = features & kFeatureInOrder;
  size_ = config.size;
  if (size_ == 0 || size_ > config.maximum_size || (!packed_ && !std::has_single_bit(size_)))
    return fail(ErrorCode::kInvalidArgument, "virtqueue: bad size");
  const uint64_t size = size_;
  const uint64_t driver_bytes = packed_ ? 4 : used_event(size_) + 2;
  device_bytes_ = packed_ ? 4 : available_event(size_) + 2;
  descriptors_ = area(config.descriptors, kDescriptorBytes * size, 16);
  driver_ = area(config.driver, driver_bytes, packed_ ? 4 : 2);
  device_ = area(config.device, device_bytes_, 4);
  descriptors_address_ = config.descriptors;
  device_address_ = config.device;
  if (!descriptors_ || !driver_ || !device_)
    return fail(ErrorCode::kInvalidArgument, "virtqueue: an area is misaligned or no RAM");
  running_ = true;
  broken_ = false;
  return {};
}

Status Queue::start(const QueueConfig& config, uint64_t features) {
  RHEA_TRY(map(config, features));
  next_available_ = next_used_ = signalled_used_ = 0;
  available_wrap_ = used_wrap_ = signalled_wrap_ = true;
  notifications_ = true;
  outstanding_.clear();
  return {};
}

Queue::Descriptor Queue::load_descriptor(const std::byte* at) const {
  const auto first = memory::load_relaxed<uint64_t>(at), second = memory::load_relaxed<uint64_t>(at + 8);
  const auto third = static_cast<uint16_t>(second >> 32), fourth = static_cast<uint16_t>(second >> 48);
  // The split ring has the flags before the link, the packed one after the id.
  return {.address = first,
          .length = static_cast<uint32_t>(second),
          .flags = packed_ ? fourth : third,
          .next = packed_ ? third : fourth};
}

bool Queue::add_segment(Chain& chain, const Descriptor& descriptor) const {
  const bool writable = descriptor.flags & kDescriptorWrite;
  if (!writable && !chain.writable.empty()) return false;  // what is read comes first [VIRTIO-1.2 2.6.4]
  if (descriptor.length == 0) return true;                 // nothing to read or write, wherever it points
  std::byte* const host = memory_.host_pointer({descriptor.address}, descriptor.length);
  if (!host) return false;
  (writable ? chain.writable : chain.readable).push_back({host, descriptor.length, {descriptor.address}});
  (writable ? chain.writable_bytes : chain.readable_bytes) += descriptor.length;
  return true;
}

// A table of descriptors elsewhere in RAM: of the split ring with links, of the packed one in order.
// [VIRTIO-1.2 2.7.5.3, 2.8.7]
bool Queue::add_indirect(Chain& chain, const Descriptor& descriptor) const {
  if (!indirect_ || descriptor.length == 0 || descriptor.length % kDescriptorBytes != 0) return false;
  const uint64_t count = descriptor.length / kDescriptorBytes;
  if (count > kMaximumQueueSize) return false;
  const std::byte* const table = memory_.host_pointer({descriptor.address}, descriptor.length);
  if (!table) return false;
  uint64_t index = 0;
  for (uint64_t seen = 0; seen < count; ++seen) {
    const Descriptor entry = load_descriptor(table + index * kDescriptorBytes);
    if (entry.flags & kDescriptorIndirect) return false;  // never nested
    if (!add_segment(chain, entry)) return false;
    if (packed_) {
      ++index;
      continue;
    }
    if (!(entry.flags & kDescriptorNext)) return true;
    index = entry.next;
    if (index >= count) return false;
  }
  return packed_;  // a split table that has not ended by now loops
}

std::optional<Chain> Queue::chain_from_table(uint16_t head) const {
  Chain chain{.id = head};
  uint16_t index = head;
  for (unsigned seen = 0; seen < size_; ++seen) {
    if (index >= size_) return std::nullopt;
    const Descriptor descriptor = load_descriptor(descriptors_ + size_t{index} * kDescriptorBytes);
    if (descriptor.flags & kDescriptorIndirect) {
      if ((descriptor.flags & kDescriptorNext) || !add_indirect(chain, descriptor)) return std::nullopt;
      return chain;
    }
    if (!add_segment(chain, descriptor)) return std::nullopt;
    if (!(descriptor.flags & kDescriptorNext)) return chain;
    index = descriptor.next;
  }
  return std::nullopt;  // longer than the ring: a loop
}

std::optional<Chain> Queue::pop_split() {
  const uint16_t available = load16(driver_ + kAvailableIndex);
  std::atomic_thread_fence(std::memory_order_acquire);
  const auto waiting = static_cast<uint16_t>(available - next_available_);
  if (waiting == 0) return std::nullopt;
  if (waiting > size_) return fail_queue();
  const uint16_t head = load16(driver_ + kAvailableRing + 2 * size_t(next_available_ & (size_ - 1)));
  if (head >= size_) return fail_queue();
  auto chain = chain_from_table(head);
  if (!chain) return fail_queue();
  ++next_available_;
  if (event_index_ && notifications_) store_available_event();
  return chain;
}

void Queue::store_available_event() {
  store16(device_ + available_event(size_), next_available_);
  memory_.mark_written({device_address_ + available_event(size_)}, 2);
}

bool Queue::available_packed(uint16_t flags) const {
  const bool available = flags & kPackedAvailable, used = flags & kPackedUsed;
  return available == available_wrap_ && used != available_wrap_;
}

std::optional<Chain> Queue::pop_packed() {
  Chain chain;
  uint16_t slot = next_available_;
  bool wrap = available_wrap_;
  for (unsigned seen = 0; seen < size_; ++seen) {
    const std::byte* const at = descriptors_ + size_t{slot} * kDescriptorBytes;
    if (seen == 0) {
      if (!available_packed(load16(at + 14))) return std::nullopt;
      std::atomic_thread_fence(std::memory_order_acquire);  // the flags, then the rest; those after the first as well
    }
    const Descriptor descriptor = load_descriptor(at);
    chain.id = descriptor.next;
    ++chain.descriptors;
    if (descriptor.flags & kDescriptorIndirect) {
      if (seen != 0 || (descriptor.flags & kDescriptorNext) || !add_indirect(chain, descriptor)) return fail_queue();
    } else if (!add_segment(chain, descriptor)) {
      return fail_queue();
    }
    if (++slot == size_) {
      slot = 0;
      wrap = !wrap;
    }
    if (descriptor.flags & kDescriptorNext) continue;
    next_available_ = slot;
    available_wrap_ = wrap;
    if (event_index_ && notifications_) set_notifications(true);
    return chain;
  }
  return fail_queue();
}

std::optional<Chain> Queue::pop() {
  if (!running_ || broken_) return std::nullopt;
  auto chain = packed_ ? pop_packed() : pop_split();
  if (chain && in_order_) outstanding_.push_back({.id = chain->id, .descriptors = chain->descriptors});
  return chain;
}

bool Queue::empty() {
  if (!running_ || broken_) return true;
  if (packed_) return !available_packed(load16(descriptors_ + size_t{next_available_} * kDescriptorBytes + 14));
  return load16(driver_ + kAvailableIndex) == next_available_;
}

void Queue::put_back(const Chain& chain) {
  if (in_order_ && !outstanding_.empty()) outstanding_.pop_back();
  if (!packed_) {
    --next_available_;
    return;
  }
  if (next_available_ < chain.descriptors) {
    next_available_ = static_cast<uint16_t>(next_available_ + size_);
    available_wrap_ = !available_wrap_;
  }
  next_available_ = static_cast<uint16_t>(next_available_ - chain.descriptors);
}

void Queue::push_split(uint16_t id, uint32_t written_bytes) {
  const size_t element = kUsedRing + kUsedElementBytes * size_t(next_used_ & (size_ - 1));
  memory::store_relaxed<uint32_t>(device_ + element, id);
  memory::store_relaxed<uint32_t>(device_ + element + 4, written_bytes);
  memory_.mark_written({device_address_ + element}, kUsedElementBytes);
  ++next_used_;
  std::atomic_thread_fence(std::memory_order_release);
  store16(device_ + kUsedIndex, next_used_);
  memory_.mark_written({device_address_}, 4);
}

void Queue::push_packed(uint16_t id, uint16_t descriptors, uint32_t written_bytes) {
  const size_t offset = size_t{next_used_} * kDescriptorBytes;
  std::byte* const at = descriptors_ + offset;
  memory::store_relaxed<uint32_t>(at + 8, written_bytes);
  store16(at + 12, id);
  std::atomic_thread_fence(std::memory_order_release);
  const uint16_t flags =
      static_cast<uint16_t>((used_wrap_ ? kPackedAvailable | kPackedUsed : 0) | (written_bytes ? kDescriptorWrite : 0));
  store16(at + 14, flags);
  memory_.mark_written({descriptors_address_ + offset}, kDescriptorBytes);
  const unsigned next = next_used_ + descriptors;
  if (next >= size_) used_wrap_ = !used_wrap_;
  next_used_ = static_cast<uint16_t>(next >= size_ ? next - size_ : next);
}

void Queue::push(const Chain& chain, uint32_t written_bytes) {
  if (!running_ || broken_) return;
  if (!in_order_) return push_used(chain.id, chain.descriptors, written_bytes);
  for (Outstanding& entry : outstanding_) {
    if (entry.id != chain.id || entry.done) continue;
    entry.done = true;
    entry.written_bytes = written_bytes;
    break;
  }
  for (; !outstanding_.empty() && outstanding_.front().done; outstanding_.pop_front()) {
    const Outstanding& first = outstanding_.front();
    push_used(first.id, first.descriptors, first.written_bytes);
  }
}

void Queue::push_used(uint16_t id, uint16_t descriptors, uint32_t written_bytes) {
  packed_ ? push_packed(id, descriptors, written_bytes) : push_split(id, written_bytes);
}

bool Queue::wants_interrupt() {
  if (!running_) return false;
  std::atomic_thread_fence(std::memory_order_seq_cst);  // the used entries, before a look at what the driver wants
  const uint16_t before = std::exchange(signalled_used_, next_used_);
  const bool before_wrap = std::exchange(signalled_wrap_, used_wrap_);
  if (before == next_used_ && before_wrap == used_wrap_) return false;
  if (!packed_) {
    if (event_index_) return passed(load16(driver_ + used_event(size_)), next_used_, before);
    return !(load16(driver_) & kAvailableNoInterrupt);
  }
  const auto suppression = memory::load_relaxed<uint32_t>(driver_);
  const auto flags = static_cast<uint16_t>(suppression >> 16) & 3;
  if (flags != kEventsAtDescriptor || !event_index_) return flags != kEventsDisabled;
  // Positions as free-running numbers: slots of the wrap before count as `size` earlier. [VIRTIO-1.2 2.8.10]
  const auto offset = static_cast<uint16_t>(suppression & 0x7fff);
  const bool wrap = suppression & 0x8000;
  const auto event = static_cast<uint16_t>(wrap == used_wrap_ ? offset : offset - size_);
  const auto from = static_cast<uint16_t>(before_wrap == used_wrap_ ? before : before - size_);
  return passed(event, next_used_, from);
}

void Queue::set_notifications(bool on) {
  notifications_ = on;
  if (!running_) return;
  if (packed_) {
    uint32_t suppression = on ? kEventsEnabled : kEventsDisabled;
    suppression <<= 16;
    if (on && event_index_)
      suppression = uint32_t{kEventsAtDescriptor} << 16 | uint32_t{available_wrap_} << 15 | next_available_;
    memory::store_relaxed<uint32_t>(device_, suppression);
    memory_.mark_written({device_address_}, 4);
  } else if (event_index_) {
    if (on) store_available_event();
  } else {
    store16(device_, on ? 0 : kUsedNoNotify);
    memory_.mark_written({device_address_}, 2);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);  // then the caller looks at the ring again
}

void Queue::save(state::StateWriter& writer) const {
  writer.field("next_available", next_available_);
  writer.field("next_used", next_used_);
  writer.field("available_wrap", available_wrap_);
  writer.field("used_wrap", used_wrap_);
  writer.field("signalled_used", signalled_used_);
  writer.field("signalled_wrap", signalled_wrap_);
  writer.field("notifications", notifications_);
  writer.field("broken", broken_);
}

void Queue::load(state::StateReader& reader) {
  outstanding_.clear();
  reader.field("next_available", next_available_);
  reader.field("next_used", next_used_);
  reader.field("available_wrap", available_wrap_);
  reader.field("used_wrap", used_wrap_);
  reader.field("signalled_used", signalled_used_);
  reader.field("signalled_wrap", signalled_wrap_);
  reader.field("notifications", notifications_);
  reader.field("broken", broken_);
}

Status Queue::resume(const QueueConfig& config, uint64_t features) {
  const bool broken = broken_;
  RHEA_TRY(map(config, features));
  broken_ = broken;
  if (!in_order_) outstanding_.clear();
  if (packed_ && (next_available_ >= size_ || next_used_ >= size_))
    return fail(ErrorCode::kCorrupt, "virtqueue: a position beyond the ring");
  return {};
}

SavedChain SavedChain::of(const Chain& chain) {
  SavedChain saved{
      .id = chain.id, .descriptors = chain.descriptors, .readable = static_cast<uint32_t>(chain.readable.size())};
  for (const auto* segments : {&chain.readable, &chain.writable}) {
    for (const Segment& segment : *segments) {
      saved.addresses.push_back(segment.address.value);
      saved.lengths_bytes.push_back(segment.length_bytes);
    }
  }
  return saved;
}

std::optional<Chain> Queue::restore(const SavedChain& saved) {
  const size_t count = saved.addresses.size();
  if (saved.lengths_bytes.size() != count || saved.readable > count || outstanding_.size() >= kMaximumQueueSize)
    return std::nullopt;
  Chain chain{.id = saved.id, .descriptors = saved.descriptors};
  for (size_t i = 0; i < count; ++i) {
    const auto flags = i < saved.readable ? uint16_t{0} : kDescriptorWrite;
    if (!add_segment(chain, {saved.addresses[i], saved.lengths_bytes[i], flags, 0})) return std::nullopt;
  }
  outstanding_.push_back({.id = chain.id, .descriptors = chain.descriptors});
  return chain;
}

}  // namespace rhea::devices::virtio
