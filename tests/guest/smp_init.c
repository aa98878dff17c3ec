// SPDX-License-Identifier: Apache-2.0
// Starting and stopping processors: INIT in every situation, SIPI vectors, SIPIs that must be ignored, the state that
// INIT leaves. [SDM-3A 9.1, 9.4, 11.4.7]
#include "smp.h"

void guest_main(void);

enum { kInitVector = 0x61 };

// ---- a processor with as much unusual state as possible, in some situation ----
enum situation { kSpinning, kHalted, kHaltedOpen, kInInterrupt, kInNmi, kSituations };
static const char* const situation_names[] = {"init-while-running", "init-in-hlt", "init-in-hlt-with-interrupts-on",
                                              "init-in-interrupt", "init-in-nmi"};
static volatile enum situation situation;
static volatile bool is_dirty;
static volatile unsigned heartbeat;
static const uint64_t kPattern[2] = {0x0123456789abcdef, 0xfedcba9876543210};
static uint64_t found[2];
static uint32_t found_mxcsr;

static void make_dirty(void) {
  write_cr2(0x123456);
  write_dr0(0x1000);
  __asm__ volatile("mov %0, %%dr1; mov %0, %%dr2; mov %0, %%dr3" ::"r"(0x2000ul));
  write_dr6(0xffff0fff);
  write_dr7(0x700);
  wrmsr(0xc0000081, 0x001b000800000000);
  wrmsr(0xc0000082, 0x345678);
  wrmsr(0xc0000100, 0x111000);
  wrmsr(0xc0000102, 0x222000);
  wrmsr(0xc0000103, 0x77);
  wrmsr(0x175, 0x333000);
  wrmsr(0x277, 0x0007040600010406);
  const uint32_t mxcsr = 0x1f3f;
  __asm__ volatile("movdqu %0, %%xmm0; ldmxcsr %1" ::"m"(kPattern), "m"(mxcsr));
  apic_write(kLapicLdr, 0x08000000);
  apic_write(kLapicDfr, 0x0fffffff);
  apic_write(kLapicLvtTimer, 0x10099);
  apic_write(kLapicLvtLint0, 0x10700);
  apic_write(kLapicTpr, 0x20);
  is_dirty = true;
}

// Never ends; nothing is done to the stack afterwards.
static _Noreturn void stay(void) {
  if (situation == kHalted || situation == kHaltedOpen) {
    // What is pending now would wake it: one vector above the priority, taken once.
    for (;;) {
      if (situation == kHalted)
        __asm__ volatile("cli; hlt");
      else
        __asm__ volatile("sti; hlt");
      ++heartbeat;
    }
  }
  __asm__ volatile(
      "std\n"
      "mov $-1, %%rax; mov %%rax, %%rbx; mov %%rax, %%rcx; mov %%rax, %%rdx; mov %%rax, %%rsi; mov %%rax, %%rdi\n"
      "mov %%rax, %%rbp; mov %%rax, %%r8; mov %%rax, %%r15\n"
      "1: incl heartbeat_alias(%%rip)\n"
      "jmp 1b\n"
      "heartbeat_alias = %c0\n" ::"i"(&heartbeat)
      : "memory");
  __builtin_unreachable();
}

static bool dirty_in_handler(struct frame* frame) {
  (void)frame;
  make_dirty();
  send_ipi(0, kIcrSelf | 0x91);  // stays in IRR
  stay();
}
static void dirty_job(void* unused) {
  (void)unused;
  cli();
  const uint32_t self = apic_id();
  if (situation == kInInterrupt) {
    send_ipi(self, kInitVector);
    sti();
    for (;;) pause();
  }
  if (situation == kInNmi) {
    send_ipi(self, kIcrNmi);
    for (;;) pause();
  }
  make_dirty();
  stay();
}

static void read_vector_state(void* unused) {
  (void)unused;
  __asm__ volatile("movdqu %%xmm0, %0; stmxcsr %1" : "=m"(found), "=m"(found_mxcsr));
}

