// SPDX-License-Identifier: Apache-2.0
// Worker processes run disjoint cases; the parent restarts those that die or hang of a case and counts it as failed.
#include "tests/isa/runner.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <thread>
#include <vector>

#include "isa/x86/rows.h"
#include "tests/isa/judge.h"
#include "tests/isa/native_executor.h"
#include "tests/isa/report.h"

namespace rhea::tests::isa {

using rhea::isa::x86::CpuMode;
using Clock = std::chrono::steady_clock;

bool matches(std::string_view name, std::string_view pattern) {
  // '*' inside; the pattern may start and end anywhere.
  size_t at = 0;
  while (!pattern.empty()) {
    const size_t star = std::min(pattern.find('*'), pattern.size());
    const std::string_view piece = pattern.substr(0, star);
    const size_t found = name.find(piece, at);
    if (found == std::string_view::npos) return false;
    at = found + piece.size();
    pattern.remove_prefix(std::min(star + 1, pattern.size()));
  }
  return true;
}

namespace {

constexpr unsigned kMaxWorkers = 64;
constexpr size_t kMaxFailedNumbers = 1 << 16;

struct ComboCount {
  std::atomic<uint32_t> passed, failed, inconclusive;
};

struct WorkerState {
  std::atomic<uint64_t> position;  // in the worker's own list of cases
  std::atomic<uint64_t> running;   // case number given to the executor last
  std::atomic<uint32_t> done;
};

// Shared by all processes of a run.
struct Board {
  std::atomic<uint32_t> reports;
  std::atomic<uint32_t> stop;
  WorkerState workers[kMaxWorkers];
  std::atomic<uint32_t> failed_count;
  uint64_t failed_numbers[kMaxFailedNumbers];
  ComboCount combos[];
};

class Run {
 public:
  Run(const CaseGenerator& generator, const RunOptions& options, const ExecutorFactory& factory)
      : generator_(generator), options_(options), factory_(factory), start_(Clock::now()) {
    for (size_t i = 0; i < generator.combos().size(); ++i)
      if (selected(generator.combos()[i])) selected_.push_back(i);
    jobs_ = std::clamp(options.jobs, 1u, kMaxWorkers);
    board_bytes_ = sizeof(Board) + sizeof(ComboCount) * generator.combos().size();
    void* memory = mmap(nullptr, board_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) _exit(70);
    board_ = static_cast<Board*>(memory);  // zeroed, which is what its atomics start with
  }
  ~Run() { munmap(board_, board_bytes_); }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  RunResult run() {
    std::fflush(nullptr);
    for (unsigned i = 0; i < jobs_; ++i) start_worker(i);
    watch();
    return summarise();
  }

 private:
  bool selected(const Combo& combo) const {
    if (!combo.skip.empty()) return false;
    if (options_.mode == 32 && combo.mode != CpuMode::k32) return false;
    if (options_.mode == 64 && combo.mode != CpuMode::k64) return false;
    return matches(rhea::isa::x86::row_info(combo.row).name, options_.rows);
  }

  // ---- worker ----
  uint64_t case_at(unsigned worker, uint64_t position) const {
    const uint64_t sequential = position * jobs_ + worker;
    return generator_.number_of(selected_[sequential % selected_.size()],
                                options_.first_round + sequential / selected_.size());
  }
  uint64_t case_count(unsigned worker) const {
    const uint64_t total = selected_.size() * options_.cases;
    return total / jobs_ + (worker < total % jobs_);
  }
  bool time_is_up() const {
    return options_.seconds > 0 && std::chrono::duration<double>(Clock::now() - start_).count() > options_.seconds;
  }

  void start_worker(unsigned index) {
    const pid_t pid = fork();
    if (pid == 0) {
      work(index);
      std::fflush(nullptr);
      std::exit(0);  // what counts coverage writes its counters then
    }
    pids_[index] = pid;
  }

  struct Batch {
    std::vector<TestCase> cases = std::vector<TestCase>(Executor::kMaxBatch);
    std::vector<Input> inputs = std::vector<Input>(Executor::kMaxBatch);
    std::vector<Output> native = std::vector<Output>(Executor::kMaxBatch);
    Output actual;
  };

