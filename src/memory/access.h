// SPDX-License-Identifier: Apache-2.0
// Accesses to guest RAM that other processors may touch at the same time: relaxed atomics, never plain loads.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace rhea::memory {

// SAFETY: the pointers come from GuestMemory::host_pointer or a RAM range of a view, which checked the bounds.
// x86-64 makes aligned accesses of up to 8 bytes single-copy atomic; unaligned ones are done bytewise, as torn
// as the bus may tear them.
template <std::unsigned_integral T>
inline T load_relaxed(const std::byte* from) {
  if (reinterpret_cast<uintptr_t>(from) % sizeof(T) == 0) [[likely]] {
    return __atomic_load_n(reinterpret_cast<const T*>(from), __ATOMIC_RELAXED);
  }
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    const auto byte = __atomic_load_n(reinterpret_cast<const uint8_t*>(from + i), __ATOMIC_RELAXED);
    value = static_cast<T>(value | static_cast<T>(static_cast<T>(byte) << (8 * i)));
  }
  return value;
}
template <std::unsigned_integral T>
inline void store_relaxed(std::byte* to, T value) {
  if (reinterpret_cast<uintptr_t>(to) % sizeof(T) == 0) [[likely]] {
    __atomic_store_n(reinterpret_cast<T*>(to), value, __ATOMIC_RELAXED);
    return;
  }
  for (size_t i = 0; i < sizeof(T); ++i) {
    __atomic_store_n(reinterpret_cast<uint8_t*>(to + i), static_cast<uint8_t>(value >> (8 * i)), __ATOMIC_RELAXED);
  }
}

// Copies between guest RAM and memory of our own.
void copy_from_guest(std::byte* to, const std::byte* guest, size_t length_bytes);
void copy_to_guest(std::byte* guest, const std::byte* from, size_t length_bytes);

}  // namespace rhea::memory
