// SPDX-License-Identifier: Apache-2.0
// Four-level paging: permissions against a model of the rules, error codes, reserved bits, A/D bits, page sizes,
// invalidation, PCID. [SDM-3A 4.5-4.10]
#include "guest.h"

void guest_main(void);

enum { kP = 1, kW = 2, kU = 4, kRsvd = 8, kI = 16 };  // #PF error code [SDM-3A 4.7]

static uint8_t data[4][4096] __attribute__((aligned(4096)));
// 2 MiB and 1 GiB pages of the identity map hold these at 0x200000 and up.
static bool has_pcid, has_invpcid, has_smep, has_smap, has_1g;

// ---- probes ----
static void read_byte(void* address) { __asm__ volatile(MARK "movb (%0), %%al" ::"r"(address) : "rax", "memory"); }
static void write_byte(void* address) { __asm__ volatile(MARK "movb $0xc3, (%0)" ::"r"(address) : "memory"); }
static void read_quad(void* address) { __asm__ volatile(MARK "mov (%0), %%rax" ::"r"(address) : "rax", "memory"); }
static void write_quad(void* address) { __asm__ volatile(MARK "mov %0, (%0)" ::"r"(address) : "memory"); }
static void call_it(void* address) { __asm__ volatile("call *%0" ::"r"(address) : "memory"); }
static void read_with_ac(void* address) {
  __asm__ volatile("stac\n" MARK "movb (%0), %%al; clac" ::"r"(address) : "rax", "memory");
}
static void write_with_ac(void* address) {
  __asm__ volatile("stac\n" MARK "movb $0xc3, (%0); clac" ::"r"(address) : "memory");
}
extern char user_read[], user_write[], user_execute[];
__asm__(
    "user_read: movb (%rdi), %al; int $0xf0\n"
    "user_write: movb $0xc3, (%rdi); int $0xf0\n"
    "user_execute: jmp *%rdi\n");

enum access { kRead, kWrite, kExecute };

// The error code of the access, or -1 if it went through.
static int probe(word address, enum access access, bool user, bool ac) {
  int vector;
  if (user) {
    const char* const code[] = {user_read, user_write, user_execute};
    const struct user_entry entry = {.ip = USER(code[access]), .arguments = {address}};
    vector = run_user(&entry);
    if (vector == kUserReturnVector) return -1;
  } else {
    void (*const code[])(void*) = {ac ? read_with_ac : read_byte, ac ? write_with_ac : write_byte, call_it};
    vector = trap_call(code[access], (void*)address);
    if (vector == kNoTrap) return -1;
  }
  if (vector != 14) return 0x1000 + vector;
  if (trap.cr2 != address) return 0x2000;
  return (int)trap.error;
}

// ---- the rules ----
struct rules {
  bool wp, smep, smap, ac, nxe;
};
static int model(uint64_t flags, enum access access, bool user, struct rules r) {
  int error = (access == kWrite ? kW : 0) | (user ? kU : 0);
  // The I bit: with NXE or SMEP. [SDM-3A 4.7]
  if (access == kExecute && (r.nxe || r.smep)) error |= kI;
  if (!(flags & PTE_P)) return error;
  error |= kP;
  const bool user_page = flags & PTE_U;
  if (user && !user_page) return error;
  if (access == kExecute) {
    if (flags & PTE_NX) return error;
    if (!user && user_page && r.smep) return error;
    return -1;
  }
  if (!user && user_page && r.smap && !r.ac) return error;
  if (access == kWrite && !(flags & PTE_W) && (user || r.wp)) return error;
  return -1;
}

static void set_rules(struct rules r) {
  const word cr0 = read_cr0() & ~(word)CR0_WP, cr4 = read_cr4() & ~(word)(CR4_SMEP | CR4_SMAP);
  write_cr0(cr0 | (r.wp ? CR0_WP : 0));
  write_cr4(cr4 | (r.smep ? CR4_SMEP : 0) | (r.smap ? CR4_SMAP : 0));
}

// "ret" for the supervisor at 0, "int $0xf0" for the user at 16; writes store the RET byte again.
static void fill_code(uint8_t* page) {
  page[0] = 0xc3;
  page[16] = 0xcd;
  page[17] = kUserReturnVector;
}

