// SPDX-License-Identifier: Apache-2.0
// Guest RAM: memfd blocks at stable host addresses, one metadata word per page, write observers.
//
// Every write to guest RAM that is not a guest CPU store (device DMA, loader, restore) goes through
// write() / mark_written() here, so that whoever watches pages (translated code, dirty logs) learns of
// it before the write's completion is visible to the guest.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "memory/guest_phys_addr.h"

namespace rhea::memory {

// Bits of a page's metadata word (GuestMemory::page_meta).
inline constexpr uint32_t kPageHasCode = 1u << 0;       // a translator holds blocks made from this page
inline constexpr uint32_t kPageDirtyTracked = 1u << 1;  // a dirty log wants to hear of the next write
inline constexpr uint32_t kPageRevoking = 1u << 2;      // becoming a code page: vCPUs are giving up writing it unseen
inline constexpr uint32_t kPageWatched = kPageHasCode | kPageDirtyTracked | kPageRevoking;
// Bits 8-31: groups of vCPUs that may write the page without looking here. Of no interest to other writers.
inline constexpr uint32_t kPageWriterShift = 8, kPageWriterBits = 24;

// Told of writes to pages of which a kPageWatched bit is set. Called on the writing thread, possibly on several at
// once, with runs of whole pages. It must not write guest RAM through GuestMemory nor change the observers.
class WriteObserver {
 public:
  virtual ~WriteObserver() = default;
  virtual void on_write(GuestPhysAddr start, uint64_t length_bytes) = 0;
};

// One contiguous piece of guest RAM. `host` is stable for the life of the GuestMemory.
struct RamRegion {
  GuestPhysAddr start;
  uint64_t size_bytes = 0;
  std::byte* host = nullptr;
};

class GuestMemory {
 public:
  struct Options {
    std::string name = "rhea-ram";
  };

  // `regions`: (start, size) pairs, page-aligned, ascending, disjoint. One memfd backs them all.
  // Errors: kInvalidArgument for a bad layout, kExhausted if the host cannot map it.
  struct Extent {
    GuestPhysAddr start;
    uint64_t size_bytes;
  };
  static Result<std::unique_ptr<GuestMemory>> create(std::span<const Extent> extents, const Options& options);
  ~GuestMemory();
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  std::span<const RamRegion> regions() const { return regions_; }
  uint64_t total_bytes() const { return total_bytes_; }
  int fd() const { return fd_.get(); }  // the memfd; regions follow one another in it

  // Host pointer to [start, start+length), or nullptr unless all of it is RAM in one region. Any thread.
  std::byte* host_pointer(GuestPhysAddr start, uint64_t length_bytes) const;

  // Copies from / to RAM; false (and nothing copied) unless the whole range is RAM. write() marks.
  bool read(GuestPhysAddr start, std::span<std::byte> out) const;
  bool write(GuestPhysAddr start, std::span<const std::byte> data);

  // Gives the whole pages within [start, start+length) back to the host, as far as they are RAM: they read as zeros
  // from now on, and take memory again once they are written. Announced like any write. Any thread. Returns how many
  // bytes those pages have.
  uint64_t discard(GuestPhysAddr start, uint64_t length_bytes);

  // Announces that [start, start+length) was or is about to be made visible as written. Any thread.
  void mark_written(GuestPhysAddr start, uint64_t length_bytes);

  // The metadata word of the page holding `address`; address must be RAM.
  std::atomic<uint32_t>& page_meta(GuestPhysAddr address);

  // Observers outlive their registration; add/remove from any thread, not from on_write. After
  // remove_observer() no call is running or comes.
  void add_observer(WriteObserver* observer);
  void remove_observer(WriteObserver* observer);

 private:
  GuestMemory() = default;
  const RamRegion* find(GuestPhysAddr address) const;
  bool covers(GuestPhysAddr start, uint64_t length_bytes) const;
  void mark_pages(const RamRegion& region, uint64_t first_index, uint64_t first, uint64_t last);

  std::vector<RamRegion> regions_;
  std::vector<uint64_t> first_page_index_;  // index into page_meta_ of each region's first page
  base::UniqueMapping page_meta_mapping_;   // mapped, not allocated: untouched pages of it cost nothing
  std::atomic<uint32_t>* page_meta_ = nullptr;
  uint64_t total_bytes_ = 0;
  base::UniqueFd fd_;
  base::UniqueMapping mapping_;
  std::shared_mutex observers_mutex_;  // shared while observers are told, exclusive to change them
  std::vector<WriteObserver*> observers_;
};

}  // namespace rhea::memory
