// SPDX-License-Identifier: Apache-2.0
// Exceptions other than page faults: vectors, error codes, return addresses, priorities. [SDM-3A 6.15]
#include "guest.h"

void guest_main(void);

static uint8_t buffer[4096] __attribute__((aligned(4096)));
#define NON_CANONICAL 0x0000800000001000ul

// ---- faults of plain instructions ----
static void divide_by_zero(void* unused) {
  (void)unused;
  __asm__ volatile("xor %%edx, %%edx; mov $1, %%eax; xor %%ecx, %%ecx\n" MARK "div %%ecx" ::: "eax", "ecx", "edx");
}
static void divide_overflow(void* unused) {
  (void)unused;
  __asm__ volatile("mov $0x80000000, %%eax; cltd; mov $-1, %%ecx\n" MARK "idiv %%ecx" ::: "eax", "ecx", "edx");
}
static void divide_overflow_64(void* unused) {
  (void)unused;
  __asm__ volatile("mov $1, %%edx; xor %%eax, %%eax; mov $1, %%ecx\n" MARK "div %%rcx" ::: "rax", "rcx", "rdx");
}
static void undefined(void* unused) {
  (void)unused;
  __asm__ volatile(MARK "ud2");
}
static void undefined_lock(void* unused) {
  (void)unused;
  __asm__ volatile(MARK ".byte 0xf0, 0x01, 0xc8");  // LOCK ADD eax, ecx
}
static void undefined_in_long_mode(void* unused) {
  (void)unused;
  __asm__ volatile(MARK ".byte 0x06");  // PUSH ES
}
static void too_long(void* unused) {
  (void)unused;
  __asm__ volatile(MARK ".fill 15, 1, 0x66; nop");
}
static void breakpoint(void* unused) {
  (void)unused;
  __asm__ volatile("int3\n" MARK "nop");
}
static void int_ff(void* unused) {
  (void)unused;
  __asm__ volatile("int $0xff\n" MARK "nop");
}

// ---- #GP ----
static void read_non_canonical(void* unused) {
  (void)unused;
  __asm__ volatile("mov %0, %%rcx\n" MARK "mov (%%rcx), %%eax" ::"i"(NON_CANONICAL) : "rax", "rcx");
}
static void push_non_canonical(void* unused) {
  (void)unused;
  __asm__ volatile("mov %%rsp, %%rbx; mov %0, %%rsp\n" MARK "push %%rax; mov %%rbx, %%rsp" ::"i"(NON_CANONICAL) : "rbx");
}
static void rbp_non_canonical(void* unused) {
  (void)unused;
  __asm__ volatile("mov %%rbp, %%rbx; mov %0, %%rbp\n" MARK "mov 8(%%rbp), %%eax; mov %%rbx, %%rbp" ::"i"(NON_CANONICAL)
                   : "rax", "rbx");
}
static void jump_non_canonical(void* unused) {
  (void)unused;
  // The jump itself faults: RIP in the frame is the jump's. [SDM-2A JMP]
  __asm__ volatile("mov %0, %%rcx\n" MARK "jmp *%%rcx" ::"i"(NON_CANONICAL) : "rcx");
}
static void return_non_canonical(void* unused) {
  (void)unused;
  __asm__ volatile("mov %0, %%rcx; push %%rcx\n" MARK "ret" ::"i"(NON_CANONICAL) : "rcx");
}
static void load_selector(void* selector) {
  __asm__ volatile(MARK "mov %w0, %%ds; mov %w1, %%ds" ::"r"(selector), "r"(kKernelDs));
}
static void load_ss(void* selector) { __asm__ volatile(MARK "mov %w0, %%ss" ::"r"(selector)); }
static void write_cr0_probe(void* value) { __asm__ volatile(MARK "mov %0, %%cr0" ::"r"(value)); }
static void write_cr4_probe(void* value) { __asm__ volatile(MARK "mov %0, %%cr4" ::"r"(value)); }
static void write_cr3_probe(void* value) { __asm__ volatile(MARK "mov %0, %%cr3" ::"r"(value)); }
static void write_cr8_probe(void* value) { __asm__ volatile(MARK "mov %0, %%cr8" ::"r"(value)); }
static void read_msr_probe(void* index) {
  __asm__ volatile(MARK "rdmsr" ::"c"((uint32_t)(word)index) : "eax", "edx");
}
static void write_efer_reserved(void* unused) {
  (void)unused;
  const uint64_t efer = rdmsr(MSR_EFER);
  __asm__ volatile(MARK "wrmsr" ::"c"(MSR_EFER), "a"((uint32_t)efer | 1u << 9), "d"(0));
}
static void write_lstar_non_canonical(void* unused) {
  (void)unused;
  __asm__ volatile(MARK "wrmsr" ::"c"(0xc0000082u), "a"(0), "d"(0x8000));
}
static void misaligned_movaps(void* unused) {
  (void)unused;
  __asm__ volatile(MARK "movaps %0, %%xmm0" ::"m"(buffer[8]));
}
static void int_beyond_idt(void* unused) {
  (void)unused;
  __asm__ volatile(MARK "int $0x80");
}
static void jump_far(void* selector) {
  struct {
    uint32_t offset;
    uint16_t selector;
  } __attribute__((packed)) target = {0, (uint16_t)(word)selector};
  __asm__ volatile(MARK "ljmpl *%0" ::"m"(target));
}
static void load_tr(void* selector) { __asm__ volatile(MARK "ltr %w0" ::"r"(selector)); }
static void load_ldt(void* selector) { __asm__ volatile(MARK "lldt %w0" ::"r"(selector)); }
static void iret_null_cs(void* unused) {
  (void)unused;
  __asm__ volatile("mov %%rsp, %%rax; push $0x10; push %%rax; push $2; push $0; push $0\n" MARK "iretq" ::: "rax", "memory");
}

