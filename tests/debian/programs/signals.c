// SPDX-License-Identifier: Apache-2.0
// Signals as the processor causes them: where they hit, what the handler sees, what it may change; 32 and 64 bit.
#define _GNU_SOURCE
#include <errno.h>
#include <fenv.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#ifdef __x86_64__
#define PC REG_RIP
#define AX REG_RAX
static void set_alignment_check(void) { __asm__ volatile("pushfq; orq $0x40000, (%%rsp); popfq" ::: "memory", "cc"); }
static void clear_alignment_check(void) { __asm__ volatile("pushfq; andq $~0x40000, (%%rsp); popfq" ::: "memory", "cc"); }
#else
#define PC REG_EIP
#define AX REG_EAX
static void set_alignment_check(void) { __asm__ volatile("pushfl; orl $0x40000, (%%esp); popfl" ::: "memory", "cc"); }
static void clear_alignment_check(void) { __asm__ volatile("pushfl; andl $~0x40000, (%%esp); popfl" ::: "memory", "cc"); }
#endif

static sigjmp_buf back;
static volatile int seen_signal, seen_code, seen_trap, seen_error;
static volatile uintptr_t seen_address, seen_pc;
static volatile unsigned long steps;

static void note(int number, siginfo_t* info, void* opaque) {
  clear_alignment_check();  // Linux leaves it set in a handler
  ucontext_t* context = opaque;
  seen_signal = number, seen_code = info->si_code, seen_address = (uintptr_t)info->si_addr;
  seen_trap = (int)context->uc_mcontext.gregs[REG_TRAPNO], seen_error = (int)context->uc_mcontext.gregs[REG_ERR];
  seen_pc = (uintptr_t)context->uc_mcontext.gregs[PC];
  siglongjmp(back, 1);
}

static void catch_all(void (*handler)(int, siginfo_t*, void*)) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  const int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
  for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; ++i) sigaction(numbers[i], &action, NULL);
}

#define TRY(name, ...)                                                                                                  \
  do {                                                                                                                  \
    seen_signal = 0;                                                                                                    \
    if (sigsetjmp(back, 1) == 0) {                                                                                      \
      __VA_ARGS__;                                                                                                      \
    }                                                                                                                   \
    printf("%s: signal %d code %d trap %d error %#x\n", name, seen_signal, seen_code, seen_trap, (unsigned)seen_error); \
  } while (0)

