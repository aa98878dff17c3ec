// SPDX-License-Identifier: Apache-2.0
// Translations that one processor changes and others use: shootdown by IPI with every way to invalidate, accessed and
// dirty bits in a race, address spaces and modes of their own. [SDM-3A 4.8, 4.10.4, 4.10.5]
#include "smp.h"

void guest_main(void);

#define WINDOW2 (WINDOW + (1ul << 39))  // a slot of the PML4 of its own
enum { kShootVector = 0x50, kPages = 8 };
static uint8_t data[kPages][4096] __attribute__((aligned(4096)));
static volatile unsigned wrong;
static volatile bool stop;
static volatile uint64_t progress[kMaxCpus];  // of each worker

// ---- shootdown ----
enum way { kInvlpg, kCr3, kGlobal, kInvpcid };
static const char* const way_names[] = {"invlpg", "cr3", "cr4-pge", "invpcid"};
static struct {
  enum way way;
  volatile word address;
  volatile unsigned acknowledged;
} request;

static void invalidate(void) {
  switch (request.way) {
    case kInvlpg: invlpg(request.address); break;
    case kCr3: write_cr3(read_cr3()); break;
    case kGlobal: {
      const word cr4 = read_cr4();
      write_cr4(cr4 ^ CR4_PGE);
      write_cr4(cr4);
      break;
    }
    case kInvpcid: {
      const uint64_t descriptor[2] = {0, 0};
      __asm__ volatile("invpcid %0, %1" ::"m"(descriptor), "r"(2ul) : "memory");
      break;
    }
  }
}
static bool on_shoot(struct frame* frame) {
  (void)frame;
  invalidate();
  __atomic_add_fetch(&request.acknowledged, 1, __ATOMIC_SEQ_CST);
  apic_eoi();
  return true;
}
static bool shoot(word address) {
  request.address = address;
  __atomic_store_n(&request.acknowledged, 0, __ATOMIC_SEQ_CST);
  send_ipi(0, kIcrOthers | kShootVector);
  invalidate();
  return WAIT_FOR(request.acknowledged == cpu_count - 1);
}

// One worker is at it all the time if the host has two processors; more of them share. The others are halted, and get
// their interrupts there.
static unsigned workers;  // the highest index
static void start_workers(unsigned count, void (*function)(void*)) {
  stop = false;
  wrong = 0;
  workers = count < cpu_count ? count : cpu_count - 1;
  for (unsigned i = 1; i <= workers; ++i) progress[i] = 0;
  for (unsigned i = 1; i <= workers; ++i) run_on(i, function, 0);
}
static void stop_workers(void) {
  stop = true;
  for (unsigned i = 1; i <= workers; ++i) wait_idle(i);
}
static bool all_progress(void) {
  uint64_t before[kMaxCpus];
  for (unsigned i = 1; i <= workers; ++i) before[i] = progress[i];
  bool good = true;
  for (unsigned i = 1; i <= workers; ++i) good = good && WAIT_FOR(progress[i] != before[i]);
  return good;
}

// A fault is tried again: it ends when the page is back.
static volatile unsigned faults[kMaxCpus];
static volatile unsigned odd_faults;
static bool try_again(struct frame* frame) {
  const unsigned self = this_cpu()->index;
  if ((frame->error & 1) && (frame->error & 2) && read_cr2() >> 39 == WINDOW >> 39)
    ++faults[self];
  else
    odd_faults = odd_faults + 1;
  return true;
}

// ---- write protection ----
static void write_on(void* unused) {
  (void)unused;
  const unsigned self = this_cpu()->index;
  volatile uint64_t* slot = (volatile uint64_t*)WINDOW + 8 * self;
  while (!stop) {
    *slot = ++progress[self];
    __asm__ volatile("lock incq %0" : "+m"(slot[1])::"cc", "memory");
  }
}

