// SPDX-License-Identifier: Apache-2.0
// hostile_guest: guests made of noise and of damaged instructions, on a whole machine of four vCPUs.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "tests/hostile/program.h"
#include "tests/hostile/worker.h"

namespace rhea::tests::hostile {
namespace {

using isa::x86::Rng;
using Clock = std::chrono::steady_clock;

constexpr std::string_view kHelp = R"(usage: hostile_guest [options]
  --replay PATH       run the case in this file, or all in this folder; may be given again
  --repeat N          each of them so often (default 1: threads race, so a failure may need more)
  --mode NAME         new cases in one mode only: real, protected16, protected32, paging32, pae, virtual8086,
                      compatibility, long-user, long-kernel, mixed (default: all)
  --seconds N         new cases for so long (default 10)
  --cases N           ... or so many for each worker
  --seed S            another set of cases (default 1)
  --corpus DIR        half of the new cases are mutations of those in this folder
  --jobs N            worker processes (default 1; each has four vCPUs)
  --cpu-ms N          processor time of a case in milliseconds (default 8)
  --artifacts DIR     where the files of failures go (default: the current folder)
  --verbose           says of each case how it ended, and where its vCPUs were
  --suite             what the test suite runs: what --replay names, then new cases in each mode for half a second; with
                      RHEA_TEST_LONG=1 in the environment for 30 seconds, and for five minutes where this program was
                      built with the address sanitizer
)";

struct Arguments {
  RunOptions run;
  std::vector<std::string> replay;
  std::optional<Mode> mode;
  std::string corpus;
  double seconds = 10;
  uint64_t repeat = 1, cases = 0, seed = 1;
  unsigned jobs = 1;
  bool suite = false;
};

[[noreturn]] void usage(std::string_view problem) {
  fmt::print(stderr, "hostile_guest: {}\n{}", problem, kHelp);
  std::exit(2);
}

uint64_t number(std::string_view option, const char* text) {
  char* end = nullptr;
  const uint64_t value = std::strtoull(text, &end, 0);
  if (end == text || *end) usage(fmt::format("{}: '{}' is not a number", option, text));
  return value;
}

void parse_option(Arguments& arguments, std::string_view option, const char* value) {
  if (option == "--replay") {
    arguments.replay.emplace_back(value);
  } else if (option == "--mode") {
    arguments.mode = mode_named(value);
    if (!arguments.mode) usage(fmt::format("--mode: no mode is called '{}'", value));
  } else if (option == "--corpus") {
    arguments.corpus = value;
  } else if (option == "--artifacts") {
    arguments.run.artifacts = value;
  } else if (option == "--seconds") {
    arguments.seconds = static_cast<double>(number(option, value));
  } else if (option == "--cases") {
    arguments.cases = number(option, value);
  } else if (option == "--repeat") {
    arguments.repeat = number(option, value);
  } else if (option == "--seed") {
    arguments.seed = number(option, value);
  } else if (option == "--jobs") {
    arguments.jobs = std::max(1u, static_cast<unsigned>(number(option, value)));
  } else if (option == "--cpu-ms") {
    arguments.run.cpu_milliseconds = std::max(1u, static_cast<unsigned>(number(option, value)));
  } else {
    usage(fmt::format("{}: unknown option", option));
  }
}

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    if (option == "--help") {
      fmt::print("{}", kHelp);
      std::exit(0);
    }
    if (option == "--suite") {
      arguments.suite = true;
      continue;
    }
    if (option == "--verbose") {
      arguments.run.verbose = true;
      continue;
    }
    if (i + 1 == argc) usage(fmt::format("{}: unknown, or its value is missing", option));
    parse_option(arguments, option, argv[++i]);
  }
  return arguments;
}

std::vector<Case> read_cases(const std::string& path) {
  std::vector<std::filesystem::path> files;
  std::error_code problem;
  if (std::filesystem::is_directory(path, problem)) {
    for (const auto& entry : std::filesystem::directory_iterator(path)) files.push_back(entry.path());
    std::ranges::sort(files);
  } else {
    files.emplace_back(path);
  }
  std::vector<Case> cases;
  for (const auto& name : files) {
    std::ifstream file(name, std::ios::binary);
    if (!file) usage(fmt::format("cannot read {}", name.string()));
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    cases.push_back(parse_case({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}));
  }
  return cases;
}

