// SPDX-License-Identifier: Apache-2.0
// Hardware task switching: far JMP and CALL to TSS and task gate, task gates in the IDT, IRET with NT, 16-bit TSS,
// LDT, CR3, virtual-8086 and user tasks, and every check on the way. [SDM-3A 8]
#include "guest.h"

void guest_main(void);

struct tss32 {
  uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi;
  uint32_t es, cs, ss, ds, fs, gs, ldt;
  uint16_t trap, io_map;
};
struct tss16 {
  uint16_t link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss, ds, ldt;
};
extern struct tss32 tss;  // the main task's
static struct tss32 task __attribute__((aligned(128)));
static struct tss16 task16 __attribute__((aligned(128)));
static uint64_t ldt[4];
static uint8_t task_stack[2][4096] __attribute__((aligned(16)));
#define TASK_STACK ((uint32_t)task_stack[1])

enum { kTask = kFreeSelector, kGate = kTask + 8, kLdt = kTask + 16, kSegment = kTask + 24, kCode16 = kTask + 32, kTask16 = kTask + 40, kTssAlias = kTask + 48 };
enum { kAvailable16 = 0x81, kAvailable32 = 0x89, kBusy = 2 };
#define FLAG_VM (1u << 17)
#define FLAG_IOPL3 (3u << 12)

static uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access) {
  return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(access & 0xf0ff) << 40 | (uint64_t)(limit >> 16 & 15) << 48 |
         (uint64_t)(base >> 24) << 56;
}
static void set(unsigned selector, uint64_t value) { gdt[selector / 8] = value; }
static uint64_t gate(unsigned selector, unsigned access) { return (uint64_t)selector << 16 | (uint64_t)access << 40; }
static unsigned access_of(unsigned selector) { return (unsigned)(gdt[selector / 8] >> 40) & 0xff; }
static unsigned task_register(void) {
  uint32_t selector;
  __asm__ volatile("str %0" : "=r"(selector));
  return selector & 0xffff;
}
static unsigned ldt_register(void) {
  uint32_t selector;
  __asm__ volatile("sldt %0" : "=r"(selector));
  return selector & 0xffff;
}

// ---- the other task: writes down what it begins with, and goes back ----
struct seen {
  uint32_t eax, ecx, edx, ebx, esp, ebp, esi, edi, flags, cr0, tr, ldtr, dr7, cr3, top, fs, gs, ds;
};
volatile struct seen seen;
volatile uint32_t runs, leave_by_jump;
extern char capture[], capture16[];
__asm__(
    "capture:\n"
    "  mov %eax, seen; mov %ecx, seen + 4; mov %edx, seen + 8; mov %ebx, seen + 12\n"
    "  mov %esp, seen + 16; mov %ebp, seen + 20; mov %esi, seen + 24; mov %edi, seen + 28\n"
    "  mov (%esp), %eax; mov %eax, seen + 56\n"
    "  pushf; pop seen + 32\n"
    "  mov %cr0, %eax; mov %eax, seen + 36; str %eax; mov %eax, seen + 40; sldt %eax; mov %eax, seen + 44\n"
    "  mov %dr7, %eax; mov %eax, seen + 48; mov %cr3, %eax; mov %eax, seen + 52\n"
    "  mov %fs, %eax; mov %eax, seen + 60; mov %gs, %eax; mov %eax, seen + 64; mov %ds, %eax; mov %eax, seen + 68\n"
    "  incl runs\n"
    "  cmpl $0, leave_by_jump; jne 1f\n"
    "  iret\n"
    "  jmp capture\n"
    "1: ljmp $0x40, $0\n"
    "  jmp capture\n");

static void prepare(void) {
  memset(&task, 0, sizeof task);
  task.eip = (uint32_t)capture;
  task.eflags = 2;
  task.eax = 0xaaaa0000, task.ecx = 0xaaaa0001, task.edx = 0xaaaa0002, task.ebx = 0xaaaa0003;
  task.esp = TASK_STACK, task.ebp = 0xaaaa0005, task.esi = 0xaaaa0006, task.edi = 0xaaaa0007;
  task.es = task.ss = task.ds = task.ss0 = kKernelDs;
  task.cs = kKernelCs;
  task.esp0 = TASK_STACK - 1024;
  task.cr3 = (uint32_t)read_cr3();
  task.io_map = sizeof task;
  set(kTask, descriptor((uint32_t)&task, sizeof task - 1, kAvailable32));
  set(kGate, gate(kTask, 0x85));
  memset((void*)&seen, 0, sizeof seen);
  runs = leave_by_jump = 0;
}