static bool runs(volatile unsigned* counter) {
  const unsigned before = *counter;
  return WAIT_FOR(*counter != before);
}
static bool stands_still(volatile unsigned* counter) {
  const unsigned before = *counter;
  delay_us(3000);
  return *counter == before;
}

// [SDM-3A table 9-1]
static void check_registers(const char* group, unsigned page) {
  const volatile struct start_state* s = start_state_of(page);
  check_in(group, "cs", s->cs, page << 8);
  check_in(group, "data-segments", s->ds | s->es | s->fs | s->gs | s->ss, 0);
  check_in(group, "general-registers", s->eax | s->ebx | s->ecx | s->esi | s->edi | s->ebp | s->esp, 0);
  check_in(group, "edx-is-the-signature", s->edx, cpuid(1, 0).eax);
  check_in(group, "eflags", s->eflags, 2);
  // CD and NW stay as they were, which is 0 since the processor first started. TCG sets both.
  if (!tcg_lacks("cr0-keeps-cd-and-nw")) check_in(group, "cr0", s->cr0, 0x10);
  check_in(group, "cr2-cr3-cr4", s->cr2 | s->cr3 | s->cr4, 0);
  check_in(group, "dr0-to-dr3", s->dr[0] | s->dr[1] | s->dr[2] | s->dr[3], 0);
  check_in(group, "dr6", s->dr[6], 0xffff0ff0);
  check_in(group, "dr7", s->dr[7], 0x400);
  check_in(group, "efer", s->efer, 0);
  check_in(group, "gdtr", s->gdt_limit | (uint64_t)s->gdt_base << 16, 0xffff);
  check_in(group, "idtr", s->idt_limit | (uint64_t)s->idt_base << 16, 0xffff);
}

static void check_early(const char* group, const struct early_state* e, unsigned index) {
  check_in(group, "tr-ldtr", (uint64_t)e->tr << 16 | e->ldtr, 0);
  check_in(group, "fs-gs-base", e->fs_base | e->gs_base, 0);
  check_in(group, "msrs-stay",
              e->star == 0x001b000800000000 && e->lstar == 0x345678 && e->kernel_gs_base == 0x222000 &&
                  e->tsc_aux == 0x77 && e->sysenter_esp == 0x333000 && e->pat == 0x0007040600010406,
              true);
  check_in(group, "apic-base", e->apic_base, LAPIC_BASE | APIC_BASE_ENABLE);
  check_in(group, "apic-svr", e->svr, 0xff);
  check_in(group, "apic-tpr-ldr-esr", e->tpr | e->ldr | e->esr, 0);
  check_in(group, "apic-dfr", e->dfr, 0xffffffff);
  check_in(group, "apic-lvt", e->lvt_timer & e->lvt_lint0 & e->lvt_error, 0x10000);
  check_in(group, "apic-lvt-only-masked", e->lvt_timer | e->lvt_lint0 | e->lvt_error, 0x10000);
  uint32_t pending = 0;
  for (unsigned i = 0; i < 8; ++i) pending |= e->isr[i] | e->irr[i];
  check_in(group, "apic-isr-irr", pending, 0);
  (void)index;
}

static void test_states(void) {
  on_vector(kInitVector, dirty_in_handler);
  on_vector(kNmi, dirty_in_handler);
  for (unsigned i = 0; i < kSituations; ++i) {
    const char* group = situation_names[i];
    const unsigned index = 1 + i % (cpu_count - 1), page = 0x20 + i;
    install_trampoline(page);
    situation = (enum situation)i;
    is_dirty = false;
    run_on(index, dirty_job, 0);
    check_in(group, "gets-there", WAIT_FOR(is_dirty), true);
    delay_us(2000);
    const unsigned starts = cpus[index].starts;
    send_init(cpus[index].apic_id);
    delay_us(1000);
    check_in(group, "stops", WAIT_FOR(stands_still(&heartbeat)) && cpus[index].starts == starts, true);
    send_sipi(cpus[index].apic_id, page);
    check_in(group, "starts-again", WAIT_FOR(cpus[index].starts == starts + 1), true);
    check_registers(group, page);
    check_early(group, &cpus[index].early, index);
    run_on(index, read_vector_state, 0);
    wait_idle(index);
    check_in(group, "xmm-mxcsr-stay", found[0] == kPattern[0] && found[1] == kPattern[1] && found_mxcsr == 0x1f3f,
                true);
  }
}