  void work(unsigned index) {
    auto native = NativeExecutor::create();
    auto subject = factory_();
    if (!native || !subject) {
      fmt::print(stderr, "isa: {}\n", (!native ? native.error() : subject.error()).to_string());
      board_->stop = 1;
      _exit(71);
    }
    WorkerState& state = board_->workers[index];
    Batch batch;
    const uint64_t count = case_count(index);
    while (state.position < count && !time_is_up() && !board_->stop) {
      size_t filled = 0;
      const uint64_t from = state.position;
      uint64_t next = from;
      for (; next < count && filled < Executor::kMaxBatch; ++next)
        if (generator_.make(case_at(index, next), batch.cases[filled], batch.inputs[filled])) ++filled;
      (*native)->start(std::span(batch.inputs).first(filled), std::span(batch.native).first(filled));
      (*native)->finish();
      for (size_t i = 0; i < filled; ++i) {
        // Whoever restarts this worker goes on behind the case that it died of.
        const uint64_t number = batch.cases[i].number;
        while (case_at(index, state.position) != number) ++state.position;
        state.running = number;
        if (conclusive(batch.native[i])) (*subject)->run(batch.inputs[i], batch.actual);
        account(batch.cases[i], batch.inputs[i], batch.native[i], batch.actual, **native, **subject);
        ++state.position;
      }
      state.position = next;
    }
    state.done = 1;
  }

  // False for a failure that was known before.
  bool note_failure(uint64_t number) {
    if (options_.known_failures && options_.known_failures->contains(number)) return false;
    const uint32_t index = board_->failed_count++;
    if (index < kMaxFailedNumbers) board_->failed_numbers[index] = number;
    if (options_.stop_at_first_failure) board_->stop = 1;
    return true;
  }

  void account(const TestCase& test_case, const Input& input, const Output& expected, const Output& actual,
               Executor& native, Executor& subject) {
    ComboCount& count = board_->combos[generator_.combo_of(test_case.number)];
    switch (judge(test_case, input, expected, actual, options_.ignore_x87_pointers)) {
      case Verdict::kPassed: ++count.passed; return;
      case Verdict::kInconclusive:
        ++count.inconclusive;
        if (options_.verbose)
          fmt::print("inconclusive: case {} {}: native {}, subject {}\n", test_case.number,
                     rhea::isa::x86::row_info(test_case.row).name, describe(expected.outcome),
                     describe(actual.outcome));
        return;
      case Verdict::kFailed: break;
    }
    if (!note_failure(test_case.number)) return;
    // One report per combination, and not too many.
    if (count.failed++ == 0 && !options_.quiet && board_->reports++ < options_.max_reports) {
      std::string text = investigate(test_case, native, subject, options_.config, options_.ignore_x87_pointers);
      if (text.empty()) {
        text = fmt::format(
            "FAIL {} seed {} case {} config {}: passes when run again: the result depends on earlier cases\n",
            rhea::isa::x86::row_info(test_case.row).name, test_case.seed, test_case.number, options_.config);
        for (const Difference& difference :
             compare(expected, actual, tolerance_for(test_case, input, expected, actual, options_.ignore_x87_pointers)))
          text += fmt::format("  {:<24} {} {}\n", difference.field, difference.expected, difference.actual);
      }
      std::fputs((text + "\n").c_str(), stdout);
      std::fflush(stdout);
    }
  }

  // ---- parent ----
  void watch() {
    std::vector<std::pair<uint64_t, Clock::time_point>> progress(jobs_, {0, Clock::now()});
    unsigned alive = jobs_;
    while (alive > 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      for (unsigned i = 0; i < jobs_; ++i) {
        if (pids_[i] <= 0) continue;
        int status = 0;
        if (waitpid(pids_[i], &status, WNOHANG) == pids_[i]) {
          pids_[i] = -1;
          if (board_->workers[i].done || board_->stop) {
            --alive;
            continue;
          }
          died(i, status);
          if (pids_[i] <= 0) {
            --alive;
            continue;
          }
          progress[i] = {board_->workers[i].position, Clock::now()};
          continue;
        }
        const uint64_t position = board_->workers[i].position;
        if (position != progress[i].first)
          progress[i] = {position, Clock::now()};
        else if (Clock::now() - progress[i].second > std::chrono::seconds(options_.patience_seconds))
          kill(pids_[i], SIGKILL);
      }
    }
  }

  void died(unsigned index, int status) {
    WorkerState& state = board_->workers[index];
    ++deaths_;
    const uint64_t number = state.running;
    const size_t combo = generator_.combo_of(number);
    const bool counts = note_failure(number);
    board_->combos[combo].failed += counts;
    if (counts && !options_.quiet && board_->reports++ < options_.max_reports) {
      TestCase test_case;
      Input& input = *scratch_;
      const bool hung = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
      fmt::print("FAIL {} {} seed {} case {} config {}: the executor {}\n",
                 rhea::isa::x86::row_info(generator_.combos()[combo].row).name,
                 generator_.combos()[combo].mode == CpuMode::k32 ? "32-bit" : "64-bit", options_.seed, number,
                 options_.config,
                 hung                  ? "hung"
                 : WIFSIGNALED(status) ? fmt::format("died of signal {}", WTERMSIG(status))
                                       : fmt::format("exited with status {}", WEXITSTATUS(status)));
      if (generator_.make(number, test_case, input))
        fmt::print("{}before:\n{}\n", listing(test_case, input), describe(input.state, input.mode32));
      std::fflush(stdout);
    }
    ++state.position;
    if (!board_->stop) start_worker(index);
  }

