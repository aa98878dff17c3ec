// SPDX-License-Identifier: Apache-2.0
// Litmus tests of the memory model: short programs on a few processors whose outcomes are tallied, round by round. What
// the model forbids fails; what it allows beyond sequential consistency is reported, because seeing it depends on the
// host. [SDM-3A 9.2]
//
// Each round has variables of its own, in one cache line, in two lines or in two pages. Within a batch the processors
// wait for each other before every round, but not for long: on a busy host they would only wait.
#include "smp.h"

void guest_main(void);

enum { kBatch = 2048, kMaxThreads = 4 };
enum layout { kSameLine, kOtherLines, kOtherPages, kLayouts };
static const char* const layout_names[] = {"same-line", "other-lines", "other-pages"};

struct outcome {
  uint8_t r[kMaxThreads][2];
  uint8_t x, y;
};
static uint8_t memory[2][kBatch * 128] __attribute__((aligned(4096)));
static uint8_t results[kMaxThreads][kBatch][64] __attribute__((aligned(64)));
static struct {
  volatile unsigned round;
  uint8_t apart[60];
} position[kMaxThreads] __attribute__((aligned(64)));
static struct {
  unsigned threads;
  enum layout layout;
} current;

static volatile uint64_t* variable(unsigned round, bool second) {
  switch (current.layout) {
    case kSameLine: return (volatile uint64_t*)(memory[0] + 64 * round + (second ? 8 : 0));
    case kOtherLines: return (volatile uint64_t*)(memory[0] + 128 * round + (second ? 64 : 0));
    default: return (volatile uint64_t*)(memory[second] + 64 * round);
  }
}

static inline void meet(unsigned self, unsigned round) {
  position[self].round = round + 1;
  for (unsigned i = 0; i < current.threads; ++i)
    for (unsigned patience = 0; patience < 150 && position[i].round < round + 1; ++patience) __asm__ volatile("");
}

// The code of one thread: %0 and %1 are its registers, zero at first, %2 points to x, %3 to y.
#define THREAD(name, code)                                                                                         \
  static void name(void) {                                                                                         \
    const unsigned self = this_cpu()->index;                                                                       \
    for (unsigned round = 0; round < kBatch; ++round) {                                                            \
      volatile uint64_t *x = variable(round, false), *y = variable(round, true);                                   \
      uint64_t r0 = 0, r1 = 0;                                                                                     \
      meet(self, round);                                                                                           \
      __asm__ volatile(code : "+&r"(r0), "+&r"(r1) : "r"(x), "r"(y) : "rax", "rbx", "rcx", "rdx", "memory", "cc"); \
      results[self][round][0] = (uint8_t)(r0 > 2 ? 9 : r0);                                                        \
      results[self][round][1] = (uint8_t)(r1 > 2 ? 9 : r1);                                                        \
    }                                                                                                              \
  }
#define STORE_X(value) "movq $" #value ", (%2)\n"
#define STORE_Y(value) "movq $" #value ", (%3)\n"
#define LOAD0_X "movq (%2), %0\n"
#define LOAD0_Y "movq (%3), %0\n"
#define LOAD1_X "movq (%2), %1\n"
#define LOAD1_Y "movq (%3), %1\n"

THREAD(sx_ly, STORE_X(1) LOAD0_Y)
THREAD(sy_lx, STORE_Y(1) LOAD0_X)
THREAD(sx_fence_ly, STORE_X(1) "mfence\n" LOAD0_Y)
THREAD(sy_fence_lx, STORE_Y(1) "mfence\n" LOAD0_X)
THREAD(sx_lock_ly, STORE_X(1) "lock addq $0, (%%rsp)\n" LOAD0_Y)
THREAD(sy_lock_lx, STORE_Y(1) "lock addq $0, (%%rsp)\n" LOAD0_X)
THREAD(xx_ly, "mov $1, %%eax; xchg %%rax, (%2)\n" LOAD0_Y)
THREAD(xy_lx, "mov $1, %%eax; xchg %%rax, (%3)\n" LOAD0_X)
THREAD(sx_cpuid_ly, STORE_X(1) "xor %%eax, %%eax; cpuid\n" LOAD0_Y)
THREAD(sy_cpuid_lx, STORE_Y(1) "xor %%eax, %%eax; cpuid\n" LOAD0_X)
THREAD(sx_lx_ly, STORE_X(1) LOAD0_X LOAD1_Y)
THREAD(sy_ly_lx, STORE_Y(1) LOAD0_Y LOAD1_X)
THREAD(sx_sy, STORE_X(1) STORE_Y(1))
THREAD(ly_lx, LOAD0_Y LOAD1_X)
THREAD(lx_ly, LOAD0_X LOAD1_Y)
THREAD(lx_sy, LOAD0_X STORE_Y(1))
THREAD(ly_sx, LOAD0_Y STORE_X(1))
THREAD(sx, STORE_X(1))
THREAD(sy, STORE_Y(1))
THREAD(sx1_sy2, STORE_X(1) STORE_Y(2))
THREAD(sy1_sx2, STORE_Y(1) STORE_X(2))
THREAD(sy2_lx, STORE_Y(2) LOAD0_X)
THREAD(sy2_fence_lx, STORE_Y(2) "mfence\n" LOAD0_X)
THREAD(sx2_sy1, STORE_X(2) STORE_Y(1))
THREAD(lx_lx, LOAD0_X LOAD1_X)
THREAD(sx_lx, STORE_X(1) LOAD0_X)
THREAD(sx2, STORE_X(2))
THREAD(lx_sx, LOAD0_X STORE_X(1))
THREAD(sx1_sx2, STORE_X(1) STORE_X(2))
THREAD(sy_fence_lx0, STORE_Y(1) "mfence\n" LOAD0_X)

