/* SPDX-License-Identifier: Apache-2.0 */
/* Start-up of an application processor: from the SIPI's page in real mode to long mode; interrupt entries with a
   processor of their own in GS. */

  .text
/* The trampoline runs wherever it was copied to: CS is its page. First it writes all registers down, which needs no
   register if it is done through CS; the layout is struct start_state of smp.h. */
  .set state, 0x400
  .code16
  .globl smp_trampoline
smp_trampoline:
  movl %eax, %cs:state
  movl %ebx, %cs:state + 4
  movl %ecx, %cs:state + 8
  movl %edx, %cs:state + 12
  movl %esi, %cs:state + 16
  movl %edi, %cs:state + 20
  movl %ebp, %cs:state + 24
  movl %esp, %cs:state + 28
  mov %ss, %cs:state + 98
  mov %cs, %ax
  mov %ax, %ss
  mov $0xff0, %sp
  pushfl
  popl %cs:state + 32
  cli
  cld
  mov %cr0, %eax
  movl %eax, %cs:state + 36
  mov %cr2, %eax
  movl %eax, %cs:state + 40
  mov %cr3, %eax
  movl %eax, %cs:state + 44
  mov %cr4, %eax
  movl %eax, %cs:state + 48
  mov %dr0, %eax
  movl %eax, %cs:state + 52
  mov %dr1, %eax
  movl %eax, %cs:state + 56
  mov %dr2, %eax
  movl %eax, %cs:state + 60
  mov %dr3, %eax
  movl %eax, %cs:state + 64
  mov %dr6, %eax
  movl %eax, %cs:state + 76
  mov %dr7, %eax
  movl %eax, %cs:state + 80
  mov $0xc0000080, %ecx
  rdmsr
  movl %eax, %cs:state + 84
  mov %cs, %cs:state + 88
  mov %ds, %cs:state + 90
  mov %es, %cs:state + 92
  mov %fs, %cs:state + 94
  mov %gs, %cs:state + 96
  sgdtl %cs:state + 100
  sidtl %cs:state + 106
  lgdtl %cs:(gdt_operand - smp_trampoline)
  mov $0x11, %eax              /* PE ET */
  mov %eax, %cr0
  ljmpl $0x38, $ap_protected
gdt_operand:
  .word 0x8f
  .long gdt
  .globl smp_trampoline_end
smp_trampoline_end:

  .code32
ap_protected:
  mov $0x10, %eax
  mov %eax, %ds
  mov %eax, %ss
  mov $0x20, %eax              /* PAE */
  mov %eax, %cr4
  mov $pml4, %eax
  mov %eax, %cr3
  mov $0xc0000080, %ecx
  rdmsr
  or $0x901, %eax              /* NXE, LME, SCE */
  wrmsr
  mov $0x80010033, %eax        /* PG WP NE ET MP PE */
  mov %eax, %cr0
  ljmp $8, $ap_long

  .code64
ap_long:
  mov $1, %eax
  cpuid
  shr $24, %ebx
  mov cpu_of_apic_id(, %rbx, 8), %rdi
  test %rdi, %rdi
  jz 1f
  mov ap_stack_offset, %rax
  lea (%rdi, %rax), %rsp
  call ap_main
1:cli
  hlt
  jmp 1b

/* ---- interrupts and exceptions ---- */
  .altmacro
  .macro entry vector
  .align 16
  .if \vector == 8 || (\vector >= 10 && \vector <= 14) || \vector == 17 || \vector == 21
  .else
  push $0
  .endif
  push $\vector
  jmp common
  .endm

  .align 16
  .globl smp_vector_entries
smp_vector_entries:
  .set i, 0
  .rept 256
  entry %i
  .set i, i + 1
  .endr

common:
  push %rax
  push %rbx
  push %rcx
  push %rdx
  push %rsi
  push %rdi
  push %rbp
  push %r8
  push %r9
  push %r10
  push %r11
  push %r12
  push %r13
  push %r14
  push %r15
  cld
  mov %rsp, %rdi
  mov %rsp, %rbx
  and $-16, %rsp
  call cpu_dispatch
  mov %rbx, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %r11
  pop %r10
  pop %r9
  pop %r8
  pop %rbp
  pop %rdi
  pop %rsi
  pop %rdx
  pop %rcx
  pop %rbx
  pop %rax
  add $16, %rsp
  iretq

/* int cpu_trap(void (*function)(void*), void* argument); see trap_call in start64.S */
  .globl cpu_trap
cpu_trap:
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  pushfq
  push %gs:8
  mov %rsp, %gs:8
  mov %rdi, %rax
  mov %rsi, %rdi
  sub $8, %rsp
  call *%rax
  mov $-1, %eax
  mov %gs:8, %rsp
1:pop %gs:8
  popfq
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbp
  pop %rbx
  ret

/* void cpu_unwind(word vector) */
  .globl cpu_unwind
cpu_unwind:
  mov %edi, %eax
  mov %gs:8, %rsp
  mov $0x10, %ecx
  mov %ecx, %ss
  jmp 1b
  .section .note.GNU-stack, "", @progbits
