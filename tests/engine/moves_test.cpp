// SPDX-License-Identifier: Apache-2.0
// A running guest in user mode is stopped at moments that nobody chose and goes on under another engine, again and
// again: what it computes must be what it computes in one piece. In flight at some of those moments: a string
// instruction, a port access, an interrupt pending or half taken, live x87 and SSE registers.
#include <chrono>
#include <cstdlib>
#include <random>
#include <string_view>

#include "tests/engine/guest.h"

// RDI: the data. Mixes R14, which counts the rounds, into RAX, XMM1, ST(0) and 256 qwords; each 4,096 rounds copies the
// qwords by a string instruction and reads and writes a port. Ends when R14 has reached the qword at 0x3000(%rdi), with
// its sums at 0x2000(%rdi).
asm(R"(
  .pushsection .rodata
  .globl rhea_moves_begin, rhea_moves_end, rhea_moves_handler, rhea_moves_handler_end
rhea_moves_begin:
  fninit
  fld1
  pxor %xmm1, %xmm1
  mov $1, %eax
1:
  imul $0x01000193, %rax, %rax
  add %r14, %rax
  rol $13, %rax
  movq %rax, %xmm0
  paddq %xmm0, %xmm1
  pshufd $0x4e, %xmm1, %xmm1
  fld1
  faddp
  mov %r14d, %ecx
  and $0xff, %ecx
  xor %rax, (%rdi, %rcx, 8)
  test $0xfff, %r14d
  jnz 2f
  mov %rdi, %rbx
  mov %rdi, %rsi
  add $0x1000, %rdi
  mov $2048, %ecx
  cld
  rep movsb
  mov %rbx, %rdi
  mov %rax, %rbp
  mov $0x210, %edx
  outl %eax, %dx
  inl %dx, %eax
  add %rbp, %rax
2:
  inc %r14
  cmp 0x3000(%rdi), %r14
  jb 1b
  fistpll 0x2000(%rdi)
  mov %rax, 0x2008(%rdi)
  movdqu %xmm1, 0x2010(%rdi)
  outb %al, $0xf4
3:
  jmp 3b
rhea_moves_end:
rhea_moves_handler:
  push %rax
  incl 0x9008
  mov $0xfee000b0, %eax
  movl $0, (%rax)
  pop %rax
  iretq
rhea_moves_handler_end:
  .popsection
)");
extern "C" const uint8_t rhea_moves_begin[], rhea_moves_end[], rhea_moves_handler[], rhea_moves_handler_end[];

