// SPDX-License-Identifier: Apache-2.0
// The sleep of a vCPU's thread while its guest processor is halted, and the rule for what ends it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>

#include "cpu/lapic.h"

namespace rhea::cpu {

class HaltSleep {
 public:
  // Any thread, after what the sleeper waits for can be seen by it. Cheap while nobody sleeps.
  void wake() {
    if (!sleeping_.load(std::memory_order_seq_cst)) return;
    std::lock_guard lock(mutex_);
    kicked_ = true;
    changed_.notify_one();
  }
  bool sleeping() const { return sleeping_.load(std::memory_order_seq_cst); }

  // The vCPU's thread: until wake(), or not at all if `awake()` holds.
  template <class Condition>
  void sleep_unless(const Condition& awake) {
    sleeping_.store(true, std::memory_order_seq_cst);
    if (!awake()) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return kicked_; });
      kicked_ = false;
    }
    sleeping_.store(false, std::memory_order_relaxed);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<bool> sleeping_{false};
  bool kicked_ = false;
};

// What a sleeping processor may be woken by.
struct HaltState {
  bool halted = false, wait_for_sipi = false;
  bool interrupts_enabled = false;
  bool nmi_blocked = false, nmi_pending = false;
  bool in_smm = false, smi_pending = false;
};

// Does the local APIC hold what ends HLT, or the wait for a start-up IPI? Takes from it what is kept in the processor:
// SMIs and a blocked NMI, which there do not hide interrupts, and a wake-up. The vCPU's thread.
bool ends_halt(Lapic& lapic, HaltState& state);

}  // namespace rhea::cpu
