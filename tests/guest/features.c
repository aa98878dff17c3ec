// SPDX-License-Identifier: Apache-2.0
// CPUID against what instructions really do, MSRs, the XSAVE family, x87 environment, the paravirtual clock.
#include "guest.h"

void guest_main(void);

// ---- each feature's instruction exists exactly if CPUID says so ----
static uint8_t memory[256] __attribute__((aligned(64)));

enum reg { kEax, kEbx, kEcx, kEdx };
struct instruction {
  const char* name;
  uint32_t leaf;
  uint32_t subleaf;
  enum reg reg;
  int bit;  // -1: never offered
  uint8_t length;
  uint8_t bytes[10];
};
// rdi points to memory; eax, ecx, edx are zero.
static const struct instruction instructions[] = {
    {"sse3-haddps", 1, 0, kEcx, 0, 4, {0xf2, 0x0f, 0x7c, 0xc1}},
    {"pclmulqdq", 1, 0, kEcx, 1, 6, {0x66, 0x0f, 0x3a, 0x44, 0xc1, 0x00}},
    {"ssse3-pshufb", 1, 0, kEcx, 9, 5, {0x66, 0x0f, 0x38, 0x00, 0xc1}},
    {"fma", 1, 0, kEcx, 12, 5, {0xc4, 0xe2, 0x71, 0xb8, 0xc2}},
    {"cmpxchg16b", 1, 0, kEcx, 13, 4, {0x48, 0x0f, 0xc7, 0x0f}},
    {"sse4.1-pmulld", 1, 0, kEcx, 19, 5, {0x66, 0x0f, 0x38, 0x40, 0xc1}},
    {"sse4.2-pcmpgtq", 1, 0, kEcx, 20, 5, {0x66, 0x0f, 0x38, 0x37, 0xc1}},
    {"crc32", 1, 0, kEcx, 20, 5, {0xf2, 0x0f, 0x38, 0xf1, 0xc1}},
    {"movbe", 1, 0, kEcx, 22, 4, {0x0f, 0x38, 0xf0, 0x07}},
    {"popcnt", 1, 0, kEcx, 23, 4, {0xf3, 0x0f, 0xb8, 0xc1}},
    {"aesenc", 1, 0, kEcx, 25, 5, {0x66, 0x0f, 0x38, 0xdc, 0xc1}},
    {"xgetbv", 1, 0, kEcx, 26, 3, {0x0f, 0x01, 0xd0}},
    {"avx-vaddps", 1, 0, kEcx, 28, 4, {0xc5, 0xf4, 0x58, 0xc2}},
    {"f16c", 1, 0, kEcx, 29, 5, {0xc4, 0xe2, 0x79, 0x13, 0xc1}},
    {"rdrand", 1, 0, kEcx, 30, 3, {0x0f, 0xc7, 0xf0}},
    {"bmi1-andn", 7, 0, kEbx, 3, 5, {0xc4, 0xe2, 0x70, 0xf2, 0xc0}},
    {"avx2-vpaddd", 7, 0, kEbx, 5, 4, {0xc5, 0xf5, 0xfe, 0xc2}},
    {"bmi2-bzhi", 7, 0, kEbx, 8, 5, {0xc4, 0xe2, 0x78, 0xf5, 0xc0}},
    {"rdseed", 7, 0, kEbx, 18, 3, {0x0f, 0xc7, 0xf8}},
    {"adx-adcx", 7, 0, kEbx, 19, 5, {0x66, 0x0f, 0x38, 0xf6, 0xc1}},
    {"smap-clac", 7, 0, kEbx, 20, 3, {0x0f, 0x01, 0xca}},
    {"clflushopt", 7, 0, kEbx, 23, 4, {0x66, 0x0f, 0xae, 0x3f}},
    {"clwb", 7, 0, kEbx, 24, 4, {0x66, 0x0f, 0xae, 0x37}},
    {"sha1msg1", 7, 0, kEbx, 29, 4, {0x0f, 0x38, 0xc9, 0xc1}},
    {"gfni", 7, 0, kEcx, 8, 5, {0x66, 0x0f, 0x38, 0xcf, 0xc1}},
    {"vaes-256", 7, 0, kEcx, 9, 5, {0xc4, 0xe2, 0x75, 0xdc, 0xc2}},
    {"vpclmulqdq-256", 7, 0, kEcx, 10, 6, {0xc4, 0xe3, 0x75, 0x44, 0xc2, 0x00}},
    {"rdpid", 7, 0, kEcx, 22, 4, {0xf3, 0x0f, 0xc7, 0xf8}},
    {"rdtscp", 0x80000001, 0, kEdx, 27, 3, {0x0f, 0x01, 0xf9}},
    {"xsaveopt", 0xd, 1, kEax, 0, 3, {0x0f, 0xae, 0x37}},
    {"xsavec", 0xd, 1, kEax, 1, 3, {0x0f, 0xc7, 0x27}},
    {"xsaves", 0xd, 1, kEax, 3, 3, {0x0f, 0xc7, 0x2f}},
    {"rdpkru", 7, 0, kEcx, 3, 3, {0x0f, 0x01, 0xee}},
    {"vmxon", 1, 0, kEcx, 5, 4, {0xf3, 0x0f, 0xc7, 0x37}},
    {"monitor", 1, 0, kEcx, 3, 3, {0x0f, 0x01, 0xc8}},
    {"serialize", 7, 0, kEdx, 14, 3, {0x0f, 0x01, 0xe8}},
    {"avx512f-vaddps", 7, 0, kEbx, 16, 6, {0x62, 0xf1, 0x74, 0x48, 0x58, 0xc2}},
    {"sse4a-extrq", 0x80000001, 0, kEcx, 6, 6, {0x66, 0x0f, 0x78, 0xc0, 0x08, 0x08}},
    {"xop", 0x80000001, 0, kEcx, 11, 5, {0x8f, 0xe9, 0x78, 0x81, 0xc1}},
    {"movdiri", 7, 0, kEcx, 27, 4, {0x0f, 0x38, 0xf9, 0x07}},
    {"tpause", 7, 0, kEcx, 5, 4, {0x66, 0x0f, 0xae, 0xf0}},
    {"avx-vnni", 7, 1, kEax, 4, 5, {0xc4, 0xe2, 0x71, 0x50, 0xc2}},
    {"ud0", 0, 0, kEax, -1, 3, {0x0f, 0xff, 0xc0}},
    {"ud1", 0, 0, kEax, -1, 3, {0x0f, 0xb9, 0xc0}},
};
static uint8_t slot[32];
static void run_slot(void* unused) {
  (void)unused;
  __asm__ volatile("xor %%eax, %%eax; xor %%ecx, %%ecx; xor %%edx, %%edx; xor %%ebx, %%ebx; mov %0, %%edi; call *%1" ::"i"(memory),
                   "r"((word)slot)
                   : "rax", "rbx", "rcx", "rdx", "rdi", "memory", "cc");
}

