// SPDX-License-Identifier: Apache-2.0
// Guest RAM: layouts, bounds, metadata, and who hears of writes.
#include "memory/guest_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <set>
#include <thread>

#include "memory/access.h"

namespace rhea::memory {
namespace {

using Extent = GuestMemory::Extent;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1 << 30;

std::unique_ptr<GuestMemory> make(std::vector<Extent> extents) {
  auto memory = GuestMemory::create(extents, {.name = "memory-test"});
  EXPECT_TRUE(memory) << memory.error().to_string();
  return std::move(*memory);
}

std::vector<std::byte> pattern(size_t count, unsigned seed = 1) {
  std::vector<std::byte> bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>((i * 7 + seed) & 0xff);
  return bytes;
}

struct Recorder final : WriteObserver {
  void on_write(GuestPhysAddr start, uint64_t length_bytes) override { writes.emplace_back(start.value, length_bytes); }
  std::vector<std::pair<uint64_t, uint64_t>> writes;
};

TEST(GuestMemory, PcLayout) {
  auto memory = make({{{0}, 3 * kMiB}, {{4 * kGiB}, kMiB}});
  EXPECT_EQ(memory->total_bytes(), 4 * kMiB);
  ASSERT_EQ(memory->regions().size(), 2u);
  EXPECT_EQ(memory->host_pointer({0}, 1), memory->regions()[0].host);
  EXPECT_EQ(memory->host_pointer({4 * kGiB + 5}, 1), memory->regions()[1].host + 5);
  EXPECT_EQ(memory->host_pointer({3 * kMiB}, 1), nullptr);
  EXPECT_EQ(memory->host_pointer({4 * kGiB - 1}, 1), nullptr);
  EXPECT_EQ(memory->host_pointer({4 * kGiB - 1}, 2), nullptr);
  EXPECT_EQ(memory->host_pointer({5 * kGiB}, 0), nullptr);
  EXPECT_NE(memory->host_pointer({3 * kMiB - 4}, 4), nullptr);
  EXPECT_EQ(memory->host_pointer({3 * kMiB - 4}, 5), nullptr);
  EXPECT_EQ(memory->host_pointer({8}, ~uint64_t{0}), nullptr);
  EXPECT_EQ(memory->host_pointer({~uint64_t{0}}, 2), nullptr);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory->regions()[0].host) % (2 * kMiB), 0u);
}

TEST(GuestMemory, StartsZeroedAndIsSharedThroughTheDescriptor) {
  auto memory = make({{{0}, kMiB}, {{kGiB}, kMiB}});
  std::array<std::byte, 8> out{};
  ASSERT_TRUE(memory->read({kMiB - 8}, out));
  EXPECT_EQ(out, (std::array<std::byte, 8>{}));
  const auto data = pattern(100);
  ASSERT_TRUE(memory->write({kGiB + 16}, data));
  std::vector<std::byte> from_fd(100);
  ASSERT_EQ(::pread(memory->fd(), from_fd.data(), 100, static_cast<off_t>(kMiB + 16)), 100);
  EXPECT_EQ(from_fd, data);
}

