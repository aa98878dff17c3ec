// SPDX-License-Identifier: Apache-2.0
// A thread that runs an event loop, for devices that do their work beside the vCPUs.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/event_loop.h"

namespace rhea::base {

// Any thread may create and destroy it, except its own.
class IoThread {
 public:
  // `name`: of the thread, up to 15 characters.
  static Result<std::unique_ptr<IoThread>> create(const std::string& name);
  ~IoThread();
  IoThread(const IoThread&) = delete;
  IoThread& operator=(const IoThread&) = delete;

  EventLoop& loop() { return *loop_; }
  // Runs `function` on the thread and returns when it has; at once if called there.
  void run_sync(const std::function<void()>& function);

 private:
  explicit IoThread(std::unique_ptr<EventLoop> loop) : loop_(std::move(loop)) {}
  std::unique_ptr<EventLoop> loop_;
  std::thread thread_;
};

// A bell that any thread rings and that calls back on a loop's thread: many rings may become one call.
class Doorbell {
 public:
  // Errors: no descriptors left.
  static Result<std::unique_ptr<Doorbell>> create(EventLoop& loop, std::function<void()> callback);
  ~Doorbell();  // afterwards the callback does not run
  Doorbell(const Doorbell&) = delete;
  Doorbell& operator=(const Doorbell&) = delete;

  void ring();
  int fd() const { return event_.get(); }  // an eventfd: writing to it rings, too

 private:
  Doorbell(EventLoop& loop, UniqueFd event) : loop_(loop), event_(std::move(event)) {}
  EventLoop& loop_;
  UniqueFd event_;
};

}  // namespace rhea::base