static void permission_matrix(const char* name, struct rules r, int level) {
  set_rules(r);
  const word window = WINDOW + (word)level * (1ul << 39);
  bool passed = true;
  for (unsigned bits = 0; bits < 16 && passed; ++bits) {
    const uint64_t flags = (bits & 1 ? PTE_P : 0) | (bits & 2 ? PTE_W : 0) | (bits & 4 ? PTE_U : 0) | (bits & 8 ? PTE_NX : 0);
    const uint64_t size = 1ul << (12 + 9 * (level - 1));
    const uint64_t physical = (word)data[0] & ~(size - 1);
    const word address = window + ((word)data[0] & (size - 1));
    map(window, physical, flags, level);
    invlpg(address);  // TCG forgets code of large pages only where it is told: see 2m-invlpg-code
    for (unsigned a = 0; a < 6 && passed; ++a) {
      const bool user = a >= 3;
      const enum access access = (enum access)(a % 3);
      const word at = access == kExecute && user ? address + 16 : address;
      const int got = probe(at, access, user, r.ac), want = model(flags, access, user, r);
      if (got == want) continue;
      passed = false;
      print("  flags ");
      print_hex(flags);
      print(user ? " user" : " supervisor");
      print(access == kRead ? " read" : access == kWrite ? " write" : " execute");
      print(": error ");
      print_hex((uint64_t)(int64_t)got);
      print(", want ");
      print_hex((uint64_t)(int64_t)want);
      print("\n");
    }
  }
  check(name, passed);
  map(window, 0, 0, level);
}

static void test_permissions(void) {
  fill_code(data[0]);
  struct rules r = {.nxe = true};
  permission_matrix("permissions-wp0", r, 1);
  r.wp = true;
  permission_matrix("permissions-wp1", r, 1);
  permission_matrix("permissions-2m", r, 2);
  if (has_1g)
    permission_matrix("permissions-1g", r, 3);
  else
    skip("permissions-1g", "no 1 GiB pages");
  if (has_smep) {
    r.smep = true;
    permission_matrix("permissions-smep", r, 1);
    r.smep = false;
  } else {
    skip("permissions-smep", "no SMEP");
  }
  if (has_smap) {
    r.smap = true;
    permission_matrix("permissions-smap", r, 1);
    r.ac = true;
    permission_matrix("permissions-smap-ac", r, 1);
    r.wp = false;
    permission_matrix("permissions-smap-ac-wp0", r, 2);
    r.wp = true;
    r.ac = false;
  } else {
    skip("permissions-smap", "no SMAP");
  }
  if (has_smep && has_smap) {
    r.smep = true;
    permission_matrix("permissions-smep-smap", r, 1);
  }
  set_rules((struct rules){.wp = true});
}

// Permissions combine over all levels.
static void test_upper_levels(void) {
  const uint64_t all = PTE_P | PTE_W | PTE_U;
  map(WINDOW, (word)data[0], all, 1);
  const struct rules r = {.wp = true, .nxe = true};
  const struct {
    const char* name;
    int level;
    uint64_t clear, set;
  } cases[] = {
      {"pde-read-only", 2, PTE_W, 0},   {"pde-supervisor", 2, PTE_U, 0},   {"pde-nx", 2, 0, PTE_NX},
      {"pdpte-read-only", 3, PTE_W, 0}, {"pdpte-supervisor", 3, PTE_U, 0}, {"pdpte-nx", 3, 0, PTE_NX},
      {"pml4e-read-only", 4, PTE_W, 0}, {"pml4e-supervisor", 4, PTE_U, 0}, {"pml4e-nx", 4, 0, PTE_NX},
      {"pde-not-present", 2, PTE_P, 0}, {"pdpte-not-present", 3, PTE_P, 0}, {"pml4e-not-present", 4, PTE_P, 0},
  };
  for (unsigned i = 0; i < ARRAY_SIZE(cases); ++i) {
    uint64_t* entry = entry_for(WINDOW, cases[i].level);
    const uint64_t saved = *entry;
    *entry = (saved & ~cases[i].clear) | cases[i].set;
    write_cr3(read_cr3());
    const uint64_t effective = (all & ~cases[i].clear) | cases[i].set;
    bool passed = true;
    for (unsigned a = 0; a < 6; ++a) {
      const bool user = a >= 3;
      const enum access access = (enum access)(a % 3);
      passed = passed && probe(access == kExecute && user ? WINDOW + 16 : WINDOW, access, user, false) == model(effective, access, user, r);
    }
    check(cases[i].name, passed);
    *entry = saved;
    write_cr3(read_cr3());
  }
}

