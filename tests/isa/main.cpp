// SPDX-License-Identifier: Apache-2.0
// isa_conformance: the host CPU judges the translator, instruction by instruction.
#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "isa/x86/rows.h"
#include "tests/isa/engine_executor.h"
#include "tests/isa/native_executor.h"
#include "tests/isa/runner.h"
#include "tests/isa/self_check.h"

namespace rhea::tests::isa {
namespace {

constexpr std::string_view kHelp = R"(usage: isa_conformance [options]
  --rows PATTERN     only rows whose name contains PATTERN ('*' inside matches anything)
  --mode 64|32       only 64-bit or 32-bit code
  --cases N          cases per row, form, size and prefix (half of them sequences; default 200)
  --seed S           another set of cases (default 1)
  --case N           only case N of the seed, with all states
  --time SECONDS     stop after so long
  --config NAME      optimised, reference, tiny-cache, tiny-tlb, native (the host against itself) or all: cases are
                     shared out among the four (default optimised); with RHEA_TEST_LONG=1 in the environment all four
                     get every case, however long it takes
  --inject-bug N     a build with RHEA_INJECT_BUGS: seeds bug N in the translator
  --inject-all A-B   seeds bugs A to B one after the other and says which are caught
  --jobs N           worker processes (default: one per processor)
  --self-check       test the harness: host against host, and against falsified results
  --max-reports N    failures to print in full (default 20)
  --ignore-x87-pointers  do not compare FIP, FDP and FOP
  --verbose          names the cases that could not be judged
  --list             what is covered and what is skipped, and why
)";

struct Arguments {
  RunOptions run;
  std::optional<uint64_t> only_case;
  bool self_check = false, list = false;
  int inject_bug = 0, inject_first = 0, inject_last = 0;
  std::string config = "optimised";
};

[[noreturn]] void usage(std::string_view problem) {
  fmt::print(stderr, "isa_conformance: {}\n{}", problem, kHelp);
  std::exit(2);
}

uint64_t number(std::string_view option, const char* text) {
  char* end = nullptr;
  const uint64_t value = std::strtoull(text, &end, 0);
  if (end == text || *end) usage(fmt::format("{}: '{}' is not a number", option, text));
  return value;
}

void parse_range(std::string_view option, const char* text, Arguments& arguments) {
  const std::string range = text;
  const size_t dash = range.find('-');
  if (dash == std::string::npos) usage(fmt::format("{}: '{}' is not a range A-B", option, text));
  arguments.inject_first = static_cast<int>(number(option, range.substr(0, dash).c_str()));
  arguments.inject_last = static_cast<int>(number(option, range.substr(dash + 1).c_str()));
}

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  arguments.run.jobs = std::max(1u, std::thread::hardware_concurrency());
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    if (option == "--help") {
      fmt::print("{}", kHelp);
      std::exit(0);
    }
    if (option == "--self-check") {
      arguments.self_check = true;
      continue;
    }
    if (option == "--verbose") {
      arguments.run.verbose = true;
      continue;
    }
    if (option == "--ignore-x87-pointers") {
      arguments.run.ignore_x87_pointers = true;
      continue;
    }
    if (option == "--list") {
      arguments.list = true;
      continue;
    }
    if (i + 1 == argc) usage(fmt::format("{}: unknown, or its value is missing", option));
    const char* value = argv[++i];
    if (option == "--rows")
      arguments.run.rows = value;
    else if (option == "--mode")
      arguments.run.mode = static_cast<int>(number(option, value));
    else if (option == "--cases")
      arguments.run.cases = number(option, value);
    else if (option == "--seed")
      arguments.run.seed = number(option, value);
    else if (option == "--case")
      arguments.only_case = number(option, value);
    else if (option == "--time")
      arguments.run.seconds = static_cast<double>(number(option, value));
    else if (option == "--config")
      arguments.config = value;
    else if (option == "--inject-bug")
      arguments.inject_bug = static_cast<int>(number(option, value));
    else if (option == "--inject-all")
      parse_range(option, value, arguments);
    else if (option == "--jobs")
      arguments.run.jobs = static_cast<unsigned>(number(option, value));
    else if (option == "--max-reports")
      arguments.run.max_reports = static_cast<unsigned>(number(option, value));
    else
      usage(fmt::format("{}: unknown option", option));
  }
  return arguments;
}

Result<std::unique_ptr<Executor>> native_factory() { return RHEA_TRY(NativeExecutor::create()); }

void print_summary(const CaseGenerator& generator, const RunResult& result, const RunOptions& options) {
  fmt::print(
      "isa {}: seed {}, {} cases passed, {} failed, {} inconclusive, {} executor deaths, at least {} per combination, "
      "{} of {} combinations never judged, {:.1f} s, {:.0f} cases/s\n",
      options.config, options.seed, result.cases_passed, result.cases_failed, result.cases_inconclusive,
      result.executor_deaths, result.fewest_cases, result.combos_untested,
      generator.combos().size() - result.combos_skipped, result.seconds,
      static_cast<double>(result.cases_passed + result.cases_failed) / result.seconds);
}

