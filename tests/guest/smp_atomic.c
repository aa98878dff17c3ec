// SPDX-License-Identifier: Apache-2.0
// What is atomic without LOCK, and what LOCK does to those who do not use it: aligned loads and stores of every width
// and kind are never torn, a store touches nothing beside it, locks built of locked instructions exclude, a locked
// operation that is split over two pages loses no plain store. [SDM-3A 9.1.1, 9.1.2]
#include "smp.h"

void guest_main(void);

static uint8_t shared[4][4096] __attribute__((aligned(4096)));
static struct barrier barrier;
static volatile unsigned wrong;
static uint64_t operations;
static volatile uint64_t done[kMaxCpus];
static void add_operations(void) {
  for (unsigned i = 0; i < cpu_count; ++i) operations += done[i];
}

// ---- loads and stores ----
#define MOVER(name, type, load, store, reg)                                                                           \
  static void write_##name(void* to, const void* value) {                                                             \
    __asm__ volatile(load " %1, %%" reg "; " store " %%" reg ", %0" : "=m"(*(type*)to) : "m"(*(type*)value) : "rax"); \
  }                                                                                                                   \
  static void read_##name(const void* from, void* value) {                                                            \
    __asm__ volatile(load " %1, %%" reg "; " store " %%" reg ", %0"                                                   \
                     : "=m"(*(type*)value)                                                                            \
                     : "m"(*(type*)from)                                                                              \
                     : "rax");                                                                                        \
  }
typedef struct {
  uint64_t halves[2];
} pair;
MOVER(gpr16, uint16_t, "movw", "movw", "ax")
MOVER(gpr32, uint32_t, "movl", "movl", "eax")
MOVER(gpr64, uint64_t, "movq", "movq", "rax")
MOVER(sse32, uint32_t, "movd", "movd", "xmm0")
MOVER(sse64, uint64_t, "movq", "movq", "xmm1")
MOVER(mmx, uint64_t, "movq", "movq", "mm0")
MOVER(movaps, pair, "movaps", "movaps", "xmm2")
MOVER(movdqa, pair, "movdqa", "movdqa", "xmm3")
MOVER(movdqu, pair, "movdqu", "movdqu", "xmm4")
MOVER(vmovdqa, pair, "vmovdqa", "vmovdqa", "xmm5")
MOVER(vmovups, pair, "vmovups", "vmovups", "xmm6")
static void write_x87(void* to, const void* value) {
  __asm__ volatile("fildq %1; fistpq %0" : "=m"(*(uint64_t*)to) : "m"(*(const uint64_t*)value));
}
static void read_x87(const void* from, void* value) {
  __asm__ volatile("fildq %1; fistpq %0" : "=m"(*(uint64_t*)value) : "m"(*(const uint64_t*)from));
}
static void write_stack(void* to, const void* value) {
  __asm__ volatile("pushq %1; popq %0" : "=m"(*(uint64_t*)to) : "m"(*(const uint64_t*)value));
}
static void read_stack(const void* from, void* value) {
  __asm__ volatile("pushq %1; popq %0" : "=m"(*(uint64_t*)value) : "m"(*(const uint64_t*)from));
}
static void write_not_temporal(void* to, const void* value) {
  __asm__ volatile("movntiq %1, %0" : "=m"(*(uint64_t*)to) : "r"(*(const uint64_t*)value));
}

static const struct mover {
  const char* name;
  unsigned size, offset;
  bool needs_avx;
  void (*write)(void*, const void*);
  void (*read)(const void*, void*);
} movers[] = {
    {"aligned-16-bit", 2, 2, false, write_gpr16, read_gpr16},
    {"aligned-32-bit", 4, 4, false, write_gpr32, read_gpr32},
    {"aligned-64-bit", 8, 8, false, write_gpr64, read_gpr64},
    {"within-line-16-bit", 2, 7, false, write_gpr16, read_gpr16},
    {"within-line-32-bit", 4, 29, false, write_gpr32, read_gpr32},
    {"within-line-64-bit", 8, 51, false, write_gpr64, read_gpr64},
    {"movd", 4, 12, false, write_sse32, read_sse32},
    {"movq-sse", 8, 16, false, write_sse64, read_sse64},
    {"movq-mmx", 8, 24, false, write_mmx, read_mmx},
    {"x87-64-bit", 8, 24, false, write_x87, read_x87},
    {"push-pop-memory", 8, 40, false, write_stack, read_stack},
    {"movnti", 8, 8, false, write_not_temporal, read_gpr64},
    // Sixteen bytes are atomic where AVX is there. [SDM-3A 9.1.1]
    {"movaps", 16, 16, true, write_movaps, read_movaps},
    {"movdqa", 16, 32, true, write_movdqa, read_movdqa},
    {"movdqu-aligned", 16, 48, true, write_movdqu, read_movdqu},
    {"vmovdqa", 16, 16, true, write_vmovdqa, read_vmovdqa},
    {"vmovups-aligned", 16, 16, true, write_vmovups, read_vmovups},
};
static const struct mover* mover;

