// SPDX-License-Identifier: Apache-2.0
#include "provision/progress.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace rhea::provision {
namespace {

std::string drawn(bool terminal) {
  char* text = nullptr;
  size_t size = 0;
  FILE* const stream = open_memstream(&text, &size);
  {
    Progress progress(stream, terminal);
    progress.show(10, "a");
    progress.show(50, "b");
    progress.show(50, "b");
    progress.show(20, "c");
  }
  std::fclose(stream);
  std::string result(text, size);
  std::free(text);
  return result;
}

TEST(Progress, Bar) {
  EXPECT_EQ(Progress::bar(50, "work", 12), "[###############...............]  50 % work (12 s)");
  EXPECT_EQ(Progress::bar(-5, "work", 0), "[..............................]   0 % work (0 s)");
  EXPECT_EQ(Progress::bar(500, "work", 0), "[##############################] 100 % work (0 s)");
}

TEST(Progress, ALineForEachStageWithoutATerminal) {
  EXPECT_EQ(drawn(false), " 10 % a (0 s)\n 50 % b (0 s)\n 50 % c (0 s)\n");
}

TEST(Progress, OneLineOnATerminal) {
  const std::string text = drawn(true);
  EXPECT_EQ(text.find('\n'), text.size() - 1);
  EXPECT_NE(text.find("\r[###############...............]  50 % c (0 s)"), std::string::npos);  // never back
}

}  // namespace
}  // namespace rhea::provision
