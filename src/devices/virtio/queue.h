// SPDX-License-Identifier: Apache-2.0
// The device's side of a virtqueue, split or packed. Spec: [VIRTIO-1.2 2.6-2.8].
//
// Everything in the rings is written by a hostile guest while we read it: each field is read once, checked, and used as
// read. A queue that finds nonsense is broken: it hands out nothing more, and its device asks for a reset.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "memory/guest_memory.h"

namespace rhea::state {
class StateWriter;
class StateReader;
}  // namespace rhea::state

namespace rhea::devices::virtio {

// One piece of a buffer: guest RAM, contiguous on the host.
struct Segment {
  std::byte* host = nullptr;
  uint32_t length_bytes = 0;
  memory::GuestPhysAddr address;
};

// A buffer that the driver made available: what the device reads, then what it writes.
struct Chain {
  uint16_t id = 0;           // for push()
  uint16_t descriptors = 0;  // ring entries it takes (packed ring)
  std::vector<Segment> readable, writable;
  uint64_t readable_bytes = 0, writable_bytes = 0;
};

// A chain that its device holds, as saved: its pieces by address, those to read first. What the ring itself held may be
// overwritten by then.
struct SavedChain {
  uint16_t id = 0, descriptors = 0;
  uint32_t readable = 0;  // pieces
  std::vector<uint64_t> addresses;
  std::vector<uint32_t> lengths_bytes;

  static SavedChain of(const Chain& chain);
  template <class Archive>
  static void describe(Archive& archive, auto& self) {
    archive.field("id", self.id);
    archive.field("descriptors", self.descriptors);
    archive.field("readable", self.readable);
    archive.field("addresses", self.addresses);
    archive.field("lengths", self.lengths_bytes);
  }
};

// Copies out of / into the pieces of a chain; `skip`: bytes to pass over first. Return what was copied. write_to marks
// the pages as written.
size_t read_from(std::span<const Segment> segments, uint64_t skip, std::span<std::byte> out);
size_t write_to(memory::GuestMemory& memory, std::span<const Segment> segments, uint64_t skip,
                std::span<const std::byte> data);
// Announces that the first `length_bytes` of the segments were written in place (by the kernel, for one).
void mark_written(memory::GuestMemory& memory, std::span<const Segment> segments, uint64_t length_bytes);

// What the driver writes before it enables a queue.
struct QueueConfig {
  uint16_t size = 0;
  uint16_t maximum_size = 0;
  bool enabled = false;
  uint64_t descriptors = 0, driver = 0, device = 0;  // guest-physical: the three areas [VIRTIO-1.2 2.6]

  template <class Archive>
  static void describe(Archive& archive, auto& self) {
    archive.field("size", self.size);
    archive.field("enabled", self.enabled);
    archive.field("descriptors", self.descriptors);
    archive.field("driver", self.driver);
    archive.field("device", self.device);
  }
};

// Threads: one at a time; the device says which.
class Queue {
 public:
  explicit Queue(memory::GuestMemory& memory) : memory_(memory) {}

  // Takes up the rings; positions start at their beginning. Errors: areas that are no RAM, bad size or alignment.
  Status start(const QueueConfig& config, uint64_t features);
  void stop() { running_ = false; }
  bool running() const { return running_; }
  bool broken() const { return broken_; }

  // The next available buffer, or nothing (then broken() may say why).
  std::optional<Chain> pop();
  bool empty();
  // Makes the chain popped last available again, as if it had not been taken. Several: the last one first.
  void put_back(const Chain& chain);
  // Gives a buffer back with `written_bytes` of its writable part filled. Any order will do: with IN_ORDER a buffer
  // waits here until those taken before it are back. [VIRTIO-1.2 2.7.9, 2.8.6]
  void push(const Chain& chain, uint32_t written_bytes);
  // After pushes: whether the driver wants an interrupt. Once for any number of pushes.
  bool wants_interrupt();
  // Whether the driver should notify of new buffers. After turning it on, look again: some may have come in between.
  void set_notifications(bool on);

  void save(state::StateWriter& writer) const;
  void load(state::StateReader& reader);  // before resume()
  Status resume(const QueueConfig& config, uint64_t features);
  // A chain that was popped before the save; in the order of popping. Nothing: not one that this queue can have had.
  std::optional<Chain> restore(const SavedChain& saved);

 private:
  // With IN_ORDER: a chain handed out.
  struct Outstanding {
    uint16_t id, descriptors;
    bool done = false;
    uint32_t written_bytes = 0;
  };
  struct Descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;  // next: of the split ring; the buffer's id in the packed one
  };
  Status map(const QueueConfig& config, uint64_t features);
  std::byte* area(uint64_t address, uint64_t length_bytes, unsigned alignment) const;
  std::optional<Chain> fail_queue() {
    broken_ = true;
    return std::nullopt;
  }
  Descriptor load_descriptor(const std::byte* at) const;
  bool add_segment(Chain& chain, const Descriptor& descriptor) const;
  bool add_indirect(Chain& chain, const Descriptor& descriptor) const;
  std::optional<Chain> chain_from_table(uint16_t head) const;
  std::optional<Chain> pop_split();
  std::optional<Chain> pop_packed();
  void push_split(uint16_t id, uint32_t written_bytes);
  void push_packed(uint16_t id, uint16_t descriptors, uint32_t written_bytes);
  void push_used(uint16_t id, uint16_t descriptors, uint32_t written_bytes);
  void store_available_event();
  bool available_packed(uint16_t flags) const;

  memory::GuestMemory& memory_;
  bool running_ = false, broken_ = false;
  bool packed_ = false, event_index_ = false, indirect_ = false, in_order_ = false;
  uint16_t size_ = 0;
  std::byte *descriptors_ = nullptr, *driver_ = nullptr, *device_ = nullptr;
  uint64_t descriptors_address_ = 0, device_address_ = 0;
  uint64_t device_bytes_ = 0;

  // Positions. Split: free-running indices. Packed: slot and wrap counter.
  uint16_t next_available_ = 0, next_used_ = 0;
  bool available_wrap_ = true, used_wrap_ = true;
  uint16_t signalled_used_ = 0;  // next_used_ when wants_interrupt() was last asked
  bool signalled_wrap_ = true;
  bool notifications_ = true;
  std::deque<Outstanding> outstanding_;
};

}  // namespace rhea::devices::virtio
