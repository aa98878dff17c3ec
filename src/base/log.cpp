// SPDX-License-Identifier: Apache-2.0
// The log's sink: one line, one write().
#include "base/log.h"

#include <time.h>

#include <array>
#include <iterator>

#include "base/fd.h"
#include "base/strings.h"

namespace rhea::base {
namespace {

constexpr std::array<std::string_view, static_cast<size_t>(Trace::kCount)> kTraceNames = {
    "cpu", "exception", "mmu",    "translate", "irq",     "timer", "io",    "mmio",
    "pci", "serial",    "memory", "loader",    "machine", "debug", "guest",
};

std::string_view level_name(LogLevel level) {
  switch (level) {
    case LogLevel::kError: return "error";
    case LogLevel::kWarning: return "warning";
    case LogLevel::kInfo: return "info";
  }
  return "";
}

uint64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

std::string_view trace_name(Trace category) { return kTraceNames[static_cast<size_t>(category)]; }
std::span<const std::string_view> trace_names() { return kTraceNames; }

Status Log::enable_traces(std::string_view comma_separated) {
  uint64_t wanted = 0;
  for (std::string_view name : split(comma_separated, ',')) {
    if (name == "all") {
      wanted = (uint64_t{1} << kTraceNames.size()) - 1;
      continue;
    }
    size_t index = 0;
    while (index < kTraceNames.size() && kTraceNames[index] != name) ++index;
    if (index == kTraceNames.size()) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("unknown trace category '{}'{}; the categories are {}, all", name,
                              did_you_mean(name, kTraceNames), fmt::join(kTraceNames, ", ")));
    }
    wanted |= uint64_t{1} << index;
  }
  traces_.fetch_or(wanted, std::memory_order_relaxed);
  return {};
}

void Log::line(LogLevel level, fmt::string_view format, fmt::format_args args) {
  write_line(fmt::format("rhea: {}: ", level_name(level)), format, args);
}

void Log::trace_line(Trace category, fmt::string_view format, fmt::format_args args) {
  const uint64_t now = monotonic_ns();
  uint64_t dropped = 0;
  {
    const std::lock_guard lock(mutex_);
    if (now - window_start_ns_ >= 1'000'000'000) {
      window_start_ns_ = now;
      window_lines_ = 0;
      dropped = std::exchange(dropped_, 0);
    }
    if (window_lines_ == trace_lines_per_second_) {
      ++dropped_;
      return;
    }
    ++window_lines_;
  }
  if (dropped != 0) {
    write_line("trace: ", "{} lines dropped (too many in one second)", fmt::make_format_args(dropped));
  }
  write_line(fmt::format("{}.{:06} {}: ", now / 1'000'000'000, now / 1000 % 1'000'000, trace_name(category)), format,
             args);
}

void Log::write_line(std::string_view prefix, fmt::string_view format, fmt::format_args args) {
  fmt::memory_buffer buffer;
  buffer.append(prefix);
  fmt::vformat_to(std::back_inserter(buffer), format, args);
  buffer.push_back('\n');
  // Locked, so that lines stay whole across short writes, and none is lost where a file is shared without O_APPEND.
  const std::lock_guard lock(mutex_);
  // Nowhere is left to report a failure of the log itself.
  [[maybe_unused]] const Status unreported = write_all(fd_, std::as_bytes(std::span(buffer.data(), buffer.size())));
}

}  // namespace rhea::base