// After a switch that ended in the new task: back to the main one.
static void restore_main(void) {
  set(kTss, descriptor((uint32_t)&tss, sizeof tss - 1, kAvailable32));
  __asm__ volatile("ltr %w0; lldt %w1" ::"r"(kTss), "r"(0));
  __asm__ volatile("clts");
}

struct far {
  uint32_t offset;
  uint16_t selector;
} __attribute__((packed));
static void jump(void* selector) {
  const struct far target = {0xdeadbeef, (uint16_t)(word)selector};
  __asm__ volatile(MARK "ljmp *%0\n .globl after_jump\n after_jump:" ::"m"(target) : "memory", "cc");
}
static void call(void* selector) {
  const struct far target = {0xdeadbeef, (uint16_t)(word)selector};
  __asm__ volatile(MARK "lcall *%0\n .globl after_call\n after_call:" ::"m"(target) : "memory", "cc");
}
extern char after_jump[], after_call[];

static void test_jump(void) {
  prepare();
  leave_by_jump = 1;
  task.eflags = 2 | FLAG_CF | FLAG_DF;
  tss.link = 0x1234;
  task.link = 0x5678;
  __asm__ volatile("mov %0, %%dr0; mov %0, %%dr1" ::"r"(0xffff0000));
  write_dr7(0x400 | 1 | 8);  // L0, G1
  expect_no_trap("jmp-tss", jump, (void*)kTask);
  check_eq("jmp-task-ran", runs, 1);
  check("jmp-registers-loaded", seen.eax == 0xaaaa0000 && seen.ecx == 0xaaaa0001 && seen.edx == 0xaaaa0002 && seen.ebx == 0xaaaa0003 &&
                                    seen.esp == TASK_STACK && seen.ebp == 0xaaaa0005 && seen.esi == 0xaaaa0006 && seen.edi == 0xaaaa0007);
  check_eq("jmp-flags-loaded", seen.flags & ~(word)FLAG_CF, 2 | FLAG_DF);
  // EFLAGS is loaded whole [SDM-3A 8.3]; TCG's far JMP forgets the arithmetic ones.
  if (!tcg_lacks("jmp-arithmetic-flags-loaded")) check("jmp-arithmetic-flags-loaded", seen.flags & FLAG_CF);
  check("jmp-sets-ts", seen.cr0 & CR0_TS);
  check_eq("jmp-task-register", seen.tr, kTask);
  check_eq("jmp-clears-local-enables", seen.dr7 & 0xff, 8);  // [SDM-3B 18.2.4]
  check_eq("jmp-saves-eip", tss.eip, (uint32_t)after_jump);
  check("jmp-saves-segments", tss.cs == kKernelCs && tss.ss == kKernelDs && tss.ds == kKernelDs);
  check("jmp-leaves-links", tss.link == 0x1234 && task.link == 0x5678);
  check_eq("jmp-new-busy-gone", access_of(kTask), kAvailable32);
  check_eq("jmp-main-busy", access_of(kTss), kAvailable32 | kBusy);
  check_eq("jmp-main-register", task_register(), kTss);
  check("jmp-task-saved", task.eip > (uint32_t)capture && task.eip < (uint32_t)capture + 256 && (task.eflags & FLAG_CF) == 0);
  // It goes on where it left.
  expect_no_trap("jmp-again", jump, (void*)kTask);
  check_eq("jmp-resumed", runs, 2);
  write_dr7(0x400);
  __asm__ volatile("clts");
}

