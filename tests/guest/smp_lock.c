// SPDX-License-Identifier: Apache-2.0
// Every instruction that takes LOCK, in every size, from all processors at once on one operand: aligned, across cache
// lines, across two pages that are no neighbours in memory. The outcomes are exact. [SDM-3A 9.1.2]
#include "smp.h"

void guest_main(void);

// ---- operands ----
enum place { kAligned, kLineSplit, kPageSplit, kPlaces };
static const char* const place_names[] = {"aligned", "line-split", "page-split"};
static uint8_t lines[256] __attribute__((aligned(64)));
static uint8_t pages[3][4096] __attribute__((aligned(4096)));

static void* operand(enum place place, unsigned size) {
  if (place == kLineSplit) return lines + 64 - size / 2;
  if (place == kPageSplit) return (void*)(WINDOW + 4096 - size / 2);
  return lines;
}

// ---- the instructions; each function executes one on its operand ----
#define DEFINE(name, s, type, ...)        \
  static void name##_##s(void* operand) { \
    type* p = operand;                    \
    __VA_ARGS__                           \
  }
#define ONE(name, s, type, text, ...) \
  DEFINE(name, s, type, __asm__ volatile("lock " text : "+m"(*p) : __VA_ARGS__ : "cc", "memory");)
#define IMMEDIATE(name, mnemonic)               \
  ONE(name, b, uint8_t, mnemonic "b $3, %0", )  \
  ONE(name, w, uint16_t, mnemonic "w $3, %0", ) \
  ONE(name, l, uint32_t, mnemonic "l $3, %0", ) \
  ONE(name, q, uint64_t, mnemonic "q $3, %0", )
#define REGISTER(name, mnemonic)                                     \
  ONE(name, b, uint8_t, mnemonic " %1, %0", "q"((uint8_t)5))         \
  ONE(name, w, uint16_t, mnemonic " %1, %0", "r"((uint16_t)0x105))   \
  ONE(name, l, uint32_t, mnemonic " %1, %0", "r"((uint32_t)0x10005)) \
  ONE(name, q, uint64_t, mnemonic " %1, %0", "r"(0x100000005ul))
