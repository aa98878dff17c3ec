// SPDX-License-Identifier: Apache-2.0
// Exclusive sections among the vCPUs of a VM.
#include "dbt/runtime/rendezvous.h"

#include <algorithm>

namespace rhea::dbt {

void Rendezvous::add(Member& member) {
  std::lock_guard lock(mutex_);
  members_.push_back(&member);
}

void Rendezvous::remove(Member& member) {
  std::lock_guard lock(mutex_);
  std::erase(members_, &member);
}

void Rendezvous::enter(Member& self) {
  for (;;) {
    // Either this sees the section that is wanted, or whoever wants it sees this member run.
    self.running.store(true, std::memory_order_seq_cst);
    if (!wanted()) return;
    std::unique_lock lock(mutex_);
    self.running.store(false, std::memory_order_relaxed);
    changed_.notify_all();
    changed_.wait(lock, [this] { return !wanted(); });
  }
}

void Rendezvous::leave(Member& self) {
  // Either this sees who waits, or the waiter sees that this member does not run.
  self.running.store(false, std::memory_order_seq_cst);
  if (wanted() || waiters_.load(std::memory_order_seq_cst) != 0) notify();
}

bool Rendezvous::others_run(const Member* self) const {
  return std::ranges::any_of(members_, [self](const Member* member) {
    return member != self && member->running.load(std::memory_order_seq_cst);
  });
}

void Rendezvous::begin_exclusive(Member* self) {
  std::unique_lock lock(mutex_);
  pending_.fetch_add(1, std::memory_order_seq_cst);
  if (self) self->running.store(false, std::memory_order_seq_cst);
  changed_.notify_all();
  for (const Member* member : members_)
    if (member != self && member->running.load(std::memory_order_seq_cst)) member->poke();
  changed_.wait(lock, [&] { return !active_ && !others_run(self); });
  active_ = true;
}

void Rendezvous::end_exclusive(Member* self) {
  {
    std::lock_guard lock(mutex_);
    active_ = false;
    pending_.fetch_sub(1, std::memory_order_seq_cst);
    changed_.notify_all();
  }
  if (self) enter(*self);
}

void Rendezvous::wait(const std::function<bool()>& done) {
  // What is waited for takes a vCPU a few microseconds if its thread has a processor.
  for (unsigned spin = 0; spin < 2000; ++spin) {
    if (done()) return;
    __builtin_ia32_pause();
  }
  std::unique_lock lock(mutex_);
  waiters_.fetch_add(1, std::memory_order_seq_cst);
  changed_.wait(lock, done);
  waiters_.fetch_sub(1, std::memory_order_relaxed);
}

void Rendezvous::notify() {
  std::lock_guard lock(mutex_);
  changed_.notify_all();
}

}  // namespace rhea::dbt
