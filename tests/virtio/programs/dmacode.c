// SPDX-License-Identifier: Apache-2.0
// Code that a disk writes over code: each page of the disk is a function, read by DMA into a page that has been executed,
// and called by this processor and by the others, if there are any. dmacode DISK PAGES
// A page's function returns what stands in its last eight bytes, as four.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { kPage = 4096, kMostThreads = 8 };
static unsigned char *page;
static atomic_uint round_number, done;
static atomic_int wrong;

static uint32_t wanted(void) {
  uint32_t value;
  memcpy(&value, page + kPage - 8, 4);
  return value;
}

static void check(unsigned number, int who) {
  const uint32_t got = ((uint32_t(*)(void))page)();
  // The instruction stream is looked at anew after a serialising instruction, as the architecture asks across processors.
  if (got != wanted()) {
    printf("round %u, processor %d: %#x, not %#x\n", number, who, got, wanted());
    atomic_store(&wrong, 1);
  }
}

static void serialise(void) {
  unsigned a = 0, b, c = 0, d;
  __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d)::"memory");
}

static void *follow(void *argument) {
  const int who = (int)(intptr_t)argument;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(who, &set);
  sched_setaffinity(0, sizeof set, &set);
  for (unsigned seen = 0;;) {
    const unsigned now = atomic_load(&round_number);
    if (now == ~0u) return NULL;
    if (now == seen) {
      sched_yield();
      continue;
    }
    seen = now;
    serialise();
    check(now, who);
    atomic_fetch_add(&done, 1);
  }
}

int main(int count, char **words) {
  if (count != 3) return 2;
  const int disk = open(words[1], O_RDONLY | O_DIRECT);
  const unsigned pages = (unsigned)atoi(words[2]);
  page = mmap(NULL, kPage, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (disk < 0 || page == MAP_FAILED) return 2;
  const int processors = (int)sysconf(_SC_NPROCESSORS_ONLN);
  pthread_t threads[kMostThreads];
  const int others = processors - 1 < kMostThreads ? processors - 1 : kMostThreads;
  for (int i = 0; i < others; ++i) pthread_create(&threads[i], NULL, follow, (void *)(intptr_t)(i + 1));
  for (unsigned number = 1; number <= 3 * pages && !atomic_load(&wrong); ++number) {
    if (pread(disk, page, kPage, (off_t)((number * 7) % pages) * kPage) != kPage) {
      puts("cannot read");
      return 1;
    }
    for (int i = 0; i < 3; ++i) check(number, 0);
    atomic_store(&done, 0);
    atomic_store(&round_number, number);
    while (atomic_load(&done) != (unsigned)others) sched_yield();
  }
  atomic_store(&round_number, ~0u);
  for (int i = 0; i < others; ++i) pthread_join(threads[i], NULL);
  puts(atomic_load(&wrong) ? "@@code:stale" : "@@code:new");
  return 0;
}
