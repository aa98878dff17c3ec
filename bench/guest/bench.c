// SPDX-License-Identifier: Apache-2.0
// The benchmark program, one static binary that runs unchanged in a guest and natively.
//
//   bench --list            one line per benchmark: number, name, group, unit
//   bench --once NAME|all   measures and prints, for people
//   bench --server          reads commands from stdin, answers on stdout; the harness (bench/run) speaks this:
//       "t"     -> "@@ T <now>"                           the clock, for comparison with the host's
//       "r N S" -> "@@ S <now>" then "@@ R N <now> <ns per operation> x S" or "@@ N N <now>" if not available here
//       "q"     -> "@@ Q", and the program ends
//   <now> is CLOCK_MONOTONIC in ns. Every line starts with @@, since a guest's kernel writes to the same console.
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

volatile uint64_t bench_sink;

enum { kMaxLines = 64, kMaxSamples = 20 };
static const uint64_t kSampleNs = 100 * 1000 * 1000;

static const struct bench_line *lines[kMaxLines];
static uint64_t iterations[kMaxLines];  // found by calibration, 0 before it
static size_t line_count;

uint64_t bench_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void bench_die(const char *what) {
  perror(what);
  exit(1);
}

static uint64_t time_run(const struct bench_line *line, uint64_t n) {
  uint64_t start = bench_now_ns();
  line->run(n);
  return bench_now_ns() - start;
}

// How many operations fill a sample. Grows step by step: the first runs also warm caches and translations.
static uint64_t calibrate(const struct bench_line *line) {
  if (line->slow_ns) return 1;
  uint64_t n = 1;
  for (;;) {
    uint64_t elapsed = time_run(line, n);
    if (elapsed >= kSampleNs / 4) {
      uint64_t wanted = (uint64_t)((double)n * (double)kSampleNs / (double)elapsed);
      return wanted ? wanted : 1;
    }
    n *= elapsed < kSampleNs / 64 ? 8 : 3;
  }
}

// 0 if the line cannot run here.
static int measure(size_t index, unsigned samples, double *ns_per_operation) {
  const struct bench_line *line = lines[index];
  if (line->available && !line->available()) return 0;
  if (!iterations[index]) {
    if (line->prepare) line->prepare();
    iterations[index] = calibrate(line);
  }
  if (line->slow_ns) samples = 1;
  for (unsigned i = 0; i < kMaxSamples; ++i) ns_per_operation[i] = -1;
  for (unsigned i = 0; i < samples; ++i)
    ns_per_operation[i] = (double)time_run(line, iterations[index]) / (double)iterations[index];
  return 1;
}

static void collect(const struct bench_line *from, size_t count) {
  for (size_t i = 0; i < count && line_count < kMaxLines; ++i) lines[line_count++] = &from[i];
}

static void list(void) {
  for (size_t i = 0; i < line_count; ++i)
    printf("%zu|%s|%s|%s\n", i, lines[i]->name, lines[i]->group, lines[i]->unit);
}

static int once(const char *name) {
  int found = 0;
  for (size_t i = 0; i < line_count; ++i) {
    if (strcmp(name, "all") != 0 && strcmp(name, lines[i]->name) != 0) continue;
    found = 1;
    double ns[kMaxSamples];
    if (!measure(i, 3, ns)) {
      printf("%-24s not available here\n", lines[i]->name);
      continue;
    }
    double best = ns[0];
    for (int s = 1; s < 3; ++s)
      if (ns[s] >= 0 && ns[s] < best) best = ns[s];
    printf("%-24s %14.2f ns per %s\n", lines[i]->name, best, lines[i]->unit);
    fflush(stdout);
  }
  return found ? 0 : 2;
}

static void answer(const char *command) {
  unsigned index, samples;
  if (command[0] == 't') {
    printf("@@ T %llu\n", (unsigned long long)bench_now_ns());
  } else if (sscanf(command, "r %u %u", &index, &samples) == 2 && index < line_count && samples <= kMaxSamples) {
    double ns[kMaxSamples];
    printf("@@ S %llu\n", (unsigned long long)bench_now_ns());
    fflush(stdout);
    int available = measure(index, samples, ns);
    printf("@@ %c %u %llu", available ? 'R' : 'N', index, (unsigned long long)bench_now_ns());
    for (unsigned i = 0; available && i < samples && ns[i] >= 0; ++i) printf(" %.4f", ns[i]);
    printf("\n");
  }
  fflush(stdout);
}

static int serve(void) {
  struct termios terminal;
  if (tcgetattr(0, &terminal) == 0) {  // a guest's console: no echo, no line editing
    cfmakeraw(&terminal);
    terminal.c_oflag |= OPOST | ONLCR;
    tcsetattr(0, TCSANOW, &terminal);
  }
  printf("@@ H %zu %llu\n", line_count, (unsigned long long)bench_now_ns());
  fflush(stdout);
  char command[64];
  size_t length = 0;
  for (;;) {
    char byte;
    if (read(0, &byte, 1) != 1) return 1;
    if (byte == '\r' || byte == '\n') {
      command[length] = 0;
      if (command[0] == 'q') break;
      if (length) answer(command);
      length = 0;
    } else if (length + 1 < sizeof command) {
      command[length++] = byte;
    }
  }
  printf("@@ Q\n");
  fflush(stdout);
  return 0;
}

int main(int argc, char **argv) {
  collect(kCpuLines, kCpuLineCount);
  collect(kFpLines, kFpLineCount);
  collect(kSystemLines, kSystemLineCount);
  if (argc == 2 && strcmp(argv[1], "--list") == 0) {
    list();
    return 0;
  }
  if (argc == 2 && strcmp(argv[1], "--server") == 0) return serve();
  if (argc == 3 && strcmp(argv[1], "--once") == 0) return once(argv[2]);
  fprintf(stderr, "usage: bench --list | --once NAME|all | --server\n");
  return 2;
}
