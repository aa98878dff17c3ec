// SPDX-License-Identifier: Apache-2.0
// Address spaces: overlay against a byte-by-byte model, accesses, listeners, views under change.
#include "io/address_space.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <thread>

namespace rhea::io {
namespace {

using ::testing::ElementsAre;

struct Access {
  char kind;
  uint64_t offset;
  uint64_t value;
  unsigned size_bytes;
  bool operator==(const Access&) const = default;
};

// Reads return the offset in every byte; everything is recorded.
class Recorder final : public IoHandler {
 public:
  uint64_t io_read(uint64_t offset, unsigned size_bytes) override {
    accesses.push_back({'r', offset, 0, size_bytes});
    return 0x0101010101010101 * (offset & 0xff);
  }
  void io_write(uint64_t offset, uint64_t value, unsigned size_bytes) override {
    accesses.push_back({'w', offset, value, size_bytes});
  }
  std::vector<Access> accesses;
};

Range mmio(uint64_t start, uint64_t size, IoHandler* handler) {
  return {.start = start, .size_bytes = size, .kind = RangeKind::kMmio, .handler = handler, .name = "mmio"};
}

TEST(AddressSpace, HolesReadAsOnesAndIgnoreWrites) {
  AddressSpace space("test", 0x10000);
  EXPECT_EQ(space.read(0x10, 1), 0xffu);
  EXPECT_EQ(space.read(0x10, 2), 0xffffu);
  EXPECT_EQ(space.read(0x10, 8), ~uint64_t{0});
  EXPECT_EQ(space.read(0xffff, 4), 0xffffffffu);
  EXPECT_EQ(space.read(~uint64_t{0} - 1, 8), ~uint64_t{0});
  space.write(~uint64_t{0}, 1, 8);
  EXPECT_EQ(space.view().find(0), nullptr);
}

TEST(AddressSpace, HandlerSeesOffsetsAndSizes) {
  AddressSpace space("test", 0x10000);
  Recorder device;
  Range range = mmio(0x3f8, 8, &device);
  range.handler_offset = 0x100;
  space.map(range);
  EXPECT_EQ(space.read(0x3f9, 2), 0x0101u);
  space.write(0x3fc, 0xaabbccdd11223344, 4);
  EXPECT_THAT(device.accesses, ElementsAre(Access{'r', 0x101, 0, 2}, Access{'w', 0x104, 0x11223344, 4}));
}

TEST(AddressSpace, AccessAcrossRangesIsSplitIntoBytes) {
  AddressSpace space("test", 0x10000);
  Recorder left, right;
  space.map(mmio(0x100, 4, &left));
  space.map(mmio(0x104, 2, &right));
  EXPECT_EQ(space.read(0x102, 8), 0xffff'ffff'0100'0302u);
  EXPECT_THAT(left.accesses, ElementsAre(Access{'r', 2, 0, 1}, Access{'r', 3, 0, 1}));
  EXPECT_THAT(right.accesses, ElementsAre(Access{'r', 0, 0, 1}, Access{'r', 1, 0, 1}));
  left.accesses.clear();
  right.accesses.clear();
  space.write(0x103, 0x44332211, 4);
  EXPECT_THAT(left.accesses, ElementsAre(Access{'w', 3, 0x11, 1}));
  EXPECT_THAT(right.accesses, ElementsAre(Access{'w', 0, 0x22, 1}, Access{'w', 1, 0x33, 1}));
}

TEST(AddressSpace, RamAndRom) {
  AddressSpace space("test", 0x10000);
  alignas(8) std::array<std::byte, 64> ram{}, rom{};
  rom.fill(std::byte{0x5a});
  Recorder flash;
  space.map({.start = 0x1000, .size_bytes = 64, .kind = RangeKind::kRam, .host = ram.data(), .name = "ram"});
  space.map({.start = 0x1040, .size_bytes = 64, .kind = RangeKind::kRom, .host = rom.data(), .name = "rom"});
  space.map({.start = 0x2000,
             .size_bytes = 64,
             .kind = RangeKind::kRom,
             .host = rom.data(),
             .handler = &flash,
             .name = "flash"});
  space.write(0x1003, 0x8877665544332211, 8);
  EXPECT_EQ(space.read(0x1003, 8), 0x8877665544332211u);
  EXPECT_EQ(ram[3], std::byte{0x11});
  EXPECT_EQ(ram[2], std::byte{0});
  EXPECT_EQ(ram[11], std::byte{0});
  space.write(0x1044, 0, 4);
  EXPECT_EQ(space.read(0x1044, 4), 0x5a5a5a5au);
  space.write(0x2010, 0x90, 1);
  EXPECT_EQ(space.read(0x2010, 1), 0x5au);
  EXPECT_THAT(flash.accesses, ElementsAre(Access{'w', 0x10, 0x90, 1}));
  space.write(0x103e, 0x44332211, 4);  // the upper half falls on ROM
  EXPECT_EQ(space.read(0x103e, 4), 0x5a5a2211u);
}

TEST(AddressSpace, PriorityHidesAndUnmapUncovers) {
  AddressSpace space("test", 0x10000);
  Recorder low, high, later;
  space.map(mmio(0x0, 0x1000, &low));
  const auto window = space.map(mmio(0x400, 0x100, &high), 1);
  const auto same = space.map(mmio(0x200, 0x100, &later));
  ASSERT_EQ(space.view().ranges().size(), 5u);
  EXPECT_EQ(space.view().find(0x450)->handler, &high);
  EXPECT_EQ(space.view().find(0x2ff)->handler, &later);
  EXPECT_EQ(space.view().find(0x300)->handler, &low);
  EXPECT_EQ(space.view().find(0x500)->handler_offset, 0x500u);
  space.unmap(window);
  space.unmap(same);
  space.unmap(same);
  ASSERT_EQ(space.view().ranges().size(), 1u);
  EXPECT_EQ(space.view().ranges()[0].size_bytes, 0x1000u);
}

TEST(AddressSpace, RangesAreCutAtTheEndOfTheSpace) {
  AddressSpace space("test", 0x10000);
  Recorder device;
  space.map(mmio(0xfff0, 0x100, &device));
  space.map(mmio(0x20000, 0x100, &device));
  space.map(mmio(~uint64_t{0} - 10, 100, &device));
  space.map(mmio(0x100, 0, &device));
  ASSERT_EQ(space.view().ranges().size(), 1u);
  EXPECT_EQ(space.view().ranges()[0].end(), 0x10000u);
}

TEST(AddressSpace, RandomOverlaysMatchAModel) {
  constexpr uint64_t kSize = 256;
  std::mt19937 random(1);
  Recorder handler;
  for (int round = 0; round < 200; ++round) {
    AddressSpace space("test", kSize);
    struct Model {
      AddressSpace::MappingId id;
      int priority;
      uint64_t start, size;
    };
    std::vector<Model> model;
    for (int step = 0; step < 12; ++step) {
      if (!model.empty() && random() % 4 == 0) {
        const size_t victim = random() % model.size();
        space.unmap(model[victim].id);
        model.erase(model.begin() + static_cast<ptrdiff_t>(victim));
      } else {
        Model added{0, static_cast<int>(random() % 3), random() % kSize, 1 + random() % 80};
        Range range = mmio(added.start, added.size, &handler);
        range.handler_offset = 1000 * (random() % 50);  // tells mappings apart
        added.id = space.map(range, added.priority);
        model.push_back(added);
      }
      uint64_t previous_end = 0;
      for (const Range& range : space.view().ranges()) {
        ASSERT_GE(range.start, previous_end);
        ASSERT_GT(range.size_bytes, 0u);
        previous_end = range.end();
      }
      for (uint64_t address = 0; address < kSize; ++address) {
        const Model* top = nullptr;
        for (const Model& each : model) {
          if (address < each.start || address - each.start >= each.size) continue;
          if (top == nullptr || each.priority >= top->priority) top = &each;
        }
        const Range* found = space.view().find(address);
        ASSERT_EQ(found != nullptr, top != nullptr) << address;
        if (top != nullptr) {
          ASSERT_EQ((found->handler_offset + (address - found->start)) % 1000, (address - top->start) % 1000);
        }
      }
    }
  }
}

TEST(AddressSpace, ListenersHearOfVisibleChangesOnly) {
  struct Listener final : ViewListener {
    void on_view_changed(const FlatView& view) override { sizes.push_back(view.ranges().size()); }
    std::vector<size_t> sizes;
  } listener;
  AddressSpace space("test", 0x10000);
  Recorder low, high;
  space.add_listener(&listener);
  const auto top = space.map(mmio(0, 0x1000, &high), 1);
  space.map(mmio(0x100, 0x100, &low));  // hidden
  EXPECT_THAT(listener.sizes, ElementsAre(1));
  space.unmap(top);
  EXPECT_THAT(listener.sizes, ElementsAre(1, 1));
  space.remove_listener(&listener);
  space.map(mmio(0x8000, 0x100, &low));
  EXPECT_EQ(listener.sizes.size(), 2u);
}

TEST(AddressSpace, ProcessorsInSmmSeeAnotherMemory) {
  AddressSpace space("test", 0x10000);
  std::array<std::byte, 0x1000> ram{}, hidden{};
  space.map({.start = 0, .size_bytes = 0x1000, .kind = RangeKind::kRam, .host = ram.data(), .name = "ram"});
  const auto smram =
      space.map({.start = 0x800, .size_bytes = 0x100, .kind = RangeKind::kRam, .host = hidden.data(), .name = "smram"},
                1, Seen::kInSmm);
  const auto hole = space.map({.start = 0xf00, .size_bytes = 0x100, .name = "tseg"}, 1, Seen::kOutsideSmm);
  space.write(0x800, 0x55, 1);
  EXPECT_EQ(std::to_integer<int>(ram[0x800]), 0x55) << "the bus is outside";
  EXPECT_EQ(space.read(0xf00, 1), 0xffu);
  EXPECT_EQ(space.view().ranges().size(), 2u);
  ASSERT_EQ(space.view().smm_ranges().size(), 3u);
  EXPECT_EQ(space.view().smm_ranges()[1].host, hidden.data());
  EXPECT_EQ(space.view().smm_ranges()[2].end(), 0x1000u);
  space.unmap(smram);
  space.unmap(hole);
  EXPECT_EQ(space.view().ranges(), space.view().smm_ranges());
}

TEST(AddressSpace, AddressMaskIsPartOfTheView) {
  struct Listener final : ViewListener {
    void on_view_changed(const FlatView& view) override { masks.push_back(view.address_mask()); }
    std::vector<uint64_t> masks;
  } listener;
  AddressSpace space("test", 0x1000000);
  space.add_listener(&listener);
  EXPECT_EQ(space.view().address_mask(), ~uint64_t{0});
  space.set_address_mask(~uint64_t{0x100000});
  space.set_address_mask(~uint64_t{0x100000});
  EXPECT_EQ(space.view().address_mask(), ~uint64_t{0x100000});
  space.set_address_mask(~uint64_t{0});
  EXPECT_THAT(listener.masks, ElementsAre(~uint64_t{0x100000}, ~uint64_t{0}));
  space.remove_listener(&listener);
}

TEST(AddressSpace, HandlerMayChangeTheMap) {
  struct Remapper final : IoHandler {
    uint64_t io_read(uint64_t, unsigned) override { return 1; }
    void io_write(uint64_t, uint64_t value, unsigned) override {
      space->unmap(id);
      id = space->map({.start = value, .size_bytes = 0x10, .handler = this, .name = "bar"});
    }
    AddressSpace* space = nullptr;
    AddressSpace::MappingId id = 0;
  } bar;
  AddressSpace space("test", uint64_t{1} << 32);
  bar.space = &space;
  bar.id = space.map({.start = 0, .size_bytes = 0x10, .handler = &bar, .name = "bar"});
  // A guest that moves a BAR for ever: the views it leaves behind are freed on the way (see also the asan run).
  uint64_t at = 0;
  for (uint64_t i = 1; i < 10000; ++i) {
    space.write(at, i * 16, 4);
    at = i * 16;
    ASSERT_EQ(space.read(at, 1), 1u);
  }
  EXPECT_EQ(space.view().ranges().size(), 1u);
}

TEST(AddressSpace, ReadersAndChangersConcurrently) {
  AddressSpace space("test", 0x10000);
  struct Constant final : IoHandler {
    uint64_t io_read(uint64_t, unsigned) override { return 7; }
    void io_write(uint64_t, uint64_t, unsigned) override {}
  } fixed, moving;
  space.map({.start = 0, .size_bytes = 0x100, .handler = &fixed, .name = "fixed"});
  std::atomic<bool> done{false};
  std::atomic<uint64_t> wrong{0}, reads{0};
  std::vector<std::thread> readers;
  for (int t = 0; t < 2; ++t) {
    readers.emplace_back([&] {
      while (!done.load()) {
        if (space.read(0x10, 1) != 7) ++wrong;
        const AddressSpace::ViewGuard guard(space);
        for (const Range& range : guard->ranges()) {
          if (range.name != "fixed" && range.name != "moving") ++wrong;
        }
        ++reads;
      }
    });
  }
  for (uint64_t i = 0; i < 10000; ++i) {
    const auto id = space.map({.start = 0x1000 + i, .size_bytes = 0x10, .handler = &moving, .name = "moving"});
    space.unmap(id);
  }
  while (reads.load() < 100) std::this_thread::yield();
  done.store(true);
  for (auto& reader : readers) reader.join();
  EXPECT_EQ(wrong.load(), 0u);
}

}  // namespace
}  // namespace rhea::io