// ---- SIPIs ----
static void test_sipi_vectors(void) {
  static const uint8_t pages[] = {0x11, 0x2f, 0x5a, 0x80, 0x9e};
  bool all_right = true;
  for (unsigned i = 0; i < ARRAY_SIZE(pages); ++i) {
    install_trampoline(pages[i]);
    all_right = all_right && start_cpu(1, pages[i]) && start_state_of(pages[i])->cs == pages[i] << 8;
  }
  check("sipi-vectors", all_right);
}

static void beat(void* unused) {
  (void)unused;
  for (;;) ++heartbeat;
}
static void do_nothing(void* unused) { (void)unused; }

static void test_ignored_messages(void) {
  install_trampoline(0x30);
  const unsigned starts = cpus[1].starts;
  run_on(1, beat, 0);
  send_sipi(cpus[1].apic_id, 0x30);
  delay_us(3000);
  check("sipi-to-a-running-processor-is-ignored", cpus[1].starts == starts && runs(&heartbeat));
  // INIT level de-assert is a message of older processors.
  send_ipi(cpus[1].apic_id, kIcrInit | kIcrLevel);
  delay_us(3000);
  check("init-de-assert-is-ignored", runs(&heartbeat) && cpus[1].starts == starts);
  // The SIPI that came too early must not be remembered.
  send_init(cpus[1].apic_id);
  delay_us(5000);
  check("early-sipi-is-not-remembered", cpus[1].starts == starts && start_state_of(0x30)->edx == 0);
  send_init(cpus[1].apic_id);
  delay_us(1000);
  check("init-twice", cpus[1].starts == starts);
  send_sipi(cpus[1].apic_id, kTrampolinePage);
  check("sipi-starts", WAIT_FOR(cpus[1].starts != starts));
  send_sipi(cpus[1].apic_id, 0x30);
  delay_us(3000);
  check("second-sipi-is-ignored", cpus[1].starts == starts + 1 && start_state_of(0x30)->edx == 0);
  // To a halted one, too.
  send_sipi(cpus[1].apic_id, 0x30);
  delay_us(3000);
  check("sipi-to-a-halted-processor-is-ignored", cpus[1].starts == starts + 1 && start_state_of(0x30)->edx == 0);
  run_on(1, do_nothing, 0);
  wait_idle(1);
  // A fixed interrupt finds an APIC that is disabled by software.
  send_init(cpus[1].apic_id);
  delay_us(1000);
  const unsigned count = cpus[1].count[kWakeVector];
  send_ipi(cpus[1].apic_id, kWakeVector);
  send_sipi(cpus[1].apic_id, kTrampolinePage);
  check("starts-after-interrupt", WAIT_FOR(cpus[1].starts == starts + 2));
  delay_us(2000);
  check_eq("interrupt-to-a-waiting-processor-is-lost", cpus[1].count[kWakeVector], count);
}

static void test_broadcast(void) {
  unsigned starts[kMaxCpus];
  for (unsigned i = 1; i < cpu_count; ++i) starts[i] = cpus[i].starts;
  send_ipi(0, kIcrInit | kIcrAssert | kIcrLevel | kIcrOthers);
  delay_us(1000);
  bool none = true;
  for (unsigned i = 1; i < cpu_count; ++i) none = none && cpus[i].starts == starts[i];
  send_ipi(0, kIcrStartup | kIcrAssert | kIcrOthers | kTrampolinePage);
  bool all = true;
  for (unsigned i = 1; i < cpu_count; ++i) all = all && WAIT_FOR(cpus[i].starts == starts[i] + 1);
  check("init-and-sipi-to-all-others", none && all);
}