static void test_plain(void) {
  expect_trap("de-zero", divide_by_zero, 0, 0, 0);
  expect_trap("de-overflow", divide_overflow, 0, 0, 0);
  expect_trap("de-overflow-64", divide_overflow_64, 0, 0, 0);
  expect_trap("ud2", undefined, 0, 6, 0);
  expect_trap("ud-lock-register", undefined_lock, 0, 6, 0);
  expect_trap("ud-push-es-64", undefined_in_long_mode, 0, 6, 0);
  expect_trap("gp-16-bytes", too_long, 0, 13, 0);
  expect_trap("bp-after-int3", breakpoint, 0, 3, 0);
  expect_trap("int-ff", int_ff, 0, 0xff, 0);
}

static void test_general_protection(void) {
  set_gate_options(12, 3, 0, false);
  expect_trap("gp-non-canonical-read", read_non_canonical, 0, 13, 0);
  // Through SS it is #SS, not #GP. [SDM-1 3.3.7.1]
  if (!tcg_lacks("ss-non-canonical-push")) expect_trap("ss-non-canonical-push", push_non_canonical, 0, 12, 0);
  if (!tcg_lacks("ss-non-canonical-rbp")) expect_trap("ss-non-canonical-rbp", rbp_non_canonical, 0, 12, 0);
  // Intel faults at the branch; AMD may have arrived at the target. [SDM-2A JMP, APM-3 JMP]
  if (is_intel()) {
    expect_trap("gp-non-canonical-jmp", jump_non_canonical, 0, 13, 0);
    expect_trap("gp-non-canonical-ret", return_non_canonical, 0, 13, 0);
  } else {
    check_eq("gp-non-canonical-jmp", (unsigned)trap_call(jump_non_canonical, 0), 13);
    check_eq("gp-non-canonical-ret", (unsigned)trap_call(return_non_canonical, 0), 13);
  }
  load_ldt(0);
  expect_trap("gp-selector-beyond-gdt", load_selector, (void*)0x1000, 13, 0x1000);
  expect_trap("gp-selector-rpl-in-error", load_selector, (void*)0x1003, 13, 0x1000);
  expect_trap("gp-selector-ldt", load_selector, (void*)0x0c, 13, 0x0c);
  expect_trap("gp-selector-tss-as-data", load_selector, (void*)kTss, 13, kTss);
  gdt[kFreeSelector / 8] = 0x00cf13000000ffff;  // data, not present
  expect_trap("np-data-segment", load_selector, (void*)kFreeSelector, 11, kFreeSelector);
  expect_trap("ss-stack-not-present", load_ss, (void*)kFreeSelector, 12, kFreeSelector);
  expect_no_trap("null-ds", load_selector, 0);
  expect_no_trap("null-ss-cpl0-64", load_ss, 0);
  __asm__ volatile("mov %w0, %%ss" ::"r"(kKernelDs));
  // A null SS must have RPL = CPL. [SDM-2B MOV, 64-bit mode exceptions]
  if (!tcg_lacks("gp-null-ss-rpl3")) expect_trap("gp-null-ss-rpl3", load_ss, (void*)3, 13, 0);
  expect_trap("gp-code-as-stack", load_ss, (void*)kKernelCs, 13, kKernelCs);
  expect_trap("gp-user-data-as-stack", load_ss, (void*)(word)kUserDs, 13, kUserDs & ~3);
  // [SDM-2B MOV control registers, RDMSR, WRMSR]; TCG takes anything.
  if (!tcg_lacks("gp-control-registers")) {
    expect_trap("gp-cr0-pg-without-pe", write_cr0_probe, (void*)(read_cr0() & ~1ul), 13, 0);
    expect_trap("gp-cr0-nw-without-cd", write_cr0_probe, (void*)(read_cr0() | 1u << 29), 13, 0);
    expect_trap("gp-cr0-high", write_cr0_probe, (void*)(read_cr0() | 1ul << 32), 13, 0);
    expect_trap("gp-cr4-reserved", write_cr4_probe, (void*)(read_cr4() | 1ul << 31), 13, 0);
    expect_trap("gp-cr4-pae-off", write_cr4_probe, (void*)(read_cr4() & ~(word)CR4_PAE), 13, 0);
    expect_trap("gp-cr3-reserved", write_cr3_probe, (void*)(read_cr3() | 1ul << 62), 13, 0);
    expect_trap("gp-cr8-reserved", write_cr8_probe, (void*)16, 13, 0);
    expect_trap("gp-rdmsr-unknown", read_msr_probe, (void*)0x12345678, 13, 0);
    expect_trap("gp-efer-reserved", write_efer_reserved, 0, 13, 0);
    expect_trap("gp-lstar-non-canonical", write_lstar_non_canonical, 0, 13, 0);
  }
  // The index in the error code counts 8-byte units even though long-mode gates have 16 bytes: it is the vector.
  // [SDM-3A 6.13] TCG multiplies by 16.
  if (!tcg_lacks("idt-error-codes")) {
    load_idt_limit(0x80 * 16 - 1);
    expect_trap("gp-int-beyond-idt", int_beyond_idt, 0, 13, 0x80 * 8 + 2);
    load_idt_limit(0xfff);
    set_gate_present(0x80, false);
    expect_trap("np-gate", int_beyond_idt, 0, 11, 0x80 * 8 + 2);
    set_gate_present(0x80, true);
  }
  expect_trap("gp-far-jump-null", jump_far, 0, 13, 0);
  expect_trap("gp-far-jump-data", jump_far, (void*)kKernelDs, 13, kKernelDs);
  expect_trap("gp-far-jump-user-code", jump_far, (void*)(word)kUserCs64, 13, kUserCs64 & ~3);
  expect_trap("gp-ltr-busy", load_tr, (void*)kTss, 13, kTss);
  if (!tcg_lacks("gp-ltr-null")) expect_trap("gp-ltr-null", load_tr, 0, 13, 0);
  expect_no_trap("lldt-null", load_ldt, 0);
  expect_trap("gp-lldt-code", load_ldt, (void*)kKernelCs, 13, kKernelCs);
  expect_trap("gp-iret-null-cs", iret_null_cs, 0, 13, 0);
}

