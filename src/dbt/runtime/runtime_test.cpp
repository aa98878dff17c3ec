// SPDX-License-Identifier: Apache-2.0
// The runtime under a tiny guest: faults in the middle of blocks, TLBs, code that changes, exact counts, stops.
#include "dbt/runtime/runtime.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include "dbt/runtime/runtime_fake.h"

namespace rhea::dbt {
namespace {

using Bytes = std::vector<uint8_t>;

Bytes operator+(Bytes left, const Bytes& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}
Bytes little_endian(uint64_t value, unsigned size) {
  Bytes bytes;
  for (unsigned i = 0; i < size; ++i) bytes.push_back(static_cast<uint8_t>(value >> (8 * i)));
  return bytes;
}

// ---- instructions ----
const Bytes kHlt{0xf4}, kNop{0x90}, kRet{0xc3}, kIncEax{0xff, 0xc0}, kIncEbx{0xff, 0xc3}, kDecEcx{0xff, 0xc9},
    kStc{0xf9}, kSti{0xfb};
Bytes mov(unsigned gpr, uint64_t value) {
  return Bytes{0x48, static_cast<uint8_t>(0xb8 + gpr)} + little_endian(value, 8);
}  // gpr < 8
Bytes mov32(unsigned gpr, uint32_t value) { return Bytes{static_cast<uint8_t>(0xb8 + gpr)} + little_endian(value, 4); }
Bytes load_rax(uint64_t address) { return Bytes{0x48, 0xa1} + little_endian(address, 8); }
Bytes store_al(uint64_t address) { return Bytes{0xa2} + little_endian(address, 8); }
Bytes store_rax(uint64_t address) { return Bytes{0x48, 0xa3} + little_endian(address, 8); }
Bytes jump(uint64_t from, uint64_t to) { return Bytes{0xe9} + little_endian(to - from - 5, 4); }
Bytes jump_not_zero(int offset) { return Bytes{0x75, static_cast<uint8_t>(offset)}; }
const Bytes kCallRdx{0xff, 0xd2}, kInvlpgRdi{0x0f, 0x01, 0x3f}, kReloadCr3{0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8};

using G = RuntimeGuest;

class RuntimeTest : public testing::TestWithParam<int> {
 protected:
  static RuntimeOptions options() {
    return {.opt_level = GetParam(), .instruction_clock = true, .code_cache_bytes = 4 << 20};
  }
  // Puts code at kCode and runs it.
  ExitReason run(const Bytes& code, int64_t instructions = G::kLimit) {
    guest.put(G::kCode, code);
    return guest.run(G::kCode, instructions);
  }
  RuntimeGuest guest{options()};
};
INSTANTIATE_TEST_SUITE_P(Levels, RuntimeTest, testing::Values(0, 1),
                         [](const auto& level) { return level.param ? "Optimised" : "Reference"; });

TEST_P(RuntimeTest, RunsToHlt) {
  EXPECT_EQ(run(mov(cpu::kRax, 0x123456789abcdef0) + kHlt), ExitReason::kHalted);
  EXPECT_EQ(guest.gpr(cpu::kRax), 0x123456789abcdef0u);
  EXPECT_EQ(guest.state().rip, G::kCode + 11);
  EXPECT_EQ(guest.executed(), 2);
}

// ---- faults in the middle of a block ----

TEST_P(RuntimeTest, PageFaultInTheMiddleOfABlockIsExact) {
  guest.map_page(G::kData, 0, 0);
  const Bytes before = mov(cpu::kRdi, G::kData + 8) + kIncEax + kIncEax + kStc;
  EXPECT_EQ(run(before + Bytes{0x89, 0x1f} + kIncEax + kHlt), ExitReason::kHalted);
  EXPECT_EQ(guest.vector(), kPageFault);
  EXPECT_EQ(guest.gpr(cpu::kRax), 2u);
  EXPECT_EQ(guest.state().cr2, G::kData + 8);
  EXPECT_EQ(guest.stacked(0), 2u);  // a write, not present
  EXPECT_EQ(guest.stacked(1), G::kCode + before.size());
  EXPECT_TRUE(guest.stacked(3) & cpu::rflags::kCf);
  EXPECT_EQ(guest.executed(), 5);  // four and the handler's HLT
}

TEST_P(RuntimeTest, DivideErrorInTheMiddleOfABlockIsExact) {
  const Bytes before = mov32(cpu::kRax, 7) + mov32(cpu::kRdx, 9) + mov32(cpu::kRcx, 0) + kIncEbx + kStc;
  EXPECT_EQ(run(before + Bytes{0xf7, 0xf1} /* div ecx */ + kIncEbx + kHlt), ExitReason::kHalted);
  EXPECT_EQ(guest.vector(), kDivideError);
  EXPECT_EQ(guest.gpr(cpu::kRax), 7u);
  EXPECT_EQ(guest.gpr(cpu::kRdx), 9u);
  EXPECT_EQ(guest.gpr(cpu::kRbx), 1u);
  EXPECT_EQ(guest.stacked(0), G::kCode + before.size());
  EXPECT_TRUE(guest.stacked(2) & cpu::rflags::kCf);
  EXPECT_EQ(guest.executed(), 6);
}

TEST_P(RuntimeTest, NonCanonicalAccessIsAGeneralProtectionFault) {
  const Bytes before = mov(cpu::kRdi, 0x0001'0000'0000'0000) + kIncEax;
  EXPECT_EQ(run(before + Bytes{0x8b, 0x1f} + kHlt), ExitReason::kHalted);
  EXPECT_EQ(guest.vector(), kGeneralProtection);
  EXPECT_EQ(guest.stacked(1), G::kCode + before.size());
}

TEST_P(RuntimeTest, StoreAcrossPagesThatFaultsOnTheSecondChangesNothing) {
  guest.map_page(G::kData + 0x1000, 0, 0);
  guest.put64(G::kData + 0xff8, 0x1111111111111111);
  EXPECT_EQ(run(mov(cpu::kRax, ~uint64_t{0}) + store_rax(G::kData + 0xffc) + kHlt), ExitReason::kHalted);
  EXPECT_EQ(guest.vector(), kPageFault);
  EXPECT_EQ(guest.state().cr2, G::kData + 0x1000);
  EXPECT_EQ(guest.get64(G::kData + 0xff8), 0x1111111111111111u);
}

TEST_P(RuntimeTest, FetchFaultOnTheSecondPageOfAStraddlingInstruction) {
  const uint64_t rip = G::kCode + 0xffe;
  guest.put(rip, {0xb8, 0x01});
  guest.map_page(G::kCode + 0x1000, 0, 0);
  EXPECT_EQ(guest.run(rip), ExitReason::kHalted);
  EXPECT_EQ(guest.vector(), kPageFault);
  EXPECT_EQ(guest.state().cr2, G::kCode + 0x1000);
  EXPECT_EQ(guest.stacked(1), rip);
}

// ---- TLB ----

TEST_P(RuntimeTest, TranslationsAreKeptUntilInvlpg) {
  guest.put64(G::kData, 1);
  guest.put64(G::kData + 0x1000, 2);
  EXPECT_EQ(run(load_rax(G::kData) + kHlt), ExitReason::kHalted);
  EXPECT_EQ(guest.gpr(cpu::kRax), 1u);
  const uint64_t misses = guest.runtime->counters().tlb_misses;
  guest.map_page(G::kData, G::kData + 0x1000);
  EXPECT_EQ(guest.run(G::kCode), ExitReason::kHalted);
  EXPECT_EQ(guest.gpr(cpu::kRax), 1u);
  EXPECT_EQ(guest.runtime->counters().tlb_misses, misses);
  EXPECT_EQ(run(mov(cpu::kRdi, G::kData + 0x123) + kInvlpgRdi + load_rax(G::kData) + kHlt), ExitReason::kHalted);
  EXPECT_EQ(guest.gpr(cpu::kRax), 2u);
}

TEST_P(RuntimeTest, InvlpgOfOnePlaceForgetsTheWholeLargePage) {
  guest.put64(G::kFar, 1);
  guest.put64(G::kFar + 0x5000, 2);
  guest.put64(G::kFar + 0x205000, 3);
  EXPECT_EQ(run(load_rax(G::kFar) + load_rax(G::kFar + 0x5000) + kHlt), ExitReason::kHalted);
  EXPECT_EQ(guest.gpr(cpu::kRax), 2u);
  guest.put64(G::kTables + 0x4000 + 8 * (G::kFar >> 21), (G::kFar + 0x200000) | G::kPresent | G::kWritable | G::kLarge);
  EXPECT_EQ(run(mov(cpu::kRdi, G::kFar) + kInvlpgRdi + load_rax(G::kFar + 0x5000) + kHlt), ExitReason::kHalted);
  EXPECT_EQ(guest.gpr(cpu::kRax), 3u);
}

TEST_P(RuntimeTest, ReloadingCr3KeepsGlobalPagesOnly) {
  guest.state().cr4 |= cpu::cr4::kPge;
  constexpr uint64_t kGlobal = 1 << 8;
  guest.map_page(G::kData, G::kData, G::kPresent | G::kWritable | kGlobal);
  guest.put64(G::kData, 1);
  guest.put64(G::kData + 0x1000, 2);
  guest.put64(G::kData + 0x2000, 3);
  const Bytes loads =
      load_rax(G::kData) + Bytes{0x48, 0x89, 0xc3} /* mov rbx,rax */ + load_rax(G::kData + 0x1000) + kHlt;
  EXPECT_EQ(run(loads), ExitReason::kHalted);
  guest.map_page(G::kData, G::kData + 0x2000, G::kPresent | G::kWritable | kGlobal);
  guest.map_page(G::kData + 0x1000, G::kData + 0x2000);
  EXPECT_EQ(run(kReloadCr3 + loads), ExitReason::kHalted);
  EXPECT_EQ(guest.gpr(cpu::kRbx), 1u);  // global: still there
  EXPECT_EQ(guest.gpr(cpu::kRax), 3u);
}

TEST_P(RuntimeTest, WritesSetDirtyEvenAfterAReadHasFilledTheTlb) {
  EXPECT_EQ(run(load_rax(G::kData) + kHlt), ExitReason::kHalted);
  const uint64_t entry = G::kSmallTable + (G::kData >> 12) * 8;
  EXPECT_EQ(guest.get64(entry) & 0x60, 0x20u);  // accessed, clean
  EXPECT_EQ(run(store_rax(G::kData) + kHlt), ExitReason::kHalted);
  EXPECT_EQ(guest.get64(entry) & 0x60, 0x60u);
}

TEST_P(RuntimeTest, CodeIsFetchedFromWhereThePageLiesNow) {
  guest.put(G::kCode + 0x2000, mov32(cpu::kRax, 1) + kRet);
  guest.put(G::kCode + 0x3000, mov32(cpu::kRax, 2) + kRet);
  const Bytes calls = mov(cpu::kRdx, G::kCode + 0x2000) + kCallRdx + kCallRdx + kHlt;
  EXPECT_EQ(run(calls), ExitReason::kHalted);
  EXPECT_EQ(guest.gpr(cpu::kRax), 1u);
  guest.map_page(G::kCode + 0x2000, G::kCode + 0x3000);
  EXPECT_EQ(run(mov(cpu::kRdi, G::kCode + 0x2000) + kInvlpgRdi + calls), ExitReason::kHalted);
  EXPECT_EQ(guest.gpr(cpu::kRax), 2u);
}

TEST_P(RuntimeTest, AStraddlingInstructionFollowsItsSecondPage) {
  const uint64_t rip = G::kCode + 0xffe;  // mov eax, imm32 with three bytes on the second page
  guest.put(rip, mov32(cpu::kRax, 0x11111111) + kRet);
  guest.put(G::kCode + 0x3000, {0x22, 0x22, 0x22, 0xc3});
  const Bytes calls = mov(cpu::kRdx, rip) + kCallRdx + kCallRdx + kHlt;
  EXPECT_EQ(run(calls), ExitReason::kHalted);
  EXPECT_EQ(guest.gpr(cpu::kRax), 0x11111111u);
  guest.map_page(G::kCode + 0x1000, G::kCode + 0x3000);
  EXPECT_EQ(run(mov(cpu::kRdi, G::kCode + 0x1000) + kInvlpgRdi + calls), ExitReason::kHalted);
  EXPECT_EQ(guest.gpr(cpu::kRax), 0x22222211u);
}

// ---- code that changes ----

TEST_P(RuntimeTest, AStoreToItsOwnBlockIsSeenByTheNextInstruction) {
  const Bytes head = mov32(cpu::kRax, 0x77) + store_al(G::kCode + 15);
  ASSERT_EQ(head.size(), 14u);
  EXPECT_EQ(run(head + mov32(cpu::kRbx, 0x11) + kHlt), ExitReason::kHalted);
  EXPECT_EQ(guest.gpr(cpu::kRbx), 0x77u);
}

TEST_P(RuntimeTest, AStoreToALinkedBlockIsSeen) {
  // Twice through the same linked jump; in between the target's immediate is raised.
  const uint64_t target = G::kCode + 0x100;
  guest.put(target, mov32(cpu::kRbx, 5) + Bytes{0x01, 0xde} /* add esi,ebx */ + kDecEcx + Bytes{0x74, 0x05} +
                        jump(target + 11, G::kCode + 5) + kHlt);
  const Bytes body =
      mov32(cpu::kRcx, 3) + Bytes{0xfe, 0x04, 0x25} + little_endian(target + 1, 4);  // inc byte [target+1]
  EXPECT_EQ(run(body + jump(G::kCode + body.size(), target)), ExitReason::kHalted);
  EXPECT_EQ(guest.gpr(cpu::kRsi), 6u + 7 + 8);
}

TEST_P(RuntimeTest, AStoreToTheSecondPageOfAStraddlingInstructionIsSeen) {
  const uint64_t rip = G::kCode + 0xffe;
  guest.put(rip, mov32(cpu::kRbx, 0) + kRet);
  const Bytes code =
      mov(cpu::kRdx, rip) + kCallRdx + mov32(cpu::kRax, 0x5a) + store_al(G::kCode + 0x1002) + kCallRdx + kHlt;
  EXPECT_EQ(run(code), ExitReason::kHalted);
  EXPECT_EQ(guest.gpr(cpu::kRbx), 0x5a000000u);
}

TEST_P(RuntimeTest, AWriteByADeviceIsSeenThroughJumpCachesAndLinks) {
  const uint64_t target = G::kCode + 0x2000;
  guest.put(target, mov32(cpu::kRbx, 1) + Bytes{0x01, 0xde} + kRet);
  guest.device.on_write = [&] { guest.put(target + 1, {9}); };
  // call, call, out (the device writes the code), call
  const Bytes code = mov(cpu::kRdx, target) + kCallRdx + kCallRdx +
                     Bytes{0x50, 0x52, 0x66, 0xba, 0x00, 0x01, 0xee, 0x5a, 0x58} + kCallRdx + kHlt;
  EXPECT_EQ(run(code), ExitReason::kHalted);
  EXPECT_EQ(guest.gpr(cpu::kRsi), 1u + 1 + 9);
}

TEST_P(RuntimeTest, AWriteByTheHostBetweenRunsIsSeen) {
  EXPECT_EQ(run(mov32(cpu::kRax, 1) + kHlt), ExitReason::kHalted);
  EXPECT_EQ(run(mov32(cpu::kRax, 2) + kHlt), ExitReason::kHalted);
  EXPECT_EQ(guest.gpr(cpu::kRax), 2u);
  EXPECT_GE(guest.runtime->space().blocks_invalidated(), 1u);
}

TEST_P(RuntimeTest, ARepeatedStoreOverCodeIsSeen) {
  const uint64_t target = G::kCode + 0x2000;
  guest.put(target, mov32(cpu::kRbx, 1) + kRet);
  // Fills the target with RETs by REP STOSB.
  const Bytes code = mov(cpu::kRdx, target) + kCallRdx + mov(cpu::kRdi, target) + mov32(cpu::kRcx, 16) +
                     mov32(cpu::kRax, 0xc3) + Bytes{0xf3, 0xaa} + mov32(cpu::kRbx, 7) + kCallRdx + kHlt;
  EXPECT_EQ(run(code), ExitReason::kHalted);
  EXPECT_EQ(guest.gpr(cpu::kRbx), 7u);
}

// Every way to copy a page of new code over code that has run, with and without the page's entry in the write TLB,
// forwards and backwards, by all sizes, from all sides.
TEST_P(RuntimeTest, EveryStringCopyOverCodeIsSeen) {
  const uint64_t target = G::kCode + 0x3000, source = G::kFar;
  const Bytes first = mov32(cpu::kRbx, 1) + kRet, second = mov32(cpu::kRbx, 2) + kRet;
  for (const unsigned size : {1u, 2u, 4u, 8u}) {
    for (const bool backward : {false, true}) {
      for (const bool prefilled : {false, true}) {
        for (const uint64_t lead : {uint64_t{0}, uint64_t{0x10}, uint64_t{0x800}, uint64_t{0x1000}, uint64_t{0x1ffc}}) {
          guest.put(target, first);
          guest.put(source, Bytes(0x6000, 0x90));
          guest.put(source + lead, second);
          const uint64_t length = 0x3000, start = target - lead;
          const uint64_t offset = backward ? length - size : 0;
          Bytes code = mov(cpu::kRdx, target);
          if (prefilled) code = code + Bytes{0x88, 0x82, 0x00, 0x08, 0x00, 0x00};  // mov [rdx+0x800],al
          code = code + kCallRdx + mov(cpu::kRsi, source + offset) + mov(cpu::kRdi, start + offset) +
                 mov32(cpu::kRcx, static_cast<uint32_t>(length / size));
          if (backward) code = code + Bytes{0xfd};
          if (size == 2) code = code + Bytes{0x66};
          code = code + Bytes{0xf3};
          if (size == 8) code = code + Bytes{0x48};
          code = code + Bytes{static_cast<uint8_t>(size == 1 ? 0xa4 : 0xa5), 0xfc} + kCallRdx + kHlt;
          guest.gpr(cpu::kRsp) = G::kStack;
          ASSERT_EQ(run(code), ExitReason::kHalted);
          ASSERT_EQ(guest.vector(), -1);
          ASSERT_EQ(guest.gpr(cpu::kRbx), 2u) << size << " " << backward << " " << prefilled << " " << lead;
        }
      }
    }
  }
}

// The same by single stores of all kinds, each over the immediate operand of the code.
TEST_P(RuntimeTest, EveryKindOfStoreOverCodeIsSeen) {
  const uint64_t target = G::kCode + 0x3000, immediate = target + 1;
  const struct {
    const char* name;
    Bytes code;  // RDI = the immediate's address, RAX = XMM0 = 0x02
  } kStores[] = {
      {"byte", {0x88, 0x07}},
      {"word", {0x66, 0x89, 0x07}},
      {"dword", {0x89, 0x07}},
      {"or", {0x08, 0x07}},
      {"add", {0x00, 0x07}},
      {"xchg", {0x86, 0x07}},
      {"xadd", {0x0f, 0xc0, 0x07}},
      {"lock inc", {0xf0, 0xfe, 0x07}},
      {"shl", {0xd0, 0x27}},
      {"bts", {0x0f, 0xab, 0x07}},
      {"setcc", {0x3c, 0x00, 0x0f, 0x95, 0x07, 0xd0, 0x27}},
      {"movd", {0x66, 0x0f, 0x7e, 0x07}},
      {"stosb", {0xaa}},
      {"stosd", {0xab}},
      {"pop", {0x50, 0x66, 0x8f, 0x07, 0x48, 0x83, 0xc4, 0x06}},
      {"push",
       {0x48, 0x89, 0xe5, 0x48, 0x8d, 0x67, 0x02, 0x66, 0x50, 0x48, 0x89,
        0xec}},  // mov rbp,rsp; lea rsp,[rdi+2]; push ax; mov rsp,rbp
  };
  for (const auto& store : kStores) {
    for (const bool prefilled : {false, true}) {
      guest.put(target, mov32(cpu::kRbx, 1) + kRet);
      Bytes code = mov(cpu::kRdx, target);
      if (prefilled) code = code + Bytes{0x88, 0x82, 0x00, 0x08, 0x00, 0x00};
      code = code + kCallRdx + mov(cpu::kRdi, immediate) + mov32(cpu::kRax, 2) + Bytes{0x66, 0x0f, 0x6e, 0xc0} +
             store.code + kCallRdx + kHlt;
      guest.gpr(cpu::kRsp) = G::kStack;
      ASSERT_EQ(run(code), ExitReason::kHalted) << store.name;
      ASSERT_EQ(guest.vector(), -1) << store.name;
      EXPECT_NE(guest.gpr(cpu::kRbx), 1u) << store.name << prefilled;
    }
  }
}

TEST(Runtime, InvalidationUnlinksAndIsCounted) {
  RuntimeGuest guest({.code_cache_bytes = 4 << 20});
  const uint64_t target = G::kCode + 0x100;
  guest.put(target, kHlt);
  guest.put(G::kCode, jump(G::kCode, target));
  guest.run(G::kCode);
  guest.run(G::kCode);
  Block* const from = guest.runtime->space().blocks().find(G::kCode, guest.context().mode);
  Block* const to = guest.runtime->space().blocks().find(target, guest.context().mode);
  ASSERT_NE(from, nullptr);
  ASSERT_NE(to, nullptr);
  ASSERT_EQ(from->links[0].to, to);
  EXPECT_EQ(to->incoming, &from->links[0]);
  guest.runtime->invalidate(target, 1);
  EXPECT_EQ(from->links[0].to, nullptr);
  EXPECT_FALSE(to->valid);
  EXPECT_EQ(guest.runtime->space().blocks().find(target, guest.context().mode), nullptr);
  EXPECT_EQ(guest.runtime->space().blocks().find(G::kCode, guest.context().mode), from);
  guest.put(target, kIncEax + kHlt);
  guest.run(G::kCode);
  EXPECT_EQ(guest.gpr(cpu::kRax), 1u);
}

TEST(Runtime, TheEntryOfAnInvalidatedBlockLeadsToTheDispatcher) {
  RuntimeGuest guest({.code_cache_bytes = 4 << 20});
  const uint64_t target = G::kCode + 0x2000;
  guest.put(target, kRet);
  guest.put(G::kCode, mov(cpu::kRdx, target) + kCallRdx + kCallRdx + kHlt);
  guest.run(G::kCode);
  Block* const block = guest.runtime->space().blocks().find(target, guest.context().mode);
  ASSERT_NE(block, nullptr);
  unsigned cached = 0;
  for (const JumpCache& cache : guest.context().jump_cache)
    for (const uint64_t entry : cache.target) cached += entry == block->indirect_entry;
  EXPECT_EQ(cached, 1u);
  const uint8_t* const entry = guest.runtime->cache().writable(block->indirect_entry);
  EXPECT_EQ(block->indirect_entry % 16, 0u);
  EXPECT_NE(entry[0], 0xe9);
  const std::vector<uint8_t> rest(entry + 5, entry + 16);
  guest.runtime->invalidate(target, 1);
  EXPECT_EQ(entry[0], 0xe9);
  int32_t displacement = 0;
  std::memcpy(&displacement, entry + 1, 4);
  EXPECT_EQ(block->indirect_entry + 5 + static_cast<uint64_t>(int64_t{displacement}), guest.runtime->thunks().dispatch);
  EXPECT_EQ(std::vector<uint8_t>(entry + 5, entry + 16), rest);
}

TEST(Runtime, TheCodeCacheStartsAfreshWhenItIsFull) {
  RuntimeGuest guest({.code_cache_bytes = 1 << 20});
  // 4,000 blocks: inc eax; jmp next, each on a line of its own.
  uint64_t at = G::kFar;
  for (int i = 0; i < 12000; ++i, at += 32) guest.put(at, kIncEax + jump(at + 2, at + 32));
  guest.put(at, kHlt);
  EXPECT_EQ(guest.run(G::kFar), ExitReason::kHalted);
  EXPECT_EQ(guest.gpr(cpu::kRax), 12000u);
  EXPECT_GE(guest.runtime->space().flushes(), 1u);
}

TEST(Runtime, ThePerfMapNamesThunksAndBlocks) {
  const std::string path = testing::TempDir() + "/rhea-perf-map-" + std::to_string(getpid());
  uint64_t start = 0, end = 0;
  uint32_t word = 0;
  {
    RuntimeGuest guest({.code_cache_bytes = 4 << 20, .perf_map = path});
    guest.put(G::kCode, kIncEax + kHlt);
    guest.run(G::kCode);
    word = guest.context().mode;
    const Block* const block = guest.runtime->space().blocks().find(G::kCode, word);
    ASSERT_NE(block, nullptr);
    start = block->code_start;
    end = block->code_end;
  }
  std::ifstream map(path);
  std::vector<std::string> names;
  bool found = false;
  uint64_t last_end = 0;
  for (std::string line; std::getline(map, line);) {
    std::istringstream fields(line);
    uint64_t at = 0, size = 0;
    std::string name;
    fields >> std::hex >> at >> size >> name;
    ASSERT_TRUE(fields) << line;
    EXPECT_GE(at, last_end);
    EXPECT_GT(size, 0u);
    last_end = at + size;
    names.push_back(name);
    std::ostringstream expected;
    expected << "guest_" << std::hex << G::kCode << "_" << word;
    if (name == expected.str()) {
      found = true;
      EXPECT_EQ(at, start);
      EXPECT_EQ(at + size, end);
    }
  }
  EXPECT_TRUE(found);
  EXPECT_EQ(names.size(), 13u);
  std::remove(path.c_str());
}

TEST(Runtime, APerfMapThatCannotBeWrittenIsAnError) {
  auto map = PerfMap::create("/nonexistent/map");
  ASSERT_FALSE(map);
  EXPECT_NE(map.error().to_string().find("/nonexistent/map"), std::string::npos) << map.error().to_string();
}

// ---- exact counts ----

TEST_P(RuntimeTest, EveryBudgetEndsExactlyThere) {
  // A loop of three with a prologue of two and an HLT: 2 + 3 * 5 + 1.
  const Bytes code = mov32(cpu::kRcx, 5) + mov32(cpu::kRax, 0) + kIncEax + kDecEcx + jump_not_zero(-6) + kHlt;
  guest.put(G::kCode, code);
  for (int64_t budget = 1; budget <= 18; ++budget) {
    const ExitReason reason = guest.run(G::kCode, budget);
    EXPECT_EQ(guest.context().instructions_left, 0) << budget;
    EXPECT_EQ(reason, budget == 18 ? ExitReason::kHalted : ExitReason::kInstructionLimit) << budget;
    if (budget >= 2 && budget < 18) {
      EXPECT_EQ(guest.gpr(cpu::kRax), static_cast<uint64_t>((budget - 2 + 2) / 3)) << budget;
    }
  }
}

TEST_P(RuntimeTest, RepeatedInstructionsAndInterruptedOnesCountOnce) {
  const Bytes code = mov(cpu::kRdi, G::kData) + mov32(cpu::kRcx, 3000) + Bytes{0xf3, 0xaa} + kHlt;
  EXPECT_EQ(run(code), ExitReason::kHalted);
  EXPECT_EQ(guest.executed(), 4);
  // A page in the middle is missing: the fault does not count, the second attempt does.
  guest.map_page(G::kData + 0x1000, 0, 0);
  guest.state().gpr[cpu::kRsp] = G::kStack;
  EXPECT_EQ(run(mov(cpu::kRdi, G::kData) + mov32(cpu::kRcx, 0x1800) + Bytes{0xf3, 0xaa} + kHlt), ExitReason::kHalted);
  EXPECT_EQ(guest.vector(), kPageFault);
  EXPECT_EQ(guest.gpr(cpu::kRcx), 0x800u);
  EXPECT_EQ(guest.executed(), 3);  // two and the handler's HLT
}

TEST_P(RuntimeTest, TimeMovesWithEveryInstruction) {
  // rdtsc; three instructions; rdtsc
  EXPECT_EQ(run(Bytes{0x0f, 0x31, 0x89, 0xc3} + kNop + kNop + Bytes{0x0f, 0x31} + kHlt), ExitReason::kHalted);
  EXPECT_EQ(guest.gpr(cpu::kRax) - guest.gpr(cpu::kRbx), 4u);
}

TEST_P(RuntimeTest, RandomNumbersAreTheSameInEveryRun) {
  const Bytes code = Bytes{0x48, 0x0f, 0xc7, 0xf0, 0x48, 0x0f, 0xc7, 0xfb} + kHlt;  // rdrand rax; rdseed rbx
  EXPECT_EQ(run(code), ExitReason::kHalted);
  if (guest.vector() == kInvalidOpcode) GTEST_SKIP() << "RDRAND is not offered here";
  RuntimeGuest other({.opt_level = 1 - GetParam(), .instruction_clock = true, .code_cache_bytes = 4 << 20});
  other.put(G::kCode, code);
  EXPECT_EQ(other.run(G::kCode), ExitReason::kHalted);
  EXPECT_EQ(guest.gpr(cpu::kRax), other.gpr(cpu::kRax));
  EXPECT_EQ(guest.gpr(cpu::kRbx), other.gpr(cpu::kRbx));
  EXPECT_NE(guest.gpr(cpu::kRax), guest.gpr(cpu::kRbx));
}

// ---- interrupts and requests ----

TEST_P(RuntimeTest, AnInterruptComesAfterTheInstructionBehindSti) {
  guest.lapic().write_msr(0x1b, 0xfee00900);
  guest.lapic().io_write(0xf0, 0x1ff, 4);
  guest.lapic().deliver(0, 0x40, false);
  EXPECT_EQ(run(kSti + kIncEax + kIncEax + kHlt), ExitReason::kHalted);
  EXPECT_EQ(guest.vector(), 0x40);
  EXPECT_EQ(guest.gpr(cpu::kRax), 1u);
  EXPECT_EQ(guest.stacked(0), G::kCode + 3);
}

// STI is the last instruction of its page, and the request comes by way of the budget's end.
TEST_P(RuntimeTest, TheShadowOfStiOutlivesItsBlock) {
  const uint64_t rip = G::kCode + 0xffe;
  guest.put(rip, kNop + kSti + kIncEax + kHlt);
  EXPECT_EQ(guest.run(rip, 2), ExitReason::kInstructionLimit);
  EXPECT_TRUE(guest.state().sti_shadow);
  guest.lapic().write_msr(0x1b, 0xfee00900);
  guest.lapic().io_write(0xf0, 0x1ff, 4);
  guest.lapic().deliver(0, 0x40, false);
  EXPECT_EQ(guest.go_on(), ExitReason::kHalted);
  EXPECT_EQ(guest.vector(), 0x40);
  EXPECT_EQ(guest.gpr(cpu::kRax), 1u);
}

TEST_P(RuntimeTest, StopsWhenAnotherThreadAsks) {
  guest.put(G::kCode, jump(G::kCode, G::kCode));
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    guest.request_stop();
  });
  EXPECT_EQ(guest.run(G::kCode, int64_t{1} << 60), ExitReason::kStopped);
  other.join();
  EXPECT_EQ(guest.state().rip, G::kCode);
}

TEST_P(RuntimeTest, AnInterruptFromAnotherThreadEndsALoop) {
  guest.lapic().write_msr(0x1b, 0xfee00900);
  guest.lapic().io_write(0xf0, 0x1ff, 4);
  guest.put(G::kCode, kSti + kIncEax + jump(G::kCode + 3, G::kCode + 1));
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    guest.lapic().deliver(0, 0x41, false);
  });
  EXPECT_EQ(guest.run(G::kCode, int64_t{1} << 60), ExitReason::kHalted);
  other.join();
  EXPECT_EQ(guest.vector(), 0x41);
}