  RunResult summarise() {
    RunResult result;
    result.executor_deaths = deaths_;
    const size_t noted = std::min<size_t>(board_->failed_count, kMaxFailedNumbers);
    result.failed_numbers.assign(board_->failed_numbers, board_->failed_numbers + noted);
    result.fewest_cases = ~0ull;
    for (const size_t i : selected_) {
      const ComboCount& count = board_->combos[i];
      result.cases_passed += count.passed;
      result.cases_failed += count.failed;
      result.cases_inconclusive += count.inconclusive;
      const uint64_t judged = count.passed + count.failed;
      result.fewest_cases = std::min(result.fewest_cases, judged);
      if (count.failed)
        ++result.combos_failed;
      else if (count.passed)
        ++result.combos_passed;
      else
        ++result.combos_untested;
      if (count.failed && !options_.quiet)
        fmt::print("failed: {:<28} {} form {} size {} L{} W{} prefix {}: {} of {}\n",
                   rhea::isa::x86::row_info(generator_.combos()[i].row).name,
                   generator_.combos()[i].mode == CpuMode::k32 ? 32 : 64,
                   static_cast<int>(generator_.combos()[i].form.form), generator_.combos()[i].form.operand_size,
                   generator_.combos()[i].form.vex_l, generator_.combos()[i].form.rex_w,
                   static_cast<int>(generator_.combos()[i].form.prefix), count.failed.load(), judged);
      if (!judged && !options_.quiet && !options_.seconds)
        fmt::print("never judged: {} {}\n", rhea::isa::x86::row_info(generator_.combos()[i].row).name,
                   generator_.combos()[i].mode == CpuMode::k32 ? "32-bit" : "64-bit");
    }
    for (const Combo& combo : generator_.combos())
      if (!combo.skip.empty() && matches(rhea::isa::x86::row_info(combo.row).name, options_.rows))
        ++result.combos_skipped;
    result.seconds = std::chrono::duration<double>(Clock::now() - start_).count();
    return result;
  }

  const CaseGenerator& generator_;
  const RunOptions& options_;
  const ExecutorFactory& factory_;
  Clock::time_point start_;
  std::vector<size_t> selected_;
  unsigned jobs_ = 1;
  Board* board_ = nullptr;
  size_t board_bytes_ = 0;
  pid_t pids_[kMaxWorkers] = {};
  uint64_t deaths_ = 0;
  std::unique_ptr<Input> scratch_ = std::make_unique<Input>();
};

}  // namespace

RunResult run_all(const CaseGenerator& generator, const RunOptions& options, const ExecutorFactory& factory) {
  return Run(generator, options, factory).run();
}

bool run_one(const CaseGenerator& generator, const RunOptions& options, uint64_t number,
             const ExecutorFactory& factory) {
  auto native = NativeExecutor::create();
  auto subject = factory();
  if (!native || !subject) {
    fmt::print(stderr, "isa: {}\n", (!native ? native.error() : subject.error()).to_string());
    return false;
  }
  TestCase test_case;
  auto input = std::make_unique<Input>();
  if (!generator.make(number, test_case, *input)) {
    fmt::print("case {} cannot be generated\n", number);
    return false;
  }
  fmt::print("{}before:\n{}", listing(test_case, *input), describe(input->state, input->mode32));
  std::fflush(stdout);
  auto expected = std::make_unique<Output>();
  auto actual = std::make_unique<Output>();
  (*native)->run(*input, *expected);
  fmt::print("{}: {}\n{}", (*native)->name(), describe(expected->outcome), describe(expected->state, input->mode32));
  std::fflush(stdout);
  (*subject)->run(*input, *actual);
  fmt::print("{}: {}\n", (*subject)->name(), describe(actual->outcome));
  if (judge(test_case, *input, *expected, *actual, options.ignore_x87_pointers) != Verdict::kFailed) {
    fmt::print("no difference\n");
    return true;
  }
  fmt::print("\n{}", investigate(test_case, **native, **subject, options.config, options.ignore_x87_pointers));
  return false;
}

}  // namespace rhea::tests::isa
