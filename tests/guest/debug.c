// SPDX-License-Identifier: Apache-2.0
// The debug registers: data, instruction and I/O breakpoints, what DR6 says of them, RF, deferral after MOV SS, general
// detection. [SDM-3B 18.2, 18.3]
#include "guest.h"

void guest_main(void);

enum { kExecute = 0, kWrite = 1, kPort = 2, kReadWrite = 3 };
enum { kB0 = 1, kB1 = 2, kB2 = 4, kB3 = 8, kBd = 1 << 13, kBs = 1 << 14 };
#define DR6_BITS 0xe00f
#define DR6_CLEAR 0xffff0ff0

static uint8_t buffer[8192] __attribute__((aligned(4096)));
static uint8_t other[4096] __attribute__((aligned(4096), used));

// ---- what #DB reports ----
static struct event {
  word ip, dr6, flags, rcx, rdi;
} events[64];
static unsigned event_count;
static bool set_rf = true;  // for instruction breakpoints: without it they come again
static unsigned stop_after;  // then all breakpoints are turned off
static bool on_debug(struct frame* frame) {
  const struct event event = {frame->ip, read_dr6(), frame->flags, frame->rcx, frame->rdi};
  if (event_count < ARRAY_SIZE(events)) events[event_count] = event;
  ++event_count;
  write_dr6(DR6_CLEAR);
  if (set_rf) frame->flags |= FLAG_RF;
  if (stop_after && event_count >= stop_after) {
    write_dr7(0x400);
    frame->flags &= ~(word)FLAG_TF;
  }
  return true;
}

static void write_dr(unsigned index, word value) {
  switch (index) {
    case 0: __asm__ volatile("mov %0, %%dr0" ::"r"(value)); break;
    case 1: __asm__ volatile("mov %0, %%dr1" ::"r"(value)); break;
    case 2: __asm__ volatile("mov %0, %%dr2" ::"r"(value)); break;
    default: __asm__ volatile("mov %0, %%dr3" ::"r"(value)); break;
  }
}
static word dr7_value = 0x400;
static void clear_watches(void) {
  dr7_value = 0x400;
  write_dr7(dr7_value);
  write_dr6(DR6_CLEAR);
  event_count = 0;
}
static void watch_with(unsigned index, word address, unsigned kind, unsigned length, unsigned enable) {
  const unsigned code = length == 8 ? 2 : length - 1;
  dr7_value &= ~(word)(15u << (16 + 4 * index) | 3u << (2 * index));
  dr7_value |= (word)(kind | code << 2) << (16 + 4 * index) | enable << (2 * index);
  write_dr(index, address);
  write_dr7(dr7_value);
}
static void watch(unsigned index, word address, unsigned kind, unsigned length) { watch_with(index, address, kind, length, 1); }