static void test_instructions(void) {
  write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
  if (cpuid(1, 0).ecx & (1u << 26)) {
    write_cr4(read_cr4() | CR4_OSXSAVE);
    const uint32_t all = cpuid(0xd, 0).eax & 7;
    __asm__ volatile("xsetbv" ::"a"(all), "c"(0), "d"(0));
  }
  for (unsigned i = 0; i < ARRAY_SIZE(instructions); ++i) {
    const struct instruction* insn = &instructions[i];
    const uint32_t highest = cpuid(insn->leaf & 0x80000000, 0).eax;
    struct cpuid r = {0};
    if (insn->leaf <= highest) r = cpuid(insn->leaf, insn->subleaf);
    const uint32_t value = insn->reg == kEax ? r.eax : insn->reg == kEbx ? r.ebx : insn->reg == kEcx ? r.ecx : r.edx;
    if (insn->bytes[0] == 0x8f && tcg_lacks(insn->name)) continue;  // TCG takes XOP for POP
    const bool offered = insn->bit >= 0 && (value >> insn->bit & 1);
    memset(memory, 0, sizeof memory);
    memcpy(slot, insn->bytes, insn->length);
    slot[insn->length] = 0xc3;
    const int vector = trap_call(run_slot, 0);
    // VMXON outside VMX operation raises #UD even where it exists: CR4.VMXE is clear.
    const bool passed = offered && insn->bytes[0] == 0xf3 && insn->bytes[2] == 0xc7 && insn->bytes[3] == 0x37 ? vector == 6
                                                                                                              : vector == (offered ? kNoTrap : 6);
    if (passed)
      check(insn->name, true);
    else if (!tcg_lacks(insn->name))
      check(insn->name, false);
    if (offered && vector != kNoTrap && !is_tcg()) print("  offered, but it faults\n");
    if (!offered && vector == kNoTrap && !is_tcg()) print("  not offered, but it works\n");
  }
}

