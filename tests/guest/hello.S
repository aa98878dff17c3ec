/* SPDX-License-Identifier: Apache-2.0 */
/* The smallest guest: 32-bit protected mode as Multiboot leaves it, COM1, debug-exit. Uses no library and no stack. */
  .section .multiboot, "a"
  .align 4
  .long 0x1badb002, 0, -0x1badb002

  .text
  .code32
  .globl _start
_start:
  cmp $0x2badb002, %eax        /* [Multiboot 0.6.96 3.2] */
  mov $failed, %esi
  jne 1f
  mov $hello, %esi
1:mov $0x3fd, %edx
2:in %dx, %al
  test $0x20, %al
  jz 2b
  lodsb
  test %al, %al
  jz 3f
  mov $0x3f8, %edx
  out %al, %dx
  jmp 1b
3:mov $16, %al
  out %al, $0xf4
4:cli
  hlt
  jmp 4b

hello: .asciz "Hello from a Multiboot guest\nok hello\n1 passed, 0 failed, 0 skipped\n"
failed: .asciz "FAIL multiboot-magic\n0 passed, 1 failed, 0 skipped\n"
  .section .note.GNU-stack, "", @progbits