// ---- #NM, #MF, #XM ----
static void fpu_instruction(void* unused) {
  (void)unused;
  __asm__ volatile(MARK "fnop");
}
static void wait_instruction(void* unused) {
  (void)unused;
  __asm__ volatile(MARK "fwait");
}
static void sse_instruction(void* unused) {
  (void)unused;
  __asm__ volatile(MARK "xorps %xmm0, %xmm0");
}
static void x87_error(void* unused) {
  (void)unused;
  // The pending error is reported by the next waiting instruction. [SDM-1 8.7]
  const uint16_t unmasked = 0x037b;
  __asm__ volatile("fninit; fldcw %0; fld1; fldz; fdivrp\n" MARK "fwait" ::"m"(unmasked));
}
static void sse_error(void* unused) {
  (void)unused;
  const uint32_t unmasked = 0x1d80;
  __asm__ volatile("ldmxcsr %0; xorps %%xmm1, %%xmm1; mov $0x3f800000, %%eax; movd %%eax, %%xmm0\n" MARK "divss %%xmm1, %%xmm0" ::"m"(
                       unmasked)
                   : "eax");
}

static void test_fpu(void) {
  const word cr0 = read_cr0(), cr4 = read_cr4();
  write_cr4(cr4 | CR4_OSFXSR | CR4_OSXMMEXCPT);
  expect_trap("gp-movaps-misaligned", misaligned_movaps, 0, 13, 0);
  __asm__ volatile("mov %0, %%cr0" ::"r"((cr0 & ~(word)CR0_MP) | CR0_TS));
  expect_trap("nm-ts", fpu_instruction, 0, 7, 0);
  expect_no_trap("fwait-ts-without-mp", wait_instruction, 0);
  expect_trap("nm-sse-ts", sse_instruction, 0, 7, 0);
  __asm__ volatile("mov %0, %%cr0" ::"r"(cr0 | CR0_TS | CR0_MP));
  expect_trap("nm-fwait-ts-mp", wait_instruction, 0, 7, 0);
  __asm__ volatile("clts");
  expect_no_trap("clts", fpu_instruction, 0);
  __asm__ volatile("mov %0, %%cr0" ::"r"(cr0 | CR0_EM));
  expect_trap("nm-em", fpu_instruction, 0, 7, 0);
  expect_trap("ud-sse-em", sse_instruction, 0, 6, 0);
  __asm__ volatile("mov %0, %%cr0" ::"r"(cr0 | CR0_MP | CR0_NE));
  expect_trap("mf-divide", x87_error, 0, 16, 0);
  __asm__ volatile("fninit");
  if (!tcg_lacks("xm")) {
    expect_trap("xm-divide", sse_error, 0, 19, 0);
    write_cr4((cr4 | CR4_OSFXSR) & ~(word)CR4_OSXMMEXCPT);
    expect_trap("ud-simd-error-without-osxmmexcpt", sse_error, 0, 6, 0);
  }
  write_cr4(cr4 & ~(word)(CR4_OSFXSR | CR4_OSXMMEXCPT));
  expect_trap("ud-sse-without-osfxsr", sse_instruction, 0, 6, 0);
  write_cr4(cr4 | CR4_OSFXSR | CR4_OSXMMEXCPT);
  const uint32_t mxcsr = 0x1f80;
  __asm__ volatile("ldmxcsr %0" ::"m"(mxcsr));
}

