// SPDX-License-Identifier: Apache-2.0
// The interrupt status that both transports have: bits that the device sets and the driver takes away, and a level
// line that is up as long as any is set. Spec: [VIRTIO-1.2 4.1.4.5, 4.2.2].
// Threads: any. The line is driven with the lock held, so that a bit set while another is taken keeps it up.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <utility>

namespace rhea::devices::virtio {

class InterruptStatus {
 public:
  static constexpr uint8_t kQueue = 1, kConfiguration = 2;

  explicit InterruptStatus(std::function<void(bool level)> line) : line_(std::move(line)) {}

  uint8_t bits() const {
    const std::lock_guard lock(mutex_);
    return bits_;
  }
  void raise(uint8_t bits) {
    const std::lock_guard lock(mutex_);
    set_locked(bits_ | bits);
  }
  void acknowledge(uint8_t bits) {
    const std::lock_guard lock(mutex_);
    set_locked(bits_ & ~bits);
  }
  // All of them, and clears them.
  uint8_t take() {
    const std::lock_guard lock(mutex_);
    const uint8_t taken = bits_;
    set_locked(0);
    return taken;
  }
  // Sets exactly these: a reset, loaded state.
  void set(uint8_t bits) {
    const std::lock_guard lock(mutex_);
    set_locked(bits);
  }
  // What the line depends on besides the bits has changed.
  void refresh() {
    const std::lock_guard lock(mutex_);
    line_(bits_ != 0);
  }

 private:
  void set_locked(unsigned bits) {
    bits_ = static_cast<uint8_t>(bits);
    line_(bits_ != 0);
  }

  mutable std::mutex mutex_;
  const std::function<void(bool)> line_;
  uint8_t bits_ = 0;
};

}  // namespace rhea::devices::virtio
