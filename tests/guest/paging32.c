// SPDX-License-Identifier: Apache-2.0
// A 32-bit kernel: paging with 4 KiB and 4 MiB pages, PAE with NX, segmentation with limits, 16-bit code.
// [SDM-3A 4.3, 4.4, 5.3]
#include "guest.h"

void guest_main(void);

enum { kP = 1, kW = 2, kU = 4, kRsvd = 8, kI = 16 };
enum { kPresent = 1, kWrite = 2, kUser = 4, kAccessed = 32, kDirty = 64, kLarge = 128, kGlobal = 256 };
#define WINDOW32 0x80000000u

static uint32_t directory[1024] __attribute__((aligned(4096)));
static uint32_t table[1024] __attribute__((aligned(4096)));
static uint64_t pdpt[4] __attribute__((aligned(32)));
static uint64_t pae_directories[4][512] __attribute__((aligned(4096)));
static uint64_t pae_table[512] __attribute__((aligned(4096)));
static uint8_t data[2][4096] __attribute__((aligned(4096)));

// ---- probes ----
static void read_byte(void* at) { __asm__ volatile(MARK "movb (%0), %%al" ::"r"(at) : "eax", "memory"); }
static void write_byte(void* at) { __asm__ volatile(MARK "movb $0xc3, (%0)" ::"r"(at) : "memory"); }
static void call_it(void* at) { __asm__ volatile("call *%0" ::"r"(at) : "memory"); }
extern char user_read[], user_write[], user_execute[];
__asm__(
    "user_read: movb (%eax), %cl; int $0xf0\n"
    "user_write: movb $0xc3, (%eax); int $0xf0\n"
    "user_execute: jmp *%eax\n");
enum access { kReadAccess, kWriteAccess, kExecuteAccess };

static int probe(word at, enum access access, bool user) {
  int vector;
  if (user) {
    const char* const code[] = {user_read, user_write, user_execute};
    const struct user_entry entry = {.ip = USER(code[access]), .arguments = {at}};
    vector = run_user(&entry);
    if (vector == kUserReturnVector) return -1;
  } else {
    void (*const code[])(void*) = {read_byte, write_byte, call_it};
    vector = trap_call(code[access], (void*)at);
    if (vector == kNoTrap) return -1;
  }
  if (vector != 14) return 0x1000 + vector;
  return trap.cr2 == at ? (int)trap.error : 0x2000;
}

static int model(uint64_t flags, enum access access, bool user, bool wp, bool nxe) {
  int error = (access == kWriteAccess ? kW : 0) | (user ? kU : 0) | (access == kExecuteAccess && nxe ? kI : 0);
  if (!(flags & kPresent)) return error;
  error |= kP;
  if (user && !(flags & kUser)) return error;
  if (access == kExecuteAccess && (flags >> 63)) return error;
  if (access == kWriteAccess && !(flags & kWrite) && (user || wp)) return error;
  return -1;
}

static void matrix(const char* name, void (*set)(uint64_t flags), word at, bool wp, bool nx) {
  bool passed = true;
  write_cr0((read_cr0() & ~CR0_WP) | (wp ? CR0_WP : 0));
  for (unsigned bits = 0; bits < (nx ? 16 : 8); ++bits) {
    const uint64_t flags = (bits & 7) | (uint64_t)(bits >> 3) << 63;
    set(flags);
    write_cr3(read_cr3());
    for (unsigned a = 0; a < 6; ++a) {
      const bool user = a >= 3;
      const enum access access = (enum access)(a % 3);
      const int got = probe(access == kExecuteAccess && user ? at + 16 : at, access, user), want = model(flags, access, user, wp, nx);
      if (got == want) continue;
      if (passed) {
        print("  flags ");
        print_hex(flags);
        print(" access ");
        print_hex(a);
        print(" got ");
        print_hex((uint32_t)got);
        print(" want ");
        print_hex((uint32_t)want);
        print("\n");
      }
      passed = false;
    }
  }
  check(name, passed);
  write_cr0(read_cr0() | CR0_WP);
}

