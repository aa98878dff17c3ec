// SPDX-License-Identifier: Apache-2.0
// The host's TSC: what CPUID says of it, checked against a measurement.
#include "io/host_tsc.h"

#include <cpuid.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "base/fd.h"
#include "base/numeric.h"

namespace rhea::io {
namespace {

constexpr int kTries = 8;
constexpr long kIntervalNs = 10'000'000;
constexpr uint64_t kNsPerSecond = 1'000'000'000;

struct Cpuid {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};
Cpuid cpuid(unsigned leaf) {
  Cpuid out;
  __cpuid_count(leaf, 0, out.eax, out.ebx, out.ecx, out.edx);
  return out;
}

// The frequency that CPUID announces, or 0.
uint64_t announced_frequency() {
  const Cpuid basic = cpuid(0);
  if (basic.eax >= 0x15) {
    const Cpuid crystal = cpuid(0x15);  // EBX/EAX times the crystal's ECX Hz
    if (crystal.eax != 0 && crystal.ebx != 0 && crystal.ecx != 0) {
      return base::mul_div(crystal.ecx, crystal.ebx, crystal.eax);
    }
  }
  if ((cpuid(1).ecx >> 31) & 1) {  // under a hypervisor
    const Cpuid signature = cpuid(0x40000000);
    if (signature.eax >= 0x40000010 && signature.eax < 0x40010000) {
      if (const unsigned khz = cpuid(0x40000010).eax; khz != 0) return uint64_t{khz} * 1000;
    }
  }
  if (basic.eax >= 0x16) return uint64_t{cpuid(0x16).eax & 0xffff} * 1'000'000;
  return 0;
}

struct Sample {
  uint64_t tsc = 0;
  uint64_t ns = 0;
};

// Reads both clocks as close together as this host allows just now: of several tries the tightest.
Sample sample() {
  Sample best;
  uint64_t best_width = ~uint64_t{0};
  for (int i = 0; i < kTries; ++i) {
    timespec now{};
    const uint64_t before = read_host_tsc();
    ::clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    const uint64_t after = read_host_tsc();
    if (after - before >= best_width) continue;
    best_width = after - before;
    best = {.tsc = before + (after - before) / 2,
            .ns = static_cast<uint64_t>(now.tv_sec) * kNsPerSecond + static_cast<uint64_t>(now.tv_nsec)};
  }
  return best;
}

uint64_t measured_frequency() {
  const Sample start = sample();
  const timespec interval{.tv_sec = 0, .tv_nsec = kIntervalNs};
  ::nanosleep(&interval, nullptr);
  const Sample end = sample();
  if (end.ns <= start.ns) return 0;
  return base::mul_div(end.tsc - start.tsc, kNsPerSecond, end.ns - start.ns);
}

bool file_mentions(const char* path, std::string_view word) {
  const auto content = base::read_file(path, 4096);
  if (!content) return false;
  std::string_view text(reinterpret_cast<const char*>(content->data()), content->size());
  while (!text.empty()) {
    const size_t end = std::min(text.find_first_of(" \n"), text.size());
    if (text.substr(0, end) == word) return true;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return false;
}

bool host_trusts_tsc() {
  static constexpr const char* kCurrent = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
  static constexpr const char* kAvailable = "/sys/devices/system/clocksource/clocksource0/available_clocksource";
  if (file_mentions(kCurrent, "tsc")) return true;
  const bool invariant = cpuid(0x80000000).eax >= 0x80000007 && ((cpuid(0x80000007).edx >> 8) & 1);
  // The kernel takes an unstable TSC off its list. Where there is no list to read, CPUID must do.
  return invariant && (file_mentions(kAvailable, "tsc") || !base::open_file(kAvailable, 0));
}

}  // namespace

HostTsc measure_host_tsc() {
  const uint64_t measured = measured_frequency();
  const uint64_t announced = announced_frequency();
  const uint64_t difference = std::max(measured, announced) - std::min(measured, announced);
  HostTsc tsc;
  // The announced figure is exact where it is right; leaf 0x16 is often rounded, and hypervisors err.
  if (announced != 0 && difference <= measured / 1'000'000 * 50) {
    tsc.frequency_hz = announced;
  } else {
    tsc.frequency_hz = (measured + 500) / 1000 * 1000;
  }
  tsc.reliable = tsc.frequency_hz >= 1'000'000 && host_trusts_tsc();
  return tsc;
}

}  // namespace rhea::io
