// SPDX-License-Identifier: Apache-2.0
// A mutex for code that runs with the guest's vector registers in place: it calls nothing of libc.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>

#include <atomic>
#include <cstdint>

namespace rhea::dbt {

// Held for moments only, and never while waiting for another vCPU. Any thread. Meets BasicLockable.
class RawMutex {
 public:
  void lock() {
    uint32_t expected = kFree;
    if (word_.compare_exchange_strong(expected, kHeld, std::memory_order_acquire)) [[likely]]
      return;
    while (word_.exchange(kContended, std::memory_order_acquire) != kFree) futex(FUTEX_WAIT_PRIVATE, kContended);
  }
  void unlock() {
    if (word_.exchange(kFree, std::memory_order_release) == kContended) futex(FUTEX_WAKE_PRIVATE, 1);
  }

 private:
  static constexpr uint32_t kFree = 0, kHeld = 1, kContended = 2;  // contended: somebody may sleep

  void futex(uint64_t operation, uint64_t value) {
    uint64_t result = SYS_futex;
    register uint64_t timeout asm("r10") = 0;
    asm volatile("syscall"
                 : "+a"(result)
                 : "D"(&word_), "S"(operation), "d"(value), "r"(timeout)
                 : "rcx", "r11", "memory");
  }

  std::atomic<uint32_t> word_{kFree};
};

// std::lock_guard for such code (its header is large, and this says what is meant).
class RawLock {
 public:
  explicit RawLock(RawMutex& mutex) : mutex_(mutex) { mutex_.lock(); }
  ~RawLock() { mutex_.unlock(); }
  RawLock(const RawLock&) = delete;
  RawLock& operator=(const RawLock&) = delete;

 private:
  RawMutex& mutex_;
};

}  // namespace rhea::dbt
