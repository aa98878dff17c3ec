// SPDX-License-Identifier: Apache-2.0
// System management mode: SMIs by the local APIC and by the APM port, the state-save area, SMBASE, RSM, what is blocked
// in between, halts and port accesses started over, SMRAM and TSEG of the host bridge: one processor sees them, others
// do not, in data and in code. [SDM-3C 32; APM-2 10; Q35 5.1.31, 5.1.32; ICH9 13.8.3]
#include "smp.h"

void guest_main(void);

// What handler and guest tell each other, at 50000h: the area as it was saved, then these.
#define CAPTURED 0x50000ul
struct talk {
  uint32_t count, cr0, cr4, cs, efer;
  uint32_t apic_id;                   // of the last processor that came
  uint32_t unused[2];
  uint32_t patch_offset, patch_value;  // a dword of the area to be changed
  uint32_t look_at, seen;              // a dword as SMM sees it
  uint32_t store_at, store_value;      // written in SMM, where not 0
  uint32_t icr;                        // an interrupt command given in SMM, where not 0
  uint32_t patch_once;                 // the patch is for the first SMI only
  uint32_t others;                     // SMIs that the other processors took
};
static volatile struct talk* const talk = (volatile struct talk*)(CAPTURED + 0x200);

extern char handler_start[], handler_end[];
__asm__(
    ".code16\n"
    "handler_start:\n"
    "  mov $0x5000, %ax\n  mov %ax, %es\n"
    "  xor %di, %di\n  mov $0xfe00, %si\n  mov $0x200, %cx\n  cld\n"
    "  rep movsb %cs:(%si), %es:(%di)\n"
    "  mov %cr0, %eax\n  mov %eax, %es:0x204\n"
    "  mov %cr4, %eax\n  mov %eax, %es:0x208\n"
    "  xor %eax, %eax\n  mov %cs, %ax\n  mov %eax, %es:0x20c\n"
    "  mov $0xc0000080, %ecx\n  rdmsr\n  mov %eax, %es:0x210\n"
    "  mov $0xfee00020, %ebx\n  mov %ds:(%ebx), %eax\n  shr $24, %eax\n  mov %eax, %es:0x214\n"
    "  mov %es:0x228, %ebx\n  test %ebx, %ebx\n  jz 1f\n  mov %ds:(%ebx), %eax\n  mov %eax, %es:0x22c\n"
    "1:mov %es:0x230, %ebx\n  test %ebx, %ebx\n  jz 1f\n  mov %es:0x234, %eax\n  mov %eax, %ds:(%ebx)\n"
    "1:mov %es:0x238, %eax\n  test %eax, %eax\n  jz 1f\n"
    "  mov $0xfee00300, %ebx\n  mov %eax, %ds:(%ebx)\n  movl $0, %es:0x238\n"
    "1:mov %es:0x220, %bx\n  test %bx, %bx\n  jz 1f\n  mov %es:0x224, %eax\n  mov %eax, %cs:(%bx)\n"
    "  mov %es:0x23c, %eax\n  test %eax, %eax\n  jz 1f\n  movl $0, %es:0x220\n"
    "1:incl %es:0x200\n  rsm\n"  // last: who waits for the count reads the rest
    "handler_end:\n"
    // That of the other processors, where all get the same SMI: counts.
    "small_start:\n"
    "  mov $0x5000, %ax\n  mov %ax, %es\n  lock incl %es:0x240\n  rsm\n"
    "small_end:\n"
    ".code64\n");
extern char small_start[], small_end[];

static uint64_t area64(unsigned offset) { return *(volatile uint64_t*)(CAPTURED + offset - 0xfe00); }
static uint32_t area32(unsigned offset) { return *(volatile uint32_t*)(CAPTURED + offset - 0xfe00); }
static uint16_t area16(unsigned offset) { return *(volatile uint16_t*)(CAPTURED + offset - 0xfe00); }
static uint8_t area8(unsigned offset) { return *(volatile uint8_t*)(CAPTURED + offset - 0xfe00); }