// ---- CPUID ----
static void test_cpuid(void) {
  const struct cpuid zero = cpuid(0, 0);
  check("cpuid-max-basic", zero.eax >= 0xd);
  if (is_intel()) {
    const struct cpuid beyond = cpuid(0x12345678, 0), highest = cpuid(zero.eax, 0);
    check("cpuid-beyond-max", beyond.eax == highest.eax && beyond.ebx == highest.ebx);
  }
  check("cpuid-long-mode", cpuid(0x80000001, 0).edx & (1u << 29));
  check("cpuid-syscall-in-64-bit-mode", cpuid(0x80000001, 0).edx & (1u << 11));
  check("cpuid-hypervisor", cpuid(1, 0).ecx & (1u << 31));
  check("cpuid-upper-halves-cleared", ({
          word a = ~0ul, b = ~0ul, c = 0xffffffff00000000, d = ~0ul;
          __asm__ volatile("mov $1, %%eax; cpuid" : "+a"(a), "+b"(b), "+c"(c), "+d"(d));
          (a | b | c | d) >> 32 == 0;
        }));
  // No leaf announces AVX-512, AMX, VMX, MONITOR, TSX or performance counters. (QEMU has some of them.)
  if (!is_tcg()) {
    const struct cpuid seven = cpuid(7, 0), one = cpuid(1, 0);
    check("cpuid-no-avx512", !(seven.ebx & (1u << 16 | 1u << 17 | 1u << 30 | 1u << 31)) && !(seven.ecx & (1u << 1 | 1u << 6 | 1u << 14)));
    check("cpuid-no-tsx", !(seven.ebx & (1u << 4 | 1u << 11)));
    check("cpuid-no-monitor-vmx", !(one.ecx & (1u << 3 | 1u << 5)));
    check("cpuid-no-pmu", cpuid(0xa, 0).eax == 0);
  }
  if (!(cpuid(1, 0).ecx & (1u << 26))) return;
  write_cr4(read_cr4() & ~(word)CR4_OSXSAVE);
  check("cpuid-osxsave-off", !(cpuid(1, 0).ecx & (1u << 27)));
  write_cr4(read_cr4() | CR4_OSXSAVE);
  check("cpuid-osxsave-on", cpuid(1, 0).ecx & (1u << 27));
  __asm__ volatile("xsetbv" ::"a"(1), "c"(0), "d"(0));
  check_eq("cpuid-xsave-size-x87", cpuid(0xd, 0).ebx, 576);
  __asm__ volatile("xsetbv" ::"a"(3), "c"(0), "d"(0));
  check_eq("cpuid-xsave-size-sse", cpuid(0xd, 0).ebx, 576);
  if (cpuid(0xd, 0).eax & 4) {
    __asm__ volatile("xsetbv" ::"a"(7), "c"(0), "d"(0));
    check_eq("cpuid-xsave-size-avx", cpuid(0xd, 0).ebx, 832);
    check("cpuid-xsave-layout-avx", cpuid(0xd, 2).eax == 256 && cpuid(0xd, 2).ebx == 576);
  }
}

