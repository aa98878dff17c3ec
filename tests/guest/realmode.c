// SPDX-License-Identifier: Apache-2.0
// Real mode: the way there and back, the IVT, segments, wrap-around, faults, "unreal" limits. [SDM-3A 10.9, SDM-3B 21.1]
#include "guest.h"

void guest_main(void);

// The code below runs at 0x8000, assembled as if there.
#define REAL_BASE 0x8000u
extern char real_start[], real_end[];
struct results {
  uint32_t magic;
  uint16_t int_ax, int_flags, de_ip, de_cs, sum, wrap, far_cs, lodsb, sp_after, ivt_moved, bound_ip, gp_seen, irq_seen;
  uint32_t wide, unreal, loop;
};
static volatile struct results* const results = (volatile struct results*)0x7000;

__asm__(
    ".code32\n"
    ".globl real_start, real_end\n"
    "real_start:\n"
    // In: 32-bit protected mode, called at 0x8000. Out the same way.
    "  pusha\n"
    "  mov %esp, 0x6f00\n"
    "  sidt 0x6f10\n"
    "  lidt 0x8000 + (real_idt - real_start)\n"
    "  ljmp $0x50, $0x8000 + (r16_protected - real_start)\n"
    "real_idt: .word 0x3ff; .long 0\n"
    ".code16\n"
    "r16_protected:\n"
    "  mov $0x58, %ax\n"
    "  mov %ax, %ds; mov %ax, %es; mov %ax, %ss\n"
    "  mov %cr0, %eax\n"
    "  and $~1, %eax\n"
    "  mov %eax, %cr0\n"
    "  ljmp $0, $0x8000 + (r16_real - real_start)\n"
    "r16_real:\n"
    "  xor %ax, %ax\n"
    "  mov %ax, %ds; mov %ax, %es; mov %ax, %ss\n"
    "  mov $0x6e00, %sp\n"
    "  movl $0x4d4f4445, 0x7000\n"  // results->magic
    // INT through the IVT: vector 0x60.
    "  movw $0x8000 + (int60 - real_start), 0x60 * 4\n"
    "  movw $0, 0x60 * 4 + 2\n"
    "  stc; sti\n"
    "  mov $0x1111, %ax\n"
    "  int $0x60\n"
    "  cli\n"
    "  mov %ax, 0x7004\n"
    // #DE: a fault, IP of the DIV, no error code.
    "  movw $0x8000 + (de_handler - real_start), 0\n"
    "  movw $0, 2\n"
    "  xor %cl, %cl; mov $5, %ax\n"
    "de_here: div %cl\n"
    "de_after:\n"
    // Segment arithmetic: 0x1234:0x10 is 0x12350.
    "  mov $0x1234, %ax; mov %ax, %es\n"
    "  movw $0x4321, %es:0x10\n"
    "  mov $0x1000, %ax; mov %ax, %es\n"
    "  mov %es:0x2350, %ax\n"
    "  mov %ax, 0x700c\n"
    // Offsets wrap at 64 KiB: an effective address of bx + 0x20 with bx = 0xfff0.
    "  mov $0xfff0, %bx\n"
    "  movw $0xbeef, %es:0x10\n"
    "  mov %es:0x20(%bx), %ax\n"
    "  mov %ax, 0x700e\n"
    // Far call and return.
    "  lcall $0x0700, $0x1000 + (far_target - real_start)\n"
    "  mov %cx, 0x7010\n"
    // String instructions, 16-bit registers.
    "  mov $0x8000 + (text - real_start), %si\n"
    "  mov $0x7100, %di; xor %ax, %ax; mov %ax, %es; mov $4, %cx; cld; rep movsb\n"
    "  mov $0x7100 + 2, %si; lodsb; xor %ah, %ah; mov %ax, 0x7012\n"
    // PUSHA, POPA, PUSHL, PUSHF keep SP.
    "  pusha; popa; pushl $5; popl %eax; pushfl; popfl; enter $16, $0; leave\n"
    "  mov %sp, 0x7014\n"
    // LIDT moves the vector table.
    "  mov $0x60 * 4, %si; mov $0x5000 + 0x60 * 4, %di; movsw; movsw\n"
    "  movw $0x8000 + (int60_moved - real_start), 0x5000 + 0x60 * 4\n"
    "  lidt 0x8000 + (moved_idt - real_start)\n"
    "  int $0x60\n"
    "  mov %ax, 0x7016\n"
    "  lidt 0x8000 + (real_idt - real_start)\n"
    // BOUND.
    "  movw $0x8000 + (bound_handler - real_start), 5 * 4\n"
    "  movw $0, 5 * 4 + 2\n"
    "  mov $9, %ax\n"
    "bound_here: bound %ax, 0x8000 + (bounds - real_start)\n"
    "bound_after:\n"
    // A word at offset 0xffff goes over the segment's limit: #GP.
    "  movw $0x8000 + (gp_handler - real_start), 13 * 4\n"
    "  movw $0, 13 * 4 + 2\n"
    "  mov $0xffff, %bx\n"
    "gp_here: mov (%bx), %ax\n"
    "gp_after:\n"
    // A hardware interrupt: the local APIC cannot be reached with 64 KiB limits, the PIT through the PIC can.
    "  movw $0x8000 + (irq_handler - real_start), 0x20 * 4\n"
    "  movw $0, 0x20 * 4 + 2\n"
    "  mov $0xfe, %al; out %al, $0x21\n"
    "  mov $0x34, %al; out %al, $0x43; mov $0xa9, %al; out %al, $0x40; mov $4, %al; out %al, $0x40\n"
    "  sti\n"
    "1: hlt; cmpw $3, 0x701c; jb 1b\n"
    "  cli\n"
    "  mov $0xff, %al; out %al, $0x21\n"
    // 32-bit operands and addresses.
    "  mov $0x7000, %ebx; mov $4, %ecx\n"
    "  movl $0x12345678, 0x20(%ebx)\n"
    "  lea 0x1c(%ebx, %ecx), %eax; movl (%eax), %edx; mov %edx, 0x7020\n"
    // A long loop with 16-bit CX.
    "  xor %eax, %eax; xor %cx, %cx\n"
    "1: inc %eax; loop 1b\n"
    "  mov %eax, 0x7028\n"
    // Unreal mode: a limit of 4 GiB taken along from protected mode.
    "  lgdt 0x8000 + (far_gdt - real_start)\n"
    "  mov %cr0, %eax; or $1, %al; mov %eax, %cr0\n"
    "  jmp 1f\n"
    "1: mov $0x10, %bx; mov %bx, %fs\n"
    "  and $~1, %al; mov %eax, %cr0\n"
    "  ljmp $0, $0x8000 + (r16_again - real_start)\n"
    "r16_again:\n"
    "  mov $0x200000, %ebx\n"
    "  movl $0xcafe1234, %fs:(%ebx)\n"
    "  mov %fs:(%ebx), %eax; mov %eax, 0x7024\n"
    // Back.
    "  mov %cr0, %eax; or $1, %al; mov %eax, %cr0\n"
    "  ljmpl $8, $0x8000 + (back - real_start)\n"
    "int60: pushf; pop 0x7006; mov $0x2222, %ax; iret\n"
    "int60_moved: mov $0x3333, %ax; iret\n"
    "de_handler: push %bp; mov %sp, %bp; mov 2(%bp), %ax; mov %ax, 0x7008; mov 4(%bp), %ax; mov %ax, 0x700a\n"
    "  movw $0x8000 + (de_after - real_start), 2(%bp); pop %bp; iret\n"
    "bound_handler: push %bp; mov %sp, %bp; mov 2(%bp), %ax; mov %ax, 0x7018\n"
    "  movw $0x8000 + (bound_after - real_start), 2(%bp); pop %bp; iret\n"
    "gp_handler: push %bp; mov %sp, %bp; mov 2(%bp), %ax; mov %ax, 0x701a\n"
    "  movw $0x8000 + (gp_after - real_start), 2(%bp); pop %bp; iret\n"
    "irq_handler: push %ax; incw 0x701c; mov $0x20, %al; out %al, $0x20; pop %ax; iret\n"
    "far_target: mov %cs, %cx; lret\n"
    "text: .ascii \"REAL\"\n"
    "bounds: .word 1, 8\n"
    ".align 4\n"
    "moved_idt: .word 0x3ff; .long 0x5000\n"
    "far_gdt: .word 0x8f; .long gdt\n"
    ".code32\n"
    "back:\n"
    "  mov $0x10, %eax\n"
    "  mov %eax, %ds; mov %eax, %es; mov %eax, %ss; xor %eax, %eax; mov %eax, %fs\n"
    "  mov 0x6f00, %esp\n"
    "  lidt 0x6f10\n"
    "  popa\n"
    "  ret\n"
    "real_end:\n"
    "  .globl de_here, bound_here, gp_here\n");
