// SPDX-License-Identifier: Apache-2.0
// Code that one processor changes and others run: with a handshake and a serialising instruction, behind an INT3, by
// one aligned store, in one page, across pages, through another address; self-modification on all processors at once.
// [SDM-3A 9.1.3]
#include "smp.h"

void guest_main(void);

#define CODE WINDOW                   // two pages, no neighbours in memory, writable
#define ALIAS (WINDOW + (1ul << 39))  // the same again
static uint8_t pages[4][4096] __attribute__((aligned(4096)));
static volatile unsigned wrong;
static volatile bool stop;
static struct barrier barrier;

static void mfence(void) { __asm__ volatile("mfence" ::: "memory"); }
static uint32_t call_code(word at) {
  uint32_t value;
  __asm__ volatile("call *%1" : "=a"(value) : "r"(at) : "rcx", "rdx", "memory", "cc");
  return value;
}

// mov $value, %eax; ret
static void write_function(word at, uint32_t value) {
  volatile uint8_t* code = (volatile uint8_t*)at;
  code[0] = 0xb8;
  for (unsigned i = 0; i < 4; ++i) code[1 + i] = (uint8_t)(value >> 8 * i);
  code[5] = 0xc3;
}

// ---- flag and serialising instruction ----
enum serialiser { kCpuid, kIret, kMovCr, kInvlpg, kSerialisers };
static void serialise(enum serialiser how) {
  switch (how) {
    case kCpuid: cpuid(0, 0); break;
    case kIret:
      __asm__ volatile(
          "mov %%rsp, %%rax; pushq $0x10; push %%rax; pushfq; pushq $8; lea 1f(%%rip), %%rcx; push %%rcx; iretq; 1:" ::
              : "rax", "rcx", "memory");
      break;
    case kMovCr: write_cr3(read_cr3()); break;
    default: invlpg(0x1000); break;
  }
}

static struct {
  word at, written;  // where it is run, where it is written
  enum serialiser how;
  unsigned runners;
  volatile unsigned round, acknowledged;
} handshake;

static void run_after_flag(void* unused) {
  (void)unused;
  for (unsigned round = 1;; ++round) {
    while (handshake.round != round && !stop) pause();
    if (stop) return;
    serialise(handshake.how);
    if (call_code(handshake.at) != round * 0x01010101u) wrong = wrong + 1;
    if (call_code(handshake.at) != round * 0x01010101u) wrong = wrong + 1;
    __atomic_add_fetch(&handshake.acknowledged, 1, __ATOMIC_SEQ_CST);
  }
}

static void test_handshake(const char* name, word at, word written, enum serialiser how, unsigned runners,
                           unsigned ms) {
  handshake.at = at;
  handshake.how = how;
  handshake.round = 0;
  wrong = 0;
  stop = false;
  if (runners >= cpu_count) runners = cpu_count - 1;
  write_function(written, 0);
  for (unsigned i = 1; i <= runners; ++i) run_on(i, run_after_flag, 0);
  struct span span = span_of(100000, ms);
  bool good = true;
  while (good && span_goes_on(&span)) {
    write_function(written, (uint32_t)span.done * 0x01010101u);
    handshake.acknowledged = 0;
    __atomic_store_n(&handshake.round, (unsigned)span.done, __ATOMIC_SEQ_CST);
    good = WAIT_FOR(handshake.acknowledged == runners);
  }
  stop = true;
  for (unsigned i = 1; i <= runners; ++i) wait_idle(i);
  check_in("handshake", name, good && wrong == 0, true);
  info(name, span.done, "rounds");
}

// ---- INT3 first, then the rest, then the first byte; all processors serialise in between ----
static volatile unsigned synchronised, traps_seen, old_seen, new_seen;
static volatile uint32_t old_value, new_value;
static volatile bool must_be_new;
static bool on_sync(struct frame* frame) {  // IRET serialises
  (void)frame;
  __atomic_add_fetch(&synchronised, 1, __ATOMIC_SEQ_CST);
  apic_eoi();
  return true;
}
static bool synchronise(void) {
  __atomic_store_n(&synchronised, 0, __ATOMIC_SEQ_CST);
  send_ipi(0, kIcrOthers | 0x51);
  return WAIT_FOR(synchronised == cpu_count - 1);
}
#define TRAPPED 0xdeadbeefu  // no round's value: those are multiples of 0x01010101, round 204's is 0xcccccccc
static bool on_breakpoint(struct frame* frame) {  // as if it had returned this
  frame->rax = TRAPPED;
  frame->ip = *(word*)frame->sp;
  frame->sp += 8;
  return true;
}

static void run_freely(void* at) {
  while (!stop) {
    const unsigned before = handshake.round;
    const uint32_t value = call_code((word)at);
    const unsigned after = handshake.round;
    // Rounds come in two halves: odd while it is being patched, even when that is over.
    if (value == TRAPPED) {
      if (before == after && !(before & 1)) wrong = wrong + 1;
      traps_seen = traps_seen + 1;
    } else if (before == after) {
      const uint32_t number = before / 2;
      const bool is_new = value == (number + (before & 1)) * 0x01010101u,
                 is_old = (before & 1) && value == number * 0x01010101u;
      if (!is_new && !is_old) wrong = wrong + 1;
    }
    handshake.acknowledged = 1;
  }
}