#define UNARY(name)                      \
  ONE(name, b, uint8_t, #name "b %0", )  \
  ONE(name, w, uint16_t, #name "w %0", ) \
  ONE(name, l, uint32_t, #name "l %0", ) \
  ONE(name, q, uint64_t, #name "q %0", )
#define WITH_CARRY(name, s, type) \
  DEFINE(name, s, type, __asm__ volatile("stc; lock " #name #s " $3, %0" : "+m"(*p)::"cc", "memory");)
#define XADD(s, type) \
  DEFINE(xadd, s, type, type value = 1; __asm__ volatile("lock xadd %1, %0" : "+m"(*p), "+q"(value)::"cc", "memory");)
#define CMPXCHG(s, type)                                                  \
  DEFINE(                                                                 \
      cmpxchg, s, type, type old = *(volatile type*)p; bool swapped; do { \
        __asm__ volatile("lock cmpxchg %3, %0"                            \
                         : "+m"(*p), "+a"(old), "=@ccz"(swapped)          \
                         : "q"((type)(old + 1))                           \
                         : "memory");                                     \
      } while (!swapped);)
#define SIZES(macro, ...)                                                                     \
  macro(__VA_ARGS__ b, uint8_t) macro(__VA_ARGS__ w, uint16_t) macro(__VA_ARGS__ l, uint32_t) \
      macro(__VA_ARGS__ q, uint64_t)
IMMEDIATE(add_imm, "add")
REGISTER(add_reg, "add")
IMMEDIATE(sub_imm, "sub")
REGISTER(sub_reg, "sub")
UNARY(inc)
UNARY(dec)
UNARY(neg)
UNARY(not)
WITH_CARRY(adc, b, uint8_t)
WITH_CARRY(adc, w, uint16_t)
WITH_CARRY(adc, l, uint32_t)
WITH_CARRY(adc, q, uint64_t)
WITH_CARRY(sbb, b, uint8_t)
WITH_CARRY(sbb, w, uint16_t)
WITH_CARRY(sbb, l, uint32_t)
WITH_CARRY(sbb, q, uint64_t)
SIZES(XADD, )
SIZES(CMPXCHG, )

#define FOUR(name) {name##_b, name##_w, name##_l, name##_q}

// ---- operations that add a constant: the sum must be exact ----
static const struct adder {
  const char* name;
  void (*run[4])(void*);
  int64_t amount[4];
} adders[] = {
    {"add-imm", FOUR(add_imm), {3, 3, 3, 3}},
    {"add-reg", FOUR(add_reg), {5, 0x105, 0x10005, 0x100000005}},
    {"sub-imm", FOUR(sub_imm), {-3, -3, -3, -3}},
    {"sub-reg", FOUR(sub_reg), {-5, -0x105, -0x10005, -0x100000005}},
    {"inc", FOUR(inc), {1, 1, 1, 1}},
    {"dec", FOUR(dec), {-1, -1, -1, -1}},
    {"adc", FOUR(adc), {4, 4, 4, 4}},
    {"sbb", FOUR(sbb), {-4, -4, -4, -4}},
    {"xadd", FOUR(xadd), {1, 1, 1, 1}},
    {"cmpxchg", FOUR(cmpxchg), {1, 1, 1, 1}},
};

static struct barrier barrier;
static struct {
  void (*run)(void*);
  void* at;
  unsigned size, log_size;
  unsigned rounds, ms;
} current;
static volatile uint64_t done[kMaxCpus];
static volatile unsigned wrong;

static uint64_t read_operand(const void* at, unsigned size) {
  uint64_t value = 0;
  memcpy(&value, at, size);
  return value;
}
static uint64_t mask_of(unsigned size) { return size == 8 ? ~0ul : (1ul << 8 * size) - 1; }

static void hammer(void* unused) {
  (void)unused;
  void (*const run)(void*) = current.run;
  void* const at = current.at;
  barrier_wait(&barrier, cpu_count);
  struct span span = span_of(current.rounds, current.ms);
  while (span_goes_on(&span))
    for (unsigned i = 0; i < 8; ++i) run(at);
  done[this_cpu()->index] = span.done * 8;
}
static uint64_t total(void) {
  uint64_t sum = 0;
  for (unsigned i = 0; i < cpu_count; ++i) sum += done[i];
  return sum;
}
static uint64_t operations;

static void prepare(enum place place, unsigned log_size, uint64_t value) {
  current.size = 1u << log_size;
  current.log_size = log_size;
  current.at = operand(place, current.size);
  current.rounds = place == kAligned ? 2000 : 200;
  current.ms = 8;
  memcpy(current.at, &value, current.size);
  wrong = 0;
}

static void test_adders(enum place place) {
  for (unsigned i = 0; i < ARRAY_SIZE(adders); ++i) {
    uint64_t got = 0, want = 0;
    for (unsigned log_size = place == kAligned ? 0 : 1; log_size < 4 && got == want; ++log_size) {
      const uint64_t start = 0xf1e2d3c4b5a69788;
      prepare(place, log_size, start);
      current.run = adders[i].run[log_size];
      run_everywhere(cpu_count, hammer, 0);
      got = read_operand(current.at, current.size);
      want = (start + total() * (uint64_t)adders[i].amount[log_size]) & mask_of(current.size);
      operations += total();
    }
    check_in(place_names[place], adders[i].name, got, want);
  }
}

// ---- NOT and NEG: the whole operand changes at once, and as often as it was told to ----
static bool torn(uint64_t value, bool is_neg) {
  const uint64_t mask = mask_of(current.size);
  return is_neg ? value != 1 && value != mask : value != 0 && value != mask;
}
#define READ_LOCKED(s, type)                                                              \
  static uint64_t read_locked_##s(void* at) {                                             \
    type value = 0;                                                                       \
    __asm__ volatile("lock xadd %1, %0" : "+m"(*(type*)at), "+q"(value)::"cc", "memory"); \
    return value;                                                                         \
  }
SIZES(READ_LOCKED, )
static uint64_t (*const read_locked[])(void*) = FOUR(read_locked);

static void flip(void* is_neg) {
  barrier_wait(&barrier, cpu_count);
  struct span span = span_of(current.rounds, current.ms);
  while (span_goes_on(&span)) {
    for (unsigned i = 0; i < 5; ++i) current.run(current.at);
    if (torn(read_locked[current.log_size](current.at), is_neg)) wrong = wrong + 1;
  }
  done[this_cpu()->index] = span.done * 5;
}

static void test_flips(enum place place) {
  static void (*const runs[2][4])(void*) = {FOUR(not), FOUR(neg)};
  for (unsigned is_neg = 0; is_neg < 2; ++is_neg) {
    bool good = true;
    for (unsigned log_size = place == kAligned ? 0 : 1; log_size < 4; ++log_size) {
      prepare(place, log_size, is_neg);
      current.run = runs[is_neg][log_size];
      run_everywhere(cpu_count, flip, (void*)(word)is_neg);
      const uint64_t mask = mask_of(current.size);
      const uint64_t want = !(total() & 1) ? is_neg : mask;
      good = good && !wrong && read_operand(current.at, current.size) == want;
      operations += total();
    }
    check_in(place_names[place], is_neg ? "neg" : "not", good, true);
  }
}

// ---- bits: each processor has one, which nobody else changes ----
#define BITS_OF(s, type)                                                                \
  static bool or_and_##s(void* at, unsigned bit) {                                      \
    volatile type* p = at;                                                              \
    const type mask = (type)(1ul << bit);                                               \
    __asm__ volatile("lock or %1, %0" : "+m"(*p) : "q"(mask) : "cc", "memory");         \
    const bool is_set = *p & mask;                                                      \
    __asm__ volatile("lock and %1, %0" : "+m"(*p) : "q"((type)~mask) : "cc", "memory"); \
    return is_set && !(*p & mask);                                                      \
  }                                                                                     \
  static bool xor_##s(void* at, unsigned bit) {                                         \
    volatile type* p = at;                                                              \
    const type mask = (type)(1ul << bit), before = *p & mask;                           \
    __asm__ volatile("lock xor %1, %0" : "+m"(*p) : "q"(mask) : "cc", "memory");        \
    return (*p & mask) != before;                                                       \
  }
SIZES(BITS_OF, )

#define BIT_TESTS_OF(s, type)                                                                                       \
  static bool bts_btr_##s(void* at, unsigned bit) {                                                                 \
    volatile type* p = at;                                                                                          \
    bool was_set, was_set_then;                                                                                     \
    __asm__ volatile("lock bts" #s " %2, %0" : "+m"(*p), "=@ccc"(was_set) : "r"((type)bit) : "memory");             \
    const bool is_set = *p >> bit & 1;                                                                              \
    __asm__ volatile("lock btr" #s " %2, %0" : "+m"(*p), "=@ccc"(was_set_then) : "r"((type)bit) : "memory");        \
    return !was_set && is_set && was_set_then && !(*p >> bit & 1);                                                  \
  }                                                                                                                 \
  static bool btc_##s(void* at, unsigned bit) {                                                                     \
    volatile type* p = at;                                                                                          \
    const bool before = *p >> bit & 1;                                                                              \
    bool was_set;                                                                                                   \
    __asm__ volatile("lock btc" #s " %2, %0" : "+m"(*p), "=@ccc"(was_set) : "r"((type)bit) : "memory");             \
    return was_set == before && (*p >> bit & 1) != before;                                                          \
  }                                                                                                                 \
  /* The bit offset in a register reaches memory far from the operand's address. */                                 \
  static bool far_##s(void* at, unsigned bit) {                                                                     \
    volatile type* p = at;                                                                                          \
    bool was_set;                                                                                                   \
    const type offset = (type)(bit + 100 * 8 * sizeof(type));                                                       \
    __asm__ volatile("lock btc" #s " %3, %0" : "+m"(p[-100]), "=@ccc"(was_set), "+m"(*p) : "r"(offset) : "memory"); \
    const bool now = *p >> bit & 1;                                                                                 \
    return was_set != now;                                                                                          \
  }
BIT_TESTS_OF(w, uint16_t)
BIT_TESTS_OF(l, uint32_t)
BIT_TESTS_OF(q, uint64_t)

static bool (*bit_function)(void*, unsigned);
static void hammer_bits(void* unused) {
  (void)unused;
  const unsigned bit = this_cpu()->index * current.size;  // eight processors, a bit in eight of the operand
  barrier_wait(&barrier, cpu_count);
  struct span span = span_of(current.rounds, current.ms);
  while (span_goes_on(&span))
    for (unsigned i = 0; i < 4; ++i)
      if (!bit_function(current.at, bit)) wrong = wrong + 1;
  done[this_cpu()->index] = span.done * 4;
}

static void test_bits(enum place place) {
  static const struct {
    const char* name;
    bool (*functions[4])(void*, unsigned);
  } tests[] = {
      {"or-and", FOUR(or_and)},
      {"xor", FOUR(xor)},
      {"bts-btr", {0, bts_btr_w, bts_btr_l, bts_btr_q}},
      {"btc", {0, btc_w, btc_l, btc_q}},
      {"btc-far", {0, far_w, far_l, far_q}},
  };
  for (unsigned i = 0; i < ARRAY_SIZE(tests); ++i) {
    unsigned failures = 0;
    for (unsigned log_size = place == kAligned ? 0 : 1; log_size < 4; ++log_size) {
      bit_function = tests[i].functions[log_size];
      if (!bit_function) continue;
      prepare(place, log_size, 0);
      run_everywhere(cpu_count, hammer_bits, 0);
      failures += wrong;
      operations += total();
    }
    check_in(place_names[place], tests[i].name, failures, 0);
  }
}

// ---- XCHG, which locks without the prefix: tokens change hands, none is lost, doubled or torn ----
static uint64_t tokens[kMaxCpus];
#define XCHG_OF(s, type)                                                       \
  static uint64_t xchg_##s(void* at, uint64_t held) {                          \
    type value = (type)held;                                                   \
    __asm__ volatile("xchg %1, %0" : "+m"(*(type*)at), "+q"(value)::"memory"); \
    return value;                                                              \
  }
SIZES(XCHG_OF, )
static uint64_t (*const exchange[])(void*, uint64_t) = FOUR(xchg);
static uint64_t token(unsigned number) { return 0x0101010101010101ul * (number + 1) & mask_of(current.size); }

static void pass_tokens(void* unused) {
  (void)unused;
  const unsigned self = this_cpu()->index;
  uint64_t held = token(self);
  barrier_wait(&barrier, cpu_count);
  struct span span = span_of(current.rounds, current.ms);
  while (span_goes_on(&span))
    for (unsigned i = 0; i < 4; ++i) held = exchange[current.log_size](current.at, held);
  tokens[self] = held;
  done[self] = span.done * 4;
}

static void test_xchg(enum place place) {
  bool good = true;
  for (unsigned log_size = place == kAligned ? 0 : 1; log_size < 4; ++log_size) {
    current.size = 1u << log_size;
    prepare(place, log_size, token(kMaxCpus));
    run_everywhere(cpu_count, pass_tokens, 0);
    unsigned seen = 0;
    for (unsigned i = 0; i <= cpu_count; ++i) {
      const uint64_t value = i == cpu_count ? read_operand(current.at, current.size) : tokens[i];
      for (unsigned number = 0; number <= kMaxCpus; ++number)
        if (value == token(number)) seen |= 1u << number;
    }
    good = good && seen == (((1u << cpu_count) - 1) | 1u << kMaxCpus);
    operations += total();
  }
  check_in(place_names[place], "xchg", good, true);
}

// ---- CMPXCHG8B, CMPXCHG16B: two halves that belong together ----
#define CMPXCHG_PAIR(name, type)                                                            \
  static bool name(void* at) {                                                              \
    type* halves = at;                                                                      \
    type low = 0, high = 0;                                                                 \
    bool swapped, together = true;                                                          \
    do {                                                                                    \
      __asm__ volatile("lock " #name " %0"                                                  \
                       : "+m"(*(type(*)[2])halves), "+a"(low), "+d"(high), "=@ccz"(swapped) \
                       : "b"((type)(low + 1)), "c"((type)(high + 3))                        \
                       : "memory");                                                         \
      together = together && high == (type)(low * 3);                                       \
    } while (!swapped);                                                                     \
    return together;                                                                        \
  }
CMPXCHG_PAIR(cmpxchg8b, uint32_t)
CMPXCHG_PAIR(cmpxchg16b, uint64_t)

static void hammer_pairs(void* is_wide) {
  barrier_wait(&barrier, cpu_count);
  struct span span = span_of(current.rounds, current.ms * 2);
  while (span_goes_on(&span))
    if (!(is_wide ? cmpxchg16b(current.at) : cmpxchg8b(current.at))) wrong = wrong + 1;
  done[this_cpu()->index] = span.done;
}

static void test_pairs(enum place place) {
  prepare(place, 3, 0);
  run_everywhere(cpu_count, hammer_pairs, 0);
  const uint64_t sum = total();
  check_in(place_names[place], "cmpxchg8b", read_operand(current.at, 8), (sum & 0xffffffff) | sum * 3 << 32);
  check_in(place_names[place], "cmpxchg8b-halves", wrong, 0);
  operations += sum;
  if (place != kAligned) return;  // CMPXCHG16B insists on alignment
  memset(lines, 0, 16);
  run_everywhere(cpu_count, hammer_pairs, (void*)1);
  const uint64_t* halves = (const uint64_t*)lines;
  check("aligned:cmpxchg16b", halves[0] == total() && halves[1] == 3 * total() && !wrong);
  operations += total();
}

void guest_main(void) {
  smp_start();
  map(WINDOW, (word)pages[0], PTE_P | PTE_W, 1);
  map(WINDOW + 4096, (word)pages[2], PTE_P | PTE_W, 1);
  for (enum place place = kAligned; place < kPlaces; ++place) {
    test_adders(place);
    test_flips(place);
    test_bits(place);
    test_xchg(place);
    test_pairs(place);
    info(place_names[place], operations, "operations");
    operations = 0;
  }
  finish();
}
