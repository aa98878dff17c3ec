// SPDX-License-Identifier: Apache-2.0
// The epoll loop.
#include "base/event_loop.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "base/check.h"

namespace rhea::base {
namespace {

constexpr uint64_t kWakeToken = 0;
constexpr int kEventsPerWait = 32;

uint64_t thread_id() {
  thread_local const uint64_t id = static_cast<uint64_t>(::syscall(SYS_gettid));
  return id;
}

}  // namespace

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  std::unique_ptr<EventLoop> loop(new EventLoop);
  loop->epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!loop->epoll_) return fail(Error::from_errno(errno, "cannot create an epoll descriptor"));
  loop->wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!loop->wake_) return fail(Error::from_errno(errno, "cannot create an eventfd"));
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kWakeToken;
  if (::epoll_ctl(loop->epoll_.get(), EPOLL_CTL_ADD, loop->wake_.get(), &event) != 0) {
    return fail(Error::from_errno(errno, "cannot watch the event loop's eventfd"));
  }
  return loop;
}

EventLoop::~EventLoop() = default;

Status EventLoop::add_fd(int fd, uint32_t events, FdCallback callback) {
  auto watch = std::make_shared<Watch>();
  watch->fd = fd;
  watch->callback = std::move(callback);
  const std::lock_guard lock(mutex_);
  if (by_fd_.contains(fd))
    return fail(ErrorCode::kInvalidArgument, fmt::format("descriptor {} is watched already", fd));
  // A token per watch, not the descriptor: the number of a closed descriptor is soon used again, while events
  // of its predecessor may still be in the batch that is being handled.
  const uint64_t token = next_token_++;
  epoll_event event{};
  event.events = events;
  event.data.u64 = token;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return fail(Error::from_errno(errno, fmt::format("cannot watch descriptor {}", fd)));
  }
  by_fd_[fd] = watch;
  by_token_[token] = watch;
  tokens_[fd] = token;
  return {};
}

Status EventLoop::modify_fd(int fd, uint32_t events) {
  const std::lock_guard lock(mutex_);
  const auto token = tokens_.find(fd);
  if (token == tokens_.end()) return fail(ErrorCode::kNotFound, fmt::format("descriptor {} is not watched", fd));
  epoll_event event{};
  event.events = events;
  event.data.u64 = token->second;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) != 0) {
    return fail(Error::from_errno(errno, fmt::format("cannot change the watch of descriptor {}", fd)));
  }
  return {};
}

void EventLoop::remove_fd(int fd) {
  std::shared_ptr<Watch> watch;  // its callback dies outside the lock: it may own things that call us
  {
    std::unique_lock lock(mutex_);
    const auto found = by_fd_.find(fd);
    if (found == by_fd_.end()) return;
    watch = std::move(found->second);
    by_fd_.erase(found);
    by_token_.erase(tokens_.at(fd));
    tokens_.erase(fd);
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
    if (!on_loop_thread()) callback_done_.wait(lock, [&] { return watch->running == 0; });
  }
}

void EventLoop::post(std::function<void()> function) {
  {
    const std::lock_guard lock(mutex_);
    posted_.push_back(std::move(function));
  }
  const uint64_t one = 1;
  // EAGAIN means that the counter is full, hence the loop is awake anyway.
  (void)!::write(wake_.get(), &one, sizeof one);
}

void EventLoop::quit() {
  post([this] { quit_ = true; });
}

void EventLoop::run_posted() {
  std::vector<std::function<void()>> batch;
  {
    const std::lock_guard lock(mutex_);
    batch.swap(posted_);
  }
  for (auto& function : batch) function();
}

void EventLoop::run() {
  quit_ = false;
  while (!quit_) run_once(-1);
}

void EventLoop::run_once(int timeout_ms) {
  const uint64_t outer = loop_thread_.exchange(thread_id());
  RHEA_CHECK(outer == 0 || outer == thread_id());
  std::array<epoll_event, kEventsPerWait> events;
  const int count = ::epoll_wait(epoll_.get(), events.data(), kEventsPerWait, timeout_ms);
  RHEA_CHECK(count >= 0 || errno == EINTR);
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<size_t>(i)];
    if (event.data.u64 == kWakeToken) {
      uint64_t counter;
      (void)!::read(wake_.get(), &counter, sizeof counter);
      run_posted();
      continue;
    }
    dispatch(event.data.u64, event.events);
  }
  loop_thread_.store(outer);
}

void EventLoop::dispatch(uint64_t token, uint32_t events) {
  std::shared_ptr<Watch> watch;
  {
    const std::lock_guard lock(mutex_);
    const auto found = by_token_.find(token);
    if (found == by_token_.end()) return;  // removed by a callback of the same batch
    watch = found->second;
    ++watch->running;
  }
  watch->callback(events);
  {
    const std::lock_guard lock(mutex_);
    --watch->running;
  }
  callback_done_.notify_all();
}

bool EventLoop::on_loop_thread() const { return loop_thread_.load() == thread_id(); }

Result<std::unique_ptr<SignalWatch>> SignalWatch::create(EventLoop& loop, std::initializer_list<int> signals,
                                                         std::function<void(int signo)> callback) {
  sigset_t set;
  sigemptyset(&set);
  for (int signo : signals) sigaddset(&set, signo);
  if (const int problem = ::pthread_sigmask(SIG_BLOCK, &set, nullptr); problem != 0) {
    return fail(Error::from_errno(problem, "cannot block signals"));
  }
  UniqueFd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) return fail(Error::from_errno(errno, "cannot create a signalfd"));
  const int raw = fd.get();
  RHEA_TRY(loop.add_fd(raw, EPOLLIN, [raw, callback = std::move(callback)](uint32_t) {
    signalfd_siginfo info;
    while (::read(raw, &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
      callback(static_cast<int>(info.ssi_signo));
    }
  }));
  return std::unique_ptr<SignalWatch>(new SignalWatch(loop, std::move(fd)));
}

SignalWatch::~SignalWatch() { loop_.remove_fd(fd_.get()); }

}  // namespace rhea::base