// ---- devices ----

TEST_P(RuntimeTest, MemoryMappedDevicesSeeSizesAndTime) {
  guest.device.answer = 0x8877665544332211;
  const Bytes code = mov(cpu::kRdi, G::kMmio) +
                     Bytes{0x8a, 0x07, 0x66, 0x8b, 0x5f, 0x02, 0x8b, 0x4f, 0x04, 0x48, 0x8b, 0x57, 0x08} +
                     Bytes{0x88, 0x47, 0x10, 0x66, 0x89, 0x47, 0x12, 0x89, 0x47, 0x14, 0x48, 0x89, 0x57, 0x18} + kHlt;
  uint64_t time = 0;
  guest.device.on_write = [&] { time = guest.clock().now_ns(); };
  EXPECT_EQ(run(code), ExitReason::kHalted);
  using Accesses = std::vector<std::pair<uint64_t, unsigned>>;
  EXPECT_EQ(guest.device.reads, (Accesses{{0, 1}, {2, 2}, {4, 4}, {8, 8}}));
  EXPECT_EQ(guest.device.writes, (Accesses{{0x10, 1}, {0x12, 2}, {0x14, 4}, {0x18, 8}}));
  EXPECT_EQ(guest.device.last, 0x8877665544332211u);
  EXPECT_EQ(guest.gpr(cpu::kRcx), 0x44332211u);
  EXPECT_EQ(time, 8u);  // instructions before the last store
}

