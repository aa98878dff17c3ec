// SPDX-License-Identifier: Apache-2.0
// Faults reach the handler of their thread, and nobody else's.
#include "base/fault_dispatcher.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

// Sanitizers answer unhandled faults themselves, with a report and an exit.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

namespace rhea::base {
namespace {

// Instructions of known length that fault; the handler steps over them.
void read_null() {
  asm volatile("movb (%0), %%al" : : "r"(uint64_t{8}) : "al", "memory");  // 2 bytes
}
void undefined_opcode() { asm volatile("ud2" : : : "memory"); }  // 2 bytes
void divide_by_zero() {
  asm volatile("xorl %%edx, %%edx; xorl %%ecx, %%ecx; movl $1, %%eax; divl %%ecx"
               :
               :
               : "eax", "ecx", "edx", "memory");  // divl: 2
}
void breakpoint() { asm volatile("int3" : : : "memory"); }  // trap: the instruction pointer is behind it

class Recorder final : public FaultHandler {
 public:
  bool on_fault(int signo, siginfo_t* info, ucontext_t* context) override {
    signo_ = signo;
    address_ = reinterpret_cast<uintptr_t>(info->si_addr);
    ++count_;
    char here;
    stack_at_ = reinterpret_cast<uintptr_t>(&here);
    if (refuse) return false;
    if (signo != SIGTRAP) context->uc_mcontext.gregs[REG_RIP] += 2;
    return true;
  }
  bool refuse = false;
  int signo_ = 0;
  uintptr_t address_ = 0;
  uintptr_t stack_at_ = 0;
  int count_ = 0;
};

TEST(FaultDispatcher, EverySignalIsHandledAndResumed) {
  Recorder recorder;
  auto guard = FaultGuard::create(recorder);
  ASSERT_TRUE(guard) << guard.error().to_string();
  read_null();
  EXPECT_EQ(recorder.signo_, SIGSEGV);
  EXPECT_EQ(recorder.address_, 8u);
  undefined_opcode();
  EXPECT_EQ(recorder.signo_, SIGILL);
  divide_by_zero();
  EXPECT_EQ(recorder.signo_, SIGFPE);
  breakpoint();
  EXPECT_EQ(recorder.signo_, SIGTRAP);

  const UniqueFd empty(::memfd_create("fault-test", MFD_CLOEXEC));
  auto beyond = UniqueMapping::create(4096, PROT_READ, MAP_SHARED, empty.get(), 0, "a test");
  ASSERT_TRUE(beyond);
  asm volatile("movb (%0), %%al" : : "r"(beyond->get()) : "al", "memory");
  EXPECT_EQ(recorder.signo_, SIGBUS);
  EXPECT_EQ(recorder.count_, 5);
}

TEST(FaultDispatcher, HandlerRunsOnAStackOfItsOwn) {
  Recorder recorder;
  auto guard = FaultGuard::create(recorder);
  stack_t stack{};
  ASSERT_EQ(::sigaltstack(nullptr, &stack), 0);
  EXPECT_EQ(stack.ss_flags & SS_DISABLE, 0);
  EXPECT_GE(stack.ss_size, 64u * 1024);
  read_null();
  const uintptr_t bottom = reinterpret_cast<uintptr_t>(stack.ss_sp);
  if (!kSanitized) {  // asan may keep locals elsewhere
    EXPECT_GE(recorder.stack_at_, bottom);
    EXPECT_LT(recorder.stack_at_, bottom + stack.ss_size);
  }
}

TEST(FaultDispatcher, WorksWithAnUnusableStackPointer) {
  // What runs translated code may have anything in RSP.
  Recorder recorder;
  auto guard = FaultGuard::create(recorder);
  asm volatile(
      "movq %%rsp, %%rbx\n"
      "xorl %%esp, %%esp\n"
      "ud2\n"
      "movq %%rbx, %%rsp\n"
      :
      :
      : "rbx", "memory");
  EXPECT_EQ(recorder.count_, 1);
}

TEST(FaultDispatcher, GuardsNest) {
  Recorder outer, inner;
  auto outer_guard = FaultGuard::create(outer);
  {
    auto inner_guard = FaultGuard::create(inner);
    read_null();
  }
  read_null();
  EXPECT_EQ(inner.count_, 1);
  EXPECT_EQ(outer.count_, 1);
}

TEST(FaultDispatcher, EachThreadHasItsOwnHandler) {
  constexpr int kThreads = 4, kFaults = 200;
  std::vector<Recorder> recorders(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&recorders, t] {
      auto guard = FaultGuard::create(recorders[static_cast<size_t>(t)]);
      for (int i = 0; i < kFaults; ++i) read_null();
    });
  }
  for (auto& thread : threads) thread.join();
  for (const Recorder& recorder : recorders) EXPECT_EQ(recorder.count_, kFaults);
}

class FaultDispatcherDeathTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "sanitizers end the process their own way";
  }
};

TEST_F(FaultDispatcherDeathTest, FaultWithoutHandlerKills) {
  auto run = [] {
    Recorder recorder;
    {
      auto guard = FaultGuard::create(recorder);
    }  // the actions stay installed
    read_null();
  };
  EXPECT_EXIT(run(), ::testing::KilledBySignal(SIGSEGV), "");
}

TEST_F(FaultDispatcherDeathTest, RefusedFaultKills) {
  auto run = [](void (*fault)()) {
    Recorder recorder;
    recorder.refuse = true;
    auto guard = FaultGuard::create(recorder);
    fault();
  };
  EXPECT_EXIT(run(read_null), ::testing::KilledBySignal(SIGSEGV), "");
  EXPECT_EXIT(run(undefined_opcode), ::testing::KilledBySignal(SIGILL), "");
  EXPECT_EXIT(run(divide_by_zero), ::testing::KilledBySignal(SIGFPE), "");
  EXPECT_EXIT(run(breakpoint), ::testing::KilledBySignal(SIGTRAP), "");
}

TEST_F(FaultDispatcherDeathTest, SignalSentByAProcessKills) {
  auto run = [] {
    Recorder recorder;
    recorder.refuse = true;
    auto guard = FaultGuard::create(recorder);
    ::raise(SIGSEGV);
  };
  EXPECT_EXIT(run(), ::testing::KilledBySignal(SIGSEGV), "");
}

TEST_F(FaultDispatcherDeathTest, FaultInOtherThreadKills) {
  auto run = [] {
    Recorder recorder;
    auto guard = FaultGuard::create(recorder);
    std::thread([] { read_null(); }).join();
  };
  EXPECT_EXIT(run(), ::testing::KilledBySignal(SIGSEGV), "");
}

}  // namespace
}  // namespace rhea::base
