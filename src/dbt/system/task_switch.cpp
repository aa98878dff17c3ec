// SPDX-License-Identifier: Apache-2.0
// Hardware task switching: 16- and 32-bit TSS. [SDM-3A 7.2.1, 7.2.6, 7.3]
//
// In this order: everything that can fail is looked at in the old task's context; the new TSS is marked busy, which is
// the one step that processors race for; the old state is saved; the new one is loaded; and then, in the new task's
// context, the segments it names are checked. The manual leaves the order of those last checks to the model: it is
// LDTR, CS, SS and the data segments here.
//
// Choices: an old TSS too short for its registers raises #TS for it. A 16-bit TSS leaves the upper half of the 32-bit
// registers all ones and FS and GS null, as the 80386 did.
#include "dbt/system/task_switch.h"

#include "dbt/system/internal.h"

namespace rhea::dbt {

using cpu::Segment;
namespace rf = cpu::rflags;

namespace {

constexpr unsigned kLinkOffset = 0, kCr3Offset = 0x1c, kTrapOffset = 0x64;
constexpr unsigned kGprs = 8;

// Where a TSS keeps what.
struct Layout {
  unsigned size_bytes;  // the least limit is one less
  unsigned width;       // of EIP, EFLAGS and general registers
  unsigned ip, flags, gprs, segments, segment_stride, segment_count, ldt;
};
constexpr Layout kLayout16{0x2c, 2, 0x0e, 0x10, 0x12, 0x22, 2, 4, 0x2a};
constexpr Layout kLayout32{0x68, 4, 0x20, 0x24, 0x28, 0x48, 4, 6, 0x60};

const Layout& layout_of(unsigned type) { return type & 8 ? kLayout32 : kLayout16; }

struct Tss {
  Descriptor descriptor;
  const Layout* layout = nullptr;
  uint64_t base = 0;
};

// What the new TSS holds.
struct Image {
  uint64_t rip = 0, flags = 0, cr3 = 0;
  uint64_t gpr[kGprs] = {};
  uint16_t selector[6] = {};
  uint16_t ldt = 0;
  bool trap = false;
};

Fallible<uint64_t> read_field(Context& context, uint64_t base, unsigned offset, unsigned size_bytes) {
  return read_linear(context, wrap_linear(context, base + offset), size_bytes, MmuIndex::kSupervisor);
}
Fallible<void> write_field(Context& context, uint64_t base, unsigned offset, uint64_t value, unsigned size_bytes) {
  return write_linear(context, wrap_linear(context, base + offset), value, size_bytes, MmuIndex::kSupervisor);
}

// The new TSS's descriptor with all the checks that name it. [SDM-3A 7.3, table 7-1]
Fallible<Tss> read_new_tss(Context& context, const TaskSwitch& request) {
  bool returning = request.cause == TaskSwitchCause::kReturn;
  uint8_t vector = returning ? kInvalidTss : kGeneralProtection;
  uint32_t error = selector_error(request.selector, request.ext);
  if ((request.selector & 4) || is_null(request.selector)) return raise(vector, error);
  Tss tss;
  tss.descriptor = GUEST_TRY(read_descriptor(context, request.selector, vector, request.ext));
  unsigned type = tss.descriptor.type();
  bool fits = returning ? type == kTss16Busy || type == kTss32Busy : type == kTss16Available || type == kTss32Available;
  if (!tss.descriptor.is_system() || !fits) return raise(vector, error);
  if (!tss.descriptor.present()) return raise(kSegmentNotPresent, error);
  tss.layout = &layout_of(type);
  tss.base = tss.descriptor.base32();
  if (tss.descriptor.limit() < tss.layout->size_bytes - 1) return raise(kInvalidTss, error);
  return tss;
}

bool nests(const TaskSwitch& request) {
  return request.cause == TaskSwitchCause::kCall || request.cause == TaskSwitchCause::kEvent;
}

// Everything the switch will read and write must be mapped before it begins.
Fallible<void> probe(Context& context, const Tss& tss, const TaskSwitch& request) {
  const Segment& old = context.state.segment[cpu::kTr];
  const Layout& layout = layout_of(old.type());
  if (old.limit < layout.size_bytes - 1) return raise(kInvalidTss, selector_error(old.selector, request.ext));
  auto linear = [&](uint64_t base, unsigned offset) { return wrap_linear(context, base + offset); };
  std::byte image[kLayout32.size_bytes];
  GUEST_TRY(read_linear_bytes(context, linear(tss.base, 0), image, tss.layout->size_bytes, MmuIndex::kSupervisor));
  if (tss.layout->width == 4 && pae_paging(context.state))
    GUEST_TRY(read_pdptes(context, load_host(image + kCr3Offset, 4)));
  if (nests(request)) GUEST_TRY(probe_write(context, linear(tss.base, kLinkOffset), 2, MmuIndex::kSupervisor));
  unsigned end = layout.segments + layout.segment_stride * layout.segment_count;
  return probe_write(context, linear(old.base, layout.ip), end - layout.ip, MmuIndex::kSupervisor);
}

// Marks the new TSS busy. A processor that another one has beaten to it starts over with the descriptor.
Fallible<Tss> claim(Context& context, const TaskSwitch& request) {
  for (;;) {
    Tss tss = GUEST_TRY(read_new_tss(context, request));
    GUEST_TRY(probe(context, tss, request));
    if (request.cause == TaskSwitchCause::kReturn) return tss;
    if (GUEST_TRY(replace_descriptor_type(context, tss.descriptor, tss.descriptor.type() | 2))) return tss;
  }
}

// The old TSS is available again after JMP and IRET.
Fallible<void> release_old(Context& context) {
  const Segment& old = context.state.segment[cpu::kTr];
  if (is_null(old.selector)) return {};  // never loaded: there is no descriptor
  Descriptor descriptor;
  descriptor.linear = wrap_linear(context, context.state.gdtr.base + (old.selector & 0xfff8));
  return clear_descriptor_type_bits(context, descriptor, 2);
}

Fallible<void> save_old(Context& context, const TaskSwitch& request) {
  const cpu::CpuState& state = context.state;
  const Segment& old = state.segment[cpu::kTr];
  const Layout& layout = layout_of(old.type());
  uint64_t flags = request.saved_flags;
  if (request.cause == TaskSwitchCause::kReturn) flags &= ~rf::kNt;
  GUEST_TRY(write_field(context, old.base, layout.ip, request.saved_rip, layout.width));
  GUEST_TRY(write_field(context, old.base, layout.flags, flags, layout.width));
  for (unsigned i = 0; i < kGprs; ++i)
    GUEST_TRY(write_field(context, old.base, layout.gprs + i * layout.width, state.gpr[i], layout.width));
  for (unsigned i = 0; i < layout.segment_count; ++i) {
    uint16_t selector = state.segment[i].selector;
    GUEST_TRY(write_field(context, old.base, layout.segments + i * layout.segment_stride, selector, 2));
  }
  return {};
}

// Read after the old state is saved: the two may be one TSS.
Fallible<Image> read_image(Context& context, const Tss& tss) {
  const Layout& layout = *tss.layout;
  Image image;
  image.rip = GUEST_TRY(read_field(context, tss.base, layout.ip, layout.width));
  image.flags = GUEST_TRY(read_field(context, tss.base, layout.flags, layout.width));
  for (unsigned i = 0; i < kGprs; ++i) {
    image.gpr[i] = GUEST_TRY(read_field(context, tss.base, layout.gprs + i * layout.width, layout.width));
    if (layout.width == 2) image.gpr[i] |= 0xffff0000;
  }
  for (unsigned i = 0; i < layout.segment_count; ++i)
    image.selector[i] =
        static_cast<uint16_t>(GUEST_TRY(read_field(context, tss.base, layout.segments + i * layout.segment_stride, 2)));
  image.ldt = static_cast<uint16_t>(GUEST_TRY(read_field(context, tss.base, layout.ldt, 2)));
  if (layout.width == 4) {
    image.cr3 = GUEST_TRY(read_field(context, tss.base, kCr3Offset, 4));
    image.trap = GUEST_TRY(read_field(context, tss.base, kTrapOffset, 2)) & 1;
  }
  return image;
}

Fallible<void> load_address_space(Context& context, const Tss& tss, const Image& image) {
  cpu::CpuState& state = context.state;
  if (tss.layout->width != 4 || !(state.cr0 & cpu::cr0::kPg) || image.cr3 == state.cr3) return {};
  if (pae_paging(state)) state.pdpte = GUEST_TRY(read_pdptes(context, image.cr3));
  state.cr3 = image.cr3;
  flush_tlb(context, {.kind = FlushRequest::Kind::kNonGlobal});
  return {};
}

// All that needs no checks. From here on the context is the new task's; its segments are selectors alone.
void load_registers(Context& context, const TaskSwitch& request, const Tss& tss, const Image& image) {
  cpu::CpuState& state = context.state;
  state.segment[cpu::kTr] = to_segment(tss.descriptor, tss.descriptor.selector);
  state.segment[cpu::kTr].attributes |= 2;
  state.cr0 |= cpu::cr0::kTs;
  state.dr[7] &= ~kDr7LocalEnables;
  state.rip = image.rip;
  constexpr uint64_t kAllFlags = 0x3f7fd5;
  context.set_rflags((image.flags & kAllFlags) | rf::kFixed1 | (nests(request) ? rf::kNt : 0));
  for (unsigned i = 0; i < kGprs; ++i) state.gpr[i] = image.gpr[i];
  state.sti_shadow = state.mov_ss_shadow = false;
  bool v86 = state.virtual8086();
  unsigned cpl = v86 ? 3 : image.selector[cpu::kCs] & 3;
  for (unsigned i = 0; i < 6; ++i) {
    state.segment[i] = v86 ? v86_segment(image.selector[i]) : Segment{.limit = 0, .selector = image.selector[i]};
  }
  state.segment[cpu::kLdtr] = Segment{.limit = 0, .selector = image.ldt};
  if (v86) return;
  // Exceptions before CS and SS are loaded need the privilege level and the size of EIP.
  state.segment[cpu::kSs].attributes = static_cast<uint16_t>(cpl << 5);
  state.segment[cpu::kCs].attributes = static_cast<uint16_t>(cpl << 5 | (tss.layout->width == 4 ? 0x4000 : 0));
}

Fallible<void> load_ldt(Context& context, uint32_t ext) {
  Segment& ldtr = context.state.segment[cpu::kLdtr];
  uint16_t selector = ldtr.selector;
  if (is_null(selector)) return {};
  if (selector & 4) return raise(kInvalidTss, selector_error(selector, ext));
  Descriptor descriptor = GUEST_TRY(read_descriptor(context, selector, kInvalidTss, ext));
  if (!descriptor.is_system() || descriptor.type() != kLdt || !descriptor.present())
    return raise(kInvalidTss, selector_error(selector, ext));
  ldtr = to_segment(descriptor, selector);
  return {};
}

Fallible<void> load_code(Context& context, uint32_t ext) {
  Segment& cs = context.state.segment[cpu::kCs];
  uint16_t selector = cs.selector;
  uint32_t error = selector_error(selector, ext);
  if (is_null(selector)) return raise(kInvalidTss, error);
  Descriptor code = GUEST_TRY(read_descriptor(context, selector, kInvalidTss, ext));
  unsigned rpl = selector & 3;
  if (!code.is_code() || (code.conforming() ? code.dpl() > rpl : code.dpl() != rpl)) return raise(kInvalidTss, error);
  if (!code.present()) return raise(kSegmentNotPresent, error);
  GUEST_TRY(set_descriptor_type_bits(context, code, 1));
  cs = to_segment(code, selector);
  return {};
}

Fallible<void> load_data(Context& context, unsigned index, uint32_t ext) {
  Segment& segment = context.state.segment[index];
  uint16_t selector = segment.selector;
  uint32_t error = selector_error(selector, ext);
  if (is_null(selector)) return {};
  Descriptor descriptor = GUEST_TRY(read_descriptor(context, selector, kInvalidTss, ext));
  if (descriptor.is_system() || !descriptor.readable()) return raise(kInvalidTss, error);
  bool conforming_code = descriptor.is_code() && descriptor.conforming();
  if (!conforming_code && (descriptor.dpl() < context.state.cpl() || descriptor.dpl() < (selector & 3u)))
    return raise(kInvalidTss, error);
  if (!descriptor.present()) return raise(kSegmentNotPresent, error);
  GUEST_TRY(set_descriptor_type_bits(context, descriptor, 1));
  segment = to_segment(descriptor, selector);
  return {};
}

Fallible<void> load_segments(Context& context, uint32_t ext) {
  cpu::CpuState& state = context.state;
  GUEST_TRY(load_ldt(context, ext));
  if (state.virtual8086()) return {};
  GUEST_TRY(load_code(context, ext));
  uint16_t stack = state.segment[cpu::kSs].selector;
  state.segment[cpu::kSs] = GUEST_TRY(inner_stack_segment(context, stack, state.cpl(), ext));
  for (unsigned index : {cpu::kDs, cpu::kEs, cpu::kFs, cpu::kGs}) GUEST_TRY(load_data(context, index, ext));
  return {};
}

Fallible<void> push_error_code(Context& context, const TaskSwitch& request, unsigned width) {
  StackCursor stack = StackCursor::current(context);
  stack.fault_code = request.ext;
  GUEST_TRY(stack.push(request.error_code, width));
  context.state.gpr[cpu::kRsp] = stack.merged(context.state.gpr[cpu::kRsp]);
  return {};
}

}  // namespace

Fallible<Next> switch_task(Context& context, const TaskSwitch& request) {
  Tss tss = GUEST_TRY(claim(context, request));
  GUEST_TRY(save_old(context, request));
  if (nests(request)) {
    GUEST_TRY(write_field(context, tss.base, kLinkOffset, context.state.segment[cpu::kTr].selector, 2));
  } else {
    GUEST_TRY(release_old(context));
  }
  Image image = GUEST_TRY(read_image(context, tss));
  GUEST_TRY(load_address_space(context, tss, image));
  load_registers(context, request, tss, image);
  GUEST_TRY(load_segments(context, request.ext));
  if (request.has_error_code) GUEST_TRY(push_error_code(context, request, tss.layout->width));
  if (image.trap) context.state.debug_pending |= kDr6TaskSwitch;
  return Next::kDispatch;
}

}  // namespace rhea::dbt