// A function whose instruction `insn` is looked at, with its argument in RDI: labels name, name_at and name_next.
#define CODE(name, before, insn, after)             \
  extern char name[], name##_at[], name##_next[];   \
  __asm__(#name ": " before "\n" #name "_at: " insn \
                "\n" #name "_next: " after "\n ret")
static void call(char* code, const void* argument) {
  event_count = 0;
  __asm__ volatile("call *%1" : "+D"(argument) : "r"(code) : "rax", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "memory", "cc");
}

static void print_events(void) {
  for (unsigned i = 0; i < event_count && i < 8; ++i) {
    print("  ip ");
    print_hex(events[i].ip);
    print(" dr6 ");
    print_hex(events[i].dr6);
    print(" flags ");
    print_hex(events[i].flags);
    print("\n");
  }
}
// One trap behind the instruction.
static void expect_hit(const char* name, char* code, char* next, const void* argument, word bits) {
  call(code, argument);
  const bool passed = event_count == 1 && events[0].ip == (word)next && (events[0].dr6 & DR6_BITS) == bits && !(events[0].flags & FLAG_RF);
  check(name, passed);
  if (passed) return;
  print("  wanted ip ");
  print_hex((word)next);
  print(" dr6 ");
  print_hex(bits);
  print("\n");
  print_events();
}
static void expect_miss(const char* name, char* code, const void* argument) {
  call(code, argument);
  check(name, event_count == 0);
  if (event_count) print_events();
}
#define HIT(name, code, argument, bits) expect_hit(name, code, code##_next, argument, bits)

// ---- data ----
CODE(store1, "", "movb $1, (%rdi)", "");
CODE(store2, "", "movw $1, (%rdi)", "");
CODE(store4, "", "movl $1, (%rdi)", "");
CODE(store8, "", "movq $1, (%rdi)", "");
CODE(load1, "", "movb (%rdi), %al", "");
CODE(load4, "", "movl (%rdi), %eax", "");
CODE(load8, "", "movq (%rdi), %rax", "");
CODE(add4, "", "addl $1, (%rdi)", "");
CODE(compare4, "", "cmpl $1, (%rdi)", "");
CODE(exchange4, "", "xchgl %eax, (%rdi)", "");
CODE(locked_add, "", "lock addl $1, (%rdi)", "");
CODE(failing_cmpxchg, "mov $0x12345, %eax", "lock cmpxchgl %ecx, (%rdi)", "");
CODE(push_memory, "", "pushq (%rdi)", "pop %rax");
CODE(pop_memory, "push $7", "popq (%rdi)", "");
CODE(call_memory, "", "call *(%rdi)", "");
CODE(store_sse, "", "movaps %xmm0, (%rdi)", "");
CODE(load_sse, "", "movaps (%rdi), %xmm0", "");
CODE(store_x87, "fninit; fld1", "fstps (%rdi)", "");
CODE(save_fx, "", "fxsave (%rdi)", "");
CODE(store_moffs, "mov %rdi, %rdx", "lock bts $3, (%rdx)", "");
CODE(flush_line, "", "clflush (%rdi)", "");
CODE(lea_only, "", "lea (%rdi), %rax", "");
CODE(store_two, "", "movl $1, (%rdi)", "movl $2, 64(%rdi); movl $3, 128(%rdi)");
CODE(sgdt_store, "", "sgdt (%rdi)", "");
CODE(string_store, "mov $5, %eax; cld", "stosl", "");
CODE(string_load, "mov %rdi, %rsi; cld", "lodsl", "");
CODE(string_compare, "mov %rdi, %rsi; lea other, %rdi; cld", "cmpsb", "");

static void test_lengths(void) {
  uint8_t* const at = &buffer[256];
  static const unsigned kLengths[] = {1, 2, 4, 8};
  bool inside = true, outside = true, reads = true;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned length = kLengths[i];
    watch(0, (word)at, kWrite, length);
    for (int offset = -9; offset < 9; ++offset) {
      static char* const kStores[] = {store1, store2, store4, store8};
      static char* const kNext[] = {store1_next, store2_next, store4_next, store8_next};
      for (unsigned s = 0; s < 4; ++s) {
        const int size = (int)kLengths[s];
        call(kStores[s], at + offset);
        const bool overlaps = offset < (int)length && offset + size > 0;
        if (overlaps)
          inside = inside && event_count == 1 && events[0].ip == (word)kNext[s] && (events[0].dr6 & DR6_BITS) == kB0;
        else
          outside = outside && event_count == 0;
      }
      call(load8, at + offset);
      reads = reads && event_count == 0;
    }
  }
  check("data-every-overlap", inside);
  if (!tcg_lacks("data-no-other")) check("data-no-other", outside);  // [SDM-3B 18.2.5]
  check("data-write-only", reads);
  clear_watches();
  // The low bits of the address are not looked at. [SDM-3B 18.2.5]
  if (!tcg_lacks("data-aligned-down")) {
    watch(0, (word)at + 3, kWrite, 4);
    HIT("data-aligned-down", store1, at, kB0);
    expect_miss("data-aligned-down-end", store1, at + 4);
    watch(0, (word)at + 7, kWrite, 8);
    HIT("data-aligned-down-8", store1, at + 1, kB0);
    clear_watches();
  }
}

