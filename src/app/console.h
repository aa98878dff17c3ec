// SPDX-License-Identifier: Apache-2.0
// What stands behind the guest's serial console: the terminal, a pair of pipes, or a file.
//
// Threads: created and destroyed on the event loop's thread, where input is read; write() and on_receive_ready() on
// vCPU threads.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "app/terminal.h"
#include "base/error.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "devices/serial/char_backend.h"

namespace rhea::app {

class Console final : public devices::CharBackend {
 public:
  struct Options {
    int input_fd = -1;  // -1: no input
    int output_fd = -1;
    bool escape_keys = false;  // Ctrl-A x, Ctrl-A h, Ctrl-A Ctrl-A
    std::function<void()> on_quit;
  };
  // The descriptors stay the caller's.
  static Result<std::unique_ptr<Console>> create(base::EventLoop& loop, Options options);
  ~Console() override;  // writes out what is left, for at most two seconds

  void write(std::span<const std::byte> data) override;
  void set_receiver(devices::CharReceiver* receiver) override;
  void on_receive_ready() override;

  // Output that cannot be written is dropped from now on instead of holding up the guest. Any thread.
  void stop_waiting() { waiting_.store(false); }

 private:
  Console(base::EventLoop& loop, Options options) : loop_(loop), options_(std::move(options)) {}
  Status watch_input();
  void read_input();
  void take_input(std::span<const std::byte> data);
  void feed_receiver();
  void pause_input(bool paused);
  void flush_locked();
  void watch_output();
  bool output_writable(int timeout_ms) const;

  base::EventLoop& loop_;
  Options options_;
  bool input_polled_ = false;  // epoll watches it; else it is a regular file, always ready
  bool input_ended_ = false;
  bool input_paused_ = false;
  bool escape_pending_ = false;
  std::deque<std::byte> input_;  // read but not yet taken by the guest
  std::mutex receiver_mutex_;
  devices::CharReceiver* receiver_ = nullptr;

  std::mutex output_mutex_;
  std::vector<std::byte> output_;
  bool output_broken_ = false;
  bool output_watched_ = false;
  std::atomic<bool> waiting_{true};
  std::shared_ptr<Console*> self_ = std::make_shared<Console*>(this);  // posted functions may come after the end
};

}  // namespace rhea::app