static void test_call(void) {
  prepare();
  expect_no_trap("call-tss", call, (void*)kTask);
  check_eq("call-task-ran", runs, 1);
  check_eq("call-link", task.link, kTss);
  check("call-nt-set", seen.flags & FLAG_NT);
  check_eq("call-saves-eip", tss.eip, (uint32_t)after_call);
  check_eq("call-both-busy-then-free", access_of(kTask), kAvailable32);
  check_eq("call-main-stays-busy", access_of(kTss), kAvailable32 | kBusy);
  check("iret-clears-saved-nt", !(task.eflags & FLAG_NT));
  check("iret-restores-flags", !(read_flags() & FLAG_NT));
  check("iret-sets-ts", read_cr0() & CR0_TS);
  __asm__ volatile("clts");
  expect_no_trap("call-again-resumes-behind-iret", call, (void*)kTask);
  check_eq("call-resumed", runs, 2);
  check_eq("call-resumed-registers", seen.edi, 0xaaaa0007);
  prepare();
  expect_no_trap("call-gate", call, (void*)kGate);
  check("call-gate-ran", runs == 1 && task.link == kTss);
  prepare();
  leave_by_jump = 1;
  expect_no_trap("jmp-gate", jump, (void*)kGate);
  check("jmp-gate-ran", runs == 1 && !(seen.flags & FLAG_NT));
  // A task gate may lie in the LDT, a TSS may not.
  prepare();
  ldt[1] = gate(kTask, 0x85);
  set(kLdt, descriptor((uint32_t)ldt, sizeof ldt - 1, 0x82));
  __asm__ volatile("lldt %w0" ::"r"(kLdt));
  expect_no_trap("call-gate-in-ldt", call, (void*)(8 | 4));
  check_eq("call-gate-in-ldt-ran", runs, 1);
  check_eq("iret-loads-null-ldt", ldt_register(), 0);  // the main TSS names none
  ldt[1] = gdt[kTask / 8];
  __asm__ volatile("lldt %w0" ::"r"(kLdt));
  // #GP for a TSS in the LDT, directly or through a gate. [SDM-2A CALL] TCG raises #TS.
  if (!tcg_lacks("call-tss-in-ldt")) expect_trap("call-tss-in-ldt", call, (void*)(8 | 4), 13, 8 | 4);
  __asm__ volatile("lldt %w0; clts" ::"r"(0));
}

// ---- the IDT ----
static struct {
  uint64_t gates[256];
} idt_copy;
static struct {
  uint16_t limit;
  uint32_t base;
} __attribute__((packed)) idt_pointer, saved_idt;
static void use_task_gate(unsigned vector, unsigned dpl) {
  __asm__ volatile("sidt %0" : "=m"(saved_idt));
  memcpy(&idt_copy, (void*)saved_idt.base, sizeof idt_copy);
  idt_copy.gates[vector] = gate(kTask, 0x85 | dpl << 5);
  idt_pointer.limit = sizeof idt_copy - 1;
  idt_pointer.base = (uint32_t)&idt_copy;
  __asm__ volatile("lidt %0" ::"m"(idt_pointer));
}
static void usual_gates(void) { __asm__ volatile("lidt %0" ::"m"(saved_idt)); }

static void int_80(void* unused) {
  (void)unused;
  __asm__ volatile(MARK "int $0x80\n .globl after_int80\n after_int80:" ::: "memory");
}
extern char after_int80[], ud_here[], gp_here[];
static void undefined_skipped(void* unused) {
  (void)unused;
  __asm__ volatile("ud_here: ud2" ::: "memory");
}
static void bad_selector(void* unused) {
  (void)unused;
  __asm__ volatile("gp_here: mov %w0, %%es" ::"r"(0x1000) : "memory");
}
extern char fault_task[];
// A task that steps over the two-byte instruction that faulted in the main task.
__asm__("fault_task: addl $2, tss + 0x20; incl runs; mov (%esp), %eax; mov %eax, seen + 56; mov %esp, seen + 16; iret; jmp fault_task");

static void test_idt(void) {
  prepare();
  use_task_gate(0x80, 3);
  expect_no_trap("int-task-gate", int_80, 0);
  check("int-task-gate-ran", runs == 1 && task.link == kTss && (seen.flags & FLAG_NT) && seen.esp == TASK_STACK);
  check_eq("int-task-gate-eip", tss.eip, (uint32_t)after_int80);
  usual_gates();
  prepare();
  task.eip = (uint32_t)fault_task;
  use_task_gate(6, 0);
  expect_no_trap("ud-task-gate", undefined_skipped, 0);
  check("ud-task-gate-ran", runs == 1 && seen.esp == TASK_STACK);
  check_eq("ud-task-gate-eip", tss.eip, (uint32_t)ud_here + 2);
  if (!tcg_lacks("ud-task-gate-rf")) check("ud-task-gate-rf", tss.eflags & FLAG_RF);  // a fault [SDM-3B 18.3.1.1]
  usual_gates();
  prepare();
  task.eip = (uint32_t)fault_task;
  *(uint32_t*)(TASK_STACK - 4) = 0xffffffff;
  use_task_gate(13, 0);
  expect_no_trap("gp-task-gate", bad_selector, 0);
  check("gp-task-gate-ran", runs == 1 && tss.eip == (uint32_t)gp_here + 2);
  check_eq("gp-task-gate-pushes-error", seen.top, 0x1000);
  check_eq("gp-task-gate-stack", seen.esp, TASK_STACK - 4);
  usual_gates();
  // INT n checks the gate's DPL, and names the gate; a busy task is named by its TSS.
  prepare();
  use_task_gate(0x80, 0);
  const struct user_entry entry = {.ip = (word)int_80, .sp = (word)user_stack_top};
  check_eq("int-task-gate-dpl", (unsigned)run_user(&entry), 13);
  check_eq("int-task-gate-dpl-error", trap.error, 0x80 * 8 + 2);
  set(kTask, gdt[kTask / 8] | (uint64_t)kBusy << 40);
  expect_trap("int-task-gate-busy", int_80, 0, 13, kTask);
  set(kTask, descriptor((uint32_t)&task, sizeof task - 1, 0x09));
  expect_trap("int-task-gate-tss-not-present", int_80, 0, 11, kTask);
  set(kTask, descriptor((uint32_t)&task, sizeof task - 2, kAvailable32));
  expect_trap("int-task-gate-tss-short", int_80, 0, 10, kTask);
  idt_copy.gates[0x80] = gate(kTask, 0x05);
  expect_trap("int-task-gate-not-present", int_80, 0, 11, 0x80 * 8 + 2);
  usual_gates();
  __asm__ volatile("clts");
}

