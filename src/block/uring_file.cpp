// SPDX-License-Identifier: Apache-2.0
// One ring per file, its completions announced through an eventfd on the loop.
#include "block/uring_file.h"

#include <liburing.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <limits.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <iterator>
#include <utility>

#include "base/fd.h"

namespace rhea::block {
namespace {

constexpr unsigned kRingEntries = 256;

class UringFile final : public AsyncFile {
 public:
  UringFile(base::EventLoop& loop, int fd) : loop_(loop), fd_(fd) {}
  ~UringFile() override {
    if (watched_) loop_.remove_fd(event_.get());
    if (ready_) io_uring_queue_exit(&ring_);
  }

  Status open() {
    // Disabled until the ring is restricted: what is submitted through it the sandbox does not see.
    if (const int error = io_uring_queue_init(kRingEntries, &ring_, IORING_SETUP_R_DISABLED); error < 0)
      return fail(ErrorCode::kUnsupported, std::string("io_uring: ") + std::strerror(-error));
    ready_ = true;
    event_ = base::UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!event_) return fail(Error::from_errno(errno, "creating an eventfd"));
    if (const int error = io_uring_register_eventfd(&ring_, event_.get()); error < 0)
      return fail(ErrorCode::kUnsupported, std::string("io_uring eventfd: ") + std::strerror(-error));
    if (const int error = restrict_operations(); error < 0)
      return fail(ErrorCode::kUnsupported, std::string("io_uring restrictions: ") + std::strerror(-error));
    RHEA_TRY(loop_.add_fd(event_.get(), EPOLLIN, [this](uint32_t) { reap(); }));
    watched_ = true;
    return {};
  }

  void read(uint64_t offset, std::vector<iovec> buffers, Done done) override {
    start({.kind = Kind::kRead, .offset = offset, .buffers = std::move(buffers), .done = std::move(done)});
  }
  void write(uint64_t offset, std::vector<iovec> buffers, Done done) override {
    start({.kind = Kind::kWrite, .offset = offset, .buffers = std::move(buffers), .done = std::move(done)});
  }
  void sync(Done done) override { start({.kind = Kind::kSync, .done = std::move(done)}); }
  void allocate(int mode, uint64_t offset, uint64_t length, Done done) override {
    start({.kind = Kind::kAllocate, .mode = mode, .offset = offset, .length = length, .done = std::move(done)});
  }
  std::string_view engine() const override { return "io_uring"; }

 private:
  enum class Kind : uint8_t { kRead, kWrite, kSync, kAllocate };
  struct Job {
    Kind kind;
    int mode = 0;
    uint64_t offset = 0, length = 0;
    std::vector<iovec> buffers;
    size_t first = 0;  // buffers before this one are done
    Done done;
  };

  // From here on the ring takes these operations only, whoever writes to its memory. [io_uring_register(2)]
  int restrict_operations() {
    constexpr uint8_t kOperations[] = {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE};
    std::array<io_uring_restriction, std::size(kOperations)> rules{};
    for (size_t i = 0; i < rules.size(); ++i) {
      rules[i].opcode = IORING_RESTRICTION_SQE_OP;
      rules[i].sqe_op = kOperations[i];
    }
    // By number: liburing 2.3 declares functions for these two, and its shared library lacks them.
    const int error = io_uring_register(static_cast<unsigned>(ring_.ring_fd), IORING_REGISTER_RESTRICTIONS,
                                        rules.data(), static_cast<unsigned>(rules.size()));
    if (error < 0) return error;
    return io_uring_register(static_cast<unsigned>(ring_.ring_fd), IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
  }

  void start(Job job) { queue(new Job(std::move(job))); }

  void queue(Job* job) {
    waiting_.push_back(job);
    fill();
  }

  // Moves what waits into the ring, as far as it goes; the rest follows when completions make room.
  void fill() {
    bool added = false;
    while (!waiting_.empty() && in_flight_ < kRingEntries) {
      io_uring_sqe* const entry = io_uring_get_sqe(&ring_);
      if (!entry) break;
      Job* const job = waiting_.front();
      waiting_.pop_front();
      prepare(entry, *job);
      io_uring_sqe_set_data(entry, job);
      ++in_flight_;
      added = true;
    }
    if (added) io_uring_submit(&ring_);
  }

  void prepare(io_uring_sqe* entry, Job& job) const {
    // The kernel takes at most IOV_MAX pieces; the rest is another round.
    const auto count = static_cast<unsigned>(std::min<size_t>(job.buffers.size() - job.first, IOV_MAX));
    switch (job.kind) {
      case Kind::kRead: io_uring_prep_readv(entry, fd_, job.buffers.data() + job.first, count, job.offset); break;
      case Kind::kWrite: io_uring_prep_writev(entry, fd_, job.buffers.data() + job.first, count, job.offset); break;
      case Kind::kSync: io_uring_prep_fsync(entry, fd_, IORING_FSYNC_DATASYNC); break;
      case Kind::kAllocate:
        io_uring_prep_fallocate(entry, fd_, job.mode, static_cast<off_t>(job.offset), static_cast<off_t>(job.length));
        break;
    }
  }

  void reap() {
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t got = ::read(event_.get(), &count, sizeof count);
    io_uring_cqe* completion = nullptr;
    while (io_uring_peek_cqe(&ring_, &completion) == 0) {
      Job* const job = static_cast<Job*>(io_uring_cqe_get_data(completion));
      const int result = completion->res;
      io_uring_cqe_seen(&ring_, completion);
      --in_flight_;
      finish(job, result);
    }
    fill();
  }

  void finish(Job* job, int result) {
    if (result == -EINTR || result == -EAGAIN) return queue(job);
    const bool transfer = job->kind == Kind::kRead || job->kind == Kind::kWrite;
    if (result >= 0 && transfer && !advance(*job, static_cast<size_t>(result))) return queue(job);
    Done done = std::move(job->done);
    delete job;
    done(result < 0 ? -result : 0);
  }

  // Passes over what was transferred. True: nothing is left, or the file ended (the rest reads as zeros).
  static bool advance(Job& job, size_t bytes) {
    const bool ended = bytes == 0;
    job.offset += bytes;
    while (job.first < job.buffers.size() && bytes >= job.buffers[job.first].iov_len)
      bytes -= job.buffers[job.first++].iov_len;
    if (job.first == job.buffers.size()) return true;
    iovec& rest = job.buffers[job.first];
    rest.iov_base = static_cast<char*>(rest.iov_base) + bytes;
    rest.iov_len -= bytes;
    if (!ended || job.kind == Kind::kWrite) return false;
    for (; job.first < job.buffers.size(); ++job.first)
      std::memset(job.buffers[job.first].iov_base, 0, job.buffers[job.first].iov_len);
    return true;
  }

  base::EventLoop& loop_;
  const int fd_;
  io_uring ring_{};
  base::UniqueFd event_;
  bool ready_ = false, watched_ = false;
  unsigned in_flight_ = 0;
  std::deque<Job*> waiting_;
};

}  // namespace

Result<std::unique_ptr<AsyncFile>> create_uring_file(base::EventLoop& loop, int fd) {
  auto file = std::make_unique<UringFile>(loop, fd);
  RHEA_TRY(file->open());
  return file;
}

}  // namespace rhea::block