static uint32_t config_address(unsigned device, unsigned offset) { return 0x80000000u | device << 11 | (offset & ~3u); }
static uint8_t config_read(unsigned device, unsigned offset) {
  outl(0xcf8, config_address(device, offset));
  return inb((uint16_t)(0xcfc + (offset & 3)));
}
static void config_write(unsigned device, unsigned offset, uint8_t value) {
  outl(0xcf8, config_address(device, offset));
  outb((uint16_t)(0xcfc + (offset & 3)), value);
}
enum { kSmram = 0x9d, kEsmramc = 0x9e, kOpen = 0x40, kLock = 0x10, kEnable = 0x08, kTsegEnable = 1 };
static void smram(unsigned bits) { config_write(0, kSmram, (uint8_t)(0x02 | bits)); }

static uint32_t smbase = 0x30000;
static void install(uint32_t base) {
  memcpy((void*)(base + 0x8000ul), handler_start, (size_t)(handler_end - handler_start));
}
static void clear(void) { memset((void*)CAPTURED, 0, 0x200 + sizeof *talk); }
static void smi_to(uint32_t id) { send_ipi(id, 2 << 8 | kIcrAssert); }
// By the local APIC; it comes soon, not at the write.
static bool smi(void) {
  const uint32_t before = talk->count;
  smi_to(cpus[0].apic_id);
  return WAIT_FOR(talk->count != before);
}

static uint32_t base_of(unsigned cpu) { return 0x60000 + cpu * 0x10000; }
// Each processor gets an area of its own, as firmware gives it.
static void move_others(void) {
  install(0x30000);
  for (unsigned i = 1; i < cpu_count; ++i) {
    memcpy((void*)(base_of(i) + 0x8000ul), small_start, (size_t)(small_end - small_start));
    clear();
    talk->patch_offset = 0xff00;
    talk->patch_value = base_of(i);
    smi_to(cpus[i].apic_id);
    check("other-processor", WAIT_FOR(talk->count == 1) && talk->apic_id == cpus[i].apic_id);
    check_eq("other-was-halted", area8(0xfec9) & 1, 1);  // an idle one halts
    clear();
    smi_to(cpus[i].apic_id);
    check("other-relocated", WAIT_FOR(talk->others == 1) && talk->count == 0);
  }
}

static void rsm(void* unused) {
  (void)unused;
  __asm__ volatile("rsm" ::: "memory");
}

static void test_state(void) {
  check_eq("rsm-outside", (unsigned)cpu_trap(rsm, 0), 6);
  clear();
  check("smi-by-icr", smi());
  check_eq("handler-cr0", talk->cr0 & 0x8000000d, 0);
  check_eq("handler-cr4", talk->cr4, 0);
  check_eq("handler-efer", talk->efer, 0);
  check_eq("handler-cs", talk->cs, smbase >> 4);
  check_eq("saved-cr0", area64(0xff58), read_cr0());
  check_eq("saved-cr3", area64(0xff50), read_cr3());
  check_eq("saved-cr4", area64(0xff48), read_cr4());
  check_eq("saved-efer", area64(0xfed0), rdmsr(MSR_EFER));
  check_eq("saved-cs", area16(0xfe10), kKernelCs);
  check_eq("saved-cs-attributes", area16(0xfe12), 0xa09b);
  uint16_t tr;
  __asm__("str %0" : "=r"(tr));
  check_eq("saved-tr", area16(0xfe90), tr);
  struct {
    uint16_t limit;
    uint64_t base;
  } __attribute__((packed)) table;
  __asm__ volatile("sgdt %0" : "=m"(table));
  check("saved-gdtr", area64(0xfe68) == table.base && area16(0xfe64) == table.limit);
  __asm__ volatile("sidt %0" : "=m"(table));
  check("saved-idtr", area64(0xfe88) == table.base && area16(0xfe84) == table.limit);
  check_eq("saved-dr7", area64(0xff60), read_dr7());
  check_eq("saved-smbase", area32(0xff00), smbase);
  check_eq("saved-halt-restart", area8(0xfec9), 0);
  check_eq("revision-level", area32(0xfefc) & 0xffff, 0x64);
  check("revision-relocates", area32(0xfefc) & 0x20000);
}

