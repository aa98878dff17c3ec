// SPDX-License-Identifier: Apache-2.0
// Changes of privilege and mode: SYSCALL, SYSENTER, INT, IRET, call gates, compatibility mode; what ring 3 may not do.
// [SDM-3A 5.8, 6.14; SDM-2A/2B of each instruction]
#include "guest.h"

void guest_main(void);

enum { kStar = 0xc0000081, kLstar, kCstar, kSfmask, kFsBase = 0xc0000100, kGsBase, kKernelGsBase };
enum { kSysenterCs = 0x174, kSysenterEsp, kSysenterEip };
#define NON_CANONICAL 0x0000900000000000ul

// User mode below 4 GiB, for compatibility mode: the image again.
#define LOW_ALIAS 0xc0000000ul
#define LOW(p) ((word)(p) + LOW_ALIAS)
extern char low_stack_top[];
__asm__(".bss; .align 16; .skip 4096; low_stack_top: .skip 16; .text");

static uint8_t scratch[4096] __attribute__((aligned(4096)));

static int run64(void* code, word a, word b, word c) {
  const struct user_entry entry = {.ip = USER(code), .arguments = {a, b, c}};
  return run_user(&entry);
}
static int run32(void* code, word a, word b) {
  const struct user_entry entry = {.ip = LOW(code), .cs = kUserCs32, .sp = LOW(low_stack_top), .arguments = {a, b, 0}};
  return run_user(&entry);
}
static void user_expect(const char* name, int got, int vector, word error) {
  check(name, got == vector && (vector == kUserReturnVector || trap.error == error));
  if (got == vector && (vector == kUserReturnVector || trap.error == error)) return;
  print("  vector ");
  print_hex((unsigned)got);
  print(" error ");
  print_hex(trap.error);
  print(" ip ");
  print_hex(trap.ip);
  print("\n");
}