static void faults(void) {
  volatile int one_more = 1, zero = 0, most = (int)0x80000000u, minus = -1;
  volatile int* volatile null = (volatile int*)8;
  char* page = mmap(NULL, 12288, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  mprotect(page + 4096, 4096, PROT_NONE);
  mprotect(page + 8192, 4096, PROT_READ);
  TRY("divide by zero", printf("%d\n", one_more / zero));
  TRY("divide overflow", printf("%d\n", most / minus));
  TRY("null read", *null);
  TRY("no access", *(volatile char*)(page + 4097));
  printf("  offset %d\n", (int)(seen_address - (uintptr_t)page));
  TRY("read-only", *(volatile char*)(page + 8200) = 1);
  printf("  offset %d\n", (int)(seen_address - (uintptr_t)page));
  TRY("across pages", *(volatile uint64_t*)(page + 4092) = 0x1122334455667788);
  printf("  offset %d, stored %02x\n", (int)(seen_address - (uintptr_t)page), (unsigned char)page[4093]);
  TRY("no execute", ((void (*)(void))page)());
  printf("  at %d\n", (int)(seen_pc - (uintptr_t)page));
  TRY("undefined", __asm__ volatile("ud2"));
  TRY("breakpoint", __asm__ volatile("int3"));
  TRY("privileged", __asm__ volatile("hlt"));
  TRY("privileged in", __asm__ volatile("inb $0x80, %%al" ::: "eax"));
  TRY("privileged cli", __asm__ volatile("cli"));
  TRY("int 0x20", __asm__ volatile("int $0x20"));
  TRY("misaligned", __asm__ volatile("movaps (%0), %%xmm0" ::"r"(page + 8) : "xmm0"));
  TRY("string", memset(page, 1, 100); __asm__ volatile("rep movsb" ::"S"(page), "D"(page + 4000), "c"(200) : "memory"));
  printf("  offset %d\n", (int)(seen_address - (uintptr_t)page));
  TRY("alignment check", {
    volatile uint32_t words[2] = {0};
    set_alignment_check();
    __asm__ volatile("movl 1(%0), %%eax" ::"r"(words) : "eax", "memory");
  });
#ifdef __x86_64__
  TRY("non-canonical", *(volatile char*)0x8000000000000000);
  TRY("non-canonical jump", ((void (*)(void))0x8000000000000000)());
  TRY("vsyscall page", *(volatile char*)0xffffffffff600000);
  TRY("kernel read", *(volatile char*)0xffffffff81000000);
#else
  TRY("bound", {
    int range[2] = {1, 5};
    __asm__ volatile("boundl %0, %1" ::"r"(9), "m"(range));
  });
  TRY("into", __asm__ volatile("movb $127, %%al; addb $1, %%al; into" ::: "eax", "cc"));
#endif
  feenableexcept(FE_DIVBYZERO | FE_INVALID);
  volatile double none = 0, one = 1;
  volatile long double no = 0, yes = 1;
  TRY("SSE division", one /= none);
  TRY("SSE invalid", none /= none);
  TRY("x87 division", yes /= no);
  TRY("x87 invalid", no /= no; yes += no);
  fedisableexcept(FE_ALL_EXCEPT);
  feclearexcept(FE_ALL_EXCEPT);
}

static void resume_after(int number, siginfo_t* info, void* opaque) {
  (void)info;
  ucontext_t* context = opaque;
  ++steps;
  if (number == SIGILL) {  // ud2: go on behind it with another register value
    context->uc_mcontext.gregs[PC] += 2;
    context->uc_mcontext.gregs[AX] = 4711;
    memset(context->uc_mcontext.fpregs->_st, 0, sizeof context->uc_mcontext.fpregs->_st);
  }
}

static void stepping(void) {
  catch_all(resume_after);
  long result = 1;
  __asm__ volatile("ud2" : "+a"(result));
  printf("changed in the handler: %ld\n", result);
  steps = 0;
  long sum = 0;
#ifdef __x86_64__
  __asm__ volatile("pushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\tmov $10, %%ecx\n1:\tadd %%rcx, %0\n\tdec %%ecx\n\tjnz 1b\n\t"
                   "pushfq\n\tandq $~0x100, (%%rsp)\n\tpopfq" : "+r"(sum)::"rcx", "memory", "cc");
#else
  __asm__ volatile("pushfl\n\torl $0x100, (%%esp)\n\tpopfl\n\tmov $10, %%ecx\n1:\tadd %%ecx, %0\n\tdec %%ecx\n\tjnz 1b\n\t"
                   "pushfl\n\tandl $~0x100, (%%esp)\n\tpopfl" : "+r"(sum)::"ecx", "memory", "cc");
#endif
  printf("single steps %lu, sum %ld\n", steps, sum);
}

static volatile sig_atomic_t ticks;
static void tick(int number) {
  (void)number;
  ++ticks;
  volatile double destroy = 1.0;
  volatile long double x87 = 1.0L;
  for (int i = 0; i < 20; ++i) destroy = destroy * 1.5 + i, x87 = x87 * 1.5L + i;
  __asm__ volatile("pxor %%xmm0, %%xmm0; pxor %%xmm1, %%xmm1; pxor %%xmm7, %%xmm7" ::: "xmm0", "xmm1", "xmm7");
#ifdef __AVX__
  __asm__ volatile("vzeroall" ::: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7");
#endif
}

// A timer hits a loop of numbers, vectors and flags in all places; its result must not notice.
static void interrupted(void) {
  struct sigaction action = {.sa_handler = tick};
  sigaction(SIGALRM, &action, NULL);
  struct itimerval often = {{0, 1000}, {0, 1000}}, never = {0};
  setitimer(ITIMER_REAL, &often, NULL);
  typedef uint32_t vector __attribute__((vector_size(32)));
  vector state = {1, 2, 3, 4, 5, 6, 7, 8};
  long double extended = 1;
  double single = 1;
  uint64_t carry = 1;
  for (int round = 0; round < 3000000; ++round) {
    state = state * 1664525u + (state >> 7);
    extended = extended * 0.999L + round;
    single = single * 0.999 + round;
    carry = carry * 6364136223846793005ULL + (carry > 77);
    if (round > 2000000 && ticks < 50) round -= 1000;
  }
  setitimer(ITIMER_REAL, &never, NULL);
  printf("timer hit often enough: %s\n", ticks >= 50 ? "yes" : "no");
}

static void interrupted_fixed(void) {
  struct itimerval often = {{0, 1000}, {0, 1000}}, never = {0};
  for (int pass = 0; pass < 2; ++pass) {
    if (pass) setitimer(ITIMER_REAL, &often, NULL);
    typedef uint32_t vector __attribute__((vector_size(32)));
    vector state = {1, 2, 3, 4, 5, 6, 7, 8};
    long double extended = 1;
    double plain = 1;
    uint64_t carry = 1;
    for (int round = 0; round < 3000000; ++round) {
      state = state * 1664525u + (state >> 7);
      extended = extended * 0.999L + round;
      plain = plain * 0.999 + round;
      carry = carry * 6364136223846793005ULL + (carry > 77);
    }
    if (pass) setitimer(ITIMER_REAL, &never, NULL);
    printf("%08x %08x %.20Lg %a %llx\n", state[0], state[7], extended, plain, (unsigned long long)carry);
  }
}

static void processes(void) {
  int pipes[2];
  if (pipe(pipes) != 0) return;
  for (int i = 0; i < 20; ++i) {
    if (fork() == 0) {
      volatile long double x = i;
      volatile double y = i;
      for (int round = 0; round < 300000; ++round) x = x * 0.99999L + round, y = y * 0.99999 + round;
      char line[100];
      int length = snprintf(line, sizeof line, "%02d %.18Lg %a\n", i, x, y);
      _exit(write(pipes[1], line, (size_t)length) != length);
    }
  }
  int good = 0, status;
  while (wait(&status) > 0) good += status == 0;
  close(pipes[1]);
  static char lines[20][64], all[4096];
  ssize_t size = read(pipes[0], all, sizeof all - 1);
  int count = 0;
  for (char* line = strtok(all, "\n"); line && count < 20; line = strtok(NULL, "\n")) snprintf(lines[count++], 64, "%s", line);
  qsort(lines, (size_t)count, sizeof *lines, (int (*)(const void*, const void*))strcmp);
  printf("%d processes, %zd bytes\n", good, size);
  for (int i = 0; i < count; ++i) puts(lines[i]);
  for (int number = 1; number < 16; number += 4) {
    pid_t child = fork();
    if (child == 0) {
      signal(number, SIG_DFL);
      raise(number);
      _exit(0);
    }
    waitpid(child, &status, 0);
    printf("raise %d: signaled %d by %d\n", number, WIFSIGNALED(status), WTERMSIG(status));
  }
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  static char stack[65536];
  stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
  sigaltstack(&alternate, NULL);
  catch_all(note);
  faults();
  stepping();
  interrupted();
  interrupted_fixed();
  processes();
  return 0;
}