// ---- hardware interrupts ----
extern char irq_task[];
volatile uint32_t ticks;
__asm__("irq_task: incl ticks; mov $0x20, %al; out %al, $0x20; iret; jmp irq_task");
static void test_interrupt(void) {
  prepare();
  task.eip = (uint32_t)irq_task;
  use_task_gate(0x20, 0);
  pic_init(0xfe, 0xff);
  outb(0x43, 0x34);
  outb(0x40, 0xa9);
  outb(0x40, 4);  // 1 kHz
  while (ticks < 3) sti_hlt();
  cli();
  outb(0x21, 0xff);
  check("irq-task-gate", ticks >= 3);
  check("irq-task-if", tss.eflags & FLAG_IF);
  usual_gates();
  __asm__ volatile("clts");
}

// ---- errors in the old task ----
static void iret_probe(void* unused) {
  (void)unused;
  // The frame that a plain IRET would take is good: if NT is ignored, nothing happens.
  __asm__ volatile("pushf; orl $0x4000, (%%esp); popf; pushf; push %%cs; push $1f\n" MARK "iret\n1:" ::: "memory", "cc");
}
static void test_old_task_errors(void) {
  prepare();
  expect_trap("jmp-busy-tss", jump, (void*)kTss, 13, kTss);
  set(kTask, descriptor((uint32_t)&task, sizeof task - 1, 0x09));
  expect_trap("jmp-tss-not-present", jump, (void*)kTask, 11, kTask);
  set(kTask, descriptor((uint32_t)&task, sizeof task - 2, kAvailable32));
  expect_trap("jmp-tss-short", jump, (void*)kTask, 10, kTask);
  expect_trap("call-tss-short", call, (void*)kTask, 10, kTask);
  set(kTask, descriptor((uint32_t)&task16, sizeof task16 - 2, kAvailable16));
  expect_trap("jmp-tss16-short", jump, (void*)kTask, 10, kTask);
  expect_trap("jmp-tss-rpl", jump, (void*)(kTask | 1), 13, kTask);
  prepare();
  set(kGate, gate(kTask, 0x05));
  expect_trap("jmp-gate-not-present", jump, (void*)kGate, 11, kGate);
  set(kGate, gate(kTask, 0x85));
  expect_trap("jmp-gate-rpl", jump, (void*)(kGate | 3), 13, kGate);
  set(kGate, gate(kKernelCs, 0x85));
  expect_trap("jmp-gate-to-code", jump, (void*)kGate, 13, kKernelCs);
  set(kGate, gate(0x1000, 0x85));
  expect_trap("jmp-gate-beyond-gdt", jump, (void*)kGate, 13, 0x1000);
  set(kGate, gate(kTask | 4, 0x85));
  if (!tcg_lacks("jmp-gate-to-ldt")) expect_trap("jmp-gate-to-ldt", jump, (void*)kGate, 13, kTask | 4);
  set(kGate, gate(kTss, 0x85));
  expect_trap("call-gate-busy", call, (void*)kGate, 13, kTss);
  // The link of IRET. [SDM-2A IRET, TASK-RETURN]
  prepare();
  tss.link = kTask;
  expect_trap("iret-link-not-busy", iret_probe, 0, 10, kTask);
  tss.link = 0;
  expect_trap("iret-link-null", iret_probe, 0, 10, 0);
  tss.link = 0x1000;
  expect_trap("iret-link-beyond-gdt", iret_probe, 0, 10, 0x1000);
  tss.link = kTask | 4;
  expect_trap("iret-link-ldt", iret_probe, 0, 10, kTask | 4);
  tss.link = kKernelDs;
  expect_trap("iret-link-data", iret_probe, 0, 10, kKernelDs);
  set(kTask, descriptor((uint32_t)&task, sizeof task - 1, 0x0b));
  tss.link = kTask;
  expect_trap("iret-link-not-present", iret_probe, 0, 11, kTask);
  // Nothing of all that has switched.
  check_eq("errors-leave-task-register", task_register(), kTss);
  check("errors-leave-ts", !(read_cr0() & CR0_TS));
  check_eq("errors-leave-main-busy", access_of(kTss), kAvailable32 | kBusy);
  tss.link = 0;
}

