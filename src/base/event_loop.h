// SPDX-License-Identifier: Apache-2.0
// An epoll loop: descriptors with callbacks, functions posted from any thread, signals as descriptors.
#pragma once

#include <sys/epoll.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace rhea::base {

// Threads: run() on one thread, which calls everything back; add_fd, modify_fd, remove_fd, post and quit from
// any thread. After remove_fd the callback is not running and is not called again: from another thread it waits
// for a callback that is running (so hold no lock that the callback takes), from within the callback it does not.
class EventLoop {
 public:
  using FdCallback = std::function<void(uint32_t events)>;  // EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR ...

  static Result<std::unique_ptr<EventLoop>> create();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Watches a descriptor (level-triggered unless EPOLLET is given). The descriptor stays the caller's and must
  // be removed before it is closed. Errors: kPermissionDenied for what epoll cannot watch (regular files).
  Status add_fd(int fd, uint32_t events, FdCallback callback);
  Status modify_fd(int fd, uint32_t events);
  void remove_fd(int fd);

  // Runs `function` on the loop's thread, soon, in the order of posting.
  void post(std::function<void()> function);

  // Runs until quit(). What was posted before quit() is run before run() returns.
  void run();
  // Waits at most `timeout_ms` (-1: without limit) and handles what came. For tests and nested waits.
  void run_once(int timeout_ms);
  void quit();

  // True on the thread that is inside run() or run_once().
  bool on_loop_thread() const;

 private:
  struct Watch {
    int fd;
    FdCallback callback;
    unsigned running = 0;  // calls under way; they nest with run_once()
  };
  EventLoop() = default;
  void run_posted();
  void dispatch(uint64_t token, uint32_t events);

  UniqueFd epoll_;
  UniqueFd wake_;  // eventfd: something was posted
  std::mutex mutex_;
  std::condition_variable callback_done_;
  std::unordered_map<int, std::shared_ptr<Watch>> by_fd_;
  std::unordered_map<uint64_t, std::shared_ptr<Watch>> by_token_;
  std::unordered_map<int, uint64_t> tokens_;
  uint64_t next_token_ = 1;
  std::vector<std::function<void()>> posted_;
  bool quit_ = false;
  std::atomic<uint64_t> loop_thread_{0};
};

// Signals as callbacks on a loop. create() blocks the signals in the calling thread: call it before other
// threads are started, so that they inherit the mask.
class SignalWatch {
 public:
  static Result<std::unique_ptr<SignalWatch>> create(EventLoop& loop, std::initializer_list<int> signals,
                                                     std::function<void(int signo)> callback);
  ~SignalWatch();
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

 private:
  SignalWatch(EventLoop& loop, UniqueFd fd) : loop_(loop), fd_(std::move(fd)) {}
  EventLoop& loop_;
  UniqueFd fd_;
};

}  // namespace rhea::base
