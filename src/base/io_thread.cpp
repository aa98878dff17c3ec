// SPDX-License-Identifier: Apache-2.0
// Event loop threads and doorbells.
#include "base/io_thread.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <future>

namespace rhea::base {

Result<std::unique_ptr<IoThread>> IoThread::create(const std::string& name) {
  std::unique_ptr<IoThread> thread(new IoThread(RHEA_TRY(EventLoop::create())));
  thread->thread_ = std::thread([loop = thread->loop_.get()] { loop->run(); });
  pthread_setname_np(thread->thread_.native_handle(), name.substr(0, 15).c_str());
  return thread;
}

IoThread::~IoThread() {
  loop_->quit();
  thread_.join();
}

void IoThread::run_sync(const std::function<void()>& function) {
  if (loop_->on_loop_thread()) return function();
  std::promise<void> done;
  loop_->post([&] {
    function();
    done.set_value();
  });
  done.get_future().wait();
}

Result<std::unique_ptr<Doorbell>> Doorbell::create(EventLoop& loop, std::function<void()> callback) {
  UniqueFd event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event) return fail(Error::from_errno(errno, "creating an eventfd"));
  std::unique_ptr<Doorbell> bell(new Doorbell(loop, std::move(event)));
  RHEA_TRY(loop.add_fd(bell->fd(), EPOLLIN, [fd = bell->fd(), callback = std::move(callback)](uint32_t) {
    uint64_t rings = 0;
    if (read(fd, &rings, sizeof rings) == sizeof rings) callback();
  }));
  return bell;
}

Doorbell::~Doorbell() { loop_.remove_fd(event_.get()); }

void Doorbell::ring() {
  const uint64_t one = 1;
  // A full counter means that it has been rung already.
  [[maybe_unused]] const ssize_t written = write(event_.get(), &one, sizeof one);
}

}  // namespace rhea::base