// ---- errors in the new task ----
static bool new_task_eips = true;  // the frames have the new task's EIP
static void expect_new_task(const char* name, unsigned vector, unsigned error) {
  trap.error = trap.ip = 0;
  const int got = trap_call(jump, (void*)kTask);
  const bool passed = got == (int)vector && trap.error == error && task_register() == kTask;
  new_task_eips = new_task_eips && trap.ip == task.eip;
  check(name, passed);
  if (!passed) {
    print("  vector ");
    print_hex((unsigned)got);
    print(" error ");
    print_hex(trap.error);
    print(" ip ");
    print_hex(trap.ip);
    print(" task ");
    print_hex(task_register());
    print("\n");
  }
  restore_main();
  prepare();
}
static void test_new_task_errors(void) {
  prepare();
  set(kSegment, descriptor(0, 0xfffff, 0xc099));  // code, execute only
  task.ds = kSegment;
  expect_new_task("new-ds-execute-only", 10, kSegment);
  task.es = kTss;
  expect_new_task("new-es-system", 10, kTss);
  task.fs = 0x1000;
  expect_new_task("new-fs-beyond-gdt", 10, 0x1000);
  task.gs = kKernelDs | 3;
  expect_new_task("new-gs-rpl", 10, kKernelDs);
  set(kSegment, descriptor(0, 0xfffff, 0xc013));
  task.ds = kSegment;
  expect_new_task("new-ds-not-present", 11, kSegment);
  // An EIP beyond the limit: #GP(0) at the target, in the new task.
  set(kSegment, descriptor(0, 0xffff, 0x409b));
  task.cs = kSegment;
  task.eip = 0x10000;
  expect_new_task("new-eip-beyond-limit", 13, 0);
}

// Without CS and SS, which come after LDTR, no frame can be pushed: the handler is a task, too. [SDM-3A 6.15, #TS]
extern char ts_task[];
static struct tss32 handler_task __attribute__((aligned(128)));
volatile uint32_t ts_error, ts_link, ts_runs;
__asm__(
    "ts_task: mov (%esp), %eax; mov %eax, ts_error; mov handler_task_link, %ecx; mov (%ecx), %eax; mov %eax, ts_link; incl ts_runs\n"
    "  ljmp $0x40, $0; jmp ts_task\n"
    ".data; .globl handler_task_link; handler_task_link: .long 0; .text\n");
