// SPDX-License-Identifier: Apache-2.0
// Virtual-8086 mode with and without CR4.VME, protected-mode virtual interrupts. [SDM-3B 21.2-21.4]
#include "guest.h"

void guest_main(void);

#define CR4_VME 1u
#define CR4_PVI 2u
#define FLAG_IOPL3 0x3000u
#define FLAG_VM (1u << 17)
#define FLAG_VIF (1u << 19)
#define FLAG_VIP (1u << 20)
#define CODE 0x8000u
enum { kV86Cs = (CODE >> 4) - 1, kStart = 0x10, kV86Ss = 0x903, kV86Sp = 0x100 };  // RPL 3: see trap_dispatch()
enum { kRedirection = 104, kIoMap = kRedirection + 32, kTssBytes = kIoMap + 9 };

uint8_t big_tss[kTssBytes] __attribute__((aligned(256)));

static void set_tss_limit(unsigned limit) {
  const uint32_t base = (uint32_t)big_tss;
  gdt[kFreeSelector / 8] = limit | (uint64_t)(base & 0xffffff) << 16 | 0x89ull << 40 | (uint64_t)(base >> 24) << 56;
  __asm__ volatile("ltr %w0" ::"r"(kFreeSelector));
}
static void redirect(unsigned vector, bool to_program) {
  big_tss[kRedirection + vector / 8] = (uint8_t)(to_program ? 0 : 0xff);
}

static void enter_v86(void* flags) {
  __asm__ volatile(
      "mov %%esp, big_tss_esp0\n"
      "push $0; push $0; push $0; push $0\n"
      "push %1; push %2; push %0; push %3; push %4\n"
      "iret" ::"r"((uint32_t)flags | FLAG_VM | 2),
      "i"(kV86Ss), "i"(kV86Sp), "i"(kV86Cs), "i"(kStart)
      : "memory");
}
__asm__(".globl big_tss_esp0; .set big_tss_esp0, big_tss + 4");

