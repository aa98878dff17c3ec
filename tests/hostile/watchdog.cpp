// SPDX-License-Identifier: Apache-2.0
#include "tests/hostile/watchdog.h"

#include <fmt/format.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace rhea::tests::hostile {
namespace {

struct Look {
  uint64_t used = 0;    // ticks, by all threads but the watchdog's
  bool asleep = true;   // all of them
  std::string threads;  // one line each
};

// [proc_pid_stat(5)]: state is the third field, user and system time the 14th and 15th.
Look look_at_threads() {
  Look look;
  const std::string self = std::to_string(gettid());
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task", ignored)) {
    if (entry.path().filename() == self) continue;
    std::ifstream file(entry.path() / "stat");
    std::string line;
    std::getline(file, line);
    const size_t after_name = line.rfind(')');
    if (after_name == std::string::npos) continue;
    std::istringstream fields(line.substr(after_name + 1));
    char state = 0;
    uint64_t user = 0, system = 0;
    std::string skipped;
    fields >> state;
    for (int i = 4; i < 14; ++i) fields >> skipped;
    fields >> user >> system;
    look.used += user + system;
    look.asleep = look.asleep && state == 'S';
    look.threads += fmt::format("  thread {}: {} {} ticks\n", entry.path().filename().string(), state, user + system);
  }
  return look;
}

uint64_t cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<uint64_t>(now.tv_sec);
}

}  // namespace

Watchdog::Watchdog(std::function<void(const std::string&)> on_hang)
    : on_hang_(std::move(on_hang)), thread_([this] { watch(); }) {}

Watchdog::~Watchdog() {
  quit_ = true;
  thread_.join();
}

void Watchdog::watch() {
  uint64_t seen_case = 0, start_seconds = 0, used = 0;
  unsigned idle_looks = 0;
  while (!quit_) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    const uint64_t current = case_.load(std::memory_order_relaxed);
    if (current != seen_case || current == 0) {
      seen_case = current;
      start_seconds = cpu_seconds();
      idle_looks = 0;
      continue;
    }
    const Look look = look_at_threads();
    idle_looks = look.asleep && look.used == used ? idle_looks + 1 : 0;
    used = look.used;
    if (idle_looks >= kIdleLooks)
      on_hang_(fmt::format("all threads sleep, and nothing wakes them\n{}", look.threads));
    else if (cpu_seconds() - start_seconds >= kCpuSeconds)
      on_hang_(fmt::format("one case has used {} s of processor time\n{}", kCpuSeconds, look.threads));
  }
}

}  // namespace rhea::tests::hostile