extern uint32_t handler_task_link;
static void expect_by_task(const char* name, unsigned vector, unsigned error) {
  handler_task = task;
  handler_task.eip = (uint32_t)ts_task;
  handler_task.esp = TASK_STACK - 2048;
  handler_task.cs = kKernelCs;
  handler_task.ss = handler_task.ds = handler_task.es = kKernelDs;
  handler_task.ldt = handler_task.link = 0;
  handler_task_link = (uint32_t)&handler_task;
  set(kTask16, descriptor((uint32_t)&handler_task, sizeof handler_task - 1, kAvailable32));
  use_task_gate(0x81, 0);
  idt_copy.gates[vector] = gate(kTask16, 0x85);
  ts_runs = 0;
  ts_error = ts_link = 0xdeadbeef;
  set(kTss, gdt[kTss / 8] | (uint64_t)kBusy << 40);
  // JMP frees the main task, so that the handler can jump back to it.
  const int got = trap_call(jump, (void*)kTask);
  const bool passed = got == kNoTrap && ts_runs == 1 && ts_error == error && (ts_link & 0xffff) == kTask;
  new_task_eips = new_task_eips && task.eip == (uint32_t)capture;
  check(name, passed);
  if (!passed) {
    print("  trap ");
    print_hex((unsigned)got);
    print(" runs ");
    print_hex(ts_runs);
    print(" error ");
    print_hex(ts_error);
    print(" link ");
    print_hex(ts_link);
    print("\n");
  }
  usual_gates();
  restore_main();
  prepare();
}
static void test_code_and_stack_errors(void) {
  prepare();
  set(kLdt, descriptor((uint32_t)ldt, sizeof ldt - 1, 0x82));
  task.ldt = kKernelDs;
  expect_by_task("new-ldt-is-data", 10, kKernelDs);
  task.ldt = kLdt | 4;
  expect_by_task("new-ldt-in-ldt", 10, kLdt | 4);
  task.ldt = 0x1000;
  expect_by_task("new-ldt-beyond-gdt", 10, 0x1000);
  set(kLdt, descriptor((uint32_t)ldt, sizeof ldt - 1, 0x02));
  task.ldt = kLdt;
  expect_by_task("new-ldt-not-present", 10, kLdt);
  task.cs = 0;
  expect_by_task("new-cs-null", 10, 0);
  task.cs = kKernelDs;
  expect_by_task("new-cs-is-data", 10, kKernelDs);
  task.cs = kKernelCs | 3;
  expect_by_task("new-cs-rpl", 10, kKernelCs);
  set(kSegment, descriptor(0, 0xfffff, 0xc01b));
  task.cs = kSegment;
  expect_by_task("new-cs-not-present", 11, kSegment);
  set(kSegment, descriptor(0, 0xfffff, 0xc0ff));  // conforming, DPL 3
  task.cs = kSegment;
  expect_by_task("new-cs-conforming-outer", 10, kSegment);
  task.ss = 0;
  expect_by_task("new-ss-null", 10, 0);
  task.ss = kKernelCs;
  expect_by_task("new-ss-is-code", 10, kKernelCs);
  task.ss = kKernelDs | 3;
  expect_by_task("new-ss-rpl", 10, kKernelDs);
  task.ss = kUserDs;
  expect_by_task("new-ss-dpl", 10, kUserDs & ~3u);
  set(kSegment, descriptor(0, 0xfffff, 0xc013));
  task.ss = kSegment;
  // [SDM-3A 8.3, table 7-1, check 10] TCG raises #NP.
  if (!tcg_lacks("new-ss-not-present")) expect_by_task("new-ss-not-present", 12, kSegment);
  // The switch is complete when they are raised. [SDM-3A 8.3] TCG has the EIP of the instruction that switched.
  if (!tcg_lacks("new-task-eips")) check("new-task-eips", new_task_eips);
}

// ---- what a task may bring along ----
static void test_ldt(void) {
  prepare();
  ldt[2] = descriptor(0, 0xfffff, 0xc093);
  set(kLdt, descriptor((uint32_t)ldt, sizeof ldt - 1, 0x82));
  task.ldt = kLdt;
  task.ds = 0x10 | 4;
  task.fs = 0x10 | 4;
  expect_no_trap("task-ldt", call, (void*)kTask);
  check("task-ldt-loaded", seen.ldtr == kLdt && seen.ds == (0x10 | 4) && seen.fs == (0x10 | 4) && seen.gs == 0);
  check_eq("main-has-no-ldt", ldt_register(), 0);
  check("task-ldt-stays-in-tss", task.ldt == kLdt && tss.ldt == 0);
  __asm__ volatile("clts");
}

