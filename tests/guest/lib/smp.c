// SPDX-License-Identifier: Apache-2.0
// Starting processors, giving them work, barriers and locks. [SDM-3A 9.4]
#include "smp.h"

struct cpu cpus[kMaxCpus];
unsigned cpu_count;
uint64_t ticks_per_us = 2000;  // until it is measured
struct cpu* cpu_of_apic_id[256];
extern const word ap_stack_offset;
const word ap_stack_offset = offsetof(struct cpu, stack) + kStackBytes;

extern char smp_trampoline[], smp_trampoline_end[], smp_vector_entries[];
_Noreturn void ap_main(struct cpu* cpu);
void cpu_dispatch(struct frame* frame);
_Noreturn void cpu_unwind(word vector);

enum { kStartStateOffset = 0x400, kMsrFsBase = 0xc0000100, kMsrGsBase, kMsrKernelGsBase };

// ---- the command line ----
static char command_line[256];

static void copy_command_line(void) {
  enum { kFlags = 0, kCommandLine = 16, kHasCommandLine = 4 };
  if (multiboot_magic != 0x2badb002) return;
  const uint8_t* info = (const uint8_t*)(word)multiboot_info;
  if (!(*(const uint32_t*)(info + kFlags) & kHasCommandLine)) return;
  const char* text = (const char*)(word) * (const uint32_t*)(info + kCommandLine);
  for (unsigned i = 0; i + 1 < sizeof command_line && text[i]; ++i) command_line[i] = text[i];
}

uint64_t option(const char* name, uint64_t otherwise) {
  for (const char* at = command_line; *at;) {
    const char* wanted = name;
    while (*wanted && *at == *wanted) ++at, ++wanted;
    if (!*wanted && *at == '=') {
      uint64_t value = 0;
      while (*++at >= '0' && *at <= '9') value = value * 10 + (uint64_t)(*at - '0');
      return value;
    }
    while (*at && *at != ' ') ++at;
    while (*at == ' ') ++at;
  }
  return otherwise;
}

void info(const char* name, uint64_t value, const char* what) {
  print("info ");
  print(name);
  print(": ");
  print_decimal(value);
  print(" ");
  print(what);
  print("\n");
}

void check_in(const char* group, const char* name, uint64_t got, uint64_t want) {
  static char text[120];
  char* to = text;
  for (; *group; ++group) *to++ = *group;
  *to++ = ':';
  for (; *name; ++name) *to++ = *name;
  *to = 0;
  check_eq(text, got, want);
}

// ---- time ----
static void measure_ticks(void) {
  enum { kPitCommand = 0x43, kPit2 = 0x42, kPort61 = 0x61, kCount = 2386 };  // 2 ms
  // The shortest of many short ones: a busy host makes some of them longer, none shorter.
  uint64_t best = ~0ul;
  for (unsigned i = 0; i < 25; ++i) {
    outb(kPort61, (uint8_t)((inb(kPort61) & ~3) | 1));
    outb(kPitCommand, 0xb0);
    outb(kPit2, kCount & 0xff);
    const uint64_t start = rdtsc();
    outb(kPit2, kCount >> 8);
    while (!(inb(kPort61) & 0x20)) {
    }
    const uint64_t ticks = rdtsc() - start;
    if (ticks < best) best = ticks;
  }
  ticks_per_us = best / 2000;
}

void delay_us(uint64_t us) {
  const uint64_t end = rdtsc() + us * ticks_per_us;
  while (rdtsc() < end) pause();
}

struct span span_of(uint64_t rounds, unsigned ms) {
  const uint64_t depth = option("depth", 1);
  return (struct span){.end = rdtsc() + ms * depth * 1000 * ticks_per_us, .rounds = rounds * depth};
}

bool span_goes_on(struct span* span) {
  if (span->done && (span->done >= span->rounds || rdtsc() >= span->end)) return false;
  ++span->done;
  return true;
}

// ---- locks and barriers ----
void lock(spinlock* lock) {
  while (__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE))
    while (*lock) pause();
}
void unlock(spinlock* lock) { __atomic_store_n(lock, 0, __ATOMIC_RELEASE); }

static spinlock console_lock;

void give_up(const char* what) {
  cli();
  lock(&console_lock);  // for good: what others would say now does not matter
  print("FAIL ");
  print(what);
  print(" (on processor ");
  print_decimal(this_cpu()->index);
  print(")\n");
  for (unsigned i = 0; i < cpu_count; ++i) {
    print("  processor ");
    print_decimal(i);
    print(": starts ");
    print_decimal(cpus[i].starts);
    print(cpus[i].job ? ", busy\n" : ", idle\n");
  }
  debug_exit(18);
}

