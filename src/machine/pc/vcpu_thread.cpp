// SPDX-License-Identifier: Apache-2.0
// The thread of one vCPU.
#include "machine/pc/vcpu_thread.h"

#include <fmt/format.h>
#include <pthread.h>

#include <utility>

#include "base/check.h"

namespace rhea::machine {

VcpuThread::VcpuThread(std::unique_ptr<cpu::Vcpu> vcpu, unsigned index, OnStart on_start, OnStop on_stop)
    : vcpu_(std::move(vcpu)),
      index_(index),
      on_start_(std::move(on_start)),
      on_stop_(std::move(on_stop)),
      thread_([this] { thread_main(); }) {}

VcpuThread::~VcpuThread() { quit(); }

void VcpuThread::quit() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    quit_ = true;
    if (state_ == State::kRunning) vcpu_->request_stop();
    changed_.notify_all();
  }
  thread_.join();
}

void VcpuThread::resume() {
  std::lock_guard lock(mutex_);
  RHEA_CHECK(state_ == State::kParked);
  state_ = State::kRunning;
  stop_.reset();
  changed_.notify_all();
}

bool VcpuThread::parked() {
  std::lock_guard lock(mutex_);
  return state_ == State::kParked;
}

std::optional<cpu::StopReason> VcpuThread::take_stop() {
  std::lock_guard lock(mutex_);
  return std::exchange(stop_, std::nullopt);
}

void VcpuThread::request_stop() {
  std::lock_guard lock(mutex_);
  if (state_ == State::kRunning) vcpu_->request_stop();
}

void VcpuThread::thread_main() {
  pthread_setname_np(pthread_self(), fmt::format("vcpu{}", index_).c_str());
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return quit_ || state_ == State::kRunning; });
    if (quit_) return;
    lock.unlock();
    if (const OnStart on_start = std::exchange(on_start_, {})) on_start(index_);
    cpu::StopReason reason = vcpu_->run();
    lock.lock();
    state_ = State::kParked;
    stop_ = reason;
    lock.unlock();
    on_stop_();
    lock.lock();
  }
}

}  // namespace rhea::machine
