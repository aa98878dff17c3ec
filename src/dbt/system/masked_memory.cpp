// SPDX-License-Identifier: Apache-2.0
// Loads and stores under a mask, and gathers: element by element on the saved vector state.
//
// The host would check pages and not elements the mask leaves out; so these are not copied. A masked-out
// element is never touched and never faults. [SDM-2C VPSCATTERDD, VMASKMOV, VPMASKMOV, VPGATHERDD ff., SDM-2B
// MASKMOVDQU]
#include "dbt/inject_bug.h"
#include "dbt/system/internal.h"
#include "dbt/system/repeat.h"
#include "dbt/system/xsave_image.h"

namespace rhea::dbt {

namespace {

using isa::x86::RowId;

constexpr unsigned kYmmHighOffset = 576;

// Registers inside the standard-format XSAVE image of the context.
std::byte* lane(Context& context, unsigned reg, unsigned byte) {
  if (reg >= 16) return image(context) + static_cpuid(context, 0xd, 7).ebx + 64 * (reg - 16) + byte;
  if (byte >= 32) return image(context) + static_cpuid(context, 0xd, 6).ebx + 32 * reg + (byte - 32);
  return image(context) + (byte < 16 ? kXmm0 + 16 * reg + byte : kYmmHighOffset + 16 * reg + (byte - 16));
}
std::byte* mask_register(Context& context, unsigned reg) {
  return image(context) + static_cpuid(context, 0xd, 5).ebx + 8 * reg;
}
uint64_t read_element(Context& context, unsigned reg, unsigned index, unsigned size) {
  return load_host(lane(context, reg, index * size), size);
}
void write_element(Context& context, unsigned reg, unsigned index, unsigned size, uint64_t value) {
  store_host(lane(context, reg, index * size), value, size);
}
bool mask_bit(Context& context, unsigned reg, unsigned index, unsigned size) {
  return read_element(context, reg, index, size) >> (8 * size - 1);
}
// What writes a vector register under VEX clears all of it beyond its own length. [SDM-1 15.5]
void clear_beyond_ymm(Context& context, unsigned reg) {
  if (context.vector_components & kUpperZmmComponent)
    zero_bytes(image(context) + static_cpuid(context, 0xd, 6).ebx + 32 * reg, 32);
}

// An MMX instruction makes all tags valid and the top of the stack 0 [SDM-1 9.5.1]; the image holds the
// registers relative to the top, so they move.
void enter_mmx(Context& context) {
  std::byte* live = image(context);
  const unsigned top = (load_host(live + kFsw, 2) >> 11) & 7;
  std::byte physical[8 * 16];
  for (unsigned i = 0; i < 8; ++i) copy_bytes(physical + 16 * ((i + top) & 7), live + kSt0 + 16 * i, 16);
  copy_bytes(live + kSt0, physical, sizeof physical);
  store_host(live + kFsw, load_host(live + kFsw, 2) & ~uint64_t{0x3800}, 2);
  store_host(live + kFtw, 0xff, 1);
  mark_in_use(context, kX87Component);
}

uint64_t wrap_offset(uint64_t offset, unsigned address_size) { return offset & size_mask(address_size); }

// Of the byte so far into the operand at `base`. In 64-bit code the address size cuts the operand's address alone, and
// the rest of it lies behind.
uint64_t element_offset(const Context& context, const Insn& insn, uint64_t base, uint64_t byte) {
  const unsigned address_size = insn.mem.address_size;
  const uint64_t offset = wrap_offset(base, address_size) + byte;
  return context.state.code64() ? offset : wrap_offset(offset, address_size);
}

uint64_t operand_offset(const Context& context, const Insn& insn) {
  uint64_t offset = static_cast<uint64_t>(insn.mem.displacement);
  if (insn.mem.base == isa::x86::kRipBase)
    offset += next_rip(context, insn);
  else if (insn.mem.base != isa::x86::kNoRegister)
    offset += context.state.gpr[insn.mem.base];
  if (insn.mem.index != isa::x86::kNoRegister && !insn.mem.vsib)
    offset += context.state.gpr[insn.mem.index] * insn.mem.scale;
  return offset;
}

Fallible<uint64_t> read_at(Context& context, const Insn& insn, uint64_t offset, unsigned size) {
  const uint64_t linear = GUEST_TRY(linear_address(context, insn.mem.segment, offset, size, Access::kRead));
  return read_linear(context, linear, size, current_mmu(context));
}

// The addresses of all selected elements are checked before any page is. An element that leaves the canonical addresses
// by its end comes before one that is not aligned: so each end is checked for itself, as a byte, which has no
// alignment.
Fallible<void> check_addresses(Context& context, const Insn& insn, unsigned size, unsigned count, unsigned mask,
                               uint64_t base, Access access) {
  const bool by_ends = context.state.code64();
  for (unsigned i = 0; i < count; ++i) {
    if (!mask_bit(context, mask, i, size)) continue;
    const uint64_t first = element_offset(context, insn, base, i * size);
    GUEST_TRY(linear_address(context, insn.mem.segment, first, by_ends ? 1 : size, access));
    if (by_ends) GUEST_TRY(linear_address(context, insn.mem.segment, first + size - 1, 1, access));
  }
  return {};
}

Fallible<void> masked_load(Context& context, const Insn& insn, unsigned size) {
  const unsigned destination = insn.operands[0].reg, mask = insn.operands[1].reg;
  const unsigned count = insn.operands[0].size_bytes / size;
  uint64_t values[8] = {};
  const uint64_t base = operand_offset(context, insn);
  GUEST_TRY(check_addresses(context, insn, size, count, mask, base, Access::kRead));
  for (unsigned i = 0; i < count; ++i)
    if (mask_bit(context, mask, i, size))
      values[i] = GUEST_TRY(read_at(context, insn, element_offset(context, insn, base, i * size), size));
  for (unsigned i = 0; i < (injected(context, 74) ? count : 32 / size); ++i)
    write_element(context, destination, i, size, i < count ? values[i] : 0);
  clear_beyond_ymm(context, destination);
  return {};
}

Fallible<void> masked_store(Context& context, const Insn& insn, unsigned size, unsigned count, unsigned mask,
                            unsigned source, uint64_t base) {
  const MmuIndex mmu = current_mmu(context);
  GUEST_TRY(check_addresses(context, insn, size, count, mask, base, Access::kWrite));
  for (const bool store : {false, true}) {  // nothing is written if anything faults
    for (unsigned i = 0; i < count; ++i) {
      if (!mask_bit(context, mask, i, size) && (store || !injected(context, 75))) continue;
      const uint64_t offset = element_offset(context, insn, base, i * size);
      const uint64_t linear = GUEST_TRY(linear_address(context, insn.mem.segment, offset, size, Access::kWrite));
      const auto done = store ? write_linear(context, linear, read_element(context, source, i, size), size, mmu)
                              : probe_write(context, linear, size, mmu);
      if (!done) return std::unexpected(done.error());
    }
  }
  return {};
}

// Bytes selected by the top bits of a second register, to DS:rDI.
Fallible<void> masked_bytes(Context& context, const Insn& insn) {
  const bool mmx = insn.operands[0].kind == OperandKind::kMmx;
  const unsigned count = mmx ? 8 : 16;
  // An unmasked exception of an earlier x87 instruction comes first. [SDM-3A 12.5]
  if (mmx && (load_host(image(context) + kFsw, 2) & 0x80) && (context.state.cr0 & cpu::cr0::kNe))
    return raise(kX87Error);
  std::byte* source = mmx ? image(context) + kSt0 + 16 * insn.operands[0].reg : lane(context, insn.operands[0].reg, 0);
  std::byte* mask = mmx ? image(context) + kSt0 + 16 * insn.operands[1].reg : lane(context, insn.operands[1].reg, 0);
  const MmuIndex mmu = current_mmu(context);
  // The address is checked whatever the mask says; pages only where it selects a byte.
  const uint64_t first = wrap_offset(context.state.gpr[cpu::kRdi], insn.mem.address_size);
  const uint64_t first_linear = GUEST_TRY(linear_address(context, insn.mem.segment, first, count, Access::kWrite));
  GUEST_TRY(check_alignment(context, first_linear, 8));  // of both forms
  if (mmx) enter_mmx(context);
  for (const bool store : {false, true}) {
    for (unsigned i = 0; i < count; ++i) {
      if (!(load_host(mask + i, 1) & 0x80)) continue;
      const uint64_t offset = element_offset(context, insn, context.state.gpr[cpu::kRdi], i);
      const uint64_t linear = GUEST_TRY(linear_address(context, insn.mem.segment, offset, 1, Access::kWrite));
      const auto done = store ? write_linear(context, linear, load_host(source + i, 1), 1, mmu)
                              : probe_write(context, linear, 1, mmu);
      if (!done) return std::unexpected(done.error());
    }
  }
  return {};
}

// Each finished element clears its part of the mask, so that a fault resumes where it stopped. A trap pending for
// what is done so far goes before the fault. [SDM-2C VPGATHERDD]
Fallible<Next> gather(Context& context, const Insn& insn, unsigned index_size, unsigned size) {
  const unsigned destination = insn.operands[0].reg, mask = insn.operands[2].reg, index = insn.mem.index;
  if (destination == mask || destination == index || mask == index) return undefined();
  const unsigned width = insn.vex_l ? 32 : 16;
  const unsigned count = width / (index_size > size ? index_size : size);
  const uint64_t base = operand_offset(context, insn);
  const uint64_t all_ones = size_mask(size);
  bool progress = false;
  for (unsigned i = 0; i < 32 / size; ++i)
    write_element(context, mask, i, size, i < width / size && mask_bit(context, mask, i, size) ? all_ones : 0);
  clear_beyond_ymm(context, mask);
  for (unsigned i = 0; i < count; ++i) {
    if (!mask_bit(context, mask, i, size)) continue;
    const auto displacement = static_cast<uint64_t>(sign_extend(read_element(context, index, i, index_size),
                                                                injected(context, 76) ? 8 : index_size)) *
                              insn.mem.scale;
    const auto value = read_at(context, insn, wrap_offset(base + displacement, insn.mem.address_size), size);
    if (!value && progress && (context.state.rflags & cpu::rflags::kTf)) return leave_repeat(context);
    if (!value) return std::unexpected(value.error());
    progress = true;
    write_element(context, destination, i, size, *value);
    write_element(context, mask, i, size, 0);
    for (unsigned j = width / size; j < 32 / size; ++j) write_element(context, destination, j, size, 0);
    clear_beyond_ymm(context, destination);
  }
  for (unsigned i = 0; i < 32 / size; ++i) {
    write_element(context, mask, i, size, 0);
    if (i >= count) write_element(context, destination, i, size, 0);
  }
  clear_beyond_ymm(context, destination);
  return Next::kContinue;
}

// Under a mask register. Each finished element clears its bit, as above. [SDM-2C VPGATHERDD, VPSCATTERDD]
struct MaskedElements {
  unsigned vector, mask;  // the register loaded or stored, and the mask register
  unsigned index_size, size, count;
};

MaskedElements masked_elements(const Insn& insn, unsigned vector) {
  const unsigned index_size = insn.opcode & 1 ? 8 : 4, size = insn.rex_w ? 8 : 4;
  const unsigned count = (16u << insn.vex_l) / (index_size > size ? index_size : size);
  return {insn.operands[vector].reg, insn.evex_mask, index_size, size, count};
}

uint64_t lane_offset(Context& context, const Insn& insn, const MaskedElements& elements, unsigned i) {
  const uint64_t index = read_element(context, insn.mem.index, i, elements.index_size);
  const uint64_t displacement = static_cast<uint64_t>(sign_extend(index, elements.index_size)) * insn.mem.scale;
  return wrap_offset(operand_offset(context, insn) + displacement, insn.mem.address_size);
}

Fallible<void> gather_element(Context& context, const Insn& insn, const MaskedElements& elements, unsigned i) {
  const uint64_t value = GUEST_TRY(read_at(context, insn, lane_offset(context, insn, elements, i), elements.size));
  write_element(context, elements.vector, i, elements.size, value);
  return {};
}

Fallible<void> scatter_element(Context& context, const Insn& insn, const MaskedElements& elements, unsigned i) {
  const uint64_t offset = lane_offset(context, insn, elements, i);
  const uint64_t linear = GUEST_TRY(linear_address(context, insn.mem.segment, offset, elements.size, Access::kWrite));
  const uint64_t value = read_element(context, elements.vector, i, elements.size);
  return write_linear(context, linear, value, elements.size, current_mmu(context));
}

Fallible<Next> gather_or_scatter(Context& context, const Insn& insn) {
  const bool scatter = (insn.opcode & 0xf0) == 0xa0;
  const MaskedElements elements = masked_elements(insn, scatter ? 1 : 0);
  std::byte* const mask = mask_register(context, elements.mask);
  const auto clear_from = [&](unsigned byte) {  // of what a gather loads
    for (; byte < 64 && !scatter; byte += 8) store_host(lane(context, elements.vector, byte), 0, 8);
  };
  bool progress = false;
  for (unsigned i = 0; i < elements.count; ++i) {
    const uint64_t left = load_host(mask, 8);
    if (!(left >> i & 1)) continue;
    const auto done =
        scatter ? scatter_element(context, insn, elements, i) : gather_element(context, insn, elements, i);
    if (!done && progress && (context.state.rflags & cpu::rflags::kTf)) return leave_repeat(context);
    if (!done) return std::unexpected(done.error());
    progress = true;
    store_host(mask, left & ~(uint64_t{1} << i), 8);
    clear_from(16u << insn.vex_l);  // as every instruction of this length; the rest of it only in the end
  }
  store_host(mask, 0, 8);
  clear_from(elements.count * elements.size);
  return Next::kContinue;
}

Fallible<void> run_whole(Context& context, const Insn& insn) {
  const unsigned last = insn.operands[2].reg, width = insn.operands[0].size_bytes;
  switch (insn.row) {
    case RowId::MASKMOVQ_Pq_Nq:
    case RowId::MASKMOVDQU_Vdq_Udq:
    case RowId::VMASKMOVDQU_Vdq_Udq: return masked_bytes(context, insn);
    case RowId::VMASKMOVPS_Vx_Hx_Mx:
    case RowId::VPMASKMOVD_Vx_Hx_Mx: return masked_load(context, insn, 4);
    case RowId::VMASKMOVPD_Vx_Hx_Mx:
    case RowId::VPMASKMOVQ_Vx_Hx_Mx: return masked_load(context, insn, 8);
    case RowId::VMASKMOVPS_Mx_Hx_Vx:
    case RowId::VPMASKMOVD_Mx_Hx_Vx:
      return masked_store(context, insn, 4, width / 4, insn.operands[1].reg, last, operand_offset(context, insn));
    case RowId::VMASKMOVPD_Mx_Hx_Vx:
    case RowId::VPMASKMOVQ_Mx_Hx_Vx:
      return masked_store(context, insn, 8, width / 8, insn.operands[1].reg, last, operand_offset(context, insn));
    default: return undefined();
  }
}

// kDispatch: left in the middle for a trap.
Fallible<Next> run(Context& context, const Insn& insn) {
  if (insn.vex == isa::x86::Vex::kEvex) return gather_or_scatter(context, insn);
  switch (insn.row) {
    case RowId::VPGATHERDD_Vx_Kd_Hx:
    case RowId::VGATHERDPS_Vx_Kd_Hx: return gather(context, insn, 4, 4);
    case RowId::VPGATHERDQ_Vx_Kq_Hx:
    case RowId::VGATHERDPD_Vx_Kq_Hx: return gather(context, insn, 4, 8);
    case RowId::VPGATHERQD_Vdq_Kd_Hdq:
    case RowId::VGATHERQPS_Vdq_Kd_Hdq: return gather(context, insn, 8, 4);
    case RowId::VPGATHERQQ_Vx_Kq_Hx:
    case RowId::VGATHERQPD_Vx_Kq_Hx: return gather(context, insn, 8, 8);
    default: break;
  }
  GUEST_TRY(run_whole(context, insn));
  return Next::kContinue;
}

}  // namespace

Fallible<Next> execute_masked_memory(Context& context, const Insn& insn) {
  Fallible<Next> done = Next::kContinue;
  // The elements are worked on in the saved image, which is live again afterwards; devices may be called meanwhile.
  with_vectors_saved(context, [&] {
    done = run(context, insn);
    // A gather that faults keeps the elements it has; the others have changed nothing.
    mark_in_use(context, kSseComponent | kAvxComponent);
    if (insn.vex == isa::x86::Vex::kEvex) mark_in_use(context, kMaskComponent | kUpperZmmComponent | kHighZmmComponent);
  });
  if (!done || *done == Next::kDispatch) return done;
  return finish(context, insn);
}

}  // namespace rhea::dbt
