// SPDX-License-Identifier: Apache-2.0
// The A20 gate and several processors: all see it closed and opened, in data and in code. [ICH9 5.13.1.1]
// The image lies at 2 MiB, where the line is zero.
#include "smp.h"

void guest_main(void);

#define LOW 0x400000ul
#define HIGH 0x500000ul
typedef uint32_t function(void);

static volatile bool is_closed;       // as the boot processor has it
static volatile unsigned generation;  // odd: it is being changed
static volatile unsigned wrong[kMaxCpus], seen[kMaxCpus][2];
static volatile bool stop;

static void set_gate(bool open) {
  outb(0x92, open ? 2 : 0);
  while (inb(0x64) & 2) {
  }
  outb(0x64, open ? 0xdf : 0xdd);
  while (inb(0x64) & 2) {
  }
}

// The gate takes effect on another processor soon, not at once: looks at it until it is as it should be.
static void watch(void* unused) {
  (void)unused;
  const unsigned self = this_cpu()->index;
  while (!stop) {
    const unsigned at = generation;
    if (at & 1) {
      pause();
      continue;
    }
    const bool closed = is_closed;
    const uint32_t wanted = closed ? 1 : 2;
    bool as_wanted = false;
    for (unsigned i = 0; i < 1000 && !as_wanted; ++i)
      as_wanted = *(volatile uint32_t*)(HIGH + 0x100) == wanted && ((function*)HIGH)() == wanted;
    for (unsigned i = 0; i < 10 && as_wanted; ++i)
      as_wanted = *(volatile uint32_t*)(HIGH + 0x100) == wanted && ((function*)HIGH)() == wanted;
    if (generation != at) continue;
    if (as_wanted)
      ++seen[self][closed];
    else
      ++wrong[self];
  }
}

void guest_main(void) {
  smp_start();
  memcpy((void*)LOW, "\xb8\x01\x00\x00\x00\xc3", 6);  // mov $1, %eax; ret
  memcpy((void*)HIGH, "\xb8\x02\x00\x00\x00\xc3", 6);
  *(volatile uint32_t*)(LOW + 0x100) = 1;
  *(volatile uint32_t*)(HIGH + 0x100) = 2;
  for (unsigned i = 1; i < cpu_count; ++i) run_on(i, watch, 0);
  struct span span = span_of(40, 300);
  bool all_seen = true, own = true;
  while (span_goes_on(&span)) {
    is_closed = span.done & 1;
    ++generation;
    set_gate(!is_closed);
    ++generation;
    own = own && *(volatile uint32_t*)(HIGH + 0x100) == (is_closed ? 1 : 2);
    unsigned before[kMaxCpus];
    for (unsigned i = 1; i < cpu_count; ++i) before[i] = seen[i][is_closed];
    for (unsigned i = 1; i < cpu_count; ++i)
      all_seen = all_seen && WAIT_FOR(seen[i][is_closed] != before[i] || wrong[i]);
  }
  stop = true;
  for (unsigned i = 1; i < cpu_count; ++i) wait_idle(i);
  set_gate(true);
  unsigned bad = 0;
  for (unsigned i = 1; i < cpu_count; ++i) bad += wrong[i];
  info("changes", span.done, "changes of the gate");
  check("own-view-at-once", own);
  check("all-processors-follow", all_seen);
  check_eq("none-sees-it-wrong", bad, 0);
  finish();
}
