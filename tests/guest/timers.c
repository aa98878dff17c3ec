// SPDX-License-Identifier: Apache-2.0
// Time: TSC, PIT, LAPIC timer in all modes, TSC deadline, RTC, and HLT waking up for them. Bounds are wide: the host may
// be busy; a timer that is early, lost or never comes is what fails.
#include "guest.h"

void guest_main(void);

enum { kTimerVector = 0x40, kMaskBit = 1 << 16, kPeriodic = 1 << 17, kDeadline = 2 << 17 };
enum { kPitCommand = 0x43, kPit0 = 0x40, kPit2 = 0x42, kPort61 = 0x61 };
enum { kMsrTscDeadline = 0x6e0, kMsrTscAdjust = 0x3b, kMsrTsc = 0x10 };
#define PIT_HZ 1193182ul

static uint64_t tsc_hz;

static bool on_lapic(struct frame* frame) {
  (void)frame;
  lapic_write(kLapicEoi, 0);
  return true;
}
static bool on_irq0(struct frame* frame) {
  (void)frame;
  pic_eoi(0);
  return true;
}
static bool on_irq8(struct frame* frame) {
  (void)frame;
  outb(0x70, 0x0c);
  inb(0x71);
  pic_eoi(8);
  return true;
}

static uint64_t microseconds(uint64_t ticks) { return ticks * 1000 / (tsc_hz / 1000); }

// Halts until the vector has come `count` times more, for at most five seconds of TSC time (a timer that never comes
// would halt for ever: the caller's own periodic timer or the runner's timeout ends that).
static bool wait_for(unsigned vector, unsigned count) {
  const unsigned want = interrupt_count[vector] + count;
  const uint64_t end = rdtsc() + 5 * (tsc_hz ? tsc_hz : 4000000000ul);
  while (interrupt_count[vector] < want && rdtsc() < end) {
    cli();
    if (interrupt_count[vector] < want) sti_hlt();
  }
  cli();
  return interrupt_count[vector] >= want;
}

// Nothing may come for `us` microseconds, with interrupts on.
static bool quiet_for(unsigned vector, uint64_t us) {
  const unsigned before = interrupt_count[vector];
  const uint64_t end = rdtsc() + us * (tsc_hz / 1000000);
  sti();
  while (rdtsc() < end) __asm__ volatile("pause");
  cli();
  return interrupt_count[vector] == before;
}

// ---- PIT channel 2 as a stopwatch ----
static void pit2_start(uint16_t count) {
  outb(kPort61, (uint8_t)((inb(kPort61) & ~3) | 1));  // gate on, speaker off
  outb(kPitCommand, 0xb0);                            // channel 2, both bytes, mode 0
  outb(kPit2, (uint8_t)count);
  outb(kPit2, (uint8_t)(count >> 8));
}
static bool pit2_done(void) { return inb(kPort61) & 0x20; }

static void test_tsc(void) {
  uint64_t last = rdtsc();
  bool monotonic = true;
  for (unsigned i = 0; i < 100000; ++i) {
    const uint64_t now = rdtsc();
    monotonic = monotonic && now >= last;
    last = now;
  }
  check("tsc-monotonic", monotonic);
  // The best of many, against interruptions by the host.
  uint64_t best = ~0ul;
  for (unsigned i = 0; i < 60; ++i) {
    const uint16_t count = 1193;  // 1 ms
    const uint64_t start = rdtsc();
    pit2_start(count);
    while (!pit2_done()) {
    }
    const uint64_t hz = (rdtsc() - start) * PIT_HZ / count;
    if (hz < best) best = hz;
  }
  tsc_hz = best;
  const struct cpuid leaf = cpuid(0x40000000, 0);
  if (leaf.ebx == 0x4b4d564b && leaf.eax >= 0x40000010) {
    const uint64_t khz = cpuid(0x40000010, 0).eax;
    const uint64_t measured = tsc_hz / 1000;
    check("tsc-frequency-as-announced", measured > khz * 99 / 100 && measured < khz * 110 / 100);
    tsc_hz = khz * 1000;
  } else {
    skip("tsc-frequency-as-announced", "no leaf 0x40000010");
  }
  if (cpuid(7, 0).ebx & 2) {
    const uint64_t before = rdtsc();
    wrmsr(kMsrTscAdjust, rdmsr(kMsrTscAdjust) + (1ul << 40));
    const uint64_t after = rdtsc();
    check("tsc-adjust-adds", after - before >= 1ul << 40 && after - before < (1ul << 40) + tsc_hz);
    wrmsr(kMsrTscAdjust, 0);
    wrmsr(kMsrTsc, 1000);
    check("tsc-write", rdtsc() < tsc_hz);
    check("tsc-write-changes-adjust", (int64_t)rdmsr(kMsrTscAdjust) < 0);
    wrmsr(kMsrTscAdjust, 0);
    check_eq("tsc-adjust-reads-back", rdmsr(kMsrTscAdjust), 0);
  } else {
    skip("tsc-adjust", "not there");
  }
}

