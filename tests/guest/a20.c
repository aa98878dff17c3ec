// SPDX-License-Identifier: Apache-2.0
// The A20 gate: both ways to it, and what holding address line 20 at zero does to loads, stores, code and page walks,
// with what was in TLBs and translated before. [ICH9 5.13.1.1] The image lies at 2 MiB, where the line is zero.
#include "guest.h"

void guest_main(void);

#define LOW 0x400000ul
#define HIGH 0x500000ul
#define AT64(address) (*(volatile uint64_t*)(address))
typedef uint64_t function(void);
#define CALL(address) (((function*)(word)(address))())

static void kbc_wait(void) {
  while (inb(0x64) & 2) {
  }
}
static void kbc_command(uint8_t command) {
  kbc_wait();
  outb(0x64, command);
  kbc_wait();
}
static void kbc_output_port(uint8_t value) {
  kbc_command(0xd1);
  outb(0x60, value);
  kbc_wait();
}
static bool kbc_says_open(void) {
  kbc_command(0xd0);
  while (!(inb(0x64) & 1)) {
  }
  return inb(0x60) & 2;
}
static void port92(bool open) { outb(0x92, (uint8_t)((inb(0x92) & 0xfc) | (open ? 2 : 0))); }
static void close_gate(void) {
  port92(false);
  kbc_output_port(0xdd);
}
static void open_gate(void) {
  kbc_output_port(0xdf);
  port92(true);
}
static bool is_open(void) {
  AT64(LOW + 0x80) = 1;
  const uint64_t before = AT64(HIGH + 0x80);
  AT64(LOW + 0x80) = ~before;
  const bool open = AT64(HIGH + 0x80) == before;
  return open;
}
static void put(word address, const char* bytes, size_t size) { memcpy((void*)address, bytes, size); }
#define PUT(address, bytes) put(address, bytes, sizeof(bytes) - 1)

static void test_ways(void) {
  check("open-at-entry", is_open());
  check("kbc-says-open", kbc_says_open());
  check("port92-says-open", inb(0x92) & 2);
  close_gate();
  check("closed-by-both", !is_open());
  check("kbc-says-closed", !kbc_says_open());
  check("port92-says-closed", !(inb(0x92) & 2));
  kbc_command(0xdf);
  check("opened-by-command-df", is_open() && kbc_says_open());
  kbc_command(0xdd);
  check("closed-by-command-dd", !is_open() && !kbc_says_open());
  kbc_output_port(0xdf);
  check("opened-by-output-port", is_open());
  kbc_output_port(0xdd);
  check("closed-by-output-port", !is_open());
  port92(true);
  check("opened-by-port92", is_open());
  port92(false);
  check("closed-by-port92", !is_open());
  // Either input opens it.
  port92(true);
  kbc_command(0xdd);
  if (!tcg_lacks("kbc-alone-does-not-close")) check("kbc-alone-does-not-close", is_open());
  kbc_command(0xdf);
  port92(false);
  if (!tcg_lacks("port92-alone-does-not-close")) check("port92-alone-does-not-close", is_open());
  open_gate();
  check("open-again", is_open());
}

static void test_data(void) {
  AT64(LOW) = 0x1111;
  AT64(HIGH) = 0x2222;
  check_eq("open-read", AT64(HIGH), 0x2222);
  close_gate();
  check_eq("closed-read", AT64(HIGH), 0x1111);
  AT64(HIGH) = 0x3333;
  check_eq("closed-write-lands-low", AT64(LOW), 0x3333);
  __atomic_add_fetch((uint64_t*)HIGH, 1, __ATOMIC_SEQ_CST);
  check_eq("closed-locked", AT64(LOW), 0x3334);
  open_gate();
  check_eq("open-read-again", AT64(HIGH), 0x2222);
  check_eq("open-low-kept", AT64(LOW), 0x3334);
  AT64(HIGH) = 0x4444;
  check_eq("open-write", AT64(LOW), 0x3334);

  // Eight bytes across the border.
  AT64(HIGH - 8) = 0;
  *(volatile uint32_t*)LOW = 0xaaaaaaaa;
  *(volatile uint32_t*)HIGH = 0xbbbbbbbb;
  close_gate();
  check_eq("closed-crossing-read", AT64(HIGH - 4), 0xaaaaaaaa00000000);
  AT64(HIGH - 4) = 0xccccccccdddddddd;
  open_gate();
  check_eq("closed-crossing-write", *(volatile uint32_t*)LOW, 0xcccccccc);
  check_eq("closed-crossing-write-not-high", *(volatile uint32_t*)HIGH, 0xbbbbbbbb);

  memset((void*)LOW, 0x5a, 4096);
  memset((void*)HIGH, 0xa5, 4096);
  memset((void*)(HIGH - 4096), 0x77, 4096);
  close_gate();
  void *from = (void*)(HIGH - 4096), *to = (void*)(LOW + 0x10000);
  size_t count = 1024;
  __asm__ volatile("cld; rep movsq" : "+S"(from), "+D"(to), "+c"(count)::"memory");
  open_gate();
  check_eq("closed-string-first-page", AT64(LOW + 0x10000), 0x7777777777777777);
  check_eq("closed-string-second-page", AT64(LOW + 0x11000), 0x5a5a5a5a5a5a5a5a);
}

