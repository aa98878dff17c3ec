// SPDX-License-Identifier: Apache-2.0
// The queue behind every clock's timers.
#include "io/timer_queue.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace rhea::io {

class TimerQueue::Handle final : public Timer {
 public:
  Handle(TimerQueue& queue, std::shared_ptr<Entry> entry) : queue_(queue), entry_(std::move(entry)) {}
  ~Handle() override { queue_.destroy(entry_); }
  void arm(uint64_t deadline_ns) override { queue_.arm(*entry_, deadline_ns); }
  void cancel() override { queue_.cancel(*entry_); }

 private:
  TimerQueue& queue_;
  std::shared_ptr<Entry> entry_;
};

TimerQueue::~TimerQueue() { RHEA_CHECK(entries_.empty()); }  // a timer outlived its clock

std::unique_ptr<Timer> TimerQueue::create(std::function<void()> callback) {
  auto entry = std::make_shared<Entry>();
  entry->callback = std::move(callback);
  {
    const std::lock_guard lock(mutex_);
    entries_.push_back(entry);
  }
  return std::make_unique<Handle>(*this, std::move(entry));
}

void TimerQueue::arm(Entry& entry, uint64_t deadline_ns) {
  const std::lock_guard lock(mutex_);
  entry.armed = true;
  entry.deadline_ns = deadline_ns;
  entry.sequence = next_sequence_++;
  if (!programmed_ || deadline_ns < *programmed_) {
    programmed_ = deadline_ns;
    if (program_) program_(programmed_);
  }
}

void TimerQueue::cancel(Entry& entry) {
  const std::lock_guard lock(mutex_);
  entry.armed = false;
}

void TimerQueue::destroy(const std::shared_ptr<Entry>& entry) {
  std::unique_lock lock(mutex_);
  entry->armed = false;
  std::erase(entries_, entry);
  // A callback may destroy its own timer: it cannot wait for itself, and run_due() keeps the entry alive for it.
  callback_done_.wait(lock, [&] { return !entry->running || entry->runner == std::this_thread::get_id(); });
}

TimerQueue::Entry* TimerQueue::earliest_locked(uint64_t armed_before) const {
  Entry* best = nullptr;
  for (const auto& entry : entries_) {
    if (!entry->armed || entry->sequence >= armed_before) continue;
    if (best == nullptr ||
        std::pair(entry->deadline_ns, entry->sequence) < std::pair(best->deadline_ns, best->sequence)) {
      best = entry.get();
    }
  }
  return best;
}

void TimerQueue::run_due(uint64_t now_ns) {
  std::unique_lock lock(mutex_);
  const uint64_t armed_before = next_sequence_;
  for (;;) {
    Entry* due = earliest_locked(armed_before);
    if (due == nullptr || due->deadline_ns > now_ns) break;
    const auto keep = *std::ranges::find(entries_, due, &std::shared_ptr<Entry>::get);
    due->armed = false;
    due->running = true;
    due->runner = std::this_thread::get_id();
    lock.unlock();
    keep->callback();
    lock.lock();
    keep->running = false;
    callback_done_.notify_all();
  }
  program_locked();
}

void TimerQueue::program_locked() {
  const Entry* next = earliest_locked(next_sequence_);
  programmed_ = next == nullptr ? std::nullopt : std::optional(next->deadline_ns);
  if (program_) program_(programmed_);
}

void TimerQueue::reprogram() {
  const std::lock_guard lock(mutex_);
  program_locked();
}

std::optional<uint64_t> TimerQueue::earliest() const {
  const std::lock_guard lock(mutex_);
  const Entry* next = earliest_locked(next_sequence_);
  return next == nullptr ? std::nullopt : std::optional(next->deadline_ns);
}

}  // namespace rhea::io
