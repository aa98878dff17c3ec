// SPDX-License-Identifier: Apache-2.0
// Interrupts from outside and time, with several processors: the TSC is one, every local APIC has a timer of its own,
// the PIC reaches whoever accepts ExtINT, the I/O APIC finds its destinations. [SDM-3A 11.5, 11.8.4, SDM-3B 18.17]
// [82093AA 3.2.4]
#include "smp.h"

void guest_main(void);

static struct barrier barrier;
static volatile unsigned wrong;

// ---- TSC ----
static uint64_t tsc_in_order(void) {
  uint32_t low, high;
  __asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high)::"memory");
  return (uint64_t)high << 32 | low;
}
static uint64_t tscp_in_order(void) {
  uint32_t low, high, aux;
  __asm__ volatile("rdtscp; lfence" : "=a"(low), "=d"(high), "=c"(aux)::"memory");
  if (aux != this_cpu()->index + 40) wrong = wrong + 1;
  return (uint64_t)high << 32 | low;
}

static spinlock tsc_lock;
static volatile uint64_t last_tsc, worst_step_back;
static bool has_rdtscp;
static void compare_tsc(void* unused) {
  (void)unused;
  if (has_rdtscp) wrmsr(0xc0000103, this_cpu()->index + 40);
  barrier_wait(&barrier, cpu_count);
  struct span span = span_of(20000, 200);
  while (span_goes_on(&span)) {
    lock(&tsc_lock);
    const uint64_t now = has_rdtscp && (span.done & 1) ? tscp_in_order() : tsc_in_order();
    if (now < last_tsc && last_tsc - now > worst_step_back) worst_step_back = last_tsc - now;
    last_tsc = now;
    unlock(&tsc_lock);
  }
  barrier_wait(&barrier, cpu_count);
}

// Back and forth between two: each must be later than the other's last.
static volatile uint64_t hand_over;
static volatile unsigned turn;
static void pass_tsc(void* unused) {
  (void)unused;
  const unsigned self = this_cpu()->index;
  struct span span = span_of(20000, 150);
  uint64_t last = 0;
  for (;;) {
    if (!WAIT_FOR((turn & 1) == self || turn >= 1u << 30)) break;
    if (turn >= 1u << 30) break;
    const uint64_t now = tsc_in_order();
    if (now < hand_over || now < last) wrong = wrong + 1;
    hand_over = last = now;
    if (!span_goes_on(&span)) {
      turn = 1u << 30;
      break;
    }
    __atomic_store_n(&turn, turn + 1, __ATOMIC_SEQ_CST);
  }
  turn = 1u << 30;
}

static void test_tsc(void) {
  has_rdtscp = cpuid(0x80000001, 0).edx & (1u << 27);
  wrong = 0;
  run_everywhere(cpu_count, compare_tsc, 0);
  check_eq("tsc-is-monotonic-across-processors", worst_step_back, 0);
  check_eq("rdtscp-knows-its-processor", wrong, 0);
  wrong = 0;
  turn = 0;
  run_everywhere(2, pass_tsc, 0);
  check_eq("tsc-goes-on-when-passed", wrong, 0);
  const uint64_t before = tsc_in_order();
  start_cpu(1, kTrampolinePage);
  run_on(1, compare_tsc, 0);  // never comes out of the barrier alone: only its clock is of interest
  delay_us(100);
  start_cpu(1, kTrampolinePage);
  barrier.arrived = 0;
  hand_over = 0;
  turn = 1;
  run_on(1, pass_tsc, 0);
  WAIT_FOR(hand_over != 0);
  check("init-does-not-touch-the-tsc", hand_over > before && hand_over < tsc_in_order());
  turn = 1u << 30;
  wait_idle(1);
}

// ---- a timer on every processor ----
enum { kTimer = 0x70, kPeriodic = 1 << 17, kDeadline = 2 << 17, kMasked = 1 << 16 };
static uint32_t counts_per_ms;
static void measure_timer(void) {
  apic_write(kLapicDivide, 0xb);
  apic_write(kLapicLvtTimer, kMasked);
  for (unsigned i = 0; i < 4; ++i) {  // who is interrupted by the host measures too little
    apic_write(kLapicInitialCount, 0xffffffff);
    const uint64_t start = rdtsc();
    const uint32_t first = apic_read(kLapicCurrentCount);
    delay_us(8000);
    const uint32_t second = apic_read(kLapicCurrentCount);
    const uint32_t measured = (uint32_t)((first - second) * 1000ul * ticks_per_us / (rdtsc() - start));
    if (measured > counts_per_ms) counts_per_ms = measured;
  }
  apic_write(kLapicInitialCount, 0);
}

