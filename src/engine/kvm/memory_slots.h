// SPDX-License-Identifier: Apache-2.0
// KVM's memory slots, kept equal to the physical address space's RAM and ROM. [kvm-api KVM_SET_USER_MEMORY_REGION]
//
// A slot is whole pages. What of a range is not (and whatever no slot is left for) is reached like a device, through
// exits and the address space, which knows that it is memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "io/address_space.h"

namespace rhea::engine_kvm {

class RunGate;

struct MemorySlot {
  uint32_t id = 0;
  uint64_t start = 0, size_bytes = 0;
  std::byte* host = nullptr;
  bool read_only = false;
  bool same_memory(const MemorySlot& other) const {
    return start == other.start && size_bytes == other.size_bytes && host == other.host && read_only == other.read_only;
  }
};

// The slots, without numbers, that a view asks for. `read_only_slots`: the host knows such.
std::vector<MemorySlot> slots_of(const io::FlatView& view, bool read_only_slots);

class MemorySlots final : public io::ViewListener {
 public:
  struct Limits {
    uint32_t slots = 32;
    bool read_only_slots = false;
  };
  // `physical` and `gate` outlive it.
  MemorySlots(int vm_fd, io::AddressSpace& physical, RunGate& gate, Limits limits);
  ~MemorySlots() override;
  MemorySlots(const MemorySlots&) = delete;
  MemorySlots& operator=(const MemorySlots&) = delete;

  void on_view_changed(const io::FlatView& view) override;
  // Has KVM refused memory? Then the guest cannot go on: failure() says which. Any thread.
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  std::string failure() const;

 private:
  void apply(const io::FlatView& view);
  bool set(const MemorySlot& slot, bool present);
  uint32_t free_id() const;

  int vm_fd_;
  io::AddressSpace& physical_;
  RunGate& gate_;
  Limits limits_;
  mutable std::mutex mutex_;
  std::vector<MemorySlot> slots_;
  std::string failure_;
  std::atomic<bool> failed_{false};
};

}  // namespace rhea::engine_kvm