// ---- #DB ----
static unsigned steps;
static bool count_step(struct frame* frame) {
  (void)frame;
  ++steps;
  return true;
}
static void single_step(void* unused) {
  (void)unused;
  __asm__ volatile(
      "pushf; orl $0x100, (%%rsp); popf\n"  // no trap after this POPF itself
      "nop\n"
      "cpuid\n"
      "mov $3, %%ecx\n"
      "pushf; andl $~0x100, (%%rsp); popf" ::
          : "rax", "rbx", "rcx", "rdx", "memory", "cc");
}
static void single_step_rep(void* unused) {
  (void)unused;
  word to = (word)buffer, count = 4;
  __asm__ volatile("cld; xor %%eax, %%eax; pushf; orl $0x100, (%%rsp); popf; rep stosb; pushf; andl $~0x100, (%%rsp); popf"
                   : "+D"(to), "+c"(count)
                   :
                   : "rax", "memory", "cc");
}
static void single_step_ss(void* unused) {
  (void)unused;
  __asm__ volatile("mov %%ss, %%ecx; pushf; orl $0x100, (%%rsp); popf; mov %%ecx, %%ss; nop; pushf; andl $~0x100, (%%rsp); popf" ::
                       : "rcx", "memory", "cc");
}
static void single_step_int(void* unused) {
  (void)unused;
  __asm__ volatile("pushf; orl $0x100, (%%rsp); popf; int $0xfe; nop; pushf; andl $~0x100, (%%rsp); popf" ::: "memory", "cc");
}
static bool ignore(struct frame* frame) {
  (void)frame;
  return true;
}
static void icebp(void* unused) {
  (void)unused;
  __asm__ volatile(".byte 0xf1\n" MARK "nop");
}
static bool write_hit;
static bool on_watch(struct frame* frame) {
  (void)frame;
  write_hit = read_dr6() & 1;
  write_dr6(0xffff0ff0);
  return true;
}
static void watched_write(void* unused) {
  (void)unused;
  *(volatile uint32_t*)&buffer[64] = 5;
}
static void execute_target(void* unused) {
  (void)unused;
  __asm__ volatile(".globl breakpoint_here\nbreakpoint_here: nop");
}
extern char breakpoint_here[];
static unsigned execute_hits;
static bool on_execute(struct frame* frame) {
  // A fault: resume with RF, or it comes again. [SDM-3B 18.3.1.1]
  if (frame->ip == (word)breakpoint_here && (read_dr6() & 1)) ++execute_hits;
  write_dr6(0xffff0ff0);
  frame->flags |= FLAG_RF;
  return true;
}
static void dr7_general_detect(void* unused) {
  (void)unused;
  write_dr7(0x400 | 1u << 13);
  __asm__ volatile(MARK "mov %%dr0, %%rax" ::: "rax");
}
static void write_dr6_high(void* unused) {
  (void)unused;
  __asm__ volatile("mov %0, %%rax\n" MARK "mov %%rax, %%dr6" ::"i"(1ul << 32) : "rax");
}

