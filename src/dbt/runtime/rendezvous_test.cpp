// SPDX-License-Identifier: Apache-2.0
// Exclusive sections and waiting among members that are plain threads.
#include "dbt/runtime/rendezvous.h"

#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <memory>
#include <thread>
#include <vector>

namespace rhea::dbt {
namespace {

using namespace std::chrono_literals;

constexpr auto kLong = 10s;  // what takes this long never happens

// Starts `function` on a thread of its own.
template <class Function>
std::future<void> start(Function function) {
  return std::async(std::launch::async, std::move(function));
}

// Waiters sleep on what a member that stops running makes true; nobody else announces that.
TEST(Rendezvous, WaiterHearsOfAMemberThatStopsRunning) {
  Rendezvous rendezvous;
  Rendezvous::Member member{.poke = [] {}};
  rendezvous.add(member);
  rendezvous.enter(member);
  std::atomic<unsigned> looks{0};
  auto waiter = start([&] {
    rendezvous.wait([&] {
      ++looks;
      return !member.running.load();
    });
  });
  for (unsigned before = ~0u; before != looks; std::this_thread::sleep_for(50ms)) before = looks;  // it sleeps
  rendezvous.leave(member);
  EXPECT_EQ(waiter.wait_for(kLong), std::future_status::ready);
  rendezvous.notify();
  waiter.wait();
  rendezvous.remove(member);
}

TEST(Rendezvous, ExclusiveSectionWaitsForRunningMembersAndKeepsThemOut) {
  Rendezvous rendezvous;
  std::atomic<bool> poked{false};
  Rendezvous::Member member{.poke = [&] { poked = true; }};
  rendezvous.add(member);
  rendezvous.enter(member);
  std::atomic<bool> inside{false};
  std::promise<void> may_end;
  auto exclusive = start([&] {
    rendezvous.begin_exclusive(nullptr);
    inside = true;
    may_end.get_future().wait();
    inside = false;
    rendezvous.end_exclusive(nullptr);
  });
  while (!poked) std::this_thread::yield();
  EXPECT_FALSE(inside);
  rendezvous.leave(member);
  while (!inside) std::this_thread::yield();
  auto entering = start([&] { rendezvous.enter(member); });
  EXPECT_EQ(entering.wait_for(50ms), std::future_status::timeout);
  may_end.set_value();
  EXPECT_EQ(entering.wait_for(kLong), std::future_status::ready);
  EXPECT_FALSE(inside);
  rendezvous.leave(member);
  exclusive.wait();
  rendezvous.remove(member);
}

// Members that run, have exclusive sections, wait for one another and stop, all at once.
TEST(Rendezvous, ManyMembersExcludeOneAnother) {
  constexpr unsigned kMembers = 4, kRounds = 5000;
  struct Cpu {
    Rendezvous::Member member;
    std::atomic<uint64_t> asked{0}, answered{0};
    uint64_t unguarded = 0;  // written while running by its own thread, in exclusive sections by any
  };
  Rendezvous rendezvous;
  std::vector<std::unique_ptr<Cpu>> cpus;
  for (unsigned i = 0; i < kMembers; ++i) {
    cpus.push_back(std::make_unique<Cpu>());
    cpus.back()->member.poke = [] {};
    rendezvous.add(cpus.back()->member);
  }
  const auto answer = [&](Cpu& cpu) {
    const uint64_t asked = cpu.asked.load();
    if (cpu.answered.load() == asked) return;
    cpu.answered.store(asked);
    rendezvous.notify();
  };
  const auto run = [&](unsigned index) {
    Cpu& self = *cpus[index];
    rendezvous.enter(self.member);
    for (unsigned round = 0; round < kRounds; ++round) {
      rendezvous.safepoint(self.member);
      answer(self);
      ++self.unguarded;
      if (round % 7 == index) {
        rendezvous.begin_exclusive(&self.member);
        for (const auto& cpu : cpus) ++cpu->unguarded;
        rendezvous.end_exclusive(&self.member);
      }
      if (round % 5 == index) {
        Cpu& other = *cpus[(index + 1 + round % (kMembers - 1)) % kMembers];
        const uint64_t ticket = ++other.asked;
        rendezvous.leave(self.member);
        rendezvous.wait([&] { return other.answered.load() >= ticket || !other.member.running.load(); });
        rendezvous.enter(self.member);
      }
      if (round % 11 == index) {
        rendezvous.leave(self.member);
        std::this_thread::yield();
        rendezvous.enter(self.member);
      }
    }
    rendezvous.leave(self.member);
  };
  std::vector<std::future<void>> threads;
  for (unsigned i = 0; i < kMembers; ++i) threads.push_back(start([&run, i] { run(i); }));
  for (auto& thread : threads) thread.wait();
  uint64_t total = 0;
  for (const auto& cpu : cpus) {
    total += cpu->unguarded;
    rendezvous.remove(cpu->member);
  }
  uint64_t sections = 0;
  for (unsigned i = 0; i < kMembers; ++i)
    for (unsigned round = 0; round < kRounds; ++round) sections += round % 7 == i;
  EXPECT_EQ(total, kMembers * (kRounds + sections));
}

}  // namespace
}  // namespace rhea::dbt
