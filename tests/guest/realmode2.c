// SPDX-License-Identifier: Apache-2.0
// Corners of real mode: limits and wrap of data, stack and code, the IDTR's limit, exceptions without error codes,
// instructions that do not exist there, limits and sizes brought from protected mode, the megabyte's end with the A20
// gate open and closed. [SDM-3B 21.1 to 21.1.4; SDM-3A 10.9] The image lies at 2 MiB.
//
// real_run() takes a piece of 16-bit code to real mode and says which vector ended it: kDone is its own INT.
#include "guest.h"

void guest_main(void);

enum { kStubs = 0x8000, kCode = 0x9000, kDone = 0x77, kData = 0x30000, kStack = 0x40000 };

// At 0x7000, seen from both modes.
struct shared {
  uint32_t eax, ebx, ecx, edx, esi, edi, esp;
  uint16_t ds, es, ss, fs, gs, cs, ip;
  uint16_t idt_limit;
  uint32_t idt_base;
  uint32_t protected_esp;
  uint16_t vector, frame_ip, frame_cs, frame_flags, frame_ss;
  uint32_t frame_esp;  // before the frame
  uint16_t flat_ds;    // not 0: DS keeps limit and attributes of this selector
  uint16_t flat_ss;
  uint16_t pm_idt_limit;
  uint32_t pm_idt_base;
} __attribute__((packed));
static volatile uint32_t* vector_table(unsigned vector) {  // hides from the compiler that it begins at 0
  word at = vector * 4;
  __asm__("" : "+r"(at));
  return (volatile uint32_t*)at;
}
static volatile struct shared* const io = (volatile struct shared*)0x7000;

extern char stubs_start[], stubs_end[];
__asm__(
    ".macro slot name, offset\n .set \\name, 0x7000 + \\offset\n .endm\n"
    "slot s_eax, 0\n slot s_ebx, 4\n slot s_ecx, 8\n slot s_edx, 12\n slot s_esi, 16\n slot s_edi, 20\n slot s_esp, 24\n"
    "slot s_ds, 28\n slot s_es, 30\n slot s_ss, 32\n slot s_fs, 34\n slot s_gs, 36\n slot s_cs, 38\n slot s_ip, 40\n"
    "slot s_idt, 42\n slot s_pesp, 48\n slot s_vector, 52\n slot s_fip, 54\n slot s_fcs, 56\n slot s_fflags, 58\n"
    "slot s_fss, 60\n slot s_fesp, 62\n slot s_flat_ds, 66\n slot s_flat_ss, 68\n slot s_pidt, 70\n"
    ".set origin, 0x8000\n"
    ".code32\n"
    "stubs_start:\n"
    "  pusha\n"
    "  mov %esp, s_pesp\n"
    "  sidt s_pidt\n"
    "  ljmp $0x50, $origin + (to_real - stubs_start)\n"
    ".code16\n"
    "to_real:\n"
    "  lidtl s_idt\n"
    "  mov $0x58, %ax\n"
    "  mov %ax, %ds; mov %ax, %es; mov %ax, %ss; mov %ax, %fs; mov %ax, %gs\n"
    "  mov s_flat_ss, %bx; test %bx, %bx; jz 1f; mov %bx, %ss\n"
    "1:mov s_flat_ds, %bx; test %bx, %bx; jz 1f; mov %bx, %ds\n"
    "1:mov %cr0, %eax; and $~1, %eax; mov %eax, %cr0\n"
    "  ljmp $0, $origin + (in_real - stubs_start)\n"
    "in_real:\n"
    "  xor %ax, %ax; mov %ax, %ds\n"
    "  mov s_ss, %ss; mov s_esp, %esp\n"
    "  mov s_es, %es; mov s_fs, %fs; mov s_gs, %gs\n"
    "  mov s_ebx, %ebx; mov s_ecx, %ecx; mov s_edx, %edx; mov s_esi, %esi; mov s_edi, %edi; mov s_eax, %eax\n"
    "  ljmp *go - stubs_start + origin\n"  // through a copy of the pointer, with DS still 0
    "go: .word 0, 0\n"
    // Vector i comes here: CALL pushes where from, which says i.
    ".globl vector_stubs\n"
    "vector_stubs:\n"
    ".rept 256\n call common\n.endr\n"
    "common:\n"
    "  push %ds; push $0; pop %ds\n"
    "  mov %eax, s_eax; mov %ebx, s_ebx; mov %ecx, s_ecx; mov %edx, s_edx; mov %esi, s_esi; mov %edi, s_edi\n"
    "  pop %ax; mov %ax, s_ds\n"
    "  pop %ax; sub $origin + 3 + (vector_stubs - stubs_start), %ax; xor %dx, %dx; mov $3, %cx; div %cx; mov %ax, s_vector\n"
    "  pop %ax; mov %ax, s_fip; pop %ax; mov %ax, s_fcs; pop %ax; mov %ax, s_fflags\n"
    "  mov %ss, s_fss; mov %esp, s_fesp\n"
    "  cli; cld\n"
    "  lgdtl %cs:origin + (gdt_copy - stubs_start)\n"
    "  mov %cr0, %eax; or $1, %al; mov %eax, %cr0\n"
    "  ljmpl $8, $origin + (home - stubs_start)\n"
    ".align 4\n"
    "gdt_copy: .word 0x8f; .long gdt\n"
    ".code32\n"
    "home:\n"
    "  mov $0x10, %eax\n"
    "  mov %eax, %ds; mov %eax, %es; mov %eax, %ss; xor %eax, %eax; mov %eax, %fs; mov %eax, %gs\n"
    "  mov s_pesp, %esp\n"
    "  lidt s_pidt\n"
    "  popa\n"
    "  ret\n"
    "stubs_end:\n"
    ".globl go_pointer\n .set go_pointer, go\n");
