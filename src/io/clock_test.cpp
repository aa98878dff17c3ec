// SPDX-License-Identifier: Apache-2.0
// Clocks and timers: order, threads, destruction, save and load; the instruction clock's determinism.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <time.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "io/host_clock.h"
#include "io/host_tsc.h"
#include "io/instruction_clock.h"
#include "io/timer_queue.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::io {
namespace {

using ::testing::ElementsAre;
constexpr uint64_t kMs = 1'000'000;

template <class C>
std::vector<std::byte> save(const C& clock, uint32_t version = ClockState::kStateVersion) {
  state::StateWriter writer("clock", version);
  clock.save_state(writer);
  return std::move(writer).finish();
}
template <class C>
Status load(C& clock, const std::vector<std::byte>& file) {
  auto reader = RHEA_TRY(state::StateReader::open(file, ClockState::kStateVersion));
  return clock.load_state(reader);
}

TEST(TimerQueue, FiresInOrderOfDeadlineThenOfArming) {
  TimerQueue queue;
  std::vector<int> fired;
  auto a = queue.create([&] { fired.push_back(1); });
  auto b = queue.create([&] { fired.push_back(2); });
  auto c = queue.create([&] { fired.push_back(3); });
  a->arm(30);
  b->arm(10);
  c->arm(10);
  EXPECT_EQ(queue.earliest(), 10u);
  queue.run_due(9);
  EXPECT_TRUE(fired.empty());
  queue.run_due(10);
  EXPECT_THAT(fired, ElementsAre(2, 3));
  queue.run_due(1000);
  EXPECT_THAT(fired, ElementsAre(2, 3, 1));
  EXPECT_EQ(queue.earliest(), std::nullopt);
}

TEST(TimerQueue, RearmCancelAndDestroyInCallbacks) {
  TimerQueue queue;
  int periodic = 0, victim = 0;
  std::unique_ptr<Timer> a, b, self;
  a = queue.create([&] {
    ++periodic;
    a->arm(0);  // always late: must not keep run_due() busy
    b->cancel();
  });
  b = queue.create([&] { ++victim; });
  self = queue.create([&] { self.reset(); });
  a->arm(1);
  b->arm(2);
  self->arm(3);
  queue.run_due(5);
  EXPECT_EQ(periodic, 1);
  EXPECT_EQ(victim, 0);
  EXPECT_EQ(self, nullptr);
  queue.run_due(5);
  EXPECT_EQ(periodic, 2);
}

TEST(TimerQueue, ProgramHearsOfEarlierDeadlinesAtOnce) {
  std::vector<std::optional<uint64_t>> told;
  TimerQueue queue([&](std::optional<uint64_t> deadline) { told.push_back(deadline); });
  auto a = queue.create([] {});
  auto b = queue.create([] {});
  a->arm(100);
  b->arm(200);  // later: nothing to tell
  a->arm(50);
  a->cancel();  // wakes once for nothing; cheaper than telling every cancel
  queue.run_due(60);
  queue.run_due(200);
  EXPECT_THAT(told, ElementsAre(100u, 50u, 200u, std::nullopt));
}

TEST(TimerQueue, DestructionWaitsForTheCallbackOfAnotherThread) {
  TimerQueue queue;
  std::atomic<bool> entered{false}, finished{false};
  auto timer = queue.create([&] {
    entered.store(true);
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    finished.store(true);
  });
  timer->arm(1);
  std::thread runner([&] { queue.run_due(1); });
  while (!entered.load()) std::this_thread::yield();
  timer.reset();
  EXPECT_TRUE(finished.load());
  runner.join();
}

TEST(InstructionClock, TimeIsInstructions) {
  InstructionClock clock;
  EXPECT_EQ(clock.now_ns(), 0u);
  EXPECT_EQ(clock.tsc_frequency_hz(), 1'000'000'000u);
  EXPECT_EQ(clock.wall_time_ns(), 1'704'067'200'000'000'000);
  clock.advance(1500);
  EXPECT_EQ(clock.now_ns(), 1500u);
  EXPECT_EQ(clock.tsc(), 1500u);
  EXPECT_EQ(clock.instructions(), 1500u);
  EXPECT_EQ(clock.wall_time_ns(), 1'704'067'200'000'001'500);
  EXPECT_FALSE(clock.tsc_is_host_tsc());
}

TEST(InstructionClock, DeadlinesInInstructionsRoundUp) {
  InstructionClock clock({.ns_per_instruction = 10});
  int fired = 0;
  auto timer = clock.create_timer([&] { ++fired; });
  EXPECT_EQ(clock.next_deadline_instructions(), std::nullopt);
  EXPECT_FALSE(clock.skip_to_next_deadline());
  timer->arm(95);
  EXPECT_EQ(clock.next_deadline_instructions(), 10u);
  clock.advance(9);
  EXPECT_EQ(clock.next_deadline_instructions(), 1u);
  clock.run_due_timers();
  EXPECT_EQ(fired, 0);
  clock.advance(1);
  EXPECT_EQ(clock.next_deadline_instructions(), 0u);
  clock.run_due_timers();
  EXPECT_EQ(fired, 1);
}

TEST(InstructionClock, HaltSkipsToTheDeadlineExactly) {
  InstructionClock clock;
  std::vector<uint64_t> at;
  std::unique_ptr<Timer> timer = clock.create_timer([&] {
    at.push_back(clock.now_ns());
    if (at.size() < 3) timer->arm(clock.now_ns() + 1000);
  });
  timer->arm(1000);
  clock.advance(10);
  while (clock.skip_to_next_deadline()) clock.run_due_timers();
  EXPECT_THAT(at, ElementsAre(1000u, 2000u, 3000u));
  EXPECT_EQ(clock.instructions(), 10u);
}

TEST(InstructionClock, SaveAndLoadGoOn) {
  InstructionClock first;
  first.advance(12345);
  InstructionClock second({.ns_per_instruction = 2, .wall_start_ns = 0});
  ASSERT_TRUE(load(second, save(first)));
  EXPECT_EQ(second.now_ns(), 12345u);
  EXPECT_EQ(second.tsc(), 12345u);
  EXPECT_EQ(second.wall_time_ns(), first.wall_time_ns());
  second.advance(1);
  EXPECT_EQ(second.tsc(), 12347u);
}

// What processors compute their time from stays, whoever was told of it before the save and whoever is told after.
TEST(Clock, TscReferenceOutlivesSaves) {
  InstructionClock first, second, third;
  first.advance(5000);
  EXPECT_EQ(first.tsc_reference().tsc, 0u);
  ASSERT_TRUE(load(second, save(first)));
  second.advance(10);
  EXPECT_EQ(second.tsc_reference().tsc, 0u);
  EXPECT_EQ(second.tsc_reference().ns, 0u);
  // The first version of the section did not know it: the moment of the save will do.
  ASSERT_TRUE(load(third, save(second, 1)));
  EXPECT_EQ(third.tsc_reference().tsc, 5010u);
  EXPECT_EQ(third.tsc_reference().ns, 5010u);
  ASSERT_TRUE(load(first, save(third)));
  EXPECT_EQ(first.tsc_reference().ns, 5010u);
}

TEST(Clock, ImpossibleFrequencyIsRefused) {
  for (uint64_t frequency : {uint64_t{0}, uint64_t{999'999}, ~uint64_t{0}}) {
    state::StateWriter writer("clock");
    state::describe_fields(writer,
                           std::as_const(*std::make_unique<ClockState>(ClockState{.tsc_frequency_hz = frequency})));
    const auto file = std::move(writer).finish();
    InstructionClock clock;
    const Status status = load(clock, file);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().to_string(), "section 'clock' has an impossible TSC frequency");
  }
}

uint64_t raw_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC_RAW, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

TEST(HostTsc, FrequencyIsRight) {
  const uint64_t before = raw_ns();
  const HostTsc tsc = measure_host_tsc();
  const uint64_t took = raw_ns() - before;
  ASSERT_GT(tsc.frequency_hz, 100'000'000u);
  // Against a longer measurement. An interruption between the two reads of a pair costs microseconds, so the
  // tightest of several pairs counts.
  auto pair = [] {
    std::pair<uint64_t, uint64_t> best;
    uint64_t width = ~uint64_t{0};
    for (int i = 0; i < 20; ++i) {
      const uint64_t a = read_host_tsc(), ns = raw_ns(), b = read_host_tsc();
      if (b - a < width) {
        width = b - a;
        best = {a + (b - a) / 2, ns};
      }
    }
    return best;
  };
  const auto start = pair();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  const auto end = pair();
  const double hz = static_cast<double>(end.first - start.first) * 1e9 / static_cast<double>(end.second - start.second);
  EXPECT_NEAR(static_cast<double>(tsc.frequency_hz) / hz, 1.0, 50e-6);
  RecordProperty("frequency_hz", std::to_string(tsc.frequency_hz));
  RecordProperty("took_us", std::to_string(took / 1000));
}

class HostClockTest : public ::testing::Test {
 protected:
  void SetUp() override {
    clock_ = *HostClock::create(*loop_, tsc_);
    thread_ = std::thread([this] { loop_->run(); });
  }
  void TearDown() override {
    loop_->quit();
    thread_.join();
  }
  HostTsc tsc_ = measure_host_tsc();
  std::unique_ptr<base::EventLoop> loop_ = *base::EventLoop::create();
  std::unique_ptr<HostClock> clock_;
  std::thread thread_;
};

TEST_F(HostClockTest, StartsNearZeroAndRuns) {
  EXPECT_LT(clock_->now_ns(), 1000 * kMs);
  const uint64_t ns = clock_->now_ns(), tsc = clock_->tsc();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const uint64_t ns_passed = clock_->now_ns() - ns, tsc_passed = clock_->tsc() - tsc;
  EXPECT_GE(ns_passed, 20 * kMs);
  EXPECT_NEAR(static_cast<double>(tsc_passed) / static_cast<double>(clock_->tsc_frequency_hz()) * 1e9,
              static_cast<double>(ns_passed), 5e6);
  if (clock_->tsc_is_host_tsc()) {
    const uint64_t before = read_host_tsc() + clock_->tsc_offset();
    const uint64_t between = clock_->tsc();
    EXPECT_LE(before, between);
    EXPECT_LE(between, read_host_tsc() + clock_->tsc_offset());
  }
}

TEST_F(HostClockTest, TimersFireNotEarlyAndInOrder) {
  std::atomic<int> sequence{0};
  std::atomic<uint64_t> early{0};
  std::array<std::atomic<int>, 3> fired{};
  std::array<uint64_t, 3> deadline{};
  std::vector<std::unique_ptr<Timer>> timers;
  for (size_t i = 0; i < 3; ++i) {
    timers.push_back(clock_->create_timer([&, i] {
      if (clock_->now_ns() < deadline[i]) ++early;
      fired[i] = ++sequence;
    }));
  }
  const uint64_t now = clock_->now_ns();
  deadline = {now + 60 * kMs, now + 20 * kMs,
              now + 40 * kMs};  // each arming but the first wakes the loop earlier or not
  for (size_t i = 0; i < 3; ++i) timers[i]->arm(deadline[i]);
  for (int i = 0; i < 2000 && sequence.load() < 3; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(fired[0].load(), 3);
  EXPECT_EQ(fired[1].load(), 1);
  EXPECT_EQ(fired[2].load(), 2);
  EXPECT_EQ(early.load(), 0u);
  timers.clear();
}

TEST_F(HostClockTest, PastAndAbsurdDeadlines) {
  std::atomic<int> fired{0};
  auto never = clock_->create_timer([&] { fired = 100; });
  never->arm(~uint64_t{0});
  auto past = clock_->create_timer([&] { ++fired; });
  past->arm(0);
  for (int i = 0; i < 2000 && fired.load() < 1; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(fired.load(), 1);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(fired.load(), 1);
}

TEST_F(HostClockTest, TimersComeAndGoWhileTheyFire) {
  std::atomic<int> live{0};
  for (int i = 0; i < 300; ++i) {
    auto counter = std::make_unique<std::atomic<int>>(0);
    auto timer = clock_->create_timer([&live, raw = counter.get()] {
      ++live;
      ++*raw;
    });
    timer->arm(clock_->now_ns() + static_cast<uint64_t>(i % 7) * 20'000);
    if (i % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(50));
    timer.reset();    // the callback is not running any more,
    counter.reset();  // so what it touches may go
  }
  EXPECT_GT(live.load(), 0);
}

TEST_F(HostClockTest, LoadGoesOnFromTheSavedTime) {
  ClockState saved{
      .now_ns = 3'600'000'000'000, .tsc = 7'000'000'000'000, .tsc_frequency_hz = clock_->tsc_frequency_hz()};
  auto file_of = [](const ClockState& state) {
    state::StateWriter writer("clock");
    state::describe_fields(writer, state);
    return std::move(writer).finish();
  };
  ASSERT_TRUE(load(*clock_, file_of(saved)));
  EXPECT_GE(clock_->now_ns(), saved.now_ns);
  EXPECT_LT(clock_->now_ns(), saved.now_ns + 2000 * kMs);
  EXPECT_GE(clock_->tsc(), saved.tsc);
  EXPECT_LT(clock_->tsc(), saved.tsc + 2 * clock_->tsc_frequency_hz());
  EXPECT_EQ(clock_->tsc_is_host_tsc(), tsc_.reliable);

  // From a host with another TSC: the guest keeps its frequency, the TSC is computed.
  saved.tsc_frequency_hz = clock_->tsc_frequency_hz() / 2;
  ASSERT_TRUE(load(*clock_, file_of(saved)));
  EXPECT_FALSE(clock_->tsc_is_host_tsc());
  EXPECT_EQ(clock_->tsc_frequency_hz(), saved.tsc_frequency_hz);
  const uint64_t ns = clock_->now_ns(), tsc = clock_->tsc();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const double seconds = static_cast<double>(clock_->now_ns() - ns) / 1e9;
  EXPECT_NEAR(static_cast<double>(clock_->tsc() - tsc) / seconds / static_cast<double>(saved.tsc_frequency_hz), 1.0,
              0.05);
}

}  // namespace
}  // namespace rhea::io
