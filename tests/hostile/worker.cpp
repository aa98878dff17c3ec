// SPDX-License-Identifier: Apache-2.0
#include "tests/hostile/worker.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <map>
#include <span>

#include "base/check.h"
#include "base/strings.h"
#include "tests/hostile/run.h"
#include "tests/hostile/watchdog.h"

namespace rhea::tests::hostile {
namespace {

constexpr int kHangStatus = 90, kLeakStatus = 91;
constexpr unsigned kMaxFailures = 10;

// Shared by a worker and its parent, who needs to know what the worker died of.
struct Board {
  std::atomic<uint64_t> started, done;
  uint32_t case_bytes;
  uint8_t bytes[kMaxCaseBytes];
  char text[4096];
};

void say(Board& board, const std::string& text) {
  const size_t count = std::min(text.size(), sizeof board.text - 1);
  std::memcpy(board.text, text.data(), count);
  board.text[count] = 0;
}

[[noreturn]] void work(Board& board, const CaseSource& source, const RunOptions& options) {
  {
    Watchdog watchdog([&](const std::string& text) {
      say(board, text);
      _exit(kHangStatus);
    });
    Arena arena;
    while (const auto next = source(board.started.fetch_add(1))) {
      const std::vector<uint8_t> bytes = to_bytes(*next);
      board.case_bytes = static_cast<uint32_t>(bytes.size());
      std::memcpy(board.bytes, bytes.data(), bytes.size());
      watchdog.begin_case();
      const Outcome outcome = arena.run(*next, options.cpu_milliseconds);
      board.done.fetch_add(1);
      if (options.verbose)
        fmt::print("{} {:#04x}: {}\n", kModeNames[static_cast<size_t>(next->mode)], next->choices, outcome.end);
      if (outcome.leak.empty()) continue;
      say(board, outcome.leak);
      _exit(kLeakStatus);
    }
  }
  std::exit(0);  // what leaked memory, a sanitizer says now
}

class Worker {
 public:
  Worker() {
    void* memory = mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    RHEA_CHECK(memory != MAP_FAILED);
    board_ = static_cast<Board*>(memory);  // zero, which is what its atomics start with
  }
  ~Worker() { munmap(board_, sizeof(Board)); }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  pid_t start(const CaseSource& source, const RunOptions& options) {
    board_->text[0] = 0;
    board_->case_bytes = 0;
    std::fflush(nullptr);
    const pid_t pid = fork();
    RHEA_CHECK(pid >= 0);
    if (pid == 0) work(*board_, source, options);
    return pid;
  }
  const Board& board() const { return *board_; }

 private:
  Board* board_;
};

std::string keep(const Board& board, const RunOptions& options) {
  const std::span bytes(board.bytes, board.case_bytes);
  uint64_t hash = 0xcbf29ce484222325;
  for (const uint8_t byte : bytes) hash = (hash ^ byte) * 0x100000001b3;
  const std::string path = fmt::format("{}/hostile-{:016x}.case", options.artifacts, hash);
  const base::UniqueFd file(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!file || write(file.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
    return fmt::format("(cannot write {})", path);
  return path;
}

std::string own_path() {
  char path[4096] = {};
  return readlink("/proc/self/exe", path, sizeof path - 1) > 0 ? path : "hostile_guest";
}

// A word that a guest has computed is the same in every process; an address of the process is not.
bool leaks_again(const std::string& path) {
  const std::string command = fmt::format("'{}' --replay '{}' --repeat 20 >/dev/null 2>&1", own_path(), path);
  return std::system(command.c_str()) != 0;
}

std::string what_happened(const Board& board, int status) {
  if (WIFSIGNALED(status))
    return fmt::format("killed by signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)));
  if (WEXITSTATUS(status) == kHangStatus) return fmt::format("hangs: {}", board.text);
  if (WEXITSTATUS(status) == kLeakStatus) return fmt::format("leaks: {}", board.text);
  return fmt::format("ended with status {} (a sanitizer's report, or a check that failed)", WEXITSTATUS(status));
}

double children_seconds() {
  rusage usage{};
  getrusage(RUSAGE_CHILDREN, &usage);
  auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

RunResult run_workers(const std::vector<CaseSource>& sources, const RunOptions& options) {
  RunResult result;
  const double seconds_before = children_seconds();
  std::vector<Worker> workers(sources.size());
  std::map<pid_t, size_t> running;
  for (size_t i = 0; i < sources.size(); ++i) running[workers[i].start(sources[i], options)] = i;
  while (!running.empty()) {
    int status = 0;
    const pid_t pid = wait(&status);
    if (pid < 0 || !running.contains(pid)) continue;
    const size_t index = running[pid];
    running.erase(pid);
    if (status == 0) continue;
    const Board& board = workers[index].board();
    const std::string path = keep(board, options);
    const bool leak = WIFEXITED(status) && WEXITSTATUS(status) == kLeakStatus;
    if (leak && options.confirm_leaks && !leaks_again(path)) {
      fmt::print("not confirmed in another process: {} ({})\n", board.text, path);
    } else {
      result.failures.push_back(
          fmt::format("{}\n  again with: {} --replay {}", what_happened(board, status), own_path(), path));
      fmt::print("FAILED {}\n", result.failures.back());
      std::fflush(stdout);
      if (result.failures.size() >= kMaxFailures) break;
    }
    running[workers[index].start(sources[index], options)] = index;
  }
  for (const auto& [pid, index] : running) {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
  for (const Worker& worker : workers) result.cases += worker.board().done;
  result.process_seconds = children_seconds() - seconds_before;
  return result;
}

}  // namespace rhea::tests::hostile