// ---- 32-bit paging ----
static void set_small(uint64_t flags) {
  table[0] = (word)data[0] | (uint32_t)(flags & 7);
  directory[WINDOW32 >> 22] = (word)table | 7;
}
static void set_big(uint64_t flags) { directory[WINDOW32 >> 22] = ((word)data[0] & 0xffc00000) | kLarge | (uint32_t)(flags & 7); }

static void test_32(void) {
  for (unsigned i = 0; i < 256; ++i) {
    directory[i] = i << 22 | kLarge | kPresent | kWrite;
    directory[256 + i] = i << 22 | kLarge | kPresent | kWrite | kUser;
  }
  write_cr4(read_cr4() | CR4_PSE);
  write_cr3((word)directory);
  write_cr0(read_cr0() | CR0_PG);
  check("paging-on", true);
  data[0][0] = 0xc3, data[0][16] = 0xcd, data[0][17] = kUserReturnVector;
  const word big = WINDOW32 + ((word)data[0] & 0x3fffff);
  matrix("4k-wp0", set_small, WINDOW32, false, false);
  matrix("4k-wp1", set_small, WINDOW32, true, false);
  matrix("4m-wp1", set_big, big, true, false);
  set_small(7);
  write_cr3(read_cr3());
  probe(WINDOW32, kReadAccess, false);
  check_eq("4k-accessed", table[0] & (kAccessed | kDirty), kAccessed);
  probe(WINDOW32, kWriteAccess, true);
  check_eq("4k-dirty", table[0] & (kAccessed | kDirty), kAccessed | kDirty);
  check("pde-accessed", directory[WINDOW32 >> 22] & kAccessed);
  set_big(7);
  write_cr3(read_cr3());
  probe(big, kWriteAccess, false);
  check_eq("4m-dirty", directory[WINDOW32 >> 22] & (kAccessed | kDirty), kAccessed | kDirty);
  // Reserved: bit 21 of a 4 MiB page's entry. [SDM-3A table 4-4]
  directory[WINDOW32 >> 22] |= 1u << 21;
  write_cr3(read_cr3());
  if (!tcg_lacks("4m-reserved")) check_eq("4m-reserved", (unsigned)probe(big, kReadAccess, false), kP | kRsvd);
  // An address wraps at 4 GiB; linear addresses near the top.
  directory[1023] = (word)table | 7;
  table[1023] = (word)data[1] | 7;
  write_cr3(read_cr3());
  *(volatile uint32_t*)0xfffffffc = 0x12345678;
  check_eq("last-page", *(volatile uint32_t*)&data[1][4092], 0x12345678);
  directory[1023] = 0;
  write_cr3(read_cr3());
  check_eq("last-page-gone", (unsigned)probe(0xfffff000, kReadAccess, false), 0);
  write_cr0(read_cr0() & ~CR0_PG);
  check("paging-off", true);
}

// ---- PAE ----
static void set_pae_small(uint64_t flags) {
  pae_table[0] = (word)data[0] | flags;
  pae_directories[2][0] = (word)pae_table | 7;
}
static void set_pae_big(uint64_t flags) { pae_directories[2][0] = ((word)data[0] & ~0x1fffffu) | kLarge | flags; }
static void load_cr3(void* value) { __asm__ volatile(MARK "mov %0, %%cr3" ::"r"(value) : "memory"); }