void barrier_wait(struct barrier* barrier, unsigned count) {
  const unsigned generation = barrier->generation;
  if (__atomic_add_fetch(&barrier->arrived, 1, __ATOMIC_SEQ_CST) == count) {
    barrier->arrived = 0;
    __atomic_store_n(&barrier->generation, generation + 1, __ATOMIC_SEQ_CST);
  } else if (!WAIT_FOR(barrier->generation != generation)) {
    give_up("barrier");
  }
}

// ---- interrupts and exceptions ----
static handler handlers[256];

void on_vector(unsigned vector, handler function) { __atomic_store_n(&handlers[vector], function, __ATOMIC_SEQ_CST); }

bool count_and_eoi(struct frame* frame) {
  (void)frame;
  apic_eoi();
  return true;
}
static bool spurious(struct frame* frame) {
  (void)frame;
  return true;
}

static _Noreturn void die(const struct cpu* cpu, const struct frame* frame) {
  lock(&console_lock);
  const struct {
    const char* name;
    word value;
  } parts[] = {{"unexpected vector ", frame->vector},
               {" error ", frame->error},
               {" ip ", frame->ip},
               {" flags ", frame->flags},
               {" cr2 ", read_cr2()},
               {" sp ", frame->sp},
               {" processor ", cpu->index}};
  for (unsigned i = 0; i < ARRAY_SIZE(parts); ++i) {
    print(parts[i].name);
    print_hex(parts[i].value);
  }
  print("\n");
  debug_exit(18);
}

void cpu_dispatch(struct frame* frame) {
  struct cpu* cpu = this_cpu();
  const unsigned vector = (unsigned)frame->vector;
  ++cpu->count[vector];
  const handler function = __atomic_load_n(&handlers[vector], __ATOMIC_SEQ_CST);
  if (function && function(frame)) return;
  if (!cpu->recover_sp) die(cpu, frame);
  volatile struct trap* fault = &cpu->fault;
  fault->vector = vector;
  fault->error = frame->error;
  fault->ip = frame->ip;
  fault->cs = frame->cs;
  fault->flags = frame->flags;
  fault->sp = frame->sp;
  fault->ss = frame->ss;
  fault->cr2 = read_cr2();
  ++fault->count;
  cpu_unwind(vector);
}

// ---- per-processor tables ----
static void set_gate(struct cpu* cpu, unsigned vector, unsigned ist) {
  enum { kEntryBytes = 16 };
  const word entry = (word)smp_vector_entries + vector * kEntryBytes;
  cpu->idt[vector].low =
      (entry & 0xffff) | (uint64_t)kKernelCs << 16 | (uint64_t)ist << 32 | 0x8eull << 40 | (entry >> 16 & 0xffff) << 48;
  cpu->idt[vector].high = entry >> 32;
}

