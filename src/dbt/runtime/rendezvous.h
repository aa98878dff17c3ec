// SPDX-License-Identifier: Apache-2.0
// Brings all vCPUs of a VM to a stop for what cannot be done while translated code runs.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

namespace rhea::dbt {

// A member runs (it may hold addresses inside the code cache and use its TLBs) or it does not. An exclusive section
// starts when no other member runs, and keeps them from starting. A member that waits, for whatever reason, does not
// run: so nobody waits for one who waits for them. Ordinary code; all of it is rare.
class Rendezvous {
 public:
  struct Member {
    std::function<void()> poke;  // makes it pass its next safepoint soon; any thread
    std::atomic<bool> running{false};
  };

  void add(Member& member);
  void remove(Member& member);  // a member that does not run

  // --- the member's thread ---
  void enter(Member& self);  // starts to run; waits while an exclusive section is wanted by others
  void leave(Member& self);
  bool wanted() const { return pending_.load(std::memory_order_seq_cst) != 0; }
  void safepoint(Member& self) {
    if (!wanted()) return;
    leave(self);
    enter(self);
  }

  // Waits until no member but `self` runs. `self` is a running member, which stops running (others may have had
  // exclusive sections of their own when this returns), or nullptr on a thread that is no vCPU's.
  void begin_exclusive(Member* self);
  void end_exclusive(Member* self);  // `self` runs again

  // Sleeps until `done` holds, which the waited-for announce with notify(). The caller does not run.
  void wait(const std::function<bool()>& done);
  void notify();

 private:
  bool others_run(const Member* self) const;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Member*> members_;
  std::atomic<uint32_t> pending_{0};  // exclusive sections wanted or active
  std::atomic<uint32_t> waiters_{0};  // asleep in wait(), perhaps until somebody stops running
  bool active_ = false;
};

}  // namespace rhea::dbt