extern char vector_stubs[], go_pointer[];
#define AT_STUBS(label) (kStubs + (uint32_t)((label) - stubs_start))

static void set_up(void) {
  memset((void*)io, 0, sizeof *io);
  memcpy((void*)kStubs, stubs_start, (size_t)(stubs_end - stubs_start));
  for (unsigned i = 0; i < 256; ++i) *vector_table(i) = AT_STUBS(vector_stubs) + 3 * i;
  io->ss = kStack >> 4;
  io->esp = 0x8000;
  io->idt_limit = 0x3ff;
  io->cs = kCode >> 4;
}
static unsigned real_run(const char* code, size_t size) {
  memcpy((void*)(io->cs * 16u + io->ip), code, size);
  ((volatile uint8_t*)(io->cs * 16u + io->ip))[size] = 0xcd;
  ((volatile uint8_t*)(io->cs * 16u + io->ip))[size + 1] = kDone;
  *(volatile uint16_t*)AT_STUBS(go_pointer) = io->ip;
  *(volatile uint16_t*)(AT_STUBS(go_pointer) + 2) = io->cs;
  io->vector = 0xffff;
  __asm__ volatile("call *%0" ::"r"(kStubs) : "memory", "cc");
  return io->vector;
}
// A piece of code between two labels.
#define CODE(name, text)              \
  extern char name[], name##_end[];   \
  __asm__(".code16\n" #name ":\n" text "\n" #name "_end:\n.code32\n")
#define RUN(name) real_run(name, (size_t)(name##_end - name))

// Ends with `vector` at the instruction `ip`, with a frame of three words and nothing else.
static void ends(const char* name, unsigned got, unsigned vector, unsigned ip) {
  const bool passed = got == vector && io->frame_ip == ip;
  check(name, passed);
  if (passed) return;
  print("  vector ");
  print_hex(got);
  print(" ip ");
  print_hex(io->frame_ip);
  print("\n");
}

CODE(set_ds, "mov %ax, %ds");
#define DATA "mov $0x3000, %cx\n mov %cx, %ds\n mov %cx, %es\n mov %cx, %fs\n"  // five bytes and six
enum { kAfterData = 9 };
CODE(byte_last, DATA "mov (%bx), %al");
CODE(word_at, DATA "mov (%bx), %ax");
CODE(dword_at, DATA "mov (%bx), %eax");
CODE(store_word, DATA "mov %ax, (%bx)");
CODE(word_bp, DATA "mov %bx, %bp\n mov (%bp), %ax");
CODE(far_offset, DATA "mov (%ebx), %al");
CODE(far_offset_ss, DATA "mov %ss:(%ebx), %al");
CODE(index_wraps, DATA "mov 0x20(%bx), %ax");
CODE(movsw_end, DATA "cld\n rep movsw");
CODE(movsb_end, DATA "cld\n rep movsb");

static void test_data(void) {
  set_up();
  memset((void*)kData, 0, 0x10010);
  *(volatile uint32_t*)(kData + 0xfffc) = 0x44332211;
  *(volatile uint32_t*)kData = 0x88776655;
  *(volatile uint32_t*)(kData + 0x10000) = 0xdeadbeef;
  io->ebx = 0xffff;
  ends("byte-at-ffff", RUN(byte_last), kDone, (unsigned)(byte_last_end - byte_last) + 2);
  check_eq("byte-at-ffff-value", io->eax & 0xff, 0x44);
  io->ebx = 0xfff0;
  RUN(index_wraps);
  check_eq("index-wraps", io->eax & 0xffff, 0);
  if (tcg_lacks("real-limits")) return;
  io->ebx = 0xffff;
  ends("word-at-ffff", RUN(word_at), 13, kAfterData);
  ends("store-word-at-ffff", RUN(store_word), 13, kAfterData);
  check_eq("store-word-did-not", *(volatile uint8_t*)(kData + 0xffff), 0x44);
  io->ebx = 0xfffd;
  ends("dword-at-fffd", RUN(dword_at), 13, kAfterData);
  io->ebx = 0xffff;
  ends("word-at-ffff-through-bp", RUN(word_bp), 12, kAfterData + 2);
  io->ebx = 0x10000;
  ends("32-bit-offset-beyond", RUN(far_offset), 13, kAfterData);
  ends("32-bit-offset-beyond-stack", RUN(far_offset_ss), 12, kAfterData);
  // Strings: what was done before stays done.
  set_up();
  io->esi = 0xfffb;
  io->edi = 0x100;
  io->ecx = 0x3000;
  ends("movsw-over-the-end", RUN(movsw_end), 13, kAfterData + 1);
  check("movsw-over-the-end-registers", (io->esi & 0xffff) == 0xffff && (io->edi & 0xffff) == 0x104);
  set_up();
  io->esi = 0xfffe;
  io->edi = 0x200;
  RUN(movsb_end);
  check("movsb-wraps", io->vector == kDone && *(volatile uint16_t*)(kData + 0x202) == 0x6655);
}

CODE(pop_ax, "pop %ax");
CODE(push_ax, "push %ax");
CODE(pop_eax, "popl %eax");
CODE(push_pop, "pushl $0x12345678\n popw %ax\n popw %bx");
CODE(call_far32, "lcalll $0x900, $0x10000");
CODE(jump_far32, "ljmpl $0x900, $0x10000");
CODE(jump_near32, ".byte 0x66, 0xe9\n .long 0x20000");
CODE(iret32, "pushfl\n pushl $0x900\n pushl $0x20\n iretl\n .org iret32 + 0x20\n nop");

static void test_stack_and_code(void) {
  set_up();
  io->esp = 0;
  io->eax = 0x1234;
  RUN(push_ax);
  check("push-at-0-wraps", io->vector == kDone && *(volatile uint16_t*)(kStack + 0xfffe) == 0x1234 && (io->frame_esp & 0xffff) == 0xfffe);
  set_up();
  RUN(push_pop);
  check("push-32-pop-16", (io->eax & 0xffff) == 0x5678 && (io->ebx & 0xffff) == 0x1234);
  ends("iret-32", RUN(iret32), kDone, 0x23);
  if (tcg_lacks("real-limits-stack-and-code")) return;
  io->esp = 0xffff;
  ends("pop-at-ffff", RUN(pop_ax), 12, 0);
  check_eq("pop-at-ffff-sp", io->frame_esp & 0xffff, 0xffff);
  io->esp = 0xfffe;
  ends("pop-32-at-fffe", RUN(pop_eax), 12, 0);
  set_up();
  ends("far-call-beyond-64k", RUN(call_far32), 13, 0);
  check_eq("far-call-beyond-64k-sp", io->frame_esp & 0xffff, 0x8000);
  ends("far-jump-beyond-64k", RUN(jump_far32), 13, 0);
  ends("near-jump-beyond-64k", RUN(jump_near32), 13, 0);
  // Code that runs into the end of its segment.
  set_up();
  io->cs = 0x2000;
  io->ip = 0xfff0;
  memset((void*)0x2fff0, 0x90, 0x20);
  io->idt_limit = 0x3ff;
  real_run("\x90", 0);  // its INT lies at the start
  memset((void*)0x2fff0, 0x90, 0x20);
  *(volatile uint16_t*)AT_STUBS(go_pointer) = 0xfff0;
  __asm__ volatile("call *%0" ::"r"(kStubs) : "memory", "cc");
  check("ip-runs-over", io->vector == 13 && io->frame_cs == 0x2000);
}

CODE(int_40, "int $0x40");
CODE(divide, "xor %cl, %cl\n div %cl");
CODE(undefined, "ud2");
CODE(bound_out, "mov $9, %ax\n bound %ax, %cs:1f - bound_out\n jmp 2f\n1: .word 1, 8\n2:");
CODE(into_taken, "mov $0x7f, %al\n inc %al\n into");
CODE(step, "pushf\n orw $0x100, 0x7ffe - 0\n popf\n nop\n nop");
CODE(flags_kept, "pushfl\n popl %eax\n or $0x40000, %eax\n sti\n pushl %eax\n popfl\n int $0x41");

static void test_events(void) {
  set_up();
  ends("divide-error", RUN(divide), 0, 2);
  check_eq("divide-error-no-code", io->frame_esp & 0xffff, 0x8000);
  ends("undefined-opcode", RUN(undefined), 6, 0);
  ends("bound", RUN(bound_out), 5, 3);
  ends("into", RUN(into_taken), 4, 5);
  ends("int-n", RUN(int_40), 0x40, 2);
  RUN(flags_kept);
  check_eq("int-pushes-flags", io->frame_flags & FLAG_IF, 0);
  // The IDTR's limit: vector 40h needs bytes up to 103h.
  io->idt_limit = 0x103;
  ends("idt-limit-just-inside", RUN(int_40), 0x40, 2);
  if (tcg_lacks("real-idt-limit")) return;
  io->idt_limit = 0x102;
  ends("idt-limit-just-outside", RUN(int_40), 13, 0);
  check_eq("idt-limit-no-code", io->frame_esp & 0xffff, 0x8000);
  io->idt_limit = 0x23;  // up to vector 8: #GP itself does not fit
  ends("idt-limit-double-fault", RUN(int_40), 8, 0);
  io->idt_limit = 0x3ff;
  io->idt_base = 0x20000;  // another table
  memcpy((void*)0x20000, (const void*)vector_table(0), 0x400);
  *(volatile uint32_t*)(0x20000 + 0x40 * 4) = *vector_table(0x41);
  ends("idt-base", RUN(int_40), 0x41, 2);
}

CODE(no_arpl, ".byte 0x63, 0xc8");
CODE(no_lar, "lar %ax, %bx");
CODE(no_lsl, "lsl %ax, %bx");
CODE(no_verr, "verr %ax");
CODE(no_verw, "verw %ax");
CODE(no_sldt, "sldt %ax");
CODE(no_str, "str %ax");
CODE(no_lldt, "lldt %ax");
CODE(no_ltr, "ltr %ax");
CODE(no_vex, ".byte 0xc5, 0xf9, 0xef, 0xc0");
CODE(les_still, ".byte 0xc4, 0x06\n .word 0x7100");
CODE(lgdt_24, "lgdt 0x7200\n sgdt 0x7210\n lgdtl 0x7220");
CODE(smsw_lmsw, "smsw %ax\n lmsw %ax\n smsw %bx");
CODE(hlt_sti, "cli\n clts\n mov %cr0, %eax\n mov %cr4, %ebx\n mov %cr3, %ecx");

static void test_instructions(void) {
  set_up();
  ends("no-arpl", RUN(no_arpl), 6, 0);
  ends("no-lar", RUN(no_lar), 6, 0);
  ends("no-lsl", RUN(no_lsl), 6, 0);
  ends("no-verr", RUN(no_verr), 6, 0);
  ends("no-verw", RUN(no_verw), 6, 0);
  ends("no-sldt", RUN(no_sldt), 6, 0);
  ends("no-str", RUN(no_str), 6, 0);
  ends("no-lldt", RUN(no_lldt), 6, 0);
  ends("no-ltr", RUN(no_ltr), 6, 0);
  ends("no-vex", RUN(no_vex), 6, 0);  // LDS with a register operand
  *(volatile uint32_t*)0x7100 = 0x30004321;
  RUN(les_still);
  check("les", io->vector == kDone && (io->eax & 0xffff) == 0x4321);
  // Sixteen bits of operand: 24 of the base.
  *(volatile uint16_t*)0x7200 = 0x1234;
  *(volatile uint32_t*)0x7202 = 0xab123456;
  struct {
    uint16_t limit;
    uint32_t base;
  } __attribute__((packed)) own;
  __asm__ volatile("sgdt %0" : "=m"(own));
  memcpy((void*)0x7220, &own, 6);
  RUN(lgdt_24);
  check("lgdt-24-bits", *(volatile uint16_t*)0x7210 == 0x1234 && *(volatile uint32_t*)0x7212 == 0x123456);
  ends("smsw-lmsw", RUN(smsw_lmsw), kDone, (unsigned)(smsw_lmsw_end - smsw_lmsw) + 2);
  check_eq("smsw-says-real", io->ebx & 1, 0);
  ends("control-registers", RUN(hlt_sti), kDone, (unsigned)(hlt_sti_end - hlt_sti) + 2);
}

CODE(unreal_load, "mov $0x3000, %ax\n mov %ax, %ds\n mov (%ebx), %ecx\n mov %ecx, (%edi)");
CODE(unreal_16, "mov $0x3000, %ax\n mov %ax, %ds\n mov 0x20(%bx), %ax");
CODE(big_push, "push %ax\n mov %esp, %ecx");

static void test_unreal(void) {
  set_up();
  // 60h: 4 GiB of data; 68h: the same with B, for a stack.
  gdt[kFreeSelector / 8 + 2] = 0x008f93000000ffff;
  gdt[kFreeSelector / 8 + 3] = 0x00cf93000000ffff;
  io->flat_ds = 0x60;
  *(volatile uint32_t*)0x300000 = 0x600dcafe;
  io->ebx = 0x300000 - kData;
  io->edi = 0x300010 - kData;
  RUN(unreal_load);
  check("unreal-survives-loads", io->vector == kDone && io->ecx == 0x600dcafe && *(volatile uint32_t*)0x300010 == 0x600dcafe);
  io->ebx = 0xffffffff;  // sixteen-bit addresses wrap all the same
  *(volatile uint16_t*)(kData + 0x1f) = 0x5a5a;
  RUN(unreal_16);
  check_eq("unreal-16-bit-address", io->eax & 0xffff, 0x5a5a);
  set_up();
  io->flat_ss = 0x68;
  io->ss = 0;
  io->esp = 0x310000;
  io->eax = 0x4321;
  RUN(big_push);
  // Only the push is of interest: what interrupts do to such a stack is another matter.
  check("big-stack-push", io->ecx == 0x30fffe && *(volatile uint16_t*)0x30fffe == 0x4321);
}

CODE(at_megabyte, "mov $0xffff, %ax\n mov %ax, %ds\n mov (%bx), %eax\n mov %eax, %ecx");
CODE(store_megabyte, "mov $0xffff, %ax\n mov %ax, %ds\n movw $0x1122, (%bx)");
CODE(jump_megabyte, "ljmp $0xffff, $0x20");

static void a20(bool open) {
  while (inb(0x64) & 2) {
  }
  outb(0x64, open ? 0xdf : 0xdd);
  while (inb(0x64) & 2) {
  }
  outb(0x92, open ? 2 : 0);
}
static void test_megabyte(void) {
  set_up();
  *(volatile uint32_t*)0x600 = 0x10000001;
  *(volatile uint32_t*)0x100600 = 0x20000002;
  *(volatile uint32_t*)0x10ffec = 0x30000003;
  *(volatile uint32_t*)0xffec = 0x40000004;
  io->ebx = 0x610;
  RUN(at_megabyte);
  check_eq("a20-open-ffff", io->ecx, 0x20000002);
  io->ebx = 0xfffc;
  RUN(at_megabyte);
  check_eq("a20-open-10ffef", io->ecx, 0x30000003);
  a20(false);
  io->ebx = 0x610;
  RUN(at_megabyte);
  check_eq("a20-closed-ffff", io->ecx, 0x10000001);
  io->ebx = 0xfffc;
  RUN(at_megabyte);
  check_eq("a20-closed-10ffef", io->ecx, 0x40000004);
  io->ebx = 0x614;
  RUN(store_megabyte);
  check_eq("a20-closed-store", *(volatile uint16_t*)0x604, 0x1122);
  a20(true);
  // Code up there: INT 42h; with the gate closed what lies at 10h of the interrupt table, INT 43h.
  memcpy((void*)0x100010, "\xcd\x42", 2);
  const uint32_t kept = *vector_table(4);
  RUN(jump_megabyte);
  check("a20-open-code", io->vector == 0x42 && io->frame_cs == 0xffff && io->frame_ip == 0x22);
  memcpy((void*)vector_table(4), "\xcd\x43", 2);
  a20(false);
  RUN(jump_megabyte);
  a20(true);
  check("a20-closed-code", io->vector == 0x43 && io->frame_cs == 0xffff && io->frame_ip == 0x22);
  RUN(jump_megabyte);
  check("a20-open-code-again", io->vector == 0x42);
  *vector_table(4) = kept;
}

void guest_main(void) {
  // 50h: 16-bit code at 0, 58h: 16-bit data at 0; limits of 64 KiB, as real mode wants them. [SDM-3A 10.9.2]
  gdt[kFreeSelector / 8] = 0x00009b000000ffff;
  gdt[kFreeSelector / 8 + 1] = 0x000093000000ffff;
  test_data();
  test_stack_and_code();
  test_events();
  test_instructions();
  test_unreal();
  test_megabyte();
  finish();
}
