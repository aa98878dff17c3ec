// SPDX-License-Identifier: Apache-2.0
// The parent's side of native execution: feeds the ring, notices runaway cases and dead children.
#include "tests/isa/native_executor.h"

#include <linux/futex.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>

#include "tests/isa/native_child.h"

namespace rhea::tests::isa {
namespace {

constexpr unsigned long kHwcap2Fsgsbase = 2;
constexpr auto kPatience = std::chrono::milliseconds(100);  // a case takes microseconds; a busy host takes longer

void futex_wake(std::atomic<uint32_t>& word) { syscall(SYS_futex, &word, FUTEX_WAKE, 1, nullptr, nullptr, 0); }

void futex_wait(std::atomic<uint32_t>& word, uint32_t value) {
  const timespec timeout{.tv_sec = 0, .tv_nsec = 100'000'000};
  syscall(SYS_futex, &word, FUTEX_WAIT, value, &timeout, nullptr, 0);
}

}  // namespace

Result<std::unique_ptr<NativeExecutor>> NativeExecutor::create() {
  if (!(getauxval(AT_HWCAP2) & kHwcap2Fsgsbase))
    return fail(ErrorCode::kUnsupported, "running code natively: the kernel does not offer FSGSBASE");
  std::unique_ptr<NativeExecutor> executor(new NativeExecutor);
  void* memory = mmap(nullptr, sizeof(NativeRing), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return fail(Error::from_errno(errno, "mapping the ring of cases"));
  executor->ring_ = new (memory) NativeRing;
  executor->backing_fd_ = memfd_create("rhea-isa-arena", MFD_CLOEXEC);
  if (executor->backing_fd_ < 0 || ftruncate(executor->backing_fd_, kImageBytes) != 0)
    return fail(Error::from_errno(errno, "creating the arena"));
  if (!executor->start_child()) return fail(Error::from_errno(errno, "starting the native child"));
  return executor;
}

NativeExecutor::~NativeExecutor() {
  stop_child();
  if (backing_fd_ >= 0) close(backing_fd_);
  if (ring_) munmap(ring_, sizeof(NativeRing));
}

bool NativeExecutor::start_child() {
  ring_->child_waits = 0;
  ring_->parent_waits = 0;
  child_ = fork();
  if (child_ == 0) native_child_main(*ring_, backing_fd_);
  return child_ > 0;
}

void NativeExecutor::stop_child() {
  if (child_ <= 0) return;
  kill(child_, SIGKILL);
  waitpid(child_, nullptr, 0);
  child_ = -1;
}

void NativeExecutor::start(std::span<const Input> inputs, std::span<Output> outputs) {
  outputs_ = outputs;
  first_ = ring_->submitted.load();
  for (size_t i = 0; i < inputs.size(); ++i) {
    // Only what this arena differs in travels through the ring; Input is plain data.
    std::memcpy(&ring_->input[(first_ + i) % kRingSlots], &inputs[i], sizeof(Input));
    ring_->submitted.store(first_ + static_cast<uint32_t>(i) + 1);
    if (ring_->child_waits.load()) futex_wake(ring_->submitted);
  }
}

void NativeExecutor::finish() {
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const uint32_t number = first_ + static_cast<uint32_t>(i);
    wait_for(number + 1);
    std::memcpy(&outputs_[i], &ring_->output[number % kRingSlots], sizeof(Output));
  }
}

void NativeExecutor::run(const Input& input, Output& output) {
  start({&input, 1}, {&output, 1});
  finish();
}

void NativeExecutor::wait_for(uint32_t target) {
  uint32_t before = ring_->completed.load();
  auto since = std::chrono::steady_clock::now();
  while (static_cast<int32_t>(ring_->completed.load() - target) < 0) {
    ring_->parent_waits.store(1);
    const uint32_t now = ring_->completed.load();
    if (static_cast<int32_t>(now - target) < 0) futex_wait(ring_->completed, now);
    ring_->parent_waits.store(0);
    if (waitpid(child_, nullptr, WNOHANG) == child_) recover();
    const uint32_t after = ring_->completed.load();
    const auto time = std::chrono::steady_clock::now();
    if (after != before) {
      before = after;
      since = time;
    } else if (time - since > kPatience) {
      ring_->give_up.store(before + 1);
      kill(child_, SIGALRM);
    }
  }
}

// The child died of the case it was running: that one is lost, the others go on in a new child.
void NativeExecutor::recover() {
  child_ = -1;
  const uint32_t lost = ring_->completed.load();
  ring_->output[lost % kRingSlots].outcome = {
      .kind = OutcomeKind::kLost, .vector = 0, .error_code = 0, .fault_address = 0};
  ring_->completed.store(lost + 1);
  if (!start_child()) _exit(70);
}

}  // namespace rhea::tests::isa