static void test_reserved(void) {
  // RSVD implies P. [SDM-3A 4.7] TCG leaves P clear.
  const unsigned rsvd = is_tcg() ? kRsvd : (kP | kRsvd);
  const unsigned bits = cpuid(0x80000008, 0).eax & 0xff;
  const uint64_t flags = PTE_P | PTE_W | PTE_U;
  if (bits < 52) {
    map(WINDOW, (word)data[0], flags | 1ul << bits, 1);
    check_eq("rsvd-first-bit-beyond-maxphyaddr", (unsigned)probe(WINDOW, kRead, false, false), rsvd);
    map(WINDOW, (word)data[0], flags | 1ul << 51, 1);
    check_eq("rsvd-bit-51-user-write", (unsigned)probe(WINDOW, kWrite, true, false), rsvd | kW | kU);
    check_eq("rsvd-execute", (unsigned)probe(WINDOW, kExecute, false, false), rsvd | kI);
    map(WINDOW, (word)data[0], (flags & ~PTE_P) | 1ul << 51, 1);
    check_eq("rsvd-ignored-if-not-present", (unsigned)probe(WINDOW, kRead, false, false), 0);
  } else {
    skip("rsvd", "52 physical address bits");
  }
  map(WINDOW, (word)data[0], flags, 1);
  uint64_t* pml4e = entry_for(WINDOW, 4);
  *pml4e |= PTE_PS;
  write_cr3(read_cr3());
  check_eq("rsvd-pml4e-ps", (unsigned)probe(WINDOW, kRead, false, false), rsvd);
  *pml4e &= ~PTE_PS;
  write_cr3(read_cr3());
  const word big = WINDOW + (2ul << 39), huge = WINDOW + (3ul << 39);
  map(big, 0x400000 | 1ul << 13, flags, 2);
  check_eq("rsvd-2m-bit-13", (unsigned)probe(big, kRead, false, false), rsvd);
  map(big, 0x400000 | 1ul << 12, flags, 2);  // PAT
  check_eq("2m-pat-bit-is-fine", (unsigned)probe(big, kRead, false, false), (unsigned)-1);
  if (has_1g) {
    map(huge, 1ul << 29, flags, 3);
    check_eq("rsvd-1g-bit-29", (unsigned)probe(huge, kRead, false, false), rsvd);
    map(huge, 0, 0, 3);
  }
  map(big, 0, 0, 2);
  // NX without EFER.NXE is a reserved bit.
  map(WINDOW, (word)data[0], flags | PTE_NX, 1);
  wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_NXE);
  write_cr3(read_cr3());
  check_eq("rsvd-nx-without-nxe", (unsigned)probe(WINDOW, kRead, false, false), rsvd);
  map(WINDOW, (word)data[0], 0, 1);
  // Without NXE and SMEP the I bit stays clear.
  check_eq("no-i-bit-without-nxe", (unsigned)probe(WINDOW, kExecute, false, false), 0);
  wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
  write_cr3(read_cr3());
  // Everything that is ignored, set: bits 9-11 and 52-58 (59-62 without protection keys).
  map(WINDOW, (word)data[0], flags | 0x7ffull << 52 | 7ul << 9, 1);
  check_eq("ignored-bits", (unsigned)probe(WINDOW, kRead, true, false), (unsigned)-1);
}

