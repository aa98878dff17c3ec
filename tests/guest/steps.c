// SPDX-License-Identifier: Apache-2.0
// Single steps through what changes TF, privilege or the flow of control: where each trap lies. [SDM-3B 18.3.1.4]
#include "guest.h"

void guest_main(void);

enum { kMostTraps = 32, kTrapFlag = 0x100, kStar = 0xc0000081, kLstar = 0xc0000082, kSfmask = 0xc0000084 };
static word traps[kMostTraps];
static unsigned trap_total;
static bool others;  // a debug exception that is no single step
static bool on_debug(struct frame* frame) {
  if (!(read_dr6() & 0x4000)) others = true;
  write_dr6(0);
  if (trap_total < kMostTraps) traps[trap_total] = frame->ip;
  ++trap_total;
  if (trap_total >= kMostTraps) frame->flags &= ~(word)kTrapFlag;
  return true;
}
static void begin(void) {
  trap_total = 0;
  others = false;
}
static void traps_are(const char* name, unsigned count, const word* want) {
  bool same = count == trap_total && !others;
  for (unsigned i = 0; i < count && same; ++i) same = traps[i] == want[i];
  check(name, same);
  if (same) return;
  for (unsigned i = 0; i < trap_total && i < kMostTraps; ++i) {
    print("  ");
    print_hex(traps[i]);
  }
  print(", want");
  for (unsigned i = 0; i < count; ++i) {
    print("  ");
    print_hex(want[i]);
  }
  print("\n");
}
#define TRAPS(name, ...)                                                        \
  do {                                                                          \
    const word want[] = {__VA_ARGS__};                                          \
    traps_are(name, ARRAY_SIZE(want), want);                                    \
  } while (0)

