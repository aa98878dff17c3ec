// SPDX-License-Identifier: Apache-2.0
// Arithmetic of every C type: hashes of many results, bit for bit.
#include <complex.h>
#include <fenv.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t random_state = 88172645463325252ULL;
static uint64_t random64(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  return random_state ^= random_state << 17;
}

static uint64_t hash;
static void add(const void* data, size_t size) {
  const unsigned char* bytes = data;
  for (size_t i = 0; i < size; ++i) hash = (hash ^ bytes[i]) * 1099511628211ULL;
}
static void show(const char* name) {
  printf("%s %016llx\n", name, (unsigned long long)hash);
  hash = 14695981039346656037ULL;
}
// The payload of a NaN is no result: it depends on the order in which a compiler puts operands.
static void add_double(double value) {
  if (isnan(value)) value = NAN;
  add(&value, isnan(value) ? 4 : sizeof value);
}
static void add_long_double(long double value) {
  if (isnan(value)) value = NAN;
  add(&value, isnan(value) ? 4 : 10);
}

static double random_double(int wild) {
  if (wild) {
    uint64_t bits = random64();
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
  }
  return ((double)(int64_t)random64()) * 0x1p-60;
}

#define EACH(type, prefix, suffix, adder)                                                                                        \
  static void each_##type##suffix(int wild, int rounds) {                                                                        \
    for (int i = 0; i < rounds; ++i) {                                                                                           \
      volatile prefix a = (prefix)random_double(wild), b = (prefix)random_double(wild), c = (prefix)random_double(wild);         \
      adder(sin##suffix(a)), adder(cos##suffix(a)), adder(tan##suffix(a)), adder(atan2##suffix(a, b)), adder(exp##suffix(a));    \
      adder(log##suffix(a)), adder(pow##suffix(a, b)), adder(sqrt##suffix(a)), adder(cbrt##suffix(a)), adder(fma##suffix(a, b, c)); \
      adder(fmod##suffix(a, b)), adder(remainder##suffix(a, b)), adder(hypot##suffix(a, b)), adder(floor##suffix(a));            \
      adder(ceil##suffix(a)), adder(rint##suffix(a)), adder(round##suffix(a)), adder(trunc##suffix(a)), adder(logb##suffix(a));  \
      adder(sinh##suffix(a)), adder(acosh##suffix(a)), adder(erf##suffix(a)), adder(tgamma##suffix(a)), adder(log1p##suffix(a)); \
      adder(a + b), adder(a - b), adder(a * b), adder(a / b), adder(-a), adder(a * b + c), adder(a < b ? a : b);                 \
      adder(scalbn##suffix(a, (int)(random64() % 200) - 100)), adder(nextafter##suffix(a, b)), adder(copysign##suffix(a, b));    \
    }                                                                                                                            \
  }
EACH(double, double, , add_double)
EACH(float, float, f, add_double)
EACH(long_double, long double, l, add_long_double)

static void conversions(void) {
  for (int i = 0; i < 20000; ++i) {
    double value = random_double(0) * 1e6;
    float single = (float)value;
    long double extended = value / 3.0L;
    int32_t narrow = (int32_t)value;
    int64_t wide = (int64_t)(value * 1e9);
    uint64_t natural = (uint64_t)fabs(value * 1e11);
    uint32_t natural32 = (uint32_t)fabs(value);
    int16_t small = (int16_t)narrow;
    add(&narrow, 4), add(&wide, 8), add(&natural, 8), add(&natural32, 4), add(&small, 2), add(&single, 4);
    add_double((double)wide), add_double((double)natural), add_double((double)natural32), add_double((float)wide);
    add_long_double(extended), add_long_double((long double)natural), add_long_double((long double)wide);
    wide = (int64_t)extended, add(&wide, 8);
    wide = lrint(value) + lrintl(extended) + llround(value) + lrintf(single), add(&wide, 8);
  }
  show("conversions");
}

static void integers(void) {
  for (int i = 0; i < 100000; ++i) {
    uint64_t a = random64() >> (random64() & 63), b = (random64() >> (random64() & 63)) | 1;
    int64_t sa = (int64_t)a, sb = (int64_t)b;
    if (sb == -1) sb = 1;
    unsigned shift = b & 63, shift32 = b & 31;
    uint64_t results[] = {a / b, a % b, (uint64_t)(sa / sb), (uint64_t)(sa % sb), a * b, a << shift, a >> shift, (uint64_t)(sa >> shift),
                          a << shift | a >> (-shift & 63), (uint64_t)((uint32_t)a << shift32 | (uint32_t)a >> (-shift32 & 31)),
                          (uint64_t)((int32_t)sa / ((int32_t)sb == -1 || (int32_t)sb == 0 ? 1 : (int32_t)sb)), __builtin_bswap64(a),
                          (uint64_t)__builtin_popcountll(a), (uint64_t)__builtin_ctzll(b), (uint64_t)__builtin_clzll(b),
                          (uint64_t)__builtin_parityll(a), (uint64_t)(int16_t)a, (uint64_t)(int8_t)a, (uint8_t)(a + b), a < b, sa < sb,
                          (uint64_t)__builtin_bswap32((uint32_t)a), (a & (1ULL << shift)) != 0, a & -a, a & (a - 1), ~a & b};
    add(results, sizeof results);
    int64_t sum;
    int overflow = __builtin_add_overflow(sa, sb, &sum);
    add(&sum, 8), add(&overflow, 4);
    overflow = __builtin_mul_overflow(sa, sb, &sum);
    add(&sum, 8), add(&overflow, 4);
#ifdef __SIZEOF_INT128__
    unsigned __int128 wide = (unsigned __int128)a * b + random64();
    unsigned __int128 quotient = wide / (b | 1ULL << 40), rest = wide % 1000000007;
    add(&wide, 16), add(&quotient, 16), add(&rest, 16);
#endif
  }
  show("integers");
}

static void environment(void) {
  const int modes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
  for (int m = 0; m < 4; ++m) {
    fesetround(modes[m]);
    feclearexcept(FE_ALL_EXCEPT);
    for (int i = 0; i < 5000; ++i) {
      volatile double a = random_double(i & 1), b = random_double(i & 1);
      volatile long double la = a, lb = b;
      volatile float fa = (float)a;
      add_double(a / b), add_double(a * b), add_double(sqrt(fabs(a))), add_double(rint(a)), add_long_double(la / lb);
      add_long_double(sqrtl(fabsl(la)) + lb), add_double(fa * fa), add_long_double(rintl(la));
      int raised = fetestexcept(FE_ALL_EXCEPT);
      add(&raised, sizeof raised);
      if (i % 3 == 0) feclearexcept(FE_ALL_EXCEPT);
    }
  }
  fesetround(FE_TONEAREST);
  show("rounding and exceptions");
}

static void text(void) {
  char line[200];
  for (int i = 0; i < 10000; ++i) {
    double value = random_double(1);
    if (isnan(value)) continue;
    int length = snprintf(line, sizeof line, "%.17g %a %.3e %Lg %d", value, value, value, (long double)value * 3, (int)random64());
    add(line, (size_t)length);
    add_double(strtod(line, NULL));
    add_long_double(strtold(line, NULL));
  }
  show("text");
}

int main(int argc, char** argv) {
  int rounds = argc > 1 ? atoi(argv[1]) : 3000;
  hash = 14695981039346656037ULL;
  printf("%zu %zu %d\n", sizeof(long), sizeof(long double), FLT_EVAL_METHOD);
  integers();
  conversions();
  each_double(0, rounds), show("double");
  each_double(1, rounds), show("double, any bits");
  each_floatf(0, rounds), show("float");
  each_floatf(1, rounds), show("float, any bits");
  each_long_doublel(0, rounds), show("long double");
  each_long_doublel(1, rounds), show("long double, any bits");
  environment();
  text();
  printf("%.20Lg %a\n", sqrtl(2) * 1e10L, cabs(cexp(1 + 2 * I)));
  return 0;
}
