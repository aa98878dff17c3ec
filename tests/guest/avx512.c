// SPDX-License-Identifier: Apache-2.0
// The state of AVX-512: XCR0, the XSAVE family, what else reaches it, and when its instructions fault. Registers are
// filled by XRSTOR and looked at by XSAVE, so that no instruction under test is needed to see them.
#include "guest.h"

void guest_main(void);

enum { kAvx = 7, kAll = 0xe7, kAvx512 = 0xe0, kMasks = 0x20, kUpper = 0x40, kHigh = 0x80 };
static uint8_t area[4096] __attribute__((aligned(64)));
static uint8_t other[4096] __attribute__((aligned(64)));
static uint8_t seen[4096] __attribute__((aligned(64)));
static size_t masks_at, upper_at, high_at;

static void xsetbv(uint64_t value) { __asm__ volatile("xsetbv" ::"c"(0), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))); }
static void xsetbv_probe(void* value) {
  __asm__ volatile(MARK "xsetbv" ::"c"(0), "a"((uint32_t)(word)value), "d"((uint32_t)((word)value >> 32)));
}
static void xsave(uint8_t* to, uint32_t mask) { __asm__ volatile("xsave64 (%0)" ::"r"(to), "a"(mask), "d"(0) : "memory"); }
static void xrstor(uint8_t* from, uint32_t mask) { __asm__ volatile("xrstor64 (%0)" ::"r"(from), "a"(mask), "d"(0) : "memory"); }
static void xrstor_probe(void* from) { __asm__ volatile(MARK "xrstor64 (%0)" ::"r"(from), "a"(kAll), "d"(0) : "memory"); }
static void mask_probe(void* unused) {
  (void)unused;
  __asm__ volatile(MARK "kmovw %%k1, %%eax" ::: "eax");
}
static void evex_probe(void* unused) {
  (void)unused;
  __asm__ volatile(MARK ".byte 0x62, 0xf1, 0x7d, 0x48, 0xef, 0xc0");  // vpxord zmm0, zmm0, zmm0
}
static uint64_t* xstate_bv(uint8_t* image) { return (uint64_t*)(image + 512); }

static void fill(uint8_t* image, unsigned seed) {
  memset(image, 0, 4096);
  *(uint16_t*)image = 0x37f;
  *(uint32_t*)(image + 24) = 0x1f80;
  for (unsigned i = 0; i < 256; ++i) image[160 + i] = (uint8_t)(seed + i * 3), image[576 + i] = (uint8_t)(seed + i * 5);
  for (unsigned i = 0; i < 64; ++i) image[masks_at + i] = (uint8_t)(seed + i * 7);
  for (unsigned i = 0; i < 512; ++i) image[upper_at + i] = (uint8_t)(seed + i * 11);
  for (unsigned i = 0; i < 1024; ++i) image[high_at + i] = (uint8_t)(seed + i * 13 + (i >> 6));
  *xstate_bv(image) = kAll;
}
static bool same(const uint8_t* a, const uint8_t* b, size_t at, size_t count) {
  for (size_t i = 0; i < count; ++i)
    if (a[at + i] != b[at + i]) return false;
  return true;
}
static bool zero(const uint8_t* a, size_t at, size_t count) {
  for (size_t i = 0; i < count; ++i)
    if (a[at + i]) return false;
  return true;
}
// The registers hold what the image says.
static bool holds(const uint8_t* image) {
  memset(seen, 0x55, sizeof seen);
  memset(seen + 512, 0, 64);
  xsave(seen, kAll);
  return same(seen, image, 160, 256) && same(seen, image, 576, 256) && same(seen, image, masks_at, 64) &&
         same(seen, image, upper_at, 512) && same(seen, image, high_at, 1024);
}

