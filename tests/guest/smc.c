// SPDX-License-Identifier: Apache-2.0
// Self-modifying code. The same processor sees its own stores to code at once: prefetched instructions are dropped.
// [SDM-3A 9.1.3, 11.6]
#include "guest.h"

void guest_main(void);

// Three pages to write code into; WINDOW maps them again elsewhere.
static uint8_t code[3][4096] __attribute__((aligned(4096)));

typedef uint32_t (*function)(uint32_t);
enum { kMovEaxImm = 0xb8, kRet = 0xc3, kNop = 0x90 };

static void emit_constant(uint8_t* at, uint32_t value) {
  at[0] = kMovEaxImm;
  memcpy(at + 1, &value, 4);
  at[5] = kRet;
}
static uint32_t call(const void* at) { return ((function)(word)at)(0); }

static void test_other_page(void) {
  bool passed = true;
  for (uint32_t i = 0; i < 2000; ++i) {
    emit_constant(code[0], i);
    passed = passed && call(code[0]) == i;
  }
  check("rewrite-and-call", passed);
  // Only the immediate, by stores of each size.
  emit_constant(code[0], 0);
  *(volatile uint8_t*)&code[0][2] = 0x12;
  passed = call(code[0]) == 0x1200;
  *(volatile uint16_t*)&code[0][1] = 0x3456;
  passed = passed && call(code[0]) == 0x3456;
  *(volatile uint32_t*)&code[0][1] = 0x789abcde;
  passed = passed && call(code[0]) == 0x789abcde;
  *(volatile uint64_t*)&code[0][0] = 0x0000c301020304b8;
  passed = passed && call(code[0]) == 0x01020304;
  check("stores-of-each-size", passed);
}

// The same store made by every kind of instruction that writes memory.
static void test_kinds_of_stores(void) {
  uint32_t* immediate = (uint32_t*)&code[0][1];
  uint32_t value = 0x100;
#define KIND(name, ...)                                       \
  do {                                                        \
    emit_constant(code[0], 0);                                \
    call(code[0]);                                            \
    ++value;                                                  \
    __asm__ volatile(__VA_ARGS__);                            \
    check_eq(name, call(code[0]), value);                     \
  } while (0)
  KIND("by-add", "addl %1, (%0)" ::"r"(immediate), "r"(value) : "memory", "cc");
  KIND("by-lock-xadd", "mov %1, %%eax; lock xaddl %%eax, (%0)" ::"r"(immediate), "r"(value) : "rax", "memory", "cc");
  KIND("by-xchg", "mov %1, %%eax; xchgl %%eax, (%0)" ::"r"(immediate), "r"(value) : "rax", "memory", "cc");
  KIND("by-cmpxchg", "xor %%eax, %%eax; lock cmpxchgl %1, (%0)" ::"r"(immediate), "r"(value) : "rax", "memory", "cc");
  KIND("by-stos", "mov %0, %%rdi; mov %1, %%eax; stosl" ::"r"(immediate), "r"(value) : "rax", "rdi", "memory", "cc");
  KIND("by-rep-movs", "mov %0, %%rdi; mov %1, %%rsi; mov $4, %%ecx; rep movsb" ::"r"(immediate), "r"(&value)
       : "rcx", "rsi", "rdi", "memory", "cc");
  KIND("by-movd", "movd %1, %%xmm0; movd %%xmm0, (%0)" ::"r"(immediate), "r"(value) : "memory");
  KIND("by-movnti", "movntil %1, (%0); sfence" ::"r"(immediate), "r"(value) : "memory");
  KIND("by-bts", "btsl $8, (%0); addl %1, (%0); subl $0x100, (%0)" ::"r"(immediate), "r"(value) : "memory", "cc");
  // PUSH with the stack in the code page: eight bytes, the upper ones hold RET and what follows it.
  KIND("by-push", "mov %%rsp, %%rbx; lea 8(%0), %%rsp; movabs $0x909090c300000000, %%rax; or %1, %%rax; push %%rax; mov %%rbx, %%rsp" ::"r"(
                      immediate),
       "r"((word)value)
       : "rax", "rbx", "memory", "cc");
  KIND("by-call", "mov %%rsp, %%rbx; lea 0x100(%0), %%rsp; mov %1, (%0); call 1f\n1: mov %%rbx, %%rsp" ::"r"(immediate), "r"(value)
       : "rbx", "memory", "cc");
  KIND("by-pop", "mov %1, %%eax; shl $32, %%rax; pushq %%rax; movl $0xb8000000, (%%rsp); popq -4(%0); movb $0xb8, -1(%0)" ::"r"(immediate), "r"(value)
       : "rax", "memory", "cc");
  KIND("by-setcc", "movl %1, (%0); cmp %%eax, %%eax; sete 5(%0)" ::"r"(immediate), "r"(value) : "rax", "memory", "cc");
  KIND("by-movups", "movups (%0), %%xmm0; pinsrw $0, %1, %%xmm0; movups %%xmm0, (%0)" ::"r"(immediate), "r"(value) : "memory");
}

