// SPDX-License-Identifier: Apache-2.0
// The smallest guest in which user code can run: page tables for the arena, descriptor tables as Linux has
// them, and exception handlers at known addresses that are never executed (a breakpoint stops there).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/error.h"
#include "cpu/cpu_state.h"
#include "memory/guest_memory.h"
#include "tests/isa/machine_state.h"

namespace rhea::tests::isa {

class Guest {
 public:
  static Result<Guest> create();

  memory::GuestMemory& memory() { return *memory_; }
  static std::vector<uint64_t> handler_addresses();

  // Writes the backing pages and fresh page tables (nothing accessed, nothing dirty), through the announcing path.
  void load(const Image& image);
  void save(Image& image) const;

  // The complete processor state for a case.
  cpu::CpuState state_for(const Input& input) const;

  // What a processor that stopped at a handler says about the exception.
  void read_outcome(const cpu::CpuState& state, Output& output) const;

 private:
  Guest() = default;
  void write(uint64_t physical, const void* data, size_t size);
  void build_tables();

  std::unique_ptr<memory::GuestMemory> memory_;
  std::vector<uint64_t> page_tables_;  // the words of all paging structures
};

}  // namespace rhea::tests::isa
