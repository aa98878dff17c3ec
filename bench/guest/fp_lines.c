// SPDX-License-Identifier: Apache-2.0
// SIMD and floating-point lines. AVX2 code is behind run-time checks: the binary itself needs only x86-64.
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "bench.h"

enum { kVector = 2048, kMatrix = 48, kBodies = 5 };
static float vector_a[kVector] __attribute__((aligned(64)));
static float vector_b[kVector] __attribute__((aligned(64)));
static uint8_t bytes_a[4096] __attribute__((aligned(64)));
static uint8_t bytes_b[4096] __attribute__((aligned(64)));

static void prepare_vectors(void) {
  uint32_t seed = 5;
  for (int i = 0; i < kVector; ++i) {
    vector_a[i] = (float)(bench_random(&seed) & 1023) / 1024.0f;
    vector_b[i] = (float)(bench_random(&seed) & 1023) / 1024.0f;
  }
  for (size_t i = 0; i < sizeof bytes_a; ++i) {
    bytes_a[i] = (uint8_t)bench_random(&seed);
    bytes_b[i] = (uint8_t)bench_random(&seed);
  }
}

static int has_avx2(void) { return __builtin_cpu_supports("avx2"); }
static int has_fma(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

// b = b * 0.999 + a, the same numbers in the SSE and the FMA version up to rounding.
static void sse_floats(uint64_t n) {
  const __m128 factor = _mm_set1_ps(0.999f);
  for (uint64_t round = 0; round < n; ++round)
    for (int i = 0; i < kVector; i += 8) {
      __m128 low = _mm_add_ps(_mm_mul_ps(_mm_load_ps(vector_b + i), factor), _mm_load_ps(vector_a + i));
      __m128 high = _mm_add_ps(_mm_mul_ps(_mm_load_ps(vector_b + i + 4), factor), _mm_load_ps(vector_a + i + 4));
      _mm_store_ps(vector_b + i, low);
      _mm_store_ps(vector_b + i + 4, high);
    }
  bench_sink = (uint64_t)vector_b[0];
}

__attribute__((target("avx2,fma"))) static void fma_floats(uint64_t n) {
  const __m256 factor = _mm256_set1_ps(0.999f);
  for (uint64_t round = 0; round < n; ++round)
    for (int i = 0; i < kVector; i += 16) {
      __m256 low = _mm256_fmadd_ps(_mm256_load_ps(vector_b + i), factor, _mm256_load_ps(vector_a + i));
      __m256 high = _mm256_fmadd_ps(_mm256_load_ps(vector_b + i + 8), factor, _mm256_load_ps(vector_a + i + 8));
      _mm256_store_ps(vector_b + i, low);
      _mm256_store_ps(vector_b + i + 8, high);
    }
  bench_sink = (uint64_t)vector_b[0];
}

// Sum of absolute differences, as video encoders do it.
static void sse_integers(uint64_t n) {
  __m128i sum = _mm_setzero_si128();
  for (uint64_t round = 0; round < n; ++round)
    for (size_t i = 0; i < sizeof bytes_a; i += 16)
      sum = _mm_add_epi64(sum, _mm_sad_epu8(_mm_load_si128((const __m128i *)(bytes_a + i)),
                                            _mm_load_si128((const __m128i *)(bytes_b + i))));
  bench_sink = (uint64_t)_mm_cvtsi128_si64(sum);
}

__attribute__((target("avx2"))) static void avx2_integers(uint64_t n) {
  __m256i sum = _mm256_setzero_si256();
  for (uint64_t round = 0; round < n; ++round)
    for (size_t i = 0; i < sizeof bytes_a; i += 32) {
      __m256i a = _mm256_load_si256((const __m256i *)(bytes_a + i));
      __m256i b = _mm256_load_si256((const __m256i *)(bytes_b + i));
      sum = _mm256_add_epi64(sum, _mm256_sad_epu8(_mm256_shuffle_epi8(a, b), _mm256_max_epu8(a, b)));
    }
  bench_sink = (uint64_t)_mm256_extract_epi64(sum, 0);
}

static void matrix_multiply(uint64_t n) {
  static double a[kMatrix][kMatrix], b[kMatrix][kMatrix], c[kMatrix][kMatrix];
  for (int i = 0; i < kMatrix; ++i)
    for (int j = 0; j < kMatrix; ++j) a[i][j] = i + j, b[i][j] = i - j;
  for (uint64_t round = 0; round < n; ++round) {
    for (int i = 0; i < kMatrix; ++i)
      for (int j = 0; j < kMatrix; ++j) {
        double sum = 0;
        for (int k = 0; k < kMatrix; ++k) sum += a[i][k] * b[k][j];
        c[i][j] = sum;
      }
    a[0][0] = c[1][1] > 0 ? 1 : 2;
  }
  bench_sink = (uint64_t)c[3][3];
}

struct body {
  double x, y, z, vx, vy, vz, mass;
};

static void n_body(uint64_t n) {
  struct body bodies[kBodies] = {{0, 0, 0, 0, 0, 0, 39.5},
                                 {4.84, -1.16, -.10, .606, 2.81, -.02, .0377},
                                 {8.34, 4.12, -.4, -1.01, 1.82, .008, .0113},
                                 {12.89, -15.11, -.22, 1.08, .868, -.01, .0017},
                                 {15.37, -25.9, .179, .979, .594, -.034, .002}};
  for (uint64_t step = 0; step < n; ++step) {
    for (int i = 0; i < kBodies; ++i)
      for (int j = i + 1; j < kBodies; ++j) {
        double dx = bodies[i].x - bodies[j].x, dy = bodies[i].y - bodies[j].y, dz = bodies[i].z - bodies[j].z;
        double square = dx * dx + dy * dy + dz * dz;
        double force = 0.001 / (square * sqrt(square));
        bodies[i].vx -= dx * bodies[j].mass * force, bodies[j].vx += dx * bodies[i].mass * force;
        bodies[i].vy -= dy * bodies[j].mass * force, bodies[j].vy += dy * bodies[i].mass * force;
        bodies[i].vz -= dz * bodies[j].mass * force, bodies[j].vz += dz * bodies[i].mass * force;
      }
    for (int i = 0; i < kBodies; ++i) {
      bodies[i].x += 0.001 * bodies[i].vx;
      bodies[i].y += 0.001 * bodies[i].vy;
      bodies[i].z += 0.001 * bodies[i].vz;
    }
  }
  bench_sink = (uint64_t)(bodies[0].x * 1e6);
}

// Doubles in and out of integers and comparisons: the scalar instructions that translators tend to hand to helpers.
static void scalar_doubles(uint64_t n) {
  double value = 0.5, sum = 0;
  for (uint64_t i = 0; i < n; ++i) {
    value = value * 3.7 * (1.0 - value);
    if (value > 0.5) sum += value;
    sum += (double)(int)(value * 100.0);
  }
  bench_sink = (uint64_t)sum;
}

static void x87(uint64_t n) {
  long double value = 0.5L, sum = 0;
  for (uint64_t i = 0; i < n; ++i) {
    value = value * 3.7L * (1.0L - value);
    sum += __builtin_fabsl(value - 0.25L) / 1.5L;
  }
  bench_sink = (uint64_t)sum;
}

const struct bench_line kFpLines[] = {
    {"SSE floats", "fp", "2,048 multiply-adds", sse_floats, NULL, prepare_vectors, 0},
    {"AVX2 FMA floats", "fp", "2,048 multiply-adds", fma_floats, has_fma, prepare_vectors, 0},
    {"SSE2 integers", "fp", "4 KiB", sse_integers, NULL, prepare_vectors, 0},
    {"AVX2 integers", "fp", "4 KiB", avx2_integers, has_avx2, prepare_vectors, 0},
    {"matrix of doubles", "fp", "48 x 48 product", matrix_multiply, NULL, NULL, 0},
    {"n-body", "fp", "step", n_body, NULL, NULL, 0},
    {"scalar doubles", "fp", "iteration", scalar_doubles, NULL, NULL, 0},
    {"x87", "fp", "iteration", x87, NULL, NULL, 0},
};
const size_t kFpLineCount = sizeof kFpLines / sizeof kFpLines[0];
