// SPDX-License-Identifier: Apache-2.0
// Opening images, what is refused and why, and raw disks.
#include "block/disk.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/fd.h"

namespace rhea::block {
namespace {

using testing::HasSubstr;

class DiskTest : public testing::Test {
 protected:
  DiskTest() : loop(*base::EventLoop::create()), path(testing::TempDir() + "/rhea-disk-" + std::to_string(getpid())) {
    base::UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600));
    EXPECT_EQ(ftruncate(fd.get(), 1 << 20), 0);
  }
  ~DiskTest() override { unlink(path.c_str()); }

  int run(Disk& disk, Request request) {
    int result = -1;
    request.done = [&](int error) { result = error; };
    disk.submit(std::move(request));
    for (int i = 0; result < 0 && i < 1000; ++i) loop->run_once(100);
    return result;
  }
  std::string failure(const std::string& where, const OpenOptions& options) {
    auto disk = open_disk(*loop, where, options);
    return disk ? "" : disk.error().message();
  }

  std::unique_ptr<base::EventLoop> loop;
  std::string path;
};

TEST_F(DiskTest, WritesReadsAndForgets) {
  auto disk = *open_disk(*loop, path, {});
  EXPECT_EQ(disk->size_bytes(), 1u << 20);
  std::vector<uint8_t> data(8192, 0x5a), back(8192);
  EXPECT_EQ(
      run(*disk, {.operation = Operation::kWrite, .offset = 4096, .length = 8192, .buffers = {{data.data(), 8192}}}),
      0);
  EXPECT_EQ(run(*disk, {.operation = Operation::kFlush}), 0);
  EXPECT_EQ(
      run(*disk, {.operation = Operation::kRead, .offset = 4096, .length = 8192, .buffers = {{back.data(), 8192}}}), 0);
  EXPECT_EQ(back, data);
  for (const Request& request : {Request{.operation = Operation::kWriteZeroes, .offset = 4096, .length = 4096},
                                 Request{.operation = Operation::kDiscard, .offset = 8192, .length = 4096}})
    EXPECT_EQ(run(*disk, request), 0);
  EXPECT_EQ(
      run(*disk, {.operation = Operation::kRead, .offset = 4096, .length = 8192, .buffers = {{back.data(), 8192}}}), 0);
  EXPECT_EQ(std::count(back.begin(), back.begin() + 4096, 0), 4096);
}

TEST_F(DiskTest, TwoWritersAreRefusedAndReadersShare) {
  auto first = open_disk(*loop, path, {});
  ASSERT_TRUE(first);
  EXPECT_THAT(failure(path, {}), HasSubstr("in use by another program"));
  EXPECT_THAT(failure(path, {.read_only = true}), HasSubstr("in use by another program"));
  first->reset();
  auto reader = open_disk(*loop, path, {.read_only = true});
  ASSERT_TRUE(reader);
  EXPECT_TRUE(open_disk(*loop, path, {.read_only = true}));
  EXPECT_THAT(failure(path, {}), HasSubstr("in use by another program"));
}

TEST_F(DiskTest, SaysWhatIsWrong) {
  EXPECT_THAT(failure(path + "-absent", {}), HasSubstr("No such file"));
  EXPECT_THAT(failure(path, {.format = "qcow9"}), HasSubstr("unknown disk format 'qcow9'"));
  EXPECT_THAT(failure(testing::TempDir(), {.read_only = true}), HasSubstr("neither a file nor a block device"));
  ASSERT_EQ(truncate(path.c_str(), 1000), 0);
  EXPECT_THAT(failure(path, {}), HasSubstr("no raw disk image"));
}

}  // namespace
}  // namespace rhea::block
