// SPDX-License-Identifier: Apache-2.0
// Messages for the user and trace points by category (--trace), as an object handed to those who speak.
//
// A trace that is off costs one load and a test; RHEA_TRACE does not evaluate its arguments then.
#pragma once

#include <fmt/format.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <span>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace rhea::base {

enum class LogLevel : uint8_t { kError, kWarning, kInfo };

// The name of a category on the command line is its enumerator in lower case, without the k.
enum class Trace : uint8_t {
  kCpu,        // mode changes, control registers, MSRs
  kException,  // exceptions and interrupts delivered to the guest
  kMmu,        // page walks, TLB flushes
  kTranslate,  // blocks translated, linked, dropped
  kIrq,        // interrupt lines, MSIs, EOIs
  kTimer,      // timers armed and fired
  kIo,         // port accesses
  kMmio,       // MMIO accesses
  kPci,
  kSerial,
  kMemory,
  kLoader,
  kMachine,
  kDebug,  // the gdb server
  kGuest,  // guest misbehaviour worth knowing
  kCount,
};
std::string_view trace_name(Trace category);
std::span<const std::string_view> trace_names();  // in the order of the enumeration

class Log {
 public:
  // Lines go to `fd`, which stays the caller's. Each line is one write().
  explicit Log(int fd = 2, uint64_t trace_lines_per_second = 200'000)
      : fd_(fd), trace_lines_per_second_(trace_lines_per_second) {}
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  // "irq,timer" or "all". Errors: kInvalidArgument for an unknown category, with the nearest right one.
  // Before the VM's threads start.
  Status enable_traces(std::string_view comma_separated);

  bool tracing(Trace category) const {
    return (traces_.load(std::memory_order_relaxed) >> static_cast<unsigned>(category)) & 1;
  }

  // Any thread.
  template <class... Args>
  void error(fmt::format_string<Args...> format, Args&&... args) {
    line(LogLevel::kError, format, fmt::make_format_args(args...));
  }
  template <class... Args>
  void warning(fmt::format_string<Args...> format, Args&&... args) {
    line(LogLevel::kWarning, format, fmt::make_format_args(args...));
  }
  template <class... Args>
  void info(fmt::format_string<Args...> format, Args&&... args) {
    line(LogLevel::kInfo, format, fmt::make_format_args(args...));
  }
  // Prints whether or not the category is on: call through RHEA_TRACE. A flood (a guest can cause one) is cut
  // off at so many lines per second as the constructor was told, with a note of how many lines were dropped.
  template <class... Args>
  void trace(Trace category, fmt::format_string<Args...> format, Args&&... args) {
    trace_line(category, format, fmt::make_format_args(args...));
  }

 private:
  void line(LogLevel level, fmt::string_view format, fmt::format_args args);
  void trace_line(Trace category, fmt::string_view format, fmt::format_args args);
  void write_line(std::string_view prefix, fmt::string_view format, fmt::format_args args);

  int fd_;
  uint64_t trace_lines_per_second_;
  std::atomic<uint64_t> traces_{0};
  std::mutex mutex_;
  uint64_t window_start_ns_ = 0;
  uint64_t window_lines_ = 0;
  uint64_t dropped_ = 0;
};

}  // namespace rhea::base

#define RHEA_TRACE(log, category, ...)        \
  do {                                        \
    if ((log).tracing(category)) [[unlikely]] \
      (log).trace((category), __VA_ARGS__);   \
  } while (false)
