// SPDX-License-Identifier: Apache-2.0
// The code cache's mappings and the block tables.
#include "dbt/runtime/block.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "dbt/runtime/code_cache.h"

namespace rhea::dbt {
namespace {

std::string permissions_of(uint64_t address) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    std::istringstream fields(line);
    uint64_t start = 0, end = 0;
    char dash = 0;
    std::string permissions;
    fields >> std::hex >> start >> dash >> end >> permissions;
    if (address >= start && address < end) return permissions;
  }
  return "none";
}

TEST(CodeCache, NoMappingIsWritableAndExecutable) {
  auto cache = CodeCache::create(1 << 20);
  ASSERT_TRUE(cache);
  EXPECT_EQ(permissions_of(reinterpret_cast<uint64_t>(cache->write_base())), "rw-s");
  EXPECT_EQ(permissions_of(cache->exec_base()), "r-xs");
  EXPECT_EQ(permissions_of(cache->exec_base() + (1 << 20) - 1), "r-xs");
}

TEST(CodeCache, BothMappingsAreTheSameMemory) {
  auto cache = CodeCache::create(1 << 20);
  ASSERT_TRUE(cache);
  const uint8_t code[] = {0xb8, 0x2a, 0, 0, 0, 0xc3};  // mov eax, 42; ret
  std::copy(std::begin(code), std::end(code), cache->position());
  const uint64_t entry = reinterpret_cast<uint64_t>(cache->position()) + static_cast<uint64_t>(cache->exec_delta());
  cache->commit(cache->position() + sizeof code);
  EXPECT_EQ(cache->used(), sizeof code);
  EXPECT_TRUE(cache->contains_exec(entry));
  EXPECT_FALSE(cache->contains_exec(cache->exec_base() + (1 << 20)));
  EXPECT_FALSE(cache->contains_exec(cache->exec_base() - 1));
  EXPECT_EQ(cache->writable(entry), cache->write_base());
  EXPECT_EQ(reinterpret_cast<int (*)()>(entry)(), 42);
}

TEST(CodeCache, ResetKeepsWhatCameBeforeTheResetPoint) {
  auto cache = CodeCache::create(1 << 20);
  ASSERT_TRUE(cache);
  cache->commit(cache->position() + 100);
  cache->set_reset_point();
  cache->commit(cache->position() + 1000);
  EXPECT_EQ(cache->room(), (1u << 20) - 1100);
  cache->reset();
  EXPECT_EQ(cache->used(), 100u);
}

TEST(CodeCache, MovingTakesTheMappingsAlong) {
  auto first = CodeCache::create(1 << 20);
  ASSERT_TRUE(first);
  const uint64_t exec = first->exec_base();
  {
    CodeCache second(std::move(*first));
    EXPECT_EQ(second.exec_base(), exec);
    EXPECT_EQ(permissions_of(exec), "r-xs");
  }
  EXPECT_EQ(permissions_of(exec).find('x'), std::string::npos);
}

TEST(Arena, ObjectsAreAlignedAndApartAndComeBack) {
  Arena arena;
  std::vector<Block*> blocks;
  for (int i = 0; i < 20000; ++i) {  // several chunks
    blocks.push_back(arena.make<Block>());
    ASSERT_EQ(reinterpret_cast<uint64_t>(blocks.back()) % alignof(Block), 0u);
    blocks.back()->physical = static_cast<uint64_t>(i);
  }
  for (size_t i = 0; i < blocks.size(); ++i) ASSERT_EQ(blocks[i]->physical, i);
  Block* const first = blocks[0];
  arena.reset();
  EXPECT_EQ(arena.make<Block>(), first);
}

struct BlockAt : Block {
  explicit BlockAt(uint64_t at, uint32_t mode_word = 2, uint16_t bytes = 10, uint64_t second = kNoPage) {
    physical = at;
    mode = mode_word;
    guest_bytes = bytes;
    second_page = second;
  }
};

std::vector<const Block*> on_page(const BlockMap& map, uint64_t page) {
  std::vector<const Block*> blocks;
  for (const Block* block = map.page_head(page); block; block = BlockMap::next_on_page(block, page))
    blocks.push_back(block);
  return blocks;
}

TEST(BlockMap, FindsByAddressAndMode) {
  BlockMap map;
  BlockAt a(0x1000), b(0x1000, 3), c(0x1010);
  for (Block* block : {&a, &b, &c}) map.insert(block);
  EXPECT_EQ(map.size(), 3u);
  EXPECT_EQ(map.find(0x1000, 2), &a);
  EXPECT_EQ(map.find(0x1000, 3), &b);
  EXPECT_EQ(map.find(0x1010, 2), &c);
  EXPECT_EQ(map.find(0x1010, 3), nullptr);
  EXPECT_EQ(map.find(0x1001, 2), nullptr);
  map.remove(&a);
  EXPECT_EQ(map.find(0x1000, 2), nullptr);
  EXPECT_EQ(map.find(0x1000, 3), &b);
  EXPECT_EQ(map.size(), 2u);
}