static void test_data(void) {
  uint8_t* const at = &buffer[512];
  watch(0, (word)at, kWrite, 4);
  *(uint32_t*)at = 0;
  HIT("data-store", store4, at, kB0);
  check_eq("data-store-is-done", *(uint32_t*)at, 1);
  HIT("data-read-modify-write", add4, at, kB0);
  expect_miss("data-compare-reads", compare4, at);
  HIT("data-xchg", exchange4, at, kB0);
  HIT("data-locked", locked_add, at, kB0);
  HIT("data-cmpxchg-writes-always", failing_cmpxchg, at, kB0);
  HIT("data-bts", store_moffs, at, kB0);
  HIT("data-pop-memory", pop_memory, at, kB0);
  HIT("data-sse", store_sse, at, kB0);
  HIT("data-x87", store_x87, at, kB0);
  HIT("data-fxsave", save_fx, at - 256, kB0);
  HIT("data-stos", string_store, at, kB0);
  HIT("data-sgdt", sgdt_store, at - 4, kB0);
  expect_miss("data-lods-reads", string_load, at);
  expect_miss("data-lea", lea_only, at);
  expect_miss("data-same-page", store4, at + 8);
  HIT("data-block-goes-on", store_two, at, kB0);
  check_eq("data-block-went-on", *(uint32_t*)(at + 128), 3);
  HIT("data-store-in-the-middle", store4, at - 2, kB0);
  check_eq("data-store-in-the-middle-done", *(uint32_t*)(at - 2), 1);
  watch(0, (word)at, kReadWrite, 4);
  HIT("data-rw-load", load4, at, kB0);
  if (!tcg_lacks("data-rw-clflush")) HIT("data-rw-clflush", flush_line, at, kB0);  // a load [SDM-2A CLFLUSH]
  HIT("data-rw-load-byte", load1, at + 3, kB0);
  HIT("data-rw-store", store4, at, kB0);
  HIT("data-rw-compare", compare4, at, kB0);
  HIT("data-rw-push-memory", push_memory, at - 4, kB0);
  HIT("data-rw-load-sse", load_sse, at, kB0);
  HIT("data-rw-lods", string_load, at, kB0);
  HIT("data-rw-cmps", string_compare, at, kB0);
  expect_miss("data-rw-same-page", load4, at + 4);
  *(word*)(at - 4) = (word)lea_only;
  call(call_memory, at - 4);
  check("data-rw-call-memory", event_count == 1 && events[0].ip == (word)lea_only);
  if (event_count != 1) print_events();
  // Other registers, and L and G.
  clear_watches();
  for (unsigned i = 0; i < 4; ++i) {
    watch_with(i, (word)at, kWrite, 1, i & 1 ? 2 : 1);
    HIT("data-each-register", store1, at, 1ul << i);
    clear_watches();
  }
  watch(1, (word)at, kWrite, 4);
  watch(3, (word)at + 2, kReadWrite, 1);
  if (!tcg_lacks("data-two-at-once")) HIT("data-two-at-once", store4, at, kB1 | kB3);  // [SDM-3B 18.2.3]
  watch_with(1, (word)at, kWrite, 4, 0);
  HIT("data-disabled", store1, at + 2, kB3);
  clear_watches();
  expect_miss("data-off", store4, at);
  // Across pages, either side.
  watch(0, (word)buffer + 4096, kWrite, 1);
  HIT("data-page-crossing-second", store4, buffer + 4094, kB0);
  watch(0, (word)buffer + 4095, kWrite, 1);
  HIT("data-page-crossing-first", store8, buffer + 4092, kB0);
  expect_miss("data-page-crossing-not", store1, buffer + 4096);
  clear_watches();
  // By linear address: the same memory elsewhere does not match. [SDM-3B 18.2.1]
  watch(0, (word)at, kReadWrite, 8);
  expect_miss("data-other-mapping", store8, (void*)USER(at));
  write_dr(0, USER(at));
  HIT("data-this-mapping", store8, (void*)USER(at), kB0);
  clear_watches();
}

