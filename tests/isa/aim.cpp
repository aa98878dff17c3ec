// SPDX-License-Identifier: Apache-2.0
// Solves base + index * scale + displacement for registers.
#include "tests/isa/aim.h"

#include <cstring>

#include "isa/x86/rows.h"

namespace rhea::tests::isa {

using rhea::isa::x86::Insn;
using rhea::isa::x86::kNoRegister;
using rhea::isa::x86::kRipBase;
using rhea::isa::x86::MemoryRef;

namespace {

constexpr uint8_t kFs = 4, kGs = 5;

uint64_t mask_of(unsigned size_bytes) { return size_bytes == 8 ? ~0ull : (1ull << (8 * size_bytes)) - 1; }

// Replaces the low `size_bytes` of a register; what lies above them is not part of the address.
void set_low(uint64_t& reg, uint64_t value, unsigned size_bytes, Rng& random) {
  const uint64_t mask = mask_of(size_bytes);
  const uint64_t above = random.chance(1, 2) ? 0 : random.next();
  reg = (value & mask) | (above & ~mask);
}

uint8_t displacement_offset(const Insn& insn, unsigned size_bytes) {
  return static_cast<uint8_t>(insn.length - insn.imm_bytes - size_bytes);
}

bool has_moffs(const Insn& insn) {
  for (unsigned i = 0; i < insn.operand_count; ++i)
    if (insn.operands[i].source == rhea::isa::x86::OperandSource::kMoffs) return true;
  return false;
}

// Gives each lane of a vector index a small multiple, so that all stay near the base.
void spread_lanes(const Insn& insn, Rng& random, MachineState& state) {
  const std::string_view mnemonic = rhea::isa::x86::row_info(insn).mnemonic;
  const size_t at =
      mnemonic.find("gather") == std::string_view::npos ? mnemonic.find("scatter") + 7 : mnemonic.find("gather") + 6;
  const bool wide = at < mnemonic.size() && mnemonic[at] == 'q';
  const bool wild = random.chance(1, 8);
  const size_t reg = insn.mem.index;
  const auto lane = [&](std::byte* to) {
    const int64_t value =
        wild ? static_cast<int64_t>(random_integer(random)) : static_cast<int64_t>(random.below(256)) - 96;
    std::memcpy(to, &value, wide ? 8 : 4);
  };
  const VectorLayout& layout = vector_layout();
  std::byte* const bytes = state.xsave.data();
  for (size_t i = 0; i < (reg < 16 ? 16 : 64); i += wide ? 8 : 4) {
    if (reg >= 16) {
      lane(bytes + layout.high_zmm + 64 * (reg - 16) + i);
      continue;
    }
    lane(bytes + kXsaveXmm + 16 * reg + i);
    lane(bytes + kXsaveYmmHigh + 16 * reg + i);
    if (!layout.avx512) continue;
    lane(bytes + layout.zmm_upper + 32 * reg + i);
    lane(bytes + layout.zmm_upper + 32 * reg + 16 + i);
  }
}

}  // namespace

uint64_t random_target(Rng& random, unsigned size_bytes, unsigned alignment, bool mode32) {
  const uint64_t high = !mode32 && random.chance(1, 2) ? kHighOffset : 0;
  const unsigned size = size_bytes ? size_bytes : 16;
  uint64_t target = 0;
  switch (random.below(32)) {
    case 0:
    case 1:
    case 2: target = kDataLinear + kPage - 1 - random.below(size); break;        // data0 -> data1
    case 3: target = kDataLinear + 2 * kPage - 1 - random.below(size); break;    // data1 -> read-only
    case 4: target = kDataLinear + 2 * kPage + random.below(kPage - 64); break;  // read-only
    case 5: target = kDataLinear + 3 * kPage - 1 - random.below(size); break;    // read-only -> unmapped
    case 6: target = kData2Linear + kPage - 1 - random.below(size); break;       // read-write -> unmapped
    case 7: target = kData2Linear - 1 - random.below(size); break;               // unmapped -> read-write
    case 8: target = kData2Linear + random.below(kPage - 64); break;
    case 9: target = kStackLinear + random.below(2 * kPage - 64); break;
    case 10: target = kCodeLinear + random.below(2 * kPage); break;  // executable, not writable
    case 11:
      switch (random.below(4)) {
        case 0: return random_integer(random);
        case 1: return 0x7fff'ffff'ffff - random.below(size + 1);                // the last canonical bytes
        case 2: return 0x8000'0000'0000 + random.next() % (1ull << 62);          // mostly not canonical
        default: target = kDataLinear + 4 * kPage + random.below(kPage); break;  // unmapped
      }
      break;
    case 12: target = kSelfModifyingLinear + random.below(kPage - 64); break;
    default: target = kDataLinear + random.below(2 * kPage - 1024); break;
  }
  if (alignment > 1 && random.chance(7, 8))
    target &= ~uint64_t{alignment - 1};
  else if (random.chance(1, 2))
    target &= ~uint64_t{15};
  return target + high;
}

uint64_t safe_target(Rng& random, unsigned slack, bool high) {
  const uint64_t room = 2 * kPage - 2 * slack;
  return kDataLinear + slack + (random.next() % room & ~7ull) + (high ? kHighOffset : 0);
}

uint64_t aim(const Insn& insn, uint64_t target, Rng& random, MachineState& state, Item& item) {
  const MemoryRef& mem = insn.mem;
  const uint64_t mask = mask_of(mem.address_size);
  const uint64_t segment_base = mem.segment == kFs ? state.fs_base : mem.segment == kGs ? state.gs_base : 0;
  const uint64_t offset = target - segment_base;

  if (mem.base == kRipBase) {
    item.fixup = Fixup::kLinear;
    item.fixup_offset = displacement_offset(insn, 4);
    item.fixup_size = 4;
    item.address = offset;
    return target;
  }
  if (mem.base == kNoRegister && mem.index == kNoRegister) {
    const bool moffs = has_moffs(insn);
    const unsigned size = moffs ? mem.address_size : mem.address_size == 2 ? 2 : 4;
    const uint8_t at = moffs ? static_cast<uint8_t>(insn.length - size) : displacement_offset(insn, size);
    std::memcpy(item.bytes.data() + at, &offset, size);
    uint64_t reached = offset & mask_of(size);
    if (size == 4 && mem.address_size == 8) reached = static_cast<uint64_t>(static_cast<int32_t>(reached));
    return segment_base + reached;
  }

  const uint64_t wanted = offset - static_cast<uint64_t>(mem.displacement);
  if (mem.vsib) {
    spread_lanes(insn, random, state);
    if (mem.base != kNoRegister) set_low(state.gpr[mem.base], wanted, mem.address_size, random);
    return target;
  }
  if (mem.base == kNoRegister) {
    set_low(state.gpr[mem.index], wanted / mem.scale, mem.address_size, random);
    return segment_base + ((state.gpr[mem.index] * mem.scale + static_cast<uint64_t>(mem.displacement)) & mask);
  }
  if (mem.index == kNoRegister) {
    set_low(state.gpr[mem.base], wanted, mem.address_size, random);
  } else if (mem.base == mem.index) {
    set_low(state.gpr[mem.base], wanted / (mem.scale + 1u), mem.address_size, random);
  } else {
    if (random.chance(3, 4))
      set_low(state.gpr[mem.index], random.below(512) - uint64_t{256} * random.below(2), mem.address_size, random);
    set_low(state.gpr[mem.base], wanted - state.gpr[mem.index] * mem.scale, mem.address_size, random);
  }
  const uint64_t index = mem.index == kNoRegister ? 0 : state.gpr[mem.index] * mem.scale;
  return segment_base + ((state.gpr[mem.base] + index + static_cast<uint64_t>(mem.displacement)) & mask);
}

}  // namespace rhea::tests::isa