static void test_accessed_dirty(void) {
  const uint64_t flags = PTE_P | PTE_W | PTE_U;
  static const char* const read_names[] = {0, "read-sets-a-4k", "read-sets-a-2m", "read-sets-a-1g"};
  static const char* const write_names[] = {0, "write-sets-d-4k", "write-sets-d-2m", "write-sets-d-1g"};
  for (int level = 1; level <= (has_1g ? 3 : 2); ++level) {
    const word window = WINDOW + (word)level * (1ul << 39);
    const uint64_t mask = (1ul << (12 + 9 * (level - 1))) - 1;
    const word address = window + ((word)data[1] & mask);
    map(window, (word)data[1] & ~mask, flags, level);
    for (int upper = level + 1; upper <= 4; ++upper) *entry_for(window, upper) &= ~PTE_A;
    write_cr3(read_cr3());
    probe(address, kRead, false, false);
    bool upper_ok = true;
    for (int upper = level + 1; upper <= 4; ++upper) upper_ok = upper_ok && (*entry_for(window, upper) & (PTE_A | PTE_D)) == PTE_A;
    check(read_names[level], upper_ok && (*entry_for(window, level) & (PTE_A | PTE_D)) == PTE_A);
    // The translation is cached as clean now: the write must still set D.
    probe(address, kWrite, false, false);
    check(write_names[level], *entry_for(window, level) & PTE_D);
    *entry_for(window, level) &= ~(PTE_A | PTE_D);
    invlpg(address);
    probe(address, kWrite, true, false);
    check_eq("write-sets-a-and-d-again", *entry_for(window, level) & (PTE_A | PTE_D), PTE_A | PTE_D);
    map(window, 0, 0, level);
  }
  uint64_t* pte = entry_for(WINDOW, 1);
  map(WINDOW, (word)data[0], PTE_P | PTE_U, 1);
  probe(WINDOW, kWrite, false, false);
  check("refused-write-leaves-d-clear", !(*pte & PTE_D));
  write_cr0(read_cr0() & ~(word)CR0_WP);
  probe(WINDOW, kWrite, false, false);
  check("wp0-write-sets-d", *pte & PTE_D);
  write_cr0(read_cr0() | CR0_WP);
  // An atomic that does not change memory, still a write.
  map(WINDOW, (word)data[0], flags, 1);
  __asm__ volatile("xor %%eax, %%eax; lock cmpxchgl %%ecx, (%0)" ::"r"(WINDOW) : "rax", "rcx", "memory", "cc");
  check("failed-cmpxchg-sets-d", *pte & PTE_D);
  map(WINDOW, (word)data[0], flags, 1);
  probe(WINDOW, kExecute, false, false);
  check_eq("fetch-sets-a-only", *pte & (PTE_A | PTE_D), PTE_A);
}

// ---- which address is reported, and what is left behind ----
static void fetch_straddle(void* address) { __asm__ volatile("call *%0" ::"r"(address) : "memory"); }
static void movaps_store(void* address) { __asm__ volatile(MARK "movups %%xmm0, (%0)" ::"r"(address) : "memory"); }
static void push_probe(void* top) {
  __asm__ volatile("mov %%rsp, %%rbx; mov %0, %%rsp\n" MARK "push %%rax; mov %%rbx, %%rsp" ::"r"(top) : "rbx", "memory");
}
static void exchange(void* address) { __asm__ volatile("mov $5, %%eax\n" MARK "xchg %%rax, (%0)" ::"r"(address) : "rax", "memory"); }