static void test_int3(const char* name, word at, unsigned runners, unsigned ms) {
  volatile uint8_t* code = (volatile uint8_t*)at;
  handshake.round = 0;
  wrong = traps_seen = 0;
  stop = false;
  if (runners >= cpu_count) runners = cpu_count - 1;
  write_function(at, 0);
  for (unsigned i = 1; i <= runners; ++i) run_on(i, run_freely, (void*)at);
  struct span span = span_of(20000, ms);
  bool good = true;
  while (good && span_goes_on(&span)) {
    const uint32_t value = (uint32_t)span.done * 0x01010101u;
    __atomic_store_n(&handshake.round, handshake.round + 1, __ATOMIC_SEQ_CST);
    code[0] = 0xcc;
    good = synchronise();
    for (unsigned i = 0; i < 4; ++i) code[1 + i] = (uint8_t)(value >> 8 * i);
    good = good && synchronise();
    code[0] = 0xb8;
    good = good && synchronise();
    __atomic_store_n(&handshake.round, handshake.round + 1, __ATOMIC_SEQ_CST);
    handshake.acknowledged = 0;
    if (span.done % 8 == 1) good = good && WAIT_FOR(handshake.acknowledged);
  }
  stop = true;
  for (unsigned i = 1; i <= runners; ++i) wait_idle(i);
  check_in("int3-answered", name, good, true);
  check_in("int3", name, wrong, 0);
  info(name, span.done, "rounds behind an INT3");
  info(name, traps_seen, "times the INT3 was run");
}

// ---- one aligned store of eight bytes: whoever runs it sees the old or the new instruction, in the end the new one
// ----
static void run_until_new(void* at) {
  uint32_t last = 0;
  while (!stop) {
    const uint32_t value = call_code((word)at);
    if (value >> 16 != (value & 0xffff) || (value & 0xffff) < last) wrong = wrong + 1;
    last = value & 0xffff;
    handshake.acknowledged = last;
  }
}

// Not a promise of the manual, but what every processor does and kernels build on. TCG reads code byte by byte.
static void test_single_store(const char* name, word at, word written, unsigned ms) {
  if (tcg_lacks(name)) return;
  wrong = 0;
  stop = false;
  const uint64_t rest = 0xc3ul << 40 | 0xb8 | 0x9090ul << 48;
  *(volatile uint64_t*)written = rest;
  handshake.acknowledged = 0;
  run_on(1, run_until_new, (void*)at);
  struct span span = span_of(60000, ms);
  bool good = true;
  while (good && span_goes_on(&span)) {
    if (span.done > 0xffff) break;
    *(volatile uint64_t*)written = rest | (span.done & 0xffff) * 0x10001 << 8;
    if (span.done % 3 == 0) good = WAIT_FOR(handshake.acknowledged == span.done);
  }
  stop = true;
  wait_idle(1);
  check_in("one-store", name, good && wrong == 0, true);
  info(name, span.done, "single stores");
}

// ---- a jump that is turned to and fro: mov $1, %eax; jmp; one of two ends ----
static void run_jump(void* at) {
  while (!stop) {
    const uint32_t value = call_code((word)at);
    if (value != 1 && value != 2) wrong = wrong + 1;
    handshake.acknowledged = value;
  }
}

static void test_jump(const char* name, bool far_apart) {
  uint8_t* page = pages[0];
  memset(page, 0x90, 4096);
  const unsigned jump_at = 256 + 3, first = far_apart ? 4096 + 64 : 512,
                 second = far_apart ? 4096 + 128 : 1024;  // displacement aligned
  page[jump_at] = 0xe9;
  write_function(CODE + first, 1);
  write_function(CODE + second, 2);
  volatile uint32_t* displacement = (volatile uint32_t*)(CODE + jump_at + 1);
  const uint32_t to_first = first - (jump_at + 5), to_second = second - (jump_at + 5);
  *displacement = to_first;
  wrong = 0;
  stop = false;
  handshake.acknowledged = 0;
  run_on(1, run_jump, (void*)(CODE + jump_at));
  struct span span = span_of(50000, 80);
  bool good = true;
  while (good && span_goes_on(&span)) {
    *displacement = span.done & 1 ? to_second : to_first;
    if (span.done % 3 == 0) good = WAIT_FOR(handshake.acknowledged == (span.done & 1) + 1);
  }
  stop = true;
  wait_idle(1);
  check_in("jump", name, good && wrong == 0, true);
  info(name, span.done, "turned jumps");
}

// ---- data beside code: stores that change no instruction ----
static volatile uint64_t laps[kMaxCpus];
static void write_beside(void* unused) {
  (void)unused;
  const unsigned self = this_cpu()->index;
  volatile uint64_t* counter = (volatile uint64_t*)(ALIAS + 2048 + 64 * self);
  *counter = 0;
  barrier_wait(&barrier, cpu_count);
  struct span span = span_of(3000, 80);
  while (span_goes_on(&span)) {
    for (unsigned i = 0; i < 4; ++i) {
      ++*counter;
      if (call_code(CODE + 16 * self) != self + 7) wrong = wrong + 1;
    }
  }
  laps[self] = span.done * 4;
  if (*counter != laps[self]) wrong = wrong + 1;
  barrier_wait(&barrier, cpu_count);
}

