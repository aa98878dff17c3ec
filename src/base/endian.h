// SPDX-License-Identifier: Apache-2.0
// Wire integers of fixed byte order, alignment 1: for structures that guests and files lay out.
#pragma once

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace rhea::base {

template <std::unsigned_integral T, std::endian kOrder>
class WireInt {
 public:
  constexpr WireInt() = default;
  constexpr WireInt(T value) { *this = value; }  // NOLINT(google-explicit-constructor): reads as the integer it is

  constexpr WireInt& operator=(T value) {
    bytes_ = std::bit_cast<Bytes>(swap(value));
    return *this;
  }
  constexpr operator T() const { return swap(std::bit_cast<T>(bytes_)); }  // NOLINT(google-explicit-constructor)
  constexpr T value() const { return *this; }

 private:
  using Bytes = std::array<std::byte, sizeof(T)>;
  static constexpr T swap(T value) {
    if constexpr (kOrder == std::endian::native || sizeof(T) == 1) return value;
    return std::byteswap(value);
  }
  Bytes bytes_{};
};

using Le16 = WireInt<uint16_t, std::endian::little>;
using Le32 = WireInt<uint32_t, std::endian::little>;
using Le64 = WireInt<uint64_t, std::endian::little>;
using Be16 = WireInt<uint16_t, std::endian::big>;
using Be32 = WireInt<uint32_t, std::endian::big>;
using Be64 = WireInt<uint64_t, std::endian::big>;
static_assert(sizeof(Le64) == 8 && alignof(Le64) == 1);

// Unaligned loads and stores at a pointer whose bounds the caller has checked.
template <std::unsigned_integral T>
T load_le(const void* from) {
  WireInt<T, std::endian::little> wire;
  std::memcpy(&wire, from, sizeof wire);
  return wire;
}
template <std::unsigned_integral T>
void store_le(void* to, T value) {
  const WireInt<T, std::endian::little> wire(value);
  std::memcpy(to, &wire, sizeof wire);
}

template <std::unsigned_integral T>
T load_be(const void* from) {
  WireInt<T, std::endian::big> wire;
  std::memcpy(&wire, from, sizeof wire);
  return wire;
}
template <std::unsigned_integral T>
void store_be(void* to, T value) {
  const WireInt<T, std::endian::big> wire(value);
  std::memcpy(to, &wire, sizeof wire);
}

}  // namespace rhea::base
