/* SPDX-License-Identifier: Apache-2.0 */
/* Multiboot entry, long mode, exception entries and ring changes for 64-bit guests. */
#define MULTIBOOT_MAGIC 0x1badb002
#define MULTIBOOT_FLAGS 3

  .section .multiboot, "a"
  .align 4
  .long MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

  .text
  .code32
  .globl _start
_start:
  cli
  cld
  mov %eax, multiboot_magic
  mov %ebx, multiboot_info
  mov $kernel_stack_top, %esp

  /* 0-4 GiB, identity, supervisor: 2 MiB pages. */
  mov $page_directories, %edi
  mov $0x83, %eax
  mov $2048, %ecx
1:mov %eax, (%edi)
  add $0x200000, %eax
  add $8, %edi
  loop 1b
  /* USER_ALIAS: 0-1 GiB, user. */
  mov $user_directory, %edi
  mov $0x87, %eax
  mov $512, %ecx
1:mov %eax, (%edi)
  add $0x200000, %eax
  add $8, %edi
  loop 1b
  movl $page_directories + 0x0003, pdpt
  movl $page_directories + 0x1003, pdpt + 8
  movl $page_directories + 0x2003, pdpt + 16
  movl $page_directories + 0x3003, pdpt + 24
  movl $user_directory + 7, user_pdpt
  movl $pdpt + 3, pml4
  movl $user_pdpt + 7, pml4 + 8

  mov %cr4, %eax
  or $0x20, %eax               /* PAE */
  mov %eax, %cr4
  mov $pml4, %eax
  mov %eax, %cr3
  mov $0xc0000080, %ecx
  rdmsr
  or $0x901, %eax              /* NXE, LME, SCE */
  wrmsr
  mov $0x80010033, %eax        /* PG WP NE ET MP PE */
  mov %eax, %cr0
  lgdt gdt_pointer
  ljmp $8, $long_mode

  .code64
long_mode:
  mov $0x10, %eax
  mov %eax, %ds
  mov %eax, %es
  mov %eax, %ss
  xor %eax, %eax
  mov %eax, %fs
  mov %eax, %gs
  mov $kernel_stack_top, %esp
  call guest_setup
  call guest_main
  call finish

/* ---- exceptions ---- */
  .altmacro
  .macro entry vector
  .align 16
  .if \vector == 8 || (\vector >= 10 && \vector <= 14) || \vector == 17 || \vector == 21
  .else
  push $0
  .endif
  push $\vector
  jmp common_entry
  .endm

  .align 16
  .globl vector_entries
vector_entries:
  .set i, 0
  .rept 256
  entry %i
  .set i, i + 1
  .endr

common_entry:
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
  call trap_dispatch
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

/* int trap_call(void (*function)(void*), void* argument) */
  .globl trap_call
trap_call:
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  pushfq
  push trap_recover_sp
  mov %rsp, trap_recover_sp
  movq $0, trap_expected_ip
  mov %rdi, %rax
  mov %rsi, %rdi
  sub $8, %rsp
  call *%rax
  mov $-1, %eax
  mov trap_recover_sp, %rsp
trap_recover:                  /* eax: vector or -1; rsp: trap_recover_sp */
  pop trap_recover_sp
  popfq
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbp
  pop %rbx
  ret

/* void trap_unwind(word vector): leaves an exception handler for trap_call's caller. */
  .globl trap_unwind
trap_unwind:
  mov %edi, %eax
  mov trap_recover_sp, %rsp
  mov $0x10, %ecx
  mov %ecx, %ss
  jmp trap_recover

/* void enter_user(void* user_entry): never returns by itself. */
  .globl enter_user
enter_user:
  mov %rsp, %rax
  and $-16, %rax
  mov %rax, tss + 4            /* RSP0 */
  push 24(%rdi)                /* ss */
  push 16(%rdi)                /* sp */
  push 32(%rdi)                /* flags */
  push 8(%rdi)                 /* cs */
  push (%rdi)                  /* ip */
  mov 48(%rdi), %rsi
  mov 56(%rdi), %rdx
  mov 40(%rdi), %rdi
  xor %eax, %eax
  xor %ebx, %ebx
  xor %ecx, %ecx
  iretq

  .data
  .align 16
  .globl gdt
gdt:
  .quad 0
  .quad 0x00af9b000000ffff     /* 08 kernel code, 64-bit */
  .quad 0x00cf93000000ffff     /* 10 kernel data */
  .quad 0x00cffb000000ffff     /* 18 user code, 32-bit */
  .quad 0x00cff3000000ffff     /* 20 user data */
  .quad 0x00affb000000ffff     /* 28 user code, 64-bit */
  .quad 0x00cff3000000ffff     /* 30 user data again */
  .quad 0x00cf9b000000ffff     /* 38 kernel code, 32-bit */
  .quad 0, 0                   /* 40 TSS */
  .fill 8, 8, 0                /* 50 free */
gdt_end:
  .globl gdt_pointer
gdt_pointer:
  .word gdt_end - gdt - 1
  .quad gdt

  .bss
  .align 4096
  .globl pml4
pml4: .skip 4096
pdpt: .skip 4096
user_pdpt: .skip 4096
page_directories: .skip 4 * 4096
user_directory: .skip 4096
  .skip 16384
  .globl kernel_stack_top
kernel_stack_top:
  .skip 3 * 4096
  .globl ist_stack_top
ist_stack_top:
  .skip 8192
  .globl user_stack_top
user_stack_top:
  .section .note.GNU-stack, "", @progbits
