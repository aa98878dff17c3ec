// SPDX-License-Identifier: Apache-2.0
// Descriptor tables, the TSS's stacks, and stacks that are built before they are committed.
#include "dbt/system/internal.h"

namespace rhea::dbt {

using cpu::Segment;

Fallible<Descriptor> read_descriptor(Context& context, uint16_t selector, uint8_t vector, uint32_t ext) {
  uint64_t base = context.state.gdtr.base;
  uint32_t limit = context.state.gdtr.limit;
  if (selector & 4) {
    const Segment& ldt = context.state.segment[cpu::kLdtr];
    if (!ldt.usable()) return raise(vector, selector_error(selector, ext));
    base = ldt.base;
    limit = ldt.limit;
  }
  if ((selector | 7u) > limit) return raise(vector, selector_error(selector, ext));
  Descriptor descriptor;
  descriptor.selector = selector;
  descriptor.linear = wrap_linear(context, base + (selector & 0xfff8));
  descriptor.low = GUEST_TRY(read_linear(context, descriptor.linear, 8, MmuIndex::kSupervisor));
  return descriptor;
}

Fallible<void> read_descriptor_high(Context& context, Descriptor& descriptor) {
  const Segment& ldt = context.state.segment[cpu::kLdtr];
  uint32_t limit = descriptor.selector & 4 ? ldt.limit : context.state.gdtr.limit;
  if ((descriptor.selector | 7u) + 8 > limit) return raise(kGeneralProtection, selector_error(descriptor.selector));
  descriptor.high = GUEST_TRY(read_linear(context, descriptor.linear + 8, 8, MmuIndex::kSupervisor));
  return {};
}

namespace {

// The byte of a descriptor that holds its type, in RAM and writable; null elsewhere, where writes mean nothing.
struct AccessByte {
  uint8_t* host = nullptr;
  uint64_t physical = 0;
};
Fallible<AccessByte> access_byte(Context& context, const Descriptor& descriptor) {
  uint64_t linear = wrap_linear(context, descriptor.linear + 5);
  Translation target = GUEST_TRY(translate(context, linear, Access::kWrite, MmuIndex::kSupervisor));
  return AccessByte{reinterpret_cast<uint8_t*>(ram_pointer(context, target.physical, 1)), target.physical};
}

}  // namespace

// Other processors may set their own bits: locked operations, as on the bus. [SDM-3A 8.1.2.1]
Fallible<void> set_descriptor_type_bits(Context& context, Descriptor& descriptor, unsigned bits) {
  if ((descriptor.type() & bits) == bits) return {};
  AccessByte byte = GUEST_TRY(access_byte(context, descriptor));
  descriptor.low |= uint64_t{bits} << 40;
  if (byte.host == nullptr) return {};
  __atomic_fetch_or(byte.host, static_cast<uint8_t>(bits), __ATOMIC_SEQ_CST);
  note_store(context, byte.physical, 1);
  return {};
}

Fallible<void> clear_descriptor_type_bits(Context& context, Descriptor& descriptor, unsigned bits) {
  AccessByte byte = GUEST_TRY(access_byte(context, descriptor));
  descriptor.low &= ~(uint64_t{bits} << 40);
  if (byte.host == nullptr) return {};
  __atomic_fetch_and(byte.host, static_cast<uint8_t>(~bits), __ATOMIC_SEQ_CST);
  note_store(context, byte.physical, 1);
  return {};
}

Fallible<bool> replace_descriptor_type(Context& context, Descriptor& descriptor, unsigned type) {
  AccessByte byte = GUEST_TRY(access_byte(context, descriptor));
  auto old_byte = static_cast<uint8_t>(descriptor.low >> 40);
  auto new_byte = static_cast<uint8_t>((old_byte & 0xf0) | type);
  if (byte.host != nullptr) {
    if (!__atomic_compare_exchange_n(byte.host, &old_byte, new_byte, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
      return false;
    note_store(context, byte.physical, 1);
  }
  descriptor.low = (descriptor.low & ~(uint64_t{0xff} << 40)) | uint64_t{new_byte} << 40;
  return true;
}

Segment to_segment(const Descriptor& descriptor, uint16_t selector) {
  return Segment{.base = descriptor.base32(),
                 .limit = descriptor.limit(),
                 .selector = selector,
                 .attributes = descriptor.attributes()};
}

Segment flat_code_segment(uint16_t selector, unsigned dpl, bool long_mode) {
  // Present, code, execute/read, accessed; G; L or D.
  uint16_t attributes = static_cast<uint16_t>(0x809b | (dpl << 5) | (long_mode ? 0x2000 : 0x4000));
  return Segment{.base = 0, .limit = 0xffffffff, .selector = selector, .attributes = attributes};
}

Segment flat_data_segment(uint16_t selector, unsigned dpl) {
  return Segment{
      .base = 0, .limit = 0xffffffff, .selector = selector, .attributes = static_cast<uint16_t>(0xc093 | (dpl << 5))};
}

Segment null_stack_segment(uint16_t selector) {
  return Segment{.base = 0, .limit = 0, .selector = selector, .attributes = static_cast<uint16_t>((selector & 3) << 5)};
}

Segment v86_segment(uint16_t selector) {
  return Segment{.base = uint64_t{selector} << 4, .limit = 0xffff, .selector = selector, .attributes = 0xf3};
}

Fallible<CodeTarget> real_mode_target(Context& context, uint16_t selector, uint64_t offset) {
  Segment code = context.state.segment[cpu::kCs];
  code.selector = selector;
  code.base = uint64_t{selector} << 4;
  if (context.state.virtual8086()) {
    code.limit = 0xffff;
    code.attributes = 0xf3;
  } else {
    // Limit, D and G stay as protected mode left them; the rest is that of a plain segment.
    code.attributes = (code.attributes & 0xf000) | 0x93;
  }
  if (offset > code.limit) return gp0();
  return CodeTarget{code, offset};
}

uint64_t target_rip(const Context& context, const Segment& code, uint64_t offset) {
  bool wide = (context.state.long_mode_active() && code.long_mode()) || !context.cpu_model->intel();
  return wide ? offset : offset & 0xffffffff;
}

Fallible<void> check_rip(const Context& context, const Segment& code, uint64_t rip, uint32_t ext) {
  bool wide = context.state.long_mode_active() && code.long_mode();
  if (wide ? !is_canonical(rip) : rip > code.limit) return raise(kGeneralProtection, ext);
  return {};
}

bool within_limit(const Segment& segment, uint64_t offset, unsigned size_bytes) {
  uint64_t last = offset + size_bytes - 1;
  bool expand_down = !segment.is_code() && !segment.is_system() && (segment.attributes & 4);
  // An access at the end of 4 GiB wraps around within a segment that covers them all.
  if (!expand_down)
    return last >= offset && (last <= segment.limit || (segment.limit == 0xffffffff && offset <= segment.limit));
  uint64_t top = segment.default_big() ? 0xffffffff : 0xffff;
  return offset > segment.limit && last <= top && last >= offset;
}

// ---- stacks ----

StackCursor StackCursor::current(Context& context) { return current(context, context.state.code64()); }

StackCursor StackCursor::current(Context& context, bool for_code64) {
  const cpu::CpuState& state = context.state;
  StackCursor cursor{.context = context, .segment = state.segment[cpu::kSs]};
  cursor.sp = state.gpr[cpu::kRsp];
  cursor.long_mode = for_code64;
  cursor.mask = cursor.long_mode ? ~uint64_t{0} : cursor.segment.default_big() ? 0xffffffff : 0xffff;
  cursor.mmu = current_mmu(context);
  return cursor;
}

Fallible<uint64_t> StackCursor::address(uint64_t offset, unsigned size_bytes, Access access) const {
  if (long_mode) {
    if (!is_canonical(offset) || !is_canonical(offset + size_bytes - 1)) return raise(kStackFault, fault_code);
    return offset;
  }
  if (context.state.protected_mode() && !context.state.virtual8086()) {
    if (!segment.usable()) return raise(kStackFault, fault_code);
    if (access == Access::kWrite && (segment.is_code() || !(segment.attributes & 2)))
      return raise(kStackFault, fault_code);
  }
  if (!within_limit(segment, offset, size_bytes)) return raise(kStackFault, fault_code);
  return (segment.base + offset) & 0xffffffff;
}

Fallible<void> StackCursor::push(uint64_t value, unsigned size_bytes) {
  uint64_t below = (sp - size_bytes) & mask;
  uint64_t linear = GUEST_TRY(address(below, size_bytes, Access::kWrite));
  if (mmu == MmuIndex::kUser) GUEST_TRY(check_alignment(context, linear, size_bytes));
  GUEST_TRY(write_linear(context, linear, value, size_bytes, mmu));
  sp = below;
  return {};
}

Fallible<uint64_t> StackCursor::peek(uint64_t offset, unsigned size_bytes) const {
  uint64_t linear = GUEST_TRY(address((sp + offset) & mask, size_bytes, Access::kRead));
  if (mmu == MmuIndex::kUser) GUEST_TRY(check_alignment(context, linear, size_bytes));
  return read_linear(context, linear, size_bytes, mmu);
}

Fallible<uint64_t> StackCursor::pop(unsigned size_bytes) {
  uint64_t value = GUEST_TRY(peek(0, size_bytes));
  sp = (sp + size_bytes) & mask;
  return value;
}

Fallible<StackPointer> stack_from_tss(Context& context, unsigned dpl, uint32_t ext) {
  const Segment& tss = context.state.segment[cpu::kTr];
  auto bad = [&] { return raise(kInvalidTss, selector_error(tss.selector, ext)); };
  auto read = [&](unsigned offset, unsigned size_bytes) {
    return read_linear(context, wrap_linear(context, tss.base + offset), size_bytes, MmuIndex::kSupervisor);
  };
  StackPointer stack;
  if (context.state.long_mode_active()) {
    unsigned offset = 4 + dpl * 8;
    if (offset + 7 > tss.limit) return bad();
    stack.sp = GUEST_TRY(read(offset, 8));
    return stack;
  }
  if (tss.type() & 8) {
    unsigned offset = 4 + dpl * 8;
    if (offset + 5 > tss.limit) return bad();
    stack.sp = GUEST_TRY(read(offset, 4));
    stack.selector = static_cast<uint16_t>(GUEST_TRY(read(offset + 4, 2)));
    return stack;
  }
  unsigned offset = 2 + dpl * 4;
  if (offset + 3 > tss.limit) return bad();
  stack.sp = GUEST_TRY(read(offset, 2));
  stack.selector = static_cast<uint16_t>(GUEST_TRY(read(offset + 2, 2)));
  return stack;
}

Fallible<Segment> inner_stack_segment(Context& context, uint16_t selector, unsigned cpl, uint32_t ext) {
  if (is_null(selector)) return raise(kInvalidTss, ext);
  Descriptor descriptor = GUEST_TRY(read_descriptor(context, selector, kInvalidTss, ext));
  if ((selector & 3u) != cpl || descriptor.dpl() != cpl || !descriptor.writable_data())
    return raise(kInvalidTss, selector_error(selector, ext));
  if (!descriptor.present()) return raise(kStackFault, selector_error(selector, ext));
  GUEST_TRY(set_descriptor_type_bits(context, descriptor, 1));
  return to_segment(descriptor, selector);
}

}  // namespace rhea::dbt