// A hot loop that has run before the breakpoint is set, and in which it is set.
CODE(loop_store, "mov $1000, %ecx", "1: movl %ecx, (%rdi); dec %ecx; jnz 1b", "");
CODE(loop_load, "mov $1000, %ecx", "1: movl (%rdi), %eax; add $4, %rdi; dec %ecx; jnz 1b", "");
static void test_data_hot(void) {
  expect_miss("data-hot-before", loop_store, buffer);
  watch(0, (word)buffer, kWrite, 4);
  stop_after = 3;
  call(loop_store, buffer);
  stop_after = 0;
  check("data-hot-stops", event_count == 3);
  check("data-hot-count", events[0].rcx == 1000 && events[1].rcx == 999 && events[2].rcx == 998);
  check_eq("data-hot-went-on", *(uint32_t*)buffer, 1);
  clear_watches();
  call(loop_load, buffer);
  watch(2, (word)buffer + 2000, kReadWrite, 4);
  call(loop_load, buffer);
  check("data-hot-load-once", event_count == 1 && events[0].rcx == 1000 - 500 && (events[0].dr6 & DR6_BITS) == kB2);
  clear_watches();
}

// ---- repeated strings ----
CODE(rep_stos, "mov $8, %ecx; xor %eax, %eax; cld", "rep stosl", "");
CODE(rep_movs, "mov $8, %ecx; lea other, %rsi; cld", "rep movsl", "");
CODE(rep_scas, "mov $8, %ecx; mov $-1, %eax; cld", "repne scasl", "");
static void test_repeat(void) {
  memset(buffer, 0, 64);
  watch(0, (word)buffer + 8, kWrite, 4);
  // After the iteration that wrote it, with RF set because iterations are left. [SDM-3B 18.3.1.1, 18.3.1.2]
  static char* const kCodes[] = {rep_stos, rep_movs};
  static char* const kAt[] = {rep_stos_at, rep_movs_at};
  static char* const kNext[] = {rep_stos_next, rep_movs_next};
  for (unsigned i = 0; i < 2; ++i) {
    call(kCodes[i], buffer);
    check("rep-once", event_count == 1);
    check("rep-after-the-iteration", events[0].ip == (word)kAt[i] && events[0].rcx == 5 && events[0].rdi == (word)buffer + 12);
    if (!tcg_lacks("rep-resume-flag")) check("rep-resume-flag", events[0].flags & FLAG_RF);
  }
  watch(0, (word)buffer + 28, kWrite, 4);
  for (unsigned i = 0; i < 2; ++i) {
    call(kCodes[i], buffer);
    if (tcg_lacks("rep-last-iteration")) continue;  // TCG traps before RIP has moved on
    check("rep-last-iteration", event_count == 1 && events[0].ip == (word)kNext[i] && events[0].rcx == 0 && !(events[0].flags & FLAG_RF));
    if (event_count != 1) print_events();
  }
  watch(0, (word)buffer + 4, kReadWrite, 4);
  call(rep_scas, buffer);
  check("rep-scas", event_count == 1 && events[0].ip == (word)rep_scas_at && events[0].rcx == 6);
  clear_watches();
}

// ---- instructions ----
CODE(three, "nop", "nop", "nop");
CODE(loop_body, "mov $100, %ecx", "1: nop; loop_inner: nop; dec %ecx; jnz 1b", "");
extern char loop_inner[];
CODE(system_insn, "xor %eax, %eax; push %rbx", "cpuid", "pop %rbx");
CODE(faulting, "", "mov (%rdi), %eax", "");
CODE(after_sti, "sti", "cli", "");
CODE(repeat_start, "mov $4, %ecx; cld", "rep stosb", "");
__asm__(".balign 4096; .skip 4096 - 6\n crossing: nop; nop; nop; crossing_at: movabs $0x1122334455667788, %rax; ret");
extern char crossing[], crossing_at[];

