/* SPDX-License-Identifier: Apache-2.0 */
/* Multiboot entry, flat 32-bit protected mode without paging, exception entries and ring changes for 32-bit guests. */
#define MULTIBOOT_MAGIC 0x1badb002
#define MULTIBOOT_FLAGS 3

  .section .multiboot, "a"
  .align 4
  .long MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

  .text
  .globl _start
_start:
  cli
  cld
  mov %eax, multiboot_magic
  mov %ebx, multiboot_info
  mov $kernel_stack_top, %esp
  lgdt gdt_pointer
  ljmp $8, $1f
1:mov $0x10, %eax
  mov %eax, %ds
  mov %eax, %es
  mov %eax, %ss
  xor %eax, %eax
  mov %eax, %fs
  mov %eax, %gs
  mov %cr0, %eax
  or $0x10022, %eax            /* WP NE MP */
  mov %eax, %cr0
  call guest_setup
  call guest_main
  call finish

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
  pusha
  push %ds
  push %es
  push %fs
  push %gs
  mov $0x10, %eax
  mov %eax, %ds
  mov %eax, %es
  cld
  mov %esp, %eax
  push %eax
  call trap_dispatch
  add $4, %esp
  pop %gs
  pop %fs
  pop %es
  pop %ds
  popa
  add $8, %esp
  iret

/* int trap_call(void (*function)(void*), void* argument) */
  .globl trap_call
trap_call:
  push %ebp
  push %ebx
  push %esi
  push %edi
  pushf
  pushl trap_recover_sp
  mov %esp, trap_recover_sp
  movl $0, trap_expected_ip
  mov 28(%esp), %eax
  pushl 32(%esp)
  call *%eax
  mov $-1, %eax
  mov trap_recover_sp, %esp
trap_recover:
  popl trap_recover_sp
  popf
  pop %edi
  pop %esi
  pop %ebx
  pop %ebp
  ret

/* void trap_unwind(word vector) */
  .globl trap_unwind
trap_unwind:
  mov 4(%esp), %eax
  mov $0x10, %ecx
  mov %ecx, %ds
  mov %ecx, %es
  mov %ecx, %ss
  mov trap_recover_sp, %esp
  jmp trap_recover

/* void enter_user(const struct user_entry* entry) */
  .globl enter_user
enter_user:
  mov 4(%esp), %edi
  mov %esp, tss + 4            /* ESP0 */
  push 12(%edi)
  push 8(%edi)
  push 16(%edi)
  push 4(%edi)
  push (%edi)
  mov 20(%edi), %eax
  mov 24(%edi), %ecx
  mov 28(%edi), %edx
  mov $0x23, %ebx
  mov %ebx, %ds
  mov %ebx, %es
  xor %ebx, %ebx
  iret

  .data
  .align 16
  .globl gdt
gdt:
  .quad 0
  .quad 0x00cf9b000000ffff     /* 08 kernel code */
  .quad 0x00cf93000000ffff     /* 10 kernel data */
  .quad 0x00cffb000000ffff     /* 18 user code */
  .quad 0x00cff3000000ffff     /* 20 user data */
  .quad 0x00cffb000000ffff     /* 28 user code again */
  .quad 0x00cff3000000ffff     /* 30 user data again */
  .quad 0x00cf9b000000ffff     /* 38 kernel code again */
  .quad 0, 0                   /* 40 TSS */
  .fill 8, 8, 0                /* 50 free */
gdt_end:
  .globl gdt_pointer
gdt_pointer:
  .word gdt_end - gdt - 1
  .long gdt

  .bss
  .align 4096
  .skip 16384
  .globl kernel_stack_top
kernel_stack_top:
  .skip 8192
  .globl user_stack_top
user_stack_top:
  .section .note.GNU-stack, "", @progbits