static void test_protect(enum way way, unsigned count) {
  const uint64_t global = way == kGlobal ? PTE_G : 0;
  volatile uint64_t* entry = entry_for(WINDOW, 1);
  volatile uint64_t* direct = (volatile uint64_t*)data[0];
  request.way = way;
  map(WINDOW, (word)data[0], PTE_P | PTE_W | global, 1);
  odd_faults = 0;
  for (unsigned i = 0; i < kMaxCpus; ++i) faults[i] = 0;
  start_workers(count, write_on);
  struct span span = span_of(2000, 100);
  bool good = all_progress(), shot = true;
  unsigned late = 0, total_faults = 0;
  while (good && shot && span_goes_on(&span)) {
    *entry &= ~PTE_W;
    shot = shoot(WINDOW);
    uint64_t before[kMaxCpus][2];
    for (unsigned i = 1; i <= workers; ++i)
      for (unsigned k = 0; k < 2; ++k) before[i][k] = direct[8 * i + k];
    delay_us(20);
    for (unsigned i = 1; i <= workers; ++i)
      for (unsigned k = 0; k < 2; ++k) late += before[i][k] != direct[8 * i + k];
    *entry |= PTE_W;  // what is cached as read-only faults once more at most, and is tried again
    if (span.done % 8 == 1) good = all_progress();
  }
  stop_workers();
  for (unsigned i = 1; i <= workers; ++i) total_faults += faults[i];
  check_in(way_names[way], "protect-goes-on", good && shot, true);
  check_in(way_names[way], "no-write-after-protection", late, 0);
  check_in(way_names[way], "faults-are-right", odd_faults, 0);
  info("protect", total_faults, "faults");
  info("protect", span.done, way_names[way]);
}

// ---- another page at the same address ----
static volatile unsigned sequence;  // odd: it is being changed; else half of it says which page
static bool runs_code;
static void read_on(void* unused) {
  (void)unused;
  const unsigned self = this_cpu()->index;
  while (!stop) {
    const unsigned before = sequence;
    uint32_t value;
    if (runs_code)
      __asm__ volatile("call *%1" : "=a"(value) : "r"(WINDOW) : "memory");
    else
      value = *(volatile uint32_t*)WINDOW;
    const unsigned after = sequence;
    if (before == after && !(before & 1) && value != before / 2 % 2) wrong = wrong + 1;
    if (value > 1) wrong = wrong + 1;
    ++progress[self];
  }
}

static void test_remap(const char* name, enum way way, int level, bool code, unsigned count) {
  static uint64_t second_table[512] __attribute__((aligned(4096)));
  request.way = way;
  runs_code = code;
  for (unsigned i = 0; i < 2; ++i) {
    if (code)
      memcpy(data[i], (uint8_t[]){0xb8, (uint8_t)i, 0, 0, 0, 0xc3}, 6);  // mov $i, %eax; ret
    else
      *(uint32_t*)data[i] = i;
  }
  map(WINDOW, (word)data[0], PTE_P, 1);
  volatile uint64_t* entry = entry_for(WINDOW, level);
  uint64_t values[2] = {*entry, (word)data[1] | PTE_P};
  if (level == 2) {
    second_table[0] = (word)data[1] | PTE_P;
    values[1] = (word)second_table | PTE_P | PTE_W | PTE_U;
  }
  sequence = 0;
  start_workers(count, read_on);
  struct span span = span_of(2000, 80);
  bool good = true;
  while (good && span_goes_on(&span)) {
    sequence = sequence + 1;
    *entry = values[span.done & 1];
    good = shoot(WINDOW);
    __atomic_store_n(&sequence, (unsigned)(span.done * 2), __ATOMIC_SEQ_CST);
    if (span.done % 8 == 1) good = good && all_progress();
  }
  stop_workers();
  *entry = values[0];
  shoot(WINDOW);
  check_in("remap", name, good && wrong == 0, true);
}

// ---- what needs no invalidation ----
static bool count_fault(struct frame* frame) {
  (void)frame;
  ++faults[this_cpu()->index];
  return true;
}
static void touch_when_told(void* unused) {
  (void)unused;
  const unsigned self = this_cpu()->index;
  while (!stop) {
    const unsigned now = sequence;
    if (now & 1 || progress[self] == now) continue;
    *(volatile uint32_t*)(WINDOW + 4 * self) = now;
    progress[self] = now;
  }
}

