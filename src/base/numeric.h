// SPDX-License-Identifier: Apache-2.0
// Arithmetic that says when it overflows, and the few integer helpers everyone needs.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <optional>

namespace rhea::base {

template <std::integral T>
constexpr std::optional<T> checked_add(T a, T b) {
  T sum;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}
template <std::integral T>
constexpr std::optional<T> checked_sub(T a, T b) {
  T difference;
  if (__builtin_sub_overflow(a, b, &difference)) return std::nullopt;
  return difference;
}
template <std::integral T>
constexpr std::optional<T> checked_mul(T a, T b) {
  T product;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}
// The value as another integer type, if it fits.
template <std::integral To, std::integral From>
constexpr std::optional<To> checked_cast(From value) {
  To converted;
  if (__builtin_add_overflow(value, From{0}, &converted)) return std::nullopt;
  return converted;
}

// True if [start, start+length) lies within [0, limit), without overflow.
constexpr bool range_fits(uint64_t start, uint64_t length, uint64_t limit) {
  return start <= limit && length <= limit - start;
}

// `alignment` is a power of two.
template <std::unsigned_integral T>
constexpr bool is_aligned(T value, T alignment) {
  return (value & (alignment - 1)) == 0;
}
template <std::unsigned_integral T>
constexpr T align_down(T value, T alignment) {
  return value & ~(alignment - 1);
}
template <std::unsigned_integral T>
constexpr std::optional<T> checked_align_up(T value, T alignment) {
  const auto bumped = checked_add<T>(value, alignment - 1);
  if (!bumped) return std::nullopt;
  return align_down(*bumped, alignment);
}

// All ones in the low `size_bytes` bytes (1 to 8).
constexpr uint64_t byte_mask(unsigned size_bytes) {
  return size_bytes >= 8 ? ~uint64_t{0} : (uint64_t{1} << (size_bytes * 8)) - 1;
}

// value * numerator / denominator with a 128-bit product, truncated to 64 bits. denominator != 0.
constexpr uint64_t mul_div(uint64_t value, uint64_t numerator, uint64_t denominator) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(value) * numerator / denominator);
}

}  // namespace rhea::base