static void enable_vectors(void* unused) {
  (void)unused;
  write_cr0(read_cr0() & ~(word)(CR0_EM | CR0_TS));
  __asm__ volatile("fninit");
  if (!(cpuid(1, 0).ecx & (1u << 28))) return;
  write_cr4(read_cr4() | CR4_OSXSAVE);
  __asm__ volatile("xsetbv" ::"c"(0), "a"(7), "d"(0));
}

// Even processors write, odd ones read; every value has all its bytes the same.
static void move(void* unused) {
  (void)unused;
  const unsigned self = this_cpu()->index;
  uint8_t* at = shared[0] + mover->offset;
  uint8_t value[16] __attribute__((aligned(16)));
  uint8_t number = 0;
  __asm__ volatile("fninit");  // after MMX, and for whole numbers of 64 bits
  barrier_wait(&barrier, cpu_count);
  struct span span = span_of(3000, 25);
  while (span_goes_on(&span)) {
    for (unsigned i = 0; i < 16; ++i) {
      if (self % 2 == 0) {
        memset(value, number = (uint8_t)(number + 37 + self), sizeof value);
        mover->write(at, value);
      } else {
        mover->read(at, value);
        for (unsigned k = 1; k < mover->size; ++k)
          if (value[k] != value[0]) {
            wrong = wrong + 1;
            break;
          }
      }
    }
  }
  done[self] = span.done * 16;
}

static void test_moves(void) {
  const bool has_avx = cpuid(1, 0).ecx & (1u << 28);
  for (unsigned i = 0; i < ARRAY_SIZE(movers); ++i) {
    mover = &movers[i];
    if (mover->needs_avx && !has_avx) {
      skip(mover->name, "no AVX");
      continue;
    }
    if (mover->needs_avx && tcg_lacks(mover->name)) continue;  // two times eight bytes
    wrong = 0;
    memset(shared, 0, sizeof shared);
    run_everywhere(cpu_count, move, 0);
    check_in("not-torn", mover->name, wrong, 0);
    add_operations();
  }
}

// ---- neighbours: every processor has its own bytes, side by side; nobody else writes them ----
// Across a line or a page: one operand of each size and kind straddles the border, others live right beside it.
static uint8_t* neighbourhood;
static void keep_own_bytes(void* unused) {
  (void)unused;
  const unsigned self = this_cpu()->index;
  // Layout around the border at `neighbourhood`: -6 -5 | -4..+3 | +4 +5, for processors 1, 2, 0, 3, 4.
  static const int8_t offsets[] = {-4, -5, -6, 4, 5, -7, 6, -8};
  volatile uint8_t* at = neighbourhood + offsets[self];
  uint8_t number = 1;
  uint64_t word_value = 0;
  barrier_wait(&barrier, cpu_count);
  struct span span = span_of(500, 60);
  while (span_goes_on(&span)) {
    for (unsigned i = 0; i < 8; ++i) {
      if (self == 0) {
        volatile uint64_t* wide = (volatile uint64_t*)at;
        *wide = ++word_value;
        __asm__ volatile("lock addq $1, %0" : "+m"(*wide)::"cc", "memory");
        __asm__ volatile("addq $1, %0" : "+m"(*wide)::"cc", "memory");
        __asm__ volatile("movq %1, %%xmm0; movq %%xmm0, %0" : "+m"(*wide) : "m"(word_value) : "memory");
        uint64_t one = 1;
        __asm__ volatile("lock xadd %1, %0" : "+m"(*wide), "+r"(one)::"cc", "memory");
        if (*wide != word_value + 1 || one != word_value) wrong = wrong + 1;
      } else {
        *at = ++number;
        if (*at != number) wrong = wrong + 1;
        __asm__ volatile("incb %0" : "+m"(*at)::"cc", "memory");
        if (*at != ++number) wrong = wrong + 1;
        __asm__ volatile("lock incb %0" : "+m"(*at)::"cc", "memory");
        if (*at != (uint8_t)++number) wrong = wrong + 1;
      }
    }
  }
  done[self] = span.done * 8;
}