static volatile uint64_t fired_at[kMaxCpus];
static bool on_timer(struct frame* frame) {
  (void)frame;
  fired_at[this_cpu()->index] = rdtsc();
  apic_eoi();
  return true;
}

static volatile unsigned early, missing;
static void use_one_shot(void* unused) {
  (void)unused;
  struct cpu* self = this_cpu();
  apic_write(kLapicDivide, 0xb);
  apic_write(kLapicLvtTimer, kTimer);
  sti();
  barrier_wait(&barrier, cpu_count);
  struct span span = span_of(20, 150);
  while (span_goes_on(&span)) {
    const unsigned before = self->count[kTimer], us = 200 + 300 * self->index;
    const uint64_t start = rdtsc();
    apic_write(kLapicInitialCount, counts_per_ms * us / 1000);
    if (!WAIT_FOR(self->count[kTimer] != before)) missing = missing + 1;
    // One percent and 20 us: the frequency is measured.
    if (fired_at[self->index] - start < (us * 99ul / 100 - 20) * ticks_per_us) early = early + 1;
  }
  apic_write(kLapicLvtTimer, kMasked);
  if (self->index == 0) cli();
  barrier_wait(&barrier, cpu_count);
}

static void use_deadline(void* unused) {
  (void)unused;
  struct cpu* self = this_cpu();
  apic_write(kLapicLvtTimer, kTimer | kDeadline);
  __asm__ volatile("mfence" ::: "memory");
  sti();
  barrier_wait(&barrier, cpu_count);
  struct span span = span_of(20, 150);
  while (span_goes_on(&span)) {
    const unsigned before = self->count[kTimer];
    const uint64_t deadline = rdtsc() + (100 + 250ul * self->index) * ticks_per_us;
    wrmsr(0x6e0, deadline);
    // Halted: the timer is what wakes it.
    for (;;) {
      cli();
      if (self->count[kTimer] != before) break;
      sti_hlt();
    }
    sti();
    if (fired_at[self->index] < deadline) early = early + 1;
  }
  apic_write(kLapicLvtTimer, kMasked);
  if (self->index == 0) cli();
  barrier_wait(&barrier, cpu_count);
}

static volatile unsigned periods[kMaxCpus];
static void use_periodic(void* unused) {
  (void)unused;
  struct cpu* self = this_cpu();
  apic_write(kLapicDivide, 0xb);
  apic_write(kLapicLvtTimer, kTimer | kPeriodic);
  const unsigned before = self->count[kTimer];
  sti();
  barrier_wait(&barrier, cpu_count);
  const uint64_t start = rdtsc();
  apic_write(kLapicInitialCount, counts_per_ms * (self->index + 1) / 2);
  if (!WAIT_FOR(self->count[kTimer] - before >= 50)) missing = missing + 1;
  const unsigned got = self->count[kTimer] - before;
  // No more than time allows: a period is half a millisecond for each index.
  const uint64_t us = (rdtsc() - start) / ticks_per_us;
  if (got > us * 102 / 100 / (500 * (self->index + 1)) + 2) early = early + 1;
  apic_write(kLapicInitialCount, 0);
  apic_write(kLapicLvtTimer, kMasked);
  periods[self->index] = got;
  if (self->index == 0) cli();
  barrier_wait(&barrier, cpu_count);
}

static void test_timers(void) {
  measure_timer();
  on_vector(kTimer, on_timer);
  const struct {
    const char* name;
    void (*function)(void*);
  } modes[] = {{"one-shot", use_one_shot}, {"periodic", use_periodic}, {"deadline", use_deadline}};
  for (unsigned i = 0; i < ARRAY_SIZE(modes); ++i) {
    if (i == 2 && !(cpuid(1, 0).ecx & (1u << 24))) {
      skip("deadline", "no TSC deadline");
      continue;
    }
    early = missing = 0;
    run_everywhere(cpu_count, modes[i].function, 0);
    check_in(modes[i].name, "none-missing", missing, 0);
    check_in(modes[i].name, "none-early", early, 0);
  }
}