static void test_data_beside_code(void) {
  wrong = 0;
  for (unsigned i = 0; i < cpu_count; ++i) write_function(CODE + 16 * i, i + 7);
  run_everywhere(cpu_count, write_beside, 0);
  check_eq("data-beside-code", wrong, 0);
}

// ---- every processor changes code of its own and runs it, all in one page ----
static void modify_own(void* apart) {
  const unsigned self = this_cpu()->index;
  const word at = apart ? (word)pages[0] + 4096 * (self & 3) + 512 * (self >> 2) : CODE + 1024 + 8 * self;
  uint32_t number = self << 24;
  write_function(at, 0);
  barrier_wait(&barrier, cpu_count);
  struct span span = span_of(3000, 100);
  while (span_goes_on(&span)) {
    ++number;
    *(volatile uint32_t*)(at + 1) = number;
    if (call_code(at) != number) wrong = wrong + 1;
  }
  laps[self] = span.done;
  barrier_wait(&barrier, cpu_count);
}

static void test_self_modification(void) {
  wrong = 0;
  run_everywhere(cpu_count, modify_own, 0);
  check_eq("self-modification-in-one-page", wrong, 0);
  wrong = 0;
  run_everywhere(cpu_count, modify_own, (void*)1);
  check_eq("self-modification-in-own-pages", wrong, 0);
  info("self-modification", laps[0], "rounds of the first processor");
}

// ---- a whole page rewritten by one, run by all the others ----
static void test_page_rewrite(void) {
  static uint8_t image[4096];
  handshake.at = CODE + 16;
  handshake.how = kCpuid;
  handshake.round = 0;
  wrong = 0;
  stop = false;
  const unsigned runners = cpu_count - 1;
  for (unsigned i = 1; i <= runners; ++i) run_on(i, run_after_flag, 0);
  struct span span = span_of(2000, 100);
  bool good = true;
  while (good && span_goes_on(&span)) {
    // Through all of the page: fifty short jumps, then the value.
    unsigned at = 16;
    for (unsigned i = 0; i < 50; ++i) {
      image[at] = 0xeb;
      image[at + 1] = 70;
      at += 72;
    }
    write_function((word)image + at, (uint32_t)span.done * 0x01010101u);
    const void* from = image;
    void* to = (void*)ALIAS;
    word count = 512;
    __asm__ volatile("rep movsq" : "+S"(from), "+D"(to), "+c"(count)::"memory");
    handshake.acknowledged = 0;
    __atomic_store_n(&handshake.round, (unsigned)span.done, __ATOMIC_SEQ_CST);
    good = WAIT_FOR(handshake.acknowledged == runners);
  }
  stop = true;
  for (unsigned i = 1; i <= runners; ++i) wait_idle(i);
  check("page-rewrite", good && wrong == 0);
}

void guest_main(void) {
  smp_start();
  if (cpu_count < 2) {
    check("several-processors", false);
    finish();
  }
  map(CODE, (word)pages[0], PTE_P | PTE_W, 1);
  map(CODE + 4096, (word)pages[2], PTE_P | PTE_W, 1);
  map(ALIAS, (word)pages[0], PTE_P | PTE_W, 1);
  map(ALIAS + 4096, (word)pages[2], PTE_P | PTE_W, 1);
  on_vector(0x51, on_sync);
  on_vector(3, on_breakpoint);
  mfence();
  test_handshake("cpuid", CODE + 64, CODE + 64, kCpuid, 1, 300);
  test_handshake("iret", CODE + 64, CODE + 64, kIret, 1, 100);
  test_handshake("mov-to-cr3", CODE + 64, CODE + 64, kMovCr, 1, 100);
  test_handshake("invlpg", CODE + 64, CODE + 64, kInvlpg, 1, 100);
  test_handshake("across-pages", CODE + 4096 - 3, CODE + 4096 - 3, kCpuid, 1, 200);
  test_handshake("through-an-alias", CODE + 128, ALIAS + 128, kCpuid, 1, 100);
  test_handshake("across-pages-through-an-alias", CODE + 4096 - 2, ALIAS + 4096 - 2, kCpuid, 1, 100);
  test_handshake("many-runners", CODE + 64, CODE + 64, kCpuid, kMaxCpus, 100);
  test_int3("one-runner", CODE + 192, 1, 150);
  test_int3("across-pages", CODE + 4096 - 4, 1, 150);
  test_int3("many-runners", CODE + 192, kMaxCpus, 100);
  test_single_store("same-address", CODE + 256, CODE + 256, 100);
  test_single_store("through-an-alias", CODE + 256, ALIAS + 256, 100);
  test_jump("within-a-page", false);
  test_jump("to-another-page", true);
  test_data_beside_code();
  test_self_modification();
  test_page_rewrite();
  finish();
}
