// SPDX-License-Identifier: Apache-2.0
// Writes host x86-64 instructions into the writable alias of the code cache.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/check.h"

namespace rhea::dbt {

enum HostReg : uint8_t {
  kHRax,
  kHRcx,
  kHRdx,
  kHRbx,
  kHRsp,
  kHRbp,
  kHRsi,
  kHRdi,
  kHR8,
  kHR9,
  kHR10,
  kHR11,
  kHR12,
  kHR13,
  kHR14,
  kHR15,
  kHNone = 0xff
};

// A host memory operand [base + index * scale + displacement].
struct HostMem {
  uint8_t base = kHNone;
  uint8_t index = kHNone;
  uint8_t scale = 1;
  int32_t displacement = 0;
};

// An opcode as it is written: legacy prefixes, map, REX.W or VEX fields.
struct HostOpcode {
  uint8_t map = 0;  // 0: one byte, 1: 0F, 2: 0F38, 3: 0F3A
  uint8_t opcode = 0;
  uint8_t mandatory_prefix = 0;
  bool operand_size_prefix = false;
  bool lock = false;
  bool rex_w = false;
  bool force_rex = false;  // byte registers SPL, BPL, SIL, DIL
  bool vex = false;
  uint8_t vex_l = 0;
  uint8_t vex_vvvv = 0;
  // EVEX: P2 as it is written but for V'; displacements are never compressed then.
  bool evex = false;
  uint8_t evex_tail = 0;
};

// Bounds: the caller reserves room (Emitter::room()) before translating an instruction; writing past the
// end is our own bug and is checked once per block, in the code cache, by a red zone.
class Emitter {
 public:
  Emitter(uint8_t* write, ptrdiff_t exec_delta) : p_(write), exec_delta_(exec_delta) {}

  uint8_t* position() const { return p_; }  // writable alias
  uint64_t exec_position() const { return reinterpret_cast<uint64_t>(p_) + exec_delta_; }
  uint64_t exec_of(const uint8_t* write) const { return reinterpret_cast<uint64_t>(write) + exec_delta_; }

  void u8(uint8_t value) { *p_++ = value; }
  void u16(uint16_t value) { put(value); }
  void u32(uint32_t value) { put(value); }
  void u64(uint64_t value) { put(value); }

  // --- general form ---
  void op_reg(const HostOpcode& code, uint8_t reg, uint8_t rm) {
    prefixes(code, reg, rm >> 1 & 8, rm);
    u8(static_cast<uint8_t>(0xc0 | ((reg & 7) << 3) | (rm & 7)));
  }
  void op_mem(const HostOpcode& code, uint8_t reg, const HostMem& mem) {
    prefixes(code, reg, mem.index == kHNone ? 0 : mem.index, mem.base == kHNone ? 0 : mem.base);
    modrm_mem(reg, mem, code.evex);
  }

