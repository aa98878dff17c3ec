// SPDX-License-Identifier: Apache-2.0
#include "provision/program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rhea::provision {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Program, ItsLinesAndItsStatus) {
  std::vector<std::string> lines;
  const auto keep = [&lines](std::string_view line) { lines.emplace_back(line); };
  const auto status = run_program({"sh", "-c", "echo one; echo two >&2; printf 'three\\rfour'; exit 7"}, keep);
  ASSERT_TRUE(status);
  EXPECT_EQ(*status, 7);
  EXPECT_THAT(lines, ElementsAre("one", "two", "three", "four"));
}

TEST(Program, WordsAreNotReadByAShell) {
  std::vector<std::string> lines;
  ASSERT_TRUE(run_program({"echo", "$HOME; false", "a  b"}, [&](std::string_view line) { lines.emplace_back(line); }));
  EXPECT_THAT(lines, ElementsAre("$HOME; false a  b"));
}

TEST(Program, SignalsAndEndlessLines) {
  size_t bytes = 0;
  const auto count = [&bytes](std::string_view line) { bytes += line.size(); };
  const auto killed = run_program({"sh", "-c", "kill -9 $$"}, count);
  ASSERT_TRUE(killed);
  EXPECT_EQ(*killed, 137);
  ASSERT_TRUE(run_program({"head", "-c", "100000", "/dev/zero"}, count));
  EXPECT_EQ(bytes, 100000u);
}

TEST(Program, NotThere) {
  EXPECT_FALSE(program_exists("no-such-program-of-rhea"));
  EXPECT_TRUE(program_exists("sh"));
  const auto status = run_program({"no-such-program-of-rhea"}, [](std::string_view) {});
  ASSERT_FALSE(status);
  EXPECT_THAT(status.error().to_string(), HasSubstr("not installed"));
}

}  // namespace
}  // namespace rhea::provision