static void test_pae(void) {
  for (unsigned i = 0; i < 512; ++i) {
    pae_directories[0][i] = (uint64_t)i << 21 | kLarge | kPresent | kWrite;
    pae_directories[1][i] = (uint64_t)i << 21 | kLarge | kPresent | kWrite | kUser;
  }
  for (unsigned i = 0; i < 4; ++i) pdpt[i] = (word)pae_directories[i] | kPresent;
  const bool nx = cpuid(0x80000001, 0).edx & (1u << 20);
  write_cr4(read_cr4() | CR4_PAE);
  if (nx) wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
  write_cr3((word)pdpt);
  write_cr0(read_cr0() | CR0_PG);
  data[0][0] = 0xc3;
  const word big = WINDOW32 + ((word)data[0] & 0x1fffff);
  matrix("pae-4k-wp0", set_pae_small, WINDOW32, false, nx);
  matrix("pae-4k-wp1", set_pae_small, WINDOW32, true, nx);
  matrix("pae-2m-wp1", set_pae_big, big, true, nx);
  set_pae_small(7);
  write_cr3(read_cr3());
  probe(WINDOW32, kWriteAccess, false);
  check_eq("pae-dirty", (uint32_t)pae_table[0] & (kAccessed | kDirty), kAccessed | kDirty);
  pae_table[0] |= 1ull << 51;
  write_cr3(read_cr3());
  check_eq("pae-reserved", (unsigned)probe(WINDOW32, kReadAccess, false) | kP, kP | kRsvd);  // TCG leaves P clear
  set_pae_small(7);
  // PDPTEs: loaded with CR3, checked then. [SDM-3A 4.4.1]
  pdpt[2] = (word)pae_directories[2] | kPresent | kWrite;
  if (!tcg_lacks("pdpte-reserved")) expect_trap("pdpte-reserved", load_cr3, (void*)pdpt, 13, 0);
  pdpt[2] = 0;
  write_cr3(read_cr3());
  check_eq("pdpte-not-present", (unsigned)probe(WINDOW32, kReadAccess, false), 0);
  pdpt[2] = (word)pae_directories[2] | kPresent;
  write_cr3(read_cr3());
  check_eq("pdpte-present", (unsigned)probe(WINDOW32, kReadAccess, false), (unsigned)-1);
  // On Intel's processors the PDPTEs live in registers from one CR3 load to the next, on AMD's they need not; what a
  // kernel may rely on is that a load takes the new ones.
  pdpt[2] = 0;
  invlpg(WINDOW32);
  if (probe(WINDOW32, kReadAccess, false) == -1)
    check("pdpte-register-keeps", true);
  else
    skip("pdpte-register-keeps", "the PDPT is walked in memory");
  write_cr3(read_cr3());
  check_eq("pdpte-register-reloaded", (unsigned)probe(WINDOW32, kReadAccess, false), 0);
  pdpt[2] = (word)pae_directories[2] | kPresent;
  write_cr3(read_cr3());
}