TEST(BlockMap, PageListsHoldWhatLiesOnThePage) {
  BlockMap map;
  BlockAt a(0x1000), b(0x1800), c(0x2000);
  for (Block* block : {&a, &b, &c}) map.insert(block);
  EXPECT_EQ(on_page(map, 0x1000), (std::vector<const Block*>{&b, &a}));
  EXPECT_EQ(on_page(map, 0x2000), (std::vector<const Block*>{&c}));
  EXPECT_TRUE(on_page(map, 0x3000).empty());
  map.remove(&b);
  EXPECT_EQ(on_page(map, 0x1000), (std::vector<const Block*>{&a}));
  map.remove(&a);
  EXPECT_EQ(map.page_head(0x1000), nullptr);
}

TEST(BlockMap, StraddlingBlocksAreOnBothPages) {
  BlockMap map;
  BlockAt straddling(0x1ffe, 2, 5, 0x7000);
  BlockAt other(0x1ffe, 2, 5, 0x9000);  // the same place where the next page lies elsewhere
  BlockAt low(0x1000), high(0x7010);
  for (Block* block : {&low, &straddling, &other, &high}) map.insert(block);
  EXPECT_EQ(map.find(0x1ffe, 2), nullptr);
  EXPECT_EQ(map.find(0x1ffe, 2, 0x7000), &straddling);
  EXPECT_EQ(map.find(0x1ffe, 2, 0x9000), &other);
  EXPECT_EQ(on_page(map, 0x1000), (std::vector<const Block*>{&other, &straddling, &low}));
  EXPECT_EQ(on_page(map, 0x7000), (std::vector<const Block*>{&high, &straddling}));
  map.remove(&straddling);
  EXPECT_EQ(map.find(0x1ffe, 2, 0x7000), nullptr);
  EXPECT_EQ(on_page(map, 0x1000), (std::vector<const Block*>{&other, &low}));
  EXPECT_EQ(on_page(map, 0x7000), (std::vector<const Block*>{&high}));
  EXPECT_EQ(on_page(map, 0x9000), (std::vector<const Block*>{&other}));
}

TEST(BlockMap, BothHalvesOnOnePhysicalPageAreListedOnce) {
  BlockMap map;
  BlockAt block(0x1ffe, 2, 5, 0x1000);
  map.insert(&block);
  EXPECT_EQ(on_page(map, 0x1000), (std::vector<const Block*>{&block}));
  map.remove(&block);
  EXPECT_EQ(map.page_head(0x1000), nullptr);
}

TEST(BlockMap, OverlapIsExact) {
  const BlockAt plain(0x1010, 2, 0x10);
  EXPECT_FALSE(plain.overlaps(0x1000, 0x1010));
  EXPECT_TRUE(plain.overlaps(0x1000, 0x1011));
  EXPECT_TRUE(plain.overlaps(0x101f, 0x1020));
  EXPECT_FALSE(plain.overlaps(0x1020, 0x1030));
  const BlockAt straddling(0x1ffe, 2, 5, 0x7000);
  EXPECT_TRUE(straddling.overlaps(0x1fff, 0x2000));
  EXPECT_FALSE(straddling.overlaps(0x2000, 0x2003));  // the next physical page is not the next linear one
  EXPECT_TRUE(straddling.overlaps(0x7002, 0x7003));
  EXPECT_FALSE(straddling.overlaps(0x7003, 0x7004));
}

TEST(BlockMap, ManyBlocksAndClear) {
  BlockMap map;
  std::deque<BlockAt> blocks;
  for (uint64_t i = 0; i < 50000; ++i) blocks.emplace_back(i * 64, static_cast<uint32_t>(i % 3));
  for (Block& block : blocks) map.insert(&block);
  for (uint64_t i = 0; i < blocks.size(); ++i) ASSERT_EQ(map.find(i * 64, static_cast<uint32_t>(i % 3)), &blocks[i]);
  for (uint64_t i = 0; i < blocks.size(); i += 2) map.remove(&blocks[i]);
  for (uint64_t i = 0; i < blocks.size(); ++i)
    ASSERT_EQ(map.find(i * 64, static_cast<uint32_t>(i % 3)), i % 2 ? &blocks[i] : nullptr);
  map.clear();
  EXPECT_EQ(map.size(), 0u);
  EXPECT_EQ(map.find(64, 1), nullptr);
  EXPECT_EQ(map.page_head(0), nullptr);
}

}  // namespace
}  // namespace rhea::dbt
