// SPDX-License-Identifier: Apache-2.0
// Lines that measure the kernel and the processor's system side: calls, faults, switches, processes.
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

static void null_syscall(uint64_t n) {
  for (uint64_t i = 0; i < n; ++i) syscall(SYS_getppid);
}

static void read_zero(uint64_t n) {
  static char buffer[4096];
  int file = open("/dev/zero", O_RDONLY);
  if (file < 0) bench_die("/dev/zero");
  for (uint64_t i = 0; i < n; ++i)
    if (read(file, buffer, sizeof buffer) != (ssize_t)sizeof buffer) bench_die("read");
  close(file);
}

static void clock_reads(uint64_t n) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < n; ++i) sum += bench_now_ns();
  bench_sink = sum;
}

// One page at a time, so that a benchmark of faults is not one of huge pages or fault-around.
static void page_faults(uint64_t n) {
  enum { kPages = 1024 };
  while (n) {
    uint8_t *area = mmap(NULL, kPages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED) bench_die("mmap");
    madvise(area, kPages * 4096, MADV_NOHUGEPAGE);
    for (int i = 0; i < kPages && n; ++i, --n) area[i * 4096] = 1;
    munmap(area, kPages * 4096);
  }
}

static void map_unmap(uint64_t n) {
  for (uint64_t i = 0; i < n; ++i) {
    void *area = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED) bench_die("mmap");
    munmap(area, 65536);
  }
}

// The guest has one processor: keep parent and child on one here too, so that the numbers compare.
static void stay_on_this_processor(cpu_set_t *before) {
  cpu_set_t here;
  sched_getaffinity(0, sizeof *before, before);
  CPU_ZERO(&here);
  CPU_SET((size_t)sched_getcpu(), &here);
  sched_setaffinity(0, sizeof here, &here);
}

static void wait_for(pid_t child) {
  int status;
  if (child < 0) bench_die("fork");
  if (waitpid(child, &status, 0) != child || status != 0) bench_die("child");
}

static void fork_exit(uint64_t n) {
  cpu_set_t before;
  stay_on_this_processor(&before);
  for (uint64_t i = 0; i < n; ++i) {
    pid_t child = fork();
    if (child == 0) _exit(0);
    wait_for(child);
  }
  sched_setaffinity(0, sizeof before, &before);
}

static void run_program(char *const arguments[]) {
  pid_t child = fork();
  if (child == 0) {
    execv(arguments[0], arguments);
    _exit(127);
  }
  wait_for(child);
}

static void fork_exec(uint64_t n) {
  char *const arguments[] = {(char *)"/bin/true", NULL};
  cpu_set_t before;
  stay_on_this_processor(&before);
  for (uint64_t i = 0; i < n; ++i) run_program(arguments);
  sched_setaffinity(0, sizeof before, &before);
}

// One operation is one message there and one back: two switches between two address spaces.
static void pipe_switches(uint64_t n) {
  int there[2], back[2];
  cpu_set_t before;
  stay_on_this_processor(&before);
  if (pipe(there) || pipe(back)) bench_die("pipe");
  pid_t child = fork();
  if (child == 0) {
    char byte;
    close(there[1]);
    while (read(there[0], &byte, 1) == 1)
      if (write(back[1], &byte, 1) != 1) _exit(1);
    _exit(0);
  }
  close(there[0]);
  for (uint64_t i = 0; i < n; ++i) {
    char byte = 1;
    if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1) bench_die("pipe");
  }
  close(there[1]);
  wait_for(child);
  close(back[0]);
  close(back[1]);
  sched_setaffinity(0, sizeof before, &before);
}

static volatile sig_atomic_t signals_seen;
static void on_signal(int number) {
  (void)number;
  signals_seen = signals_seen + 1;
}

static void signals(uint64_t n) {
  struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGUSR1, &action, NULL);
  pid_t self = getpid();
  for (uint64_t i = 0; i < n; ++i) syscall(SYS_tgkill, self, self, SIGUSR1);
}