// ---- XSAVE ----
static uint8_t area[4096] __attribute__((aligned(64)));
static uint8_t pattern[32] __attribute__((aligned(32)));
static uint8_t seen[32] __attribute__((aligned(32)));

static void xsetbv(uint32_t index, uint64_t value) {
  __asm__ volatile(MARK "xsetbv" ::"c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}
static void xsetbv_probe(void* value) { xsetbv(0, (word)value); }
static void xsetbv_index(void* index) { xsetbv((uint32_t)(word)index, 7); }
static void xgetbv_probe(void* index) { __asm__ volatile(MARK "xgetbv" ::"c"(index) : "eax", "edx"); }
static void xsave(uint64_t mask) {
  __asm__ volatile("xsave %0" : "+m"(area) : "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32)) : "memory");
}
static void xrstor(uint64_t mask) {
  __asm__ volatile("xrstor %0" ::"m"(area), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32)) : "memory");
}
static void xsave_misaligned(void* unused) {
  (void)unused;
  __asm__ volatile(MARK "xsave %0" : "+m"(area[8]) : "a"(7), "d"(0) : "memory");
}
static void xrstor_probe(void* unused) {
  (void)unused;
  __asm__ volatile(MARK "xrstor %0" ::"m"(area), "a"(7), "d"(0) : "memory");
}
static void avx_probe(void* unused) {
  (void)unused;
  __asm__ volatile(MARK "vmovdqu %0, %%ymm3" ::"m"(pattern));
}
static void load_ymm3(void) { __asm__ volatile("vmovdqu %0, %%ymm3" ::"m"(pattern)); }
static bool ymm3_is(const uint8_t* want, size_t count) {
  __asm__ volatile("vmovdqu %%ymm3, %0" : "=m"(seen));
  for (size_t i = 0; i < count; ++i)
    if (seen[i] != want[i]) return false;
  for (size_t i = count; i < 32; ++i)
    if (seen[i] != 0) return false;
  return true;
}
static bool area_is(size_t offset, const uint8_t* want, size_t count) {
  for (size_t i = 0; i < count; ++i)
    if (area[offset + i] != want[i]) return false;
  return true;
}
#define XSTATE_BV (*(volatile uint64_t*)&area[512])
#define XCOMP_BV (*(volatile uint64_t*)&area[520])

static void test_xsave_enabling(void) {
  write_cr4(read_cr4() & ~(word)CR4_OSXSAVE);
  expect_trap("xgetbv-without-osxsave", xgetbv_probe, 0, 6, 0);
  expect_trap("xsave-without-osxsave", xsave_misaligned, 0, 6, 0);
  expect_trap("avx-without-osxsave", avx_probe, 0, 6, 0);
  write_cr4(read_cr4() | CR4_OSXSAVE);
  xsetbv(0, 7);
  expect_trap("xsetbv-without-x87", xsetbv_probe, (void*)6, 13, 0);
  expect_trap("xsetbv-avx-without-sse", xsetbv_probe, (void*)5, 13, 0);
  expect_trap("xsetbv-unsupported", xsetbv_probe, (void*)(7 | 1ul << 62), 13, 0);
  expect_trap("xsetbv-index", xsetbv_index, (void*)1, 13, 0);
  expect_trap("xgetbv-index", xgetbv_probe, (void*)5, 13, 0);
  xsetbv(0, 3);
  expect_trap("avx-disabled-in-xcr0", avx_probe, 0, 6, 0);
  xsetbv(0, 7);
  expect_no_trap("avx-enabled", avx_probe, 0);
  write_cr0(read_cr0() | CR0_TS);
  expect_trap("avx-ts", avx_probe, 0, 7, 0);
  if (!tcg_lacks("xrstor-ts")) expect_trap("xrstor-ts", xrstor_probe, 0, 7, 0);
  __asm__ volatile("clts");
}

// The upper halves of the vector registers outlive an access to a device.
static void test_avx_beside_devices(void) {
  uint64_t upper, lower;
  __asm__ volatile(
      "vcmptrueps %%ymm3, %%ymm3, %%ymm3\n"
      "movl (%2), %%eax\n"
      "vextractf128 $1, %%ymm3, %%xmm4\n"
      "vmovq %%xmm4, %0\n"
      "vmovq %%xmm3, %1\n"
      : "=r"(upper), "=r"(lower)
      : "r"(LAPIC_BASE + kLapicId)
      : "rax", "memory");
  check_eq("avx-upper-over-mmio", upper, ~0ul);
  check_eq("avx-lower-over-mmio", lower, ~0ul);
}

static void test_xsave_standard(void) {
  memset(area, 0, sizeof area);
  load_ymm3();
  xsave(7);
  check("xsave-components", (XSTATE_BV & 4) && area_is(160 + 48, pattern, 16) && area_is(576 + 48, pattern + 16, 16));
  __asm__ volatile("vpxor %xmm3, %xmm3, %xmm3");
  xrstor(7);
  check("xrstor-all", ymm3_is(pattern, 32));
  // Only SSE: the upper halves stay.
  memset(&area[160 + 48], 0, 16);
  xrstor(2);
  check("xrstor-sse-keeps-upper", ({
          uint8_t want[32];
          memset(want, 0, 16);
          memcpy(want + 16, pattern + 16, 16);
          ymm3_is(want, 32);
        }));
  // A component whose XSTATE_BV bit is clear is initialised.
  load_ymm3();
  xsave(7);
  XSTATE_BV = XSTATE_BV & ~4ul;
  xrstor(4);
  check("xrstor-initialises", ymm3_is(pattern, 16));
  // A mask without a component leaves its place in the area alone.
  load_ymm3();
  memset(area, 0xaa, sizeof area);
  memset(&area[512], 0, 64);
  xsave(2);
  check("xsave-mask", area[576 + 48] == 0xaa && area[0] == 0xaa && area_is(160 + 48, pattern, 16));
  expect_trap("xsave-misaligned", xsave_misaligned, 0, 13, 0);
  memset(area, 0, sizeof area);
  xsave(7);
  XSTATE_BV = XSTATE_BV | 1ul << 50;
  expect_trap("xrstor-reserved-xstate-bv", xrstor_probe, 0, 13, 0);
  XSTATE_BV = 7;
  XCOMP_BV = 1;
  if (!tcg_lacks("xrstor-reserved-xcomp-bv")) expect_trap("xrstor-reserved-xcomp-bv", xrstor_probe, 0, 13, 0);
  XCOMP_BV = 0;
  *(uint32_t*)&area[24] = 1u << 31;
  if (!tcg_lacks("xrstor-mxcsr-reserved")) expect_trap("xrstor-mxcsr-reserved", xrstor_probe, 0, 13, 0);
}

static void test_xsave_variants(void) {
  const uint32_t family = cpuid(0xd, 1).eax;
  if (family & 2) {
    memset(area, 0, sizeof area);
    load_ymm3();
    __asm__ volatile("xsavec %0" : "+m"(area) : "a"(4), "d"(0) : "memory");
    check_eq("xsavec-xcomp-bv", XCOMP_BV, 1ul << 63 | 4);
    check("xsavec-compacted", area_is(576 + 48, pattern + 16, 16));
    __asm__ volatile("vpxor %xmm3, %xmm3, %xmm3");
    xrstor(4);
    __asm__ volatile("vmovdqu %%ymm3, %0" : "=m"(seen));
    check("xrstor-compacted", seen[16] == pattern[16] && seen[31] == pattern[31] && seen[0] == 0);
  } else {
    skip("xsavec", "not there");
  }
  if (family & 1) {
    memset(area, 0, sizeof area);
    load_ymm3();
    __asm__ volatile("xsaveopt %0" : "+m"(area) : "a"(7), "d"(0) : "memory");
    check("xsaveopt", (XSTATE_BV & 4) && area_is(576 + 48, pattern + 16, 16));
  } else {
    skip("xsaveopt", "not there");
  }
  if (family & 4) {
    uint32_t low, high;
    // (Whether the bit is clear in the initial configuration is the processor's choice. [SDM-1 13.6])
    load_ymm3();
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(1));
    check("xgetbv1-avx-in-use", low & 4);
  } else {
    skip("xgetbv1", "not there");
  }
  if (family & 8) {
    memset(area, 0, sizeof area);
    load_ymm3();
    __asm__ volatile("xsaves %0" : "+m"(area) : "a"(7), "d"(0) : "memory");
    check("xsaves-xcomp-bv", XCOMP_BV == (1ul << 63 | 7) && (XSTATE_BV & 4) && area_is(576 + 48, pattern + 16, 16));
    __asm__ volatile("vzeroall; xrstors %0" ::"m"(area), "a"(7), "d"(0) : "memory");
    check("xrstors", ymm3_is(pattern, 32));
  } else {
    skip("xsaves", "not there");
  }
}

