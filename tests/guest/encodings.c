// SPDX-License-Identifier: Apache-2.0
// Encodings at the edge of the opcode map: aliases that processors have and manuals mostly omit, those that must raise
// #UD, LOCK where it may not stand, instructions of 15 and 16 bytes. Built for 32-bit and for 64-bit mode.
// [SDM-2D A; SDM-2A 2.1; APM-3 A]
#include "guest.h"

void guest_main(void);

enum { kMost = 16 };
static struct {
  const char* name;
  int vector;
  uint8_t size, bytes[kMost];
} const encodings[] = {
#define CODE(name, vector, ...) {name, vector, sizeof((uint8_t[]){__VA_ARGS__}), {__VA_ARGS__}}
    // Aliases. EBX or RBX points to memory.
#ifdef __x86_64__
    // What 64-bit mode has taken away. [SDM-2D A.2, superscript i64]
    CODE("06-push-es", 6, 0x06),
    CODE("07-pop-es", 6, 0x07),
    CODE("0e-push-cs", 6, 0x0e),
    CODE("16-push-ss", 6, 0x16),
    CODE("17-pop-ss", 6, 0x17),
    CODE("1e-push-ds", 6, 0x1e),
    CODE("1f-pop-ds", 6, 0x1f),
    CODE("27-daa", 6, 0x27),
    CODE("2f-das", 6, 0x2f),
    CODE("37-aaa", 6, 0x37),
    CODE("3f-aas", 6, 0x3f),
    CODE("60-pusha", 6, 0x60),
    CODE("61-popa", 6, 0x61),
    CODE("82-alu", 6, 0x82, 0xc0, 0x01),
    CODE("9a-call-far", 6, 0x9a, 0, 0, 0, 0, 0, 0),
    CODE("ce-into", 6, 0xce),
    CODE("d4-aam", 6, 0xd4, 0x0a),
    CODE("d6-salc", 6, 0xd6),
    CODE("ea-jmp-far", 6, 0xea, 0, 0, 0, 0, 0, 0),
    // REX: counts only right before the opcode; the last of several. [SDM-2A 2.2.1]
    CODE("rex-nop", kNoTrap, 0x48, 0x90),
    CODE("rex-before-prefix", kNoTrap, 0x48, 0x66, 0x90),
    CODE("rex-twice", kNoTrap, 0x41, 0x48, 0x89, 0xc0),
    CODE("rex-lock-add", kNoTrap, 0xf0, 0x48, 0x01, 0x03),
    CODE("rex-before-lock-mov", 6, 0x48, 0xf0, 0x89, 0x03),
    CODE("rex-before-vex", 6, 0x48, 0xc5, 0xf8, 0x77),
    CODE("rep-before-vex", 6, 0xf3, 0xc5, 0xf8, 0x77),
    CODE("lock-before-vex", 6, 0xf0, 0xc5, 0xf8, 0x77),
    CODE("66-before-vex", 6, 0x66, 0xc5, 0xf8, 0x77),
    CODE("mov-cr9", 6, 0x44, 0x0f, 0x20, 0xc8),
    CODE("mov-dr8", 6, 0x44, 0x0f, 0x21, 0xc0),
    CODE("mov-from-segment-by-rex", kNoTrap, 0x44, 0x8c, 0xd8),
    CODE("length-15-rex", kNoTrap, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x48, 0x90),
    CODE("length-16-rex", 13, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x48, 0x90),
#else
    CODE("82-alu", kNoTrap, 0x82, 0xc0, 0x01),
    CODE("82-cmp-memory", kNoTrap, 0x82, 0x3b, 0x01),
    CODE("salc", kNoTrap, 0xd6),
    CODE("les-register", 6, 0xc4, 0xc0),
    CODE("bound-register", 6, 0x62, 0xc0),
    CODE("lock-82-memory", kNoTrap, 0xf0, 0x82, 0x03, 0x01),
#endif
    CODE("sal-6-by-1", kNoTrap, 0xd1, 0xf0),
    CODE("sal-6-by-cl", kNoTrap, 0xd3, 0xf0),
    CODE("sal-6-by-imm", kNoTrap, 0xc1, 0xf0, 0x03),
    CODE("test-f6-1", kNoTrap, 0xf6, 0xc8, 0x01),
    CODE("test-f7-1", kNoTrap, 0xf7, 0xc8, 0x01, 0x00, 0x00, 0x00),
    CODE("prefetch-0f0d", kNoTrap, 0x0f, 0x0d, 0x0b),
    CODE("hint-nop-0f19", kNoTrap, 0x0f, 0x19, 0x03),
    CODE("hint-nop-0f1f-register", kNoTrap, 0x0f, 0x1f, 0xc0),
    CODE("rep-nop", kNoTrap, 0xf3, 0x90),
    CODE("rep-add-is-add", kNoTrap, 0xf3, 0x01, 0xc0),
    CODE("fcom2", kNoTrap, 0xdc, 0xd0),
    CODE("fcomp3", kNoTrap, 0xdc, 0xd8, 0xd9, 0xe8),
    CODE("fxch4", kNoTrap, 0xdd, 0xc8),
    CODE("fxch7", kNoTrap, 0xdf, 0xc8),
    CODE("fcomp5", kNoTrap, 0xde, 0xd0, 0xd9, 0xe8),
    CODE("fstp1", kNoTrap, 0xd9, 0xd8, 0xd9, 0xe8),
    CODE("fstp8", kNoTrap, 0xdf, 0xd0, 0xd9, 0xe8),
    CODE("ffreep", kNoTrap, 0xdf, 0xc0, 0xd9, 0xe8),
    CODE("feni", kNoTrap, 0xdb, 0xe0),
    CODE("fsetpm", kNoTrap, 0xdb, 0xe4),
    // Undefined.
    CODE("ud0", 6, 0x0f, 0xff, 0xc0),
    CODE("ud1", 6, 0x0f, 0xb9, 0xc0),
    CODE("ud2", 6, 0x0f, 0x0b),
    CODE("0f04", 6, 0x0f, 0x04),
    CODE("0f0a", 6, 0x0f, 0x0a),
    CODE("0f24", 6, 0x0f, 0x24, 0xc0),
    CODE("0f36", 6, 0x0f, 0x36),
    CODE("fe-2", 6, 0xfe, 0xd0),
    CODE("ff-7", 6, 0xff, 0xf8),
    CODE("c6-1", 6, 0xc6, 0xc8, 0x00),
    CODE("8f-1", 6, 0x8f, 0xc8),
    CODE("0fba-0", 6, 0x0f, 0xba, 0xc0, 0x01),
    CODE("0fc7-0", 6, 0x0f, 0xc7, 0x03),
    CODE("lea-register", 6, 0x8d, 0xc0),
    CODE("far-jmp-register", 6, 0xff, 0xe8),
    CODE("far-call-register", 6, 0xff, 0xd8),
    CODE("mov-to-cs", 6, 0x8e, 0xc8),
    CODE("mov-from-segment-6", 6, 0x8c, 0xf0),
    CODE("mov-from-segment-7", 6, 0x8c, 0xf8),
    CODE("mov-cr1", 6, 0x0f, 0x20, 0xc8),
    CODE("mov-cr5", 6, 0x0f, 0x20, 0xe8),
    CODE("lgdt-register", 6, 0x0f, 0x01, 0xd6),
    CODE("cmpxchg8b-register", 6, 0x0f, 0xc7, 0xcb),
    CODE("fnop-area-d9d1", 6, 0xd9, 0xd1),
    CODE("d9e2", 6, 0xd9, 0xe2),
    CODE("dbe5", 6, 0xdb, 0xe5),
    CODE("dae8", 6, 0xda, 0xe8),
    // LOCK. [SDM-2A LOCK]
    CODE("lock-add-memory", kNoTrap, 0xf0, 0x01, 0x03),
    CODE("lock-xchg-memory", kNoTrap, 0xf0, 0x87, 0x03),
    CODE("lock-btc-memory", kNoTrap, 0xf0, 0x0f, 0xba, 0x3b, 0x01),
    CODE("lock-neg-memory", kNoTrap, 0xf0, 0xf7, 0x1b),
    CODE("lock-add-register", 6, 0xf0, 0x01, 0xc0),
    CODE("lock-add-from-memory", 6, 0xf0, 0x03, 0x03),
    CODE("lock-cmp-memory", 6, 0xf0, 0x39, 0x03),
    CODE("lock-cmp-imm", 6, 0xf0, 0x83, 0x3b, 0x00),
    CODE("lock-mov", 6, 0xf0, 0x89, 0x03),
    CODE("lock-bt-memory", 6, 0xf0, 0x0f, 0xa3, 0x0b),
    CODE("lock-bt-imm", 6, 0xf0, 0x0f, 0xba, 0x23, 0x01),
    CODE("lock-test", 6, 0xf0, 0xf7, 0x03, 0x00, 0x00, 0x00, 0x00),
    CODE("lock-shl", 6, 0xf0, 0xd1, 0x23),
    CODE("lock-nop", 6, 0xf0, 0x90),
    CODE("lock-lea", 6, 0xf0, 0x8d, 0x03),
    CODE("lock-movs", 6, 0xf0, 0xa4),
    CODE("lock-xchg-register", 6, 0xf0, 0x87, 0xc9),
    // Lengths. [SDM-2A 2.3.11]
    CODE("length-15", kNoTrap, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x90),
    CODE("length-16", 13, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x90),
    CODE("length-16-by-immediate", 13, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0xb8, 0, 0, 0, 0),
};

