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
#include <utility>
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
  std::byte* host = nullptr;     // kRam, kRom: host address of `start`
  IoHandler* handler = nullptr;  // kMmio; for kRom: receives writes, may be nullptr (ignored)
  uint64_t handler_offset = 0;   // offset that the handler sees for `start`
  std::string name;

  uint64_t end() const { return start + size_bytes; }
  bool operator==(const Range&) const = default;
};

// Who sees a range: a processor in system management mode may see another memory than all else does.
enum class Seen : uint8_t { kAlways, kInSmm, kOutsideSmm };

// Immutable, sorted, non-overlapping. Holes read as all ones and ignore writes.
class FlatView {
 public:
  explicit FlatView(std::vector<Range> ranges, std::vector<Range> smm_ranges = {}, uint64_t address_mask = ~uint64_t{0})
      : ranges_(std::move(ranges)), smm_ranges_(std::move(smm_ranges)), address_mask_(address_mask) {}
  const Range* find(uint64_t address) const;  // nullptr in a hole
  const std::vector<Range>& ranges() const { return ranges_; }
  const std::vector<Range>& smm_ranges() const { return smm_ranges_; }  // as a processor in SMM sees them
  // The bits of an address that processors drive; see AddressSpace::set_address_mask().
  uint64_t address_mask() const { return address_mask_; }

 private:
  std::vector<Range> ranges_, smm_ranges_;
  uint64_t address_mask_;
};

class ViewListener {
 public:
  virtual ~ViewListener() = default;
  // On the thread that changed the map, with the map locked: it must not change the map, nor wait for another
  // thread that may be changing it.
  virtual void on_view_changed(const FlatView& view) = 0;
};

class AddressSpace {
 public:
  using MappingId = uint32_t;

  AddressSpace(std::string name, uint64_t size_bytes);
  ~AddressSpace();

  // Adds a range; higher priority hides lower, later wins among equals. Any thread. What only processors in SMM see,
  // read() and write() do not.
  MappingId map(Range range, int priority = 0, Seen seen = Seen::kAlways);
  void unmap(MappingId id);
  // Address lines that processors are held from driving read as zero: bits clear in `mask`. The engine applies it where
  // an address leaves the processor; read(), write() and devices' own accesses know nothing of it. Any thread.
  void set_address_mask(uint64_t mask);

  // The current view, for code that holds the reference for the moment of a look-up on a thread that cannot
  // fall behind the map's changes: a view is kept at least until it has been replaced kKeptViews times (a guest
  // may move a BAR for ever, so views cannot be kept for ever). Where another vCPU may change the map meanwhile any
  // thread can fall behind, if only because the host takes its processor away: those take a ViewGuard.
  const FlatView& view() const { return *current_.load(std::memory_order_acquire); }
  static constexpr size_t kKeptViews = 1024;

  // Holds the current view: it is not freed while the guard lives. For short look-ups; never held across a call
  // that may change a map or block.
  class ViewGuard {
   public:
    explicit ViewGuard(const AddressSpace& space) : space_(space) {
      space_.guards_.fetch_add(1, std::memory_order_seq_cst);
      view_ = space_.current_.load(std::memory_order_seq_cst);
    }
    ~ViewGuard() { space_.guards_.fetch_sub(1, std::memory_order_release); }
    ViewGuard(const ViewGuard&) = delete;
    ViewGuard& operator=(const ViewGuard&) = delete;
    const FlatView& operator*() const { return *view_; }
    const FlatView* operator->() const { return view_; }

   private:
    const AddressSpace& space_;
    const FlatView* view_;
  };

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
    Seen seen;
    Range range;
  };
  struct Target {  // what one address leads to; `available` bytes from there on lead to the same
    RangeKind kind = RangeKind::kMmio;
    std::byte* host = nullptr;
    IoHandler* handler = nullptr;
    uint64_t handler_offset = 0;
    uint64_t available = 0;
  };
  Target resolve(uint64_t address) const;
  static uint64_t read_target(const Target& target, unsigned size_bytes);
  static void write_target(const Target& target, uint64_t value, unsigned size_bytes);
  std::vector<Range> overlay(Seen hidden) const;
  void publish();
  void free_old_views();

  std::string name_;
  uint64_t size_bytes_;
  uint64_t address_mask_ = ~uint64_t{0};
  std::mutex mutex_;
  MappingId next_id_ = 1;
  std::vector<Mapping> mappings_;
  std::vector<std::unique_ptr<const FlatView>> views_;  // oldest first, the current one last
  std::atomic<const FlatView*> current_{nullptr};
  mutable std::atomic<uint32_t> guards_{0};
  std::vector<ViewListener*> listeners_;
};

}  // namespace rhea::io