// ---- segmentation ----
static void set_descriptor(unsigned slot, uint32_t base, uint32_t limit, uint16_t attributes) {
  gdt[kFreeSelector / 8 + slot] = (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(attributes & 0xf0ff) << 40 |
                                  (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)(base >> 24) << 56;
}
static void read_fs(void* offset) { __asm__ volatile(MARK "movl %%fs:(%0), %%eax" ::"r"(offset) : "eax"); }
static void write_fs(void* offset) { __asm__ volatile(MARK "movl %%eax, %%fs:(%0)" ::"r"(offset) : "memory"); }
static void load_fs(void* selector) { __asm__ volatile(MARK "mov %0, %%fs" ::"r"(selector) : "memory"); }
static void test_segments(void) {
  *(uint32_t*)data[0] = 0xfeedface;
  set_descriptor(0, (word)data[0], 0xfff, 0x4093);
  load_fs((void*)kFreeSelector);
  uint32_t value;
  __asm__ volatile("movl %%fs:0, %0" : "=r"(value));
  check_eq("segment-base", value, 0xfeedface);
  if (!tcg_lacks("segment-limits")) {
    expect_no_trap("limit-inside", read_fs, (void*)0xffc);
    expect_trap("limit-read", read_fs, (void*)0xffd, 13, 0);
    expect_trap("limit-write", write_fs, (void*)0x1000, 13, 0);
    set_descriptor(0, (word)data[0], 0xfff, 0x4097);  // expand-down
    load_fs((void*)kFreeSelector);
    expect_trap("expand-down-inside", read_fs, (void*)0xffc, 13, 0);
    expect_no_trap("expand-down-outside", read_fs, (void*)0x1000);
    expect_trap("expand-down-wraps", read_fs, (void*)0xfffffffd, 13, 0);
    set_descriptor(0, (word)data[0], 0xfff, 0x4091);  // read-only
    load_fs((void*)kFreeSelector);
    expect_no_trap("read-only-read", read_fs, 0);
    expect_trap("read-only-write", write_fs, 0, 13, 0);
    load_fs(0);
    expect_trap("null-read", read_fs, 0, 13, 0);
  }
  check("accessed-bit-set", ({
          set_descriptor(0, 0, 0xfff, 0x4092);
          load_fs((void*)kFreeSelector);
          gdt[kFreeSelector / 8] >> 40 & 1;
        }));
  expect_trap("fs-system-descriptor", load_fs, (void*)kTss, 13, kTss);
  set_descriptor(0, 0, 0xfff, 0x4013);
  expect_trap("fs-not-present", load_fs, (void*)kFreeSelector, 11, kFreeSelector);
  load_fs(0);
}

// ---- 16-bit code and stack in protected mode ----
extern char code16[], code16_end[];
__asm__(
    ".code16\n"
    "code16: mov $0xffff, %ax; inc %ax; jnz 1f; mov $0x1234, %dx; pushl $0x55667788; pop %cx; pop %bx\n"
    "1: lretl\n"
    "code16_end: .code32\n");
static void run_code16(void* out) {
  set_descriptor(0, (word)code16, 0xffff, 0x009b);  // D clear
  uint32_t a = 0xaaaa0000, b = 0xbbbb0000, c = 0xcccc0000, d = 0xdddd0000;
  __asm__ volatile("lcall %4, $0" : "+a"(a), "+b"(b), "+c"(c), "+d"(d) : "i"(kFreeSelector) : "memory", "cc");
  *(bool*)out = a == 0xaaaa0000 && b == 0xbbbb5566 && c == 0xcccc7788 && d == 0xdddd1234;
}

// ---- rings: parameters are copied by a 32-bit call gate ----
extern char gate32_entry[], u_gate32[];
uint32_t gate32_seen[6];
__asm__(
    "gate32_entry: mov (%esp), %ebx; mov %ebx, gate32_seen; mov 8(%esp), %ebx; mov %ebx, gate32_seen + 4\n"
    "mov 12(%esp), %ebx; mov %ebx, gate32_seen + 8; mov 20(%esp), %ebx; mov %ebx, gate32_seen + 12; lret $8\n"
    "u_gate32: pushl $0x1111; pushl $0x2222; lcall $0x53, $0; u_gate32_after: mov %esp, %esi; int $0xf0\n");
extern char u_gate32_after[];
static void test_gate32(void) {
  const uint32_t entry = (word)gate32_entry;
  gdt[kFreeSelector / 8] = (entry & 0xffff) | (uint64_t)kKernelCs << 16 | 2ull << 32 | 0xecull << 40 | (uint64_t)(entry >> 16) << 48;
  const struct user_entry user = {.ip = USER(u_gate32)};
  check_eq("call-gate-32", (unsigned)run_user(&user), kUserReturnVector);
  check_eq("call-gate-return-address", gate32_seen[0], USER(u_gate32_after));
  check("call-gate-parameters", gate32_seen[1] == 0x2222 && gate32_seen[2] == 0x1111);
  check_eq("call-gate-old-ss", gate32_seen[3] & 0xffff, kUserDs);
  check_eq("lret-releases-both-stacks", user_result.rsi, USER(user_stack_top));
}

void guest_main(void) {
  check_eq("multiboot-magic", multiboot_magic, 0x2badb002);
  test_32();
  test_pae();
  test_segments();
  bool passed = false;
  expect_no_trap("code16-runs", run_code16, &passed);
  check("code16", passed);
  test_gate32();
  finish();
}