static void test_pit(void) {
  pit2_start(0xffff);
  outb(kPitCommand, 0x80);  // latch
  const uint16_t first = (uint16_t)(inb(kPit2) | inb(kPit2) << 8);
  const uint64_t end = rdtsc() + tsc_hz / 1000;
  while (rdtsc() < end) {
  }
  outb(kPitCommand, 0x80);
  const uint16_t second = (uint16_t)(inb(kPit2) | inb(kPit2) << 8);
  check("pit-counts-down", second < first && first - second >= 1100);
  outb(kPitCommand, 0xe8);  // read back: status and count of channel 2... status only
  check_eq("pit-status-mode", inb(kPit2) & 0x3f, 0x30);

  set_handler(0x20, on_irq0);
  outb(kPitCommand, 0x34);  // channel 0, mode 2, 1000 Hz
  outb(kPit0, 0xa9);
  outb(kPit0, 0x04);
  pic_init(0xfe, 0xff);
  wait_for(0x20, 1);
  const uint64_t start = rdtsc();
  check("pit-periodic-comes", wait_for(0x20, 20));
  const uint64_t us = microseconds(rdtsc() - start);
  check("pit-periodic-not-early", us >= 17000);  // 20 periods of 1 ms, less what a late first tick takes away
  check("pit-periodic-not-late", us < 1000000);
  outb(kPitCommand, 0x30);  // mode 0: once, after 5 ms; the command alone stops the counter
  quiet_for(0x20, 500);     // a last tick may be on its way
  outb(kPit0, 0x4e);
  outb(kPit0, 0x17);
  const unsigned before = interrupt_count[0x20];
  check("pit-one-shot-comes", wait_for(0x20, 1));
  check("pit-one-shot-once", quiet_for(0x20, 10000) && interrupt_count[0x20] <= before + 2);
  pic_init(0xff, 0xff);
}

static void test_lapic_timer(void) {
  set_handler(kTimerVector, on_lapic);
  lapic_write(kLapicSvr, 0x1ff);
  lapic_write(kLapicDivide, 0xb);  // by 1
  lapic_write(kLapicLvtTimer, kTimerVector);
  const uint64_t start = rdtsc();
  lapic_write(kLapicInitialCount, 5000000);
  const uint32_t first = lapic_read(kLapicCurrentCount);
  check("lapic-count-starts", first <= 5000000 && first > 0);
  check("lapic-one-shot-comes", wait_for(kTimerVector, 1));
  const uint64_t us = microseconds(rdtsc() - start);
  // 1 GHz: see cpu/lapic.cpp; QEMU has the same.
  check("lapic-one-shot-not-early", us >= 4950);
  check("lapic-one-shot-not-late", us < 1000000);
  check_eq("lapic-count-is-zero", lapic_read(kLapicCurrentCount), 0);
  check("lapic-one-shot-once", quiet_for(kTimerVector, 10000));
  lapic_write(kLapicDivide, 0x3);  // by 16
  const uint64_t divided = rdtsc();
  lapic_write(kLapicInitialCount, 500000);
  check("lapic-divided-comes", wait_for(kTimerVector, 1));
  check("lapic-divided-not-early", microseconds(rdtsc() - divided) >= 7900);
  lapic_write(kLapicDivide, 0xb);

  lapic_write(kLapicLvtTimer, kTimerVector | kPeriodic);
  const uint64_t periodic = rdtsc();
  lapic_write(kLapicInitialCount, 2000000);
  check("lapic-periodic-comes", wait_for(kTimerVector, 10));
  check("lapic-periodic-not-early", microseconds(rdtsc() - periodic) >= 18000);
  lapic_write(kLapicLvtTimer, kTimerVector | kPeriodic | kMaskBit);
  quiet_for(kTimerVector, 500);  // a tick from before the mask may wait: interrupts were off
  check("lapic-masked", quiet_for(kTimerVector, 8000));
  lapic_write(kLapicInitialCount, 0);
  lapic_write(kLapicLvtTimer, kTimerVector);
  check("lapic-stopped", quiet_for(kTimerVector, 8000));
}

