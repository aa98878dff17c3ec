// SPDX-License-Identifier: Apache-2.0
// What the bare-metal test guests share: serial output, assertions, exception capture, rings, page tables.
//
// A guest calls check() for each assertion ("ok name" / "FAIL name" on COM1) and ends with finish(), which prints
// a summary line and leaves through the debug-exit port (0xf4): 16 if all passed, 17 if not, 18 after an exception
// that nobody expected; the host sees (value << 1) | 1.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef unsigned long word;  // a register of the mode that the guest is built for

// ---- ports, instructions ----
static inline void outb(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }
static inline void outw(uint16_t port, uint16_t value) { __asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port)); }
static inline void outl(uint16_t port, uint32_t value) { __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port)); }
static inline uint8_t inb(uint16_t port) {
  uint8_t value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
static inline uint32_t inl(uint16_t port) {
  uint32_t value;
  __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
static inline uint64_t rdmsr(uint32_t index) {
  uint32_t low, high;
  __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
  return (uint64_t)high << 32 | low;
}
static inline void wrmsr(uint32_t index, uint64_t value) {
  __asm__ volatile("wrmsr" ::"c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}
static inline uint64_t rdtsc(void) {
  uint32_t low, high;
  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
  return (uint64_t)high << 32 | low;
}
struct cpuid {
  uint32_t eax, ebx, ecx, edx;
};
static inline struct cpuid cpuid(uint32_t leaf, uint32_t subleaf) {
  struct cpuid r;
  __asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(subleaf));
  return r;
}
bool is_intel(void);

#define DEFINE_CONTROL(name)                               \
  static inline word read_##name(void) {                   \
    word value;                                            \
    __asm__ volatile("mov %%" #name ", %0" : "=r"(value)); \
    return value;                                          \
  }                                                        \
  static inline void write_##name(word value) { __asm__ volatile("mov %0, %%" #name ::"r"(value) : "memory"); }
DEFINE_CONTROL(cr0)
DEFINE_CONTROL(cr2)
DEFINE_CONTROL(cr3)
DEFINE_CONTROL(cr4)
DEFINE_CONTROL(dr0)
DEFINE_CONTROL(dr6)
DEFINE_CONTROL(dr7)
#ifdef __x86_64__
DEFINE_CONTROL(cr8)
#endif
static inline word read_flags(void) {
  word value;
  __asm__ volatile("pushf; pop %0" : "=r"(value));
  return value;
}
static inline void write_flags(word value) { __asm__ volatile("push %0; popf" ::"r"(value) : "cc", "memory"); }
static inline void invlpg(word address) { __asm__ volatile("invlpg (%0)" ::"r"(address) : "memory"); }
static inline void cli(void) { __asm__ volatile("cli" ::: "memory"); }
static inline void sti(void) { __asm__ volatile("sti" ::: "memory"); }
static inline void sti_hlt(void) { __asm__ volatile("sti; hlt" ::: "memory"); }

#define CR0_MP (1u << 1)
#define CR0_EM (1u << 2)
#define CR0_TS (1u << 3)
#define CR0_NE (1u << 5)
#define CR0_WP (1u << 16)
#define CR0_AM (1u << 18)
#define CR0_PG (1u << 31)
#define CR4_TSD (1u << 2)
#define CR4_DE (1u << 3)
#define CR4_PSE (1u << 4)
#define CR4_PAE (1u << 5)
#define CR4_PGE (1u << 7)
#define CR4_OSFXSR (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)
#define CR4_UMIP (1u << 11)
#define CR4_FSGSBASE (1u << 16)
#define CR4_PCIDE (1u << 17)
#define CR4_OSXSAVE (1u << 18)
#define CR4_SMEP (1u << 20)
#define CR4_SMAP (1u << 21)
#define FLAG_CF (1u << 0)
#define FLAG_ZF (1u << 6)
#define FLAG_TF (1u << 8)
#define FLAG_IF (1u << 9)
#define FLAG_DF (1u << 10)
#define FLAG_NT (1u << 14)
#define FLAG_RF (1u << 16)
#define FLAG_AC (1u << 18)
#define MSR_EFER 0xc0000080u
#define EFER_SCE (1u << 0)
#define EFER_NXE (1u << 11)

// ---- output and assertions ----
void print(const char* text);
void print_hex(uint64_t value);
void print_decimal(word value);
void check(const char* name, bool passed);
void check_eq(const char* name, uint64_t got, uint64_t want);  // a failure prints both
void skip(const char* name, const char* why);
// For what QEMU's TCG is known to get wrong (the comment at the call says by which text): true, and the name is
// skipped, if this is TCG. Everywhere else false.
bool tcg_lacks(const char* name);
bool is_tcg(void);
_Noreturn void finish(void);
_Noreturn void debug_exit(uint8_t value);

extern uint32_t multiboot_magic;
extern uint32_t multiboot_info;

void* memset(void* to, int value, size_t count);
void* memcpy(void* to, const void* from, size_t count);

// ---- exceptions and interrupts ----
// The stack as the common entry leaves it.
struct frame {
#ifdef __x86_64__
  word r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
  word vector, error, ip, cs, flags, sp, ss;
#else
  word gs, fs, es, ds, rdi, rsi, rbp, unused_sp, rbx, rdx, rcx, rax;
  word vector, error, ip, cs, flags;
  word sp, ss;  // only after a change of privilege
#endif
};

// What the last captured exception looked like.
struct trap {
  word vector, error, ip, cs, flags, sp, ss, cr2, dr6;
  word handler_sp;  // where the frame lay
  unsigned count;
};
extern volatile struct trap trap;

// A probe writes the address of the instruction that shall fault here: see MARK.
extern volatile word trap_expected_ip;
#ifdef __x86_64__
#define MARK "movq $7654f, trap_expected_ip\n 7654: "
#else
#define MARK "movl $7654f, trap_expected_ip\n 7654: "
#endif

enum { kNoTrap = -1 };
// Calls function(argument) and returns the vector of the exception that ended it, or kNoTrap if it returned.
// After an exception the registers and the stack are those of the caller; `trap` has the details.
int trap_call(void (*function)(void*), void* argument);
// As above, and checks vector, error code and (if the probe used MARK) the address.
void expect_trap(const char* name, void (*function)(void*), void* argument, int vector, word error);
void expect_no_trap(const char* name, void (*function)(void*), void* argument);

// A handler that returns true resumes at the frame (which it may change); false ends the trap_call.
typedef bool (*handler)(struct frame*);
void set_handler(unsigned vector, handler function);

// Gates. `ist` only in 64-bit guests.
void set_gate_options(unsigned vector, unsigned ist, unsigned dpl, bool trap_gate);
void set_gate_present(unsigned vector, bool present);
void load_idt_limit(uint16_t limit);  // 0xfff is all

// ---- rings ----
enum {
  kKernelCs = 0x08,
  kKernelDs = 0x10,
  kUserCs32 = 0x18 | 3,
  kUserDs = 0x20 | 3,
  kUserCs64 = 0x28 | 3,
  kUserDs2 = 0x30 | 3,  // what a 64-bit SYSEXIT leaves in SS
  kKernelCs32 = 0x38,
  kTss = 0x40,
  kFreeSelector = 0x50,      // eight free slots of 8 bytes
  kUserReturnVector = 0xf0,  // INT of this vector from ring 3 ends run_user
};
extern uint64_t gdt[];
#ifdef __x86_64__
// Everything below 1 GiB again, for user mode.
#define USER_ALIAS 0x8000000000ul
#else
#define USER_ALIAS 0x40000000ul
#endif
#define USER(p) ((word)(p) + USER_ALIAS)
extern char user_stack_top[];
struct user_entry {
  word ip, cs, sp, ss, flags;
  word arguments[3];  // rdi, rsi, rdx (64-bit); eax, ecx, edx (32-bit)
};
// Enters ring 3; returns the vector that ended it (kUserReturnVector for its own INT). Interrupts stay off unless
// `flags` has IF.
int run_user(const struct user_entry* entry);
extern volatile struct frame user_result;  // the registers that the user code ended with
void set_kernel_stack(word sp);            // RSP0 / ESP0 of the TSS
void set_ist(unsigned index, word sp);
extern char ist_stack_top[];  // of IST 1; IST 2 and 3 below it by IST_BYTES each
#define IST_BYTES 4096

// ---- interrupts ----
void pic_init(uint8_t master_mask, uint8_t slave_mask);  // vectors 0x20-0x2f
void pic_eoi(unsigned irq);
extern volatile unsigned interrupt_count[256];
enum {
  kLapicId = 0x20,
  kLapicTpr = 0x80,
  kLapicPpr = 0xa0,
  kLapicEoi = 0xb0,
  kLapicLdr = 0xd0,
  kLapicSvr = 0xf0,
  kLapicIsr = 0x100,
  kLapicIrr = 0x200,
  kLapicEsr = 0x280,
  kLapicIcrLow = 0x300,
  kLapicIcrHigh = 0x310,
  kLapicLvtTimer = 0x320,
  kLapicLvtLint0 = 0x350,
  kLapicLvtError = 0x370,
  kLapicInitialCount = 0x380,
  kLapicCurrentCount = 0x390,
  kLapicDivide = 0x3e0,
};
#define LAPIC_BASE 0xfee00000ul
static inline uint32_t lapic_read(uint32_t reg) { return *(volatile uint32_t*)(LAPIC_BASE + reg); }
static inline void lapic_write(uint32_t reg, uint32_t value) { *(volatile uint32_t*)(LAPIC_BASE + reg) = value; }

#ifdef __x86_64__
// ---- page tables ----
#define PTE_P 1ul
#define PTE_W 2ul
#define PTE_U 4ul
#define PTE_PWT 8ul
#define PTE_PCD 16ul
#define PTE_A 32ul
#define PTE_D 64ul
#define PTE_PS 128ul
#define PTE_G 256ul
#define PTE_NX (1ul << 63)
#define PTE_ADDRESS 0x000ffffffffff000ul
extern uint64_t pml4[512];
// The window of virtual addresses for tests; nothing is mapped there at first.
#define WINDOW 0x10000000000ul
// The entry that maps `address` at `level` (1: 4 KiB, 2: 2 MiB, 3: 1 GiB), making the tables above it (P, W, U).
uint64_t* entry_for(word address, int level);
void map(word address, uint64_t physical, uint64_t flags, int level);
void* allocate_page(void);
#endif

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