static void test_neighbours(void) {
  const struct {
    const char* name;
    uint8_t* border;
  } places[] = {
      {"within-a-line", shared[1] + 32}, {"at-a-line", shared[1] + 64}, {"at-a-page", (uint8_t*)(WINDOW + 4096)}};
  for (unsigned i = 0; i < ARRAY_SIZE(places); ++i) {
    neighbourhood = places[i].border;
    wrong = 0;
    run_everywhere(cpu_count, keep_own_bytes, 0);
    check_in("neighbours", places[i].name, wrong, 0);
    add_operations();
  }
}

// ---- lanes: locked additions of different widths to one quadword, each processor to its own 16 bits ----
static void add_to_lane(void* at) {
  const unsigned self = this_cpu()->index;
  uint8_t* lane = (uint8_t*)at + 2 * (self % 4);
  barrier_wait(&barrier, cpu_count);
  struct span span = span_of(1000, 40);
  uint64_t count = 0;
  while (span_goes_on(&span) && count < 60000) {
    ++count;
    switch (self % 4) {
      case 0: __asm__ volatile("lock incq %0" : "+m"(*(uint64_t*)lane)::"cc", "memory"); break;
      case 1: __asm__ volatile("lock incw %0" : "+m"(*(uint16_t*)lane)::"cc", "memory"); break;
      case 2: __asm__ volatile("lock addl $1, %0" : "+m"(*(uint32_t*)lane)::"cc", "memory"); break;
      default: {
        uint16_t one = 1;
        __asm__ volatile("lock xadd %1, %0" : "+m"(*(uint16_t*)lane), "+r"(one)::"cc", "memory");
      }
    }
  }
  done[self] = count;
}

static void test_lanes(void) {
  const struct {
    const char* name;
    uint8_t* at;
  } places[] = {
      {"aligned", shared[1] + 128}, {"line-split", shared[1] + 64 - 4}, {"page-split", (uint8_t*)(WINDOW + 4096 - 4)}};
  for (unsigned i = 0; i < ARRAY_SIZE(places); ++i) {
    memset(places[i].at, 0, 8);
    for (unsigned k = 0; k < kMaxCpus; ++k) done[k] = 0;
    run_everywhere(cpu_count, add_to_lane, places[i].at);
    uint64_t want = 0, got;
    memcpy(&got, places[i].at, 8);
    for (unsigned k = 0; k < cpu_count; ++k) want += done[k] << 16 * (k % 4);
    check_in("lanes-of-mixed-width", places[i].name, got, want);
    add_operations();
  }
}

// ---- plain stores to a part of what another processor changes with LOCK ----
// Only this processor changes the value of its part: the locked instructions of the others add 0. What it stored must
// be there afterwards. [SDM-3A 9.1.2.2]
static void store_or_lock(void* at) {
  const unsigned self = this_cpu()->index;
  volatile uint32_t* low = at;
  volatile uint32_t* high = (volatile uint32_t*)((uint8_t*)at + 4);
  uint32_t number = 0;
  barrier_wait(&barrier, cpu_count);
  struct span span = span_of(2000, 80);
  while (span_goes_on(&span)) {
    for (unsigned i = 0; i < 8; ++i) {
      if (self < 2) {
        volatile uint32_t* own = self ? high : low;
        *own = ++number;
        for (volatile unsigned k = 0; k < 3; ++k) {
        }
        if (*own != number) wrong = wrong + 1;
      } else {
        uint64_t zero = 0;
        __asm__ volatile("lock xadd %1, %0" : "+m"(*(uint64_t*)at), "+r"(zero)::"cc", "memory");
        __asm__ volatile("lock orq $0, %0" : "+m"(*(uint64_t*)at)::"cc", "memory");
      }
    }
  }
  done[self] = span.done * 8;
}

static void test_plain_stores(void) {
  const struct {
    const char* name;
    uint8_t* at;
  } places[] = {
      {"aligned", shared[1] + 256}, {"line-split", shared[1] + 320 - 4}, {"page-split", (uint8_t*)(WINDOW + 4096 - 4)}};
  for (unsigned i = 0; i < ARRAY_SIZE(places); ++i) {
    wrong = 0;
    run_everywhere(cpu_count, store_or_lock, places[i].at);
    check_in("plain-store-survives-lock", places[i].name, wrong, 0);
    add_operations();
  }
}

// ---- mutual exclusion ----
struct exclusion {
  volatile uint32_t lock, turn;
  uint8_t apart[56];
  volatile uint64_t counter, copy;
};
static struct exclusion exclusion __attribute__((aligned(64)));

