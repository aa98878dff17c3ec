// SPDX-License-Identifier: Apache-2.0
// The event loop: order, threads, descriptors that go away, signals.
#include "base/event_loop.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace rhea::base {
namespace {

using ::testing::ElementsAre;

struct Pipe {
  Pipe() {
    int ends[2];
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    reader.reset(ends[0]);
    writer.reset(ends[1]);
  }
  void poke() { EXPECT_EQ(::write(writer.get(), "x", 1), 1); }
  void drain() {
    char buffer[64];
    while (::read(reader.get(), buffer, sizeof buffer) > 0) {
    }
  }
  UniqueFd reader, writer;
};

class EventLoopTest : public ::testing::Test {
 protected:
  std::unique_ptr<EventLoop> loop_ = *EventLoop::create();
};

TEST_F(EventLoopTest, PostedFunctionsRunInOrderBeforeQuitTakesEffect) {
  std::vector<int> ran;
  loop_->post([&] { ran.push_back(1); });
  loop_->post([&] {
    EXPECT_TRUE(loop_->on_loop_thread());
    ran.push_back(2);
  });
  loop_->quit();
  EXPECT_FALSE(loop_->on_loop_thread());
  loop_->run();
  EXPECT_THAT(ran, ElementsAre(1, 2));
}

TEST_F(EventLoopTest, PostFromOtherThreadsWakesTheLoop) {
  constexpr int kThreads = 4, kPosts = 500;
  int count = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kPosts; ++i) {
        loop_->post([&] {
          if (++count == kThreads * kPosts) loop_->quit();
        });
      }
    });
  }
  loop_->run();
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(count, kThreads * kPosts);
}

TEST_F(EventLoopTest, DescriptorCallsBackUntilRemoved) {
  Pipe pipe;
  int calls = 0;
  ASSERT_TRUE(loop_->add_fd(pipe.reader.get(), EPOLLIN, [&](uint32_t events) {
    EXPECT_EQ(events, static_cast<uint32_t>(EPOLLIN));
    pipe.drain();
    ++calls;
  }));
  EXPECT_FALSE(loop_->add_fd(pipe.reader.get(), EPOLLIN, [](uint32_t) {}));
  pipe.poke();
  loop_->run_once(1000);
  loop_->run_once(0);
  EXPECT_EQ(calls, 1);
  ASSERT_TRUE(loop_->modify_fd(pipe.reader.get(), 0));
  pipe.poke();
  loop_->run_once(0);
  EXPECT_EQ(calls, 1);
  ASSERT_TRUE(loop_->modify_fd(pipe.reader.get(), EPOLLIN));
  loop_->run_once(1000);
  EXPECT_EQ(calls, 2);
  loop_->remove_fd(pipe.reader.get());
  pipe.poke();
  loop_->run_once(0);
  EXPECT_EQ(calls, 2);
  EXPECT_FALSE(loop_->modify_fd(pipe.reader.get(), EPOLLIN));
}

TEST_F(EventLoopTest, RemovalInsideTheSameBatchIsHonoured) {
  // Both are ready; whichever comes first removes both and puts another descriptor of the same number in place.
  Pipe first, second;
  int calls = 0;
  auto callback = [&](uint32_t) {
    ++calls;
    loop_->remove_fd(first.reader.get());
    loop_->remove_fd(second.reader.get());
  };
  ASSERT_TRUE(loop_->add_fd(first.reader.get(), EPOLLIN, callback));
  ASSERT_TRUE(loop_->add_fd(second.reader.get(), EPOLLIN, callback));
  first.poke();
  second.poke();
  loop_->run_once(1000);
  loop_->run_once(0);
  EXPECT_EQ(calls, 1);
}

TEST_F(EventLoopTest, CallbackMayOwnWhatItRemoves) {
  auto pipe = std::make_shared<Pipe>();
  std::weak_ptr<Pipe> watched = pipe;
  pipe->poke();
  const int fd = pipe->reader.get();
  ASSERT_TRUE(loop_->add_fd(fd, EPOLLIN, [this, fd, pipe](uint32_t) { loop_->remove_fd(fd); }));
  pipe.reset();
  loop_->run_once(1000);
  EXPECT_TRUE(watched.expired());
}

TEST_F(EventLoopTest, RemovalFromAnotherThreadWaitsForTheCallback) {
  Pipe pipe;
  std::atomic<bool> entered{false}, finished{false};
  ASSERT_TRUE(loop_->add_fd(pipe.reader.get(), EPOLLIN, [&](uint32_t) {
    entered.store(true);
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    finished.store(true);
  }));
  pipe.poke();
  std::thread runner([&] { loop_->run(); });
  while (!entered.load()) std::this_thread::yield();
  loop_->remove_fd(pipe.reader.get());
  EXPECT_TRUE(finished.load());
  loop_->quit();
  runner.join();
}

TEST_F(EventLoopTest, RegularFilesAreRefused) {
  const UniqueFd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  const Status status = loop_->add_fd(file.get(), EPOLLIN, [](uint32_t) {});
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), ErrorCode::kPermissionDenied);
  EXPECT_FALSE(loop_->modify_fd(file.get(), EPOLLIN));
}

TEST_F(EventLoopTest, SignalsArriveAsCallbacks) {
  std::vector<int> signals;
  auto watch = SignalWatch::create(*loop_, {SIGUSR1, SIGUSR2}, [&](int signo) { signals.push_back(signo); });
  ASSERT_TRUE(watch);
  ::kill(::getpid(), SIGUSR1);
  loop_->run_once(1000);
  ::kill(::getpid(), SIGUSR2);
  loop_->run_once(1000);
  EXPECT_THAT(signals, ElementsAre(SIGUSR1, SIGUSR2));
}

}  // namespace
}  // namespace rhea::base
