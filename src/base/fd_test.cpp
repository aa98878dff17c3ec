// SPDX-License-Identifier: Apache-2.0
// Owners of descriptors and mappings, whole-file reads.
#include "base/fd.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

namespace rhea::base {
namespace {

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

TEST(UniqueFd, ClosesOnceAndMoves) {
  int raw = -1;
  {
    UniqueFd first(::dup(2));
    raw = first.get();
    UniqueFd second(std::move(first));
    EXPECT_FALSE(first);  // NOLINT(bugprone-use-after-move): what is left is the point
    EXPECT_EQ(second.get(), raw);
    UniqueFd third;
    third = std::move(second);
    EXPECT_TRUE(is_open(raw));
  }
  EXPECT_FALSE(is_open(raw));
}

TEST(UniqueMapping, MapsAndRefuses) {
  auto mapping = UniqueMapping::anonymous(8192, "a test");
  ASSERT_TRUE(mapping);
  mapping->bytes()[8191] = std::byte{7};
  UniqueMapping other = std::move(*mapping);
  EXPECT_EQ(other.bytes()[8191], std::byte{7});
  EXPECT_EQ(other.size_bytes(), 8192u);
  const auto absurd = UniqueMapping::anonymous(size_t{1} << 62, "a test");
  ASSERT_FALSE(absurd);
  EXPECT_EQ(absurd.error().code(), ErrorCode::kExhausted);
  EXPECT_THAT(absurd.error().to_string(), ::testing::HasSubstr("for a test"));
}

class ReadFile : public ::testing::Test {
 protected:
  void SetUp() override {
    fd_.reset(::memfd_create("read-file-test", MFD_CLOEXEC));
    path_ = "/proc/self/fd/" + std::to_string(fd_.get());
  }
  UniqueFd fd_;
  std::string path_;
};

TEST_F(ReadFile, ReadsUpToTheLimitAndNotBeyond) {
  const std::vector<std::byte> content(100000, std::byte{0x5a});
  ASSERT_TRUE(write_all(fd_.get(), content));
  EXPECT_EQ(read_file(path_, 100000).value(), content);
  const auto refused = read_file(path_, 99999);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::kExhausted);
}

TEST_F(ReadFile, EmptyFileIsEmpty) { EXPECT_TRUE(read_file(path_, 0).value().empty()); }

TEST_F(ReadFile, FileThatAnnouncesNoSize) {
  const auto content = read_file("/proc/self/status", 1 << 20);
  ASSERT_TRUE(content);
  EXPECT_GT(content->size(), 100u);
  EXPECT_EQ(read_file("/proc/self/status", 10).error().code(), ErrorCode::kExhausted);
}

TEST_F(ReadFile, EndlessFileIsRefused) {
  EXPECT_EQ(read_file("/dev/zero", 1 << 16).error().code(), ErrorCode::kExhausted);
}

TEST_F(ReadFile, MissingFileAndDirectoryAreNamed) {
  EXPECT_EQ(read_file("/nonexistent/file", 10).error().to_string(),
            "cannot open '/nonexistent/file': No such file or directory");
  EXPECT_EQ(read_file("/proc", 10).error().to_string(), "'/proc' is a directory");
}

TEST(WriteAll, ReportsAClosedPipe) {
  ::signal(SIGPIPE, SIG_IGN);
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  ::close(ends[0]);
  const UniqueFd writer(ends[1]);
  const std::byte data[1] = {};
  EXPECT_FALSE(write_all(writer.get(), data));
}

}  // namespace
}  // namespace rhea::base
