// SPDX-License-Identifier: Apache-2.0
// The memory map that the guest is told (E820), and the placement of boot structures in its free parts.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace rhea::machine {

// Address range types of INT 15h/E820. [ACPI-6.5 15.1]
enum class MemoryType : uint32_t { kRam = 1, kReserved = 2, kAcpiReclaim = 3, kAcpiNvs = 4 };

struct MemoryMapEntry {
  uint64_t start = 0;
  uint64_t size_bytes = 0;
  MemoryType type = MemoryType::kRam;

  uint64_t end() const { return start + size_bytes; }
  bool operator==(const MemoryMapEntry&) const = default;
};

// Ascending and disjoint.
using MemoryMap = std::vector<MemoryMapEntry>;

// Hands out RAM of the map to the loader: nothing it places may overlap anything else it placed.
class Placement {
 public:
  explicit Placement(std::span<const MemoryMapEntry> map) : map_(map.begin(), map.end()) {}

  // Takes exactly [start, start+size) for `what`; fails unless it is free RAM.
  Status claim(uint64_t start, uint64_t size_bytes, std::string_view what);
  // The lowest free place at or above `minimum`, ending at or below `limit`.
  Result<uint64_t> claim_low(uint64_t size_bytes, uint64_t alignment, uint64_t minimum, uint64_t limit,
                             std::string_view what);
  // The highest free place ending at or below `limit` and starting at or above `minimum`.
  Result<uint64_t> claim_high(uint64_t size_bytes, uint64_t alignment, uint64_t minimum, uint64_t limit,
                              std::string_view what);

 private:
  struct Taken {
    uint64_t start, end;
    std::string what;
  };
  struct Gap {
    uint64_t start, end;
  };
  std::vector<Gap> gaps(uint64_t minimum, uint64_t limit) const;
  void take(uint64_t start, uint64_t size_bytes, std::string_view what);

  MemoryMap map_;
  std::vector<Taken> taken_;  // ascending
};

}  // namespace rhea::machine
