// SPDX-License-Identifier: Apache-2.0
// Descriptors and stacks under construction. Runs with the guest's vector registers live.
#pragma once

#include <cstdint>

#include "dbt/system/system.h"

namespace rhea::dbt {

// ---- descriptors (descriptors.cpp) ----
struct Descriptor {
  uint64_t low = 0;     // the first eight bytes as they stand in the table
  uint64_t high = 0;    // the second eight of a 16-byte one
  uint64_t linear = 0;  // where it came from
  uint16_t selector = 0;

  uint16_t attributes() const { return static_cast<uint16_t>(low >> 40) & 0xf0ff; }
  unsigned type() const { return (low >> 40) & 0xf; }
  bool is_system() const { return !((low >> 44) & 1); }
  unsigned dpl() const { return (low >> 45) & 3; }
  bool present() const { return (low >> 47) & 1; }
  bool long_mode() const { return (low >> 53) & 1; }
  bool default_big() const { return (low >> 54) & 1; }
  bool is_code() const { return !is_system() && (type() & 8); }
  bool is_data() const { return !is_system() && !(type() & 8); }
  bool conforming() const { return type() & 4; }  // of code
  bool readable() const { return is_data() || (type() & 2); }
  bool writable_data() const { return is_data() && (type() & 2); }
  uint64_t base32() const { return ((low >> 16) & 0xffffff) | ((low >> 32) & 0xff000000); }
  uint64_t base64() const { return base32() | (high << 32); }
  uint32_t limit() const {
    uint32_t raw = static_cast<uint32_t>((low & 0xffff) | ((low >> 32) & 0xf0000));
    return (low >> 55) & 1 ? (raw << 12) | 0xfff : raw;
  }
  // As a gate.
  uint16_t gate_selector() const { return static_cast<uint16_t>(low >> 16); }
  uint32_t gate_offset32() const { return static_cast<uint32_t>((low & 0xffff) | ((low >> 32) & 0xffff0000)); }
  uint64_t gate_offset64() const { return gate_offset32() | (high << 32); }
};
enum SystemType : uint8_t {
  kTss16Available = 1,
  kLdt = 2,
  kTss16Busy = 3,
  kCallGate16 = 4,
  kTaskGate = 5,
  kInterruptGate16 = 6,
  kTrapGate16 = 7,
  kTss32Available = 9,
  kTss32Busy = 11,
  kCallGate32 = 12,
  kInterruptGate32 = 14,
  kTrapGate32 = 15
};

inline bool is_null(uint16_t selector) { return (selector & 0xfffc) == 0; }
// Error code that names a selector: its index and table, and the EXT bit given.
inline uint32_t selector_error(uint16_t selector, uint32_t ext = 0) { return (selector & 0xfffcu) | ext; }

// Reads the eight bytes that a non-null selector names. Out of the table: `vector`(selector + ext).
Fallible<Descriptor> read_descriptor(Context& context, uint16_t selector, uint8_t vector = kGeneralProtection,
                                     uint32_t ext = 0);
// Reads the second half of a 16-byte system descriptor (long mode).
Fallible<void> read_descriptor_high(Context& context, Descriptor& descriptor);
// Sets type bits in a descriptor in memory (accessed) unless they are set, or clears them (busy); atomically.
Fallible<void> set_descriptor_type_bits(Context& context, Descriptor& descriptor, unsigned bits);
Fallible<void> clear_descriptor_type_bits(Context& context, Descriptor& descriptor, unsigned bits);
// Changes the type of a descriptor as one step for all processors; false, and no change, if its access byte is no
// longer what was read. A TSS becomes busy this way. [SDM-3A 8.1.2.1]
Fallible<bool> replace_descriptor_type(Context& context, Descriptor& descriptor, unsigned type);
cpu::Segment to_segment(const Descriptor& descriptor, uint16_t selector);
// The flat segments that SYSCALL, SYSENTER and their returns load.
cpu::Segment flat_code_segment(uint16_t selector, unsigned dpl, bool long_mode);
cpu::Segment flat_data_segment(uint16_t selector, unsigned dpl);
// The null SS of 64-bit mode: unusable, but it carries the CPL.
cpu::Segment null_stack_segment(uint16_t selector);

// Any segment register in virtual-8086 mode. [SDM-3B 20.1.1]
cpu::Segment v86_segment(uint16_t selector);

// What a code segment must be before control goes to it; limit and presence of the descriptor are checked.
struct CodeTarget {
  cpu::Segment segment;
  uint64_t rip = 0;
};
// CS:RIP in real or virtual-8086 mode.
Fallible<CodeTarget> real_mode_target(Context& context, uint16_t selector, uint64_t offset);
// What a 64-bit offset means in `code`: Intel's processors load EIP with its low half outside 64-bit code.
uint64_t target_rip(const Context& context, const cpu::Segment& code, uint64_t offset);
// RIP must be canonical in 64-bit code, else within the limit. #GP(ext).
Fallible<void> check_rip(const Context& context, const cpu::Segment& code, uint64_t rip, uint32_t ext = 0);

// ---- stacks (descriptors.cpp) ----
// A stack being pushed to or popped from before the result is committed to SS:RSP.
struct StackCursor {
  Context& context;
  cpu::Segment segment;
  uint64_t sp = 0;
  uint64_t mask = ~uint64_t{0};  // of the stack pointer's size
  MmuIndex mmu = MmuIndex::kSupervisor;
  bool long_mode = false;   // 64-bit stack: canonical check only
  uint32_t fault_code = 0;  // error code of the #SS that a bad stack raises

  static StackCursor current(Context& context);
  // The present SS as code of the given kind uses it.
  static StackCursor current(Context& context, bool for_code64);
  Fallible<uint64_t> address(uint64_t offset, unsigned size_bytes, Access access) const;
  Fallible<void> push(uint64_t value, unsigned size_bytes);
  Fallible<uint64_t> pop(unsigned size_bytes);
  Fallible<uint64_t> peek(uint64_t offset, unsigned size_bytes) const;  // at the stack pointer + offset
  // Value for RSP: a 16-bit stack keeps the upper bits of the present RSP.
  uint64_t merged(uint64_t rsp) const { return (sp & mask) | (mask == 0xffff ? rsp & ~uint64_t{0xffff} : 0); }
};
// Checks an offset against a segment's limit, growing up or down. [SDM-3A 5.3]
bool within_limit(const cpu::Segment& segment, uint64_t offset, unsigned size_bytes);
// SS:ESP or RSP for privilege level `dpl` from the TSS. [SDM-3A 7.2.1]
struct StackPointer {
  uint16_t selector = 0;
  uint64_t sp = 0;
};
Fallible<StackPointer> stack_from_tss(Context& context, unsigned dpl, uint32_t ext);
// Loads and checks the SS that a privilege change brings; errors are #TS, or #SS for not present.
Fallible<cpu::Segment> inner_stack_segment(Context& context, uint16_t selector, unsigned cpl, uint32_t ext);

}  // namespace rhea::dbt
