// SPDX-License-Identifier: Apache-2.0
// FXSAVE, FXRSTOR and the XSAVE family, in both formats. [SDM-1 10.5, 13.7-13.12]
//
// The image that the host's XSAVE made of the live registers is rearranged into what the guest asked for. The
// pointers to the last x87 instruction are the guest's own (Context::fpu_*), never the host's; the selectors
// beside them are zero, as on processors that deprecate them.
#include "dbt/inject_bug.h"
#include "dbt/system/xsave_image.h"

namespace rhea::dbt {

namespace {

// An area in guest memory that was checked as a whole before any of it is accessed.
class GuestArea {
 public:
  GuestArea(Context& context, uint64_t linear, unsigned size_bytes, Access access)
      : context_(context),
        linear_(linear),
        mmu_(current_mmu(context)),
        host_(static_cast<std::byte*>(tlb_lookup(context, linear, size_bytes, access, mmu_))) {}

  // All of it lies in one page that may be accessed.
  bool direct() const { return host_ != nullptr; }
  Fallible<void> write(unsigned offset, const std::byte* data, unsigned size_bytes) {
    if (host_ != nullptr) {
      copy_bytes(host_ + offset, data, size_bytes);
      return {};
    }
    return write_linear_bytes(context_, wrap_linear(context_, linear_ + offset), data, size_bytes, mmu_);
  }
  Fallible<void> write_value(unsigned offset, uint64_t value, unsigned size_bytes) {
    std::byte bytes[8];
    store_host(bytes, value, size_bytes);
    return write(offset, bytes, size_bytes);
  }
  Fallible<void> read(unsigned offset, std::byte* out, unsigned size_bytes) {
    if (host_ != nullptr) {
      copy_bytes(out, host_ + offset, size_bytes);
      return {};
    }
    return read_linear_bytes(context_, wrap_linear(context_, linear_ + offset), out, size_bytes, mmu_);
  }