int list(const CaseGenerator& generator, const RunOptions& options) {
  for (const Combo& combo : generator.combos()) {
    const auto& info = rhea::isa::x86::row_info(combo.row);
    if (!matches(info.name, options.rows)) continue;
    fmt::print("{:<28} {} form {} size {} L{} W{} prefix {}  {}\n", info.name,
               combo.mode == rhea::isa::x86::CpuMode::k32 ? 32 : 64, static_cast<int>(combo.form.form),
               combo.form.operand_size, combo.form.vex_l, combo.form.rex_w, static_cast<int>(combo.form.prefix),
               combo.skip.empty() ? "" : fmt::format("skipped: {}", combo.skip));
  }
  fmt::print("{} combinations\n", generator.combos().size());
  return 0;
}

int self_check(const CaseGenerator& generator, RunOptions options) {
  uint64_t passed = 0, failed = 0;
  const RunResult same = run_all(generator, options, native_factory);
  print_summary(generator, same, options);
  (same.cases_failed == 0 && same.cases_passed > 0 ? passed : failed)++;
  options.quiet = true;
  options.rows = "ADD_";  // rows that leave no flag undefined
  options.cases = 1;
  options.seconds = 0;
  for (unsigned kind = 0; kind < CorruptingExecutor::kinds(); ++kind) {
    const RunResult wrong = run_all(generator, options, [&]() -> Result<std::unique_ptr<Executor>> {
      return std::make_unique<CorruptingExecutor>(RHEA_TRY(native_factory()), kind);
    });
    const bool all_found = wrong.cases_passed == 0 && wrong.cases_failed > 0;
    if (!all_found)
      fmt::print("self-check: a change of {} escaped in {} cases\n", CorruptingExecutor::kind_name(kind),
                 wrong.cases_passed);
    (all_found ? passed : failed)++;
  }
  fmt::print("{} passed, {} failed, 0 skipped\n", passed, failed);
  return failed ? 1 : 0;
}

ExecutorFactory factory_for(std::string_view config, int inject_bug) {
  if (config == "native") return native_factory;
  return [=] { return create_engine_executor({.config = config, .inject_bug = inject_bug}); };
}

// A caught bug is a passed test.
int inject_all(const CaseGenerator& generator, const Arguments& arguments) {
  uint64_t caught = 0, missed = 0;
  RunOptions healthy = arguments.run;
  healthy.quiet = true;
  healthy.config = arguments.config;
  const RunResult baseline = run_all(generator, healthy, factory_for(arguments.config, 0));
  print_summary(generator, baseline, healthy);
  const std::set<uint64_t> known(baseline.failed_numbers.begin(), baseline.failed_numbers.end());
  for (int bug = arguments.inject_first; bug <= arguments.inject_last; ++bug) {
    RunOptions options = arguments.run;
    options.quiet = true;
    options.stop_at_first_failure = true;
    options.known_failures = &known;
    options.patience_seconds = 3;
    options.config = arguments.config;
    const RunResult result = run_all(generator, options, factory_for(arguments.config, bug));
    const bool found = result.cases_failed > 0;
    fmt::print(
        "bug {:>3}: {} after {} cases, {:.1f} s{}\n", bug, found ? "caught" : "NOT CAUGHT", result.cases_passed,
        result.seconds,
        found && !result.failed_numbers.empty()
            ? fmt::format(
                  ", case {} {}", result.failed_numbers[0],
                  rhea::isa::x86::row_info(generator.combos()[generator.combo_of(result.failed_numbers[0])].row).name)
            : "");
    std::fflush(stdout);
    (found ? caught : missed)++;
  }
  fmt::print("{} passed, {} failed, 0 skipped\n", caught, missed);
  return missed ? 1 : 0;
}

int conformance(const CaseGenerator& generator, const Arguments& arguments) {
  std::vector<std::string_view> configs{arguments.config};
  if (arguments.config == "all") configs.assign(std::begin(kEngineConfigs), std::end(kEngineConfigs));
  const char* wish = std::getenv("RHEA_TEST_LONG");
  const bool full_depth = arguments.config == "all" && wish && std::string_view(wish) == "1";
  uint64_t passed = 0, failed = 0, skipped = 0;
  for (size_t i = 0; i < configs.size(); ++i) {
    RunOptions options = arguments.run;
    options.config = configs[i];
    // Each configuration sees cases of its own: most of them run in the one that users run.
    options.first_round = i * options.cases;
    if (full_depth) {
      options.seconds = 0;
    } else {
      if (i > 0) options.cases = std::max<uint64_t>(options.cases / 8, 2);
      if (configs.size() > 1 && options.seconds > 0) options.seconds *= i == 0 ? 0.55 : 0.15;
    }
    const RunResult result = run_all(generator, options, factory_for(configs[i], arguments.inject_bug));
    print_summary(generator, result, options);
    passed += result.combos_passed;
    failed += result.combos_failed;
    skipped += result.combos_skipped;
  }
  fmt::print("{} passed, {} failed, {} skipped\n", passed, failed, skipped);
  return failed ? 1 : 0;
}

int main(int argc, char** argv) {
  const Arguments arguments = parse(argc, argv);
  const CaseGenerator generator(arguments.run.seed);
  if (arguments.list) return list(generator, arguments.run);
  if (arguments.self_check) return self_check(generator, arguments.run);
  if (arguments.inject_last) return inject_all(generator, arguments);
  if (arguments.only_case) {
    RunOptions options = arguments.run;
    options.config = arguments.config;
    return run_one(generator, options, *arguments.only_case, factory_for(arguments.config, arguments.inject_bug)) ? 0
                                                                                                                  : 1;
  }
  return conformance(generator, arguments);
}

}  // namespace
}  // namespace rhea::tests::isa

int main(int argc, char** argv) { return rhea::tests::isa::main(argc, argv); }