static void make_tables(struct cpu* cpu) {
  for (unsigned i = 0; i < 256; ++i) set_gate(cpu, i, i == kNmi ? 1 : 0);
  memcpy(cpu->gdt, gdt, 8 * 8);
  const uint64_t base = (word)cpu->tss;
  cpu->gdt[kTss / 8] = (sizeof cpu->tss - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
  cpu->gdt[kTss / 8 + 1] = base >> 32;
  const word nmi_stack_top = (word)cpu->nmi_stack + kNmiStackBytes, stack_top = (word)cpu->stack + kStackBytes;
  memcpy(cpu->tss + 4, &stack_top, 8);
  memcpy(cpu->tss + 36, &nmi_stack_top, 8);
  const uint16_t no_io_map = sizeof cpu->tss;
  memcpy(cpu->tss + 102, &no_io_map, 2);
}

static void load_tables(struct cpu* cpu) {
  struct {
    uint16_t limit;
    word base;
  } __attribute__((packed)) gdt_pointer = {sizeof cpu->gdt - 1, (word)cpu->gdt},
                            idt_pointer = {sizeof cpu->idt - 1, (word)cpu->idt};
  __asm__ volatile("lgdt %0; lidt %1" ::"m"(gdt_pointer), "m"(idt_pointer));
  cpu->gdt[kTss / 8] &= ~(2ull << 40);  // not busy
  __asm__ volatile("ltr %w0" ::"r"(kTss));
  __asm__ volatile("mov %0, %%fs; mov %0, %%gs" ::"r"(0));
  wrmsr(kMsrGsBase, (word)cpu);
  write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
}

// ---- start-up ----
static void read_early_state(struct early_state* early) {
  early->apic_base = rdmsr(kMsrApicBase);
  early->fs_base = rdmsr(kMsrFsBase);
  early->gs_base = rdmsr(kMsrGsBase);
  early->kernel_gs_base = rdmsr(kMsrKernelGsBase);
  early->star = rdmsr(0xc0000081);
  early->lstar = rdmsr(0xc0000082);
  early->pat = rdmsr(0x277);
  early->tsc_aux = rdmsr(0xc0000103);
  early->sysenter_esp = rdmsr(0x175);
  const struct {
    uint32_t* to;
    unsigned reg;
  } registers[] = {{&early->svr, kLapicSvr},
                   {&early->tpr, kLapicTpr},
                   {&early->ldr, kLapicLdr},
                   {&early->lvt_timer, kLapicLvtTimer},
                   {&early->lvt_lint0, kLapicLvtLint0},
                   {&early->lvt_error, kLapicLvtError},
                   {&early->esr, kLapicEsr}};
  for (unsigned i = 0; i < ARRAY_SIZE(registers); ++i) *registers[i].to = apic_read(registers[i].reg);
  early->dfr = in_x2apic_mode() ? 0xffffffff : apic_read(kLapicDfr);
  for (unsigned i = 0; i < 8; ++i) {
    early->isr[i] = apic_read(kLapicIsr + 16 * i);
    early->irr[i] = apic_read(kLapicIrr + 16 * i);
  }
  __asm__ volatile("str %0; sldt %1" : "=m"(early->tr), "=m"(early->ldtr));
}

void ap_main(struct cpu* cpu) {
  read_early_state(&cpu->early);
  load_tables(cpu);
  cpu->recover_sp = 0;
  cpu->job = 0;
  apic_enable();
  __atomic_add_fetch(&cpu->starts, 1, __ATOMIC_SEQ_CST);
  for (;;) {
    cli();
    if (!cpu->job) {
      sti_hlt();
      continue;
    }
    sti();
    cpu->job(cpu->argument);
    __atomic_store_n(&cpu->job, 0, __ATOMIC_SEQ_CST);
  }
}

void install_trampoline(unsigned page) {
  uint8_t* at = (uint8_t*)((word)page << 12);
  memset(at, 0, 4096);
  memcpy(at, smp_trampoline, (word)(smp_trampoline_end - smp_trampoline));
}

const volatile struct start_state* start_state_of(unsigned page) {
  return (const volatile struct start_state*)(((word)page << 12) + kStartStateOffset);
}

void send_init(uint32_t id) { send_ipi(id, kIcrInit | kIcrAssert | kIcrLevel); }
void send_sipi(uint32_t id, unsigned page) { send_ipi(id, kIcrStartup | kIcrAssert | page); }

bool start_cpu(unsigned index, unsigned page) {
  struct cpu* cpu = &cpus[index];
  const unsigned before = cpu->starts;
  send_init(cpu->apic_id);
  delay_us(200);
  send_sipi(cpu->apic_id, page);
  return WAIT_FOR(cpu->starts != before);
}

void smp_prepare(void) {
  copy_command_line();
  measure_ticks();
  const bool has_tables = acpi_read();
  check("acpi-tables", has_tables);
  if (!has_tables) finish();
  // This processor is number 0, whatever the order in the table.
  const uint32_t own = apic_id();
  cpus[0].apic_id = own;
  cpu_count = 1;
  for (unsigned i = 0; i < platform.cpus_listed; ++i) {
    const struct acpi_cpu* listed = &platform.cpus[i];
    if (listed->is_enabled && listed->apic_id != own && cpu_count < kMaxCpus)
      cpus[cpu_count++].apic_id = listed->apic_id;
  }
  for (unsigned i = 0; i < cpu_count; ++i) {
    cpus[i].self = &cpus[i];
    cpus[i].index = i;
    cpu_of_apic_id[cpus[i].apic_id & 0xff] = &cpus[i];
    make_tables(&cpus[i]);
  }
  load_tables(&cpus[0]);
  cpus[0].starts = 1;
  apic_enable();
  on_vector(kWakeVector, count_and_eoi);
  on_vector(kSpuriousVector, spurious);
  install_trampoline(kTrampolinePage);
}

void smp_start(void) {
  smp_prepare();
  check_eq("processors-in-madt", cpu_count, option("cpus", cpu_count));
  for (unsigned i = 1; i < cpu_count; ++i)
    if (!start_cpu(i, kTrampolinePage)) give_up("processor-starts");
}

// ---- work ----
void run_on(unsigned index, void (*function)(void*), void* argument) {
  struct cpu* cpu = &cpus[index];
  cpu->argument = argument;
  __atomic_store_n(&cpu->job, function, __ATOMIC_SEQ_CST);
  send_ipi(cpu->apic_id, kIcrAssert | kWakeVector);
}

void wait_idle(unsigned index) {
  // Long tests run long: what counts is that it ends, and the runner has the last word on time.
  for (unsigned tries = 0; tries < 30 * option("depth", 1); ++tries)
    if (WAIT_FOR(!cpus[index].job)) return;
  give_up("processor-does-not-end");
}

void run_everywhere(unsigned count, void (*function)(void*), void* argument) {
  for (unsigned i = 1; i < count; ++i) run_on(i, function, argument);
  function(argument);
  for (unsigned i = 1; i < count; ++i) wait_idle(i);
}
