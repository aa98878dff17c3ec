// SPDX-License-Identifier: Apache-2.0
// What a benchmark line is: a name, a unit of work, and a function that does n of them.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct bench_line {
  const char* name;
  const char* group;        // "integer", "fp" (SIMD and floating point), "memory", "system"
  const char* unit;         // what one operation is
  void (*run)(uint64_t n);  // does n operations
  int (*available)(void);   // 0: this CPU or system cannot run it; may be NULL
  void (*prepare)(void);    // once before the first run; may be NULL
  uint64_t slow_ns;         // an operation takes about this long: one per sample, not a tenth of a second's worth
};

extern const struct bench_line kCpuLines[];
extern const size_t kCpuLineCount;
extern const struct bench_line kFpLines[];
extern const size_t kFpLineCount;
extern const struct bench_line kSystemLines[];
extern const size_t kSystemLineCount;

// Results go here, so that the compiler may not drop the work.
extern volatile uint64_t bench_sink;

uint64_t bench_now_ns(void);  // CLOCK_MONOTONIC
__attribute__((noreturn)) void bench_die(const char* what);

// A small generator, the same numbers everywhere.
static inline uint32_t bench_random(uint32_t* state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}