static void test_code(void) {
  PUT(LOW, "\xb8\x01\x00\x00\x00\xc3");  // mov $1, %eax; ret
  PUT(HIGH, "\xb8\x02\x00\x00\x00\xc3");
  uint64_t sum = 0;
  for (unsigned i = 0; i < 100; ++i) sum += CALL(HIGH);
  check_eq("open-code", sum, 200);
  close_gate();
  sum = 0;
  for (unsigned i = 0; i < 100; ++i) sum += CALL(HIGH);
  check_eq("closed-code", sum, 100);
  PUT(HIGH + 1, "\x07");
  check_eq("closed-code-changed-through-alias", CALL(LOW), 7);
  check_eq("closed-code-changed", CALL(HIGH), 7);
  open_gate();
  check_eq("open-code-again", CALL(HIGH), 2);
  check_eq("open-code-low", CALL(LOW), 7);

  // A block that runs, and an instruction that reaches, over the border.
  PUT(HIGH - 5, "\xb8\x10\x00\x00\x00");  // mov $16, %eax
  PUT(LOW, "\xff\xc0\xc3");               // inc %eax; ret
  PUT(HIGH, "\xff\xc8\xc3");              // dec %eax; ret
  check_eq("open-code-runs-over", CALL(HIGH - 5), 15);
  close_gate();
  check_eq("closed-code-runs-over", CALL(HIGH - 5), 17);
  open_gate();
  PUT(HIGH - 2, "\xb8\x20");
  PUT(LOW, "\x00\x00\x01\xc3");
  PUT(HIGH, "\x00\x00\x02\xc3");
  check_eq("open-instruction-across", CALL(HIGH - 2), 0x02000020);
  close_gate();
  check_eq("closed-instruction-across", CALL(HIGH - 2), 0x01000020);
  open_gate();
  check_eq("open-instruction-across-again", CALL(HIGH - 2), 0x02000020);

  // The block that opens the gate goes on with what is there then.
  AT64(LOW + 0x200) = 0x1234;
  AT64(HIGH + 0x200) = 0x5678;
  close_gate();
  uint64_t before, after;
  __asm__ volatile("mov (%3), %0; out %%al, $0x92; mov (%3), %1"
                   : "=&r"(before), "=&r"(after)
                   : "a"(2), "r"(HIGH + 0x200)
                   : "memory");
  check_eq("closed-before-out", before, 0x1234);
  check_eq("open-after-out", after, 0x5678);
  open_gate();
}

// The tables of one window in both places, with different pages behind them.
static void test_paging(void) {
  uint64_t* const directory = entry_for(WINDOW, 2);
  volatile uint64_t *const high_table = (uint64_t*)(HIGH + 0x1000), *const low_table = (uint64_t*)(LOW + 0x1000);
  memset((void*)(LOW + 0x1000), 0, 4096);
  memset((void*)(HIGH + 0x1000), 0, 4096);
  high_table[0] = (HIGH + 0x2000) | PTE_P | PTE_W;
  low_table[0] = (HIGH + 0x3000) | PTE_P | PTE_W;
  AT64(HIGH + 0x2000) = 1;
  AT64(HIGH + 0x3000) = 2;
  AT64(LOW + 0x2000) = 3;
  AT64(LOW + 0x3000) = 4;
  *directory = (HIGH + 0x1000) | PTE_P | PTE_W;
  invlpg(WINDOW);
  check_eq("open-walk", AT64(WINDOW), 1);
  high_table[0] &= ~PTE_A;
  close_gate();
  check_eq("closed-walk", AT64(WINDOW), 4);
  AT64(WINDOW) = 5;
  open_gate();
  check_eq("closed-walk-accessed-and-dirty", low_table[0] & (PTE_A | PTE_D), PTE_A | PTE_D);
  check_eq("closed-walk-left-the-other", high_table[0] & (PTE_A | PTE_D), 0);
  check_eq("closed-walk-store", AT64(LOW + 0x3000), 5);
  check_eq("open-walk-again", AT64(WINDOW), 1);
  *directory = 0;
  invlpg(WINDOW);

  // CR3 itself.
  memcpy((void*)(LOW + 0x4000), pml4, 4096);
  memset((void*)(HIGH + 0x4000), 0, 4096);
  const word old = read_cr3();
  close_gate();
  write_cr3(HIGH + 0x4000);
  const uint64_t through = AT64(LOW);
  write_cr3(old);
  open_gate();
  check_eq("closed-cr3", through, AT64(LOW));
}

void guest_main(void) {
  test_ways();
  test_data();
  test_code();
  test_paging();
  finish();
}