static void restart_other(void* index) { cpus[1].count[255] = start_cpu((unsigned)(word)index, kTrampolinePage); }
static void test_by_another(void) {
  if (cpu_count < 3) {
    skip("started-by-an-application-processor", "needs three processors");
    return;
  }
  run_on(1, restart_other, (void*)2);
  wait_idle(1);
  check("started-by-an-application-processor", cpus[1].count[255]);
}

static void test_nmi_after_init_in_nmi(void) {
  situation = kInNmi;
  is_dirty = false;
  run_on(1, dirty_job, 0);
  WAIT_FOR(is_dirty);
  start_cpu(1, kTrampolinePage);
  on_vector(kNmi, count_and_eoi);
  const unsigned before = cpus[1].count[kNmi];
  send_ipi(cpus[1].apic_id, kIcrNmi);
  check("nmi-open-after-init-in-nmi", WAIT_FOR(cpus[1].count[kNmi] == before + 1));
}

// ---- INIT at any moment ----
static struct {
  uint64_t first, second;
} pair __attribute__((aligned(16)));
static uint8_t two_pages[2 * 4096] __attribute__((aligned(4096)));
static uint8_t filled[65536];
static volatile unsigned laps;

static void work(void* unused) {
  (void)unused;
  uint32_t state = (uint32_t)rdtsc() | 1;
  for (;; ++laps) {
    switch (random_step(&state) & 7) {
      case 0: {
        uint64_t a = pair.first, b = pair.second;
        __asm__ volatile("lock cmpxchg16b %0" : "+m"(pair), "+a"(a), "+d"(b) : "b"(a + 1), "c"(b + 1) : "cc", "memory");
        break;
      }
      case 1: __asm__ volatile("lock addq $1, %0" : "+m"(*(uint64_t*)(two_pages + 4092))::"cc"); break;
      case 2: {
        void* to = filled;
        word count = sizeof filled;
        __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(state) : "memory");
        break;
      }
      case 3: apic_read(kLapicPpr); break;
      case 4: write_cr3(read_cr3()); break;
      case 5: cpuid(0, 0); break;
      case 6: inb(0x3fd); break;
      default:
        for (unsigned i = 0; i < 50; ++i) __asm__ volatile("pushfq; popfq" ::: "memory");
    }
  }
}

static void test_init_at_any_moment(void) {
  struct span span = span_of(200, 1000);
  uint32_t state = 12345;
  bool starts = true, works = true;
  while (starts && works && span_goes_on(&span)) {
    for (unsigned i = 1; i < cpu_count; ++i) run_on(i, work, 0);
    const unsigned before = laps;
    works = WAIT_FOR(laps - before > 3);
    for (unsigned i = 1; i < cpu_count; ++i) {
      delay_us(random_step(&state) % 200);
      send_init(cpus[i].apic_id);
    }
    for (unsigned i = 1; i < cpu_count; ++i) {
      const unsigned count = cpus[i].starts;
      send_sipi(cpus[i].apic_id, kTrampolinePage);
      starts = starts && WAIT_FOR(cpus[i].starts == count + 1);
    }
  }
  check("init-at-any-moment-starts", starts);
  check("init-at-any-moment-work-goes-on", works);
  check_eq("init-at-any-moment-whole-instructions", pair.first, pair.second);
  info("init-at-any-moment", span.done, "rounds");
}

void guest_main(void) {
  smp_start();
  check("several-processors", cpu_count > 1);
  if (cpu_count < 2) finish();
  bool flags = rdmsr(kMsrApicBase) & APIC_BASE_BSP;
  for (unsigned i = 1; i < cpu_count; ++i) flags = flags && !(cpus[i].early.apic_base & APIC_BASE_BSP);
  check("one-bootstrap-processor", flags);
  test_sipi_vectors();
  test_states();
  test_nmi_after_init_in_nmi();
  test_ignored_messages();
  test_broadcast();
  test_by_another();
  test_init_at_any_moment();
  finish();
}
