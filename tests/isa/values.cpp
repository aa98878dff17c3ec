// SPDX-License-Identifier: Apache-2.0
// Random values biased to zero, extremes, powers of two, denormals, infinities and NaNs.
#include "tests/isa/values.h"

#include <cstring>

namespace rhea::tests::isa {

uint64_t random_integer(Rng& random) {
  static constexpr uint64_t kCorners[] = {0,
                                          1,
                                          2,
                                          ~0ull,
                                          ~1ull,
                                          0x7f,
                                          0x80,
                                          0xff,
                                          0x7fff,
                                          0x8000,
                                          0xffff,
                                          0x7fffffff,
                                          0x80000000,
                                          0xffffffff,
                                          0x100000000,
                                          0x7fffffffffffffff,
                                          0x8000000000000000,
                                          0xffffffff80000000,
                                          0xffffffff7fffffff,
                                          0xffffffffffff8000,
                                          0xffffffffffffff80};
  switch (random.below(8)) {
    case 0:
    case 1: return kCorners[random.below(sizeof kCorners / sizeof kCorners[0])];
    case 2: return (1ull << random.below(64)) - random.below(2);
    case 3: return random.below(256);
    case 4: return random.next() >> random.below(64);
    case 5: return ~(random.next() >> random.below(64));
    case 6:
      return random.chance(1, 2) ? random_double(random)
                                 : (uint64_t{random_single(random)} << 32 | random_single(random));
    default: return random.next();
  }
}

uint32_t random_single(Rng& random) {
  const uint32_t sign = random.below(2) << 31;
  const auto mantissa = static_cast<uint32_t>(random.next() & 0x7fffff);
  switch (random.below(10)) {
    case 0: return sign;
    case 1: return sign | 0x7f800000;                          // infinity
    case 2: return sign | 0x7fc00000 | mantissa;               // quiet NaN
    case 3: return sign | 0x7f800001 | (mantissa & 0x3fffff);  // signalling NaN
    case 4: return sign | mantissa >> random.below(23);        // denormal
    case 5: return sign | 0x7f7fffff;                          // largest
    case 6: return sign | 0x00800000 | random.below(4);        // about the smallest normal
    case 7: return sign | (127 + random.below(34)) << 23 | (random.chance(1, 2) ? 0 : mantissa);  // integers and halves
    case 8: return sign | (117 + random.below(20)) << 23 | mantissa;
    default: return static_cast<uint32_t>(random.next());
  }
}

uint64_t random_double(Rng& random) {
  const uint64_t sign = random.next() & (1ull << 63);
  const uint64_t mantissa = random.next() & ((1ull << 52) - 1);
  switch (random.below(10)) {
    case 0: return sign;
    case 1: return sign | 0x7ffull << 52;
    case 2: return sign | 0xfffull << 51 | mantissa;
    case 3: return sign | 0x7ffull << 52 | (mantissa >> 1) | 1;
    case 4: return sign | mantissa >> random.below(52);
    case 5: return sign | 0x7fefffffffffffff;
    case 6: return sign | 1ull << 52 | random.below(4);
    case 7: return sign | (1023ull + random.below(66)) << 52 | (random.chance(1, 2) ? 0 : mantissa);
    case 8: return sign | (1013ull + random.below(20)) << 52 | mantissa;
    default: return random.next();
  }
}

VectorValue random_vector(Rng& random) {
  VectorValue value{};
  const uint32_t style = random.below(8);
  for (size_t i = 0; i < value.size(); i += 8) {
    uint64_t lane = 0;
    switch (style) {
      case 0:
      case 1: lane = uint64_t{random_single(random)} << 32 | random_single(random); break;
      case 2:
      case 3: lane = random_double(random); break;
      case 4: lane = random.next(); break;
      case 5: lane = random_integer(random); break;
      case 6:
        for (int byte = 0; byte < 64; byte += 8) lane |= (random_integer(random) & 0xff) << byte;
        break;
      default:
        lane = uint64_t{static_cast<uint32_t>(random_integer(random))} << 32 |
               static_cast<uint32_t>(random_integer(random));
    }
    std::memcpy(value.data() + i, &lane, 8);
  }
  return value;
}

std::array<uint8_t, 10> random_extended(Rng& random) {
  uint16_t exponent = 0;
  uint64_t mantissa = random.next() | 1ull << 63;
  switch (random.below(10)) {
    case 0: mantissa = 0; break;
    case 1: exponent = 0x7fff, mantissa = 1ull << 63; break;                      // infinity
    case 2: exponent = 0x7fff, mantissa |= 3ull << 62; break;                     // quiet NaN
    case 3: exponent = 0x7fff, mantissa = (mantissa & ~(1ull << 62)) | 1; break;  // signalling NaN
    case 4: mantissa = (random.next() >> 1) >> random.below(62); break;           // denormal
    case 5: exponent = 0x7ffe; break;
    case 6: exponent = static_cast<uint16_t>(random.next() & 0x7fff), mantissa = random.next(); break;  // unnormal too
    case 7: exponent = static_cast<uint16_t>(16383 + random.below(66)), mantissa &= ~0ull << random.below(64); break;
    case 8:
      exponent = 0x7fff;
      mantissa = random.next();
      break;  // an MMX register
    default: exponent = static_cast<uint16_t>(16370 + random.below(30));
  }
  exponent |= static_cast<uint16_t>(random.below(2) << 15);
  std::array<uint8_t, 10> value;
  std::memcpy(value.data(), &mantissa, 8);
  std::memcpy(value.data() + 8, &exponent, 2);
  return value;
}

uint32_t random_mxcsr(Rng& random) {
  const uint32_t masks = random.chance(7, 8) ? 0x1f80 : (random.below(64) << 7);
  const uint32_t flags = random.chance(1, 2) ? 0 : random.below(64);
  const uint32_t rounding = random.chance(1, 2) ? 0 : (random.below(4) << 13);
  const uint32_t denormals = random.chance(3, 4) ? 0 : (random.below(2) << 6 | random.below(2) << 15);
  return masks | flags | rounding | denormals;
}

uint64_t random_mask(Rng& random) {
  switch (random.below(8)) {
    case 0: return 0;
    case 1: return ~uint64_t{0};
    case 2: return uint64_t{1} << random.below(64);
    case 3: return ~uint64_t{0} >> random.below(64);
    case 4: return random.next() & random.next() & random.next();
    case 5: return random.next() & 0xff;
    default: return random.next();
  }
}

void random_avx512_state(Rng& random, const VectorLayout& layout, MachineState& state) {
  for (size_t i = 0; i < 8; ++i) state.set_xsave_field<uint64_t>(layout.masks + 8 * i, random_mask(random));
  const auto fill = [&](size_t from, size_t size) {
    for (size_t at = from; at < from + size; at += sizeof(VectorValue)) {
      const VectorValue value = random_vector(random);
      std::memcpy(state.xsave.data() + at, value.data(), value.size());
    }
  };
  fill(layout.zmm_upper, kZmmUpperBytes);
  fill(layout.high_zmm, kHighZmmBytes);
}

void random_vector_state(Rng& random, MachineState& state) {
  state.xsave = {};
  const uint32_t exceptions_masked = random.chance(7, 8) ? 0x3f : random.below(64);
  const uint32_t precision = random.chance(1, 2) ? 3 : random.below(4);
  const auto fcw = static_cast<uint16_t>(0x40 | exceptions_masked | precision << 8 | random.below(4) << 10);
  uint32_t fsw = random.chance(3, 4) ? 0 : random.below(128);
  fsw |= random.below(8) << 8 | random.below(2) << 14 | (random.chance(1, 2) ? 0 : random.below(8)) << 11;
  if (fsw & ~exceptions_masked & 0x3f) {
    if (random.chance(3, 4))
      fsw &= ~0x7fu;  // a pending exception stops every x87 instruction: rarely
    else
      fsw |= 0x8080;
  }
  state.set_xsave_field<uint16_t>(kXsaveFcw, fcw);
  state.set_xsave_field<uint16_t>(kXsaveFsw, static_cast<uint16_t>(fsw));
  static constexpr uint8_t kTags[] = {0xff, 0x00, 0x0f, 0xf0};
  state.set_xsave_field<uint8_t>(kXsaveFtw,
                                 random.chance(1, 2) ? kTags[random.below(4)] : static_cast<uint8_t>(random.next()));
  state.set_xsave_field<uint32_t>(kXsaveMxcsr, random_mxcsr(random));
  if (random.chance(1, 2)) {
    state.set_xsave_field<uint16_t>(kXsaveFop, static_cast<uint16_t>(random.below(0x800)));
    state.set_xsave_field<uint64_t>(kXsaveFip, random.next() >> 17);
    state.set_xsave_field<uint64_t>(kXsaveFdp, random.next() >> 17);
  }
  for (size_t i = 0; i < 8; ++i) {
    const auto value = random_extended(random);
    std::memcpy(state.xsave.data() + kXsaveX87 + 16 * i, value.data(), value.size());
  }
  for (size_t i = 0; i < 16; ++i) {
    const VectorValue value = random_vector(random);
    std::memcpy(state.xsave.data() + kXsaveXmm + 16 * i, value.data(), 16);
    std::memcpy(state.xsave.data() + kXsaveYmmHigh + 16 * i, value.data() + 16, 16);
  }
  const VectorLayout& layout = vector_layout();
  if (layout.avx512) random_avx512_state(random, layout, state);
  state.set_xsave_field<uint64_t>(kXsaveHeader, layout.components);
}

}  // namespace rhea::tests::isa
