// SPDX-License-Identifier: Apache-2.0
// Threads that make blocking calls, and post what came of them to the loop.
#include "block/pool_file.h"

#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>

#include "base/io_thread.h"

namespace rhea::block {
namespace {

constexpr unsigned kThreads = 4;

// Transfers all of the buffers by preadv or pwritev; 0 or an errno value.
int transfer(int fd, uint64_t offset, std::vector<iovec>& buffers, bool write) {
  size_t first = 0;
  while (first < buffers.size()) {
    const int count = static_cast<int>(std::min<size_t>(buffers.size() - first, IOV_MAX));
    const auto at = static_cast<off_t>(offset);
    const ssize_t done = write ? pwritev(fd, &buffers[first], count, at) : preadv(fd, &buffers[first], count, at);
    if (done < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      return errno;
    }
    if (done == 0 && !write) {  // beyond the end
      for (; first < buffers.size(); ++first) std::memset(buffers[first].iov_base, 0, buffers[first].iov_len);
      return 0;
    }
    auto bytes = static_cast<size_t>(done);
    offset += bytes;
    while (first < buffers.size() && bytes >= buffers[first].iov_len) bytes -= buffers[first++].iov_len;
    if (first == buffers.size()) break;
    buffers[first].iov_base = static_cast<char*>(buffers[first].iov_base) + bytes;
    buffers[first].iov_len -= bytes;
  }
  return 0;
}

class PoolFile final : public AsyncFile {
 public:
  explicit PoolFile(int fd) : fd_(fd) {}
  ~PoolFile() override {
    {
      std::lock_guard lock(mutex_);
      quit_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  Status open(base::EventLoop& loop) {
    bell_ = RHEA_TRY(base::Doorbell::create(loop, [this] { deliver(); }));
    for (unsigned i = 0; i < kThreads; ++i) threads_.emplace_back([this] { work(); });
    return {};
  }

  void read(uint64_t offset, std::vector<iovec> buffers, Done done) override {
    start([fd = fd_, offset, buffers = std::move(buffers)]() mutable { return transfer(fd, offset, buffers, false); },
          std::move(done));
  }
  void write(uint64_t offset, std::vector<iovec> buffers, Done done) override {
    start([fd = fd_, offset, buffers = std::move(buffers)]() mutable { return transfer(fd, offset, buffers, true); },
          std::move(done));
  }
  void sync(Done done) override {
    start([fd = fd_] { return fdatasync(fd) == 0 ? 0 : errno; }, std::move(done));
  }
  void allocate(int mode, uint64_t offset, uint64_t length, Done done) override {
    start(
        [fd = fd_, mode, offset, length] {
          return fallocate(fd, mode, static_cast<off_t>(offset), static_cast<off_t>(length)) == 0 ? 0 : errno;
        },
        std::move(done));
  }
  std::string_view engine() const override { return "threads"; }

 private:
  struct Job {
    std::move_only_function<int()> call;
    Done done;
    int error = 0;
  };

  void start(std::move_only_function<int()> call, Done done) {
    {
      std::lock_guard lock(mutex_);
      jobs_.push_back({std::move(call), std::move(done)});
    }
    changed_.notify_one();
  }

  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return quit_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      Job job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job.error = job.call();
      lock.lock();
      finished_.push_back(std::move(job));
      bell_->ring();
    }
  }

  void deliver() {
    std::deque<Job> finished;
    {
      std::lock_guard lock(mutex_);
      finished.swap(finished_);
    }
    for (Job& job : finished) job.done(job.error);
  }

  const int fd_;
  std::unique_ptr<base::Doorbell> bell_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_, finished_;
  bool quit_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

Result<std::unique_ptr<AsyncFile>> create_pool_file(base::EventLoop& loop, int fd) {
  auto file = std::make_unique<PoolFile>(fd);
  RHEA_TRY(file->open(loop));
  return file;
}

}  // namespace rhea::block