  // --- what the translator itself uses; none but the ones marked touches the flags ---
  void mov64(uint8_t to, uint8_t from) {
    if (to != from) op_reg({.opcode = 0x8b, .rex_w = true}, to, from);
  }
  void mov32(uint8_t to, uint8_t from) { op_reg({.opcode = 0x8b}, to, from); }
  void load64(uint8_t to, const HostMem& mem) { op_mem({.opcode = 0x8b, .rex_w = true}, to, mem); }
  void load32(uint8_t to, const HostMem& mem) { op_mem({.opcode = 0x8b}, to, mem); }
  void load16(uint8_t to, const HostMem& mem) { op_mem({.map = 1, .opcode = 0xb7}, to, mem); }  // zero-extends
  void load8(uint8_t to, const HostMem& mem) { op_mem({.map = 1, .opcode = 0xb6}, to, mem); }   // zero-extends
  void store64(const HostMem& mem, uint8_t from) { op_mem({.opcode = 0x89, .rex_w = true}, from, mem); }
  void store32(const HostMem& mem, uint8_t from) { op_mem({.opcode = 0x89}, from, mem); }
  void store16(const HostMem& mem, uint8_t from) { op_mem({.opcode = 0x89, .operand_size_prefix = true}, from, mem); }
  void store8(const HostMem& mem, uint8_t from) { op_mem({.opcode = 0x88, .force_rex = from >= 4}, from, mem); }
  void store8_imm(const HostMem& mem, uint8_t value) {
    op_mem({.opcode = 0xc6}, 0, mem);
    u8(value);
  }
  void store16_imm(const HostMem& mem, uint16_t value) {
    op_mem({.opcode = 0xc7, .operand_size_prefix = true}, 0, mem);
    u16(value);
  }
  void store32_imm(const HostMem& mem, uint32_t value) {
    op_mem({.opcode = 0xc7}, 0, mem);
    u32(value);
  }
  void store64_imm(const HostMem& mem, int32_t value) {
    op_mem({.opcode = 0xc7, .rex_w = true}, 0, mem);
    u32(static_cast<uint32_t>(value));
  }
  void lea64(uint8_t to, const HostMem& mem) { op_mem({.opcode = 0x8d, .rex_w = true}, to, mem); }
  // lea to, [base + displacement] in seven bytes, always; base is none of RSP and R12.
  void lea64_long(uint8_t to, uint8_t base, int32_t displacement) {
    u8(static_cast<uint8_t>(0x48 | (to >> 3) << 2 | base >> 3));
    u8(0x8d);
    u8(static_cast<uint8_t>(0x80 | (to & 7) << 3 | (base & 7)));
    u32(static_cast<uint32_t>(displacement));
  }
  void lea32(uint8_t to, const HostMem& mem) { op_mem({.opcode = 0x8d}, to, mem); }
  void movzx16(uint8_t to, uint8_t from) { op_reg({.map = 1, .opcode = 0xb7}, to, from); }
  void movzx8(uint8_t to, uint8_t from) { op_reg({.map = 1, .opcode = 0xb6, .force_rex = from >= 4}, to, from); }
  void rorx64(uint8_t to, uint8_t from, uint8_t count) {
    op_reg({.map = 3, .opcode = 0xf0, .mandatory_prefix = 0xf2, .rex_w = true, .vex = true}, to, from);
    u8(count);
  }
  void pext64(uint8_t to, uint8_t from, const HostMem& mask) {
    op_mem({.map = 2, .opcode = 0xf5, .mandatory_prefix = 0xf3, .rex_w = true, .vex = true, .vex_vvvv = from}, to,
           mask);
  }
  void mov_imm64(uint8_t to, uint64_t value) {
    if (value <= 0xffffffffu) {
      mov_imm32(to, static_cast<uint32_t>(value));
    } else if (static_cast<int64_t>(value) == static_cast<int32_t>(value)) {
      op_reg({.opcode = 0xc7, .rex_w = true}, 0, to);
      u32(static_cast<uint32_t>(value));
    } else {
      u8(static_cast<uint8_t>(0x48 | (to >> 3)));
      u8(static_cast<uint8_t>(0xb8 | (to & 7)));
      u64(value);
    }
  }
  void mov_imm32(uint8_t to, uint32_t value) {
    if (to >= 8) u8(0x41);
    u8(static_cast<uint8_t>(0xb8 | (to & 7)));
    u32(value);
  }

  // Jumps. Targets are addresses in the executable alias.
  void jmp(uint64_t target) {
    u8(0xe9);
    rel32(target);
  }
  void call(uint64_t target) {
    u8(0xe8);
    rel32(target);
  }
  void jmp_reg(uint8_t reg) { op_reg({.opcode = 0xff}, 4, reg); }
  void jmp_mem(const HostMem& mem) { op_mem({.opcode = 0xff}, 4, mem); }
  // jrcxz over the next `skip` bytes.
  void jrcxz_skip(uint8_t skip) {
    u8(0xe3);
    u8(skip);
  }
  // Emits a jump with an open 32-bit displacement and returns where to patch it.
  uint8_t* jmp_open() {
    u8(0xe9);
    u32(0);
    return p_ - 4;
  }
  uint8_t* jcc_open(uint8_t condition) {
    u8(0x0f);
    u8(static_cast<uint8_t>(0x80 | condition));
    u32(0);
    return p_ - 4;
  }
  uint8_t* jrcxz_open() {
    u8(0xe3);
    u8(0);
    return p_ - 1;
  }
  uint8_t* jcc8_open(uint8_t condition) {
    u8(static_cast<uint8_t>(0x70 | condition));
    u8(0);
    return p_ - 1;
  }
  void bind32(uint8_t* site) { bind32_to(site, p_); }
  static void bind32_to(uint8_t* site, const uint8_t* target) {
    const auto displacement = static_cast<int32_t>(target - (site + 4));
    std::memcpy(site, &displacement, 4);
  }
  void bind8(uint8_t* site) {
    const ptrdiff_t displacement = p_ - (site + 1);
    RHEA_CHECK(displacement >= -128 && displacement <= 127);
    *site = static_cast<uint8_t>(displacement);
  }
  void align(unsigned bytes) {
    while (reinterpret_cast<uint64_t>(p_) % bytes) u8(0x90);
  }

