// SPDX-License-Identifier: Apache-2.0
// The log: categories, lines, and the cost of what is off.
#include "base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

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

TEST_F(LogTest, FloodIsCutOff) {
  ASSERT_TRUE(log_.enable_traces("guest"));
  for (uint64_t i = 0; i < Log::kTraceLinesPerSecond * 3; ++i) RHEA_TRACE(log_, Trace::kGuest, "x");
  const std::string text = written();
  // However long that took, at most two windows' worth per second of it were written; the loop takes well under 2 s.
  EXPECT_LT(std::ranges::count(text, '\n'), static_cast<long>(Log::kTraceLinesPerSecond * 3));
}

}  // namespace
}  // namespace rhea::base
