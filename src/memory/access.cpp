// SPDX-License-Identifier: Apache-2.0
// Bulk copies to and from guest RAM, eight bytes at a time.
#include "memory/access.h"

#include <algorithm>

namespace rhea::memory {
namespace {

size_t bytes_to_alignment(const std::byte* at, size_t length_bytes) {
  return std::min<size_t>((8 - reinterpret_cast<uintptr_t>(at) % 8) % 8, length_bytes);
}

}  // namespace

void copy_from_guest(std::byte* to, const std::byte* guest, size_t length_bytes) {
  const size_t head = bytes_to_alignment(guest, length_bytes);
  size_t i = 0;
  for (; i < head; ++i) to[i] = std::byte{load_relaxed<uint8_t>(guest + i)};
  for (; i + 8 <= length_bytes; i += 8) {
    const uint64_t value = load_relaxed<uint64_t>(guest + i);
    std::memcpy(to + i, &value, 8);
  }
  for (; i < length_bytes; ++i) to[i] = std::byte{load_relaxed<uint8_t>(guest + i)};
}

void copy_to_guest(std::byte* guest, const std::byte* from, size_t length_bytes) {
  const size_t head = bytes_to_alignment(guest, length_bytes);
  size_t i = 0;
  for (; i < head; ++i) store_relaxed<uint8_t>(guest + i, std::to_integer<uint8_t>(from[i]));
  for (; i + 8 <= length_bytes; i += 8) {
    uint64_t value;
    std::memcpy(&value, from + i, 8);
    store_relaxed<uint64_t>(guest + i, value);
  }
  for (; i < length_bytes; ++i) store_relaxed<uint8_t>(guest + i, std::to_integer<uint8_t>(from[i]));
}

}  // namespace rhea::memory
