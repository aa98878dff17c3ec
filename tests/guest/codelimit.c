// SPDX-License-Identifier: Apache-2.0
// The limit of the code segment, to the byte: within a block, across pages, in loops, with 16- and 32-bit code.
// [SDM-3A 5.3; SDM-3B 23.34.1]
#include "guest.h"

void guest_main(void);

enum { kPage = 4096, kCode = kFreeSelector | 3 };
static uint8_t area[0x11000] __attribute__((aligned(4096)));

// User code at `area` with this limit (in bytes); `big`: 32-bit.
static void set_segment(uint32_t limit, bool big) {
  const uint32_t base = (uint32_t)area;
  uint64_t low = (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(base >> 24) << 56;
  low |= (uint64_t)(limit >> 16 & 0xf) << 48 | 0xfbull << 40 | (big ? 1ull << 54 : 0);
  gdt[kFreeSelector / 8] = low;
}
static int run_at(uint32_t ip) {
  const struct user_entry entry = {.ip = ip, .cs = kCode, .sp = (word)user_stack_top};
  return run_user(&entry);
}
static void expect(const char* name, int got, int vector, uint32_t ip, uint32_t eax) {
  const bool passed = got == vector && trap.error == 0 && trap.ip == ip && user_result.rax == eax;
  check(name, passed);
  if (passed) return;
  print("  vector ");
  print_hex((unsigned)got);
  print(" ip ");
  print_hex(trap.ip);
  print(" eax ");
  print_hex(user_result.rax);
  print("\n");
}
static void fill(void) { memset(area, 0x40, sizeof area); }  // inc eax
static void put(uint32_t at, const char* code, size_t size) { memcpy(area + at, code, size); }
#define PUT(at, code) put(at, code, sizeof(code) - 1)

static void test_straight(bool big) {
  fill();
  set_segment(0xffff, big);
  PUT(0x120, "\x0f\x0b");
  expect(big ? "32-below-limit" : "16-below-limit", run_at(0x100), 6, 0x120, 0x20);
  for (uint32_t limit = 0x110; limit < 0x114; ++limit) {  // what ran with a wider limit before
    set_segment(limit, big);
    expect(big ? "32-limit-in-block" : "16-limit-in-block", run_at(0x100), 13, limit + 1, limit + 1 - 0x100);
  }
  expect("entry-beyond-limit", run_at(0x100), 13, 0x114, 0x14);
  set_segment(0xffff, big);
  expect("limit-widened-again", run_at(0x100), 6, 0x120, 0x20);
}

static void test_crossing(void) {
  fill();
  PUT(0x210, "\xb8\x44\x33\x22\x11\x0f\x0b");  // mov $0x11223344, %eax; ud2
  set_segment(0x216, true);
  expect("ud2-just-inside", run_at(0x200), 6, 0x215, 0x11223344);
  set_segment(0x215, true);
  expect("ud2-half-outside", run_at(0x200), 13, 0x215, 0x11223344);
  set_segment(0x214, true);
  expect("mov-just-inside", run_at(0x200), 13, 0x215, 0x11223344);
  for (uint32_t limit = 0x210; limit < 0x214; ++limit) {
    set_segment(limit, true);
    expect("mov-crosses", run_at(0x200), 13, 0x210, 0x10);
  }
  set_segment(0x20f, true);
  expect("mov-outside", run_at(0x200), 13, 0x210, 0x10);
  // An instruction that is none by its first bytes.
  PUT(0x230, "\x0f\xff\xc0");
  PUT(0x240, "\x0f\x04");
  set_segment(0x241, true);
  expect("invalid-inside", run_at(0x23f), 6, 0x240, 1);
  set_segment(0x240, true);
  expect("invalid-crosses", run_at(0x23f), 13, 0x240, 1);
}

static void test_pages(void) {
  fill();
  set_segment(2 * kPage - 1, true);
  expect("limit-at-page-end", run_at(2 * kPage - 0x10), 13, 2 * kPage, 0x10);
  PUT(2 * kPage - 2, "\xb8\x44\x33\x22\x11");
  expect("crosses-limit-and-page", run_at(2 * kPage - 0x10), 13, 2 * kPage - 2, 0xe);
  set_segment(2 * kPage + 1, true);
  expect("crosses-page-then-limit", run_at(2 * kPage - 0x10), 13, 2 * kPage - 2, 0xe);
  PUT(2 * kPage + 3, "\x0f\x0b");
  set_segment(2 * kPage + 4, true);
  expect("crosses-page-alone", run_at(2 * kPage - 0x10), 6, 2 * kPage + 3, 0x11223344);
}

// A loop within the page whose second block the limit cuts only in the last run.
static void test_links(void) {
  fill();
  PUT(0x300, "\xb9\x10\x00\x00\x00");                            // mov $16, %ecx
  PUT(0x305, "\xeb\x19\x90");                                    // jmp 0x320
  PUT(0x320, "\x40\x49\x75\xfc\x90\x90\xb8\x01\x00\x00\x00\x0f\x0b");  // 1: inc; dec ecx; jnz 1b; nops; mov $1; ud2
  set_segment(0xffff, true);
  for (unsigned i = 0; i < 4; ++i) expect("loop", run_at(0x300), 6, 0x32b, 1);
  set_segment(0x326, true);
  expect("loop-cut", run_at(0x300), 13, 0x326, 0x10);
  set_segment(0x321, true);
  expect("loop-cut-earlier", run_at(0x300), 13, 0x322, 1);
  set_segment(0x31f, true);
  expect("jump-target-outside", run_at(0x300), 13, 0x305, 0);  // the jump itself
  set_segment(0xffff, true);
  expect("loop-again", run_at(0x300), 6, 0x32b, 1);
}

static void test_top(void) {
  fill();
  set_segment(0xffff, false);
  expect("16-runs-into-64k", run_at(0xfff0), 13, 0x10000, 0x10);
  PUT(0xffff, "\xb8");
  expect("16-crosses-64k", run_at(0xfff0), 13, 0xffff, 0xf);
  PUT(0xfffe, "\xeb\x10");  // jmp: IP wraps
  PUT(0x0010, "\x0f\x0b");
  expect("16-jump-wraps", run_at(0xfff0), 6, 0x10, 0xe);
  PUT(0xfffc, "\x66\xe9\x10\x00");  // 32-bit operand size: EIP does not
  PUT(0x10000, "\x00\x00");
  set_segment(0x10fff, false);
  PUT(0x10012, "\x0f\x0b");
  expect("16-jump32-beyond-64k", run_at(0xfff0), 6, 0x10012, 0xc);
}

// Near branches beyond the limit fault themselves, and leave ESP and ECX alone. [SDM-2A CALL, JMP, LOOP; SDM-2B RET]
static void test_branches(void) {
  static const struct {
    const char *name, *code;
    uint32_t fault;
    uint8_t size;
  } tests[] = {
      {"jmp-short-outside", "\xeb\x40", 0x200, 2},
      {"jmp-near-outside", "\xe9\x40\x00\x00\x00", 0x200, 5},
      {"call-outside", "\xe8\x40\x00\x00\x00", 0x200, 5},
      {"jcc-outside", "\x31\xc0\x74\x40", 0x202, 4},
      {"jecxz-outside", "\x31\xc9\xe3\x40", 0x202, 4},
      {"jmp-register-outside", "\xba\x30\x02\x00\x00\xff\xe2", 0x205, 7},
      {"call-register-outside", "\xba\x30\x02\x00\x00\xff\xd2", 0x205, 7},
      {"ret-outside", "\x68\x30\x02\x00\x00\xc3", 0x205, 6},
      {"ret-n-outside", "\x68\x30\x02\x00\x00\xc2\x08\x00", 0x205, 8},
      {"jmp-16-outside", "\x66\xe9\x40\x00", 0x200, 4},
      {"call-16-outside", "\x66\xe8\x40\x00", 0x200, 4},
      {"loop-outside", "\xb9\x05\x00\x00\x00\xe2\x40", 0x205, 7},
      {"loop-cx-outside", "\xb9\x00\x00\x01\x00\x67\xe2\x40", 0x205, 8},
  };
  fill();
  set_segment(0x22f, true);
  for (unsigned i = 0; i < ARRAY_SIZE(tests); ++i) {
    put(0x200, tests[i].code, tests[i].size);
    const int vector = run_at(0x200);
    const bool pushed = tests[i].code[0] == 0x68;
    const uint32_t counts[] = {5, 0x10000};
    const bool counted = tests[i].code[0] == '\xb9';
    check(tests[i].name, vector == 13 && trap.error == 0 && trap.ip == tests[i].fault &&
                             trap.sp == (word)user_stack_top - (pushed ? 4 : 0) &&
                             (!counted || user_result.rcx == counts[i == ARRAY_SIZE(tests) - 1]));
  }
  // Jumping and falling to just behind the limit.
  PUT(0x22e, "\xeb\x00");
  expect("jump-to-the-end", run_at(0x22e), 13, 0x22e, 0);
  PUT(0x22e, "\x40\x40");
  expect("run-to-the-end", run_at(0x22e), 13, 0x230, 2);
}

void guest_main(void) {
  if (tcg_lacks("code-limit")) finish();  // no limit of CS is checked in TCG's code [SDM-3A 5.3]
  test_straight(true);
  test_straight(false);
  test_crossing();
  test_pages();
  test_links();
  test_top();
  test_branches();
  finish();
}