static void test_execute(void) {
  call(three, 0);
  watch(0, (word)three_at, kExecute, 1);
  call(three, 0);
  check("execute-once", event_count == 1);
  check("execute-before-it", events[0].ip == (word)three_at && (events[0].dr6 & DR6_BITS) == kB0);
  check("execute-image-without-rf", !(events[0].flags & FLAG_RF));  // [SDM-3B 18.3.1.1]
  set_rf = false;
  stop_after = 5;
  call(three, 0);
  check_eq("execute-without-rf-again", event_count, 5);
  set_rf = true;
  stop_after = 0;
  clear_watches();
  call(loop_body, 0);
  watch(1, (word)loop_inner, kExecute, 1);
  call(loop_body, 0);
  check_eq("execute-in-a-loop", event_count, 100);
  check("execute-in-a-loop-registers", events[0].rcx == 100 && events[1].rcx == 99 && events[63].rcx == 37);
  watch(2, (word)loop_body_at, kExecute, 1);
  call(loop_body, 0);
  check_eq("execute-two-in-a-loop", event_count, 200);
  check("execute-two-in-a-loop-bits", (events[0].dr6 & DR6_BITS) == kB2 && (events[1].dr6 & DR6_BITS) == kB1);
  clear_watches();
  expect_miss("execute-off", loop_body, 0);
  watch(0, (word)system_insn_at, kExecute, 1);
  call(system_insn, 0);
  check("execute-system-instruction", event_count == 1 && events[0].ip == (word)system_insn_at);
  // Not at the first byte: no instruction is there.
  watch(0, (word)system_insn_at + 1, kExecute, 1);
  expect_miss("execute-inside-an-instruction", system_insn, 0);
  watch(0, (word)after_sti_at, kExecute, 1);
  call(after_sti, 0);
  check("execute-after-sti", event_count == 1);
  watch(0, (word)crossing_at, kExecute, 1);
  call(crossing, 0);
  check("execute-page-crossing", event_count == 1 && events[0].ip == (word)crossing_at);
  watch(0, (word)crossing_at + 3, kExecute, 1);
  expect_miss("execute-second-page-is-no-start", crossing, 0);
  // A breakpoint on a repeated instruction comes once, before the first iteration.
  watch(0, (word)repeat_start_at, kExecute, 1);
  call(repeat_start, buffer);
  if (!tcg_lacks("execute-rep-once")) check("execute-rep-once", event_count == 1 && events[0].rcx == 4);  // TCG: each iteration
  // It comes before the fault of the same instruction; that fault's frame has RF set.
  watch(0, (word)faulting_at, kExecute, 1);
  event_count = 0;
  const int vector = trap_call((void (*)(void*))faulting, (void*)WINDOW);
  check("execute-before-fault", vector == 14 && event_count == 1 && trap.ip == (word)faulting_at);
  check("execute-fault-image-rf", trap.flags & FLAG_RF);
  // ... and before that of fetching it.
  watch(0, WINDOW, kExecute, 1);
  event_count = 0;
  check("execute-before-fetch-fault", trap_call((void (*)(void*))WINDOW, 0) == 14 && event_count == 1 && events[0].ip == WINDOW);
  clear_watches();
  // A data breakpoint, and one on the next instruction: one exception tells of both, as processors do it. Without RF
  // the instruction's own follows.
  if (!tcg_lacks("data-and-next-instruction")) {
    watch(0, (word)store4_next, kExecute, 1);
    watch(1, (word)buffer, kWrite, 4);
    HIT("data-and-next-instruction", store4, buffer, kB0 | kB1);
    set_rf = false;
    stop_after = 2;
    call(store4, buffer);
    check("data-then-instruction", event_count == 2 && events[1].ip == (word)store4_next && (events[1].dr6 & DR6_BITS) == kB0);
    set_rf = true;
    stop_after = 0;
    clear_watches();
  }
}

