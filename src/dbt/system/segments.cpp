// SPDX-License-Identifier: Apache-2.0
// Segment registers: addresses through them and loads of ES, SS, DS, FS and GS.
#include "dbt/system/internal.h"

namespace rhea::dbt {

using cpu::Segment;

namespace {

std::unexpected<Exception> segment_fault(unsigned segment) {
  return raise(segment == cpu::kSs ? kStackFault : kGeneralProtection, 0);
}

Segment real_mode_segment(const Context& context, const Segment& old, uint16_t selector) {
  Segment segment = old;
  segment.selector = selector;
  segment.base = uint64_t{selector} << 4;
  if (context.state.virtual8086()) {
    segment.limit = 0xffff;
    segment.attributes = 0xf3;
  } else {
    segment.attributes = (segment.attributes & 0xf000) | 0x93;  // limit, B and G stay: "unreal" mode
  }
  return segment;
}

Fallible<Segment> load_stack_segment(Context& context, uint16_t selector) {
  unsigned cpl = context.state.cpl(), rpl = selector & 3;
  if (is_null(selector)) {
    if (!context.state.code64() || cpl == 3 || rpl != cpl) return gp0();
    return null_stack_segment(selector);
  }
  Descriptor descriptor = GUEST_TRY(read_descriptor(context, selector));
  if (rpl != cpl || !descriptor.writable_data() || descriptor.dpl() != cpl)
    return raise(kGeneralProtection, selector_error(selector));
  if (!descriptor.present()) return raise(kStackFault, selector_error(selector));
  GUEST_TRY(set_descriptor_type_bits(context, descriptor, 1));
  return to_segment(descriptor, selector);
}

Fallible<Segment> load_data_segment(Context& context, unsigned segment, uint16_t selector) {
  if (is_null(selector)) {
    // Intel's processors clear the base, AMD's (without NullSelectorClearsBase) keep it. [APM-2 4.5.3]
    uint64_t base = context.cpu_model->intel() ? 0 : context.state.segment[segment].base;
    return Segment{.base = base, .limit = 0, .selector = selector, .attributes = 0};
  }
  Descriptor descriptor = GUEST_TRY(read_descriptor(context, selector));
  if (descriptor.is_system() || !descriptor.readable()) return raise(kGeneralProtection, selector_error(selector));
  unsigned rpl = selector & 3;
  bool conforming_code = descriptor.is_code() && descriptor.conforming();
  if (!conforming_code && (rpl > descriptor.dpl() || context.state.cpl() > descriptor.dpl()))
    return raise(kGeneralProtection, selector_error(selector));
  if (!descriptor.present()) return raise(kSegmentNotPresent, selector_error(selector));
  GUEST_TRY(set_descriptor_type_bits(context, descriptor, 1));
  return to_segment(descriptor, selector);
}

}  // namespace

Fallible<uint64_t> linear_address(Context& context, unsigned segment, uint64_t offset, unsigned size_bytes,
                                  Access access) {
  const Segment& hidden = context.state.segment[segment];
  if (context.state.code64()) {
    uint64_t linear = offset + (segment == cpu::kFs || segment == cpu::kGs ? hidden.base : 0);
    if (!is_canonical(linear)) return segment_fault(segment);
    if (!is_canonical(linear + size_bytes - 1)) {  // #AC comes before what lies beyond the first byte
      if (size_bytes <= 8) GUEST_TRY(check_alignment(context, linear, size_bytes));
      return segment_fault(segment);
    }
    return linear;
  }
  if (context.state.protected_mode() && !context.state.virtual8086()) {
    if (!hidden.usable()) return segment_fault(segment);
    bool readable = !hidden.is_code() || (hidden.attributes & 2);
    bool writable = !hidden.is_code() && (hidden.attributes & 2);
    if ((access == Access::kRead && !readable) || (access == Access::kWrite && !writable))
      return segment_fault(segment);
  }
  if (!within_limit(hidden, offset, size_bytes)) return segment_fault(segment);
  return (hidden.base + offset) & 0xffffffff;
}

Fallible<void> load_segment(Context& context, unsigned segment, uint16_t selector) {
  Segment& hidden = context.state.segment[segment];
  if (real_or_v86(context)) {
    hidden = real_mode_segment(context, hidden, selector);
  } else if (segment == cpu::kSs) {
    hidden = GUEST_TRY(load_stack_segment(context, selector));
  } else {
    hidden = GUEST_TRY(load_data_segment(context, segment, selector));
  }
  return {};
}

}  // namespace rhea::dbt
