// SPDX-License-Identifier: Apache-2.0
// The interrupt status between a device that sets bits and a driver that takes them at the same moment.
#include "devices/virtio/interrupt_status.h"

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <thread>

namespace rhea::devices::virtio {
namespace {

TEST(InterruptStatusTest, TheLineIsUpWhileAnyBitIs) {
  bool line = false;
  InterruptStatus status([&](bool level) { line = level; });
  status.raise(InterruptStatus::kQueue);
  status.raise(InterruptStatus::kConfiguration);
  EXPECT_TRUE(line);
  status.acknowledge(InterruptStatus::kQueue);
  EXPECT_TRUE(line);
  EXPECT_EQ(status.take(), InterruptStatus::kConfiguration);
  EXPECT_FALSE(line);
}

// The device sets a bit while the driver's read has taken the others and is about to lower the line. Here the lowering
// lasts until the other thread is through, or has shown that it waits.
void set_while_taken(const std::function<void(InterruptStatus&)>& take) {
  std::mutex mutex;
  std::condition_variable changed;
  std::thread device;
  bool line = false, through = false, started = false;
  InterruptStatus* shared = nullptr;
  InterruptStatus status([&](bool level) {
    if (!level && !std::exchange(started, true)) {
      device = std::thread([&] {
        shared->raise(InterruptStatus::kConfiguration);
        const std::lock_guard lock(mutex);
        through = true;
        changed.notify_all();
      });
      std::unique_lock lock(mutex);
      changed.wait_for(lock, std::chrono::milliseconds(50), [&] { return through; });
    }
    line = level;
  });
  shared = &status;
  status.raise(InterruptStatus::kQueue);
  take(status);
  device.join();
  EXPECT_EQ(status.bits(), InterruptStatus::kConfiguration);
  EXPECT_TRUE(line) << "the bit is set and nothing tells the driver";
}

TEST(InterruptStatusTest, ABitSetDuringATakeIsNotLost) {
  set_while_taken([](InterruptStatus& status) { EXPECT_EQ(status.take(), InterruptStatus::kQueue); });
}
TEST(InterruptStatusTest, ABitSetDuringAnAcknowledgementIsNotLost) {
  set_while_taken([](InterruptStatus& status) { status.acknowledge(InterruptStatus::kQueue); });
}

}  // namespace
}  // namespace rhea::devices::virtio