// The handler's first instruction, user code, the same page from two addresses.
static unsigned interrupted;
static bool on_interrupt(struct frame* frame) {
  (void)frame;
  ++interrupted;
  return true;
}
static void raise_interrupt(void* unused) {
  (void)unused;
  __asm__ volatile("int $0x90");
}
extern char vector_entries[], user_code[], user_code_at[];
__asm__("user_code: nop; user_code_at: nop; nop; int $0xf0");
static void test_execute_elsewhere(void) {
  set_handler(0x90, on_interrupt);
  event_count = 0;
  watch(0, (word)vector_entries + 0x90 * 16, kExecute, 1);
  raise_interrupt(0);
  check("execute-handler", event_count == 1 && interrupted == 1 && events[0].ip == (word)vector_entries + 0x90 * 16);
  const struct user_entry entry = {.ip = USER(user_code)};
  watch(0, (word)user_code_at, kExecute, 1);
  event_count = 0;
  check("execute-user-other-mapping", run_user(&entry) == kUserReturnVector && event_count == 0);
  watch(0, USER(user_code_at), kExecute, 1);
  event_count = 0;
  check("execute-user", run_user(&entry) == kUserReturnVector && event_count == 1 && events[0].ip == USER(user_code_at));
  clear_watches();
  set_handler(0x90, 0);
}

// ---- single steps beside breakpoints ----
CODE(step_store, "pushf; orl $0x100, (%rsp); popf", "movl $1, (%rdi)", "pushf; andl $~0x100, (%rsp); popf");
static void test_steps(void) {
  watch(0, (word)buffer, kWrite, 4);
  call(step_store, buffer);
  if (!tcg_lacks("step-and-data")) {
    check("step-and-data", event_count == 4 && events[0].ip == (word)step_store_next && (events[0].dr6 & DR6_BITS) == (kBs | kB0));
    check("step-alone", (events[1].dr6 & DR6_BITS) == kBs);
  }
  clear_watches();
  watch(0, (word)step_store_at, kExecute, 1);
  set_rf = true;
  call(step_store, buffer);
  check("execute-then-step", event_count == 5 && events[0].ip == (word)step_store_at && (events[0].dr6 & kB0) && events[1].ip == (word)step_store_next);
  clear_watches();
}

// ---- MOV SS, POP SS ----
CODE(load_ss, "", "mov (%rdi), %ss", "nop; load_ss_second: nop");
extern char load_ss_second[];
CODE(load_ss_twice, "", "mov (%rdi), %ss", "mov (%rdi), %ss; load_ss_twice_second: nop; nop");
extern char load_ss_twice_second[];
CODE(load_ss_step, "pushf; orl $0x100, (%rsp); popf", "mov (%rdi), %ss", "nop; load_ss_step_second: pushf; andl $~0x100, (%rsp); popf");
extern char load_ss_step_second[];
CODE(load_ss_int3, "", "mov (%rdi), %ss", "int3; load_ss_int3_after: nop");
static unsigned breakpoints_seen;
static word events_before_breakpoint;
static bool on_int3(struct frame* frame) {
  (void)frame;
  ++breakpoints_seen;
  events_before_breakpoint = event_count;
  return true;
}
static void test_stack_segment(void) {
  *(uint16_t*)buffer = kKernelDs;
  // Debug exceptions are held off with the interrupts, until after the next instruction. [SDM-3A 6.8.3]
  watch(0, (word)load_ss_next, kExecute, 1);
  if (!tcg_lacks("mov-ss-hides-instruction-breakpoint")) expect_miss("mov-ss-hides-instruction-breakpoint", load_ss, buffer);
  watch(0, (word)load_ss_second, kExecute, 1);
  call(load_ss, buffer);
  check("mov-ss-not-the-second", event_count == 1);
  clear_watches();
  watch(0, (word)buffer, kReadWrite, 2);
  call(load_ss, buffer);
  if (!tcg_lacks("mov-ss-data-deferred"))
    check("mov-ss-data-deferred", event_count == 1 && events[0].ip == (word)load_ss_second && (events[0].dr6 & DR6_BITS) == kB0);
  call(load_ss_step, buffer);
  if (!tcg_lacks("mov-ss-step-and-data"))
    check("mov-ss-step-and-data",
          event_count >= 1 && events[0].ip == (word)load_ss_step_second && (events[0].dr6 & DR6_BITS) == (kBs | kB0));
  // Of two in a row only the first is sure to. [SDM-2B MOV]
  call(load_ss_twice, buffer);
  if (!tcg_lacks("mov-ss-twice")) check("mov-ss-twice", event_count >= 1 && events[0].ip == (word)load_ss_twice_second);
  // The next instruction may be one that enters the kernel: the trap comes there, before its first instruction.
  set_handler(3, on_int3);
  breakpoints_seen = 0;
  call(load_ss_int3, buffer);
  if (!tcg_lacks("mov-ss-int3"))
    check("mov-ss-int3", event_count == 1 && events[0].ip == (word)vector_entries + 3 * 16 && breakpoints_seen == 1 && events_before_breakpoint == 1);
  set_handler(3, 0);
  clear_watches();
}