static void test_16_bit(void) {
  prepare();
  memset(&task16, 0, sizeof task16);
  // 16-bit tasks run 32-bit code as well: the code segment says so. IP has 16 bits, so its base is that of the code.
  set(kSegment, descriptor((uint32_t)capture, 0xfffff, 0xc09b));
  task16.cs = kSegment;
  task16.ss = task16.ds = task16.es = kKernelDs;
  set(kCode16, descriptor(TASK_STACK - 0x1000, 0xffff, 0x0093));
  task16.ss = kCode16;
  task16.sp = 0xffc;
  task16.flags = 2 | FLAG_CF;
  task16.ax = 0x1110, task16.cx = 0x1111, task16.di = 0x1117;
  set(kTask16, descriptor((uint32_t)&task16, sizeof task16 - 1, kAvailable16));
  // Only the low 16 bits of ESP are known, so what the task leaves at (%esp) is read through DS: not looked at here.
  extern char capture_small[];
  set(kSegment, descriptor((uint32_t)capture_small, 0xfffff, 0xc09b));
  expect_no_trap("tss16-call", call, (void*)kTask16);
  check("tss16-ran", runs == 1 && (seen.eax & 0xffff) == 0x1110 && (seen.ecx & 0xffff) == 0x1111 && (seen.edi & 0xffff) == 0x1117);
  check("tss16-flags", (seen.flags & FLAG_NT) && (is_tcg() || (seen.flags & FLAG_CF)));
  check_eq("tss16-fs-gs-null", seen.fs | seen.gs, 0);
  check_eq("tss16-link", task16.link, kTss);
  check_eq("tss16-saved-ldt-untouched", task16.ldt, 0);
  check_eq("tss16-available-again", access_of(kTask16), kAvailable16);
  check("tss16-saved-nt-clear", !(task16.flags & FLAG_NT) && task16.ip != 0);
  __asm__ volatile("clts");
}
__asm__(
    ".globl capture_small; capture_small:\n"
    "  mov %eax, seen; mov %ecx, seen + 4; mov %edi, seen + 28\n"
    "  pushf; pop %eax; mov %eax, seen + 32; mov %fs, %eax; mov %eax, seen + 60; mov %gs, %eax; mov %eax, seen + 64\n"
    "  incl runs; iret\n");

extern char v86_start[], v86_end[];
__asm__("v86_start: .byte 0xb8, 0x34, 0x12, 0xf4; v86_end:");  // mov ax, 0x1234; hlt

static void test_user_and_v86(void) {
  // A task in ring 3 that calls the kernel: through SS0:ESP0 of its own TSS.
  prepare();
  extern char user_task[];
  task.eip = (uint32_t)user_task;
  task.cs = kUserCs32;
  task.ss = task.ds = task.es = kUserDs;
  check_eq("user-task", (unsigned)trap_call(jump, (void*)kTask), kUserReturnVector);
  check("user-task-frame", trap.cs == kUserCs32 && trap.ss == kUserDs && trap.sp == TASK_STACK && user_result.rax == 0x777);
  check_eq("user-task-stack", trap.handler_sp, task.esp0 - sizeof(struct frame));
  check_eq("user-task-register", task_register(), kTask);
  restore_main();
  prepare();
  memcpy((void*)0x8000, v86_start, (size_t)(v86_end - v86_start));
  task.eflags = 2 | FLAG_VM | FLAG_IOPL3;
  task.eip = 0x10;
  task.cs = 0x7ff, task.ss = 0x900, task.esp = 0x100;
  task.ds = 0x1001, task.es = 0x1002, task.fs = 0x1003, task.gs = 0x1004;
  check_eq("v86-task", (unsigned)trap_call(jump, (void*)kTask), 13);
  check("v86-task-state", (trap.flags & FLAG_VM) && trap.cs == 0x7ff && trap.ip == 0x13 && trap.error == 0);
  restore_main();
}
__asm__("user_task: mov $0x777, %eax; int $0xf0");

// ---- T and TF ----
static volatile uint32_t trap_ip, trap_dr6, trap_count;
static bool on_debug(struct frame* frame) {
  if (trap_count++ == 0) {
    trap_ip = frame->ip;
    trap_dr6 = read_dr6();
  }
  frame->flags &= ~(word)FLAG_TF;
  write_dr6(0xffff0ff0);
  return true;
}
static void jump_stepping(void* selector) {
  const struct far target = {0, (uint16_t)(word)selector};
  __asm__ volatile("pushf; orl $0x100, (%%esp); popf; ljmp *%0" ::"m"(target) : "memory", "cc");
}
static void test_traps(void) {
  prepare();
  set_handler(1, on_debug);
  task.trap = 1;
  trap_count = 0;
  if (!tcg_lacks("t-bit")) {  // [SDM-3B 18.3.1.5]; TCG does not look at T
    expect_no_trap("t-bit", call, (void*)kTask);
    check("t-bit-once", trap_count == 1 && runs == 1);
    check_eq("t-bit-at-first-instruction", trap_ip, (uint32_t)capture);
    check_eq("t-bit-dr6", trap_dr6 & 0xe00f, 1u << 15);
  }
  // TF is looked at when the instruction begins: the trap comes after the switch. [SDM-3B 18.3.1.4]
  prepare();
  leave_by_jump = 1;
  trap_count = 0;
  expect_no_trap("step-over-switch", jump_stepping, (void*)kTask);
  check("step-over-switch-trap", trap_count >= 1 && trap_ip == (uint32_t)capture && (trap_dr6 & (1u << 14)));
  check("step-over-switch-saved-tf", runs == 1);
  set_handler(1, 0);
  __asm__ volatile("pushf; andl $~0x100, (%%esp); popf; clts" ::: "cc", "memory");
}