namespace rhea::tests::engine {
namespace {

using namespace assembly;
using cpu::StopReason;

constexpr uint64_t kTss = 0x3000, kUserStack = 0x1e0000, kLimit = Guest::kData + 0x3000, kSums = Guest::kData + 0x2000;
constexpr uint64_t kUsedRam = 2 << 20;
constexpr unsigned kVector = 0x50;
constexpr size_t kR14 = 14;

const EngineKind* find_kind(std::string_view name) {
  for (const EngineKind& kind : engine_kinds())
    if (kind.name == name) return &kind;
  return nullptr;
}

// An engine's guest with the CPU features that both engines give: what moves between them is portable.
std::unique_ptr<Guest> make_guest(const EngineKind& kind, const EngineKind& other) {
  EngineKind portable = kind;
  portable.withheld.insert(portable.withheld.end(), other.withheld.begin(), other.withheld.end());
  auto guest = std::make_unique<Guest>(portable);
  guest->device.answer = guest->ports.answer = 0x2468ace0;
  return guest;
}

void load_program(Guest& guest, uint64_t limit) {
  guest.put(Guest::kCode, Bytes(rhea_moves_begin, rhea_moves_end));
  guest.handler(kVector, Bytes(rhea_moves_handler, rhea_moves_handler_end));
  guest.put64(kLimit, limit);
  guest.put64(Guest::kCount, 0);
  for (uint64_t at = 0; at < 0x2020; at += 8) guest.put64(Guest::kData + at, at);
  // The stack for interrupts, and an I/O bitmap that lets user mode have every port. [SDM-3A 8.7]
  guest.put64(kTss + 4, Guest::kStack);
  guest.put64(kTss + 0x60, uint64_t{0x68} << 48);
  for (uint64_t at = 0; at < 8192; at += 8) guest.put64(kTss + 0x68 + at, 0);
  guest.put64(kTss + 0x68 + 8192, 0xff);
  guest.put64(Guest::kGdt + 0x18, 0x00affb000000ffff);  // user code
  guest.put64(Guest::kGdt + 0x20, 0x00cff3000000ffff);  // user data
}

cpu::CpuState user_state() {
  cpu::CpuState s = Guest::initial_state();
  s.cr4 &= ~cpu::cr4::kOsxsave;
  s.xcr0 = 1;
  s.gdtr.limit = 0x27;
  s.segment[cpu::kCs] = {.base = 0, .limit = 0xffffffff, .selector = 0x1b, .attributes = 0xa0fb};
  for (const unsigned i : {cpu::kSs, cpu::kDs, cpu::kEs, cpu::kFs, cpu::kGs})
    s.segment[i] = {.base = 0, .limit = 0xffffffff, .selector = 0x23, .attributes = 0xc0f3};
  s.segment[cpu::kTr] = {.base = kTss, .limit = 0x68 + 8192, .selector = 0x28, .attributes = 0x8b};
  s.gpr[cpu::kRsp] = kUserStack;
  s.gpr[cpu::kRdi] = Guest::kData;
  s.rflags |= cpu::rflags::kIf;
  return s;
}

void move(Guest& from, Guest& to) {
  std::memcpy(to.ram(), from.ram(), kUsedRam);
  const auto state = std::make_unique<cpu::CpuState>(from.state());
  to.lapic().set_state(from.lapic().state());
  to.vcpu().set_state(*state);
}

bool pending(Guest& guest) { return guest.lapic().state().irr[kVector / 32] >> kVector % 32 & 1; }

// Runs for a moment; true once the program has come to its end.
bool run_a_while(Guest& guest, std::chrono::microseconds moment, bool interrupt) {
  std::thread other([&] {
    std::this_thread::sleep_for(moment);
    if (interrupt) guest.lapic().deliver(0, kVector, false);
    guest.vcpu().request_stop();
  });
  const StopReason reason = guest.go_on();
  other.join();
  EXPECT_EQ(reason, StopReason::kStopped);
  return guest.get64(kSums + 8) != 0x2008;
}

// Sums, the copies and the whole data.
std::vector<uint64_t> results(Guest& guest) {
  std::vector<uint64_t> values;
  for (uint64_t at = 0; at < 0x2020; at += 8) values.push_back(guest.get64(Guest::kData + at));
  return values;
}

std::vector<uint64_t> results_in_one_piece(const EngineKind& kind, const EngineKind& other, uint64_t rounds) {
  const auto guest = make_guest(kind, other);
  load_program(*guest, rounds);
  guest->vcpu().set_state(user_state());
  EXPECT_EQ(guest->go_on(), StopReason::kStopped);
  return results(*guest);
}

void move_back_and_forth(const EngineKind& first, const EngineKind& second, unsigned moves) {
  std::unique_ptr<Guest> here = make_guest(first, second), there = make_guest(second, first);
  load_program(*here, ~uint64_t{0});
  here->enable_apic();
  here->vcpu().set_state(user_state());
  std::mt19937 random(20);  // the moments are the host's anyway
  unsigned delivered = 0;
  for (unsigned i = 0; i < moves; ++i) {
    const bool interrupt = random() % 2 && !pending(*here);
    delivered += interrupt;
    ASSERT_FALSE(run_a_while(*here, std::chrono::microseconds(random() % 300), interrupt));
    ASSERT_FALSE(testing::Test::HasFailure()) << "move " << i;
    move(*here, *there);
    std::swap(here, there);
  }
  const uint64_t rounds = here->state().gpr[kR14] + 10'000;
  here->put64(kLimit, rounds);
  while (!run_a_while(*here, std::chrono::milliseconds(20), false)) {
  }
  EXPECT_EQ(results(*here), results_in_one_piece(*find_kind("Dbt"), first, rounds));
  EXPECT_EQ(here->get32(Guest::kCount), delivered);
  EXPECT_GT(rounds, 10'000 + moves / 10) << "the guest hardly ran";
}

unsigned move_count() { return std::getenv("RHEA_TEST_LONG") ? 10'000 : 1'000; }

TEST(MovesTest, AGuestMovesBetweenTranslationAndReference) {
  move_back_and_forth(*find_kind("Dbt"), *find_kind("DbtReference"), move_count());
}

TEST(MovesTest, AGuestMovesBetweenTheEngines) {
  const EngineKind* kvm = find_kind("Kvm");
  if (!kvm) GTEST_SKIP() << "there is no usable /dev/kvm on this host";
  move_back_and_forth(*kvm, *find_kind("Dbt"), move_count());
}

}  // namespace
}  // namespace rhea::tests::engine
