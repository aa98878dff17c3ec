// SPDX-License-Identifier: Apache-2.0
// Which memory slots a view becomes, and the gate that holds processors out of guest mode meanwhile.
#include "engine/kvm/memory_slots.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "engine/kvm/run_gate.h"

namespace rhea::engine_kvm {
namespace {

using io::FlatView;
using io::Range;
using io::RangeKind;

std::byte* host(uint64_t address) { return reinterpret_cast<std::byte*>(address); }

Range range(uint64_t start, uint64_t size, RangeKind kind, uint64_t host_address) {
  return {.start = start, .size_bytes = size, .kind = kind, .host = host(host_address)};
}

TEST(MemorySlots, RamAndRomBecomeSlotsDevicesDoNot) {
  const FlatView view({range(0, 0x10000, RangeKind::kRam, 0x7000000), range(0x10000, 0x1000, RangeKind::kMmio, 0),
                       range(0x20000, 0x2000, RangeKind::kRom, 0x8000000)});
  const auto slots = slots_of(view, true);
  ASSERT_EQ(slots.size(), 2u);
  EXPECT_TRUE(slots[0].same_memory({.start = 0, .size_bytes = 0x10000, .host = host(0x7000000)}));
  EXPECT_TRUE(
      slots[1].same_memory({.start = 0x20000, .size_bytes = 0x2000, .host = host(0x8000000), .read_only = true}));
  EXPECT_EQ(slots_of(view, false).size(), 1u);
}

TEST(MemorySlots, OnlyWholePages) {
  const FlatView view({range(0x800, 0x2000, RangeKind::kRam, 0x7000800),
                       range(0x3000, 0x800, RangeKind::kRam, 0x7003000),
                       range(0x8000, 0x1000, RangeKind::kRam, 0x7008010)});
  const auto slots = slots_of(view, true);
  ASSERT_EQ(slots.size(), 1u);
  EXPECT_TRUE(slots[0].same_memory({.start = 0x1000, .size_bytes = 0x1000, .host = host(0x7001000)}));
}

TEST(RunGate, AChangeWaitsUntilEverybodyIsOutAndKeepsThemOut) {
  RunGate gate;
  std::atomic<bool> asked{false}, changed{false}, entered_after{false};
  gate.add([&] { asked = true; });
  gate.add([] {});
  gate.enter(0);
  std::thread changer([&] { gate.with_all_out([&] { changed = true; }); });
  while (!asked) std::this_thread::yield();
  EXPECT_FALSE(changed);
  std::thread other([&] {
    gate.enter(1);
    entered_after = changed.load();
    gate.leave(1);
  });
  gate.leave(0);
  changer.join();
  other.join();
  EXPECT_TRUE(changed);
}

TEST(RunGate, ChangesOfManyThreadsAndProcessorsThatRun) {
  RunGate gate;
  constexpr unsigned kProcessors = 4, kChanges = 200;
  std::atomic<unsigned> inside{0}, overlaps{0}, changes{0};
  std::vector<std::atomic<bool>> wanted(kProcessors);
  for (unsigned i = 0; i < kProcessors; ++i) gate.add([&wanted, i] { wanted[i] = true; });
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kProcessors; ++i)
    threads.emplace_back([&, i] {
      while (!done) {
        wanted[i] = false;
        gate.enter(i);
        ++inside;
        for (unsigned spin = 0; spin < 100 && !wanted[i]; ++spin) std::this_thread::yield();
        --inside;
        gate.leave(i);
      }
    });
  std::vector<std::thread> changers;
  for (unsigned i = 0; i < 2; ++i)
    changers.emplace_back([&] {
      for (unsigned n = 0; n < kChanges; ++n)
        gate.with_all_out([&] {
          overlaps += inside != 0;
          ++changes;
        });
    });
  for (std::thread& thread : changers) thread.join();
  done = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(overlaps, 0u);
  EXPECT_EQ(changes, 2 * kChanges);
}

}  // namespace
}  // namespace rhea::engine_kvm