static void test_new_page(void) {
  volatile uint64_t* entry = entry_for(WINDOW, 1);
  request.way = kInvlpg;
  *entry = 0;
  shoot(WINDOW);
  on_vector(14, count_fault);
  for (unsigned i = 0; i < kMaxCpus; ++i) faults[i] = 0;
  sequence = 1;
  start_workers(1, touch_when_told);
  struct span span = span_of(2000, 100);
  bool good = true;
  while (good && span_goes_on(&span)) {
    *entry = (word)data[2] | PTE_P | PTE_W;
    __atomic_store_n(&sequence, sequence + 1, __ATOMIC_SEQ_CST);
    for (unsigned i = 1; i <= workers; ++i) good = good && WAIT_FOR(progress[i] == sequence);
    __atomic_store_n(&sequence, sequence + 1, __ATOMIC_SEQ_CST);
    *entry = 0;
    good = good && shoot(WINDOW);
  }
  sequence = 1;
  stop_workers();
  unsigned total = 0;
  for (unsigned i = 1; i <= workers; ++i) total += faults[i];
  check("new-page-goes-on", good);
  check_eq("new-page-needs-no-invalidation", total, 0);  // nothing that is not present is cached [SDM-3A 4.10.2.3]
}

// ---- accessed and dirty ----
static void write_all_pages(void* unused) {
  (void)unused;
  const unsigned self = this_cpu()->index;
  uint32_t state = 77 + self;
  while (!stop) {
    const unsigned page = random_step(&state) % kPages;
    *(volatile uint64_t*)(WINDOW2 + 4096 * page + 64 * self) = ++progress[self];
  }
}

static uint64_t sum_of(unsigned page) {
  uint64_t sum = 0;
  for (unsigned i = 1; i < cpu_count; ++i) sum += *(volatile uint64_t*)(data[page] + 64 * i);
  return sum;
}

// What was written after the bit was cleared and the translation invalidated must have set the bit again.
static void test_dirty(unsigned count) {
  request.way = kInvlpg;
  for (unsigned page = 0; page < kPages; ++page) map(WINDOW2 + 4096 * page, (word)data[page], PTE_P | PTE_W, 1);
  start_workers(count, write_all_pages);
  struct span span = span_of(2000, 150);
  unsigned lost = 0, dirtied = 0;
  uint32_t state = 4711;
  bool good = true;
  while (good && span_goes_on(&span)) {
    const unsigned page = random_step(&state) % kPages;
    uint64_t* entry = entry_for(WINDOW2 + 4096 * page, 1);
    __atomic_and_fetch(entry, ~(PTE_A | PTE_D), __ATOMIC_SEQ_CST);
    good = shoot(WINDOW2 + 4096 * page);
    const uint64_t before = sum_of(page);
    uint64_t after = before;
    const uint64_t patience = rdtsc() + (span.done & 1 ? 5000 : random_step(&state) % 30) * ticks_per_us;
    while ((after = sum_of(page)) == before && rdtsc() < patience) pause();
    const uint64_t bits = __atomic_load_n(entry, __ATOMIC_SEQ_CST) & (PTE_A | PTE_D);
    if (before == after) continue;
    ++dirtied;
    if (bits != (PTE_A | PTE_D)) ++lost;
  }
  stop_workers();
  check("dirty-goes-on", good);
  check_eq("dirty-is-never-lost", lost, 0);
  info("dirty", dirtied, "rounds with writes");
}

// Software's bits beside the processor's: each processor toggles its own, which nobody else changes, while all
// make the processor set A and D in the same entry.
static struct barrier barrier;
static volatile uint64_t* raced_entry;
static void toggle_own_bit(void* unused) {
  (void)unused;
  const unsigned self = this_cpu()->index;
  const uint64_t own = 1ul << (self < 7 ? 52 + self : 9);
  const word address = WINDOW2 + 4096;
  uint64_t expected = *raced_entry & own;
  barrier_wait(&barrier, cpu_count);
  struct span span = span_of(5000, 100);
  while (span_goes_on(&span)) {
    __asm__ volatile("lock xorq %1, %0" : "+m"(*raced_entry) : "r"(own) : "cc", "memory");
    expected ^= own;
    __asm__ volatile("lock andq %1, %0" : "+m"(*raced_entry) : "r"(~(PTE_A | PTE_D)) : "cc", "memory");
    invlpg(address);
    if (span.done & 1)
      *(volatile uint64_t*)(address + 64 * self) = span.done;
    else
      (void)*(volatile uint64_t*)(address + 64 * self);
    if ((*raced_entry & own) != expected) wrong = wrong + 1;
  }
  barrier_wait(&barrier, cpu_count);
}