static void test_enabling(void) {
  write_cr4(read_cr4() & ~(word)CR4_OSXSAVE);
  expect_trap("mask-without-osxsave", mask_probe, 0, 6, 0);
  expect_trap("evex-without-osxsave", evex_probe, 0, 6, 0);
  write_cr4(read_cr4() | CR4_OSXSAVE | CR4_OSFXSR | CR4_OSXMMEXCPT);
  xsetbv(kAvx);
  expect_trap("mask-without-xcr0", mask_probe, 0, 6, 0);
  expect_trap("evex-without-xcr0", evex_probe, 0, 6, 0);
  // All three components or none, and none without AVX. [SDM-1 13.3]
  static const uint8_t invalid[] = {0x27, 0x47, 0x87, 0x67, 0xa7, 0xc7, 0xe1, 0xe3, 0xe5, 0xe6};
  for (unsigned i = 0; i < ARRAY_SIZE(invalid); ++i) expect_trap("xsetbv-invalid", xsetbv_probe, (void*)(word)invalid[i], 13, 0);
  expect_trap("mask-after-invalid-xcr0", mask_probe, 0, 6, 0);
  xsetbv(kAll);
  xsave(seen, kAll);
  check("first-enabling-shows-zeros", zero(seen, masks_at, 64) && zero(seen, upper_at, 512) && zero(seen, high_at, 1024));
  expect_no_trap("mask-enabled", mask_probe, 0);
  expect_no_trap("evex-enabled", evex_probe, 0);
  write_cr0(read_cr0() | CR0_TS);
  expect_trap("mask-ts", mask_probe, 0, 7, 0);
  expect_trap("evex-ts", evex_probe, 0, 7, 0);
  xsetbv(kAvx);
  expect_trap("mask-without-xcr0-before-ts", mask_probe, 0, 6, 0);
  xsetbv(kAll);
  __asm__ volatile("clts");
}

static void test_sizes(void) {
  check_eq("cpuid-size-enabled", cpuid(0xd, 0).ebx, cpuid(0xd, 0).ecx);
  check_eq("cpuid-size-masks", cpuid(0xd, 5).eax, 64);
  check_eq("cpuid-size-upper", cpuid(0xd, 6).eax, 512);
  check_eq("cpuid-size-high", cpuid(0xd, 7).eax, 1024);
  xsetbv(kAvx);
  check_eq("cpuid-size-avx", cpuid(0xd, 0).ebx, 832);
  xsetbv(kAll);
}

static void test_xsave(void) {
  fill(area, 1);
  xrstor(area, kAll);
  check("xrstor-xsave", holds(area));
  // What a mask leaves out stays, in the registers and in the area.
  fill(other, 2);
  xrstor(other, kMasks);
  memcpy(other + upper_at, area + upper_at, 512);
  memcpy(other + high_at, area + high_at, 1024);
  memcpy(other + 160, area + 160, 256);
  memcpy(other + 576, area + 576, 256);
  check("xrstor-masks-only", holds(other));
  memset(seen, 0x55, sizeof seen);
  memset(seen + 512, 0, 64);
  xsave(seen, kHigh);
  check("xsave-high-only", same(seen, area, high_at, 1024) && seen[masks_at] == 0x55 && seen[upper_at] == 0x55 && *xstate_bv(seen) == kHigh);
  // A component whose XSTATE_BV bit is clear becomes initial.
  fill(area, 3);
  *xstate_bv(area) = kAll & ~kUpper;
  xrstor(area, kAll);
  memset(area + upper_at, 0, 512);
  check("xrstor-initialises-upper", holds(area));
  *xstate_bv(area) = kAvx;
  xrstor(area, kAvx512);
  memset(area + masks_at, 0, 64);
  memset(area + high_at, 0, 1024);
  check("xrstor-initialises-all", holds(area));
  fill(area, 4);
  *xstate_bv(area) = kAll | 1ul << 62;
  expect_trap("xrstor-reserved", xrstor_probe, area, 13, 0);
  xsetbv(kAvx);
  *xstate_bv(area) = kAll;
  expect_trap("xrstor-not-enabled", xrstor_probe, area, 13, 0);
  xsetbv(kAll);
}

static void test_variants(void) {
  const uint32_t family = cpuid(0xd, 1).eax;
  fill(area, 5);
  xrstor(area, kAll);
  if (family & 1) {
    memset(seen, 0, sizeof seen);
    __asm__ volatile("xsaveopt64 (%0)" ::"r"(seen), "a"(kAll), "d"(0) : "memory");
    check("xsaveopt", same(seen, area, masks_at, 64) && same(seen, area, upper_at, 512) && same(seen, area, high_at, 1024));
  }
  if (family & 2) {  // compacted: AVX, masks and the upper halves follow each other
    memset(seen, 0, sizeof seen);
    __asm__ volatile("xsavec64 (%0)" ::"r"(seen), "a"(kAll), "d"(0) : "memory");
    check_eq("xsavec-layout", *(uint64_t*)(seen + 520), 1ul << 63 | kAll);
    size_t at = 576;
    bool good = true;
    static const size_t sizes[] = {256, 64, 512, 1024};
    const size_t from[] = {576, masks_at, upper_at, high_at};
    static const unsigned leaf[] = {2, 5, 6, 7};
    for (unsigned i = 0; i < 4; ++i) {
      if (cpuid(0xd, leaf[i]).ecx & 2) at = (at + 63) & ~63ul;
      for (size_t k = 0; k < sizes[i]; ++k) good = good && seen[at + k] == area[from[i] + k];
      at += sizes[i];
    }
    check("xsavec", good);
    check_eq("cpuid-size-compacted", cpuid(0xd, 1).ebx, at);
    memcpy(other, seen, sizeof other);
    xsetbv(kAll);
    fill(seen, 6);
    xrstor(seen, kAll);
    xrstor(other, kAll);
    check("xrstor-compacted", holds(area));
  }
  if (family & 8) {
    memset(other, 0, sizeof other);
    __asm__ volatile("xsaves64 (%0)" ::"r"(other), "a"(kAll), "d"(0) : "memory");
    fill(seen, 7);
    xrstor(seen, kAll);
    __asm__ volatile("xrstors64 (%0)" ::"r"(other), "a"(kAll), "d"(0) : "memory");
    check("xsaves-xrstors", holds(area));
  }
  if (family & 4) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(1));
    check("xgetbv1-in-use", (low & kAvx512) == kAvx512);
  }
}