static void test_crossing(void) {
  const uint64_t flags = PTE_P | PTE_W;
  map(WINDOW, (word)data[1], flags, 1);
  map(WINDOW + 0x1000, 0, 0, 1);
  const word edge = WINDOW + 0x1000 - 4;
  expect_trap("cross-read", read_quad, (void*)edge, 14, 0);
  check_eq("cross-read-cr2", trap.cr2, WINDOW + 0x1000);
  memset(&data[1][4092], 0x11, 4);
  expect_trap("cross-write", write_quad, (void*)edge, 14, kW);
  check_eq("cross-write-cr2", trap.cr2, WINDOW + 0x1000);
  check_eq("cross-write-changed-nothing", *(uint32_t*)&data[1][4092], 0x11111111);
  map(WINDOW + 0x1000, (word)data[2], PTE_P, 1);
  expect_trap("cross-write-to-read-only", write_quad, (void*)edge, 14, kW | kP);
  check_eq("cross-write-to-read-only-changed-nothing", *(uint32_t*)&data[1][4092], 0x11111111);
  write_cr4(read_cr4() | CR4_OSFXSR);
  expect_trap("cross-vector-write", movaps_store, (void*)(WINDOW + 0x1000 - 8), 14, kW | kP);
  // TCG stores 16 bytes as two times 8.
  if (!tcg_lacks("cross-vector-changed-nothing")) check_eq("cross-vector-changed-nothing", *(uint32_t*)&data[1][4092], 0x11111111);
  memset(&data[1][4092], 0x11, 4);
  expect_trap("cross-xchg", exchange, (void*)edge, 14, kW | kP);
  check_eq("cross-xchg-changed-nothing", *(uint32_t*)&data[1][4092], 0x11111111);
  map(WINDOW, 0, 0, 1);
  expect_trap("cross-both-absent", read_quad, (void*)edge, 14, 0);
  check_eq("cross-both-absent-cr2", trap.cr2, edge);
  set_gate_options(14, 1, 0, false);
  expect_trap("push-fault", push_probe, (void*)(WINDOW + 0x1000), 14, kW);
  check_eq("push-fault-cr2", trap.cr2, WINDOW + 0x1000 - 8);
  set_gate_options(14, 0, 0, false);

  // Both pages mapped, to pages that are not neighbours: data must come from both.
  map(WINDOW, (word)data[1], flags, 1);
  map(WINDOW + 0x1000, (word)data[3], flags, 1);
  *(volatile uint64_t*)edge = 0x1122334455667788;
  check_eq("cross-write-first-page", *(uint32_t*)&data[1][4092], 0x55667788);
  check_eq("cross-write-second-page", *(uint32_t*)&data[3][0], 0x11223344);
  check_eq("cross-read-both", *(volatile uint64_t*)edge, 0x1122334455667788);

  // An instruction across the edge: mov $imm32, %eax; ret.
  static const uint8_t code[] = {0xb8, 0x78, 0x56, 0x34, 0x12, 0xc3};
  memcpy((void*)(WINDOW + 0x1000 - 2), code, sizeof code);
  uint32_t result;
  __asm__ volatile("call *%1" : "=a"(result) : "r"(WINDOW + 0x1000 - 2) : "memory");
  check_eq("fetch-across-pages", result, 0x12345678);
  map(WINDOW + 0x1000, 0, 0, 1);
  trap_call(fetch_straddle, (void*)(WINDOW + 0x1000 - 2));
  check_eq("fetch-across-fault-cr2", trap.cr2, WINDOW + 0x1000);
  check_eq("fetch-across-fault-error", trap.error, kI);
  check_eq("fetch-across-fault-ip", trap.ip, WINDOW + 0x1000 - 2);
  map(WINDOW + 0x1000, (word)data[3], PTE_P | PTE_NX, 1);
  trap_call(fetch_straddle, (void*)(WINDOW + 0x1000 - 2));
  check_eq("fetch-across-nx-error", trap.error, kI | kP);
  check_eq("fetch-across-nx-cr2", trap.cr2, WINDOW + 0x1000);
  map(WINDOW + 0x1000, (word)data[3], flags, 1);
  // An undefined opcode that ends before the edge does not touch the next page.
  map(WINDOW + 0x1000, 0, 0, 1);
  data[1][4094] = 0x0f;
  data[1][4095] = 0x0b;
  trap_call(fetch_straddle, (void*)(WINDOW + 0x1000 - 2));
  check_eq("ud2-at-page-end", trap.vector, 6);
}

// ---- stale translations ----
static uint8_t peek(word address) { return *(volatile uint8_t*)address; }