 private:
  Context& context_;
  uint64_t linear_;
  MmuIndex mmu_;
  std::byte* host_;
};

// Checks alignment and segment of the area and the pages of what follows the first `skipped` bytes.
Fallible<GuestArea> open_area(Context& context, const Insn& insn, unsigned size_bytes, Access access,
                              unsigned alignment, unsigned skipped = 0) {
  uint64_t linear = GUEST_TRY(operand_address(context, insn, size_bytes, access));
  // Where alignment checks are on, what is not even aligned to four bytes raises #AC instead.
  GUEST_TRY(check_alignment(context, linear, 4));
  if (linear & (alignment - 1)) return gp0();
  GuestArea area(context, linear, size_bytes, access);
  if (!area.direct()) {
    uint64_t last = wrap_linear(context, linear + size_bytes - 1);
    linear = wrap_linear(context, linear + skipped);
    GUEST_TRY(translate(context, linear, access, current_mmu(context)));
    if ((linear ^ last) & ~(memory::kPageSize - 1)) GUEST_TRY(translate(context, last, access, current_mmu(context)));
  }
  return area;
}

// ---- components ----

struct Component {
  unsigned size = 0;
  unsigned offset = 0;   // in the standard format
  bool aligned = false;  // to 64 bytes in the compacted format
};

Component component(const Context& context, unsigned index) {
  cpu::CpuidResult leaf = static_cpuid(context, 0xd, index);
  return {.size = leaf.eax, .offset = leaf.ebx, .aligned = (leaf.ecx & 2) != 0};
}

// Calls visit(index, offset, component) for the extended components of `mask` in the given layout; `layout` is
// XCOMP_BV, or zero for the standard format. Returns the end of the last one.
template <class Visit>
Fallible<unsigned> for_each_extended(const Context& context, uint64_t mask, uint64_t layout, Visit visit) {
  unsigned end = kExtendedStart, next = kExtendedStart;
  for (unsigned index = 2; index < 63; ++index) {
    uint64_t bit = uint64_t{1} << index;
    if (!((mask | layout) & bit)) continue;
    Component info = component(context, index);
    unsigned offset = info.offset;
    if (layout & kCompacted) {
      if (!(layout & bit)) continue;
      offset = info.aligned ? (next + 63) & ~63u : next;
      next = offset + info.size;
    }
    if (!(mask & bit)) continue;
    if (offset + info.size > cpu::kXsaveAreaBytes) continue;  // CPUID of a broken model
    GUEST_TRY(visit(index, offset, info));
    if (offset + info.size > end) end = offset + info.size;
  }
  return end;
}

unsigned area_end(const Context& context, uint64_t mask, uint64_t layout) {
  Fallible<unsigned> end = for_each_extended(context, mask, layout,
                                             [](unsigned, unsigned, const Component&) -> Fallible<void> { return {}; });
  return *end;
}

// 64-bit mode has sixteen vector registers, with AVX-512 thirty-two; the others see, and touch, eight.
unsigned xmm_bytes(const Context& context) { return context.state.code64() ? 256 : 128; }
unsigned extended_bytes(const Context& context, unsigned index, unsigned size) {
  if (context.state.code64()) return size;
  const uint64_t bit = uint64_t{1} << index;
  if (bit == kHighZmmComponent) return 0;
  return bit & (kAvxComponent | kUpperZmmComponent) ? size / 2 : size;
}

bool x87_in_use(Context& context) {
  return (image_field(context, kXstateBv, 8) & kX87Component) || context.fpu_fip || context.fpu_fdp || context.fpu_fop;
}

// XINUSE of the live state. [SDM-1 13.6]
uint64_t in_use(Context& context) {
  uint64_t mask = image_field(context, kXstateBv, 8) & ~kX87Component;
  if (!context.state.code64()) mask &= ~kHighZmmComponent;  // out of sight
  return mask | (x87_in_use(context) ? kX87Component : 0);
}

// ---- the legacy region ----

Fallible<void> write_x87(Context& context, GuestArea& area, bool wide) {
  std::byte bytes[160];
  copy_bytes(bytes, image(context), 160);
  store_host(bytes + 5, 0, 1);
  store_host(bytes + kFop, context.fpu_fop & 0x7ff, 2);
  store_host(bytes + kFip, wide ? context.fpu_fip : context.fpu_fip & 0xffffffff, 8);
  store_host(bytes + kFdp, wide ? context.fpu_fdp : context.fpu_fdp & 0xffffffff, 8);
  GUEST_TRY(area.write(0, bytes, 24));
  return area.write(kSt0, bytes + kSt0, 128);
}

Fallible<void> write_mxcsr(Context& context, GuestArea& area) { return area.write(kMxcsr, image(context) + kMxcsr, 8); }
Fallible<void> write_xmm(Context& context, GuestArea& area) {
  return area.write(kXmm0, image(context) + kXmm0, xmm_bytes(context));
}

void load_x87(Context& context, const std::byte* legacy, bool wide) {
  std::byte* live = image(context);
  copy_bytes(live, legacy, kFop);
  copy_bytes(live + kSt0, legacy + kSt0, 128);
  store_host(live + 5, 0, 1);
  zero_bytes(live + kFop, kMxcsr - kFop);  // the host's pointers mean nothing
  context.fpu_fop = static_cast<uint16_t>(load_host(legacy + kFop, 2) & 0x7ff);
  // Pointers are kept as wide as linear addresses are.
  context.fpu_fip =
      wide ? static_cast<uint64_t>(sign_extend(load_host(legacy + kFip, 6), 6)) : load_host(legacy + kFip, 4);
  context.fpu_fdp =
      wide ? static_cast<uint64_t>(sign_extend(load_host(legacy + kFdp, 6), 6)) : load_host(legacy + kFdp, 4);
  mark_in_use(context, kX87Component);
}

void initialise_x87(Context& context) {
  zero_bytes(image(context), kMxcsr);
  zero_bytes(image(context) + kSt0, 128);
  set_image_field(context, kFcw, 2, kDefaultFcw);
  set_image_field(context, kXstateBv, 8, image_field(context, kXstateBv, 8) & ~kX87Component);
  context.fpu_fop = 0;
  context.fpu_fip = context.fpu_fdp = 0;
}

bool mxcsr_valid(Context& context, uint64_t value) {
  uint64_t mask = image_field(context, kMxcsrMask, 4);
  return (value & ~(mask ? mask : 0xffbf)) == 0;
}

// ---- saving ----

Fallible<void> require_xsave(const Context& context) {
  if (!(context.state.cr4 & cpu::cr4::kOsxsave)) return undefined();
  if (context.state.cr0 & cpu::cr0::kTs) return raise(kDeviceNotAvailable);
  return {};
}

uint64_t instruction_mask(const Context& context) {
  return (context.state.gpr[cpu::kRdx] << 32) | (context.state.gpr[cpu::kRax] & 0xffffffff);
}

enum class SaveKind : uint8_t { kPlain, kOptimised, kCompact, kSupervisor };

// Writes components of `saved` in the layout given; MXCSR goes with what the instruction says.
Fallible<void> write_components(Context& context, GuestArea& area, uint64_t saved, uint64_t layout, bool wide,
                                bool mxcsr) {
  if (saved & kX87Component) GUEST_TRY(write_x87(context, area, wide));
  if (mxcsr) GUEST_TRY(write_mxcsr(context, area));
  if (saved & kSseComponent) GUEST_TRY(write_xmm(context, area));
  GUEST_TRY(for_each_extended(context, saved, layout, [&](unsigned index, unsigned offset, const Component& info) {
    return area.write(offset, image(context) + info.offset, extended_bytes(context, index, info.size));
  }));
  return {};
}

Fallible<Next> save(Context& context, const Insn& insn, SaveKind kind) {
  GUEST_TRY(require_xsave(context));
  if (kind == SaveKind::kSupervisor) GUEST_TRY(require_cpl0(context));
  bool compact = kind == SaveKind::kCompact || kind == SaveKind::kSupervisor;
  uint64_t enabled = context.state.xcr0 | (kind == SaveKind::kSupervisor ? context.state.xss : 0);
  uint64_t wanted = instruction_mask(context) & enabled;
  save_vectors(context);
  uint64_t used = in_use(context);
  // MXCSR may differ from its initial value while XINUSE says that SSE state does not. [SDM-1 13.10, 13.11]
  if (compact && image_field(context, kMxcsr, 4) != kDefaultMxcsr) used |= kSseComponent;
  uint64_t saved = kind == SaveKind::kPlain ? wanted : wanted & used;
  uint64_t layout = compact ? wanted | kCompacted : 0;
  bool mxcsr = compact ? (saved & kSseComponent) != 0 : (wanted & (kSseComponent | kAvxComponent)) != 0;
  unsigned skipped = mxcsr || (saved & kX87Component) ? 0 : kLegacyBytes;
  // ZMM16-31 have their room checked where they are out of sight, too.
  uint64_t checked = saved | (wanted & image_field(context, kXstateBv, 8) & kHighZmmComponent);
  GuestArea area = GUEST_TRY(open_area(context, insn, area_end(context, checked, layout), Access::kWrite, 64, skipped));
  uint64_t state_bv = wanted & used;
  if (!compact) {
    std::byte old[8];
    GUEST_TRY(area.read(kXstateBv, old, 8));
    if (!injected(context, 78)) state_bv |= load_host(old, 8) & ~wanted;
  }
  GUEST_TRY(write_components(context, area, saved, layout, insn.rex_w, mxcsr));
  if (compact) GUEST_TRY(area.write_value(kXcompBv, layout, 8));
  GUEST_TRY(area.write_value(kXstateBv, state_bv, 8));
  return finish(context, insn);
}

// ---- restoring ----

struct Header {
  uint64_t state_bv = 0;
  uint64_t layout = 0;  // XCOMP_BV
};

Fallible<Header> read_header(Context& context, GuestArea& area, bool supervisor) {
  std::byte bytes[kXsaveHeaderBytes];
  GUEST_TRY(area.read(kXstateBv, bytes, kXsaveHeaderBytes));
  Header header{load_host(bytes, 8), load_host(bytes + 8, 8)};
  uint64_t enabled = context.state.xcr0 | (supervisor ? context.state.xss : 0);
  if (!(header.layout & kCompacted)) {
    // Standard format: XCOMP_BV and the eight bytes after it are zero. [SDM-1 13.8.1]
    if (supervisor || (header.state_bv & ~enabled) || header.layout || load_host(bytes + 16, 8)) return gp0();
    return header;
  }
  bool compaction = static_cpuid(context, 0xd, 1).eax & 2;
  if (!compaction || (header.layout & ~kCompacted & ~enabled) || (header.state_bv & ~(header.layout & ~kCompacted)))
    return gp0();
  for (unsigned offset = 16; offset < kXsaveHeaderBytes; offset += 8)
    if (load_host(bytes + offset, 8)) return gp0();
  return header;
}

// What is read before anything changes.
struct Restored {
  alignas(64) std::byte bytes[cpu::kXsaveAreaBytes];  // in the standard format
};

Fallible<void> read_components(Context& context, GuestArea& area, const Header& header, uint64_t loaded, bool mxcsr,
                               Restored& restored) {
  if (loaded & kX87Component) {
    GUEST_TRY(area.read(0, restored.bytes, 24));
    GUEST_TRY(area.read(kSt0, restored.bytes + kSt0, 128));
  }
  if (mxcsr) {
    GUEST_TRY(area.read(kMxcsr, restored.bytes + kMxcsr, 4));
    if (!mxcsr_valid(context, load_host(restored.bytes + kMxcsr, 4))) return gp0();
  }
  if (loaded & kSseComponent) GUEST_TRY(area.read(kXmm0, restored.bytes + kXmm0, xmm_bytes(context)));
  GUEST_TRY(
      for_each_extended(context, loaded, header.layout, [&](unsigned index, unsigned offset, const Component& info) {
        return area.read(offset, restored.bytes + info.offset, extended_bytes(context, index, info.size));
      }));
  return {};
}

void apply_component(Context& context, unsigned offset, unsigned size, const std::byte* from) {
  if (from != nullptr) {
    copy_bytes(image(context) + offset, from + offset, size);
  } else {
    zero_bytes(image(context) + offset, size);
  }
}

// Puts what was read, or initial values, into the live image: `loaded` of `wanted`.
void apply(Context& context, const Restored& restored, uint64_t wanted, uint64_t loaded, bool wide) {
  if (wanted & kX87Component) {
    if (loaded & kX87Component) {
      load_x87(context, restored.bytes, wide);
    } else {
      initialise_x87(context);
    }
  }
  if (wanted & kSseComponent) {
    apply_component(context, kXmm0, xmm_bytes(context), loaded & kSseComponent ? restored.bytes : nullptr);
    mark_in_use(context, kSseComponent);
  }
  for (unsigned index = 2; index < 63; ++index) {
    uint64_t bit = uint64_t{1} << index;
    if (!(wanted & bit)) continue;
    Component info = component(context, index);
    if (info.offset + info.size > cpu::kXsaveAreaBytes) continue;
    unsigned size = extended_bytes(context, index, info.size);
    apply_component(context, info.offset, size, loaded & bit ? restored.bytes : nullptr);
    mark_in_use(context, bit);
    // All of it back in its initial state, so that XINUSE says so.
    if (!(loaded & bit) && size == info.size)
      set_image_field(context, kXstateBv, 8, image_field(context, kXstateBv, 8) & ~bit);
  }
  if ((wanted & kSseComponent) && !(loaded & kSseComponent) && context.state.code64())
    set_image_field(context, kXstateBv, 8, image_field(context, kXstateBv, 8) & ~kSseComponent);
}

Fallible<Next> restore(Context& context, const Insn& insn, bool supervisor) {
  GUEST_TRY(require_xsave(context));
  if (supervisor) GUEST_TRY(require_cpl0(context));
  uint64_t enabled = context.state.xcr0 | (supervisor ? context.state.xss : 0);
  uint64_t wanted = instruction_mask(context) & enabled;
  GuestArea head = GUEST_TRY(open_area(context, insn, kExtendedStart, Access::kRead, 64, kLegacyBytes));
  Header header = GUEST_TRY(read_header(context, head, supervisor));
  uint64_t loaded = wanted & header.state_bv;
  bool compact = header.layout & kCompacted;
  // In the standard format the processor looks at all that could be asked for, in its initial state or not.
  bool mxcsr = compact ? (loaded & kSseComponent) != 0 : (wanted & (kSseComponent | kAvxComponent)) != 0;
  uint64_t touched = compact ? loaded : wanted;
  unsigned skipped = mxcsr || (touched & kX87Component) ? 0 : kLegacyBytes;
  GuestArea area =
      GUEST_TRY(open_area(context, insn, area_end(context, touched, header.layout), Access::kRead, 64, skipped));
  save_vectors(context);
  Restored restored;
  GUEST_TRY(read_components(context, area, header, loaded, mxcsr, restored));
  apply(context, restored, wanted, loaded, insn.rex_w);
  if (mxcsr) {
    set_image_field(context, kMxcsr, 4, load_host(restored.bytes + kMxcsr, 4));
  } else if (compact && (wanted & kSseComponent)) {
    set_image_field(context, kMxcsr, 4, kDefaultMxcsr);
  }
  load_vectors(context);
  return finish(context, insn);
}

}  // namespace

Fallible<void> require_x87(const Context& context) {
  if (context.state.cr0 & (cpu::cr0::kEm | cpu::cr0::kTs)) return raise(kDeviceNotAvailable);
  return {};
}

namespace op {

RHEA_SYSTEM_FUNCTION(fxsave) {
  GUEST_TRY(require_x87(context));
  GuestArea area = GUEST_TRY(open_area(context, insn, kLegacyBytes, Access::kWrite, 16));
  save_vectors(context);
  GUEST_TRY(
      write_components(context, area, kX87Component | kSseComponent, 0, insn.rex_w && !injected(context, 79), true));
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(fxrstor) {
  GUEST_TRY(require_x87(context));
  GuestArea area = GUEST_TRY(open_area(context, insn, kLegacyBytes, Access::kRead, 16));
  save_vectors(context);
  Restored restored;
  constexpr uint64_t kBoth = kX87Component | kSseComponent;
  GUEST_TRY(read_components(context, area, Header{}, kBoth, true, restored));
  apply(context, restored, kBoth, kBoth, insn.rex_w);
  if (!injected(context, 77)) set_image_field(context, kMxcsr, 4, load_host(restored.bytes + kMxcsr, 4));
  load_vectors(context);
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(xsave) { return save(context, insn, SaveKind::kPlain); }
RHEA_SYSTEM_FUNCTION(xsaveopt) { return save(context, insn, SaveKind::kOptimised); }
RHEA_SYSTEM_FUNCTION(xsavec) { return save(context, insn, SaveKind::kCompact); }
RHEA_SYSTEM_FUNCTION(xsaves) { return save(context, insn, SaveKind::kSupervisor); }
RHEA_SYSTEM_FUNCTION(xrstor) { return restore(context, insn, false); }
RHEA_SYSTEM_FUNCTION(xrstors) { return restore(context, insn, true); }

}  // namespace op

}  // namespace rhea::dbt