// ---- what may come out ----
typedef const struct outcome* result;
static bool both_zero(result o) { return o->r[0][0] == 0 && o->r[1][0] == 0; }
static bool both_late_zero(result o) { return o->r[0][1] == 0 && o->r[1][1] == 0; }
static bool own_stores_missed(result o) { return o->r[0][0] != 1 || o->r[1][0] != 1; }
static bool message_without_data(result o) { return o->r[1][0] == 1 && o->r[1][1] == 0; }
static bool loads_see_later_stores(result o) { return o->r[0][0] == 1 && o->r[1][0] == 1; }
static bool readers_disagree(result o) {
  return o->r[2][0] == 1 && o->r[2][1] == 0 && o->r[3][0] == 1 && o->r[3][1] == 0;
}
static bool both_first_stores_last(result o) { return o->x == 1 && o->y == 1; }
static bool r_shape(result o) { return o->y == 2 && o->r[1][0] == 0; }
static bool s_shape(result o) { return o->r[1][0] == 1 && o->x == 2; }
static bool went_back(result o) { return o->r[1][0] > o->r[1][1]; }
static bool own_store_missed(result o) { return o->r[0][0] == 0 || (o->r[0][0] == 2 && o->x != 2); }
static bool saw_the_future(result o) {
  // T0 reads x, then writes 1; T1 writes 2: reading 1 is the future, reading 2 means that 1 came later.
  return o->r[0][0] == 1 || (o->r[0][0] == 2 && o->x != 1);
}
static bool last_store_not_last(result o) { return o->x != 2; }
static bool cause_without_origin(result o) { return o->r[1][0] == 1 && o->r[2][0] == 1 && o->r[2][1] == 0; }
static bool rwc_shape(result o) { return o->r[1][0] == 1 && o->r[1][1] == 0 && o->r[2][0] == 0; }

static const struct test {
  const char* name;
  unsigned threads;
  void (*thread[kMaxThreads])(void);
  bool (*forbidden)(result);
  bool (*relaxed)(result);  // allowed, and not sequentially consistent
} tests[] = {
    {"SB", 2, {sx_ly, sy_lx}, 0, both_zero},
    {"SB+mfences", 2, {sx_fence_ly, sy_fence_lx}, both_zero, 0},
    {"SB+locks", 2, {sx_lock_ly, sy_lock_lx}, both_zero, 0},
    {"SB+xchgs", 2, {xx_ly, xy_lx}, both_zero, 0},
    {"SB+cpuids", 2, {sx_cpuid_ly, sy_cpuid_lx}, both_zero, 0},
    {"SB+one-mfence", 2, {sx_fence_ly, sy_lx}, 0, both_zero},
    {"SB+forwarding", 2, {sx_lx_ly, sy_ly_lx}, own_stores_missed, both_late_zero},
    {"MP", 2, {sx_sy, ly_lx}, message_without_data, 0},
    {"LB", 2, {lx_sy, ly_sx}, loads_see_later_stores, 0},
    {"2+2W", 2, {sx1_sy2, sy1_sx2}, both_first_stores_last, 0},
    {"R", 2, {sx_sy, sy2_lx}, 0, r_shape},
    {"R+mfence", 2, {sx_sy, sy2_fence_lx}, r_shape, 0},
    {"S", 2, {sx2_sy1, ly_sx}, s_shape, 0},
    {"CoRR", 2, {sx, lx_lx}, went_back, 0},
    {"CoWR", 2, {sx_lx, sx2}, own_store_missed, 0},
    {"CoRW", 2, {lx_sx, sx2}, saw_the_future, 0},
    {"CoWW", 2, {sx1_sx2, lx_lx}, last_store_not_last, 0},
    {"CoWW-seen", 2, {sx1_sx2, lx_lx}, went_back, 0},
    {"WRC", 3, {sx, lx_sy, ly_lx}, cause_without_origin, 0},
    {"RWC+mfence", 3, {sx, lx_ly, sy_fence_lx0}, rwc_shape, 0},
    {"IRIW", 4, {sx, sy, lx_ly, ly_lx}, readers_disagree, 0},
};