static void test_invalidation(void) {
  const uint64_t flags = PTE_P | PTE_W;
  memset(data[1], 0xa1, 4096);
  memset(data[2], 0xa2, 4096);
  memset(data[3], 0xa3, 4096);
  uint64_t* pte = entry_for(WINDOW, 1);
  map(WINDOW, (word)data[1], flags, 1);
  check_eq("mapped", peek(WINDOW), 0xa1);
  *pte = (word)data[2] | flags;
  invlpg(WINDOW + 0x7ff);
  check_eq("invlpg-any-address-of-page", peek(WINDOW), 0xa2);
  *pte = (word)data[1] | flags;
  write_cr3(read_cr3());
  check_eq("cr3-load", peek(WINDOW), 0xa1);
  // Through code as well as data: execution must follow the new mapping.
  data[1][64] = data[2][64] = 0xb8;  // mov $imm32, %eax; ret
  *(uint32_t*)&data[1][65] = 0x11111111;
  *(uint32_t*)&data[2][65] = 0x22222222;
  data[1][69] = data[2][69] = 0xc3;
  uint32_t result;
  __asm__ volatile("call *%1" : "=a"(result) : "r"(WINDOW + 64) : "memory");
  check_eq("code-first-mapping", result, 0x11111111);
  *pte = (word)data[2] | flags;
  invlpg(WINDOW);
  __asm__ volatile("call *%1" : "=a"(result) : "r"(WINDOW + 64) : "memory");
  check_eq("code-after-remap", result, 0x22222222);
  *pte = (word)data[1] | flags;
  write_cr3(read_cr3());
  __asm__ volatile("call *%1" : "=a"(result) : "r"(WINDOW + 64) : "memory");
  check_eq("code-after-cr3", result, 0x11111111);
  *pte |= PTE_NX;
  invlpg(WINDOW);
  check_eq("code-after-nx", (unsigned)trap_call(call_it, (void*)(WINDOW + 64)), 14);

  write_cr4(read_cr4() | CR4_PGE);
  map(WINDOW, (word)data[1], flags | PTE_G, 1);
  peek(WINDOW);
  *pte = (word)data[2] | flags | PTE_G;
  invlpg(WINDOW);
  check_eq("invlpg-global", peek(WINDOW), 0xa2);
  *pte = (word)data[3] | flags | PTE_G;
  write_cr4(read_cr4() & ~(word)CR4_PGE);
  write_cr4(read_cr4() | CR4_PGE);
  check_eq("pge-toggle", peek(WINDOW), 0xa3);
  // A 2 MiB page, invalidated through an address in its middle.
  const word big = WINDOW + (2ul << 39);
  map(big, 0x600000, flags, 2);
  *(volatile uint8_t*)0x654321 = 0x5a;
  *(volatile uint8_t*)0x854321 = 0x5b;
  check_eq("2m-offset", peek(big + 0x54321), 0x5a);
  *entry_for(big, 2) = 0x800000 | flags | PTE_PS;
  invlpg(big + 0x154321);
  check_eq("2m-invlpg", peek(big + 0x54321), 0x5b);
  memcpy((void*)0x654400, (const void*)&data[1][64], 6);
  memcpy((void*)0x854400, (const void*)&data[2][64], 6);
  __asm__ volatile("call *%1" : "=a"(result) : "r"(big + 0x54400) : "memory");
  check_eq("2m-code", result, 0x22222222);
  *entry_for(big, 2) = 0x600000 | flags | PTE_PS;
  invlpg(big + 0x154321);
  if (!tcg_lacks("2m-invlpg-code")) {
    __asm__ volatile("call *%1" : "=a"(result) : "r"(big + 0x54400) : "memory");
    check_eq("2m-invlpg-code", result, 0x11111111);
  }
  map(big, 0, 0, 2);
  if (has_1g) {
    const word huge = WINDOW + (3ul << 39);
    map(huge, 0, flags, 3);
    check_eq("1g-offset", peek(huge + 0x854321), 0x5b);
    map(huge, 0, 0, 3);
  }
  // Permissions raised need no invalidation: the processor walks again before it faults. [SDM-3A 4.10.4.3]
  map(WINDOW, (word)data[1], PTE_P, 1);
  check_eq("read-only-cached", peek(WINDOW), 0xa1);
  *pte |= PTE_W;
  expect_no_trap("raised-permission-needs-no-invlpg", write_byte, (void*)WINDOW);
  // Nor does a page that becomes present.
  map(WINDOW, (word)data[1], 0, 1);
  check_eq("absent", (unsigned)trap_call(read_byte, (void*)WINDOW), 14);
  *pte |= PTE_P;
  expect_no_trap("becomes-present-needs-no-invlpg", read_byte, (void*)WINDOW);
  // Large pages replaced by small ones and back.
  *entry_for(big, 2) = 0;
  write_cr3(read_cr3());
  map(big + 0x1000, (word)data[2], flags, 1);
  check_eq("2m-split", peek(big + 0x1000), 0xa2);
}

// ---- PCID ----
static void invpcid(uint64_t type, uint64_t pcid, uint64_t address) {
  const struct {
    uint64_t pcid, address;
  } descriptor = {pcid, address};
  __asm__ volatile("invpcid %0, %1" ::"m"(descriptor), "r"(type) : "memory");
}
static void invpcid_bad_type(void* unused) {
  (void)unused;
  invpcid(4, 0, 0);
}
static void invpcid_bad_reserved(void* unused) {
  (void)unused;
  invpcid(1, 1ul << 12, 0);
}
static void invpcid_non_canonical(void* unused) {
  (void)unused;
  invpcid(0, 0, 1ul << 47);
}
static void invpcid_pcid_without_pcide(void* unused) {
  (void)unused;
  invpcid(1, 5, 0);
}
static void set_pcide(void* unused) {
  (void)unused;
  write_cr4(read_cr4() | CR4_PCIDE);
}
static void paging_off(void* unused) {
  (void)unused;
  write_cr0(read_cr0() & ~(word)CR0_PG);
}

