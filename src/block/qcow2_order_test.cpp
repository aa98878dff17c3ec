// SPDX-License-Identifier: Apache-2.0
// Requests that overtake each other: reads and writes of the file that are held back while others go on.
#include <gtest/gtest.h>

#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <deque>

#include "base/event_loop.h"
#include "block/disk.h"
#include "block/forwarding_file_test.h"
#include "block/image_tools.h"
#include "block/layer.h"
#include "testing/scratch_folder.h"

namespace rhea::block {
namespace {

// Passes on what comes, unless it is told to hold or to fail it.
class HeldFile final : public ForwardingFile {
 public:
  struct Control {
    bool hold_reads = false, hold_writes = false;
    int write_error = 0, sync_error = 0;
    std::deque<std::function<void()>> held;
    unsigned syncs = 0;
    void release() {
      for (; !held.empty(); held.pop_front()) held.front()();
    }
  };
  HeldFile(std::unique_ptr<AsyncFile> file, Control& control) : ForwardingFile(std::move(file)), control_(control) {}
  void read(uint64_t offset, std::vector<iovec> buffers, Done done) override {
    if (!control_.hold_reads) return file_->read(offset, std::move(buffers), std::move(done));
    control_.held.push_back([=, this] { file_->read(offset, buffers, done); });
  }
  void write(uint64_t offset, std::vector<iovec> buffers, Done done) override {
    if (control_.write_error) return file_->sync([=, this](int) { done(control_.write_error); });
    if (!control_.hold_writes) return file_->write(offset, std::move(buffers), std::move(done));
    control_.held.push_back([=, this] { file_->write(offset, buffers, done); });
  }
  void sync(Done done) override {
    ++control_.syncs;
    file_->sync([=, this](int error) { done(control_.sync_error ? control_.sync_error : error); });
  }

 private:
  Control& control_;
};

class OrderTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kCluster = 65536, kClusters = 200, kBytes = kClusters * kCluster;

  void open(const std::string& format) {
    path_ = folder_.at("disk." + format);
    ASSERT_TRUE(create_image({.path = path_, .format = format, .size_bytes = kBytes}));
    auto opened = open_disk(*loop_, path_, {.format = format, .wrap_file = [this](std::unique_ptr<AsyncFile> file) {
                                              return std::make_unique<HeldFile>(std::move(file), control_);
                                            }});
    ASSERT_TRUE(opened) << opened.error().message();
    disk_ = std::move(*opened);
  }
  // A cluster's worth of one byte.
  std::vector<uint8_t> pattern(uint8_t byte) { return std::vector<uint8_t>(kCluster, byte); }
  struct Pending {
    std::vector<uint8_t> data;
    int result = -1;
  };
  void submit(Operation operation, uint64_t cluster, Pending& pending) {
    disk_->submit({.operation = operation,
                   .offset = cluster * kCluster,
                   .length = operation == Operation::kFlush ? 0 : kCluster,
                   .buffers = {{pending.data.data(), pending.data.size()}},
                   .done = [&pending](int error) { pending.result = error; }});
  }
  int wait(const Pending& pending) {
    for (int i = 0; pending.result < 0 && i < 2000; ++i) loop_->run_once(100);
    return pending.result;
  }
  int run(Operation operation, uint64_t cluster, uint8_t byte = 0) {
    Pending pending{pattern(byte)};
    submit(operation, cluster, pending);
    return wait(pending);
  }
  std::vector<uint8_t> read(uint64_t cluster) {
    Pending pending{pattern(0xee)};
    submit(Operation::kRead, cluster, pending);
    EXPECT_EQ(wait(pending), 0);
    return pending.data;
  }

