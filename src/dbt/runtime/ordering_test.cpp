// SPDX-License-Identifier: Apache-2.0
// The order of a vCPU's accesses as a device sees it that looks at guest RAM on a thread of its own: what a driver does
// between making a buffer available and asking whether to notify must be a fence, for a VM of one vCPU, too.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "dbt/runtime/runtime_fake.h"

// RDI times: stores a count to [RBX], then the fence, then notes what it reads at [RBX+0x40] in the table at RSI.
#define STORE_THEN_LOAD(name, fence)                                                                                 \
  asm(".pushsection .rodata\n" #name "_start:\n1: inc %rax\nmov %rax, (%rbx)\n" fence                                \
      "\nmov 0x40(%rbx), %rcx\nmov %rcx, (%rsi,%rax,8)\ncmp %rdi, %rax\njb 1b\nhlt\n" #name "_end:\n.popsection\n"); \
  extern "C" const uint8_t name##_start[], name##_end[];

STORE_THEN_LOAD(fence_lock_add, "lock addl $0, -4(%rsp)")
STORE_THEN_LOAD(fence_lock_or, "lock orl $0, (%rsp)")
STORE_THEN_LOAD(fence_xchg, "xchg %rdx, -8(%rsp)")
STORE_THEN_LOAD(fence_mfence, "mfence")
STORE_THEN_LOAD(fence_cpuid, "push %rax\npush %rbx\nxor %eax, %eax\ncpuid\npop %rbx\npop %rax")

namespace rhea::dbt {
namespace {

using G = RuntimeGuest;
constexpr uint64_t kTable = G::kFar;

struct Fence {
  const char* name;
  const uint8_t *start, *end;
  uint64_t times;
};

class OrderingTest : public testing::TestWithParam<Fence> {};

TEST_P(OrderingTest, AStoreIsSeenBeforeALaterLoadIsMade) {
  const uint64_t times = GetParam().times;
  RuntimeGuest guest({.device_threads = true});
  guest.put(G::kCode, {GetParam().start, GetParam().end});
  guest.gpr(cpu::kRbx) = G::kData;
  guest.gpr(cpu::kRsi) = kTable;
  guest.gpr(cpu::kRdi) = times;
  // SAFETY: aligned words of guest RAM, which the guest accesses as whole words, too.
  std::atomic_ref<uint64_t> from_guest(*reinterpret_cast<uint64_t*>(guest.host(G::kData)));
  std::atomic_ref<uint64_t> from_device(*reinterpret_cast<uint64_t*>(guest.host(G::kData + 0x40)));
  std::vector<uint64_t> seen(4 * times);
  uint64_t stores = 0;
  std::thread device([&] {
    while (from_guest.load(std::memory_order_relaxed) == 0) std::this_thread::yield();
    while (stores + 1 < seen.size()) {
      from_device.store(++stores, std::memory_order_relaxed);
      std::atomic_thread_fence(std::memory_order_seq_cst);
      seen[stores] = from_guest.load(std::memory_order_relaxed);
      if (seen[stores] == times) break;
    }
  });
  EXPECT_EQ(guest.run(G::kCode), ExitReason::kHalted);
  device.join();
  // The device has stored n and then not seen the guest's next store: so the guest, having made that one, sees n.
  uint64_t passed_by = 0;
  for (uint64_t n = 1; n <= stores; ++n)
    if (seen[n] < times && guest.get64(kTable + 8 * (seen[n] + 1)) < n) ++passed_by;
  EXPECT_EQ(passed_by, 0u) << "of " << stores;
}

INSTANTIATE_TEST_SUITE_P(Fences, OrderingTest,
                         testing::Values(Fence{"LockAdd", fence_lock_add_start, fence_lock_add_end, 400'000},
                                         Fence{"LockOr", fence_lock_or_start, fence_lock_or_end, 400'000},
                                         Fence{"Xchg", fence_xchg_start, fence_xchg_end, 400'000},
                                         Fence{"Mfence", fence_mfence_start, fence_mfence_end, 400'000},
                                         Fence{"Cpuid", fence_cpuid_start, fence_cpuid_end, 50'000}),
                         [](const auto& fence) { return fence.param.name; });

}  // namespace
}  // namespace rhea::dbt