static uint8_t buffer[64] __attribute__((aligned(64)));
static uint32_t memory[16];
static void run(void* unused) {
  (void)unused;
#ifdef __x86_64__
  __asm__ volatile(
      "fninit; fldpi; fldpi\n"
      "mov %%rbx, %%rsi; mov %%rbx, %%rdi\n"
      "call *%0" ::"r"(buffer),
      "b"(memory), "c"(1)
      : "rax", "rsi", "rdi", "r8", "memory", "cc");
#else
  __asm__ volatile(
      "fninit; fldpi; fldpi\n"
      "mov %%ebx, %%esi; mov %%ebx, %%edi\n"
      "call *%0" ::"r"(buffer),
      "b"(memory), "c"(1)
      : "eax", "esi", "edi", "memory", "cc");
#endif
}

// What the aliases compute.
static void test_values(void) {
  uint32_t value = 0x41;
  __asm__(".byte 0xc1, 0xf0, 3" : "+a"(value)::"cc");
  check_eq("sal-6-value", value, 0x208);
#ifndef __x86_64__
  value = 0x1200;
  __asm__("stc; .byte 0xd6" : "+a"(value)::"cc");
  check_eq("salc-value-carry", value, 0x12ff);
  __asm__("clc; .byte 0xd6" : "+a"(value)::"cc");
  check_eq("salc-value", value, 0x1200);
  value = 0x7f;
  __asm__(".byte 0x82, 0xc0, 0x01" : "+a"(value)::"cc");
  check_eq("82-value", value, 0x80);
#else
  // F3 90 is PAUSE; with REX.B it exchanges R8.
  uint64_t left = 5;
  register uint64_t right __asm__("r8") = 7;
  __asm__ volatile(".byte 0xf3, 0x41, 0x90" : "+a"(left), "+r"(right));
  check("rep-rex-b-90", left == 7 && right == 5);
  left = 0x1111222233334444;
  right = 0;
  __asm__ volatile(".byte 0x48, 0x41, 0x89, 0xc0" : "+r"(right) : "a"(left));  // the last REX: 32 bits of R8
  check_eq("rex-twice-the-last-counts", right, 0x33334444);
  if (!tcg_lacks("rex-before-prefix-is-lost")) {
    left = 0x1111222233334444;
    __asm__ volatile(".byte 0x48, 0x66, 0x05, 0x01, 0x00" : "+a"(left)::"cc");  // sixteen bits
    check_eq("rex-before-prefix-is-lost", left, 0x1111222233334445);
  }
#endif
  if (tcg_lacks("test-f6-1-value")) return;
  uint32_t zero;
  __asm__(".byte 0xf6, 0xc8, 0x80; setz %b0; movzbl %b0, %0" : "=q"(zero) : "a"(0x7f) : "cc");
  check_eq("test-f6-1-value", zero, 1);
}

void guest_main(void) {
  for (unsigned i = 0; i < ARRAY_SIZE(encodings); ++i) {
    memset(buffer, 0xc3, sizeof buffer);
    memcpy(buffer, encodings[i].bytes, encodings[i].size);
    const int got = trap_call(run, 0);
    const bool passed = got == encodings[i].vector && (got == kNoTrap || (trap.ip == (word)buffer && trap.error == 0));
    if (is_tcg() && !passed)
      tcg_lacks(encodings[i].name);
    else
      check(encodings[i].name, passed);
    if (passed || is_tcg()) continue;
    print("  vector ");
    print_hex((unsigned)got);
    print("\n");
  }
  test_values();
  finish();
}