// A store to an instruction that follows in the same straight line.
static void test_same_block(void) {
  uint32_t result;
  // movl $..., 1f+1 ; 1: mov $0, %eax
  __asm__ volatile("movl $0x1234567, 1f + 1(%%rip)\n1: movl $0, %%eax" : "=a"(result)::"memory");
  check_eq("next-instruction", result, 0x1234567);
  __asm__ volatile(
      "movl $2, %%ecx\n"
      "2: movl $0, %%eax\n"
      "3: addl $1, %%eax\n"
      "incl 3b + 2(%%rip)\n"  // never reached by the immediate form below: patched as a byte
      "decl %%ecx\n"
      "jnz 2b\n"
      : "=a"(result)::"rcx", "memory", "cc");
  // ADD $imm8 is 83 C0 ib: the INC makes the second turn add 2.
  check_eq("own-loop", result, 2);
  __asm__ volatile(
      "xorl %%eax, %%eax\n"
      "movb $0x40, 1f(%%rip)\n"   // turns the first NOP below into a REX prefix of ...
      "1: nop\n"
      "incl %%eax\n"
      : "=a"(result)::"memory", "cc");
  check_eq("prefix-in-front", result, 1);
  // A loop that counts in its own immediate.
  __asm__ volatile(
      "movl $1000, %%ecx\n"
      "1: movl $7, %%eax\n"
      "incl 1b + 1(%%rip)\n"
      "decl %%ecx\n"
      "jnz 1b\n"
      : "=a"(result)::"rcx", "memory", "cc");
  check_eq("counting-immediate", result, 7 + 999);
  // A branch that patches its own displacement.
  __asm__ volatile(
      "xorl %%eax, %%eax\n"
      "1: jmp 2f\n"
      "2: incl %%eax\n"
      "movb $(3f - 2b), 1b + 1(%%rip)\n"
      "cmpl $1, %%eax\n"
      "je 1b\n"
      "3: nop\n"
      : "=a"(result)::"memory", "cc");
  check_eq("branch-displacement", result, 1);
}

// Code and data in one page.
static void test_data_beside_code(void) {
  emit_constant(code[0], 42);
  volatile uint32_t* counter = (volatile uint32_t*)&code[0][2048];
  *counter = 0;
  bool passed = true;
  for (unsigned i = 0; i < 20000; ++i) {
    *counter += 1;
    passed = passed && call(code[0]) == 42;
  }
  check("data-in-code-page", passed && *counter == 20000);
  // inc counter(%rip) inside the page itself
  static const uint8_t increment[] = {0xff, 0x05, 0xf9, 0x03, 0, 0, 0xc3};  // incl 0x3f9(%rip); ret: +0x400 after itself
  memcpy(&code[0][0x400], increment, sizeof increment);
  *(volatile uint32_t*)&code[0][0x400 + 6 + 0x3f9] = 0;
  for (unsigned i = 0; i < 5000; ++i) call(&code[0][0x400]);
  check_eq("code-writes-own-page", *(volatile uint32_t*)&code[0][0x400 + 6 + 0x3f9], 5000);
}

static void test_straddling(void) {
  uint8_t* at = &code[1][0] - 3;  // opcode and two immediate bytes in page 0, two immediate bytes and RET in page 1
  bool passed = true;
  for (uint32_t i = 0; i < 500; ++i) {
    emit_constant(at, i * 0x10001);
    passed = passed && call(at) == i * 0x10001;
  }
  check("straddling-both", passed);
  emit_constant(at, 0);
  call(at);
  passed = true;
  for (uint32_t i = 0; i < 256; ++i) {
    *(volatile uint8_t*)&code[1][1] = (uint8_t)i;
    passed = passed && call(at) == i << 24;
  }
  check("straddling-second-page", passed);
  for (uint32_t i = 0; i < 256; ++i) {
    *(volatile uint8_t*)&at[1] = (uint8_t)i;
    passed = passed && call(at) == (0xff000000 | i);
  }
  check("straddling-first-page", passed);
  // One store over the edge.
  for (uint32_t i = 1; i < 256; ++i) {
    *(volatile uint32_t*)&at[1] = i * 0x01010101;
    passed = passed && call(at) == i * 0x01010101;
  }
  check("straddling-store", passed);
  // A block that runs on into the next page, which is then changed.
  memset(&code[1][0] - 64, kNop, 64);
  emit_constant(&code[1][0], 1);
  call(&code[1][0] - 64);
  emit_constant(&code[1][0], 2);
  check_eq("running-into-changed-page", call(&code[1][0] - 64), 2);
}