static void test_debug(void) {
  set_handler(1, count_step);
  steps = 0;
  expect_no_trap("step-runs", single_step, 0);
  check_eq("step-count", steps, 6);  // nop cpuid mov pushf andl popf
  check("step-bs", read_dr6() & (1u << 14));
  steps = 0;
  expect_no_trap("step-rep-runs", single_step_rep, 0);
  check_eq("step-rep-count", steps, 4 + 3);  // one trap per iteration [SDM-3B 18.3.1.4]
  steps = 0;
  expect_no_trap("step-mov-ss-runs", single_step_ss, 0);
  check_eq("step-mov-ss-inhibits", steps, 4);  // mov ss + nop count as one
  steps = 0;
  set_handler(0xfe, ignore);
  expect_no_trap("step-int-runs", single_step_int, 0);
  // INT n clears TF: it does not trap on arrival in the handler, which is why debuggers must emulate it; nop, pushf,
  // andl and popf do. [SDM-3B 18.3.1.4]
  check_eq("step-int-clears-tf", steps, 4);
  set_handler(0xfe, 0);
  set_handler(1, 0);
  write_dr6(0xffff0ff0);
  if (!tcg_lacks("db-icebp")) expect_trap("db-icebp", icebp, 0, 1, 0);

  write_dr0((word)&buffer[64]);
  write_dr7(0x400 | 1 | 0xdu << 16);  // 4 bytes, write
  set_handler(1, on_watch);
  write_hit = false;
  expect_no_trap("watch-runs", watched_write, 0);
  check("watch-write-hit", write_hit);
  write_dr0((word)breakpoint_here);
  write_dr7(0x400 | 1);
  set_handler(1, on_execute);
  execute_hits = 0;
  expect_no_trap("hardware-breakpoint-runs", execute_target, 0);
  check_eq("hardware-breakpoint-once", execute_hits, 1);
  set_handler(1, 0);
  write_dr7(0x400);
  write_dr6(0xffff0ff0);
  if (!tcg_lacks("db-general-detect")) {
    expect_trap("db-general-detect", dr7_general_detect, 0, 1, 0);
    check("db-general-detect-bd", trap.dr6 & (1u << 13));
    check("db-general-detect-cleared", !(read_dr7() & (1u << 13)));
  }
  write_dr7(0x400);
  write_dr6(0xffff0ff0);
  expect_trap("gp-dr6-high", write_dr6_high, 0, 13, 0);
}