static bool take_xchg(void) {
  uint32_t value = 1;
  __asm__ volatile("xchg %1, %0" : "+m"(exclusion.lock), "+r"(value)::"memory");
  return value == 0;
}
static bool take_bts(void) {
  bool was_set;
  __asm__ volatile("lock btsl $7, %0" : "+m"(exclusion.lock), "=@ccc"(was_set)::"memory");
  return !was_set;
}
static bool take_cmpxchg(void) {
  uint32_t expected = 0;
  bool swapped;
  __asm__ volatile("lock cmpxchg %3, %0"
                   : "+m"(exclusion.lock), "+a"(expected), "=@ccz"(swapped)
                   : "r"(0xffffffff)
                   : "memory");
  return swapped;
}
// The counter goes 0 -> -1 for whoever gets it: the sign flag of a locked DEC decides.
static bool take_dec(void) {
  bool negative, zero;
  __asm__ volatile("lock incl %0" : "+m"(exclusion.lock), "=@ccz"(zero)::"memory");
  if (exclusion.lock == 1 && !zero) {
    uint32_t expected = 1;
    bool swapped;
    __asm__ volatile("lock cmpxchg %3, %0"
                     : "+m"(exclusion.lock), "+a"(expected), "=@ccz"(swapped)
                     : "r"(0x40000001)
                     : "memory");
    if (swapped) return true;
  }
  __asm__ volatile("lock decl %0" : "+m"(exclusion.lock), "=@ccs"(negative)::"memory");
  if (negative) wrong = wrong + 1;  // as many were added as taken away
  return false;
}
static bool take_xadd(void) {  // a ticket that is drawn only when it is the next one served
  uint32_t ticket = 0x10000;
  const uint32_t seen = exclusion.lock;
  if (seen >> 16 != (seen & 0xffff)) return false;
  __asm__ volatile("lock xadd %1, %0" : "+m"(exclusion.lock), "+r"(ticket)::"memory", "cc");
  while ((exclusion.lock & 0xffff) != ticket >> 16) pause();
  return true;
}
static void release_store(void) { __atomic_store_n(&exclusion.lock, 0, __ATOMIC_RELEASE); }
static void release_dec(void) {
  __asm__ volatile("lock subl $0x40000000, %0; lock decl %0" : "+m"(exclusion.lock)::"cc", "memory");
}
static void release_xadd(void) {
  __asm__ volatile("lock incw %0" : "+m"(*(volatile uint16_t*)&exclusion.lock)::"cc", "memory");
}

static const struct {
  const char* name;
  bool (*take)(void);
  void (*release)(void);
} exclusions[] = {{"xchg", take_xchg, release_store},
                  {"bts", take_bts, release_store},
                  {"cmpxchg", take_cmpxchg, release_store},
                  {"inc-dec", take_dec, release_dec},
                  {"xadd-ticket", take_xadd, release_xadd}};
static void exclude(void* which) {
  const unsigned kind = (unsigned)(word)which;
  uint64_t count = 0;
  barrier_wait(&barrier, cpu_count);
  struct span span = span_of(5000, 60);
  while (span_goes_on(&span)) {
    for (unsigned tries = 0; tries < 50; ++tries) {
      if (!exclusions[kind].take()) {
        pause();
        continue;
      }
      const uint64_t value = exclusion.counter;
      if (exclusion.copy != value) wrong = wrong + 1;
      exclusion.counter = value + 1;
      exclusion.copy = value + 1;
      ++count;
      exclusions[kind].release();
      break;
    }
  }
  done[this_cpu()->index] = count;
}

static void test_exclusion(void) {
  for (unsigned i = 0; i < ARRAY_SIZE(exclusions); ++i) {
    memset(&exclusion, 0, sizeof exclusion);
    wrong = 0;
    run_everywhere(cpu_count, exclude, (void*)(word)i);
    uint64_t want = 0;
    for (unsigned k = 0; k < cpu_count; ++k) want += done[k];
    check_in("exclusion", exclusions[i].name, exclusion.counter == want && wrong == 0, true);
    add_operations();
  }
}

void guest_main(void) {
  smp_start();
  map(WINDOW, (word)shared[0], PTE_P | PTE_W, 1);
  map(WINDOW + 4096, (word)shared[3], PTE_P | PTE_W, 1);
  run_everywhere(cpu_count, enable_vectors, 0);
  test_moves();
  info("loads and stores", operations, "operations");
  test_neighbours();
  test_lanes();
  test_plain_stores();
  test_exclusion();
  info("all", operations, "operations");
  finish();
}