// ---- the UART's transmitter as a source that software controls ----
enum { kCom1 = 0x3f8, kIer = 1, kMcr = 4, kThre = 2, kOut2 = 8 };
static void uart_interrupt(bool on) {
  while (!(inb(kCom1 + 5) & 0x40)) {
  }
  outb(kCom1 + kMcr, kOut2 | 3);
  outb(kCom1 + kIer, on ? kThre : 0);
}
static bool on_uart(struct frame* frame) {
  (void)frame;
  outb(kCom1 + kIer, 0);
  apic_eoi();
  return true;
}
static bool on_pic(struct frame* frame) {
  (void)frame;
  outb(kCom1 + kIer, 0);
  pic_eoi(4);
  return true;
}
static unsigned before[kMaxCpus];
static void note(unsigned vector) {
  for (unsigned i = 0; i < cpu_count; ++i) before[i] = cpus[i].count[vector];
}
static unsigned who_got(unsigned vector, bool* once) {
  unsigned mask = 0;
  *once = true;
  for (unsigned i = 0; i < cpu_count; ++i) {
    const unsigned got = cpus[i].count[vector] - before[i];
    if (got) mask |= 1u << i;
    if (got > 1) *once = false;
  }
  return mask;
}
// Whether one interrupt of the UART comes exactly once to each of the mask.
static bool uart_comes_to(unsigned vector, unsigned mask) {
  bool once;
  note(vector);
  uart_interrupt(true);
  if (mask) WAIT_FOR(who_got(vector, &once) == mask);
  delay_us(500);
  const bool good = who_got(vector, &once) == mask && once;
  uart_interrupt(false);
  return good;
}

static void set_lint0(void* value) { apic_write(kLapicLvtLint0, (uint32_t)(word)value); }
static void set_lint0_of(unsigned index, uint32_t value) {
  if (index == 0) {
    set_lint0((void*)(word)value);
  } else {
    run_on(index, set_lint0, (void*)(word)value);
    wait_idle(index);
  }
}

static void test_pic(void) {
  on_vector(0x24, on_pic);
  set_lint0_of(0, 0x700);
  pic_init(0xef, 0xff);
  bool first = true;
  for (unsigned i = 0; i < 10; ++i) first = first && uart_comes_to(0x24, 1);
  check_in("pic", "to-the-first-processor", first, true);
  set_lint0_of(0, 0x10700);
  check_in("pic", "to-nobody", uart_comes_to(0x24, 0), true);
  pic_init(0xff, 0xff);
  pic_init(0xef, 0xff);
  set_lint0_of(0, 0x700);
  check_in("pic", "to-the-first-again", uart_comes_to(0x24, 1), true);
  set_lint0_of(0, 0x10700);
  pic_init(0xff, 0xff);
}

// ---- I/O APIC ----
static uint32_t ioapic_read(unsigned index) {
  *(volatile uint32_t*)platform.ioapic_base = index;
  return *(volatile uint32_t*)(platform.ioapic_base + 0x10);
}
static void route(unsigned gsi, uint32_t destination, uint32_t low) {
  const uint32_t parts[3][2] = {{0x10 + 2 * gsi, 1u << 16}, {0x11 + 2 * gsi, destination << 24}, {0x10 + 2 * gsi, low}};
  for (unsigned i = 0; i < 3; ++i) {
    *(volatile uint32_t*)platform.ioapic_base = parts[i][0];
    *(volatile uint32_t*)(platform.ioapic_base + 0x10) = parts[i][1];
  }
}
enum { kLogical = 1 << 11, kLowest = 1 << 8, kToNmi = 4 << 8, kLevelTriggered = 1 << 15 };

static void set_logical(void* value) {
  apic_write(kLapicDfr, (word)value >> 32 ? 0x0fffffff : 0xffffffff);
  apic_write(kLapicLdr, (uint32_t)(word)value << 24);
}
static void set_logical_of(unsigned index, bool cluster, uint32_t id) {
  void* value = (void*)((word)cluster << 32 | id);
  if (index == 0) {
    set_logical(value);
  } else {
    run_on(index, set_logical, value);
    wait_idle(index);
  }
}

static bool lowest_takes_one(uint32_t destination, unsigned mask) {
  for (unsigned round = 0; round < 10; ++round) {
    bool once;
    note(0x55);
    route(4, destination, 0x55 | kLogical | kLowest);
    uart_interrupt(true);
    WAIT_FOR(who_got(0x55, &once));
    delay_us(200);
    const unsigned got = who_got(0x55, &once);
    uart_interrupt(false);
    if (!once || !got || (got & (got - 1)) || (got & ~mask)) return false;
  }
  return true;
}

static volatile unsigned nmis;
static bool on_nmi(struct frame* frame) {
  (void)frame;
  ++nmis;
  return true;
}
static bool on_level(struct frame* frame) {  // still asserted at the first EOI: it comes again
  if (cpus[this_cpu()->index].count[frame->vector] - before[this_cpu()->index] >= 2) outb(kCom1 + kIer, 0);
  apic_eoi();
  return true;
}

