// SPDX-License-Identifier: Apache-2.0
// Lines that run in user space without the kernel: integer work, control flow, memory access.
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

#define BARRIER() __asm__ volatile("" ::: "memory")

static void integer_loop(uint64_t n) {
  uint64_t a = 1, b = 2, c = 3;
  for (uint64_t i = 0; i < n; ++i) {
    a += b ^ (c >> 3);
    b = b * 3 + i;
    c ^= a << 1;
    if (c & 64) b -= a;
  }
  bench_sink = a + b + c;
}

static void division_loop(uint64_t n) {
  uint64_t x = 0x123456789abcdefu, sum = 0;
  for (uint64_t i = 0; i < n; ++i) {
    sum += x / (i | 3);
    x = x * 6364136223846793005u + 1442695040888963407u;
  }
  bench_sink = sum;
}

enum { kSieveSize = 256 * 1024 };
static uint8_t sieve_flags[kSieveSize];

static void sieve(uint64_t n) {
  uint64_t primes = 0;
  for (uint64_t round = 0; round < n; ++round) {
    memset(sieve_flags, 1, sizeof sieve_flags);
    for (uint32_t i = 2; i < kSieveSize; ++i) {
      if (!sieve_flags[i]) continue;
      ++primes;
      for (uint32_t j = 2 * i; j < kSieveSize; j += i) sieve_flags[j] = 0;
    }
  }
  bench_sink = primes;
}

enum { kSortCount = 20000 };
static uint32_t sort_values[kSortCount];

static void quicksort_range(uint32_t *values, long low, long high) {
  while (low < high) {
    uint32_t pivot = values[(low + high) / 2];
    long i = low, j = high;
    while (i <= j) {
      while (values[i] < pivot) ++i;
      while (values[j] > pivot) --j;
      if (i <= j) {
        uint32_t swap = values[i];
        values[i++] = values[j];
        values[j--] = swap;
      }
    }
    if (j - low < high - i) {
      quicksort_range(values, low, j);
      low = i;
    } else {
      quicksort_range(values, i, high);
      high = j;
    }
  }
}

static void quicksort(uint64_t n) {
  uint32_t seed = 42;
  for (uint64_t round = 0; round < n; ++round) {
    for (int i = 0; i < kSortCount; ++i) sort_values[i] = bench_random(&seed);
    quicksort_range(sort_values, 0, kSortCount - 1);
    bench_sink = sort_values[kSortCount / 2];
  }
}

static __attribute__((noinline)) uint32_t fibonacci(uint32_t n) {
  BARRIER();  // keeps the compiler from turning the recursion into a loop
  return n < 2 ? 1 : fibonacci(n - 1) + fibonacci(n - 2);
}

// fibonacci(15) makes 1,973 calls.
static void calls(uint64_t n) {
  for (uint64_t i = 0; i < n; i += 1973) bench_sink = fibonacci(15);
}

static __attribute__((noinline)) uint64_t op_add(uint64_t a, uint64_t b) { return a + b; }
static __attribute__((noinline)) uint64_t op_sub(uint64_t a, uint64_t b) { return a - b; }
static __attribute__((noinline)) uint64_t op_xor(uint64_t a, uint64_t b) { return a ^ b; }
static __attribute__((noinline)) uint64_t op_mul(uint64_t a, uint64_t b) { return a * (b | 1); }
static uint64_t (*volatile const operations[8])(uint64_t, uint64_t) = {op_add, op_sub, op_xor, op_mul,
                                                                        op_xor, op_add, op_mul, op_sub};

static void indirect_calls(uint64_t n) {
  uint64_t value = 1;
  uint32_t seed = 7;
  for (uint64_t i = 0; i < n; ++i) value = operations[bench_random(&seed) & 7](value, i);
  bench_sink = value;
}

// A bytecode interpreter with computed jumps: what Python, Perl and many others spend their time in.
static void interpreter(uint64_t n) {
  static const uint8_t program[16] = {0, 1, 4, 2, 3, 0, 5, 1, 2, 4, 0, 3, 5, 2, 1, 6};
  static const void *const labels[] = {&&add, &&xor, &&shift, &&mul, &&load, &&store, &&wrap};
  uint64_t accumulator = 1, cells[16] = {0};
  uint32_t pc = 0;
#define NEXT                                              \
  do {                                                    \
    if (!n--) goto done;                                  \
    goto *labels[program[pc++]];                          \
  } while (0)
  NEXT;
add: accumulator += pc; NEXT;
xor: accumulator ^= 0x55; NEXT;
shift: accumulator = accumulator << 1 | accumulator >> 63; NEXT;
mul: accumulator *= 3; NEXT;
load: accumulator += cells[accumulator & 15]; NEXT;
store: cells[accumulator & 15] = accumulator; NEXT;
wrap: pc = 0; NEXT;
done:
  bench_sink = accumulator;
#undef NEXT
}