// The second page of a straddling instruction is mapped elsewhere; what leads to it stays as it was.
static void test_straddling_remapped(void) {
  uint8_t* at = &code[1][0] - 3;
  memset(at - 16, kNop, 16);
  emit_constant(at, 0x11111111);
  memcpy(&code[2][0], (const uint8_t[]){0x22, 0x22, kRet}, 3);
  map(WINDOW, (word)code[0], PTE_P | PTE_W, 1);
  map(WINDOW + 0x1000, (word)code[1], PTE_P | PTE_W, 1);
  const void* entry = (const void*)(WINDOW + 0x1000 - 3 - 16);
  bool passed = true;
  for (unsigned i = 0; i < 4; ++i) passed = passed && call(entry) == 0x11111111;
  map(WINDOW + 0x1000, (word)code[2], PTE_P | PTE_W, 1);
  check_eq("straddling-remapped", call(entry), 0x22221111);
  map(WINDOW + 0x1000, (word)code[1], PTE_P | PTE_W, 1);
  check("straddling-mapped-back", passed && call(entry) == 0x11111111);
}

static void test_aliases(void) {
  map(WINDOW, (word)code[2], PTE_P | PTE_W, 1);
  map(WINDOW + 0x1000, (word)code[2], PTE_P | PTE_W, 1);
  bool passed = true;
  for (uint32_t i = 0; i < 300; ++i) {
    emit_constant((uint8_t*)(WINDOW + 0x1000), i);
    passed = passed && call((void*)WINDOW) == i && call(code[2]) == i;
  }
  check("written-through-alias", passed);
  // RIP-relative code at two addresses: lea 0(%rip), %rax; ret.
  static const uint8_t where[] = {0x48, 0x8d, 0x05, 0, 0, 0, 0, 0xc3};
  memcpy(code[2], where, sizeof where);
  word first, second;
  __asm__ volatile("call *%1" : "=a"(first) : "r"(WINDOW) : "memory");
  __asm__ volatile("call *%1" : "=a"(second) : "r"(WINDOW + 0x1000) : "memory");
  check_eq("rip-relative-first", first, WINDOW + 7);
  check_eq("rip-relative-second", second, WINDOW + 0x1000 + 7);
  // Return addresses, too: call +0; pop %rax; ret.
  static const uint8_t self[] = {0xe8, 0, 0, 0, 0, 0x58, 0xc3};
  memcpy(&code[2][64], self, sizeof self);
  __asm__ volatile("call *%1" : "=a"(first) : "r"(WINDOW + 64) : "memory");
  __asm__ volatile("call *%1" : "=a"(second) : "r"(WINDOW + 0x1000 + 64) : "memory");
  check_eq("call-pushes-first", first, WINDOW + 64 + 5);
  check_eq("call-pushes-second", second, WINDOW + 0x1000 + 64 + 5);
  // Code written while its page is mapped nowhere executable, then mapped.
  map(WINDOW, (word)code[1], PTE_P | PTE_W, 1);
  emit_constant(code[1], 77);
  check_eq("remapped", call((void*)WINDOW), 77);
}

// Code that a chain of direct jumps connects: the middle is replaced.
static void test_linked_blocks(void) {
  uint8_t* a = &code[0][0];
  uint8_t* b = &code[0][256];
  uint8_t* c = &code[1][0];
  a[0] = 0xe9;
  *(int32_t*)&a[1] = (int32_t)(b - (a + 5));
  b[0] = 0xe9;
  *(int32_t*)&b[1] = (int32_t)(c - (b + 5));
  emit_constant(c, 1);
  bool passed = true;
  for (unsigned i = 0; i < 50; ++i) passed = passed && call(a) == 1;
  emit_constant(b, 2);
  passed = passed && call(a) == 2;
  b[0] = 0xe9;
  *(int32_t*)&b[1] = (int32_t)(c - (b + 5));
  passed = passed && call(a) == 1;
  emit_constant(c, 3);
  passed = passed && call(a) == 3;
  check("linked-blocks", passed);
}

// Many pages of code, more than any cache of decoded pages should mind.
static void test_many_pages(void) {
  uint8_t* base = (uint8_t*)0x1000000;
  bool passed = true;
  for (unsigned round = 0; round < 3; ++round) {
    for (uint32_t i = 0; i < 512; ++i) emit_constant(base + i * 4096 + (i & 63), i + round);
    for (uint32_t i = 0; i < 512; ++i) passed = passed && call(base + i * 4096 + (i & 63)) == i + round;
  }
  check("many-pages", passed);
}

void guest_main(void) {
  write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
  write_cr0(read_cr0() & ~(word)CR0_WP);
  test_other_page();
  test_kinds_of_stores();
  test_same_block();
  test_data_beside_code();
  test_straddling();
  test_straddling_remapped();
  test_aliases();
  test_linked_blocks();
  test_many_pages();
  finish();
}
