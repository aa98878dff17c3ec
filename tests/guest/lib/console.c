// SPDX-License-Identifier: Apache-2.0
// Serial output and assertions.
#include "guest.h"

enum { kCom1 = 0x3f8, kDebugExit = 0xf4, kLineStatus = 5, kTransmitEmpty = 0x20 };

uint32_t multiboot_magic;
uint32_t multiboot_info;
static unsigned passed, failed, skipped;

static void print_char(char c) {
  while (!(inb(kCom1 + kLineStatus) & kTransmitEmpty)) {
  }
  outb(kCom1, (uint8_t)c);
}

void print(const char* text) {
  for (; *text; ++text) print_char(*text);
}

void print_hex(uint64_t value) {
  print("0x");
  bool started = false;
  for (int shift = 60; shift >= 0; shift -= 4) {
    unsigned digit = (value >> shift) & 15;
    if (digit || started || shift == 0) {
      print_char("0123456789abcdef"[digit]);
      started = true;
    }
  }
}

void print_decimal(word value) {
  char digits[20];
  int count = 0;
  do digits[count++] = (char)('0' + value % 10);
  while (value /= 10);
  while (count) print_char(digits[--count]);
}

void check(const char* name, bool is_ok) {
  ++*(is_ok ? &passed : &failed);
  print(is_ok ? "ok " : "FAIL ");
  print(name);
  print("\n");
}

void check_eq(const char* name, uint64_t got, uint64_t want) {
  check(name, got == want);
  if (got == want) return;
  print("  got ");
  print_hex(got);
  print(", want ");
  print_hex(want);
  print("\n");
}

void skip(const char* name, const char* why) {
  ++skipped;
  print("skip ");
  print(name);
  print(": ");
  print(why);
  print("\n");
}

bool is_tcg(void) {
  const struct cpuid signature = cpuid(0x40000000, 0);
  return signature.ebx == 0x54474354 && signature.ecx == 0x43544743;  // "TCGTCGTCGTCG"
}

bool tcg_lacks(const char* name) {
  if (!is_tcg()) return false;
  skip(name, "wrong in TCG");
  return true;
}

bool is_intel(void) { return cpuid(0, 0).ecx == 0x6c65746e; }

void debug_exit(uint8_t value) {
  outb(kDebugExit, value);
  for (;;) __asm__ volatile("cli; hlt");
}

void finish(void) {
  cli();
  print_decimal(passed);
  print(" passed, ");
  print_decimal(failed);
  print(" failed, ");
  print_decimal(skipped);
  print(" skipped\n");
  debug_exit(failed ? 17 : 16);
}

void* memset(void* to, int value, size_t count) {
  for (size_t i = 0; i < count; ++i) ((volatile char*)to)[i] = (char)value;
  return to;
}

void* memcpy(void* to, const void* from, size_t count) {
  for (size_t i = 0; i < count; ++i) ((volatile char*)to)[i] = ((const char*)from)[i];
  return to;
}
