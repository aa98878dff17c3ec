// SPDX-License-Identifier: Apache-2.0
// Address spaces as devices and engines see them: one immutable flat view, replaced as a whole.
//
// Ranges have priorities; the flat view is the result of overlaying them. Readers take the current view
// without locks; a writer publishes a new view and tells the listeners (kvm: memory slots; dbt: TLB flush).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace rhea::io {

// Registers of a device behind an MMIO or port range. Sizes are 1, 2, 4 or 8 bytes; an access never
// crosses the range's end. Called on vCPU threads; the handler takes its own lock. Reads of what does
// not exist return all ones; writes to it are ignored.
class IoHandler {
 public:
  virtual ~IoHandler() = default;
  virtual uint64_t io_read(uint64_t offset, unsigned size_bytes) = 0;
  virtual void io_write(uint64_t offset, uint64_t value, unsigned size_bytes) = 0;
};

enum class RangeKind : uint8_t { kRam, kRom, kMmio };

struct Range {
  uint64_t start = 0;
  uint64_t size_bytes = 0;
  RangeKind kind = RangeKind::kMmio;
  std::byte* host = nullptr;       // kRam, kRom: host address of `start`
  IoHandler* handler = nullptr;    // kMmio; for kRom: receives writes, may be nullptr (ignored)
  uint64_t handler_offset = 0;     // offset that the handler sees for `start`
  std::string name;

  uint64_t end() const { return start + size_bytes; }
};

// Immutable, sorted, non-overlapping. Holes read as all ones and ignore writes.
class FlatView {
 public:
  explicit FlatView(std::vector<Range> ranges) : ranges_(std::move(ranges)) {}
  const Range* find(uint64_t address) const;  // nullptr in a hole
  const std::vector<Range>& ranges() const { return ranges_; }

 private:
  std::vector<Range> ranges_;
};

class ViewListener {
 public:
  virtual ~ViewListener() = default;
  virtual void on_view_changed(const FlatView& view) = 0;  // on the thread that changed the map
};

class AddressSpace {
 public:
  using MappingId = uint32_t;

  AddressSpace(std::string name, uint64_t size_bytes);
  ~AddressSpace();

  // Adds a range; higher priority hides lower, later wins among equals. Any thread.
  MappingId map(Range range, int priority = 0);
  void unmap(MappingId id);

  // The current view. The reference stays valid for the AddressSpace's life (views are retired, not freed,
  // until destruction).
  const FlatView& view() const { return *current_.load(std::memory_order_acquire); }

  // Access of 1, 2, 4 or 8 bytes as the bus does it: RAM and ROM directly, MMIO through the handler;
  // an access that spans ranges is split into bytes. Not for guest CPU stores to RAM (no marking).
  uint64_t read(uint64_t address, unsigned size_bytes) const;
  void write(uint64_t address, uint64_t value, unsigned size_bytes) const;

  void add_listener(ViewListener* listener);
  void remove_listener(ViewListener* listener);

 private:
  struct Mapping {
    MappingId id;
    int priority;
    Range range;
  };
  void publish();

  std::string name_;
  uint64_t size_bytes_;
  std::mutex mutex_;
  MappingId next_id_ = 1;
  std::vector<Mapping> mappings_;
  std::vector<std::unique_ptr<const FlatView>> views_;
  std::atomic<const FlatView*> current_;
  std::vector<ViewListener*> listeners_;
};

}  // namespace rhea::io
