// SPDX-License-Identifier: Apache-2.0
// The timers of one clock: who is due, in order, and when to wake next. Used by the clocks; devices use Timer.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "io/clock.h"

namespace rhea::io {

// Timers are armed, cancelled and destroyed on any thread; run_due() on one at a time. Arming allocates nothing.
// A queue holds tens of timers, so it is searched, not sorted.
class TimerQueue {
 public:
  // Tells when run_due() is wanted next; nothing: when nothing is armed. With the queue locked: it must not call
  // back in. It hears of earlier wake-ups at once, of later ones only after the next run_due().
  using Program = std::function<void(std::optional<uint64_t> deadline_ns)>;

  explicit TimerQueue(Program program = {}) : program_(std::move(program)) {}
  ~TimerQueue();
  TimerQueue(const TimerQueue&) = delete;
  TimerQueue& operator=(const TimerQueue&) = delete;

  std::unique_ptr<Timer> create(std::function<void()> callback);

  // Calls, without a lock held, the timers whose deadline is at or before now, earliest first and equal ones in the
  // order of arming. What is armed meanwhile waits for the next call, so that a timer that is always late cannot
  // keep the caller here.
  void run_due(uint64_t now_ns);

  std::optional<uint64_t> earliest() const;
  void reprogram();  // tells the earliest deadline again, after the clock was set

 private:
  class Handle;
  struct Entry {
    std::function<void()> callback;
    bool armed = false;
    uint64_t deadline_ns = 0;
    uint64_t sequence = 0;  // of the arming
    bool running = false;
    std::thread::id runner;
  };
  void arm(Entry& entry, uint64_t deadline_ns);
  void cancel(Entry& entry);
  void destroy(const std::shared_ptr<Entry>& entry);
  Entry* earliest_locked(uint64_t armed_before) const;
  void program_locked();

  Program program_;
  mutable std::mutex mutex_;
  std::condition_variable callback_done_;
  std::vector<std::shared_ptr<Entry>> entries_;
  uint64_t next_sequence_ = 0;
  std::optional<uint64_t> programmed_;
};

}  // namespace rhea::io