static void test_xsave(void) {
  if (!(cpuid(1, 0).ecx & (1u << 26)) || !(cpuid(0xd, 0).eax & 4)) {
    skip("xsave", "no XSAVE or no AVX");
    return;
  }
  for (unsigned i = 0; i < 32; ++i) pattern[i] = (uint8_t)(i * 7 + 1);
  test_xsave_enabling();
  test_avx_beside_devices();
  test_xsave_standard();
  test_xsave_variants();
}

// ---- x87 environment ----
static void fxrstor_bad(void* unused) {
  (void)unused;
  __asm__ volatile(MARK "fxrstor %0" ::"m"(area) : "memory");
}
static void test_x87(void) {
  memset(area, 0, sizeof area);
  word instruction;
  static const uint32_t operand = 0x40490fdb;  // pi
  __asm__ volatile("fninit; lea 1f(%%rip), %0; 1: flds %2; fxsave64 %1" : "=r"(instruction), "=m"(area) : "m"(operand) : "memory");
  if (!tcg_lacks("fip-is-the-guests")) check_eq("fip-is-the-guests", *(uint64_t*)&area[8], instruction);
  const bool fdp_always = !(cpuid(7, 0).ebx & (1u << 6));
  if (fdp_always && !is_tcg())
    check_eq("fdp-is-the-guests", *(uint64_t*)&area[16], (word)&operand);
  else
    skip("fdp-is-the-guests", "kept only for exceptions here, or TCG, which has none");
  check_eq("fxsave-tag", area[4], 0x80);
  check_eq("fxsave-top", *(uint16_t*)&area[2] >> 11 & 7, 7);
  check_eq("fxsave-st0-exponent", *(uint16_t*)&area[40], 0x4000);
  __asm__ volatile("fninit; fxrstor64 %0; fstps %1" : : "m"(area), "m"(area[1024]) : "memory");
  check_eq("fxrstor", *(uint32_t*)&area[1024], 0x40490fdb);
  *(uint32_t*)&area[24] = 0xffff0000;
  if (!tcg_lacks("fxrstor-mxcsr-reserved")) expect_trap("fxrstor-mxcsr-reserved", fxrstor_bad, 0, 13, 0);
  // 28-byte environment in 64-bit mode: FIP is its low half.
  __asm__ volatile("fninit; lea 1f(%%rip), %0; 1: fldpi; fnstenv %1" : "=r"(instruction), "=m"(area) : : "memory");
  check_eq("fnstenv-fip", *(uint32_t*)&area[12], (uint32_t)instruction);
  check_eq("fnstenv-tag", *(uint32_t*)&area[8] & 0xffff, 0x3fff);
  check_eq("fnstenv-masks", ({
             uint16_t control;
             __asm__ volatile("fnstcw %0" : "=m"(control));
             control & 0x3f;
           }),
           0x3f);
  __asm__ volatile("fninit");
}