// ---- two machines ----

TEST(Runtime, TwoMachinesRunAtTheSameTime) {
  const auto work = [](RuntimeGuest& guest, uint32_t count) {
    // Sums count, count-1, ... 1 into RBX through memory.
    guest.put(G::kCode, mov(cpu::kRdi, G::kData) + mov32(cpu::kRcx, count) +
                            Bytes{0x48, 0x01, 0x0f} /* add [rdi],rcx */ + kDecEcx + jump_not_zero(-7) + kHlt);
    for (int i = 0; i < 3; ++i) {
      guest.put64(G::kData, 0);
      ASSERT_EQ(guest.run(G::kCode, int64_t{1} << 60), ExitReason::kHalted);
      ASSERT_EQ(guest.get64(G::kData), uint64_t{count} * (count + 1) / 2);
    }
  };
  RuntimeGuest first({.code_cache_bytes = 4 << 20}), second({.opt_level = 0, .code_cache_bytes = 4 << 20});
  std::thread other([&] { work(second, 200'000); });
  work(first, 2'000'000);
  other.join();
}

// Faults of one machine's thread never reach the other's handler.
TEST(Runtime, TwoMachinesFaultAtTheSameTime) {
  const auto work = [](RuntimeGuest& guest) {
    guest.put(G::kCode, mov32(cpu::kRcx, 0) + Bytes{0xf7, 0xf1} + kHlt);
    for (int i = 0; i < 500; ++i) {
      guest.gpr(cpu::kRsp) = G::kStack;
      ASSERT_EQ(guest.run(G::kCode), ExitReason::kHalted);
      ASSERT_EQ(guest.vector(), kDivideError);
    }
  };
  RuntimeGuest first({.code_cache_bytes = 4 << 20}), second({.code_cache_bytes = 4 << 20});
  std::thread other([&] { work(second); });
  work(first);
  other.join();
}

}  // namespace
}  // namespace rhea::dbt