// ---- INT and IRET ----
#define USER_CODE(name, text) \
  extern char name[];         \
  __asm__(#name ": " text "\n int $0xf0\n")
#define USER_CODE32(name, text) \
  extern char name[];           \
  __asm__(".code32; " #name ": " text "\n int $0xf0; .code64")

USER_CODE(u_return, "");
USER_CODE(u_registers, "mov $0x1111, %rax; mov %rax, %r15; not %r15; mov %ds, %ebx; mov %es, %ecx; mov %ss, %esi; mov %cs, %ebp; pushf; pop %r8");
USER_CODE(u_int80, "int $0x80");
USER_CODE(u_int3, "int3");
USER_CODE(u_popf, "pushf; orl $0x3200, (%rsp); popf; pushf; pop %rax");
USER_CODE(u_cli_sti, "cli; sti; pushf; pop %rax; cli");

static void test_int_iret(void) {
  const struct user_entry entry = {.ip = USER(u_registers), .flags = FLAG_CF | FLAG_AC};
  user_expect("user-round-trip", run_user(&entry), kUserReturnVector, 0);
  check_eq("user-rax", user_result.rax, 0x1111);
  check_eq("user-r15", user_result.r15, ~0x1111ul);
  check_eq("iret-nulls-ds", user_result.rbx, 0);
  check_eq("iret-nulls-es", user_result.rcx, 0);
  check_eq("user-ss", user_result.rsi, kUserDs);
  check_eq("user-cs", user_result.rbp, kUserCs64);
  check_eq("user-flags", user_result.r8, FLAG_CF | FLAG_AC | 2);
  check_eq("frame-cs", trap.cs, kUserCs64);
  check_eq("frame-ss", trap.ss, kUserDs);
  check_eq("frame-sp", trap.sp, USER(user_stack_top));
  user_expect("int-dpl-check", run64(u_int80, 0, 0, 0), 13, 0x80 * (is_tcg() ? 16 : 8) + 2);  // TCG: see exceptions.c
  user_expect("int3-dpl-3", run64(u_int3, 0, 0, 0), 3, 0);
  set_gate_options(0x80, 0, 3, true);
  user_expect("int80-dpl-3", run64(u_int80, 0, 0, 0), 0x80, 0);
  // POPF in ring 3 leaves IOPL and, below it, IF alone. [SDM-2B POPF]
  user_expect("popf-user", run64(u_popf, 0, 0, 0), kUserReturnVector, 0);
  check_eq("popf-user-keeps-if-iopl", user_result.rax & 0x3200, 0);
  struct user_entry iopl = {.ip = USER(u_cli_sti), .flags = 0x3000};
  user_expect("iopl-3-cli-sti", run_user(&iopl), kUserReturnVector, 0);
  check_eq("iopl-3-sti-works", user_result.rax & FLAG_IF, FLAG_IF);
}

static word iret_frame[5];
static void iret_to(void* unused) {
  (void)unused;
  __asm__ volatile(
      "pushq %0; pushq %1; pushq %2; pushq %3; pushq %4\n" MARK "iretq" ::"m"(iret_frame[4]), "m"(iret_frame[3]), "m"(iret_frame[2]),
      "m"(iret_frame[1]), "m"(iret_frame[0])
      : "memory");
}
static void iret_nt(void* unused) {
  (void)unused;
  __asm__ volatile("pushf; orl $0x4000, (%%rsp); popf\n" MARK "iretq" ::: "memory");
}
static void expect_iret(const char* name, word ip, word cs, word flags, word sp, word ss, int vector, word error) {
  iret_frame[0] = ip, iret_frame[1] = cs, iret_frame[2] = flags, iret_frame[3] = sp, iret_frame[4] = ss;
  expect_trap(name, iret_to, 0, vector, error);
}
static void test_iret_checks(void) {
  const word ip = USER(u_return), sp = USER(user_stack_top);
  if (is_intel())
    expect_iret("iret-non-canonical-ip", NON_CANONICAL, kUserCs64, 2, sp, kUserDs, 13, 0);
  else
    skip("iret-non-canonical-ip", "AMD may fault at the target");
  expect_iret("iret-null-cs", ip, 0, 2, sp, kUserDs, 13, 0);
  expect_iret("iret-data-cs", ip, kUserDs, 2, sp, kUserDs, 13, kUserDs & ~3);
  expect_iret("iret-cs-beyond-gdt", ip, 0x1003, 2, sp, kUserDs, 13, 0x1000);
  expect_iret("iret-ss-rpl", ip, kUserCs64, 2, sp, kUserDs & ~3, 13, kUserDs & ~3);
  expect_iret("iret-ss-code", ip, kUserCs64, 2, sp, kUserCs64, 13, kUserCs64 & ~3);
  expect_iret("iret-ss-null-user", ip, kUserCs64, 2, sp, 3, 13, 0);
  expect_iret("iret-cs-dpl", ip, kKernelCs | 3, 2, sp, kUserDs, 13, kKernelCs);
  expect_trap("iret-nt", iret_nt, 0, 13, 0);
  // To the same ring, IRETQ always loads SS:RSP; a null SS is fine there.
  iret_frame[0] = (word)u_return, iret_frame[1] = kKernelCs, iret_frame[2] = 2, iret_frame[3] = (word)user_stack_top, iret_frame[4] = 0;
  check_eq("iret-kernel-null-ss", (unsigned)trap_call(iret_to, 0), kUserReturnVector);
  check("iret-kernel-loads-stack", trap.sp == (word)user_stack_top && trap.ss == 0);
}

// ---- what ring 3 may not do ----
#define FORBIDDEN(X)                                                                        \
  X(hlt, "hlt") X(cli, "cli") X(sti, "sti") X(in, "in $0x80, %al") X(out, "out %al, $0x80") \
  X(insb, "mov $0x80, %edx; insb") X(read_cr0, "mov %cr0, %rax") X(write_cr3, "mov %rax, %cr3") X(read_cr8, "mov %cr8, %rax") \
  X(read_dr7, "mov %dr7, %rax") X(lgdt, "lgdt (%rdi)") X(lidt, "lidt (%rdi)") X(lldt, "lldt %ax") X(ltr, "ltr %ax")            \
  X(lmsw, "lmsw %ax") X(clts, "clts") X(rdmsr, "mov $0xc0000080, %ecx; rdmsr") X(wrmsr, "wrmsr") X(invd, "invd")               \
  X(wbinvd, "wbinvd") X(invlpg, "invlpg (%rdi)") X(swapgs, "swapgs") X(sysretq, "sysretq")
#define DECLARE_FORBIDDEN(name, text) USER_CODE(u_no_##name, text);
FORBIDDEN(DECLARE_FORBIDDEN)

static void test_privileged(void) {
#define RUN_FORBIDDEN(name, text) user_expect("user-" #name, run64(u_no_##name, USER(scratch), 0, 0), 13, 0);
  FORBIDDEN(RUN_FORBIDDEN)
}

USER_CODE(u_sgdt, "sgdt (%rdi)");
USER_CODE(u_sidt, "sidt (%rdi)");
USER_CODE(u_sldt, "sldt %eax");
USER_CODE(u_str, "str %eax");
USER_CODE(u_smsw, "smsw %eax");
USER_CODE(u_rdtsc, "rdtsc");
USER_CODE(u_rdtscp, "rdtscp");
USER_CODE(u_wrfsbase, "wrfsbase %rdi; rdfsbase %rax; wrgsbase %rsi; rdgsbase %rbx");
USER_CODE(u_wrfsbase_bad, "wrfsbase %rdi");
USER_CODE(u_fs_access, "mov %fs:8, %rax; mov %gs:16, %rbx; movl $0, %gs:16");

static void test_controls(void) {
  static char* const stores[] = {u_sgdt, u_sidt, u_sldt, u_str, u_smsw};
  static const char* const names[] = {"umip-sgdt", "umip-sidt", "umip-sldt", "umip-str", "umip-smsw"};
  for (unsigned i = 0; i < ARRAY_SIZE(stores); ++i)
    user_expect("table-register-store", run64(stores[i], USER(scratch), 0, 0), kUserReturnVector, 0);
  if (cpuid(7, 0).ecx & (1u << 2)) {
    write_cr4(read_cr4() | CR4_UMIP);
    for (unsigned i = 0; i < ARRAY_SIZE(stores); ++i) user_expect(names[i], run64(stores[i], USER(scratch), 0, 0), 13, 0);
    write_cr4(read_cr4() & ~(word)CR4_UMIP);
  } else {
    skip("umip", "not there");
  }
  user_expect("rdtsc-user", run64(u_rdtsc, 0, 0, 0), kUserReturnVector, 0);
  write_cr4(read_cr4() | CR4_TSD);
  user_expect("rdtsc-tsd", run64(u_rdtsc, 0, 0, 0), 13, 0);
  if (cpuid(0x80000001, 0).edx & (1u << 27)) user_expect("rdtscp-tsd", run64(u_rdtscp, 0, 0, 0), 13, 0);
  (void)rdtsc();  // ring 0 may
  write_cr4(read_cr4() & ~(word)CR4_TSD);

  if (cpuid(7, 0).ebx & 1) {
    user_expect("fsgsbase-off", run64(u_wrfsbase, 0, 0, 0), 6, 0);
    write_cr4(read_cr4() | CR4_FSGSBASE);
    user_expect("fsgsbase-on", run64(u_wrfsbase, 0x123456789abc, 0xffff800000000000, 0), kUserReturnVector, 0);
    check_eq("rdfsbase", user_result.rax, 0x123456789abc);
    check_eq("rdgsbase", user_result.rbx, 0xffff800000000000);
    check_eq("fs-base-msr", rdmsr(kFsBase), 0x123456789abc);
    if (!tcg_lacks("wrfsbase-non-canonical")) user_expect("wrfsbase-non-canonical", run64(u_wrfsbase_bad, NON_CANONICAL, 0, 0), 13, 0);
  } else {
    skip("fsgsbase", "not there");
  }
  *(word*)&scratch[8] = 0x5555;
  *(word*)&scratch[128 + 16] = 0x7777;
  wrmsr(kFsBase, USER(scratch));
  wrmsr(kGsBase, USER(scratch) + 128);
  user_expect("fs-gs-access", run64(u_fs_access, 0, 0, 0), kUserReturnVector, 0);
  check("fs-gs-values", user_result.rax == 0x5555 && user_result.rbx == 0x7777 && *(uint32_t*)&scratch[144] == 0);
  wrmsr(kKernelGsBase, 0x1000);
  __asm__ volatile("swapgs" ::: "memory");
  check("swapgs", rdmsr(kGsBase) == 0x1000 && rdmsr(kKernelGsBase) == USER(scratch) + 128);
}

// ---- SYSCALL, SYSRET ----
extern char syscall_entry[], u_syscall[], u_syscall_flags[], u_sysret_target[];
word syscall_rcx, syscall_r11, syscall_rsp, syscall_cs, syscall_ss, syscall_flags, syscall_use_32;
__asm__(
    "syscall_entry:\n"
    "mov %rcx, syscall_rcx; mov %r11, syscall_r11; mov %rsp, syscall_rsp\n"
    "mov %cs, %eax; mov %rax, syscall_cs; mov %ss, %eax; mov %rax, syscall_ss\n"
    "mov $syscall_stack_top, %rsp; pushf; pop syscall_flags\n"
    "mov syscall_rsp, %rsp\n"
    "cmpq $0, syscall_use_32; jne 1f; sysretq\n"
    "1: sysretl\n"
    "u_syscall: stc; syscall; mov %cs, %ebx; mov %ss, %esi; pushf; pop %r8; int $0xf0\n"
    ".bss; .skip 512; syscall_stack_top: .skip 8; .text\n"
    ".code32; u_sysret_target: mov %cs, %eax; movl $0x7fffffff, %ecx; incl %ecx; int $0xf0; .code64\n");
extern char u_syscall_to_32[];
__asm__("u_syscall_to_32: syscall; ud2");
USER_CODE(u_plain_syscall, "syscall");
USER_CODE32(u_syscall32, "syscall");
static void sysret_non_canonical(void* unused) {
  (void)unused;
  __asm__ volatile("mov %0, %%rcx; mov $2, %%r11d\n" MARK "sysretq" ::"i"(NON_CANONICAL) : "rcx", "r11");
}
static void sysret_plain(void* unused) {
  (void)unused;
  __asm__ volatile(MARK "sysretq");
}

static void test_syscall(void) {
  wrmsr(kStar, (uint64_t)kKernelCs << 32 | (uint64_t)(kUserCs32 & ~3) << 48);
  wrmsr(kLstar, (word)syscall_entry);
  wrmsr(kSfmask, FLAG_CF | FLAG_IF | FLAG_TF | FLAG_AC);
  wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
  struct user_entry entry = {.ip = USER(u_syscall), .flags = FLAG_AC};
  user_expect("syscall-round-trip", run_user(&entry), kUserReturnVector, 0);
  check_eq("syscall-rcx", syscall_rcx, USER(u_syscall) + 3);
  check_eq("syscall-r11", syscall_r11 & ~(word)FLAG_RF, FLAG_AC | FLAG_CF | 2);
  check_eq("syscall-rsp-unchanged", syscall_rsp, USER(user_stack_top));
  check_eq("syscall-cs", syscall_cs, kKernelCs);
  check_eq("syscall-ss", syscall_ss, kKernelDs);
  check_eq("syscall-flags-masked", syscall_flags, 2);
  check_eq("sysret-cs", user_result.rbx, kUserCs64);
  check_eq("sysret-ss", user_result.rsi, kUserDs);
  check_eq("sysret-flags", user_result.r8, FLAG_AC | FLAG_CF | 2);

  // SYSRET to compatibility mode: EIP is ECX; the code there is decoded as 32-bit code.
  syscall_use_32 = 1;
  // SYSRET returns to RCX: the address after SYSCALL, which is above 4 GiB in the high alias, so run from the low one.
  const struct user_entry low = {.ip = LOW(u_syscall_to_32), .cs = kUserCs64, .sp = LOW(low_stack_top)};
  user_expect("sysretl-ud2-at-target", run_user(&low), 6, 0);
  check_eq("sysretl-cs", trap.cs, kUserCs32);
  check_eq("sysretl-ip", trap.ip, LOW(u_syscall_to_32) + 2);
  syscall_use_32 = 0;

  if (is_intel()) {
    if (!tcg_lacks("sysret-non-canonical")) expect_trap("sysret-non-canonical", sysret_non_canonical, 0, 13, 0);
    user_expect("syscall-compatibility-ud", run32(u_syscall32, 0, 0), 6, 0);
  } else {
    skip("sysret-non-canonical", "an Intel rule");
  }
  wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_SCE);
  user_expect("syscall-without-sce", run64(u_plain_syscall, 0, 0, 0), 6, 0);
  expect_trap("sysret-without-sce", sysret_plain, 0, 6, 0);
  wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
}

// ---- SYSENTER, SYSEXIT ----
extern char sysenter_entry[], u_sysenter[], u_sysexit_64[], u_sysexit_32[];
word sysenter_cs, sysenter_ss, sysenter_rsp, sysenter_flags, sysexit_to_32;
__asm__(
    "sysenter_entry:\n"
    "mov %rsp, sysenter_rsp; mov %cs, %eax; mov %rax, sysenter_cs; mov %ss, %eax; mov %rax, sysenter_ss\n"
    "pushf; pop sysenter_flags\n"
    "cmpq $0, sysexit_to_32; jne 1f\n"
    "mov %rdi, %rdx; mov %rsi, %rcx; rex.w sysexit\n"
    "1: mov %edi, %edx; mov %esi, %ecx; sysexit\n"
    "u_sysenter: stc; sysenter\n"
    "u_sysexit_64: mov %cs, %ebx; mov %ss, %ebp; mov %rsp, %r8; int $0xf0\n"
    ".code32; u_sysexit_32: mov %cs, %ebx; mov %ss, %ebp; mov %esp, %esi; int $0xf0; .code64\n"
    ".bss; .align 16; .skip 512; sysenter_stack_top: .skip 16; .text\n");
extern char sysenter_stack_top[];
USER_CODE(u_sysexit, "sysexit");
static void sysexit_without_cs(void* unused) {
  (void)unused;
  __asm__ volatile("xor %%edx, %%edx; xor %%ecx, %%ecx\n" MARK "sysexit" ::: "rcx", "rdx");
}

static void test_sysenter(void) {
  if (!is_intel()) {
    skip("sysenter", "not in AMD's long mode");
    return;
  }
  wrmsr(kSysenterCs, 0);
  user_expect("user-sysexit", run64(u_sysexit, 0, 0, 0), 13, 0);
  user_expect("sysenter-null-cs", run64(u_sysenter, 0, 0, 0), 13, 0);
  expect_trap("sysexit-null-cs", sysexit_without_cs, 0, 13, 0);
  wrmsr(kSysenterCs, kKernelCs);
  wrmsr(kSysenterEsp, (word)sysenter_stack_top);
  wrmsr(kSysenterEip, (word)sysenter_entry);
  struct user_entry entry = {.ip = USER(u_sysenter), .flags = FLAG_AC, .arguments = {USER(u_sysexit_64), USER(user_stack_top) - 64, 0}};
  user_expect("sysenter-round-trip", run_user(&entry), kUserReturnVector, 0);
  check_eq("sysenter-cs", sysenter_cs, kKernelCs);
  check_eq("sysenter-ss", sysenter_ss, kKernelDs);
  check_eq("sysenter-rsp", sysenter_rsp, (word)sysenter_stack_top);
  check_eq("sysenter-flags", sysenter_flags, FLAG_AC | FLAG_CF | 2);
  check_eq("sysexit-cs", user_result.rbx, kUserCs64);
  check_eq("sysexit-ss", user_result.rbp, kUserDs2);
  check_eq("sysexit-rsp", user_result.r8, USER(user_stack_top) - 64);
  sysexit_to_32 = 1;
  entry.arguments[0] = LOW(u_sysexit_32);
  entry.arguments[1] = LOW(low_stack_top) - 32;
  user_expect("sysexit-32", run_user(&entry), kUserReturnVector, 0);
  check_eq("sysexit-32-cs", user_result.rbx, kUserCs32);
  check_eq("sysexit-32-ss", user_result.rbp, kUserDs);
  check_eq("sysexit-32-esp", user_result.rsi, LOW(low_stack_top) - 32);
}

// ---- compatibility mode ----
USER_CODE32(u32_basic, "movl $0xffffffff, %ebx; .byte 0x43; /* inc ebx */ movl $0x12345678, %ecx; pushl %ecx; popl %edx; mov %esp, %esi");
USER_CODE32(u32_far, "ljmp $0x2b, $u32_far_target + 0xc0000000\n .code64; u32_far_target: mov $0x123456789abcdef0, %rax; .code32");
USER_CODE32(u32_fs, "movl %fs:(%edi), %eax");
USER_CODE32(u32_fs_write, "movb $1, %fs:(%edi)");
USER_CODE32(u32_load_fs, "mov %edi, %fs");
USER_CODE32(u32_bound, "mov %ss, %ebx; mov %ebx, %ds; movl $0x1234, %eax; aam; pusha; popa; bound %eax, (%edi)");
USER_CODE32(u32_into, "movb $0x7f, %al; incb %al; into");
USER_CODE32(u32_stack, "movl $0xc0000800, %esp; pushl %eax");
USER_CODE(u_load_ds, "mov %edi, %ds");

static void set_descriptor(unsigned slot, uint32_t base, uint32_t limit, uint16_t attributes) {
  gdt[kFreeSelector / 8 + slot] = (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(attributes & 0xf0ff) << 40 |
                                  (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)(base >> 24) << 56;
}
static int run_with_fs(void* code, unsigned slot, word offset) {
  const word selector = (kFreeSelector + 8 * slot) | 3;
  __asm__ volatile("mov %w0, %%fs" ::"r"(selector));
  const int vector = run32(code, offset, 0);
  __asm__ volatile("mov %w0, %%fs" ::"r"(0));
  return vector;
}

static void test_compatibility(void) {
  user_expect("compat-round-trip", run32(u32_basic, 0, 0), kUserReturnVector, 0);
  check_eq("compat-inc-ebx", user_result.rbx, 0);
  check_eq("compat-push-pop", user_result.rdx, 0x12345678);
  check_eq("compat-esp", user_result.rsi, LOW(low_stack_top));
  check_eq("compat-frame-cs", trap.cs, kUserCs32);
  user_expect("compat-far-jump-to-64", run32(u32_far, 0, 0), kUserReturnVector, 0);
  check_eq("compat-far-jump-rax", user_result.rax, 0x123456789abcdef0);
  user_expect("compat-bound", run32(u32_bound, LOW(scratch), 0), 5, 0);
  user_expect("compat-into", run32(u32_into, 0, 0), 4, 0);

  // Segment limits and types count in compatibility mode.
  memset(scratch, 0, sizeof scratch);
  *(uint32_t*)&scratch[0xffc] = 0xabcd;
  set_descriptor(0, (uint32_t)LOW(scratch), 0xfff, 0x40f3);  // data, writable, byte granular
  user_expect("limit-last-dword", run_with_fs(u32_fs, 0, 0xffc), kUserReturnVector, 0);
  check_eq("segment-base", user_result.rax, 0xabcd);
  if (!tcg_lacks("segment-limits")) {  // TCG checks no limits
    user_expect("limit-exceeded", run_with_fs(u32_fs, 0, 0xffd), 13, 0);
    user_expect("limit-wraps", run_with_fs(u32_fs, 0, 0xffffffff), 13, 0);
    set_descriptor(1, (uint32_t)LOW(scratch), 0x7ff, 0x40f7);  // expand-down, writable: above 0x7ff
    user_expect("expand-down-below", run_with_fs(u32_fs, 1, 0x7ff), 13, 0);
    user_expect("expand-down-above", run_with_fs(u32_fs, 1, 0x800), kUserReturnVector, 0);
    set_descriptor(2, (uint32_t)LOW(scratch), 0xfff, 0x40f1);  // read-only
    user_expect("read-only-read", run_with_fs(u32_fs, 2, 0), kUserReturnVector, 0);
    user_expect("read-only-write", run_with_fs(u32_fs_write, 2, 0), 13, 0);
    set_descriptor(3, (uint32_t)LOW(scratch), 0xfff, 0x40fb);  // code, readable
    user_expect("code-segment-write", run_with_fs(u32_fs_write, 3, 0), 13, 0);
    user_expect("null-segment", run32(u32_fs, 0, 0), 13, 0);
    user_expect("compat-stack-page-fault", run32(u32_stack, 0, 0), 14, 6);
  }
  user_expect("user-loads-kernel-data", run32(u32_load_fs, kKernelDs, 0), 13, kKernelDs);
  user_expect("user-loads-kernel-data-64", run64(u_load_ds, kKernelDs, 0, 0), 13, kKernelDs);
  user_expect("user-loads-null", run64(u_load_ds, 3, 0, 0), kUserReturnVector, 0);
  set_descriptor(4, 0, 0xfff, 0x40f9);  // code, execute-only
  user_expect("load-execute-only", run64(u_load_ds, kFreeSelector + 32 + 3, 0, 0), 13, kFreeSelector + 32);
}

// ---- LAR, LSL, VERR, VERW ----
static bool lar(unsigned selector, uint32_t* out) {
  bool ok;
  uint32_t value = 0xdeadbeef;
  __asm__ volatile("lar %2, %0" : "+r"(value), "=@ccz"(ok) : "r"(selector));
  *out = value;
  return ok;
}
static bool lsl(unsigned selector, uint32_t* out) {
  bool ok;
  uint32_t value = 0xdeadbeef;
  __asm__ volatile("lsl %2, %0" : "+r"(value), "=@ccz"(ok) : "r"(selector));
  *out = value;
  return ok;
}
static bool verr(unsigned selector) {
  bool ok;
  __asm__ volatile("verr %w1" : "=@ccz"(ok) : "r"(selector));
  return ok;
}
static bool verw(unsigned selector) {
  bool ok;
  __asm__ volatile("verw %w1" : "=@ccz"(ok) : "r"(selector));
  return ok;
}
static void test_verify(void) {
  uint32_t value;
  check("lar-code", lar(kKernelCs, &value) && (value & 0xf0fe00) == 0xa09a00);
  check("lar-data", lar(kKernelDs, &value) && (value & 0xf0fe00) == 0xc09200);
  check("lar-tss", lar(kTss, &value) && (value & 0xff00) == 0x8b00);
  check("lar-null", !lar(0, &value) && value == 0xdeadbeef);
  check("lar-beyond", !lar(0x1000, &value) && value == 0xdeadbeef);
  check("lar-rpl-hides", !lar(kKernelDs | 3, &value));
  check("lsl-flat", lsl(kKernelDs, &value) && value == 0xffffffff);
  check("lsl-tss", lsl(kTss, &value) && value == 103);
  set_descriptor(0, 0, 0x123, 0x40f3);
  check("lsl-bytes", lsl(kFreeSelector, &value) && value == 0x123);
  check("verr-code", verr(kKernelCs) && !verw(kKernelCs));
  check("verw-data", verr(kKernelDs) && verw(kKernelDs));
  set_descriptor(0, 0, 0x123, 0x40f1);
  check("verw-read-only", verr(kFreeSelector) && !verw(kFreeSelector));
  check("verr-system", !verr(kTss) && !verw(kTss));
}

// ---- call gates ----
extern char gate_entry[];
word gate_cs, gate_rsp, gate_frame[4];
__asm__(
    "gate_entry: mov %rsp, gate_rsp; mov %cs, %eax; mov %rax, gate_cs\n"
    "mov (%rsp), %rax; mov %rax, gate_frame; mov 8(%rsp), %rax; mov %rax, gate_frame + 8\n"
    "mov 16(%rsp), %rax; mov %rax, gate_frame + 16; mov 24(%rsp), %rax; mov %rax, gate_frame + 24\n"
    "lretq\n");
USER_CODE(u_call_gate, "lcall *(%rdi)\n u_after_gate: mov %cs, %ebx; mov %ss, %ebp; mov %rsp, %rsi");
extern char u_after_gate[];

static void test_call_gate(void) {
  const word entry = (word)gate_entry;
  gdt[kFreeSelector / 8] = (entry & 0xffff) | (uint64_t)kKernelCs << 16 | 0xecull << 40 | (uint64_t)(entry >> 16 & 0xffff) << 48;
  gdt[kFreeSelector / 8 + 1] = entry >> 32;
  *(uint32_t*)scratch = 0;
  *(uint16_t*)&scratch[4] = kFreeSelector | 3;
  user_expect("call-gate", run64(u_call_gate, USER(scratch), 0, 0), kUserReturnVector, 0);
  check_eq("call-gate-cs", gate_cs, kKernelCs);
  check("call-gate-frame", gate_frame[0] == USER(u_after_gate) && gate_frame[1] == kUserCs64 && gate_frame[2] == USER(user_stack_top) &&
                               gate_frame[3] == kUserDs);
  check("call-gate-return", user_result.rbx == kUserCs64 && user_result.rbp == kUserDs && user_result.rsi == USER(user_stack_top));
  gdt[kFreeSelector / 8] &= ~(3ull << 45);  // DPL 0
  user_expect("call-gate-dpl", run64(u_call_gate, USER(scratch), 0, 0), 13, kFreeSelector);
  gdt[kFreeSelector / 8] = (gdt[kFreeSelector / 8] | 3ull << 45) & ~(1ull << 47);
  user_expect("call-gate-not-present", run64(u_call_gate, USER(scratch), 0, 0), 11, kFreeSelector);
}

// ---- far transfers inside ring 0, through 32-bit code ----
static void kernel_compat(void* out) {
  word result;
  __asm__ volatile(
      "mov %%rsp, %%rbx\n"
      "pushq %1; pushq $1f; lretq\n"
      ".code32; 1: movl $-1, %%eax; .byte 0x40; /* inc eax */ movl %%esp, %%ecx; ljmp $8, $2f\n"
      ".code64; 2: mov %%rbx, %%rsp; mov %%cs, %%ecx; add %%ecx, %%eax"
      : "=a"(result)
      : "i"(kKernelCs32)
      : "rbx", "rcx", "memory", "cc");
  *(word*)out = result;
}

void guest_main(void) {
  write_cr4(read_cr4() & ~(word)(CR4_SMEP | CR4_SMAP | CR4_UMIP | CR4_FSGSBASE));
  *entry_for(LOW_ALIAS, 4) |= PTE_U;
  *entry_for(LOW_ALIAS, 3) |= PTE_U;
  for (word at = 0; at < 0x800000; at += 0x200000) map(LOW_ALIAS + at, at, PTE_P | PTE_W | PTE_U, 2);
  *entry_for(LOW_ALIAS, 2) = 0;  // page 0 gets tables of its own, so that its lowest page is absent
  for (word at = 0x1000; at < 0x200000; at += 0x1000) map(LOW_ALIAS + at, at, PTE_P | PTE_W | PTE_U, 1);
  map(LOW_ALIAS, 0, 0, 1);

  test_int_iret();
  test_iret_checks();
  test_privileged();
  test_controls();
  test_syscall();
  test_sysenter();
  test_compatibility();
  test_verify();
  test_call_gate();
  word result = 0;
  expect_no_trap("kernel-compat-runs", kernel_compat, &result);
  check_eq("kernel-compat-result", result, kKernelCs);
  finish();
}