CaseSource replay_source(std::vector<Case> cases, uint64_t repeat) {
  auto list = std::make_shared<std::vector<Case>>(std::move(cases));
  return [list, repeat](uint64_t index) -> std::optional<Case> {
    if (index >= list->size() * repeat) return std::nullopt;
    return (*list)[index / repeat];
  };
}

// Each case has a seed of its own, so that a worker's number and the case's make it again.
CaseSource new_cases(const Arguments& arguments, std::optional<Mode> mode, unsigned worker, double seconds) {
  auto corpus = std::make_shared<std::vector<Case>>();
  if (!arguments.corpus.empty()) *corpus = read_cases(arguments.corpus);
  return [=, start = Clock::now()](uint64_t index) -> std::optional<Case> {
    const double elapsed = std::chrono::duration<double>(Clock::now() - start).count();
    if (arguments.cases ? index >= arguments.cases : elapsed >= seconds) return std::nullopt;
    Rng random(Rng(arguments.seed + (uint64_t{worker} << 32)).next() + index);
    if (corpus->empty() || random.chance(1, 2)) return make_case(random, mode);
    Case value = (*corpus)[random.below(static_cast<uint32_t>(corpus->size()))];
    if (mode) value.mode = *mode;
    for (unsigned changes = 1 + random.below(6); changes > 0; --changes) mutate(value, random, mode.has_value());
    return value;
  };
}

void report(std::string_view what, const RunResult& result) {
  fmt::print("hostile {}: {} cases, {} failures, {:.0f} s of processor time\n", what, result.cases,
             result.failures.size(), result.process_seconds);
  std::fflush(stdout);
}

RunResult run_new(const Arguments& arguments, std::optional<Mode> mode, double seconds) {
  std::vector<CaseSource> sources;
  for (unsigned i = 0; i < arguments.jobs; ++i) sources.push_back(new_cases(arguments, mode, i, seconds));
  const RunResult result = run_workers(sources, arguments.run);
  report(mode ? kModeNames[static_cast<size_t>(*mode)] : "all modes", result);
  return result;
}

RunResult run_replay(const Arguments& arguments) {
  std::vector<Case> cases;
  for (const std::string& path : arguments.replay) std::ranges::copy(read_cases(path), std::back_inserter(cases));
  RunOptions options = arguments.run;
  options.confirm_leaks = false;
  const RunResult result = run_workers({replay_source(cases, arguments.repeat)}, options);
  report("replay", result);
  return result;
}

int suite(Arguments arguments) {
  const char* wish = std::getenv("RHEA_TEST_LONG");
#ifdef __SANITIZE_ADDRESS__
  constexpr double kLongSeconds = 300;
#else
  constexpr double kLongSeconds = 30;
#endif
  const double seconds = wish && std::string_view(wish) == "1" ? kLongSeconds : 0.5;
  uint64_t passed = 0, failed = 0;
  auto count = [&](const RunResult& result) { (result.failures.empty() && result.cases > 0 ? passed : failed)++; };
  if (!arguments.replay.empty()) count(run_replay(arguments));
  for (size_t mode = 0; mode < kModeNames.size(); ++mode) count(run_new(arguments, static_cast<Mode>(mode), seconds));
  fmt::print("{} passed, {} failed, 0 skipped\n", passed, failed);
  return failed ? 1 : 0;
}

int main(int argc, char** argv) {
  const Arguments arguments = parse(argc, argv);
  if (arguments.suite) return suite(arguments);
  const RunResult result =
      arguments.replay.empty() ? run_new(arguments, arguments.mode, arguments.seconds) : run_replay(arguments);
  return result.failures.empty() ? 0 : 1;
}

}  // namespace
}  // namespace rhea::tests::hostile

int main(int argc, char** argv) { return rhea::tests::hostile::main(argc, argv); }
