// SPDX-License-Identifier: Apache-2.0
// The thread of one vCPU: parked until resume(), then inside Vcpu::run() until that returns.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "cpu/engine.h"

namespace rhea::machine {

class VcpuThread {
 public:
  using OnStart =
      std::function<void(unsigned index)>;  // called on the vCPU's thread before its first run(); may be empty
  using OnStop = std::function<void()>;     // called on the vCPU's thread after run() has returned: see take_stop()

  VcpuThread(std::unique_ptr<cpu::Vcpu> vcpu, unsigned index, OnStart on_start, OnStop on_stop);
  ~VcpuThread();  // quit()
  VcpuThread(const VcpuThread&) = delete;
  VcpuThread& operator=(const VcpuThread&) = delete;

  cpu::Vcpu& vcpu() { return *vcpu_; }

  // One thread (the main loop's) calls these. resume() only while parked.
  void resume();
  bool parked();
  // Why the vCPU was parked last; told once, and forgotten by resume().
  std::optional<cpu::StopReason> take_stop();
  // Stops the vCPU and ends the thread. Of several, request_stop() all before.
  void quit();
  // Any thread: makes run() return; harmless while parked. A run() that was about to return for another reason may
  // leave the request to the next one, which then returns kStopped at once.
  void request_stop();

 private:
  enum class State { kParked, kRunning, kQuit };
  void thread_main();

  std::unique_ptr<cpu::Vcpu> vcpu_;
  unsigned index_;
  OnStart on_start_;
  OnStop on_stop_;
  std::mutex mutex_;
  std::condition_variable changed_;
  State state_ = State::kParked;
  bool quit_ = false;
  std::optional<cpu::StopReason> stop_;
  std::thread thread_;
};

}  // namespace rhea::machine