// ---- tally ----
enum { kKinds = 24 };
static struct {
  uint64_t code, count;
} tally[kKinds];
static uint64_t uncounted;

static void count_outcome(result o, unsigned threads) {
  uint64_t code = 0;
  for (unsigned i = 0; i < threads; ++i) code = code * 100 + o->r[i][0] * 10u + o->r[i][1];
  code = code * 100 + o->x * 10u + o->y;
  for (unsigned i = 0; i < kKinds; ++i) {
    if (tally[i].count && tally[i].code != code) continue;
    tally[i].code = code;
    ++tally[i].count;
    return;
  }
  ++uncounted;
}

static void print_tally(const char* name, const char* layout, unsigned threads) {
  print("info ");
  print(name);
  print(" ");
  print(layout);
  print(":");
  for (unsigned i = 0; i < kKinds && tally[i].count; ++i) {
    print(" ");
    uint64_t divisor = 1;
    for (unsigned digit = 0; digit < 2 * threads + 1; ++digit) divisor *= 10;
    for (; divisor; divisor /= 10) print_decimal(tally[i].code / divisor % 10);
    print("=");
    print_decimal(tally[i].count);
  }
  print("\n");
}

static struct barrier barrier;
static volatile bool is_last;
static const struct test* test;
static struct {
  uint64_t forbidden, relaxed, rounds;
} sums;

static void judge_batch(void) {
  for (unsigned round = 0; round < kBatch; ++round) {
    struct outcome o = {.x = (uint8_t)*variable(round, false), .y = (uint8_t)*variable(round, true)};
    for (unsigned i = 0; i < test->threads; ++i) memcpy(o.r[i], results[i][round], 2);
    bool is_odd = o.x > 2 || o.y > 2;
    for (unsigned i = 0; i < test->threads; ++i) is_odd = is_odd || o.r[i][0] > 2 || o.r[i][1] > 2;
    sums.forbidden += is_odd || (test->forbidden && test->forbidden(&o));
    sums.relaxed += test->relaxed && test->relaxed(&o);
    count_outcome(&o, test->threads);
  }
  sums.rounds += kBatch;
}

static void run_thread(void* unused) {
  (void)unused;
  const unsigned self = this_cpu()->index, threads = test->threads;
  struct span span = span_of(32, 120);
  for (;;) {
    if (self == 0) {
      is_last = !span_goes_on(&span);
      for (unsigned i = 0; i < threads; ++i) position[i].round = 0;
      for (unsigned round = 0; round < kBatch; ++round) *variable(round, false) = *variable(round, true) = 0;
    }
    barrier_wait(&barrier, threads);
    if (is_last) return;
    test->thread[self]();
    barrier_wait(&barrier, threads);
    if (self == 0) judge_batch();
  }
}

void guest_main(void) {
  smp_start();
  uint64_t rounds = 0, store_buffering = 0;
  for (unsigned i = 0; i < ARRAY_SIZE(tests); ++i) {
    test = &tests[i];
    if (test->threads > cpu_count) {
      skip(test->name, "not enough processors");
      continue;
    }
    current.threads = test->threads;
    for (current.layout = kSameLine; current.layout < kLayouts; ++current.layout) {
      memset(&sums, 0, sizeof sums);
      memset(tally, 0, sizeof tally);
      run_everywhere(test->threads, run_thread, 0);
      check_in(test->name, layout_names[current.layout], sums.forbidden, 0);
      if (option("depth", 1) > 1 || sums.forbidden)
        print_tally(test->name, layout_names[current.layout], test->threads);
      if (test->relaxed && test->relaxed == both_zero) store_buffering += sums.relaxed;
      rounds += sums.rounds;
    }
  }
  if (uncounted) info("tally", uncounted, "outcomes beyond the table");
  info("litmus", rounds, "rounds");
  info("store buffering seen", store_buffering, "times (0: the processors hardly ran at the same time)");
  finish();
}