// Runs a program until it faults (HLT does, with #GP); its EFLAGS are in trap.flags.
static int run_v86(const char* start, const char* end, uint32_t flags) {
  memcpy((void*)CODE, start, (size_t)(end - start));
  return trap_call(enter_v86, (void*)flags);
}
#define PROGRAM(name, text)                      \
  extern char name[], name##_at[], name##_end[]; \
  __asm__(".code16; " #name ": " text "\n" #name "_at: hlt; " #name "_end: .code32")
#define RUN(name, flags) run_v86(name, name##_end, flags)
#define AT(name) (kStart + (uint32_t)(name##_at - name))
static void expect_end(const char* what, int vector, uint32_t ip) {
  check(what, vector == 13 && trap.error == 0 && trap.ip == ip && trap.cs == kV86Cs && (trap.flags & FLAG_VM));
  if (vector == 13 && trap.ip == ip) return;
  print("  vector ");
  print_hex((unsigned)vector);
  print(" ip ");
  print_hex(trap.ip);
  print("\n");
}
#define EXPECT_DONE(what, name, flags) expect_end(what, RUN(name, flags), AT(name))
#define EXPECT_GP(what, name, flags, ip) expect_end(what, RUN(name, flags), kStart + (ip))
static void expect_flags(const char* what, uint32_t mask, uint32_t want) { check_eq(what, trap.flags & mask, want); }

PROGRAM(p_nothing, "nop");
PROGRAM(p_cli, "cli");
PROGRAM(p_sti, "sti");
PROGRAM(p_pushf, "pushf; pop %ax");
PROGRAM(p_pushfl, "pushfl; pop %eax");
PROGRAM(p_popf_0, "push $0x0000; popf");
PROGRAM(p_popf_if, "push $0x0200; popf");
PROGRAM(p_popf_cf, "push $0x3201; popf");
PROGRAM(p_popf_tf, "push $0x0100; popf");
PROGRAM(p_popfl, "pushl $0x0200; popfl");
PROGRAM(p_iret_if, "push $0x0201; push %cs; push $0x18; iret; .org p_iret_if + 8; nop");
PROGRAM(p_iret_0, "push $0x0000; push %cs; push $0x17; iret; .org p_iret_0 + 7; nop");
PROGRAM(p_iret_tf, "push $0x0100; push %cs; push $0x18; iret");
PROGRAM(p_iretl, "pushl $0x0200; pushl $0x7ff; pushl $0x10; iretl");
PROGRAM(p_int, "int $0x40");
PROGRAM(p_int_stc, "stc; int $0x40");
PROGRAM(p_int3, "int3");
PROGRAM(p_handler, "pop %ax; pop %bx; pop %cx; pushf; pop %dx");

static void test_plain(void) {
  const uint32_t low = 0, high = FLAG_IOPL3;
  EXPECT_DONE("v86-nop", p_nothing, low);
  EXPECT_GP("v86-cli-iopl-0", p_cli, low, 0);
  EXPECT_GP("v86-sti-iopl-0", p_sti, low, 0);
  EXPECT_GP("v86-pushf-iopl-0", p_pushf, low, 0);
  EXPECT_GP("v86-popf-iopl-0", p_popf_0, low, 2);
  EXPECT_GP("v86-int-iopl-0", p_int, low, 0);
  EXPECT_GP("v86-iret-iopl-0", p_iret_if, low, 6);
  EXPECT_DONE("v86-cli-iopl-3", p_cli, high | FLAG_IF);
  expect_flags("v86-cli-clears-if", FLAG_IF | FLAG_VIF, 0);
  EXPECT_DONE("v86-pushf-iopl-3", p_pushf, high);
  check_eq("v86-pushf-value", user_result.rax & 0xffff, 0x3002);
  EXPECT_DONE("v86-popf-iopl-3", p_popf_if, high);
  expect_flags("v86-popf-sets-if", FLAG_IF | FLAG_IOPL3, FLAG_IF | FLAG_IOPL3);
  check_eq("v86-int3", (unsigned)RUN(p_int3, low), 3);
}

static void test_vme_flags(void) {
  EXPECT_DONE("vme-cli", p_cli, FLAG_VIF | FLAG_IF);
  expect_flags("vme-cli-clears-vif-alone", FLAG_IF | FLAG_VIF, FLAG_IF);
  EXPECT_DONE("vme-sti", p_sti, 0);
  expect_flags("vme-sti-sets-vif-alone", FLAG_IF | FLAG_VIF, FLAG_VIF);
  EXPECT_GP("vme-sti-vip", p_sti, FLAG_VIP, 0);
  EXPECT_DONE("vme-cli-vip", p_cli, FLAG_VIP);
  EXPECT_DONE("vme-pushf", p_pushf, FLAG_VIF);
  check_eq("vme-pushf-shows-vif-as-if", user_result.rax & 0xffff, 0x3202);
  EXPECT_DONE("vme-pushf-if", p_pushf, FLAG_IF);
  check_eq("vme-pushf-hides-if", user_result.rax & 0xffff, 0x3002);
  EXPECT_GP("vme-pushfd", p_pushfl, 0, 0);
  EXPECT_DONE("vme-popf-0", p_popf_0, FLAG_VIF | FLAG_IF);
  expect_flags("vme-popf-clears-vif-alone", FLAG_IF | FLAG_VIF, FLAG_IF);
  EXPECT_DONE("vme-popf-if", p_popf_cf, 0);
  expect_flags("vme-popf-keeps-if-and-iopl", FLAG_IF | FLAG_VIF | FLAG_IOPL3 | FLAG_CF, FLAG_VIF | FLAG_CF);
  EXPECT_GP("vme-popf-tf", p_popf_tf, 0, 3);
  EXPECT_GP("vme-popf-vip", p_popf_if, FLAG_VIP, 3);
  check_eq("vme-popf-fault-keeps-sp", trap.sp, kV86Sp - 2);
  EXPECT_GP("vme-popfd", p_popfl, 0, 6);
  EXPECT_DONE("vme-iret-if", p_iret_if, 0);
  expect_flags("vme-iret-sets-vif", FLAG_IF | FLAG_VIF | FLAG_CF, FLAG_VIF | FLAG_CF);
  EXPECT_DONE("vme-iret-0", p_iret_0, FLAG_VIF | FLAG_IF);
  expect_flags("vme-iret-clears-vif", FLAG_IF | FLAG_VIF, FLAG_IF);
  EXPECT_GP("vme-iret-tf", p_iret_tf, 0, 6);
  EXPECT_GP("vme-iret-vip", p_iret_if, FLAG_VIP, 6);
  EXPECT_GP("vme-iretd", p_iretl, 0, 15);
  EXPECT_DONE("vme-iopl-3-cli", p_cli, FLAG_IOPL3 | FLAG_IF | FLAG_VIF);
  expect_flags("vme-iopl-3-cli-clears-if", FLAG_IF | FLAG_VIF, FLAG_VIF);
  if (!tcg_lacks("vme-vif-and-vip")) EXPECT_GP("vme-vif-and-vip", p_nothing, FLAG_VIF | FLAG_VIP, 0);  // [SDM-3B 21.3.3.4]
}

// INT 0x40: to the program's own handler at p_handler, or to the monitor.
static void test_redirection(void) {
  memcpy((void*)0x9f10, p_handler, (size_t)(p_handler_end - p_handler));
  static volatile uint32_t* volatile vectors = (volatile uint32_t*)0;
  vectors[0x40] = 0x9efu << 16 | 0x20;
  set_gate_options(0x40, 0, 3, false);
  redirect(0x40, true);
  check_eq("redirected-int", (unsigned)RUN(p_int_stc, FLAG_VIF | FLAG_IF), 13);
  check("redirected-handler", trap.cs == 0x9ef && trap.ip == 0x20 + (uint32_t)(p_handler_at - p_handler));
  check_eq("redirected-return-ip", user_result.rax & 0xffff, kStart + 3);
  check_eq("redirected-return-cs", user_result.rbx & 0xffff, kV86Cs);
  check_eq("redirected-flags-pushed", user_result.rcx & 0xffff, 0x3203);
  check_eq("redirected-vif-cleared", trap.flags & (FLAG_VIF | FLAG_IF | FLAG_IOPL3), FLAG_IF);
  check_eq("redirected-int-iopl-3", (unsigned)RUN(p_int_stc, FLAG_IOPL3 | FLAG_IF | FLAG_VIF), 13);
  check_eq("redirected-iopl-3-flags-pushed", user_result.rcx & 0xffff, 0x3203);
  check_eq("redirected-iopl-3-if-cleared", trap.flags & (FLAG_VIF | FLAG_IF), FLAG_VIF);
  redirect(0x40, false);
  EXPECT_GP("not-redirected-iopl-0", p_int, 0, 0);
  check_eq("not-redirected-iopl-3", (unsigned)RUN(p_int, FLAG_IOPL3), 0x40);
  redirect(3, true);
  check_eq("int3-is-not-redirected", (unsigned)RUN(p_int3, FLAG_IOPL3), 3);
  redirect(0x40, true);
  set_tss_limit(kRedirection + 7);  // without the byte for vector 0x40
  if (!tcg_lacks("redirection-beyond-tss")) EXPECT_GP("redirection-beyond-tss", p_int, FLAG_IOPL3, 0);
  set_tss_limit(kTssBytes - 1);
}

extern char u_cli[], u_sti[], u_pushf[];
__asm__("u_cli: cli; int $0xf0; u_sti: sti; int $0xf0; u_pushf: pushf; pop %eax; int $0xf0");
static int run_ring3(const void* code, uint32_t flags) {
  const struct user_entry entry = {.ip = (word)code, .sp = (word)user_stack_top, .flags = flags};
  return run_user(&entry);
}
static void test_pvi(void) {
  write_cr4(read_cr4() & ~CR4_PVI);
  check_eq("no-pvi-cli", (unsigned)run_ring3(u_cli, FLAG_VIF), 13);
  write_cr4(read_cr4() | CR4_PVI);
  check_eq("pvi-cli", (unsigned)run_ring3(u_cli, FLAG_VIF), kUserReturnVector);
  expect_flags("pvi-cli-clears-vif", FLAG_VIF | FLAG_IF, 0);
  check_eq("pvi-sti", (unsigned)run_ring3(u_sti, 0), kUserReturnVector);
  expect_flags("pvi-sti-sets-vif-alone", FLAG_VIF | FLAG_IF, FLAG_VIF);
  check_eq("pvi-sti-vip", (unsigned)run_ring3(u_sti, FLAG_VIP), 13);
  check_eq("pvi-pushf", (unsigned)run_ring3(u_pushf, FLAG_VIF), kUserReturnVector);
  check_eq("pvi-pushf-shows-if", user_result.rax & (FLAG_IF | FLAG_IOPL3 | FLAG_VIF), FLAG_VIF);
  check_eq("pvi-iopl-3-sti", (unsigned)run_ring3(u_sti, FLAG_IOPL3), kUserReturnVector);
  expect_flags("pvi-iopl-3-sets-if", FLAG_VIF | FLAG_IF, FLAG_IF);
  write_cr4(read_cr4() & ~CR4_PVI);
}

void guest_main(void) {
  const uint16_t io_map = kIoMap;
  memcpy(big_tss + 102, &io_map, 2);
  big_tss[8] = kKernelDs;
  memset(big_tss + kRedirection, 0xff, 32);
  if (!tcg_lacks("pvi")) {  // run_user() needs the library's TSS
    check("cpuid-vme", cpuid(1, 0).edx & 2);
    test_pvi();
  }
  set_tss_limit(kTssBytes - 1);
  test_plain();
  if (!tcg_lacks("vme")) {  // its processors do not have it
    write_cr4(read_cr4() | CR4_VME);
    test_vme_flags();
    test_redirection();
  }
  finish();
}
