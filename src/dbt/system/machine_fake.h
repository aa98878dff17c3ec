// SPDX-License-Identifier: Apache-2.0
// A processor without a translator for the tests of this folder: RAM, address spaces, clock, local APIC, and the
// runtime's services (no TLB; vector state stays in the context). Tests decode bytes and execute them one by one.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <vector>

#include "dbt/system/internal.h"

namespace rhea::dbt {

class FakeMachine {
 public:
  FakeMachine();
  ~FakeMachine();
  Context& context;
  cpu::CpuState& state;

  // ---- memory, by guest-physical address ----
  uint64_t read(uint64_t physical, unsigned size_bytes) const;
  void write(uint64_t physical, uint64_t value, unsigned size_bytes);
  std::byte* host(uint64_t physical);
  static constexpr uint64_t kRamBytes = 16 << 20;

  // ---- modes; all map RAM one to one ----
  void enter_real_mode();
  void enter_protected_mode(unsigned cpl);  // 32-bit, flat, no paging
  void enter_long_mode(unsigned cpl);       // 64-bit, 2 MiB pages
  void enter_compatibility_mode(unsigned cpl);
  void set_cpl(unsigned cpl);

  // ---- descriptors ----
  static constexpr uint64_t kGdt = 0x1000, kIdt = 0x2000, kTss = 0x3000, kLdt = 0x6000, kPageTables = 0x10000,
                            kCode = 0x20000;
  static constexpr uint64_t kStack[4] = {0x38000, 0x48000, 0x58000, 0x68000};  // top of the stack of each level
  static constexpr uint64_t kIst[8] = {0, 0x71000, 0x72000, 0x73000, 0x74000, 0x75000, 0x76000, 0x77000};
  // Selectors: for level n, code32 0x08+n*0x20, data +8, code64 +16, free +24; TSS 0x88.
  static constexpr uint16_t code32(unsigned cpl) { return static_cast<uint16_t>(0x08 + cpl * 0x20 + cpl); }
  static constexpr uint16_t data(unsigned cpl) { return static_cast<uint16_t>(0x10 + cpl * 0x20 + cpl); }
  static constexpr uint16_t code64(unsigned cpl) { return static_cast<uint16_t>(0x18 + cpl * 0x20 + cpl); }
  static constexpr uint16_t kTssSelector = 0x88, kFreeSelector = 0xa0;  // 16 bytes free from 0xa0, more after
  static uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags);
  void set_gdt(uint16_t selector, uint64_t low, uint64_t high = 0);
  void set_gate32(unsigned vector, uint16_t selector, uint32_t offset, unsigned type_and_dpl);
  void set_gate64(unsigned vector, uint16_t selector, uint64_t offset, unsigned type_and_dpl, unsigned ist = 0);

  // Decodes the bytes as one instruction at state.rip in the current code size and executes it.
  Fallible<Next> run(std::initializer_list<uint8_t> bytes);
  isa::x86::Insn decode(const std::vector<uint8_t>& bytes) const;

  // ---- what the fakes saw ----
  std::vector<FlushRequest> flushes;
  std::vector<uint64_t> noted_stores;
  struct PortAccess {
    uint64_t port, value;
    unsigned size_bytes;
    bool write;
  };
  std::vector<PortAccess> port_accesses;  // reads return port * 0x01010101
  std::vector<PortAccess> mmio_accesses;  // of kMmio, likewise offset * 0x01010101
  static constexpr uint64_t kMmio = 0xc00000, kMmioBytes = 0x1000;
  void advance_clock(uint64_t ns);
  // Hypercalls to other processors, of which there are kProcessors.
  static constexpr uint32_t kProcessors = 100;
  struct Message {
    uint32_t apic_id;
    uint8_t mode, vector;
    bool operator==(const Message&) const = default;
  };
  std::vector<Message> messages;
  std::vector<uint32_t> woken;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace rhea::dbt