// ---- paging ----
static uint32_t directory[2][1024] __attribute__((aligned(4096))), table[2][1024] __attribute__((aligned(4096)));
static uint32_t pages[2][1024] __attribute__((aligned(4096)));
#define PAGE_WINDOW 0x20000000u
extern char read_window[];
volatile uint32_t window_value;
__asm__("read_window: mov 0x20000000, %eax; mov %eax, window_value; incl runs; iret; jmp read_window");
static void bad_stack(void* unused) {
  (void)unused;
  __asm__ volatile("mov %0, %%esp; push %%eax" ::"i"(PAGE_WINDOW + 0x10000) : "memory");
}

static void test_paging(void) {
  for (unsigned i = 0; i < 2; ++i) {
    for (unsigned j = 0; j < 4; ++j) directory[i][j] = j << 22 | 0x87;
    directory[i][PAGE_WINDOW >> 22] = (uint32_t)table[i] | 7;
    table[i][0] = (uint32_t)pages[i] | 7;
    pages[i][0] = 0xcafe0000 + i;
  }
  write_cr4(read_cr4() | CR4_PSE);
  write_cr3((uint32_t)directory[0]);
  write_cr0(read_cr0() | CR0_PG);
  tss.cr3 = (uint32_t)directory[0];
  prepare();
  task.cr3 = (uint32_t)directory[1];
  task.eip = (uint32_t)read_window;
  check_eq("cr3-before", *(volatile uint32_t*)PAGE_WINDOW, 0xcafe0000);
  expect_no_trap("cr3-task", call, (void*)kTask);
  check("cr3-of-task", runs == 1 && window_value == 0xcafe0001);
  check_eq("cr3-back", read_cr3(), (uint32_t)directory[0]);
  check_eq("cr3-after", *(volatile uint32_t*)PAGE_WINDOW, 0xcafe0000);
  check_eq("cr3-not-saved", task.cr3, (uint32_t)directory[1]);

  // A TSS that is not mapped: a page fault in the old task.
  prepare();
  set(kTask, descriptor(PAGE_WINDOW + 0x1000, 0x67, kAvailable32));
  expect_trap("tss-not-mapped", jump, (void*)kTask, 14, 0);
  check_eq("tss-not-mapped-cr2", trap.cr2 & ~0xffful, PAGE_WINDOW + 0x1000);
  check("tss-not-mapped-old-task", task_register() == kTss && access_of(kTss) == (kAvailable32 | kBusy) && access_of(kTask) == kAvailable32);
  // It begins on a mapped page, and its second half is not.
  set(kTask, descriptor(PAGE_WINDOW + 0xfd0, 0x67, kAvailable32));
  memcpy((void*)(PAGE_WINDOW + 0xfd0), &task, 0x30);
  expect_trap("tss-half-mapped", jump, (void*)kTask, 14, 0);
  check_eq("tss-half-mapped-cr2", trap.cr2 & ~0xffful, PAGE_WINDOW + 0x1000);
  check("tss-half-mapped-old-task", task_register() == kTss && access_of(kTask) == kAvailable32);

  // A double fault through a task gate: the one use that is left of all this. [SDM-3A 6.15, #DF]
  prepare();
  task.cr3 = (uint32_t)directory[1];
  extern char df_task[];
  task.eip = (uint32_t)df_task;
  use_task_gate(8, 0);
  check_eq("df-task-gate", (unsigned)trap_call(bad_stack, 0), 0x82);
  check_eq("df-task-gate-error", seen.top, 0);
  check("df-task-gate-saved", tss.esp == PAGE_WINDOW + 0x10000 && task.link == kTss);
  usual_gates();
  restore_main();
  write_cr0(read_cr0() & ~CR0_PG);
  write_cr4(read_cr4() & ~CR4_PSE);
}
// It cannot return to what it came from: an INT ends the trap_call.
__asm__("df_task: pop %eax; mov %eax, seen + 56; int $0x82");

void guest_main(void) {
  test_jump();
  test_call();
  test_idt();
  test_interrupt();
  test_old_task_errors();
  test_new_task_errors();
  test_code_and_stack_errors();
  test_ldt();
  test_16_bit();
  test_user_and_v86();
  test_traps();
  test_paging();
  finish();
}
