// SPDX-License-Identifier: Apache-2.0
// What the guests with several processors share: start-up by INIT and SIPI, per-processor descriptor tables and stacks,
// jobs, barriers, locks, the local APIC in either mode. 64-bit guests only.
//
// smp_start() finds the processors in ACPI's MADT and starts them all; then run_on() and run_everywhere() give them
// work. Processor 0 is the one that booted: it alone calls check(). An idle processor halts, with interrupts on. Work
// is bounded by time, not only by counts (see struct span): the host may have fewer cores than the guest has
// processors.
#pragma once

#include "guest.h"

enum { kMaxCpus = 8, kStackBytes = 16384, kNmiStackBytes = 4096 };
enum { kNmi = 2, kWakeVector = 0xf1, kSpuriousVector = 0xff };

struct gate64 {
  uint64_t low, high;
};

// What the trampoline found in the registers, at its own page + kStartStateOffset; see smp_start.S.
struct start_state {
  uint32_t eax, ebx, ecx, edx, esi, edi, ebp, esp, eflags;
  uint32_t cr0, cr2, cr3, cr4;
  uint32_t dr[8];
  uint32_t efer;
  uint16_t cs, ds, es, fs, gs, ss;
  uint16_t gdt_limit;
  uint32_t gdt_base;
  uint16_t idt_limit;
  uint32_t idt_base;
} __attribute__((packed));

// What is read before ap_main changes it, in long mode.
struct early_state {
  uint64_t apic_base, fs_base, gs_base, kernel_gs_base, star, lstar, pat, tsc_aux, sysenter_esp;
  uint32_t svr, tpr, ldr, dfr, lvt_timer, lvt_lint0, lvt_error, esr;
  uint32_t isr[8], irr[8];
  uint16_t tr, ldtr;
};

struct cpu {
  struct cpu* self;          // %gs:0
  word recover_sp;           // %gs:8, see cpu_trap
  unsigned index;            // 0: the processor that booted
  uint32_t apic_id;          // as the MADT says
  volatile unsigned starts;  // how often it came up
  void (*volatile job)(void*);
  void* volatile argument;
  volatile unsigned count[256];  // interrupts and exceptions by vector
  volatile struct trap fault;    // the last exception that ended a cpu_trap
  struct early_state early;
  uint64_t gdt[10];
  uint8_t tss[104];
  struct gate64 idt[256] __attribute__((aligned(16)));
  uint8_t nmi_stack[kNmiStackBytes] __attribute__((aligned(16)));
  uint8_t stack[kStackBytes] __attribute__((aligned(16)));
};
extern struct cpu cpus[kMaxCpus];
extern unsigned cpu_count;

static inline struct cpu* this_cpu(void) {
  struct cpu* cpu;
  __asm__ volatile("mov %%gs:0, %0" : "=r"(cpu));
  return cpu;
}

// ---- the command line: words "name=value" and flags ----
uint64_t option(const char* name, uint64_t otherwise);

// ---- time ----
extern uint64_t ticks_per_us;
static inline void pause(void) { __asm__ volatile("pause" ::: "memory"); }
void delay_us(uint64_t us);
// Work of up to `rounds` rounds that also ends after its time, in which it does at least one.
struct span {
  uint64_t end, rounds, done;
};
// `rounds` are of the short form; "depth=N" on the command line multiplies them and the time.
struct span span_of(uint64_t rounds, unsigned ms);
bool span_goes_on(struct span* span);
// True once the condition holds, false if it does not within ten seconds.
#define PATIENCE_US 10000000ul
#define WAIT_FOR(condition)                                        \
  ({                                                               \
    const uint64_t give_up = rdtsc() + PATIENCE_US * ticks_per_us; \
    bool holds;                                                    \
    while (!(holds = (condition)) && rdtsc() < give_up) pause();   \
    holds;                                                         \
  })
// A small generator of random numbers; one state per user.
static inline uint32_t random_step(uint32_t* state) {
  *state ^= *state << 13;
  *state ^= *state >> 17;
  return *state ^= *state << 5;
}

// ---- start-up ----
enum { kTrampolinePage = 0x10 };  // at 64 KiB: nothing of a BIOS or a boot loader that is still needed lies there
void smp_prepare(void);           // tables, APIC and per-processor state of the processor that booted
void smp_start(void);             // the same, then starts all others; ends the guest if they do not come
void install_trampoline(unsigned page);
const volatile struct start_state* start_state_of(unsigned page);
bool start_cpu(unsigned index, unsigned page);  // INIT, SIPI; true: it runs
void send_init(uint32_t apic_id);
void send_sipi(uint32_t apic_id, unsigned page);

// ---- work ----
void run_on(unsigned index, void (*function)(void*), void* argument);  // of an idle processor; returns at once
void wait_idle(unsigned index);                                        // ends the guest if it never becomes idle
// Runs it on processors 0 .. count-1, with the given argument each, and waits for all.
void run_everywhere(unsigned count, void (*function)(void*), void* argument);
struct barrier {
  volatile unsigned arrived, generation;
};
void barrier_wait(struct barrier* barrier, unsigned count);
typedef volatile unsigned spinlock;
void lock(spinlock* lock);
void unlock(spinlock* lock);
_Noreturn void give_up(const char* what);  // prints a failure and ends the guest; any processor

// ---- interrupts and exceptions, per processor ----
void on_vector(unsigned vector, handler function);  // for all processors; exceptions too
bool count_and_eoi(struct frame* frame);            // a handler: the count is made before it is called
// As trap_call and expect_trap; the details are in this_cpu()->fault.
int cpu_trap(void (*function)(void*), void* argument);

// ---- the local APIC of this processor, by xAPIC register offset ----
bool in_x2apic_mode(void);
uint32_t apic_read(unsigned reg);
void apic_write(unsigned reg, uint32_t value);
uint32_t apic_id(void);
void apic_eoi(void);
void apic_enable(void);                             // software enable, everything accepted
void send_ipi(uint32_t destination, uint32_t low);  // waits until the last one is gone
enum {
  kIcrFixed = 0,
  kIcrLowest = 1 << 8,
  kIcrNmi = 4 << 8,
  kIcrInit = 5 << 8,
  kIcrStartup = 6 << 8,
  kIcrLogical = 1 << 11,
  kIcrPending = 1 << 12,
  kIcrAssert = 1 << 14,
  kIcrLevel = 1 << 15,
  kIcrSelf = 1 << 18,
  kIcrAll = 2 << 18,
  kIcrOthers = 3 << 18,
};
enum { kLapicDfr = 0xe0, kLapicVersion = 0x30, kMsrApicBase = 0x1b, kMsrX2Apic = 0x800 };
#define APIC_BASE_BSP (1u << 8)
#define APIC_BASE_X2 (1u << 10)
#define APIC_BASE_ENABLE (1u << 11)

// ---- ACPI ----
struct acpi_cpu {
  uint32_t apic_id;
  bool is_enabled;
};
struct platform {
  struct acpi_cpu cpus[kMaxCpus];
  unsigned cpus_listed;
  uint64_t ioapic_base, hpet_base;
  uint32_t pm_timer_port;
};
extern struct platform platform;
bool acpi_read(void);  // false: no tables

void check_in(const char* group, const char* name, uint64_t got, uint64_t want);  // check_eq of "group:name"
// A line for the runner to show: "info NAME: VALUE WHAT".
void info(const char* name, uint64_t value, const char* what);