static void write_deadline(uint64_t value) { wrmsr(kMsrTscDeadline, value); }

static void test_deadline(void) {
  if (!(cpuid(1, 0).ecx & (1u << 24))) {
    skip("tsc-deadline", "not there");
    return;
  }
  lapic_write(kLapicLvtTimer, kTimerVector | kDeadline);
  const uint64_t start = rdtsc();
  write_deadline(start + tsc_hz / 200);
  check_eq("deadline-reads-back", rdmsr(kMsrTscDeadline), start + tsc_hz / 200);
  check("deadline-comes", wait_for(kTimerVector, 1));
  check("deadline-not-early", rdtsc() >= start + tsc_hz / 200);
  check("deadline-not-late", microseconds(rdtsc() - start) < 1000000);
  check_eq("deadline-disarmed", rdmsr(kMsrTscDeadline), 0);
  const unsigned before = interrupt_count[kTimerVector];
  write_deadline(rdtsc() - 1);
  sti();
  const uint64_t end = rdtsc() + tsc_hz / 10;
  while (interrupt_count[kTimerVector] == before && rdtsc() < end) __asm__ volatile("pause");
  cli();
  check("deadline-in-the-past-comes-at-once", interrupt_count[kTimerVector] == before + 1);
  write_deadline(rdtsc() + tsc_hz / 200);
  write_deadline(0);
  check("deadline-zero-disarms", quiet_for(kTimerVector, 10000));
  lapic_write(kLapicInitialCount, 1000);
  check("deadline-mode-ignores-initial-count", quiet_for(kTimerVector, 2000));
  // Many short deadlines with HLT: none is lost.
  bool passed = true;
  for (unsigned i = 0; i < 200 && passed; ++i) {
    write_deadline(rdtsc() + (i % 20) * (tsc_hz / 1000000));
    passed = wait_for(kTimerVector, 1);
  }
  check("deadline-none-lost", passed);
  // An adjusted TSC moves the deadline with it.
  if (cpuid(7, 0).ebx & 2) {
    write_deadline(rdtsc() + 20 * tsc_hz);
    wrmsr(kMsrTscAdjust, 30 * tsc_hz);
    check("deadline-follows-tsc-adjust", wait_for(kTimerVector, 1));
    wrmsr(kMsrTscAdjust, 0);
    write_deadline(0);
  }
  lapic_write(kLapicLvtTimer, kMaskBit);
  write_deadline(rdtsc() + 1000);
  check_eq("deadline-ignored-in-other-modes", rdmsr(kMsrTscDeadline), 0);
}