// Tasks that take turns, with devices, exceptions and other translations between them.
static void test_switching(void) {
  fill(area, 20);
  fill(other, 90);
  xrstor(area, kAll);
  bool first = true, second = true;
  for (unsigned turn = 0; turn < 200; ++turn) {
    xsave(area, kAll);
    (void)lapic_read(kLapicId);
    xrstor(other, kAll);
    outb(0x80, (uint8_t)turn);
    (void)trap_call(xsetbv_probe, (void*)6);
    second = second && holds(other);
    xsave(other, kAll);
    xrstor(area, kAll);
    (void)cpuid(0, 0);
    first = first && holds(area);
  }
  uint8_t* want = allocate_page();
  fill(want, 20);
  check("switch-first", first && holds(want));
  fill(want, 90);
  xrstor(other, kAll);
  check("switch-second", second && holds(want));
}

static void test_narrowing(void) {
  fill(area, 30);
  xrstor(area, kAll);
  xsetbv(kAvx);
  (void)lapic_read(kLapicId);
  fill(other, 31);
  *xstate_bv(other) = kAvx;
  xrstor(other, kAvx);
  xsave(seen, kAvx);
  xsetbv(kAll);
  memcpy(area + 160, other + 160, 256);
  memcpy(area + 576, other + 576, 256);
  // Components that were off hold what they held: nothing else may write them.
  check("narrow-and-widen", holds(area));
}

// VEX clears what lies beyond its vectors, legacy SSE does not.
static void test_upper_bits(void) {
  fill(area, 40);
  xrstor(area, kAll);
  __asm__ volatile("paddd %xmm2, %xmm3");
  xsave(seen, kAll);
  check("sse-keeps-upper", same(seen, area, upper_at, 512) && same(seen, area, 576, 256));
  __asm__ volatile("vmovdqa %ymm5, %ymm6; vpaddd %xmm5, %xmm5, %xmm7");
  xsave(seen, kAll);
  check("vex-clears-upper", zero(seen, upper_at + 6 * 32, 64) && same(seen, area, upper_at, 6 * 32) && same(seen, area, upper_at + 8 * 32, 8 * 32));
  static uint32_t words[8] __attribute__((aligned(32)));
  __asm__ volatile("vpcmpeqd %%ymm1, %%ymm1, %%ymm1; vmaskmovps (%0), %%ymm1, %%ymm9" ::"r"(words) : "memory");
  xsave(seen, kAll);
  check("masked-load-clears-upper", zero(seen, upper_at + 9 * 32, 32));
  xrstor(area, kAll);
  __asm__ volatile("vzeroupper");
  xsave(seen, kAll);
  check("vzeroupper", zero(seen, upper_at, 512) && zero(seen, 576, 256) && same(seen, area, 160, 256) && same(seen, area, high_at, 1024));
  xrstor(area, kAll);
  __asm__ volatile("vzeroall");
  xsave(seen, kAll);
  check("vzeroall", zero(seen, upper_at, 512) && zero(seen, 160, 256) && same(seen, area, high_at, 1024) && same(seen, area, masks_at, 64));
}

void guest_main(void) {
  if (!(cpuid(1, 0).ecx & (1u << 26)) || (cpuid(0xd, 0).eax & kAvx512) != kAvx512 || !(cpuid(7, 0).ebx & (1u << 16))) {
    skip("avx512", "not offered");
    finish();
  }
  masks_at = cpuid(0xd, 5).ebx;
  upper_at = cpuid(0xd, 6).ebx;
  high_at = cpuid(0xd, 7).ebx;
  test_enabling();
  test_sizes();
  test_xsave();
  test_variants();
  test_switching();
  test_narrowing();
  test_upper_bits();
  finish();
}