#define TF_ON "pushfq; orl $0x100, (%rsp); popfq\n"
#define TF_OFF "pushfq; andl $~0x100, (%rsp); popfq\n"
// A function with labels inside.
#define STEPS(name, text) \
  void name(void);        \
  __asm__(".globl " #name "\n" #name ":\n" text "\n ret\n")
#define LABEL(name) extern char name[]
#define AT(name) ((word)(name))

// TF comes and goes with IRET: it traps if TF was set before it.
LABEL(iret_target), iret_target_next[], iret_at[], iret_a[], iret_b[], iret_c[], iret_d[];
STEPS(step_iret_sets,
      "mov %rsp, %rdx; mov %ss, %eax; push %rax; push %rdx; pushfq; orl $0x100, (%rsp); mov %cs, %eax; push %rax\n"
      "lea iret_target(%rip), %rax; push %rax; iretq\n"
      "iret_target: nop\niret_target_next: pushfq; iret_b: andl $~0x100, (%rsp); iret_c: popfq; iret_d:");
LABEL(cleared_target), cleared_a[];
STEPS(step_iret_clears,
      "mov %rsp, %rdx; mov %ss, %eax; push %rax; push %rdx; pushfq; mov %cs, %eax; push %rax\n"
      "lea cleared_target(%rip), %rax; push %rax\n" TF_ON
      "cleared_a: iretq\n nop\n"
      "cleared_target: nop; nop");
// Branches, STI, and an interrupt's way there and back.
LABEL(flow_1), flow_2[], flow_3[], flow_4[], flow_5[], flow_6[], flow_7[], flow_8[], flow_9[];
STEPS(step_flow,
      TF_ON
      "jmp flow_1\n ud2\nflow_1: call flow_4\nflow_2: xor %eax, %eax\nflow_3: jz flow_5\n ud2\nflow_4: ret\n"
      "flow_5: mov $2, %ecx\nflow_6: loop flow_6\nflow_7: pushfq; flow_8: andl $~0x100, (%rsp); flow_9: popfq\nflow_end:");
LABEL(flow_end);
LABEL(sti_1), sti_2[], sti_3[], sti_4[], sti_5[], sti_6[];
STEPS(step_sti, TF_ON "sti\nsti_1: cli\nsti_2: nop\nsti_3: pushfq; sti_4: andl $~0x100, (%rsp); sti_5: popfq\nsti_6:");
LABEL(rep_1), rep_2[], rep_3[], rep_4[];
STEPS(step_rep,
      "mov $3, %ecx; lea step_buffer(%rip), %rdi; mov %rdi, %rsi; cld\n" TF_ON
      "rep_at: rep movsb\nrep_1: pushfq; rep_2: andl $~0x100, (%rsp); rep_3: popfq\nrep_4:");
LABEL(rep_at);
uint8_t step_buffer[16];
// Instructions that end their block or are emulated, one each.
LABEL(sys_1), sys_2[], sys_3[], sys_4[], sys_5[], sys_6[];
STEPS(step_system,
      "push %rbx\n" TF_ON
      "mov %cr0, %rax\nsys_1: mov %rax, %cr0\nsys_2: xor %eax, %eax\nsys_3: rdtsc\nsys_4: pushfq; sys_5: andl $~0x100, (%rsp); sys_6: popfq\n"
      "sys_7: pop %rbx");
LABEL(sys_7);

// SYSCALL: the mask that clears TF drops the trap; SYSRET traps at once where it loads TF.
LABEL(u_syscall), u_after[], u_after_next[];
__asm__(
    "u_syscall: nop; syscall\n"
    "u_after: nop\n"
    "u_after_next: int $0xf0\n");
LABEL(k_entry), k_sysret[];
__asm__(
    "k_entry: or flags_or(%rip), %r11\n and flags_and(%rip), %r11\n"
    "k_sysret: sysretq\n");
word flags_or, flags_and;

static void run_syscall(word user_flags, word mask, word set, word clear) {
  flags_or = set;
  flags_and = ~clear;
  wrmsr(kSfmask, mask);
  const struct user_entry entry = {.ip = USER(u_syscall), .flags = user_flags};
  begin();
  run_user(&entry);
}

void guest_main(void) {
  set_handler(1, on_debug);
  begin();
  step_iret_sets();
  TRAPS("iret-sets-tf", AT(iret_target_next), AT(iret_b), AT(iret_c), AT(iret_d));
  begin();
  step_iret_clears();
  TRAPS("iret-clears-tf", AT(cleared_target));
  begin();
  step_flow();
  TRAPS("branches", AT(flow_1), AT(flow_4), AT(flow_2), AT(flow_3), AT(flow_5), AT(flow_6), AT(flow_6), AT(flow_7), AT(flow_8),
        AT(flow_9), AT(flow_end));
  begin();
  step_sti();
  if (!tcg_lacks("sti"))
    TRAPS("sti", AT(sti_1), AT(sti_2), AT(sti_3), AT(sti_4), AT(sti_5), AT(sti_6));
  begin();
  step_rep();
  TRAPS("rep-each-iteration", AT(rep_at), AT(rep_at), AT(rep_1), AT(rep_2), AT(rep_3), AT(rep_4));
  begin();
  step_system();
  TRAPS("system-instructions", AT(sys_1), AT(sys_2), AT(sys_3), AT(sys_4), AT(sys_5), AT(sys_6), AT(sys_7));

  wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
  wrmsr(kStar, (uint64_t)(kUserCs32 & ~3u) << 48 | (uint64_t)kKernelCs << 32);
  wrmsr(kLstar, (word)k_entry);
  // TF set in ring 3, cleared by the mask, and set again by SYSRET.
  run_syscall(kTrapFlag, kTrapFlag, 0, 0);
  TRAPS("syscall-sysret-masked", USER(u_syscall) + 1, USER(u_after), USER(u_after_next));
  // Not cleared by the mask: the kernel is stepped, too.
  run_syscall(kTrapFlag, 0, 0, 0);
  check("syscall-unmasked", trap_total == 6 && traps[1] == (word)k_entry && traps[3] == (word)k_sysret && traps[4] == USER(u_after));
  // SYSRET alone sets it: a trap before the next instruction, unlike IRET. It clears it: none.
  run_syscall(0, kTrapFlag, kTrapFlag, 0);
  TRAPS("sysret-sets-tf", USER(u_after), USER(u_after_next));
  run_syscall(kTrapFlag, kTrapFlag, 0, kTrapFlag);
  TRAPS("sysret-leaves-it-clear", USER(u_syscall) + 1);
  set_handler(1, 0);
  finish();
}