// All registers, through the handler that uses most of them; the SMI comes with an OUT.
uint64_t registers_after[16];
extern char apm_out[];
__asm__(
    ".globl run_registers\n"
    "run_registers:\n"
    "  push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "  mov $0x1111222233330001, %rbx; mov $0x1111222233330002, %rcx; mov $0x1111222233330003, %rdx\n"
    "  mov $0x1111222233330004, %rsi; mov $0x1111222233330005, %rdi; mov $0x1111222233330006, %rbp\n"
    "  mov $0x1111222233330008, %r8; mov $0x1111222233330009, %r9; mov $0x111122223333000a, %r10\n"
    "  mov $0x111122223333000b, %r11; mov $0x111122223333000c, %r12; mov $0x111122223333000d, %r13\n"
    "  mov $0x111122223333000e, %r14; mov $0x111122223333000f, %r15; mov $0x1111222233330057, %rax\n"
    "  stc\n"
    "apm_out: out %al, $0xb2\n"
    "apm_after:\n"
    "  mov %rax, registers_after; mov %rcx, registers_after + 8; mov %rdx, registers_after + 16\n"
    "  mov %rbx, registers_after + 24; mov %rsp, registers_after + 32; mov %rbp, registers_after + 40\n"
    "  mov %rsi, registers_after + 48; mov %rdi, registers_after + 56; mov %r8, registers_after + 64\n"
    "  mov %r9, registers_after + 72; mov %r10, registers_after + 80; mov %r11, registers_after + 88\n"
    "  mov %r12, registers_after + 96; mov %r13, registers_after + 104; mov %r14, registers_after + 112\n"
    "  mov %r15, registers_after + 120\n"
    "  setc %al; movzx %al, %eax\n"
    "  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "  ret\n");
unsigned run_registers(void);

static void test_apm(void) {
  const uint16_t smi_enable = (uint16_t)(platform.pm_timer_port - 8 + 0x30);
  clear();
  outl(smi_enable, inl(smi_enable) & ~0x21u);
  outb(0xb2, 0x57);
  check_eq("apm-disabled", talk->count, 0);
  check_eq("apm-port-reads-back", inb(0xb2), 0x57);
  outl(smi_enable, inl(smi_enable) | 0x21);
  const unsigned carry = run_registers();
  check_eq("apm-smi", talk->count, 1);
  if (!tcg_lacks("apm-reaches-all")) check("apm-reaches-all", WAIT_FOR(talk->others == cpu_count - 1));
  check_eq("carry-kept", carry, 1);
  static const uint8_t order[16] = {0x57, 2, 3, 1, 0, 6, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15};
  bool kept = true, saved = true;
  for (unsigned i = 0; i < 16; ++i) {
    if (i != 4) kept = kept && registers_after[i] == 0x1111222233330000ul + order[i];
    saved = saved && area64(0xfff8u - 8 * i) == registers_after[i];
  }
  check("registers-kept", kept);
  if (!tcg_lacks("registers-saved")) check("registers-saved", saved);
  if (!tcg_lacks("saved-rip-after-out")) check_eq("saved-rip-after-out", area64(0xff78), (word)apm_out + 2);
  if (!tcg_lacks("io-restart")) {
    check_eq("io-trap-word", area32(0xfec0), 0x00b20012);
    check_eq("io-restart-rip", area64(0xfea0), (word)apm_out);
    check("revision-restarts-io", area32(0xfefc) & 0x10000);
    clear();
    talk->patch_offset = 0xfec8;  // and the halt restart, which means nothing here
    talk->patch_value = 0x000000ff;
    talk->patch_once = 1;
    run_registers();
    check_eq("io-restarted", talk->count, 2);
    check("io-restart-registers", registers_after[1] == 0x1111222233330002 && registers_after[7] == 0x1111222233330005);
  }
}

static volatile unsigned nmis, nmi_count_of_smis;
static bool on_nmi(struct frame* frame) {
  (void)frame;
  if (!nmis++) nmi_count_of_smis = talk->count;
  return true;
}

static void test_blocked(void) {
  on_vector(kNmi, on_nmi);
  clear();
  lapic_write(kLapicIcrHigh, cpus[0].apic_id << 24);
  talk->icr = kIcrNmi | kIcrAssert;
  nmis = 0;
  smi();
  check("nmi-waits-for-rsm", WAIT_FOR(nmis) && nmis == 1 && nmi_count_of_smis == 1);
  check_eq("nmi-saved-rip-is-the-guests", area64(0xff78) > 0x100000, 1);
  clear();
  lapic_write(kLapicIcrHigh, cpus[0].apic_id << 24);
  talk->icr = 2 << 8 | kIcrAssert;
  smi();
  check("smi-in-smm-comes-after", WAIT_FOR(talk->count == 2));
  // Interrupts off and on: SMIs care for neither.
  clear();
  sti();
  check("smi-with-interrupts-on", smi());
  cli();
  check("smi-with-interrupts-off", smi());
}

// ---- SMRAM ----
static uint32_t run_at(word address) { return ((uint32_t(*)(void))address)(); }
static void call_smram(void* unused) {
  (void)unused;
  run_at(0xa9000);
}
#define AT32(address) (*(volatile uint32_t*)(address))

static void move_smbase(uint32_t to) {
  clear();
  talk->patch_offset = 0xff00;
  talk->patch_value = to;
  smi();
  clear();
  smbase = to;
}

static void test_smram(void) {
  smram(kEnable | kOpen);
  AT32(0xa9000) = 0x000005b8;  // mov $5, %eax; ret
  AT32(0xa9004) = 0x0000c300;
  AT32(0xa9800) = 0x12345678;
  check_eq("open-seen", AT32(0xa9800), 0x12345678);
  check_eq("open-code", run_at(0xa9000), 5);
  install(0xa0000);
  if (smbase != 0xa0000) {
    move_smbase(0xa0000);
    check("relocated", smi() && talk->cs == 0xa000 && area32(0xff00) == 0xa0000);
  }
  smram(kEnable);
  check("closed-unseen", AT32(0xa9800) != 0x12345678);
  AT32(0xa9800) = 0xffffffff;
  check_eq("closed-code", (unsigned)cpu_trap(call_smram, 0), 6);
  clear();
  talk->look_at = 0xa9800;
  talk->store_at = 0xa9804;
  talk->store_value = 0xcafe0001;
  check("closed-smi", smi());
  check_eq("closed-seen-in-smm", talk->seen, 0x12345678);
  check_eq("closed-cs", talk->cs, 0xa000);
  check("closed-unseen-after", AT32(0xa9800) != 0x12345678);
  smram(kEnable | kOpen);
  check_eq("opened-seen", AT32(0xa9804), 0xcafe0001);
  check_eq("opened-store-was-dropped", AT32(0xa9800), 0x12345678);
  check_eq("opened-code", run_at(0xa9000), 5);
  AT32(0xa9000) = 0x000006b8;
  check_eq("opened-code-changed", run_at(0xa9000), 6);
  smram(kEnable);
  // The handler's own code, changed from inside: the constant of a MOV in a routine that SMM writes over.
  clear();
  talk->store_at = 0xa9000;
  talk->store_value = 0x000007b8;
  smi();
  smram(kEnable | kOpen);
  check_eq("code-changed-in-smm", run_at(0xa9000), 7);
  smram(kEnable);
}

static void test_tseg(void) {
  const word top = 0x10000000;  // of 256 MiB
  AT32(top - 0x1000) = 0x77778888;
  AT32(top - 0x100000) = 0x55556666;
  AT32(top - 0x100004) = 0x33334444;
  config_write(0, kEsmramc, (uint8_t)((config_read(0, kEsmramc) & 0xf8) | kTsegEnable));
  check_eq("tseg-unseen", AT32(top - 0x1000), 0xffffffff);
  check_eq("tseg-start-unseen", AT32(top - 0x100000), 0xffffffff);
  check_eq("below-tseg-seen", AT32(top - 0x100004), 0x33334444);
  AT32(top - 0x1000) = 0;
  clear();
  talk->look_at = (uint32_t)top - 0x1000;
  smi();
  check_eq("tseg-seen-in-smm", talk->seen, 0x77778888);
  config_write(0, kEsmramc, (uint8_t)(config_read(0, kEsmramc) & 0xf8));
  check_eq("tseg-off-seen", AT32(top - 0x1000), 0x77778888);
}

// ---- other processors ----
static volatile unsigned worker_state, worker_wrong, worker_loops;
static volatile bool worker_stop;
static void halt_once(void* unused) {
  (void)unused;
  worker_state = 1;
  __asm__ volatile("cli; hlt" ::: "memory");
  worker_state = 2;
}
// Looks at SMRAM all the time, which it must never see.
static void look(void* unused) {
  (void)unused;
  while (!worker_stop) {
    if (AT32(0xa9800) == 0x12345678) ++worker_wrong;
    ++worker_loops;
  }
}

static void test_others(void) {
  for (unsigned i = 1; i < cpu_count; ++i) {
    install(base_of(i));
    clear();
    smi_to(cpus[i].apic_id);
    check("other-processor-again", WAIT_FOR(talk->count == 1) && talk->apic_id == cpus[i].apic_id && talk->cs == base_of(i) >> 4);
    check_eq("other-saved-smbase", area32(0xff00), base_of(i));
  }
  clear();
  worker_state = 0;
  run_on(1, halt_once, 0);
  WAIT_FOR(worker_state == 1);
  delay_us(20000);
  smi_to(cpus[1].apic_id);
  check("smi-while-halted", WAIT_FOR(talk->count == 1));
  delay_us(20000);
  check_eq("halt-restarted", worker_state, 1);
  clear();
  talk->patch_offset = 0xfec8;
  talk->patch_value = 0;
  smi_to(cpus[1].apic_id);
  check("halt-not-restarted", WAIT_FOR(worker_state == 2));
  wait_idle(1);
  clear();

  // While this processor is in SMM again and again, another sees what there is outside.
  worker_stop = false;
  worker_wrong = worker_loops = 0;
  run_on(1, look, 0);
  WAIT_FOR(worker_loops);
  talk->look_at = 0xa9800;
  bool seen = true;
  struct span span = span_of(200, 300);
  while (span_goes_on(&span)) {
    talk->seen = 0;
    seen = smi() && talk->seen == 0x12345678 && seen;
  }
  worker_stop = true;
  wait_idle(1);
  info("smis", span.done, "SMIs beside a processor that looks");
  check("seen-in-smm-each-time", seen);
  check_eq("never-seen-by-others", worker_wrong, 0);
}

static void test_lock(void) {
  smram(kEnable | kLock | kOpen);
  check_eq("lock-closes", config_read(0, kSmram) & (kOpen | kLock), kLock);
  smram(kEnable | kOpen);
  check_eq("locked", config_read(0, kSmram) & (kOpen | kLock | kEnable), kLock | kEnable);
  check("locked-unseen", AT32(0xa9800) != 0x12345678);
  config_write(0, kEsmramc, (uint8_t)(config_read(0, kEsmramc) | kTsegEnable));
  check_eq("locked-tseg", config_read(0, kEsmramc) & kTsegEnable, 0);
  clear();
  talk->look_at = 0xa9800;
  smi();
  check_eq("locked-seen-in-smm", talk->seen, 0x12345678);
}

void guest_main(void) {
  smp_start();
  if (is_tcg()) {  // its firmware has moved SMBASE
    smbase = 0xa0000;
    smram(kEnable | kOpen);
  }
  if (!tcg_lacks("other-processors-move")) move_others();
  install(smbase);
  test_state();
  test_apm();
  test_blocked();
  test_smram();
  test_tseg();
  if (!tcg_lacks("other-processors")) test_others();
  test_lock();
  finish();
}
