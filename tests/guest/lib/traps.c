// SPDX-License-Identifier: Apache-2.0
// IDT, TSS, exception capture and user mode.
#include "guest.h"

enum { kVectors = 256, kEntryBytes = 16, kInterruptGate = 0xe, kTrapGate = 0xf };

struct gate {
  uint16_t offset_low, selector;
  uint8_t ist, attributes;
  uint16_t offset_high;
#ifdef __x86_64__
  uint32_t offset_top, reserved;
#endif
};
struct table_pointer {
  uint16_t limit;
  word base;
} __attribute__((packed));

extern char vector_entries[];
extern word trap_recover_sp;
_Noreturn void trap_unwind(word vector);
_Noreturn void enter_user(const struct user_entry* entry);

word trap_recover_sp;
volatile struct trap trap;
volatile word trap_expected_ip;
volatile struct frame user_result;
volatile unsigned interrupt_count[kVectors];
static struct gate idt[kVectors] __attribute__((aligned(16)));
static handler handlers[kVectors];
uint8_t tss[104] __attribute__((aligned(128)));

static void load_idt(uint16_t limit) {
  const struct table_pointer pointer = {limit, (word)idt};
  __asm__ volatile("lidt %0" ::"m"(pointer));
}

void load_idt_limit(uint16_t limit) { load_idt(limit == 0xfff ? sizeof idt - 1 : limit); }

void set_gate_options(unsigned vector, unsigned ist, unsigned dpl, bool trap_gate) {
  const word entry = (word)vector_entries + vector * kEntryBytes;
  struct gate gate = {
      .offset_low = (uint16_t)entry,
      .selector = kKernelCs,
      .ist = (uint8_t)ist,
      .attributes = (uint8_t)(0x80 | dpl << 5 | (trap_gate ? kTrapGate : kInterruptGate)),
      .offset_high = (uint16_t)(entry >> 16),
  };
  idt[vector] = gate;
}

void set_gate_present(unsigned vector, bool present) {
  idt[vector].attributes = (uint8_t)((idt[vector].attributes & 0x7f) | (present ? 0x80 : 0));
}

void set_handler(unsigned vector, handler function) { handlers[vector] = function; }

static void tss_put(unsigned offset, word value) { memcpy(tss + offset, &value, sizeof value); }

void set_kernel_stack(word sp) { tss_put(4, sp); }

#ifdef __x86_64__
void set_ist(unsigned index, word sp) { tss_put(28 + 8 * index, sp); }
#endif

static void load_task_register(void) {
  const uint64_t base = (word)tss;
  gdt[kTss / 8] = (sizeof tss - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (uint64_t)((base >> 24) & 0xff) << 56;
  const uint16_t no_io_map = sizeof tss;
  memcpy(tss + 102, &no_io_map, 2);
#ifdef __x86_64__
  gdt[kTss / 8 + 1] = base >> 32;
  for (unsigned i = 1; i <= 3; ++i) set_ist(i, (word)ist_stack_top - (i - 1) * IST_BYTES);
#else
  tss_put(8, kKernelDs);
#endif
  __asm__ volatile("ltr %w0" ::"r"(kTss));
}

void guest_setup(void);
void guest_setup(void) {
  for (unsigned i = 0; i < kVectors; ++i) set_gate_options(i, 0, 0, false);
  set_gate_options(3, 0, 3, false);
  set_gate_options(4, 0, 3, false);
  set_gate_options(kUserReturnVector, 0, 3, false);
  load_idt_limit(0xfff);
  pic_init(0xff, 0xff);  // a BIOS may have left lines open
  load_task_register();
}

static void print_register(const char* name, word value) {
  print(name);
  print_hex(value);
}

static _Noreturn void die(const struct frame* frame) {
  print_register("unexpected vector ", frame->vector);
  print_register(" error ", frame->error);
  print_register(" ip ", frame->ip);
  print_register(" cs ", frame->cs);
  print_register(" flags ", frame->flags);
  print_register(" cr2 ", read_cr2());
  print("\n");
  debug_exit(18);
}

void trap_dispatch(struct frame* frame);
void trap_dispatch(struct frame* frame) {
  const unsigned vector = (unsigned)frame->vector;
  ++interrupt_count[vector];
  if (handlers[vector] && handlers[vector](frame)) return;
  if (!trap_recover_sp) die(frame);
  trap.vector = vector;
  trap.error = frame->error;
  trap.ip = frame->ip;
  trap.cs = frame->cs;
  trap.flags = frame->flags;
  trap.handler_sp = (word)frame;
  const bool from_user = frame->cs & 3;
#ifdef __x86_64__
  const bool has_stack = true;
#else
  const bool has_stack = from_user;
#endif
  trap.sp = has_stack ? frame->sp : 0;
  trap.ss = has_stack ? frame->ss : 0;
  trap.cr2 = read_cr2();
  trap.dr6 = read_dr6();
  ++trap.count;
  if (from_user) memcpy((void*)&user_result, frame, sizeof *frame);
  trap_unwind(vector);
}

void expect_trap(const char* name, void (*function)(void*), void* argument, int vector, word error) {
  trap.error = 0;
  const int got = trap_call(function, argument);
  const bool same_ip = trap_expected_ip == 0 || trap.ip == trap_expected_ip;
  const bool passed = got == vector && (vector == kNoTrap || (trap.error == error && same_ip));
  check(name, passed);
  if (passed) return;
  print_register("  vector ", (word)got);
  print_register(" want ", (word)vector);
  print_register(", error ", trap.error);
  print_register(" want ", error);
  print_register(", ip ", trap.ip);
  print_register(" want ", trap_expected_ip);
  print_register(", cr2 ", trap.cr2);
  print("\n");
}

void expect_no_trap(const char* name, void (*function)(void*), void* argument) {
  expect_trap(name, function, argument, kNoTrap, 0);
}

static void enter_user_probe(void* entry) { enter_user(entry); }

int run_user(const struct user_entry* entry) {
  struct user_entry copy = *entry;
  if (!copy.cs) copy.cs = sizeof(word) == 8 ? kUserCs64 : kUserCs32;
  if (!copy.ss) copy.ss = kUserDs;
  if (!copy.sp) copy.sp = USER(user_stack_top);
  copy.flags |= 2;
  return trap_call(enter_user_probe, &copy);
}