static void test_pcid(void) {
  const uint64_t flags = PTE_P | PTE_W, no_flush = 1ul << 63;
  const word root = read_cr3() & ~0xffful;
  uint64_t* pte = entry_for(WINDOW, 1);
  data[1][0] = 0xa1;  // a probe wrote there
  if (has_invpcid) {
    expect_trap("gp-invpcid-type-4", invpcid_bad_type, 0, 13, 0);
    expect_trap("gp-invpcid-reserved", invpcid_bad_reserved, 0, 13, 0);
    expect_trap("gp-invpcid-non-canonical", invpcid_non_canonical, 0, 13, 0);
    if (has_pcid) expect_trap("gp-invpcid-without-pcide", invpcid_pcid_without_pcide, 0, 13, 0);
  } else {
    skip("invpcid", "not there");
  }
  if (!has_pcid) {
    skip("pcid", "not there");
    return;
  }
  write_cr3(root | 8);  // PCD with PCIDE clear
  if (!tcg_lacks("gp-pcide-with-cr3-bits")) expect_trap("gp-pcide-with-cr3-bits", set_pcide, 0, 13, 0);
  write_cr3(root);
  set_pcide(0);
  map(WINDOW, (word)data[1], flags, 1);
  write_cr3(root | 1);
  check_eq("pcid-1", peek(WINDOW), 0xa1);
  check_eq("pcid-in-cr3", read_cr3(), root | 1);
  *pte = (word)data[2] | flags;
  write_cr3(root | 2);
  check_eq("pcid-2-is-fresh", peek(WINDOW), 0xa2);
  *pte = (word)data[3] | flags;
  write_cr3(root | 1);  // bit 63 clear: everything of PCID 1 goes
  check_eq("pcid-1-flushed-by-load", peek(WINDOW), 0xa3);
  *pte = (word)data[1] | flags;
  invlpg(WINDOW);
  check_eq("invlpg-current-pcid", peek(WINDOW), 0xa1);
  write_cr3(root | 2 | no_flush);  // what PCID 2 sees now may be old or new
  check_eq("bit-63-reads-back-clear", read_cr3(), root | 2);
  const uint8_t seen = peek(WINDOW);
  check("pcid-2-kept-or-walked", seen == 0xa2 || seen == 0xa1);
  invlpg(WINDOW);
  check_eq("pcid-2-invlpg", peek(WINDOW), 0xa1);
  if (has_invpcid) {
    static const char* const names[] = {"invpcid-address", "invpcid-context", "invpcid-all-global", "invpcid-all"};
    for (unsigned type = 0; type < 4; ++type) {
      write_cr3(root | 7 | no_flush);
      *pte = (word)data[1] | flags;
      invpcid(2, 0, 0);
      peek(WINDOW);
      write_cr3(root | 2 | no_flush);
      *pte = (word)data[2] | flags;
      invpcid(type, 7, WINDOW);
      write_cr3(root | 7 | no_flush);
      check_eq(names[type], peek(WINDOW), 0xa2);
    }
  }
  write_cr3(root | 1);
  if (!tcg_lacks("gp-paging-off-with-pcide")) expect_trap("gp-paging-off-with-pcide", paging_off, 0, 13, 0);
  write_cr3(root);
  *pte = (word)data[3] | flags;
  write_cr4(read_cr4() & ~(word)CR4_PCIDE);
  check_eq("pcide-clear-flushes", peek(WINDOW), 0xa3);
}

void guest_main(void) {
  const struct cpuid one = cpuid(1, 0), seven = cpuid(7, 0);
  has_pcid = one.ecx & (1u << 17);
  has_invpcid = seven.ebx & (1u << 10);
  has_smep = seven.ebx & (1u << 7);
  has_smap = seven.ebx & (1u << 20);
  has_1g = cpuid(0x80000001, 0).edx & (1u << 26);
  test_permissions();
  test_upper_levels();
  test_reserved();
  test_accessed_dirty();
  test_crossing();
  test_invalidation();
  test_pcid();
  finish();
}