// ---- MSRs ----
static void wrmsr_probe(void* argument) {
  const uint64_t* pair = argument;
  __asm__ volatile(MARK "wrmsr" ::"c"((uint32_t)pair[0]), "a"((uint32_t)pair[1]), "d"((uint32_t)(pair[1] >> 32)));
}
static void expect_wrmsr_gp(const char* name, uint32_t index, uint64_t value) {
  uint64_t pair[2] = {index, value};
  expect_trap(name, wrmsr_probe, pair, 13, 0);
}

static void test_msrs(void) {
  enum { kPat = 0x277, kMtrrCap = 0xfe, kMtrrBase0 = 0x200, kMtrrMask0 = 0x201, kMtrrFixed64k = 0x250, kMtrrDef = 0x2ff };
  enum { kTscAux = 0xc0000103, kArchCapabilities = 0x10a, kSpecCtrl = 0x48, kMcgCap = 0x179 };
  check_eq("pat-reset", rdmsr(kPat), 0x0007040600070406);
  wrmsr(kPat, 0x0007050600070106);
  check_eq("pat-write", rdmsr(kPat), 0x0007050600070106);
  if (!tcg_lacks("msr-value-checks")) {
    expect_wrmsr_gp("pat-type-2", kPat, 2);
    expect_wrmsr_gp("pat-reserved", kPat, 0x80);
    expect_wrmsr_gp("mtrr-def-type-2", kMtrrDef, 2);
    expect_wrmsr_gp("mtrr-cap-read-only", kMtrrCap, 0);
    expect_wrmsr_gp("mtrr-base-type", kMtrrBase0, 7);
    expect_wrmsr_gp("fs-base-non-canonical", 0xc0000100, 0x8000000000000000);
  }
  if (is_intel() && !is_tcg()) {  // of the model that CPUID names, and without meaning in a virtual machine
    enum { kSmiCount = 0x34, kPerfCtl = 0x199, kPowerCtl = 0x1fc, kRaplPowerUnit = 0x606, kAmdHwcr = 0xc0010015 };
    static const uint32_t read_only[] = {kSmiCount, kRaplPowerUnit}, written[] = {kPerfCtl, kPowerCtl};
    for (unsigned i = 0; i < ARRAY_SIZE(read_only); ++i) {
      check_eq("fixed-msr-read", rdmsr(read_only[i]), 0);
      expect_wrmsr_gp("fixed-msr-read-only", read_only[i], 0);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(written); ++i) {
      wrmsr(written[i], 1);
      check_eq("fixed-msr-ignores-writes", rdmsr(written[i]), 0);
    }
    expect_wrmsr_gp("other-vendors-msr", kAmdHwcr, 0);
    expect_wrmsr_gp("unknown-msr", 0x12345678, 0);
  }
  wrmsr(kPat, 0x0007040600070406);
  check("mtrr-cap", (rdmsr(kMtrrCap) & 0xff) == 8);
  wrmsr(kMtrrBase0, 0xc0000000);
  wrmsr(kMtrrMask0, 0xf0000800);
  check("mtrr-variable", rdmsr(kMtrrBase0) == 0xc0000000 && rdmsr(kMtrrMask0) == 0xf0000800);
  wrmsr(kMtrrMask0, 0);
  wrmsr(kMtrrBase0, 0);
  wrmsr(kMtrrFixed64k, 0x0606060606060606);
  check_eq("mtrr-fixed", rdmsr(kMtrrFixed64k), 0x0606060606060606);
  check("efer", (rdmsr(MSR_EFER) & 0x500) == 0x500);
  // LMA cannot be written; clearing LME under paging faults. [SDM-3A 2.2.1, 4.1.1]
  if (!tcg_lacks("efer-lme-under-paging")) expect_wrmsr_gp("efer-lme-under-paging", MSR_EFER, rdmsr(MSR_EFER) & ~0x100ul);
  if (cpuid(0x80000001, 0).edx & (1u << 27)) {
    wrmsr(kTscAux, 0x1234567);
    uint32_t a, c, d;
    __asm__ volatile("rdtscp" : "=a"(a), "=d"(d), "=c"(c));
    check_eq("rdtscp-aux", c, 0x1234567);
    if (cpuid(7, 0).ecx & (1u << 22)) {
      word id;
      __asm__ volatile("rdpid %0" : "=r"(id));
      check_eq("rdpid-aux", id, 0x1234567);
    }
  }
  const uint32_t edx = cpuid(7, 0).edx;
  if (edx & (1u << 29)) check("arch-capabilities", rdmsr(kArchCapabilities) & 2);
  if (edx & (1u << 26)) {
    wrmsr(kSpecCtrl, 1);
    check_eq("spec-ctrl", rdmsr(kSpecCtrl), 1);
    wrmsr(kSpecCtrl, 0);
    wrmsr(0x49, 1);  // IBPB
  }
  check("mcg-cap", (rdmsr(kMcgCap) & 0xff) <= 32);
  (void)rdmsr(0x8b);  // microcode revision
  (void)rdmsr(0x1a0);
  check("common-msrs-readable", true);
}

