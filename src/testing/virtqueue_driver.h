// SPDX-License-Identifier: Apache-2.0
// The driver's side of a virtqueue, split or packed, over fake guest RAM. Spec: [VIRTIO-1.2 2.7, 2.8].
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "testing/guest_memory_fake.h"

namespace rhea::testing {

// The lowest free descriptors (split) and ids (packed) are taken first.
class VirtqueueDriver {
 public:
  struct Buffer {
    uint64_t address = 0;
    uint32_t length = 0;
    bool device_writes = false;
  };
  struct Used {
    uint16_t id = 0;
    uint32_t length = 0;
  };

  // The three areas lie at `base`, 0x10000 bytes in all.
  VirtqueueDriver(FakeGuestMemory& memory, uint64_t base, uint16_t size, bool packed)
      : memory_(memory), base_(base), size_(size), packed_(packed), free_(size) {
    for (uint16_t i = 0; i < size; ++i) unused_.insert(i);
    for (uint64_t at = 0; at < 0x10000; at += 8) memory_.write<uint64_t>(base + at, 0);
  }

  uint64_t descriptors() const { return base_; }
  uint64_t driver() const { return base_ + 0x8000; }
  uint64_t device() const { return base_ + 0xc000; }

  // Makes a chain available; returns its id. `table`: put the descriptors there (indirect).
  uint16_t add(std::span<const Buffer> buffers, std::optional<uint64_t> table = std::nullopt) {
    return packed_ ? add_packed(buffers, table) : add_split(buffers, table);
  }

  // What the device gave back since the last call.
  std::vector<Used> collect() {
    std::vector<Used> used;
    if (!packed_) {
      for (const auto now = memory_.read<uint16_t>(device() + 2); seen_ != now; ++seen_) {
        const uint64_t element = device() + 4 + 8 * (seen_ % size_);
        const auto id = static_cast<uint16_t>(memory_.read<uint32_t>(element));
        if (!taken_.contains(id)) return used;  // the ring is not as the device left it
        used.push_back({id, memory_.read<uint32_t>(element + 4)});
        give_back(id);
      }
      return used;
    }
    for (;;) {
      const uint64_t at = base_ + 16 * seen_;
      const auto flags = memory_.read<uint16_t>(at + 14);
      if (((flags >> 7) & 1) != seen_wrap_ || ((flags >> 15) & 1) != seen_wrap_) return used;
      const auto id = memory_.read<uint16_t>(at + 12);
      if (!taken_.contains(id)) return used;
      used.push_back({id, memory_.read<uint32_t>(at + 8)});
      const auto taken = static_cast<uint16_t>(taken_[id].size());
      give_back(used.back().id);
      seen_ = static_cast<uint16_t>(seen_ + taken);
      if (seen_ >= size_) {
        seen_ = static_cast<uint16_t>(seen_ - size_);
        seen_wrap_ = !seen_wrap_;
      }
    }
  }

  uint16_t free() const { return free_; }
  FakeGuestMemory& memory() { return memory_; }
  // Split ring: raw fields, for hostile tests.
  void write_descriptor(uint16_t index, uint64_t address, uint32_t length, uint16_t flags, uint16_t next) {
    const uint64_t at = base_ + 16 * index;
    memory_.write<uint64_t>(at, address);
    memory_.write<uint32_t>(at + 8, length);
    memory_.write<uint16_t>(at + 12, packed_ ? next : flags);
    memory_.write<uint16_t>(at + 14, packed_ ? flags : next);
  }
  void publish(uint16_t head) {  // split ring
    memory_.write<uint16_t>(driver() + 4 + 2 * (available_ % size_), head);
    memory_.write<uint16_t>(driver() + 2, ++available_);
  }

 private:
  static constexpr uint16_t kNext = 1, kWrite = 2, kIndirect = 4;