  rhea::testing::ScratchFolder folder_;
  std::string path_;
  std::unique_ptr<base::EventLoop> loop_ = std::move(*base::EventLoop::create());
  HeldFile::Control control_;
  std::unique_ptr<Disk> disk_;
};

TEST_F(OrderTest, AWriteUnderWayNeverLandsOnSpaceGivenAwayMeanwhile) {
  open("qcow2");
  ASSERT_EQ(run(Operation::kWrite, 0, 'a'), 0);
  ASSERT_EQ(run(Operation::kFlush, 0), 0);
  control_.hold_writes = true;
  Pending late{pattern('b')};
  submit(Operation::kWrite, 0, late);
  control_.hold_writes = false;
  ASSERT_EQ(run(Operation::kDiscard, 0), 0);
  ASSERT_EQ(run(Operation::kFlush, 0), 0);
  for (uint64_t cluster = 1; cluster < kClusters; ++cluster) ASSERT_EQ(run(Operation::kWrite, cluster, 'c'), 0);
  control_.release();
  ASSERT_EQ(wait(late), 0);
  for (uint64_t cluster = 1; cluster < kClusters; ++cluster) ASSERT_EQ(read(cluster), pattern('c')) << cluster;
}

TEST_F(OrderTest, AReadUnderWayNeverSeesWhatTheSpaceWasGivenAwayFor) {
  open("qcow2");
  ASSERT_EQ(run(Operation::kWrite, 0, 'a'), 0);
  ASSERT_EQ(run(Operation::kFlush, 0), 0);
  control_.hold_reads = true;
  Pending late{pattern(0xee)};
  submit(Operation::kRead, 0, late);
  control_.hold_reads = false;
  ASSERT_EQ(run(Operation::kDiscard, 0), 0);
  ASSERT_EQ(run(Operation::kFlush, 0), 0);
  for (uint64_t cluster = 1; cluster < kClusters; ++cluster) ASSERT_EQ(run(Operation::kWrite, cluster, 'c'), 0);
  control_.release();
  ASSERT_EQ(wait(late), 0);
  EXPECT_TRUE(late.data == pattern('a') || late.data == pattern(0));
}

TEST_F(OrderTest, SpaceGivenAwayComesBackOnceNobodyUsesIt) {
  open("qcow2");
  ASSERT_EQ(run(Operation::kWrite, 0, 'a'), 0);
  control_.hold_reads = true;
  Pending late{pattern(0)};
  submit(Operation::kRead, 0, late);
  control_.hold_reads = false;
  ASSERT_EQ(run(Operation::kDiscard, 0), 0);
  ASSERT_EQ(run(Operation::kFlush, 0), 0);
  control_.release();
  ASSERT_EQ(wait(late), 0);
  disk_.reset();  // flushes
  const auto info = inspect_image(path_, "qcow2");
  ASSERT_TRUE(info);
  if (std::system("qemu-img --version >/dev/null 2>&1") == 0)
    EXPECT_EQ(std::system(("qemu-img check -q " + path_).c_str()), 0);
}

TEST_F(OrderTest, AWriteThatFailsLeavesNoClusterBehind) {
  open("qcow2");
  ASSERT_EQ(run(Operation::kWrite, 1, 'x'), 0);
  control_.write_error = ENOSPC;
  EXPECT_EQ(run(Operation::kWrite, 0, 'a'), ENOSPC);
  control_.write_error = 0;
  EXPECT_EQ(read(0), pattern(0));
  disk_.reset();
  if (std::system("qemu-img --version >/dev/null 2>&1") == 0)
    EXPECT_EQ(std::system(("qemu-img check -q " + path_).c_str()), 0);
}

TEST_F(OrderTest, AFlushThatFailedFailsForGood) {
  open("raw");
  ASSERT_EQ(run(Operation::kWrite, 0, 'a'), 0);
  control_.sync_error = EIO;
  EXPECT_EQ(run(Operation::kFlush, 0), EIO);
  control_.sync_error = 0;
  EXPECT_EQ(run(Operation::kFlush, 0), EIO);
  EXPECT_EQ(control_.syncs, 1u);
}

TEST_F(OrderTest, AnImageFileRemembersItsFailure) {
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  ImageFile sync(pipe_fds[1]);  // cannot be synced: EINVAL
  EXPECT_EQ(sync.sync(), EINVAL);
  close(pipe_fds[0]);
  close(pipe_fds[1]);
  EXPECT_EQ(sync.sync(), EINVAL);  // else EBADF
}

}  // namespace
}  // namespace rhea::block