// ---- ports ----
CODE(out_byte, "mov $0x80, %edx; mov $0, %eax", "out %al, %dx", "");
CODE(out_immediate, "mov $0, %eax", "out %al, $0x80", "");
CODE(out_word, "mov $0x7f, %edx; mov $0, %eax", "out %ax, %dx", "");
CODE(in_byte, "mov $0x80, %edx", "in %dx, %al", "");
CODE(out_before, "mov $0x7e, %edx; mov $0, %eax", "out %ax, %dx", "");
CODE(rep_outs, "mov $0x80, %edx; mov $3, %ecx; mov %rdi, %rsi; cld", "rep outsb", "");
CODE(rep_ins, "mov $0x80, %edx; mov $3, %ecx; cld", "rep insb", "");
static void test_ports(void) {
  write_cr4(read_cr4() & ~(word)CR4_DE);
  watch(0, 0x80, kPort, 1);
  // The encoding means nothing then. [SDM-3B 18.2.4]
  if (!tcg_lacks("port-without-de")) expect_miss("port-without-de", out_byte, 0);
  write_cr4(read_cr4() | CR4_DE);
  watch(0, 0x80, kPort, 1);
  HIT("port-out", out_byte, 0, kB0);
  HIT("port-out-immediate", out_immediate, 0, kB0);
  HIT("port-in", in_byte, 0, kB0);
  HIT("port-out-word", out_word, 0, kB0);
  expect_miss("port-below", out_before, 0);
  expect_miss("port-is-no-address", store1, buffer);
  if (tcg_lacks("port-rep")) goto out;
  // After the first iteration. [SDM-3B 18.3.1.2]
  call(rep_outs, buffer);
  check("port-rep-outs", event_count == 3 && events[0].ip == (word)rep_outs_at && events[0].rcx == 2 && events[2].ip == (word)rep_outs_next);
  call(rep_ins, buffer);
  check("port-rep-ins", event_count == 3 && events[0].ip == (word)rep_ins_at && events[0].rcx == 2);
  watch(1, (word)buffer + 1, kWrite, 1);
  call(rep_ins, buffer);
  check("port-and-data", event_count == 3 && (events[0].dr6 & DR6_BITS) == kB0 && (events[1].dr6 & DR6_BITS) == (kB0 | kB1));
  clear_watches();
  watch(0, 0x82, kPort, 4);
  HIT("port-aligned-down", out_byte, 0, kB0);
out:
  clear_watches();
  write_cr4(read_cr4() & ~(word)CR4_DE);
}

// ---- the registers themselves ----
static void read_dr4_probe(void* unused) {
  (void)unused;
  __asm__ volatile(MARK "mov %%db4, %%rax" ::: "rax");
}
static void write_dr5_probe(void* value) { __asm__ volatile(MARK "mov %0, %%db5" ::"r"(value)); }
static void write_dr7_probe(void* value) { __asm__ volatile(MARK "mov %0, %%dr7" ::"r"(value)); }
static void write_dr6_probe(void* value) { __asm__ volatile(MARK "mov %0, %%dr6" ::"r"(value)); }
static void general_detect_read(void* unused) {
  (void)unused;
  write_dr7(0x400 | 1u << 13);
  __asm__ volatile(MARK "mov %%dr0, %%rax" ::: "rax");
}
static void general_detect_write(void* unused) {
  (void)unused;
  write_dr7(0x400 | 1u << 13);
  __asm__ volatile(MARK "mov %0, %%dr7" ::"r"(0x400ul));
}
static void icebp(void* unused) {
  (void)unused;
  __asm__ volatile(".byte 0xf1\n" MARK "nop");
}
extern char user_icebp[];
__asm__("user_icebp: .byte 0xf1; nop; int $0xf0");

