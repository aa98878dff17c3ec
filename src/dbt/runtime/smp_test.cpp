// SPDX-License-Identifier: Apache-2.0
// Several vCPUs on one code space: code that one writes and others run, locked accesses across pages, flushes.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <thread>

#include "dbt/runtime/smp_fake.h"
#include "dbt/system/internal.h"

// The programs. Position-independent; each is copied to where its test wants it.
#define GUEST_CODE(name, text)                                                            \
  asm(".pushsection .rodata\n" #name "_start:\n" text "\n" #name "_end:\n.popsection\n"); \
  extern "C" const uint8_t name##_start[], name##_end[];                                  \
  namespace {                                                                             \
  std::vector<uint8_t> name() { return {name##_start, name##_end}; }                      \
  }

// RDI times: calls RSI.
GUEST_CODE(guest_call_loop, "1: call *%rsi; dec %rdi; jnz 1b; hlt")
// Increments [RBX], with LOCK.
GUEST_CODE(guest_locked_increment, "lock incq (%rbx); ret")
// Increments RDX.
GUEST_CODE(guest_increment, "inc %rdx; ret")
// RDI times: stores AL to [RSI] and CL to [RSI+0x800].
GUEST_CODE(guest_rewrite, "1: movb %al, (%rsi); movb %cl, 0x800(%rsi); dec %rdi; jnz 1b; hlt")
// The generation g = 1 .. RDI: writes g into the code at [RSI+1], then to [RBX]; every eighth waits until [RBX+8] and
// [RBX+16] have it.
GUEST_CODE(guest_publish,
           "1: inc %eax; movl %eax, 1(%rsi); movl %eax, (%rbx); test $7, %al; jnz 3f; 2: pause; cmp 8(%rbx), %eax; "
           "jne 2b; cmp 16(%rbx), %eax; jne 2b; 3: cmp %edi, %eax; jb 1b; hlt")
// Until [RBX] is RDI: after a serialising instruction, code at RSI must return no older generation than [RBX] said.
// What it was goes to [RBP]. R9 counts those that are older, R10 the calls.
GUEST_CODE(guest_check,
           "1: movl (%rbx), %r8d; push %rbx; xor %eax, %eax; cpuid; pop %rbx; call *%rsi; inc %r10; cmp %r8d, %eax; "
           "jae 2f; inc %r9; 2: movl %r8d, (%rbp); cmp %edi, %r8d; jb 1b; hlt")

// The same for code in the middle of its own block, after a SERIALIZE: [RBX] is read late in the block.
GUEST_CODE(guest_check_inline,
           "1: .rept 10; mov %r11, %rax; xor %edx, %edx; div %rcx; .endr; movl (%rbx), %r8d; .byte 0x0f, 0x01, 0xe8; "
           "movl $0, %eax; inc %r10; cmp %r8d, %eax; jae 2f; inc %r9; 2: movl %r8d, (%rbp); cmp %edi, %r8d; jb 1b; "
           "hlt")

namespace rhea::dbt {
namespace {

using G = RuntimeGuest;
constexpr uint64_t kLoops = 0x110000;  // where each vCPU's program starts, a page each

class SmpTest : public testing::Test {
 protected:
  void load(SmpGuest& smp, unsigned cpu, const std::vector<uint8_t>& program) {
    smp.guest.put(kLoops + 0x1000 * cpu, program);
  }
  void start(SmpGuest& smp, unsigned cpu) { smp.start(cpu, kLoops + 0x1000 * cpu); }
};

TEST_F(SmpTest, LockedIncrementsAcrossPagesAreCounted) {
  SmpGuest smp(3);
  constexpr uint64_t kTimes = 2000, kSplit = G::kData + 0xffc;
  smp.guest.put(G::kCode, guest_locked_increment());
  for (unsigned i = 0; i < 3; ++i) {
    load(smp, i, guest_call_loop());
    smp.cpu(i).gpr(cpu::kRdi) = kTimes;
    smp.cpu(i).gpr(cpu::kRsi) = G::kCode;
    smp.cpu(i).gpr(cpu::kRbx) = kSplit;
    start(smp, i);
  }
  EXPECT_TRUE(smp.join());
  EXPECT_EQ(smp.guest.get64(kSplit), 3 * kTimes);
}

// One vCPU keeps writing a page from which others run, one of them in exclusive sections.
TEST_F(SmpTest, ExclusiveSectionsOnAPageThatIsBeingRevoked) {
  SmpGuest smp(4);
  constexpr uint64_t kTimes = 4000, kSplit = G::kData + 0xffc;
  const auto locked = guest_locked_increment(), plain = guest_increment();
  smp.guest.put(G::kCode, locked);
  smp.guest.put(G::kCode + 0x800, plain);
  for (const unsigned i : {0u, 1u}) {
    load(smp, i, guest_call_loop());
    smp.cpu(i).gpr(cpu::kRsi) = G::kCode;
    smp.cpu(i).gpr(cpu::kRbx) = kSplit;
  }
  load(smp, 2, guest_call_loop());
  smp.cpu(2).gpr(cpu::kRsi) = G::kCode + 0x800;
  load(smp, 3, guest_rewrite());
  smp.cpu(3).gpr(cpu::kRsi) = G::kCode;
  smp.cpu(3).gpr(cpu::kRax) = locked[0];
  smp.cpu(3).gpr(cpu::kRcx) = plain[0];
  for (unsigned i = 0; i < 4; ++i) {
    smp.cpu(i).gpr(cpu::kRdi) = kTimes;
    start(smp, i);
  }
  EXPECT_TRUE(smp.join());
  EXPECT_EQ(smp.guest.get64(kSplit), 2 * kTimes);
  EXPECT_EQ(smp.cpu(2).gpr(cpu::kRdx), kTimes);
}

// Another vCPU is giving up a page of which a locked access across pages must be run again, when that one's turn comes:
// it stands still until the exclusive section is over and cannot be waited for.
TEST_F(SmpTest, ExclusiveStepOnAPageThatAStoppedVcpuIsRevoking) {
  SmpGuest smp(1);
  constexpr uint64_t kSplit = G::kData + 0xffc;
  const std::vector<uint8_t> code = {0xf0, 0x48, 0xff, 0x03, 0xf4};  // lock incq (%rbx); hlt
  smp.guest.put(G::kCode, code);
  smp.cpu(0).gpr(cpu::kRbx) = kSplit;
  CodeSpace& space = *smp.guest.space();
  std::promise<void> poked;
  std::atomic<bool> once{false};
  Rendezvous::Member other{.poke = [&] {
    if (!once.exchange(true)) poked.set_value();
  }};
  space.rendezvous().add(other);
  space.rendezvous().enter(other);
  smp.start(0, G::kCode);
  poked.get_future().wait();  // the vCPU wants its exclusive section
  auto& meta = smp.guest.memory().page_meta({G::kCode});
  meta.fetch_or(memory::kPageRevoking);
  smp.guest.put(G::kCode, code);  // drops what the vCPU has translated
  EXPECT_TRUE(meta.load() & memory::kPageHasCode);
  space.rendezvous().leave(other);
  for (unsigned tries = 0; tries < 3000 && smp.guest.get64(kSplit) == 0; ++tries)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(smp.guest.get64(kSplit), 1u);
  meta.fetch_and(~memory::kPageRevoking);  // for the HLT, which is no exclusive step
  space.rendezvous().notify();
  EXPECT_TRUE(smp.join());
  space.rendezvous().remove(other);
}

// Other vCPUs may change the address space any number of times while one is looking something up.
TEST_F(SmpTest, LookUpsDoNotRestOnViewsThatOthersMayRetire) {
  SmpGuest smp(1);
  const io::Range* const ram = find_range(smp.cpu(0).context(), G::kCode);
  ASSERT_NE(ram, nullptr);
  io::AddressSpace& physical = smp.guest.physical();
  for (size_t i = 0; i < 2 * io::AddressSpace::kKeptViews; ++i)
    physical.unmap(physical.map({.start = 0xe0000000, .size_bytes = 0x1000, .name = "bar"}));
  EXPECT_EQ(ram, find_range(smp.cpu(0).context(), G::kCode));
  EXPECT_EQ(ram->host, smp.guest.host(0));
  smp.guest.put(G::kCode, {0xf4});
  smp.start(0, G::kCode);  // takes note of the last view
  EXPECT_TRUE(smp.join());
  ASSERT_NE(find_range(smp.cpu(0).context(), G::kCode), nullptr);
  EXPECT_EQ(find_range(smp.cpu(0).context(), G::kCode)->host, smp.guest.host(0));
}

// While a page becomes code its mark stands, whatever is dropped: nobody may be given a writable TLB entry for it, of
// which nobody would know.
TEST_F(SmpTest, APageThatIsBeingRevokedStaysACodePage) {
  SmpGuest smp(1);
  smp.guest.put(G::kCode, {0xf4});
  smp.start(0, G::kCode);
  ASSERT_TRUE(smp.join());
  auto& meta = smp.guest.memory().page_meta({G::kCode});
  ASSERT_TRUE(meta.load() & memory::kPageHasCode);
  meta.fetch_or(memory::kPageRevoking);
  CodeSpace& space = *smp.guest.space();
  space.rendezvous().begin_exclusive(nullptr);
  space.flush();
  space.rendezvous().end_exclusive(nullptr);
  EXPECT_TRUE(meta.load() & memory::kPageHasCode);
  space.invalidate(G::kCode, 1);
  EXPECT_TRUE(meta.load() & memory::kPageHasCode);
  meta.fetch_and(~memory::kPageRevoking);
  space.invalidate(G::kCode, 1);
  EXPECT_FALSE(meta.load() & memory::kPageHasCode);
}

void cross_modify(SmpGuest& smp, uint32_t generations) {
  constexpr uint64_t kFlag = G::kData;
  constexpr unsigned checkers = 2;
  smp.guest.put(G::kCode, {0xb8, 0, 0, 0, 0, 0xc3});  // mov eax, 0; ret
  smp.guest.put(kLoops, guest_publish());
  for (unsigned i = 0; i <= checkers; ++i) {
    if (i) smp.guest.put(kLoops + 0x1000 * i, guest_check());
    smp.cpu(i).gpr(cpu::kRdi) = generations;
    smp.cpu(i).gpr(cpu::kRsi) = G::kCode;
    smp.cpu(i).gpr(cpu::kRbx) = kFlag;
    smp.cpu(i).gpr(cpu::kRbp) = kFlag + 8 * i;
    smp.start(i, kLoops + 0x1000 * i);
  }
}

TEST_F(SmpTest, CodeThatAnotherProcessorWritesIsNeverOlderThanWhatItSaid) {
  SmpGuest smp(3);
  cross_modify(smp, 1000);
  EXPECT_TRUE(smp.join());
  for (const unsigned i : {1u, 2u}) {
    EXPECT_EQ(smp.cpu(i).gpr(cpu::kR9), 0u);
    EXPECT_GT(smp.cpu(i).gpr(cpu::kR10), 0u);
  }
}

TEST_F(SmpTest, SerializeEndsItsBlock) {
  if (!((cpu::CpuModel::create({.name = "max"})->cpuid(7, 0).edx >> 14) & 1))
    GTEST_SKIP() << "the host has no SERIALIZE";
  SmpGuest smp(3);
  constexpr uint64_t kFlag = G::kData, kGenerations = 1000;
  const auto check = guest_check_inline();
  const uint8_t written[] = {0x0f, 0x01, 0xe8, 0xb8};
  const auto at = std::search(check.begin(), check.end(), std::begin(written), std::end(written)) - check.begin() + 3;
  smp.guest.put(G::kCode, check);
  smp.guest.put(kLoops, guest_publish());
  for (unsigned i = 0; i < 3; ++i) {
    smp.cpu(i).gpr(cpu::kRdi) = kGenerations;
    smp.cpu(i).gpr(cpu::kRsi) = G::kCode + static_cast<uint64_t>(at);
    smp.cpu(i).gpr(cpu::kRbx) = kFlag;
    smp.cpu(i).gpr(cpu::kRbp) = kFlag + 8 * i;
    smp.cpu(i).gpr(cpu::kRcx) = 3;
    smp.start(i, i == 0 ? kLoops : G::kCode);
  }
  EXPECT_TRUE(smp.join());
  for (const unsigned i : {1u, 2u}) EXPECT_EQ(smp.cpu(i).gpr(cpu::kR9), 0u) << "of " << smp.cpu(i).gpr(cpu::kR10);
}

// The same while the cache is flushed all the time, and views change.
TEST_F(SmpTest, CodeThatAnotherProcessorWritesWhileTheCacheIsFlushed) {
  SmpGuest smp(3);
  cross_modify(smp, 1000);
  std::atomic<bool> done{false};
  std::thread disturber([&] {
    Rendezvous& rendezvous = smp.guest.space()->rendezvous();
    for (unsigned i = 0; !done; ++i) {
      rendezvous.begin_exclusive(nullptr);
      smp.guest.space()->flush();
      rendezvous.end_exclusive(nullptr);
      if (i % 16 == 0) {
        const auto id = smp.guest.physical().map({.start = 0xe0000000, .size_bytes = 0x1000, .name = "bar"});
        smp.guest.physical().unmap(id);
      }
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  });
  EXPECT_TRUE(smp.join());
  done = true;
  disturber.join();
  for (const unsigned i : {1u, 2u}) EXPECT_EQ(smp.cpu(i).gpr(cpu::kR9), 0u);
}

}  // namespace
}  // namespace rhea::dbt
