// SPDX-License-Identifier: Apache-2.0
// Both engines do the same to a file.
#include "block/async_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <numeric>

#include "base/event_loop.h"
#include "base/fd.h"

namespace rhea::block {
namespace {

class AsyncFileTest : public testing::TestWithParam<bool> {
 protected:
  AsyncFileTest() : loop(*base::EventLoop::create()), fd(memfd_create("image", MFD_CLOEXEC)) {
    file = *AsyncFile::create(*loop, fd.get(), GetParam());
  }
  void SetUp() override {
    if (GetParam() && file->engine() != "io_uring") GTEST_SKIP() << "this host has no io_uring";
  }

  // Starts an operation and runs the loop until it has ended.
  template <class Start>
  int wait_for(Start start) {
    int result = -1;
    bool within = true;
    start([&](int error) {
      EXPECT_FALSE(within) << "completed from within the call";
      result = error;
    });
    within = false;
    for (int i = 0; result < 0 && i < 1000; ++i) loop->run_once(100);
    return result;
  }
  int write(uint64_t offset, std::vector<iovec> buffers) {
    return wait_for([&](auto done) { file->write(offset, std::move(buffers), done); });
  }
  int read(uint64_t offset, std::vector<iovec> buffers) {
    return wait_for([&](auto done) { file->read(offset, std::move(buffers), done); });
  }

  std::unique_ptr<base::EventLoop> loop;
  base::UniqueFd fd;
  std::unique_ptr<AsyncFile> file;
};

std::vector<uint8_t> pattern(size_t bytes, uint8_t first) {
  std::vector<uint8_t> data(bytes);
  std::iota(data.begin(), data.end(), first);
  return data;
}

TEST_P(AsyncFileTest, WritesAndReadsPieces) {
  auto a = pattern(100, 1), b = pattern(5000, 7), c = pattern(1, 99);
  ASSERT_EQ(write(10, {{a.data(), a.size()}, {b.data(), b.size()}, {c.data(), c.size()}}), 0);
  std::vector<uint8_t> whole(5101);
  ASSERT_EQ(read(10, {{whole.data(), whole.size()}}), 0);
  EXPECT_TRUE(std::equal(a.begin(), a.end(), whole.begin()));
  EXPECT_TRUE(std::equal(b.begin(), b.end(), whole.begin() + 100));
  EXPECT_EQ(whole.back(), 99);
  ASSERT_EQ(wait_for([&](auto done) { file->sync(done); }), 0);
}

TEST_P(AsyncFileTest, BeyondTheEndReadsZeros) {
  auto data = pattern(700, 1);
  ASSERT_EQ(write(0, {{data.data(), data.size()}}), 0);
  std::vector<uint8_t> first(512, 0xee), second(512, 0xee), third(512, 0xee);
  ASSERT_EQ(read(0, {{first.data(), 512}, {second.data(), 512}, {third.data(), 512}}), 0);
  EXPECT_EQ(second[187], data[699]);
  EXPECT_EQ(std::count(second.begin() + 188, second.end(), 0), 324);
  EXPECT_EQ(std::count(third.begin(), third.end(), 0), 512);
}

TEST_P(AsyncFileTest, MoreAtOnceThanTheRingHolds) {
  constexpr size_t kCount = 2000;
  std::vector<uint8_t> data(kCount * 512);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i / 512 * 7 + i);
  size_t done = 0;
  for (size_t i = 0; i < kCount; ++i)
    file->write(i * 512, {{&data[i * 512], 512}}, [&](int error) { done += error == 0; });
  for (int i = 0; done < kCount && i < 5000; ++i) loop->run_once(100);
  EXPECT_EQ(done, kCount);
  std::vector<uint8_t> back(data.size());
  ASSERT_EQ(pread(fd.get(), back.data(), back.size(), 0), static_cast<ssize_t>(back.size()));
  EXPECT_EQ(back, data);
}

TEST_P(AsyncFileTest, MorePiecesThanOneCallTakes) {
  std::vector<uint8_t> data = pattern(3000 * 16, 3), back(data.size());
  std::vector<iovec> out, in;
  for (size_t i = 0; i < 3000; ++i) {
    out.push_back({&data[i * 16], 16});
    in.push_back({&back[i * 16], 16});
  }
  ASSERT_EQ(write(4096, out), 0);
  ASSERT_EQ(read(4096, in), 0);
  EXPECT_EQ(back, data);
}

TEST_P(AsyncFileTest, ErrorsArriveAsErrno) {
  base::UniqueFd read_only(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  auto other = *AsyncFile::create(*loop, read_only.get(), GetParam());
  char byte = 0;
  EXPECT_EQ(wait_for([&](auto done) { other->write(0, {{&byte, 1}}, done); }), EBADF);
}

INSTANTIATE_TEST_SUITE_P(Engines, AsyncFileTest, testing::Values(true, false),
                         [](const auto& engine) { return engine.param ? "IoUring" : "Threads"; });

}  // namespace
}  // namespace rhea::block