static void test_ioapic(void) {
  const unsigned everybody = (1u << cpu_count) - 1;
  for (unsigned v = 0x52; v < 0x58; ++v) on_vector(v, on_uart);
  bool physical = true, level = true, flat = true, lowest = true, cluster = true;
  for (unsigned i = 0; i < cpu_count; ++i) {
    route(4, cpus[i].apic_id, 0x52);
    physical = physical && uart_comes_to(0x52, 1u << i);
  }
  check_in("ioapic", "physical", physical, true);
  route(4, 0xff, 0x53);
  check_in("ioapic", "physical-broadcast", uart_comes_to(0x53, everybody), true);
  for (unsigned i = 0; i < cpu_count; ++i) set_logical_of(i, false, 1u << i);
  for (unsigned mask = 1; mask <= everybody; ++mask) {
    route(4, mask, 0x54 | kLogical);
    flat = flat && uart_comes_to(0x54, mask);
    lowest = lowest && lowest_takes_one(mask, mask);
  }
  check_in("ioapic", "logical-flat", flat, true);
  check_in("ioapic", "lowest-priority-takes-one", lowest, true);
  route(4, 0x77, 0x52);
  check_in("ioapic", "nobody-there", uart_comes_to(0x52, 0), true);
  for (unsigned i = 0; i < cpu_count; ++i) set_logical_of(i, true, 1u << 4 | 1u << i);
  for (unsigned mask = 1; mask <= everybody && mask < 16; ++mask) {
    route(4, 1u << 4 | mask, 0x56 | kLogical);
    cluster = cluster && uart_comes_to(0x56, mask);
  }
  check_in("ioapic", "logical-cluster", cluster, true);
  for (unsigned i = 0; i < cpu_count; ++i) set_logical_of(i, false, 1u << i);
  // Level: the EOI of the processor that had it opens the line again.
  on_vector(0x57, on_level);
  for (unsigned i = 0; i < cpu_count; ++i) {
    route(4, cpus[i].apic_id, 0x57 | kLevelTriggered);
    note(0x57);
    uart_interrupt(true);
    level = level && WAIT_FOR(cpus[i].count[0x57] - before[i] == 2);
    delay_us(300);
    level = level && cpus[i].count[0x57] - before[i] == 2 && !(ioapic_read(0x18) & (1u << 14));
    uart_interrupt(false);
  }
  check_in("ioapic", "level-to-each", level, true);
  on_vector(kNmi, on_nmi);
  nmis = 0;
  route(4, cpus[cpu_count - 1].apic_id, kToNmi);
  uart_interrupt(true);
  check_in("ioapic", "nmi", WAIT_FOR(nmis == 1) && cpus[cpu_count - 1].count[kNmi] == 1, true);
  outb(kCom1 + kIer, 0);
  route(4, 0, 1u << 16);
}

// A line whose destination wanders while it fires: each edge comes once, to one of them.
static bool on_tick(struct frame* frame) {
  (void)frame;
  apic_eoi();
  return true;
}
static void test_wandering(void) {
  enum { kPitCommand = 0x43, kPit0 = 0x40, kPitVector = 0x59 };
  on_vector(kPitVector, on_tick);
  note(kPitVector);
  outb(kPitCommand, 0x34);  // 1000 Hz
  outb(kPit0, 0xa9);
  outb(kPit0, 0x04);
  const uint64_t start = rdtsc();
  uint32_t state = 5;
  unsigned total = 0;
  while (total < 100 && rdtsc() - start < 5000000 * ticks_per_us) {
    const unsigned target = random_step(&state) % cpu_count;
    route(2, cpus[target].apic_id, kPitVector);
    delay_us(random_step(&state) % 2000);
    total = 0;
    for (unsigned i = 0; i < cpu_count; ++i) total += cpus[i].count[kPitVector] - before[i];
  }
  const uint64_t us = (rdtsc() - start) / ticks_per_us;
  route(2, 0, 1u << 16);
  check("wandering-line-comes", total >= 100);
  // Masking and unmasking does not make edges: no more than there were periods.
  check("wandering-line-comes-once", total <= us / 990 + 3);
  outb(kPitCommand, 0x30);
  outb(kPit0, 0);
  outb(kPit0, 0);
}

void guest_main(void) {
  smp_start();
  if (cpu_count < 2) {
    check("several-processors", false);
    finish();
  }
  test_tsc();
  test_timers();
  sti();
  test_pic();
  if (platform.ioapic_base) {
    test_ioapic();
    test_wandering();
  } else {
    check("ioapic-in-madt", false);
  }
  finish();
}