// ---- #AC ----
extern char user_misaligned[], user_aligned_only_ac_off[];
__asm__(
    "user_misaligned: mov 1(%rdi), %eax; int $0xf0\n"
    "user_aligned_only_ac_off: pushf; andl $~0x40000, (%rsp); popf; mov 1(%rdi), %eax; int $0xf0\n");
static void supervisor_misaligned(void* unused) {
  (void)unused;
  __asm__ volatile("pushf; orl $0x40000, (%%rsp); popf; mov 1+%0, %%eax; pushf; andl $~0x40000, (%%rsp); popf" ::"m"(buffer[0])
                   : "rax", "memory", "cc");
}
static void test_alignment(void) {
  const word cr0 = read_cr0();
  __asm__ volatile("mov %0, %%cr0" ::"r"(cr0 | CR0_AM));
  struct user_entry entry = {.ip = USER(user_misaligned), .flags = FLAG_AC, .arguments = {USER(buffer)}};
  if (!tcg_lacks("ac-user-misaligned")) {
    check_eq("ac-user-misaligned", (unsigned)run_user(&entry), 17);
    check_eq("ac-error-code", trap.error, 0);
  }
  entry.flags = 0;
  check_eq("ac-flag-clear", (unsigned)run_user(&entry), kUserReturnVector);
  entry.flags = FLAG_AC;
  entry.ip = USER(user_aligned_only_ac_off);
  check_eq("ac-cleared-by-popf", (unsigned)run_user(&entry), kUserReturnVector);
  expect_no_trap("ac-not-at-cpl0", supervisor_misaligned, 0);
  __asm__ volatile("mov %0, %%cr0" ::"r"(cr0 & ~(word)CR0_AM));
  entry.ip = USER(user_misaligned);
  check_eq("ac-needs-cr0-am", (unsigned)run_user(&entry), kUserReturnVector);
  __asm__ volatile("mov %0, %%cr0" ::"r"(cr0));
}