// ---- interrupt shadows ----
static void self_ipi(unsigned vector) { lapic_write(kLapicIcrLow, 0x40000u | vector); }
static word interrupted_ip;
static bool note_ip(struct frame* frame) {
  interrupted_ip = frame->ip;
  lapic_write(kLapicEoi, 0);
  return true;
}
static void test_shadows(void) {
  set_handler(0x41, note_ip);
  word label;
  const unsigned before = interrupt_count[0x41];
  self_ipi(0x41);
  // STI holds interrupts off for one instruction. [SDM-2B STI]
  __asm__ volatile("sti; cli" ::: "memory");
  check_eq("sti-cli-lets-nothing-in", interrupt_count[0x41], before);
  __asm__ volatile("lea 1f(%%rip), %0; sti; nop; 1: nop; cli" : "=r"(label)::"memory");
  check("sti-nop-lets-it-in", interrupt_count[0x41] == before + 1 && interrupted_ip == label);
  self_ipi(0x41);
  // MOV SS right after STI: only the first of the two is guaranteed to hold interrupts off. [SDM-2B MOV]
  __asm__ volatile("mov %%ss, %%ecx; lea 1f(%%rip), %0; sti; mov %%ecx, %%ss; 1: nop; nop; cli" : "=r"(label)::"rcx", "memory");
  check("sti-mov-ss", interrupt_count[0x41] == before + 2 && (interrupted_ip == label || interrupted_ip == label + 1));
  // POPF and IRET have no shadow.
  self_ipi(0x41);
  __asm__ volatile("lea 1f(%%rip), %0; pushf; orl $0x200, (%%rsp); popf; 1: nop; cli" : "=r"(label)::"memory", "cc");
  check("popf-no-shadow", interrupt_count[0x41] == before + 3 && interrupted_ip == label);
  // STI; HLT with an interrupt already pending: it is taken and HLT is left.
  self_ipi(0x41);
  __asm__ volatile("lea 1f(%%rip), %0; sti; hlt; 1: cli" : "=r"(label)::"memory");
  check("sti-hlt-wakes", interrupt_count[0x41] == before + 4 && interrupted_ip == label);
  // An interrupt inside a REP instruction: RIP stays at it, and it goes on afterwards.
  static uint8_t space[1 << 20];
  const size_t size = is_tcg() ? 1 << 16 : sizeof space;  // TCG takes a microsecond per byte
  lapic_write(kLapicLvtTimer, 0x41);
  bool inside = false;
  for (unsigned i = 0; i < 20 && !inside; ++i) {
    lapic_write(kLapicInitialCount, 5000 + 1000 * i);
    word to = (word)space, count = size, at;
    __asm__ volatile("lea 1f(%%rip), %2; xor %%eax, %%eax; cld; sti; 1: rep stosb; cli" : "+D"(to), "+c"(count), "=&r"(at)::"rax", "memory");
    if (count != 0 || to != (word)space + size) break;
    inside = interrupted_ip == at && interrupt_count[0x41] > before + 4;
  }
  lapic_write(kLapicInitialCount, 0);
  if (inside)
    check("interrupt-inside-rep", true);
  else
    skip("interrupt-inside-rep", "not hit: this engine takes it between instructions");
}

static uint8_t cmos(uint8_t index) {
  outb(0x70, index);
  return inb(0x71);
}
static void test_rtc(void) {
  const uint64_t end = rdtsc() + tsc_hz;
  while ((cmos(0x0a) & 0x80) && rdtsc() < end) {
  }
  const uint8_t seconds = cmos(0), minutes = cmos(2), hours = cmos(4), day = cmos(7), month = cmos(8), b = cmos(0x0b);
  const bool bcd = !(b & 4);
#define DECIMAL(x) (bcd ? ((x) >> 4) * 10 + ((x) & 15) : (x))
  check("rtc-sane-time", DECIMAL(seconds) < 60 && DECIMAL(minutes) < 60 && DECIMAL(hours & 0x7f) < 24 && DECIMAL(day) >= 1 &&
                             DECIMAL(day) <= 31 && DECIMAL(month) >= 1 && DECIMAL(month) <= 12);
  check("rtc-valid", cmos(0x0d) & 0x80);
  outb(0x70, 0x50);
  outb(0x71, 0x5a);
  check_eq("cmos-ram", cmos(0x50), 0x5a);
  set_handler(0x28, on_irq8);
  pic_init(0xfb, 0xfe);
  outb(0x70, 0x0a);
  outb(0x71, 0x26);  // 1024 Hz
  cmos(0x0c);
  outb(0x70, 0x0b);
  outb(0x71, (uint8_t)(b | 0x40));
  const uint64_t start = rdtsc();
  check("rtc-periodic-comes", wait_for(0x28, 20));
  check("rtc-periodic-not-early", microseconds(rdtsc() - start) >= 17000);
  outb(0x70, 0x0b);
  outb(0x71, b);
  cmos(0x0c);
  pic_init(0xff, 0xff);
}

void guest_main(void) {
  test_tsc();
  lapic_write(kLapicSvr, 0x1ff);
  lapic_write(kLapicLvtLint0, 0x700);
  test_pit();
  test_lapic_timer();
  test_deadline();
  test_shadows();
  test_rtc();
  finish();
}