 private:
  template <class T>
  void put(T value) {
    std::memcpy(p_, &value, sizeof value);
    p_ += sizeof value;
  }

  void rel32(uint64_t target) {
    const int64_t displacement = static_cast<int64_t>(target) - static_cast<int64_t>(exec_position() + 4);
    RHEA_CHECK(displacement == static_cast<int32_t>(displacement));
    u32(static_cast<uint32_t>(displacement));
  }

  void prefixes(const HostOpcode& code, uint8_t reg, uint8_t index, uint8_t base) {
    const uint8_t r = (reg >> 3) & 1, x = (index >> 3) & 1, b = (base >> 3) & 1;
    if (code.evex) {
      const uint8_t pp = code.mandatory_prefix == 0x66   ? 1
                         : code.mandatory_prefix == 0xf3 ? 2
                         : code.mandatory_prefix == 0xf2 ? 3
                                                         : 0;
      u8(0x62);
      u8(static_cast<uint8_t>((r ? 0 : 0x80) | (x ? 0 : 0x40) | (b ? 0 : 0x20) | (reg & 16 ? 0 : 0x10) | code.map));
      u8(static_cast<uint8_t>((code.rex_w ? 0x80 : 0) | (~code.vex_vvvv & 15) << 3 | 4 | pp));
      u8(static_cast<uint8_t>(code.evex_tail | (code.vex_vvvv & 16 ? 0 : 8)));
      u8(code.opcode);
      return;
    }
    if (code.vex) {
      const uint8_t pp = code.mandatory_prefix == 0x66   ? 1
                         : code.mandatory_prefix == 0xf3 ? 2
                         : code.mandatory_prefix == 0xf2 ? 3
                                                         : 0;
      const auto tail = static_cast<uint8_t>(((~code.vex_vvvv & 15) << 3) | (code.vex_l << 2) | pp);
      if (!x && !b && code.map == 1 && !code.rex_w) {
        u8(0xc5);
        u8(static_cast<uint8_t>((r ? 0 : 0x80) | tail));
      } else {
        u8(0xc4);
        u8(static_cast<uint8_t>((r ? 0 : 0x80) | (x ? 0 : 0x40) | (b ? 0 : 0x20) | code.map));
        u8(static_cast<uint8_t>((code.rex_w ? 0x80 : 0) | tail));
      }
      u8(code.opcode);
      return;
    }
    if (code.lock) u8(0xf0);
    if (code.operand_size_prefix) u8(0x66);
    if (code.mandatory_prefix) u8(code.mandatory_prefix);
    const auto rex = static_cast<uint8_t>(0x40 | (code.rex_w << 3) | (r << 2) | (x << 1) | b);
    if (rex != 0x40 || code.force_rex) u8(rex);
    if (code.map) {
      u8(0x0f);
      if (code.map == 2) u8(0x38);
      if (code.map == 3) u8(0x3a);
    }
    u8(code.opcode);
  }

  void modrm_mem(uint8_t reg, const HostMem& mem, bool whole_displacement) {
    const auto reg_bits = static_cast<uint8_t>((reg & 7) << 3);
    const uint8_t scale_bits = mem.scale == 8 ? 0xc0 : mem.scale == 4 ? 0x80 : mem.scale == 2 ? 0x40 : 0;
    if (mem.base == kHNone) {  // [index * scale + disp32] or [disp32]
      u8(static_cast<uint8_t>(reg_bits | 4));
      u8(static_cast<uint8_t>(scale_bits | ((mem.index == kHNone ? 4 : mem.index & 7) << 3) | 5));
      u32(static_cast<uint32_t>(mem.displacement));
      return;
    }
    const int32_t d = mem.displacement;
    uint8_t mod;
    if (d == 0 && (mem.base & 7) != 5)
      mod = 0;
    else if (d == 0 || (d == static_cast<int8_t>(d) && !whole_displacement))
      mod = 0x40;
    else
      mod = 0x80;
    if (mem.index != kHNone || (mem.base & 7) == 4) {
      u8(static_cast<uint8_t>(mod | reg_bits | 4));
      u8(static_cast<uint8_t>(scale_bits | ((mem.index == kHNone ? 4 : mem.index & 7) << 3) | (mem.base & 7)));
    } else {
      u8(static_cast<uint8_t>(mod | reg_bits | (mem.base & 7)));
    }
    if (mod == 0x40) u8(static_cast<uint8_t>(d));
    if (mod == 0x80) u32(static_cast<uint32_t>(d));
  }

  uint8_t* p_;
  ptrdiff_t exec_delta_;
};

}  // namespace rhea::dbt
