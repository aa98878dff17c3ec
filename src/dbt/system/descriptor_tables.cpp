// SPDX-License-Identifier: Apache-2.0
// Instructions on descriptor tables and selectors: LGDT to STR, LAR, LSL, VERR, VERW, ARPL.
#include "dbt/system/internal.h"

namespace rhea::dbt {

namespace {

// SGDT, SIDT, SLDT, STR and SMSW reveal system addresses: refused to users where CR4.UMIP is set.
Fallible<void> check_umip(const Context& context) {
  if ((context.state.cr4 & cpu::cr4::kUmip) && context.state.cpl() > 0) return gp0();
  return {};
}

Fallible<Next> store_table(Context& context, const Insn& insn, const cpu::DescriptorTable& table) {
  GUEST_TRY(check_umip(context));
  unsigned base_bytes = context.state.code64() ? 8 : 4;
  uint64_t linear = GUEST_TRY(operand_address(context, insn, 2 + base_bytes, Access::kWrite));
  std::byte bytes[10];
  store_host(bytes, table.limit, 2);
  store_host(bytes + 2, table.base, base_bytes);
  GUEST_TRY(write_linear_bytes(context, linear, bytes, 2 + base_bytes, current_mmu(context)));
  return finish(context, insn);
}

Fallible<Next> load_table(Context& context, const Insn& insn, cpu::DescriptorTable& table) {
  GUEST_TRY(require_cpl0(context));
  unsigned base_bytes = context.state.code64() ? 8 : 4;
  uint64_t linear = GUEST_TRY(operand_address(context, insn, 2 + base_bytes, Access::kRead));
  std::byte bytes[10];
  GUEST_TRY(read_linear_bytes(context, linear, bytes, 2 + base_bytes, current_mmu(context)));
  uint64_t base = load_host(bytes + 2, base_bytes);
  if (base_bytes == 8) {
    if (!is_canonical(base)) return gp0();
  } else if (insn.operand_size == 2) {
    base &= 0xffffff;
  }
  table.limit = static_cast<uint16_t>(load_host(bytes, 2));
  table.base = base;
  return finish(context, insn);
}

Fallible<Next> store_selector(Context& context, const Insn& insn, uint16_t selector) {
  if (real_or_v86(context)) return undefined();
  GUEST_TRY(check_umip(context));
  const Operand& target = insn.operands[0];
  unsigned size = target.kind == OperandKind::kMemory ? 2 : insn.operand_size;
  GUEST_TRY(write_operand(context, insn, target, selector, size));
  return finish(context, insn);
}

// The descriptor that LAR, LSL, VERR or VERW asks about; nothing where it may not be seen (ZF clear).
struct Query {
  bool valid = false;
  Descriptor descriptor;
};

Fallible<Query> query_descriptor(Context& context, uint16_t selector) {
  if (is_null(selector)) return Query{};
  Fallible<Descriptor> descriptor = read_descriptor(context, selector);
  if (!descriptor) {
    if (descriptor.error().vector == kGeneralProtection) return Query{};
    return std::unexpected(descriptor.error());
  }
  bool conforming_code = descriptor->is_code() && descriptor->conforming();
  unsigned rpl = selector & 3;
  bool visible = conforming_code || (context.state.cpl() <= descriptor->dpl() && rpl <= descriptor->dpl());
  return Query{visible, *descriptor};
}

Fallible<Next> verify(Context& context, const Insn& insn, bool write) {
  if (real_or_v86(context)) return undefined();
  auto selector = static_cast<uint16_t>(GUEST_TRY(read_operand(context, insn, insn.operands[0], 2)));
  Query query = GUEST_TRY(query_descriptor(context, selector));
  const Descriptor& descriptor = query.descriptor;
  bool ok = query.valid && !descriptor.is_system() && (write ? descriptor.writable_data() : descriptor.readable());
  set_zero_flag(context, ok);
  return finish(context, insn);
}

// Types of system descriptors that LAR and LSL report. [SDM-2A LAR table 3-53, LSL table 3-56]
bool reportable_type(const Context& context, unsigned type, bool with_limit) {
  if (context.state.long_mode_active())
    return type == kLdt || type == kTss32Available || type == kTss32Busy || (!with_limit && type == kCallGate32);
  uint32_t types = 1u << kTss16Available | 1u << kLdt | 1u << kTss16Busy | 1u << kTss32Available | 1u << kTss32Busy;
  if (!with_limit) types |= 1u << kCallGate16 | 1u << kTaskGate | 1u << kCallGate32;
  return (types >> type) & 1;
}

Fallible<Next> describe(Context& context, const Insn& insn, bool limit) {
  if (real_or_v86(context)) return undefined();
  auto selector = static_cast<uint16_t>(GUEST_TRY(read_operand(context, insn, insn.operands[1], 2)));
  Query query = GUEST_TRY(query_descriptor(context, selector));
  const Descriptor& descriptor = query.descriptor;
  bool ok = query.valid && (!descriptor.is_system() || reportable_type(context, descriptor.type(), limit));
  if (ok) {
    uint64_t value = limit ? descriptor.limit() : (descriptor.low >> 32) & 0x00ffff00;
    if (insn.operand_size == 2) value &= 0xffff;
    write_register(context, insn.operands[0].reg, insn.operand_size, value);
  }
  set_zero_flag(context, ok);
  return finish(context, insn);
}

// LDTR and TR descriptors have a second half in long mode.
Fallible<cpu::Segment> system_segment(Context& context, Descriptor& descriptor) {
  cpu::Segment segment = to_segment(descriptor, descriptor.selector);
  if (context.state.long_mode_active()) {
    segment.base = descriptor.base64();
    if (!is_canonical(segment.base)) return raise(kGeneralProtection, selector_error(descriptor.selector));
  }
  return segment;
}

Fallible<Descriptor> read_system_descriptor(Context& context, uint16_t selector) {
  if (selector & 4) return raise(kGeneralProtection, selector_error(selector));
  Descriptor descriptor = GUEST_TRY(read_descriptor(context, selector));
  if (context.state.long_mode_active()) {
    GUEST_TRY(read_descriptor_high(context, descriptor));
    if ((descriptor.high >> 40) & 0x1f) return raise(kGeneralProtection, selector_error(selector));
  }
  return descriptor;
}

}  // namespace

namespace op {

RHEA_SYSTEM_FUNCTION(sgdt) { return store_table(context, insn, context.state.gdtr); }
RHEA_SYSTEM_FUNCTION(sidt) { return store_table(context, insn, context.state.idtr); }
RHEA_SYSTEM_FUNCTION(lgdt) { return load_table(context, insn, context.state.gdtr); }
RHEA_SYSTEM_FUNCTION(lidt) { return load_table(context, insn, context.state.idtr); }
RHEA_SYSTEM_FUNCTION(sldt) { return store_selector(context, insn, context.state.segment[cpu::kLdtr].selector); }
RHEA_SYSTEM_FUNCTION(str) { return store_selector(context, insn, context.state.segment[cpu::kTr].selector); }

RHEA_SYSTEM_FUNCTION(lldt) {
  if (real_or_v86(context)) return undefined();
  GUEST_TRY(require_cpl0(context));
  auto selector = static_cast<uint16_t>(GUEST_TRY(read_operand(context, insn, insn.operands[0], 2)));
  cpu::Segment& ldtr = context.state.segment[cpu::kLdtr];
  if (is_null(selector)) {
    ldtr = cpu::Segment{.limit = 0, .selector = selector};
    return finish(context, insn);
  }
  Descriptor descriptor = GUEST_TRY(read_system_descriptor(context, selector));
  if (!descriptor.is_system() || descriptor.type() != kLdt) return raise(kGeneralProtection, selector_error(selector));
  if (!descriptor.present()) return raise(kSegmentNotPresent, selector_error(selector));
  ldtr = GUEST_TRY(system_segment(context, descriptor));
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(ltr) {
  if (real_or_v86(context)) return undefined();
  GUEST_TRY(require_cpl0(context));
  auto selector = static_cast<uint16_t>(GUEST_TRY(read_operand(context, insn, insn.operands[0], 2)));
  if (is_null(selector)) return gp0();
  for (;;) {  // again if another processor has changed the descriptor, perhaps to busy
    Descriptor descriptor = GUEST_TRY(read_system_descriptor(context, selector));
    unsigned type = descriptor.type();
    bool available = type == kTss32Available || (type == kTss16Available && !context.state.long_mode_active());
    if (!descriptor.is_system() || !available) return raise(kGeneralProtection, selector_error(selector));
    if (!descriptor.present()) return raise(kSegmentNotPresent, selector_error(selector));
    GUEST_TRY(system_segment(context, descriptor));
    if (!GUEST_TRY(replace_descriptor_type(context, descriptor, type | 2))) continue;
    context.state.segment[cpu::kTr] = GUEST_TRY(system_segment(context, descriptor));
    return finish(context, insn);
  }
}

RHEA_SYSTEM_FUNCTION(lar) { return describe(context, insn, false); }
RHEA_SYSTEM_FUNCTION(lsl) { return describe(context, insn, true); }
RHEA_SYSTEM_FUNCTION(verr) { return verify(context, insn, false); }
RHEA_SYSTEM_FUNCTION(verw) { return verify(context, insn, true); }

RHEA_SYSTEM_FUNCTION(arpl) {
  if (real_or_v86(context)) return undefined();
  uint64_t target = GUEST_TRY(read_operand(context, insn, insn.operands[0], 2));
  uint64_t source = read_register(context, insn.operands[1].reg, 2);
  bool raised = (target & 3) < (source & 3);
  if (raised) GUEST_TRY(write_operand(context, insn, insn.operands[0], (target & ~uint64_t{3}) | (source & 3), 2));
  set_zero_flag(context, raised);
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(smsw) {
  GUEST_TRY(check_umip(context));
  const Operand& target = insn.operands[0];
  unsigned size = target.kind == OperandKind::kMemory ? 2 : insn.operand_size;
  GUEST_TRY(write_operand(context, insn, target, context.state.cr0, size));
  return finish(context, insn);
}

}  // namespace op

}  // namespace rhea::dbt