static void test_entry_races(void) {
  static const char* const names[] = {"", "entry-race-pte", "entry-race-pde", "entry-race-pdpte", "entry-race-pml4e"};
  for (int level = 1; level <= 4; ++level) {
    raced_entry = entry_for(WINDOW2 + 4096, level);
    const uint64_t before = *raced_entry & ~(PTE_A | PTE_D | 0x7ful << 52);
    wrong = 0;
    run_everywhere(cpu_count, toggle_own_bit, 0);
    const uint64_t after = *raced_entry & ~(PTE_A | PTE_D | 0x7ful << 52);
    check_in("own-bits-stay", names[level], wrong == 0 && before == after, true);
  }
}

// ---- address spaces and modes of their own ----
static uint64_t own_pml4[kMaxCpus][512] __attribute__((aligned(4096)));
static uint64_t own_tables[kMaxCpus][3][512] __attribute__((aligned(4096)));
static uint8_t own_page[kMaxCpus][4096] __attribute__((aligned(4096)));
static void write_read_only(void* address) { *(volatile uint8_t*)address = 1; }

static void live_apart(void* unused) {
  (void)unused;
  const unsigned self = this_cpu()->index;
  const word address = WINDOW + (3ul << 39), slot = address >> 39 & 511;
  memcpy(own_pml4[self], pml4, 4096);
  for (unsigned level = 0; level < 3; ++level)
    own_tables[self][level][0] =
        (level == 2 ? (word)own_page[self] : (word)own_tables[self][level + 1]) | PTE_P | (level < 2 ? PTE_W : 0);
  own_pml4[self][slot] = (word)own_tables[self][0] | PTE_P | PTE_W;
  memcpy(own_page[self], (uint8_t[]){0xb8, (uint8_t)(100 + self), 0, 0, 0, 0xc3}, 6);
  write_cr3((word)own_pml4[self]);
  const bool protects = self & 1;
  if (!protects) write_cr0(read_cr0() & ~(word)CR0_WP);
  barrier_wait(&barrier, cpu_count);
  struct span span = span_of(3000, 100);
  while (span_goes_on(&span)) {
    uint32_t value;
    __asm__ volatile("call *%1" : "=a"(value) : "r"(address) : "memory");
    if (value != 100 + self) wrong = wrong + 1;
    if (*(volatile uint8_t*)(address + 1) != 100 + self) wrong = wrong + 1;
    const int vector = cpu_trap(write_read_only, (void*)(address + 2048));
    if (vector != (protects ? 14 : -1)) wrong = wrong + 1;
    if (span.done % 16 == 0) write_cr3((word)own_pml4[self]);
  }
  barrier_wait(&barrier, cpu_count);
  write_cr0(read_cr0() | CR0_WP);
  write_cr3((word)pml4);
  progress[self] = span.done;
}

static void test_own_spaces(void) {
  on_vector(14, 0);
  wrong = 0;
  run_everywhere(cpu_count, live_apart, 0);
  check_eq("own-address-spaces-and-modes", wrong, 0);
}

static void enable_global(void* unused) {
  (void)unused;
  write_cr4(read_cr4() | CR4_PGE);
}

void guest_main(void) {
  smp_start();
  if (cpu_count < 2) {
    check("several-processors", false);
    finish();
  }
  run_everywhere(cpu_count, enable_global, 0);
  on_vector(kShootVector, on_shoot);
  on_vector(14, try_again);
  const bool has_invpcid = cpuid(7, 0).ebx & (1u << 10);
  for (enum way way = kInvlpg; way <= kGlobal; ++way) test_protect(way, 1);
  test_protect(kInvlpg, kMaxCpus);
  if (has_invpcid)
    test_protect(kInvpcid, 1);
  else
    skip("invpcid", "not there");
  test_remap("data-invlpg", kInvlpg, 1, false, 1);
  test_remap("data-cr3", kCr3, 1, false, 1);
  test_remap("code-invlpg", kInvlpg, 1, true, 1);
  test_remap("code-cr3", kCr3, 1, true, 1);
  test_remap("page-table", kInvlpg, 2, false, 1);
  test_remap("page-table-of-code", kCr3, 2, true, 1);
  test_remap("data-many", kInvlpg, 1, false, kMaxCpus);
  test_remap("code-many", kInvlpg, 1, true, kMaxCpus);
  test_new_page();
  test_dirty(1);
  test_dirty(kMaxCpus);
  test_entry_races();
  test_own_spaces();
  finish();
}
