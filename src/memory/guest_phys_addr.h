// SPDX-License-Identifier: Apache-2.0
// A guest-physical address: never mixed up with a virtual or a host address.
#pragma once

#include <compare>
#include <cstdint>

namespace rhea::memory {

inline constexpr uint64_t kPageSize = 4096;
inline constexpr unsigned kPageShift = 12;

struct GuestPhysAddr {
  uint64_t value = 0;

  constexpr auto operator<=>(const GuestPhysAddr&) const = default;
  constexpr GuestPhysAddr operator+(uint64_t bytes) const { return {value + bytes}; }
  constexpr uint64_t operator-(GuestPhysAddr other) const { return value - other.value; }
  constexpr uint64_t page_number() const { return value >> kPageShift; }
  constexpr uint64_t page_offset() const { return value & (kPageSize - 1); }
};

}  // namespace rhea::memory