TEST(GuestMemory, BadLayoutsAreRefused) {
  const std::pair<std::vector<Extent>, const char*> kCases[] = {
      {{}, "at least one region"},
      {{{{0}, 0}}, "is empty"},
      {{{{1}, 4096}}, "page-aligned"},
      {{{{0}, 4095}}, "page-aligned"},
      {{{{0}, kMiB}, {{kMiB - 4096}, kMiB}}, "overlaps"},
      {{{{kMiB}, kMiB}, {{0}, kMiB}}, "overlaps its predecessor or stands before it"},
      {{{{~uint64_t{0} - 4095}, 8192}}, "physical address space"},
      {{{{0}, ~uint64_t{0} - 4095}}, "physical address space"},
      {{{{0}, uint64_t{1} << 50}}, "more guest memory than a process can map"},
  };
  for (const auto& [extents, problem] : kCases) {
    const auto memory = GuestMemory::create(extents, {});
    ASSERT_FALSE(memory) << problem;
    EXPECT_EQ(memory.error().code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(memory.error().to_string(), HasSubstr(problem));
  }
}

TEST(GuestMemory, HugeGuestIsEitherMappedOrClearlyRefused) {
  const Extent extent{{0}, uint64_t{1} << 45};
  const auto memory = GuestMemory::create(std::span(&extent, 1), {});
  if (!memory) {
    EXPECT_EQ(memory.error().code(), ErrorCode::kExhausted);
    EXPECT_THAT(memory.error().to_string(), HasSubstr("cannot provide 32 TiB of guest memory"));
  } else {
    // Nothing is committed before it is touched, metadata included.
    (*memory)->page_meta({(uint64_t{1} << 45) - 1}).store(1);
  }
}

TEST(GuestMemory, ReadAndWriteCrossAdjacentRegionsButNoHole) {
  auto memory = make({{{0}, kMiB}, {{kMiB}, kMiB}, {{4 * kMiB}, kMiB}});
  const auto data = pattern(5000);
  ASSERT_TRUE(memory->write({kMiB - 2500}, data));
  std::vector<std::byte> out(5000);
  ASSERT_TRUE(memory->read({kMiB - 2500}, out));
  EXPECT_EQ(out, data);

  // Nothing is copied unless all is RAM.
  EXPECT_FALSE(memory->write({2 * kMiB - 10}, pattern(20, 99)));
  std::array<std::byte, 10> tail{};
  ASSERT_TRUE(memory->read({2 * kMiB - 10}, tail));
  EXPECT_EQ(tail, (std::array<std::byte, 10>{}));
  std::vector<std::byte> untouched(20, std::byte{0x77});
  EXPECT_FALSE(memory->read({2 * kMiB - 10}, untouched));
  EXPECT_EQ(untouched, std::vector<std::byte>(20, std::byte{0x77}));
  EXPECT_FALSE(memory->read({~uint64_t{0} - 3}, untouched));
  EXPECT_TRUE(memory->read({~uint64_t{0}}, {}));
}

TEST(GuestMemory, AllAlignmentsCopyRight) {
  auto memory = make({{{0}, kMiB}});
  for (size_t offset = 0; offset < 9; ++offset) {
    for (size_t length = 0; length < 40; ++length) {
      const auto data = pattern(length, static_cast<unsigned>(offset + length));
      ASSERT_TRUE(memory->write({1000}, std::vector<std::byte>(64)));
      ASSERT_TRUE(memory->write({1008 + offset}, data));
      std::vector<std::byte> out(length);
      ASSERT_TRUE(memory->read({1008 + offset}, out));
      ASSERT_EQ(out, data);
      std::array<std::byte, 1> around{};
      ASSERT_TRUE(memory->read({1008 + offset + length}, around));
      ASSERT_EQ(around[0], std::byte{0});
      ASSERT_TRUE(memory->read({1007 + offset}, around));
      ASSERT_EQ(around[0], std::byte{0});
    }
  }
}

TEST(GuestMemory, ObserversHearOfMarkedPagesOnlyInRuns) {
  auto memory = make({{{0}, kMiB}, {{kMiB}, kMiB}, {{4 * kGiB}, kMiB}});
  Recorder recorder;
  memory->add_observer(&recorder);
  ASSERT_TRUE(memory->write({0}, pattern(8192)));
  EXPECT_TRUE(recorder.writes.empty());

  for (uint64_t page : {1, 2, 4}) memory->page_meta({page * 4096}).store(kPageHasCode);
  memory->page_meta({4 * kGiB + 4096 + 7}).store(kPageDirtyTracked);
  ASSERT_TRUE(memory->write({4095}, pattern(1)));
  EXPECT_TRUE(recorder.writes.empty());
  ASSERT_TRUE(memory->write({4095}, pattern(2)));
  EXPECT_THAT(recorder.writes, ElementsAre(std::pair(4096, 4096)));
  recorder.writes.clear();
  memory->mark_written({0}, 6 * 4096);
  EXPECT_THAT(recorder.writes, ElementsAre(std::pair(4096, 8192), std::pair(16384, 4096)));
  recorder.writes.clear();
  memory->mark_written({0}, ~uint64_t{0});
  EXPECT_THAT(recorder.writes,
              ElementsAre(std::pair(4096, 8192), std::pair(16384, 4096), std::pair(4 * kGiB + 4096, 4096)));
  recorder.writes.clear();
  memory->mark_written({4096}, 0);
  memory->mark_written({2 * kMiB}, kMiB);
  memory->mark_written({~uint64_t{0}}, 16);
  EXPECT_TRUE(recorder.writes.empty());
  ASSERT_FALSE(memory->write({2 * kMiB - 4}, pattern(8)));
  EXPECT_TRUE(recorder.writes.empty());

  memory->remove_observer(&recorder);
  memory->mark_written({4096}, 1);
  EXPECT_TRUE(recorder.writes.empty());
}

TEST(GuestMemory, MetadataWordsAreOnePerPageAcrossRegions) {
  auto memory = make({{{0}, 2 * 4096}, {{4 * kGiB}, 2 * 4096}});
  std::set<std::atomic<uint32_t>*> words;
  for (uint64_t address : {uint64_t{0}, uint64_t{4096}, 4 * kGiB, 4 * kGiB + 4096}) {
    words.insert(&memory->page_meta({address}));
    EXPECT_EQ(&memory->page_meta({address}), &memory->page_meta({address + 4095}));
  }
  EXPECT_EQ(words.size(), 4u);
}

// A translator marks the page, then reads; a writer writes, then looks. One of the two must notice.
TEST(GuestMemory, NoWriteSlipsBetweenMarkAndRead) {
  auto memory = make({{{0}, kMiB}});
  struct Flag final : WriteObserver {
    void on_write(GuestPhysAddr, uint64_t) override { told.store(true); }
    std::atomic<bool> told{false};
  } flag;
  memory->add_observer(&flag);
  constexpr int kRounds = 5000;
  std::atomic<int> round{-1}, written{-1};
  std::thread writer([&] {
    for (int i = 0; i < kRounds; ++i) {
      while (round.load() < i) std::this_thread::yield();
      const std::byte value[1] = {static_cast<std::byte>(i + 1)};
      memory->write({64}, value);
      written.store(i);
    }
  });
  int missed = 0;
  for (int i = 0; i < kRounds; ++i) {
    memory->page_meta({64}).store(0);
    flag.told.store(false);
    round.store(i);
    memory->page_meta({64}).fetch_or(kPageHasCode);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const auto seen = load_relaxed<uint8_t>(memory->host_pointer({64}, 1));
    while (written.load() < i) std::this_thread::yield();
    if (seen != static_cast<uint8_t>(i + 1) && !flag.told.load()) ++missed;
  }
  writer.join();
  EXPECT_EQ(missed, 0);
  memory->remove_observer(&flag);
}

TEST(GuestMemory, WritersAndObserversComeAndGoConcurrently) {
  auto memory = make({{{0}, kMiB}});
  for (uint64_t page = 0; page < 256; ++page) memory->page_meta({page * 4096}).store(kPageDirtyTracked);
  struct Counter final : WriteObserver {
    void on_write(GuestPhysAddr, uint64_t length_bytes) override { bytes.fetch_add(length_bytes); }
    std::atomic<uint64_t> bytes{0};
  } always;
  memory->add_observer(&always);
  constexpr int kThreads = 3, kWrites = 500;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kWrites; ++i) memory->mark_written({static_cast<uint64_t>(t + i % 100) * 4096}, 1);
    });
  }
  for (int i = 0; i < 100; ++i) {
    Counter passing;
    memory->add_observer(&passing);
    memory->remove_observer(&passing);  // after which it may die: asan and tsan see to it
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(always.bytes.load(), uint64_t{kThreads} * kWrites * 4096);
  memory->remove_observer(&always);
}

TEST(GuestMemoryDeathTest, MetadataOfNoRamIsOurBug) {
  auto memory = make({{{0}, kMiB}});
  EXPECT_DEATH(memory->page_meta({kMiB}), "check failed");
}

TEST(Access, UnalignedLoadsAndStores) {
  alignas(8) std::array<std::byte, 24> bytes{};
  for (size_t at = 0; at < 16; ++at) {
    store_relaxed<uint64_t>(bytes.data() + at, 0x1122334455667788);
    EXPECT_EQ(load_relaxed<uint64_t>(bytes.data() + at), 0x1122334455667788u);
    EXPECT_EQ(load_relaxed<uint32_t>(bytes.data() + at + 1), 0x44556677u);
    EXPECT_EQ(load_relaxed<uint16_t>(bytes.data() + at + 3), 0x4455u);
    EXPECT_EQ(bytes[at], std::byte{0x88});
  }
}

}  // namespace
}  // namespace rhea::memory