// ---- nested and double faults ----
static void fault_with_bad_stack(void* unused) {
  (void)unused;
  // #UD cannot push its frame: #SS (64-bit: non-canonical) during delivery is contributory after a benign #UD, so #SS
  // comes; it fails likewise and becomes #DF, which has an IST stack. [SDM-3A 6.15, table 6-5]
  __asm__ volatile("mov %0, %%rsp\n" MARK "ud2" ::"i"(NON_CANONICAL) : "memory");
}
static void contributory_pair(void* unused) {
  (void)unused;
  __asm__ volatile("xor %%edx, %%edx; mov $1, %%eax; xor %%ecx, %%ecx\n" MARK "div %%ecx" ::: "eax", "ecx", "edx");
}
static void page_fault_on_unmapped(void* unused) {
  (void)unused;
  __asm__ volatile("mov %0, %%rcx\n" MARK "mov (%%rcx), %%eax" ::"i"(WINDOW) : "rax", "rcx");
}
static void stack_unmapped(void* unused) {
  (void)unused;
  __asm__ volatile("mov %0, %%rsp\n" MARK "push %%rax" ::"i"(WINDOW + 0x10000) : "memory");
}
static unsigned nested_depth;
static bool nested_handler(struct frame* frame) {
  (void)frame;
  ++nested_depth;
  // An exception inside a handler: captured by the inner trap_call, then the outer one resumes.
  const struct trap outer = *(struct trap*)&trap;
  nested_depth += trap_call(divide_by_zero, 0) == 0;
  *(struct trap*)&trap = outer;
  return true;
}
static void int3_then_continue(void* result) {
  __asm__ volatile("int3" ::: "memory");
  *(bool*)result = true;
}

static void test_nested(void) {
  set_gate_options(12, 0, 0, false);
  expect_trap("df-unusable-stack", fault_with_bad_stack, 0, 8, 0);
  check("df-on-ist1", trap.handler_sp < (word)ist_stack_top && trap.handler_sp >= (word)ist_stack_top - IST_BYTES);
  check_eq("df-saved-rsp", trap.sp, NON_CANONICAL);
  expect_trap("df-page-fault-on-stack", stack_unmapped, 0, 8, 0);
  check_eq("df-page-fault-cr2", trap.cr2 & ~0xffful, WINDOW + 0xf000);  // of the second fault: somewhere in the frame

  // #DE whose gate is not present: #NP is contributory after contributory: #DF.
  set_gate_present(0, false);
  expect_trap("df-contributory-pair", contributory_pair, 0, 8, 0);
  set_gate_present(0, true);
  // #PF whose gate is not present: contributory after a page fault: #DF.
  set_gate_present(14, false);
  expect_trap("df-after-page-fault", page_fault_on_unmapped, 0, 8, 0);
  set_gate_present(14, true);
  // #UD (benign) whose gate is not present: #NP, with EXT clear? The fault is a consequence of an exception: EXT set.
  set_gate_present(6, false);
  if (!tcg_lacks("np-after-benign")) expect_trap("np-after-benign", undefined, 0, 11, 6 * 8 + 3);
  set_gate_present(6, true);

  set_gate_options(6, 2, 0, false);
  expect_trap("ist2", undefined, 0, 6, 0);
  const word ist2_top = (word)ist_stack_top - IST_BYTES;
  check_eq("ist2-frame-position", trap.handler_sp, ist2_top - sizeof(struct frame));
  set_gate_options(6, 0, 0, false);

  bool finished = false;
  nested_depth = 0;
  set_handler(3, nested_handler);
  expect_no_trap("nested-resumes", int3_then_continue, &finished);
  check("nested-finished", finished && nested_depth == 2);
  set_handler(3, 0);
}

// The frame's stack is aligned to 16 bytes whatever RSP was. [SDM-3A 6.14.2]
static void odd_stack(void* offset) {
  __asm__ volatile("mov %%rsp, %%rbx; sub %0, %%rsp\n" MARK "ud2; mov %%rbx, %%rsp" ::"r"(offset) : "rbx", "memory");
}
static void test_stack_alignment(void) {
  bool aligned = true;
  for (word offset = 0; offset < 16; ++offset) {
    trap_call(odd_stack, (void*)offset);
    aligned = aligned && (trap.handler_sp + sizeof(struct frame)) % 16 == 0;
  }
  check("frame-aligned", aligned);
}

void guest_main(void) {
  set_gate_options(8, 1, 0, false);
  test_plain();
  test_general_protection();
  test_fpu();
  test_debug();
  test_alignment();
  test_nested();
  test_stack_alignment();
  finish();
}
