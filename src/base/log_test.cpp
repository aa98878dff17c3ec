// SPDX-License-Identifier: Apache-2.0
// The log: categories, lines, and the cost of what is off.
#include "base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/fd.h"
#include "base/strings.h"

namespace rhea::base {
namespace {

using ::testing::HasSubstr;

class LogTest : public ::testing::Test {
 protected:
  std::string written() const {
    const auto content = read_file("/proc/self/fd/" + std::to_string(fd_.get()), 100 << 20);
    return {reinterpret_cast<const char*>(content->data()), content->size()};
  }
  UniqueFd fd_{::memfd_create("log-test", MFD_CLOEXEC)};
  Log log_{fd_.get()};
};

TEST_F(LogTest, LevelsPrint) {
  log_.error("cannot {}", "fly");
  log_.warning("{} left", 3);
  log_.info("done");
  EXPECT_EQ(written(), "rhea: error: cannot fly\nrhea: warning: 3 left\nrhea: info: done\n");
}

TEST_F(LogTest, TraceThatIsOffEvaluatesNothing) {
  int evaluated = 0;
  RHEA_TRACE(log_, Trace::kIrq, "gsi {}", ++evaluated);
  EXPECT_EQ(evaluated, 0);
  ASSERT_TRUE(log_.enable_traces("timer,irq"));
  RHEA_TRACE(log_, Trace::kIrq, "gsi {}", ++evaluated);
  RHEA_TRACE(log_, Trace::kPci, "off {}", ++evaluated);
  EXPECT_EQ(evaluated, 1);
  EXPECT_THAT(written(), ::testing::EndsWith(" irq: gsi 1\n"));
}

TEST_F(LogTest, UnknownCategoryNamesTheNearest) {
  const Status status = log_.enable_traces("irq,tmier");
  ASSERT_FALSE(status);
  EXPECT_THAT(status.error().to_string(), HasSubstr("'tmier' (did you mean 'timer'?)"));
  EXPECT_FALSE(log_.tracing(Trace::kIrq));  // all or nothing
}

TEST_F(LogTest, AllMeansAll) {
  ASSERT_TRUE(log_.enable_traces("all"));
  for (unsigned i = 0; i < static_cast<unsigned>(Trace::kCount); ++i) {
    EXPECT_TRUE(log_.tracing(static_cast<Trace>(i)));
    EXPECT_FALSE(trace_name(static_cast<Trace>(i)).empty());
  }
}

TEST_F(LogTest, LinesOfSeveralThreadsStayWhole) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) log_.info("{}", std::string(100, 'x'));
    });
  }
  for (auto& thread : threads) thread.join();
  const std::string text = written();
  const auto lines = split(text, '\n');
  ASSERT_EQ(lines.size(), 801u);
  for (size_t i = 0; i < 800; ++i) ASSERT_EQ(lines[i], "rhea: info: " + std::string(100, 'x'));
}

TEST_F(LogTest, FloodIsCutOffAndSaidSo) {
  Log log(fd_.get(), 10);
  ASSERT_TRUE(log.enable_traces("guest"));
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 1000; ++i) RHEA_TRACE(log, Trace::kGuest, "x");
  const auto seconds =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - start).count();
  const auto lines = std::ranges::count(written(), '\n');
  EXPECT_GE(lines, 10);
  EXPECT_LE(lines, 11 * (seconds + 2));
  EXPECT_LT(lines, 1000);
  std::this_thread::sleep_for(std::chrono::milliseconds(1050));
  RHEA_TRACE(log, Trace::kGuest, "last");
  EXPECT_THAT(written(), HasSubstr("lines dropped"));
  EXPECT_THAT(written(), ::testing::EndsWith("last\n"));
}

}  // namespace
}  // namespace rhea::base
