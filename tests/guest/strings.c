// SPDX-License-Identifier: Apache-2.0
// String instructions: all sizes, directions and prefixes across pages, and faults in their middle. [SDM-1 7.3.9]
#include "guest.h"

void guest_main(void);

static uint8_t from[3 * 4096] __attribute__((aligned(4096)));
static uint8_t to[3 * 4096] __attribute__((aligned(4096)));
static uint8_t model[3 * 4096];

struct registers {
  word rax, rcx, rsi, rdi, flags;
};

// One instruction with these registers; rcx, rsi, rdi and the flags afterwards.
#define STRING_OPERATION(name, text)                                                                              \
  static void name(void* pointer) {                                                                               \
    struct registers* r = pointer;                                                                                \
    __asm__ volatile("push %5; popf\n" MARK text "\npushf; pop %4"                                                \
                     : "+a"(r->rax), "+c"(r->rcx), "+S"(r->rsi), "+D"(r->rdi), "=r"(r->flags)                     \
                     : "r"(r->flags)                                                                              \
                     : "memory", "cc");                                                                           \
    __asm__ volatile("cld");                                                                                      \
  }
#define ALL_SIZES(prefix, base)                                       \
  STRING_OPERATION(base##_1, prefix " " #base "b")                    \
  STRING_OPERATION(base##_2, prefix " " #base "w")                    \
  STRING_OPERATION(base##_4, prefix " " #base "l")                    \
  STRING_OPERATION(base##_8, prefix " " #base "q")                    \
  static void (*const base##_all[])(void*) = {base##_1, base##_2, base##_4, base##_8};

ALL_SIZES("rep", movs)
ALL_SIZES("rep", stos)
ALL_SIZES("rep", lods)
ALL_SIZES("repe", cmps)
ALL_SIZES("repne", scas)
STRING_OPERATION(single_movs, "movsq")
STRING_OPERATION(single_cmps, "cmpsb")
STRING_OPERATION(movs_32, "addr32 rep movsb")
STRING_OPERATION(outs, "mov $0x3ff, %%edx; rep outsb")
STRING_OPERATION(ins, "mov $0x3ff, %%edx; rep insb")

static void fill(uint8_t* at, size_t count, unsigned seed) {
  for (size_t i = 0; i < count; ++i) {
    seed = seed * 1103515245 + 12345;
    at[i] = (uint8_t)(seed >> 16);
  }
}
static bool same(const uint8_t* a, const uint8_t* b, size_t count) {
  for (size_t i = 0; i < count; ++i)
    if (a[i] != b[i]) return false;
  return true;
}

static const size_t starts[] = {0, 1, 4090, 4095, 4096, 5000};
static const size_t counts[] = {0, 1, 2, 7, 100, 513};

static void test_movs_stos(void) {
  bool movs_ok = true, stos_ok = true;
  for (unsigned size_log = 0; size_log < 4; ++size_log) {
    const size_t size = 1u << size_log;
    for (unsigned i = 0; i < 36; ++i) {
      for (unsigned down = 0; down < 2; ++down) {
        const size_t count = counts[i / 6], bytes = count * size;
        const size_t start = starts[i % 6];
        // Going down the operands are the last elements.
        const size_t first = down ? start + 4096 : start;
        const word step = down ? -size : size;
        fill(to, sizeof to, 7);
        memcpy(model, to, sizeof to);
        const size_t lowest = down && count ? first - (count - 1) * size : first;
        memcpy(model + lowest, from + lowest, bytes);
        struct registers r = {.rcx = count, .rsi = (word)from + first, .rdi = (word)to + first, .flags = 2 | (down ? FLAG_DF : 0)};
        movs_all[size_log](&r);
        movs_ok = movs_ok && same(to, model, sizeof to) && r.rcx == 0 && r.rsi == (word)from + first + step * count &&
                  r.rdi == (word)to + first + step * count;
        const uint64_t pattern = 0x8877665544332211;
        for (size_t e = 0; e < count; ++e) memcpy(model + lowest + e * size, &pattern, size);
        r = (struct registers){.rax = pattern, .rcx = count, .rdi = (word)to + first, .flags = 2 | (down ? FLAG_DF : 0)};
        stos_all[size_log](&r);
        stos_ok = stos_ok && same(to, model, sizeof to) && r.rcx == 0 && r.rdi == (word)to + first + step * count;
      }
    }
  }
  check("rep-movs", movs_ok);
  check("rep-stos", stos_ok);
  // Overlapping forward copies repeat what they wrote.
  for (unsigned distance = 1; distance <= 16; ++distance) {
    fill(to, 4096, distance);
    memcpy(model, to, 4096);
    for (unsigned i = 0; i < 1000; ++i) model[100 + distance + i] = model[100 + i];
    struct registers r = {.rcx = 1000, .rsi = (word)to + 100, .rdi = (word)to + 100 + distance, .flags = 2};
    movs_1(&r);
    if (!same(to, model, 4096)) break;
    if (distance == 16) check("rep-movs-overlap", true);
  }
  if (!same(to, model, 4096)) check("rep-movs-overlap", false);
  memcpy(model, to, 4096);
  for (unsigned i = 0; i < 100; ++i) {
    uint64_t element;
    memcpy(&element, model + 200 + i * 8, 8);
    memcpy(model + 203 + i * 8, &element, 8);
  }
  struct registers r = {.rcx = 100, .rsi = (word)to + 200, .rdi = (word)to + 203, .flags = 2};
  movs_8(&r);
  check("rep-movsq-overlap", same(to, model, 4096));
}

static void test_lods_cmps_scas(void) {
  bool lods_ok = true, cmps_ok = true, scas_ok = true;
  fill(from, sizeof from, 1);
  for (unsigned size_log = 0; size_log < 4; ++size_log) {
    const size_t size = 1u << size_log;
    struct registers r = {.rax = 0x1122334455667788, .rcx = 600, .rsi = (word)from + 4000, .flags = 2};
    lods_all[size_log](&r);
    uint64_t want = size == 4 ? 0 : 0x1122334455667788;
    memcpy(&want, from + 4000 + 599 * size, size);
    lods_ok = lods_ok && r.rax == want && r.rsi == (word)from + 4000 + 600 * size && r.rcx == 0;

    for (size_t differs = 0; differs < 300; differs += 37) {
      memcpy(to, from, sizeof to);
      to[3900 + differs * size] ^= 0x55;
      r = (struct registers){.rcx = 400, .rsi = (word)from + 3900, .rdi = (word)to + 3900, .flags = 2};
      cmps_all[size_log](&r);
      uint64_t a = 0, b = 0;
      memcpy(&a, from + 3900 + differs * size, size);
      memcpy(&b, to + 3900 + differs * size, size);
      cmps_ok = cmps_ok && r.rcx == 400 - differs - 1 && r.rsi == (word)from + 3900 + (differs + 1) * size &&
                r.rdi == (word)to + 3900 + (differs + 1) * size && !(r.flags & FLAG_ZF) && !!(r.flags & FLAG_CF) == (a < b);

      memset(to, 0, sizeof to);
      const uint64_t needle = 0x8899aabbccddeeff;
      memcpy(to + 3900 + differs * size, &needle, size);
      r = (struct registers){.rax = needle, .rcx = 400, .rdi = (word)to + 3900, .flags = 2};
      scas_all[size_log](&r);
      scas_ok = scas_ok && r.rcx == 400 - differs - 1 && r.rdi == (word)to + 3900 + (differs + 1) * size && (r.flags & FLAG_ZF);
    }
    // Not found: everything is looked at. A count of zero touches neither memory nor flags.
    memset(to, 0, sizeof to);
    r = (struct registers){.rax = ~0ul, .rcx = 400, .rdi = (word)to, .flags = 2};
    scas_all[size_log](&r);
    scas_ok = scas_ok && r.rcx == 0 && !(r.flags & FLAG_ZF);
    r = (struct registers){.rcx = 0, .rsi = WINDOW, .rdi = WINDOW, .flags = 2 | FLAG_ZF | FLAG_CF};
    cmps_all[size_log](&r);
    cmps_ok = cmps_ok && (r.flags & (FLAG_ZF | FLAG_CF)) == (FLAG_ZF | FLAG_CF);
  }
  check("rep-lods", lods_ok);
  check("repe-cmps", cmps_ok);
  check("repne-scas", scas_ok);
}

static void test_single(void) {
  fill(from, sizeof from, 5);
  struct registers r = {.rcx = 9, .rsi = (word)from + 4093, .rdi = (word)to + 4091, .flags = 2};
  single_movs(&r);
  check("movsq-across-pages", same(to + 4091, from + 4093, 8) && r.rcx == 9 && r.rsi == (word)from + 4101);
  from[0] = 3;
  to[0] = 5;
  r = (struct registers){.rsi = (word)from, .rdi = (word)to, .flags = 2 | FLAG_DF};
  single_cmps(&r);
  check("cmpsb-down", (r.flags & FLAG_CF) && r.rsi == (word)from - 1 && r.rdi == (word)to - 1);
  // A 32-bit address size uses and updates ECX, ESI, EDI; the upper halves become zero.
  fill(to, 64, 8);
  r = (struct registers){.rcx = 0xffffffff00000010, .rsi = (word)from | 0xabcd00000000, .rdi = (word)to | 0x123400000000, .flags = 2};
  movs_32(&r);
  check("addr32-movs", same(to, from, 16) && r.rcx == 0 && r.rsi == (word)from + 16 && r.rdi == (word)to + 16);
}

static void test_ports(void) {
  // The UART's scratch register keeps the last byte written.
  from[0] = 1, from[1] = 2, from[2] = 0x77;
  struct registers r = {.rcx = 3, .rsi = (word)from, .flags = 2};
  outs(&r);
  check("rep-outsb", inb(0x3ff) == 0x77 && r.rsi == (word)from + 3 && r.rcx == 0);
  r = (struct registers){.rcx = 5, .rdi = (word)to + 4094, .flags = 2};
  ins(&r);
  check("rep-insb", to[4094] == 0x77 && to[4098] == 0x77 && r.rdi == (word)to + 4099);
}

// A fault in the middle: what came before it is done, the registers stand at the element that faulted, and the
// instruction can be resumed. [SDM-2B REP]
static struct registers at_fault;
static word fault_cr2, fault_error;
static unsigned faults;
static bool repair(struct frame* frame) {
  at_fault = (struct registers){.rcx = frame->rcx, .rsi = frame->rsi, .rdi = frame->rdi};
  fault_cr2 = read_cr2();
  fault_error = frame->error;
  ++faults;
  const word page = fault_cr2 & ~0xffful;
  const uint8_t* backing = page == WINDOW + 0x1000 ? from + 4096 : to + 4096;
  map(page, (word)backing, PTE_P | PTE_W, 1);
  return frame->ip == trap_expected_ip;
}

static void test_faults(void) {
  const uint64_t flags = PTE_P | PTE_W;
  const word source = WINDOW, target = WINDOW + 0x10000;
  set_handler(14, repair);
  for (unsigned size_log = 0; size_log < 4; ++size_log) {
    const size_t size = 1u << size_log;
    map(source, (word)from, flags, 1);
    map(target, (word)to, flags, 1);
    map(source + 0x1000, 0, 0, 1);
    map(target + 0x1000, (word)(to + 4096), flags, 1);
    fill(from, 8192, 9);
    memset(to, 0, 8192);
    faults = 0;
    // The source page ends after 10 elements and a part of the eleventh.
    const word start = 0x1000 - 10 * size - (size > 1 ? size / 2 : 0);
    struct registers r = {.rcx = 30, .rsi = source + start, .rdi = target + 0x100, .flags = 2};
    expect_no_trap("rep-movs-read-fault-resumes", movs_all[size_log], &r);
    check_eq("rep-movs-read-fault-cr2", fault_cr2, source + 0x1000);
    check("rep-movs-read-fault-registers",
          at_fault.rcx == 20 && at_fault.rsi == source + start + 10 * size && at_fault.rdi == target + 0x100 + 10 * size);
    check("rep-movs-read-fault-result", faults == 1 && r.rcx == 0 && same(to + 0x100, from + start, 30 * size));

    map(source + 0x1000, (word)(from + 4096), flags, 1);
    map(target + 0x1000, 0, 0, 1);
    memset(to, 0, 8192);
    faults = 0;
    r = (struct registers){.rax = 0x5a5a5a5a5a5a5a5a, .rcx = 30, .rdi = target + start, .flags = 2};
    expect_no_trap("rep-stos-write-fault-resumes", stos_all[size_log], &r);
    bool passed = fault_error == 2 && fault_cr2 == target + 0x1000 && at_fault.rcx == 20 && at_fault.rdi == target + start + 10 * size;
    for (size_t i = 0; i < 30 * size; ++i) passed = passed && to[start + i] == 0x5a;
    check("rep-stos-write-fault", passed && faults == 1 && r.rcx == 0);
  }
  // Downwards over a page edge.
  map(target + 0x1000, (word)(to + 4096), flags, 1);
  map(target, 0, 0, 1);
  faults = 0;
  struct registers r = {.rax = 1, .rcx = 20, .rdi = target + 0x1000 + 9, .flags = 2 | FLAG_DF};
  set_handler(14, 0);
  check_eq("rep-stos-down-faults", (unsigned)trap_call(stos_1, &r), 14);
  check_eq("rep-stos-down-cr2", trap.cr2, target + 0xfff);
  set_handler(14, 0);
}

void guest_main(void) {
  fill(from, sizeof from, 3);
  test_movs_stos();
  test_lods_cmps_scas();
  test_single();
  test_ports();
  test_faults();
  finish();
}