  void write_table(uint64_t table, std::span<const Buffer> buffers) {
    for (size_t i = 0; i < buffers.size(); ++i) {
      const bool last = i + 1 == buffers.size();
      const uint16_t flags =
          static_cast<uint16_t>((buffers[i].device_writes ? kWrite : 0) | (last || packed_ ? 0 : kNext));
      const auto next = static_cast<uint16_t>(packed_ ? 0 : i + 1);
      memory_.write<uint64_t>(table + 16 * i, buffers[i].address);
      memory_.write<uint32_t>(table + 16 * i + 8, buffers[i].length);
      memory_.write<uint16_t>(table + 16 * i + 12, packed_ ? next : flags);
      memory_.write<uint16_t>(table + 16 * i + 14, packed_ ? flags : next);
    }
  }

  std::vector<uint16_t> take(size_t count) {
    std::vector<uint16_t> taken;
    for (size_t i = 0; i < count; ++i) taken.push_back(unused_.extract(unused_.begin()).value());
    return taken;
  }
  void give_back(uint16_t id) {
    free_ = static_cast<uint16_t>(free_ + taken_[id].size());
    if (packed_)
      unused_.insert(id);
    else
      unused_.insert(taken_[id].begin(), taken_[id].end());
    taken_.erase(id);
  }

  uint16_t add_split(std::span<const Buffer> buffers, std::optional<uint64_t> table) {
    const std::vector<uint16_t> slots = take(table ? 1 : buffers.size());
    const uint16_t head = slots[0];
    if (table) {
      write_table(*table, buffers);
      write_descriptor(head, *table, static_cast<uint32_t>(16 * buffers.size()), kIndirect, 0);
    } else {
      for (size_t i = 0; i < slots.size(); ++i) {
        const bool last = i + 1 == slots.size();
        write_descriptor(slots[i], buffers[i].address, buffers[i].length,
                         static_cast<uint16_t>((buffers[i].device_writes ? kWrite : 0) | (last ? 0 : kNext)),
                         last ? uint16_t{0} : slots[i + 1]);
      }
    }
    free_ = static_cast<uint16_t>(free_ - slots.size());
    taken_[head] = slots;
    publish(head);
    return head;
  }

  uint16_t add_packed(std::span<const Buffer> buffers, std::optional<uint64_t> table) {
    std::vector<Buffer> entries(buffers.begin(), buffers.end());
    if (table) {
      write_table(*table, buffers);
      entries = {{*table, static_cast<uint32_t>(16 * buffers.size()), false}};
    }
    const uint16_t id = take(1)[0], first = next_;
    uint16_t first_flags = 0;
    for (size_t i = 0; i < entries.size(); ++i) {
      const uint16_t at = next_;
      uint16_t flags =
          static_cast<uint16_t>((entries[i].device_writes ? kWrite : 0) | (i + 1 == entries.size() ? 0 : kNext) |
                                (table ? kIndirect : 0) | (wrap_ ? 1u << 7 : 1u << 15));
      if (i == 0) {
        first_flags = flags;
        flags = static_cast<uint16_t>(flags ^ (1u << 7));  // not yet
      }
      write_descriptor(at, entries[i].address, entries[i].length, flags, id);
      if (++next_ == size_) {
        next_ = 0;
        wrap_ = !wrap_;
      }
    }
    memory_.write<uint16_t>(base_ + 16 * first + 14, first_flags);
    taken_[id].resize(entries.size());
    free_ = static_cast<uint16_t>(free_ - entries.size());
    return id;
  }

  FakeGuestMemory& memory_;
  const uint64_t base_;
  const uint16_t size_;
  const bool packed_;
  uint16_t free_, next_ = 0, available_ = 0, seen_ = 0;
  bool wrap_ = true, seen_wrap_ = true;
  std::set<uint16_t> unused_;                        // descriptors (split) or ids (packed)
  std::map<uint16_t, std::vector<uint16_t>> taken_;  // by id: the descriptors, or (packed) as many of nothing
};

}  // namespace rhea::testing