// ---- kvmclock [Linux Documentation/virt/kvm/x86/msr.rst] ----
struct pvclock {
  uint32_t version, pad;
  uint64_t tsc_timestamp, system_time;
  uint32_t mul;
  int8_t shift;
  uint8_t flags, pad2[2];
};
static volatile struct pvclock pvclock __attribute__((aligned(64)));
static volatile struct {
  uint32_t version, seconds, nanoseconds;
} wall __attribute__((aligned(64)));

static uint64_t pvclock_at(uint64_t tsc) {
  uint64_t delta = tsc - pvclock.tsc_timestamp;
  delta = pvclock.shift >= 0 ? delta << pvclock.shift : delta >> -pvclock.shift;
  return pvclock.system_time + (uint64_t)((unsigned __int128)delta * pvclock.mul >> 32);
}
static void test_kvmclock(void) {
  const struct cpuid leaf = cpuid(0x40000000, 0);
  if (leaf.ebx != 0x4b4d564b || !(cpuid(0x40000001, 0).eax & 8)) {
    skip("kvmclock", "not there");
    return;
  }
  wrmsr(0x4b564d01, (word)&pvclock | 1);
  check("kvmclock-version-even", pvclock.version != 0 && pvclock.version % 2 == 0);
  check("kvmclock-stable", pvclock.flags & 1);
  // One reading of the TSC for both: the host may take the processor away between two.
  const uint64_t tsc0 = rdtsc(), ns0 = pvclock_at(tsc0);
  while (rdtsc() - tsc0 < 20000000) {
  }
  const uint64_t tsc1 = rdtsc(), ns1 = pvclock_at(tsc1);
  const uint64_t khz = cpuid(0x40000010, 0).eax;
  const uint64_t want = (tsc1 - tsc0) * 1000000 / khz, got = ns1 - ns0;
  check("kvmclock-rate", got > want * 99 / 100 && got < want * 101 / 100 + 20000);
  wrmsr(0x4b564d00, (word)&wall);
  check("kvmclock-wall", wall.seconds > 1600000000 && wall.nanoseconds < 1000000000);
  wrmsr(0x4b564d01, 0);
}

void guest_main(void) {
  test_instructions();
  test_cpuid();
  test_xsave();
  test_x87();
  test_msrs();
  test_kvmclock();
  finish();
}