static void test_registers(void) {
  write_dr7(0);
  check_eq("dr7-fixed", read_dr7(), 0x400);
  write_dr7(0xfffff000 & ~(1u << 13));
  if (!tcg_lacks("dr7-reserved")) check_eq("dr7-reserved", read_dr7() & 0xdc00, 0x400);  // [SDM-3B 18.2.4]
  write_dr7(0x400);
  write_dr6(0);
  check_eq("dr6-fixed", read_dr6(), DR6_CLEAR);
  write_dr6(0xffffffff);
  if (!tcg_lacks("dr6-reserved")) check_eq("dr6-reserved", read_dr6() & 0x1ffff, 0x1efff);  // bit 12 is zero [SDM-3B 18.2.3]
  write_dr6(DR6_CLEAR);
  expect_trap("dr7-high", write_dr7_probe, (void*)(1ul << 32), 13, 0);
  expect_trap("dr6-high", write_dr6_probe, (void*)(1ul << 63), 13, 0);
  write_dr(0, 0xffff800012345678);
  check_eq("dr0-64-bits", read_dr0(), 0xffff800012345678);
  write_cr4(read_cr4() & ~(word)CR4_DE);
  word value;
  write_dr6(DR6_CLEAR | 3);
  __asm__ volatile("mov %%db4, %0" : "=r"(value));
  check_eq("dr4-is-dr6", value & 0xf, 3);
  __asm__ volatile("mov %0, %%db5" ::"r"(0x400ul | 0x200));
  check_eq("dr5-is-dr7", read_dr7(), 0x600);
  write_cr4(read_cr4() | CR4_DE);
  expect_trap("dr4-ud", read_dr4_probe, 0, 6, 0);
  expect_trap("dr5-ud", write_dr5_probe, (void*)0x400, 6, 0);
  write_cr4(read_cr4() & ~(word)CR4_DE);
  write_dr7(0x400);
  write_dr6(DR6_CLEAR);
  if (!tcg_lacks("general-detect")) {  // [SDM-3B 18.2.4]
    expect_trap("general-detect-read", general_detect_read, 0, 1, 0);
    check("general-detect-bd", (trap.dr6 & DR6_BITS) == kBd);
    check("general-detect-is-a-fault", trap.flags & FLAG_RF);
    check("general-detect-clears-gd", read_dr7() == 0x400);
    write_dr6(DR6_CLEAR);
    expect_trap("general-detect-write", general_detect_write, 0, 1, 0);
    write_dr6(DR6_CLEAR);
  }
  if (!tcg_lacks("icebp")) {  // [SDM-2A INT1]
    expect_trap("icebp", icebp, 0, 1, 0);
    check("icebp-no-bits", (trap.dr6 & DR6_BITS) == 0 && !(trap.flags & FLAG_RF));
    const struct user_entry entry = {.ip = USER(user_icebp)};
    check_eq("icebp-ignores-dpl", (unsigned)run_user(&entry), 1);
    check_eq("icebp-user-ip", trap.ip, USER(user_icebp) + 1);
  }
}

void guest_main(void) {
  write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
  *(word*)&other[0] = 0;
  test_registers();
  set_handler(1, on_debug);
  test_lengths();
  test_data();
  test_data_hot();
  test_repeat();
  test_execute();
  test_execute_elsewhere();
  test_steps();
  test_stack_segment();
  test_ports();
  set_handler(1, 0);
  finish();
}
