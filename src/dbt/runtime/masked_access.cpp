// SPDX-License-Identifier: Apache-2.0
// Memory operands under an EVEX mask that missed the TLB. [SDM-2A 2.7.4, SDM-1 15.6.3]
//
// What the mask leaves out is not accessed and does not fault. Where the whole operand lies in memory that may be
// accessed the host's own masking is right, and translated code runs the instruction there; so does an operand here
// that lies in one page of RAM. Otherwise the instruction runs against the bounce buffer, which is filled from, and
// written back to, the selected bytes alone.
//
// General registers only: runs with the guest's vector registers in place.
#include <bit>

#include "dbt/runtime/entry_points.h"
#include "dbt/runtime/runtime.h"
#include "dbt/system/debug_registers.h"

namespace rhea::dbt {

namespace {

uint64_t low_bits(unsigned count) { return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1; }

// One bit for each byte of the operand that is accessed.
uint64_t selected_bytes(uint64_t mask, uint32_t shape, unsigned size) {
  const unsigned element = shape & 0xff, lanes = (shape >> 8) & 0xff;
  mask &= low_bits(lanes);
  if (shape & kShapePacked) return low_bits(static_cast<unsigned>(std::popcount(mask)) * element);
  const unsigned present = size / element;  // fewer than lanes where each serves several
  uint64_t bytes = 0;
  for (unsigned i = 0; i < lanes; ++i)
    if (mask >> i & 1) bytes |= low_bits(element) << (i % present * element);
  return bytes;
}

}  // namespace

bool Runtime::selects_any(unsigned size) const {
  return (context_.access_shape & kShapeWhole) ||
         selected_bytes(context_.access_mask, context_.access_shape, size) != 0;
}

ThunkResult Runtime::masked_access(uint64_t linear, uint32_t info, uint64_t return_address) {
  Context& c = context_;
  const unsigned size = info & kInfoSizeMask;
  const bool write = info & kInfoWrite;
  const uint64_t bytes = selected_bytes(c.access_mask, c.access_shape, size);
  const uint64_t checked = c.access_shape & kShapeWhole ? low_bits(size) : bytes;
  uint64_t alignment = (info >> kInfoAlignmentShift) & kInfoAlignmentMask;
  if (info & kInfoAlignCheck) alignment = size;
  const bool aligned = !alignment || !(linear & (alignment - 1));
  // #GP for want of alignment comes before what the address is; #AC after.
  if (bytes && !aligned && !(info & kInfoAlignCheck)) return memory_access(linear, info & ~kInfoMasked, return_address);
  access_return_ = return_address;
  // The pages, lower first: at most two. All addresses are checked before any page is.
  const auto in_first = static_cast<unsigned>(memory::kPageSize - (linear & 0xfff));
  const unsigned first_size = in_first < size ? in_first : size;
  const bool wide = mode::code64(c.mode);
  const auto address = [&](unsigned offset) { return wide ? linear + offset : (linear + offset) & 0xffffffff; };
  const uint64_t parts[2] = {checked & low_bits(first_size), checked & ~low_bits(first_size)};
  // A store of all of it whose alignment is checked: that comes before the address of its end, as without a mask.
  if (write && bytes == low_bits(size) && (info & kInfoAlignCheck))
    return memory_access(linear, info & ~kInfoMasked, return_address);
  for (const uint64_t part : parts) {
    if (!part || !wide) continue;
    const uint64_t at = address(static_cast<unsigned>(std::countr_zero(part)));
    if (static_cast<uint64_t>(static_cast<int64_t>(at << 16) >> 16) != at)
      return fault_at(Exception{.vector = static_cast<uint8_t>(info & kInfoStack ? kStackFault : kGeneralProtection),
                                .has_error_code = true},
                      return_address);
  }
  if (bytes == low_bits(size) || (bytes && !aligned)) return memory_access(linear, info & ~kInfoMasked, return_address);
  ++counters_.tlb_misses;
  c.code_invalidated = 0;
  const auto mmu = static_cast<MmuIndex>((info >> kInfoMmuShift) & 3);
  uint64_t physical[2] = {};
  for (unsigned i = 0; i < 2; ++i) {
    if (!parts[i]) continue;
    const auto offset = static_cast<unsigned>(std::countr_zero(parts[i]));
    const auto found = dbt::translate(c, address(offset), write ? Access::kWrite : Access::kRead, mmu);
    if (!found) return fault_at(found.error(), return_address);
    physical[i] = found->physical - offset + (i ? first_size : 0);
  }
  if (breakpoints_enabled(c)) [[unlikely]] {
    uint32_t hits = 0;
    for (unsigned i = 0; i < size; ++i)
      if (bytes >> i & 1) hits |= data_breakpoints(c, address(i), 1, write);
    if (hits && !runs_alone()) return restart_alone(return_address);
    c.state.debug_pending |= hits;
  } else if (parts[0] && first_size == size && !is_local_apic(physical[0])) {
    const RamPiece* piece = find_ram(physical[0]);
    if (piece && piece->end - physical[0] >= size) return memory_access(linear, info & ~kInfoMasked, return_address);
  }
  const uint64_t offset = linear & 63;
  bounce_ = {.active = write && bytes,
             .size = static_cast<uint8_t>(size),
             .first_size = static_cast<uint8_t>(first_size),
             .physical = {physical[0], physical[1]},
             .offset = offset,
             .masked = true,
             .bytes = bytes};
  if (info & kInfoRead) copy_selected(false);
  return {kActionProceed, reinterpret_cast<uint64_t>(c.bounce.data() + offset) - linear};
}

// The selected bytes between the bounce buffer and the guest, in runs within a page.
void Runtime::copy_selected(bool to_guest) {
  std::byte* data = context_.bounce.data() + bounce_.offset;
  for (unsigned from = 0; from < bounce_.size;) {
    if (!(bounce_.bytes >> from & 1)) {
      ++from;
      continue;
    }
    const bool second = from >= bounce_.first_size;
    const unsigned limit = second ? bounce_.size : bounce_.first_size;
    unsigned to = from + 1;
    while (to < limit && (bounce_.bytes >> to & 1)) ++to;
    const uint64_t physical = second ? bounce_.physical[1] + (from - bounce_.first_size) : bounce_.physical[0] + from;
    copy_piece(physical, data + from, to - from, to_guest);
    from = to;
  }
}

}  // namespace rhea::dbt