static void on_fault(int number, siginfo_t *info, void *context) {
  (void)number;
  (void)context;
  mprotect((void *)((uintptr_t)info->si_addr & ~(uintptr_t)4095), 4096, PROT_READ | PROT_WRITE);
}

// A write to a protected page, caught and allowed by a handler: what garbage collectors do.
static void protection_faults(uint64_t n) {
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO}, before;
  sigaction(SIGSEGV, &action, &before);
  volatile uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) bench_die("mmap");
  for (uint64_t i = 0; i < n; ++i) {
    mprotect((void *)page, 4096, PROT_READ);
    page[0] = 1;
  }
  munmap((void *)page, 4096);
  sigaction(SIGSEGV, &before, NULL);
}

static char source_path[] = "/tmp/rhea-bench-XXXXXX.c";
static char object_path[sizeof source_path];

static int has_gcc(void) { return access("/usr/bin/gcc", X_OK) == 0; }

// A few hundred functions of ordinary C: half a second of work for the compiler.
static void prepare_compile(void) {
  int file = mkstemps(source_path, 2);
  if (file < 0) bench_die("/tmp");
  dprintf(file, "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n");
  for (int i = 0; i < 120; ++i)
    dprintf(file,
            "struct s%d { struct s%d *next; int key; char name[%d]; };\n"
            "int f%d(struct s%d *list, const char *name, int limit) {\n"
            "  int found = 0;\n"
            "  for (struct s%d *at = list; at && found < limit; at = at->next) {\n"
            "    if (strncmp(at->name, name, sizeof at->name) == 0) found += at->key * %d;\n"
            "    else if (at->key > limit) { at->key %%= %d; found ^= at->key << 2; }\n"
            "    switch (at->key & 7) { case 1: found++; break; case 3: found += 5; break; case 6: return found; }\n"
            "  }\n"
            "  char text[64]; snprintf(text, sizeof text, \"%%d:%%s\", found, name);\n"
            "  return found + (int)strlen(text);\n}\n",
            i, i, 16 + i % 40, i, i, i, i + 3, i + 17);
  close(file);
  for (size_t i = 0; i < sizeof source_path; ++i) object_path[i] = source_path[i];
  object_path[sizeof source_path - 2] = 'o';
}

static void compile(uint64_t n) {
  char *const arguments[] = {(char *)"/usr/bin/gcc", (char *)"-O2", (char *)"-c", source_path, (char *)"-o", object_path, NULL};
  cpu_set_t before;
  stay_on_this_processor(&before);
  for (uint64_t i = 0; i < n; ++i) run_program(arguments);
  sched_setaffinity(0, sizeof before, &before);
  unlink(object_path);
}

const struct bench_line kSystemLines[] = {
    {"null syscall", "system", "call", null_syscall, NULL, NULL, 0},
    {"read 4 KiB of zeros", "system", "read", read_zero, NULL, NULL, 0},
    {"clock_gettime", "system", "call", clock_reads, NULL, NULL, 0},
    {"page faults", "system", "fault", page_faults, NULL, NULL, 0},
    {"mmap and munmap", "system", "pair", map_unmap, NULL, NULL, 0},
    {"fork and exit", "system", "process", fork_exit, NULL, NULL, 0},
    {"fork and exec", "system", "process", fork_exec, NULL, NULL, 0},
    {"pipe switches", "system", "round trip", pipe_switches, NULL, NULL, 0},
    {"signals", "system", "signal", signals, NULL, NULL, 0},
    {"protection faults", "system", "fault", protection_faults, NULL, NULL, 0},
    {"gcc compile", "system", "compilation", compile, has_gcc, prepare_compile, 500 * 1000 * 1000},
};
const size_t kSystemLineCount = sizeof kSystemLines / sizeof kSystemLines[0];
