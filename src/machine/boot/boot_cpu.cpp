// SPDX-License-Identifier: Apache-2.0
// Entry states of the boot processor.
#include "machine/boot/boot_cpu.h"

#include <algorithm>

#include "machine/byte_image.h"

namespace rhea::machine {
namespace {

using cpu::CpuState;

constexpr uint64_t kLowMemoryStart = 0x1000;  // page 0 keeps the interrupt vectors and the BIOS data area
constexpr uint64_t kLowMemoryEnd = 0x9fc00;

// Attributes as cpu::Segment holds them. [SDM-3A 3.4.5]
constexpr uint16_t kCode32 = 0xc09b, kCode64 = 0xa09b, kData = 0xc093, kTss32Busy = 0x008b;

constexpr uint64_t descriptor(uint16_t attributes, uint32_t limit_field) {
  return (uint64_t{attributes} << 40) | (limit_field & 0xffff) | (uint64_t{limit_field >> 16} << 48);
}

void set_flat(cpu::Segment& segment, uint16_t selector, uint16_t attributes) {
  segment = {.base = 0, .limit = 0xffffffff, .selector = selector, .attributes = attributes};
}

void set_common(CpuState& state, uint64_t gdt_address, uint16_t code_attributes) {
  cpu::reset_to_power_on(state);
  state.gpr.fill(0);
  state.rflags = cpu::rflags::kFixed1;
  state.gdtr = {.base = gdt_address, .limit = 5 * 8 - 1};
  state.idtr = {.base = 0, .limit = 0};
  set_flat(state.segment[cpu::kCs], kBootCode, code_attributes);
  for (auto index : {cpu::kDs, cpu::kEs, cpu::kSs, cpu::kFs, cpu::kGs})
    set_flat(state.segment[index], kBootData, kData);
  state.segment[cpu::kTr] = {.base = 0, .limit = 0x67, .selector = kBootTss, .attributes = kTss32Busy};
  state.segment[cpu::kLdtr] = {.base = 0, .limit = 0xffff, .selector = 0, .attributes = 0x0082};
  state.cr0 = cpu::cr0::kPe | cpu::cr0::kEt | cpu::cr0::kNe;
  state.cr3 = 0;
  state.cr4 = 0;
  state.efer = 0;
}

}  // namespace

Result<uint64_t> write_boot_gdt(memory::GuestMemory& memory, Placement& placement, BootMode mode) {
  ByteImage table;
  table.u64(0).u64(descriptor(kCode32, 0xfffff));
  table.u64(descriptor(mode == BootMode::kLong64 ? kCode64 : kCode32, 0xfffff)).u64(descriptor(kData, 0xfffff));
  table.u64(descriptor(kTss32Busy, 0x67));
  uint64_t address =
      RHEA_TRY(placement.claim_low(table.size(), 16, kLowMemoryStart, kLowMemoryEnd, "the boot descriptor table"));
  if (!memory.write({address}, table.span()))
    return fail(ErrorCode::kInternal, "cannot write the boot descriptor table");
  return address;
}

void enter_protected32(CpuState& state, uint64_t gdt_address, uint32_t entry) {
  set_common(state, gdt_address, kCode32);
  state.rip = entry;
}

Status enter_long64(CpuState& state, memory::GuestMemory& memory, Placement& placement, uint64_t gdt_address,
                    uint64_t entry) {
  constexpr uint64_t kPresentWritable = 0x3, kLargePage = 0x80;
  constexpr unsigned kDirectories = 4;  // one per GiB
  ByteImage tables((2 + kDirectories) * memory::kPageSize);
  uint64_t address = RHEA_TRY(
      placement.claim_low(tables.size(), memory::kPageSize, kLowMemoryStart, kLowMemoryEnd, "the boot page tables"));
  tables.put64(0, (address + memory::kPageSize) | kPresentWritable);
  for (unsigned gib = 0; gib < kDirectories; ++gib) {
    tables.put64(memory::kPageSize + 8 * gib, (address + (2 + gib) * memory::kPageSize) | kPresentWritable);
    for (unsigned i = 0; i < 512; ++i)
      tables.put64((2 + gib) * memory::kPageSize + 8 * i,
                   (uint64_t{gib} << 30) | (uint64_t{i} << 21) | kLargePage | kPresentWritable);
  }
  if (!memory.write({address}, tables.span())) return fail(ErrorCode::kInternal, "cannot write the boot page tables");

  set_common(state, gdt_address, kCode64);
  state.cr0 |= cpu::cr0::kPg | cpu::cr0::kWp;
  state.cr3 = address;
  state.cr4 = cpu::cr4::kPae;
  state.efer = cpu::efer::kLme | cpu::efer::kLma;
  state.rip = entry;
  return {};
}

void program_mtrrs(CpuState& state, uint64_t hole_start, unsigned physical_address_bits) {
  constexpr uint64_t kWriteBackEverywhere = 0x0606060606060606, kUncached = 0, kValid = 1u << 11;
  constexpr uint64_t kEnable = 1u << 11, kFixedEnable = 1u << 10, kWriteBack = 6;
  state.mtrr_def_type = kEnable | kFixedEnable | kWriteBack;
  state.mtrr_fixed.fill(kWriteBackEverywhere);
  state.mtrr_fixed[2] = 0;  // A0000-BFFFF: legacy video
  state.mtrr_base.fill(0);
  state.mtrr_mask.fill(0);
  // Cover [hole_start, 4 GiB) with naturally aligned power-of-two ranges.
  const uint64_t address_mask = (uint64_t{1} << std::clamp(physical_address_bits, 32u, 52u)) - 1;
  uint64_t at = hole_start;
  for (size_t i = 0; i < cpu::kMtrrVariableCount && at < (uint64_t{1} << 32); ++i) {
    uint64_t length = at & -at;
    state.mtrr_base[i] = at | kUncached;
    state.mtrr_mask[i] = (~(length - 1) & address_mask & ~uint64_t{0xfff}) | kValid;
    at += length;
  }
}

}  // namespace rhea::machine