static const uint32_t kSha256[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static inline uint32_t rotate_right(uint32_t value, int by) { return value >> by | value << (32 - by); }

// The compression function of FIPS 180-4, 6.2.2.
static void sha256_block(uint32_t state[8], const uint8_t *block) {
  uint32_t w[64];
  for (int i = 0; i < 16; ++i) {
    uint32_t word;
    memcpy(&word, block + 4 * i, 4);
    w[i] = __builtin_bswap32(word);
  }
  for (int i = 16; i < 64; ++i) {
    uint32_t s0 = rotate_right(w[i - 15], 7) ^ rotate_right(w[i - 15], 18) ^ w[i - 15] >> 3;
    uint32_t s1 = rotate_right(w[i - 2], 17) ^ rotate_right(w[i - 2], 19) ^ w[i - 2] >> 10;
    w[i] = w[i - 16] + s0 + w[i - 7] + s1;
  }
  uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
  uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
  for (int i = 0; i < 64; ++i) {
    uint32_t s1 = rotate_right(e, 6) ^ rotate_right(e, 11) ^ rotate_right(e, 25);
    uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + kSha256[i] + w[i];
    uint32_t s0 = rotate_right(a, 2) ^ rotate_right(a, 13) ^ rotate_right(a, 22);
    uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
  }
  state[0] += a, state[1] += b, state[2] += c, state[3] += d;
  state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

static void sha256(uint64_t n) {
  static uint8_t message[64 * 64];
  uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  for (uint64_t i = 0; i < n; ++i) sha256_block(state, message + 64 * (i & 63));
  bench_sink = state[0];
}

enum { kHashBytes = 4096 };
static uint8_t hash_bytes[kHashBytes];

static void byte_hash(uint64_t n) {
  uint32_t hash = 2166136261u;
  for (uint64_t i = 0; i < n; ++i) hash = (hash ^ hash_bytes[i & (kHashBytes - 1)]) * 16777619u;
  bench_sink = hash;
}

struct node {
  struct node *next;
  uint64_t payload[7];
};
enum { kNodes = 512, kFarWords = 4 * 1024 * 1024 };
static struct node nodes[kNodes];
static uint32_t *far_words;

// Small pages everywhere, whatever the kernel's policy on huge ones, and no part in what fork copies.
static void *big_area(size_t size) {
  void *area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (area == MAP_FAILED) bench_die("mmap");
  madvise(area, size, MADV_NOHUGEPAGE);
  madvise(area, size, MADV_DONTFORK);
  return area;
}

static void prepare_list(void) {
  uint32_t order[kNodes], seed = 3;
  for (uint32_t i = 0; i < kNodes; ++i) order[i] = i;
  for (uint32_t i = kNodes - 1; i > 0; --i) {
    uint32_t other = bench_random(&seed) % (i + 1), swap = order[i];
    order[i] = order[other];
    order[other] = swap;
  }
  for (uint32_t i = 0; i < kNodes; ++i) nodes[order[i]].next = &nodes[order[(i + 1) % kNodes]];
}

static void list_chase(uint64_t n) {
  const struct node *at = nodes;
  for (uint64_t i = 0; i < n; ++i) at = at->next;
  bench_sink = (uint64_t)(uintptr_t)at;
}

static void histogram(uint64_t n) {
  static uint32_t counts[256];
  uint32_t seed = 11;
  for (uint64_t i = 0; i < n; ++i) ++counts[bench_random(&seed) & 255];
  bench_sink = counts[17];
}

static void prepare_far(void) {
  far_words = big_area(kFarWords * sizeof *far_words);
  for (uint32_t i = 0; i < kFarWords; ++i) far_words[i] = i * 2654435761u;
}

static void random_access(uint64_t n) {
  uint32_t at = 1, sum = 0;
  for (uint64_t i = 0; i < n; ++i) {
    at = at * 1664525u + 1013904223u;
    sum += far_words[(at >> 8) & (kFarWords - 1)];
  }
  bench_sink = sum;
}

static uint8_t *copy_from, *copy_to;
enum { kCopySmall = 32 * 1024, kCopyLarge = 8 * 1024 * 1024 };

static void prepare_copy(void) {
  if (copy_from) return;
  copy_from = big_area(kCopyLarge);
  // Not a power of two apart: what differs between systems shall not be a collision in their address caches.
  copy_to = big_area(kCopyLarge + 37 * 4096);
  memset(copy_from, 1, kCopyLarge);
  memset(copy_to, 2, kCopyLarge);
}

static void copy_small(uint64_t n) {
  for (uint64_t i = 0; i < n; ++i) {
    memcpy(copy_to, copy_from, kCopySmall);
    BARRIER();
  }
}

static void copy_large(uint64_t n) {
  for (uint64_t i = 0; i < n; ++i) {
    memcpy(copy_to, copy_from, kCopyLarge);
    BARRIER();
  }
}

static void string_copy(uint64_t n) {
  for (uint64_t i = 0; i < n; ++i) {
    void *to = copy_to;
    const void *from = copy_from;
    size_t count = 4096;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count)::"memory");
  }
}

const struct bench_line kCpuLines[] = {
    {"integer loop", "integer", "iteration", integer_loop, NULL, NULL, 0},
    {"division", "integer", "division", division_loop, NULL, NULL, 0},
    {"sieve", "integer", "sieve of 256 Ki", sieve, NULL, NULL, 0},
    {"quicksort", "integer", "sort of 20,000", quicksort, NULL, NULL, 0},
    {"call and return", "integer", "call", calls, NULL, NULL, 0},
    {"indirect calls", "integer", "call", indirect_calls, NULL, NULL, 0},
    {"interpreter", "integer", "bytecode", interpreter, NULL, NULL, 0},
    {"sha256", "integer", "64-byte block", sha256, NULL, NULL, 0},
    {"byte hash", "memory", "byte", byte_hash, NULL, NULL, 0},
    {"list chase", "memory", "node", list_chase, NULL, prepare_list, 0},
    {"histogram", "memory", "value", histogram, NULL, NULL, 0},
    {"random in 16 MiB", "memory", "load", random_access, NULL, prepare_far, 0},
    {"memcpy 32 KiB", "memory", "copy", copy_small, NULL, prepare_copy, 0},
    {"memcpy 8 MiB", "memory", "copy", copy_large, NULL, prepare_copy, 0},
    {"rep movsb 4 KiB", "memory", "copy", string_copy, NULL, prepare_copy, 0},
};
const size_t kCpuLineCount = sizeof kCpuLines / sizeof kCpuLines[0];
