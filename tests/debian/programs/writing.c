// SPDX-License-Identifier: Apache-2.0
// Programs that write programs: in place, through a second mapping, across pages, in a loop, by the kernel, under other addresses.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

typedef int (*function)(void);
static void put(unsigned char* at, int value) {
  at[0] = 0xb8;  // mov eax, value; ret
  memcpy(at + 1, &value, 4);
  at[5] = 0xc3;
}

int main(void) {
  long sum = 0;
  unsigned char* both = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (int i = 0; i < 20000; ++i) put(both + 100, i), sum += ((function)(both + 100))();
  printf("in place %ld\n", sum);
  for (int i = 0; i < 2000; ++i) put(both + 4093, i * 3), sum += ((function)(both + 4093))();
  printf("across pages %ld\n", sum);

  int file = memfd_create("code", 0);
  ftruncate(file, 8192);
  unsigned char* writable = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  unsigned char* executable = mmap(NULL, 8192, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
  for (int i = 0; i < 20000; ++i) put(writable + i % 4000, i), sum += ((function)(executable + i % 4000))();
  printf("two mappings %ld\n", sum);
  for (int i = 0; i < 200; ++i) {
    unsigned char code[6];
    put(code, i * 7);
    pwrite(file, code, 6, 64);
    sum += ((function)(executable + 64))();
  }
  printf("written by the kernel %ld\n", sum);
  for (int i = 0; i < 200; ++i) {
    unsigned char* page = mmap(executable, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    put(page, i * 11);
    mprotect(page, 4096, PROT_READ | PROT_EXEC);
    sum += ((function)page)();
  }
  printf("new pages at one address %ld\n", sum);
  for (int i = 0; i < 20; ++i) {
    put(both, i);
    int status;
    if (fork() == 0) {
      put(both, ((function)both)() + 1);
      _exit(((function)both)());
    }
    wait(&status);
    sum += WEXITSTATUS(status) * 1000 + ((function)both)();
  }
  printf("copy on write %ld\n", sum);

  // A loop that counts its own immediate up; the write hits the block that runs.
  static const unsigned char loop[] = {0xb9, 0xe8, 0x03, 0x00, 0x00,              // mov ecx, 1000
                                       0x31, 0xc0,                                // xor eax, eax
                                       0x05, 0x01, 0x00, 0x00, 0x00,              // again: add eax, 1
#ifdef __x86_64__
                                       0xfe, 0x05, 0xf6, 0xff, 0xff, 0xff,        // inc byte [rip - 10]: of add's immediate
#else
                                       0xfe, 0x05, 0x00, 0x00, 0x00, 0x00,        // inc byte [add's immediate]
#endif
                                       0x49,                                      // dec ecx; in 64-bit mode that is a prefix: the tail below
                                       0x75, 0xf1, 0xc3};                         // jnz again; ret
  unsigned char code[64];
  memcpy(code, loop, sizeof loop);
  unsigned size = sizeof loop;
#ifdef __x86_64__
  static const unsigned char tail[] = {0xff, 0xc9, 0x75, 0xf1, 0xc3};
  memcpy(code + 18, tail, sizeof tail);
  size = 18 + sizeof tail;
#else
  uint32_t address = (uint32_t)(uintptr_t)(both + 200 + 8);
  memcpy(code + 14, &address, 4);
  code[20] = 0xf2;
#endif
  memcpy(both + 200, code, size);
  printf("counting itself %d\n", ((function)(both + 200))());
  return 0;
}
