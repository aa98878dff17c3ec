// SPDX-License-Identifier: Apache-2.0
// Tells a process that hangs from one that is slow: by the processor time it has used and by what its threads do,
// never by the wall's clock.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>

namespace rhea::tests::hostile {

class Watchdog {
 public:
  // Within one case: so much processor time means that it spins...
  static constexpr uint64_t kCpuSeconds = 60;
  // ... and so many looks, a tenth of a second apart, at which all threads slept and none had run: that it is stuck.
  static constexpr unsigned kIdleLooks = 100;

  // `on_hang` is told on the watchdog's thread, and should end the process.
  explicit Watchdog(std::function<void(const std::string& text)> on_hang);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  void begin_case() { case_.fetch_add(1, std::memory_order_relaxed); }  // any thread

 private:
  void watch();

  std::function<void(const std::string&)> on_hang_;
  std::atomic<uint64_t> case_{0};
  std::atomic<bool> quit_{false};
  std::thread thread_;
};

}  // namespace rhea::tests::hostile
