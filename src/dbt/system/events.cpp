// SPDX-License-Identifier: Apache-2.0
// Delivery of exceptions and interrupts through the IVT or IDT, up to the double and the triple fault.
//
// Spec: SDM-3A chapter 6, SDM-2A INT n. Registers change only after everything that can fault is done; a task gate
// alone may leave an exception that belongs to the new task.
#include "dbt/system/internal.h"
#include "dbt/system/task_switch.h"
#include "dbt/system/virtual_interrupts.h"

namespace rhea::dbt {

using cpu::Segment;
namespace rf = cpu::rflags;

namespace {

struct Event {
  uint8_t vector = 0;
  bool has_error_code = false;
  uint32_t error_code = 0;
  bool software = false;  // INT n, INT3, INTO: gate DPL is checked, EXT stays clear
  uint64_t return_rip = 0;
  uint64_t pushed_flags = 0;

  uint32_t ext() const { return software ? 0 : 1; }
};

// What delivery will load, once nothing can fail any more.
struct Entry {
  Segment code, stack;
  uint64_t rip = 0, rsp = 0;
  bool interrupt_gate = false;
  bool leave_v86 = false;
};

uint64_t handler_flags(const Context& context, bool interrupt_gate) {
  uint64_t cleared = rf::kTf | rf::kNt | rf::kVm | rf::kRf | (interrupt_gate ? rf::kIf : 0);
  return context.rflags() & ~cleared;
}

void commit(Context& context, const Entry& entry) {
  context.set_rflags(handler_flags(context, entry.interrupt_gate));
  if (entry.leave_v86) {
    for (unsigned segment : {cpu::kEs, cpu::kDs, cpu::kFs, cpu::kGs})
      context.state.segment[segment] = Segment{.limit = 0};
  }
  context.state.segment[cpu::kSs] = entry.stack;
  context.state.gpr[cpu::kRsp] = entry.rsp;
  set_code(context, entry.code, entry.rip);
}

Fallible<Next> deliver_real(Context& context, const Event& event) {
  uint64_t slot = uint64_t{event.vector} * 4;
  if (slot + 3 > context.state.idtr.limit) return raise(kGeneralProtection, event.vector * 8 + 2 + event.ext());
  uint64_t vector =
      GUEST_TRY(read_linear(context, wrap_linear(context, context.state.idtr.base + slot), 4, MmuIndex::kSupervisor));
  CodeTarget target = GUEST_TRY(real_mode_target(context, static_cast<uint16_t>(vector >> 16), vector & 0xffff));
  StackCursor stack = StackCursor::current(context);
  stack.mask = 0xffff;
  GUEST_TRY(stack.push(event.pushed_flags & 0xffff, 2));
  GUEST_TRY(stack.push(context.state.segment[cpu::kCs].selector, 2));
  GUEST_TRY(stack.push(event.return_rip & 0xffff, 2));
  context.set_rflags(context.rflags() & ~(rf::kIf | rf::kTf | rf::kAc | rf::kRf));
  context.state.gpr[cpu::kRsp] = stack.merged(context.state.gpr[cpu::kRsp]);
  set_code(context, target.segment, target.rip);
  return Next::kDispatch;
}

// The IDT gate of a vector, checked; its high half too in long mode. [SDM-3A 6.11, 6.14.1]
Fallible<Descriptor> read_gate(Context& context, const Event& event) {
  bool long_mode = context.state.long_mode_active();
  uint32_t error = event.vector * 8u + 2 + event.ext();
  uint64_t entry_bytes = long_mode ? 16 : 8;
  uint64_t offset = event.vector * entry_bytes;
  if (offset + entry_bytes - 1 > context.state.idtr.limit) return raise(kGeneralProtection, error);
  Descriptor gate;
  gate.linear = wrap_linear(context, context.state.idtr.base + offset);
  gate.low = GUEST_TRY(read_linear(context, gate.linear, 8, MmuIndex::kSupervisor));
  if (long_mode) gate.high = GUEST_TRY(read_linear(context, gate.linear + 8, 8, MmuIndex::kSupervisor));
  unsigned type = gate.type();
  bool known = type == kInterruptGate32 || type == kTrapGate32 ||
               (!long_mode && (type == kInterruptGate16 || type == kTrapGate16 || type == kTaskGate));
  if (!gate.is_system() || !known) return raise(kGeneralProtection, error);
  if (event.software && gate.dpl() < context.state.cpl()) return raise(kGeneralProtection, error);
  if (!gate.present()) return raise(kSegmentNotPresent, error);
  return gate;
}

// The handler's code segment; its privilege decides whether the stack changes.
Fallible<Descriptor> read_handler_code(Context& context, const Event& event, uint16_t selector) {
  if (is_null(selector)) return raise(kGeneralProtection, event.ext());
  Descriptor code = GUEST_TRY(read_descriptor(context, selector, kGeneralProtection, event.ext()));
  if (!code.is_code() || code.dpl() > context.state.cpl())
    return raise(kGeneralProtection, selector_error(selector, event.ext()));
  if (context.state.long_mode_active() && (!code.long_mode() || code.default_big()))
    return raise(kGeneralProtection, selector_error(selector, event.ext()));
  if (!code.present()) return raise(kSegmentNotPresent, selector_error(selector, event.ext()));
  // Leaving virtual-8086 mode needs a handler at privilege 0.
  if (context.state.virtual8086() && (code.conforming() || code.dpl() != 0))
    return raise(kGeneralProtection, selector_error(selector, event.ext()));
  return code;
}

MmuIndex frame_mmu(unsigned cpl) { return cpl == 3 ? MmuIndex::kUser : MmuIndex::kSupervisor; }

Segment handler_segment(const Descriptor& code, uint16_t selector, unsigned cpl) {
  return to_segment(code, static_cast<uint16_t>((selector & 0xfffc) | cpl));
}

Fallible<Next> deliver_long(Context& context, const Event& event, const Descriptor& gate) {
  cpu::CpuState& state = context.state;
  Descriptor code = GUEST_TRY(read_handler_code(context, event, gate.gate_selector()));
  unsigned old_cpl = state.cpl();
  unsigned new_cpl = code.conforming() ? old_cpl : code.dpl();
  Entry entry;
  entry.interrupt_gate = gate.type() == kInterruptGate32;
  entry.stack = state.segment[cpu::kSs];
  if (new_cpl < old_cpl) entry.stack = null_stack_segment(static_cast<uint16_t>(new_cpl));
  uint64_t rsp = state.gpr[cpu::kRsp];
  unsigned ist = (gate.low >> 32) & 7;
  if (ist != 0) {
    const Segment& tss = state.segment[cpu::kTr];
    unsigned offset = 36 + (ist - 1) * 8;
    if (offset + 7 > tss.limit) return raise(kInvalidTss, selector_error(tss.selector, event.ext()));
    rsp = GUEST_TRY(read_linear(context, tss.base + offset, 8, MmuIndex::kSupervisor));
  } else if (new_cpl < old_cpl) {
    rsp = GUEST_TRY(stack_from_tss(context, new_cpl, event.ext())).sp;
  }
  if (!is_canonical(rsp)) return raise(kStackFault, event.ext());
  StackCursor stack{.context = context,
                    .segment = entry.stack,
                    .sp = rsp & ~uint64_t{15},
                    .mmu = frame_mmu(new_cpl),
                    .long_mode = true,
                    .fault_code = event.ext()};
  entry.code = handler_segment(code, gate.gate_selector(), new_cpl);
  entry.rip = gate.gate_offset64();
  GUEST_TRY(check_rip(context, entry.code, entry.rip, event.ext()));
  GUEST_TRY(set_descriptor_type_bits(context, code, 1));
  GUEST_TRY(stack.push(state.segment[cpu::kSs].selector, 8));
  GUEST_TRY(stack.push(state.gpr[cpu::kRsp], 8));
  GUEST_TRY(stack.push(event.pushed_flags, 8));
  GUEST_TRY(stack.push(state.segment[cpu::kCs].selector, 8));
  GUEST_TRY(stack.push(event.return_rip, 8));
  if (event.has_error_code) GUEST_TRY(stack.push(event.error_code, 8));
  entry.rsp = stack.sp;
  commit(context, entry);
  return Next::kDispatch;
}

Fallible<void> push_v86_segments(Context& context, StackCursor& stack, unsigned size_bytes) {
  for (unsigned segment : {cpu::kGs, cpu::kFs, cpu::kDs, cpu::kEs})
    GUEST_TRY(stack.push(context.state.segment[segment].selector, size_bytes));
  return {};
}

Fallible<Next> deliver_protected(Context& context, const Event& event, const Descriptor& gate) {
  cpu::CpuState& state = context.state;
  Descriptor code = GUEST_TRY(read_handler_code(context, event, gate.gate_selector()));
  unsigned old_cpl = state.cpl();
  bool inner = !code.conforming() && code.dpl() < old_cpl;
  unsigned new_cpl = inner ? code.dpl() : old_cpl;
  unsigned width = gate.type() & 8 ? 4 : 2;
  Entry entry;
  entry.interrupt_gate = (gate.type() & 7) == kInterruptGate16;
  entry.code = handler_segment(code, gate.gate_selector(), new_cpl);
  entry.rip = width == 4 ? gate.gate_offset32() : gate.gate_offset32() & 0xffff;
  entry.leave_v86 = state.virtual8086();
  StackCursor stack = StackCursor::current(context);
  stack.fault_code = event.ext();
  if (inner) {
    StackPointer pointer = GUEST_TRY(stack_from_tss(context, new_cpl, event.ext()));
    stack.segment = GUEST_TRY(inner_stack_segment(context, pointer.selector, new_cpl, event.ext()));
    stack.sp = pointer.sp;
    stack.mask = stack.segment.default_big() ? 0xffffffff : 0xffff;
    stack.fault_code = selector_error(pointer.selector, event.ext());
  }
  stack.mmu = frame_mmu(new_cpl);
  GUEST_TRY(check_rip(context, entry.code, entry.rip, event.ext()));
  GUEST_TRY(set_descriptor_type_bits(context, code, 1));
  // The pushes below must see the new segment, not virtual-8086 rules: StackCursor checks limits in both.
  if (inner) {
    if (entry.leave_v86) GUEST_TRY(push_v86_segments(context, stack, width));
    GUEST_TRY(stack.push(state.segment[cpu::kSs].selector, width));
    GUEST_TRY(stack.push(state.gpr[cpu::kRsp], width));
  }
  GUEST_TRY(stack.push(event.pushed_flags, width));
  GUEST_TRY(stack.push(state.segment[cpu::kCs].selector, width));
  GUEST_TRY(stack.push(event.return_rip, width));
  if (event.has_error_code) GUEST_TRY(stack.push(event.error_code, width));
  entry.stack = stack.segment;
  entry.rsp = stack.merged(state.gpr[cpu::kRsp]);
  commit(context, entry);
  return Next::kDispatch;
}

Fallible<Next> deliver(Context& context, const Event& event) {
  if (!context.state.protected_mode()) return deliver_real(context, event);
  Descriptor gate = GUEST_TRY(read_gate(context, event));
  if (context.state.long_mode_active()) return deliver_long(context, event, gate);
  if (gate.type() == kTaskGate)
    return switch_task(context, {.selector = gate.gate_selector(),
                                 .cause = TaskSwitchCause::kEvent,
                                 .saved_rip = event.return_rip,
                                 .saved_flags = event.pushed_flags,
                                 .ext = event.ext(),
                                 .has_error_code = event.has_error_code,
                                 .error_code = event.error_code});
  return deliver_protected(context, event, gate);
}

// Faults push RF set, so that an instruction breakpoint does not fire again at return. Of the debug exceptions only
// general detection is such a fault. [SDM-3B 17.3.1.1]
bool is_fault(uint8_t vector) {
  switch (vector) {
    case kDebugException:
    case kNmi:
    case kBreakpoint:
    case kOverflow:
    case kDoubleFault:
    case kMachineCheck: return false;
    default: return true;
  }
}

enum class FaultClass : uint8_t { kBenign, kContributory, kPageFault, kDoubleFault };

FaultClass fault_class(uint8_t vector) {
  switch (vector) {
    case kDivideError:
    case kInvalidTss:
    case kSegmentNotPresent:
    case kStackFault:
    case kGeneralProtection: return FaultClass::kContributory;
    case kPageFault: return FaultClass::kPageFault;
    case kDoubleFault: return FaultClass::kDoubleFault;
    default: return FaultClass::kBenign;
  }
}

// Whether `second`, raised while `first` was being delivered, makes a double fault. [SDM-3A 6.15, table 6-5]
bool makes_double_fault(FaultClass first, FaultClass second) {
  if (first == FaultClass::kContributory) return second == FaultClass::kContributory;
  if (first == FaultClass::kPageFault) return second == FaultClass::kContributory || second == FaultClass::kPageFault;
  return false;
}

// Delivers `event`; faults on the way become events of their own until one gets through or the processor
// shuts down. `first` is the class of what is being delivered.
Next deliver_with_faults(Context& context, Event event, FaultClass first) {
  // A benign exception whose handler's own frame raises it again (#AC does) would go round for ever.
  constexpr unsigned kMaximumRounds = 8;
  for (unsigned round = 0;; ++round) {
    Fallible<Next> result = round < kMaximumRounds ? deliver(context, event) : Next::kShutdown;
    if (result) {
      context.state.sti_shadow = false;
      context.state.mov_ss_shadow = false;
      return *result;
    }
    const Exception& second = result.error();
    FaultClass second_class = fault_class(second.vector);
    if (first == FaultClass::kDoubleFault) return Next::kShutdown;
    if (second.vector == kPageFault) context.state.cr2 = second.address;
    event.software = false;
    event.return_rip = context.state.rip;
    if (makes_double_fault(first, second_class)) {
      event.vector = kDoubleFault;
      event.has_error_code = true;
      event.error_code = 0;
      first = FaultClass::kDoubleFault;
    } else {
      event.vector = second.vector;
      event.has_error_code = second.has_error_code;
      event.error_code = second.error_code;
      first = second_class;
    }
    event.pushed_flags = context.rflags() | (is_fault(event.vector) ? rf::kRf : 0);
  }
}

}  // namespace

Next deliver_exception(Context& context, const Exception& exception) {
  if (exception.vector == kPageFault) context.state.cr2 = exception.address;
  if (exception.vector == kDebugException) report_debug_exception(context, exception.dr6_bits);
  Event event{
      .vector = exception.vector, .has_error_code = exception.has_error_code, .error_code = exception.error_code};
  event.return_rip = context.state.rip;
  bool fault = is_fault(exception.vector) || (exception.dr6_bits & kDr6GeneralDetect);
  event.pushed_flags = context.rflags() | (fault ? rf::kRf : 0);
  return deliver_with_faults(context, event, fault_class(exception.vector));
}

Next deliver_interrupt(Context& context, uint8_t vector) {
  if (vector == kNmi) context.state.nmi_blocked = true;
  Event event{.vector = vector, .return_rip = context.state.rip, .pushed_flags = context.rflags()};
  return deliver_with_faults(context, event, FaultClass::kBenign);
}

bool virtual_interrupt_due(const Context& context) {
  constexpr uint64_t kBoth = rf::kVif | rf::kVip;
  return (context.state.rflags & kBoth) == kBoth && virtual_interrupt_flag(context);
}

Fallible<Next> software_interrupt(Context& context, uint8_t vector, uint64_t next_rip) {
  Event event{.vector = vector, .software = true, .return_rip = next_rip, .pushed_flags = context.rflags()};
  return deliver(context, event);
}

namespace {

// Whether the software interrupt redirection bitmap, below the I/O permission bitmap in the TSS, sends INT n to the
// virtual-8086 program's own handler: its bit is clear. [SDM-3B 21.3.3]
Fallible<bool> redirected(Context& context, uint8_t vector) {
  const Segment& tss = context.state.segment[cpu::kTr];
  constexpr unsigned kMapOffset = 0x66, kBitmapBytes = 32;
  if (!tss.usable() || !(tss.type() & 8) || tss.limit < kMapOffset + 1) return gp0();
  auto read = [&](uint64_t offset, unsigned size) {
    return read_linear(context, wrap_linear(context, tss.base + offset), size, MmuIndex::kSupervisor);
  };
  const uint64_t map = GUEST_TRY(read(kMapOffset, 2));
  const uint64_t offset = map - kBitmapBytes + vector / 8;
  if (map < kBitmapBytes || offset > tss.limit) return gp0();
  return !((GUEST_TRY(read(offset, 1)) >> (vector & 7)) & 1);
}

// Through the 8086 program's interrupt table, as in real mode; IF or, below IOPL 3, VIF is cleared. [SDM-3B 21.3.3]
Fallible<Next> deliver_to_v86_program(Context& context, uint8_t vector, uint64_t return_rip) {
  const uint64_t target = GUEST_TRY(read_linear(context, vector * 4u, 4, MmuIndex::kUser));
  const uint64_t flags = context.rflags();
  const bool virtual_if = vme_active(context);
  StackCursor stack = StackCursor::current(context);
  GUEST_TRY(stack.push((virtual_if ? flags_with_virtual_if(flags) : flags) & 0xffff, 2));
  GUEST_TRY(stack.push(context.state.segment[cpu::kCs].selector, 2));
  GUEST_TRY(stack.push(return_rip & 0xffff, 2));
  context.set_rflags(flags & ~(rf::kTf | (virtual_if ? rf::kVif : rf::kIf)));
  context.state.gpr[cpu::kRsp] = stack.merged(context.state.gpr[cpu::kRsp]);
  set_code(context, v86_segment(static_cast<uint16_t>(target >> 16)), target & 0xffff);
  return Next::kDispatch;
}

}  // namespace

namespace op {

RHEA_SYSTEM_FUNCTION(int_n) {
  const cpu::CpuState& state = context.state;
  const auto vector = static_cast<uint8_t>(insn.imm);
  if (state.protected_mode() && state.virtual8086() && (state.cr4 & cpu::cr4::kVme) &&
      GUEST_TRY(redirected(context, vector)))
    return deliver_to_v86_program(context, vector, next_rip(context, insn));
  if (state.protected_mode() && state.virtual8086() && (state.rflags & rf::kIopl) != rf::kIopl) return gp0();
  return software_interrupt(context, vector, next_rip(context, insn));
}

RHEA_SYSTEM_FUNCTION(int3) { return software_interrupt(context, kBreakpoint, next_rip(context, insn)); }

RHEA_SYSTEM_FUNCTION(into) {
  if (context.state.code64()) return undefined();
  if (!flag(context, rf::kOf)) return finish(context, insn);
  return software_interrupt(context, kOverflow, next_rip(context, insn));
}

// A #DB trap that no DR6 bit explains; the gate's DPL is not checked. [SDM-2A INT1]
RHEA_SYSTEM_FUNCTION(int1) {
  uint64_t own = context.state.rip;
  context.state.rip = next_rip(context, insn);
  context.state.dr[7] &= ~kDr7GeneralDetect;
  Event event{.vector = kDebugException, .return_rip = context.state.rip, .pushed_flags = context.rflags()};
  Fallible<Next> result = deliver(context, event);
  if (!result) context.state.rip = own;
  return result;
}

}  // namespace op

}  // namespace rhea::dbt
