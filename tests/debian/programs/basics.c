// SPDX-License-Identifier: Apache-2.0
// A little of everything: sorting, three kinds of floating point, division, signals.
#include <complex.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static int compare(const void* a, const void* b) {
  return (*(const int*)a > *(const int*)b) - (*(const int*)a < *(const int*)b);
}
static sigjmp_buf back;
static void on_signal(int number) { siglongjmp(back, number); }
int main(void) {
  static int values[50000];
  unsigned seed = 1;
  for (int i = 0; i < 50000; ++i) values[i] = (int)(seed = seed * 1103515245u + 12345u);
  qsort(values, 50000, sizeof *values, compare);
  printf("%zu %d %d %d\n", sizeof(long), values[0], values[25000], values[49999]);
  double sum = 0;
  long double extended = 0;
  float single = 0;
  for (int i = 1; i < 20000; ++i) {
    sum += sin(i) * exp(-i / 5000.0) + pow(i, 1.0 / 3);
    extended += sqrtl(i) / (i + 0.1L);
    single = single * 0.999f + sqrtf((float)i);
  }
  printf("%a %.25Lg %a %g\n", sum, extended, single, cabs(cexp(1 + 2 * I)));
  printf("%lld %llu\n", -9223372036854775807LL / 1234567891LL, 18446744073709551615ULL % 987654321ULL);
  volatile int zero = 0;
  signal(SIGFPE, on_signal);
  signal(SIGSEGV, on_signal);
  if (sigsetjmp(back, 1) == 0)
    printf("%d\n", 7 / zero);
  else
    puts("SIGFPE");
  if (sigsetjmp(back, 1) == 0)
    printf("%d\n", *(volatile int*)8);
  else
    puts("SIGSEGV");
  return 0;
}