extern char de_here[], bound_here[], gp_here[];
#define AT(label) (REAL_BASE + (uint32_t)((label) - real_start))

static void run_real(void* unused) {
  (void)unused;
  __asm__ volatile("call *%0" ::"r"(REAL_BASE) : "memory", "cc");
}

void guest_main(void) {
  memcpy((void*)REAL_BASE, real_start, (size_t)(real_end - real_start));
  memset((void*)results, 0, sizeof *results);
  // 0x50: 16-bit code at 0, 0x58: 16-bit data at 0; limits of 64 KiB, as real mode wants them. [SDM-3A 10.9.2]
  gdt[kFreeSelector / 8] = 0x00009b000000ffff;
  gdt[kFreeSelector / 8 + 1] = 0x000093000000ffff;
  check_eq("real-mode-and-back", (unsigned)trap_call(run_real, 0), (unsigned)kNoTrap);
  check_eq("real-mode-reached", results->magic, 0x4d4f4445);
  check_eq("real-int", results->int_ax, 0x2222);
  check_eq("real-int-clears-if", results->int_flags & (FLAG_IF | FLAG_CF), FLAG_CF);
  check_eq("real-divide-error-ip", results->de_ip, AT(de_here));
  check_eq("real-divide-error-cs", results->de_cs, 0);
  check_eq("real-segment-arithmetic", results->sum, 0x4321);
  check_eq("real-offset-wraps", results->wrap, 0xbeef);
  check_eq("real-far-call", results->far_cs, 0x0700);
  check_eq("real-strings", results->lodsb, 'A');
  check_eq("real-stack-balanced", results->sp_after, 0x6e00);
  check_eq("real-lidt", results->ivt_moved, 0x3333);
  check_eq("real-bound-ip", results->bound_ip, AT(bound_here));
  if (!tcg_lacks("real-limit-gp")) check_eq("real-limit-gp", results->gp_seen, AT(gp_here));
  check("real-hardware-interrupts", results->irq_seen >= 3);
  check_eq("real-32-bit-operands", results->wide, 0x12345678);
  check_eq("real-loop-cx", results->loop, 65536);
  check_eq("unreal", results->unreal, 0xcafe1234);
  check_eq("unreal-stored", *(volatile uint32_t*)0x200000, 0xcafe1234);
  finish();
}
