// SPDX-License-Identifier: Apache-2.0
// What the runtime offers the system functions. General registers only.
#include "dbt/inject_bug.h"
#include "dbt/runtime/entry_points.h"
#include "dbt/runtime/runtime.h"

namespace rhea::dbt {

namespace {

constexpr uint32_t kDefaultMxcsr = 0x1f80;

void xsave(Context& context, uint32_t components) {
  asm volatile("xsave64 %0" : "+m"(context.state.xsave) : "a"(components), "d"(0) : "memory");
}
void xrstor(Context& context, uint32_t components) {
  asm volatile("xrstor64 %0" : : "m"(context.state.xsave), "a"(components), "d"(0) : "memory");
}
void xsave(Context& context) { xsave(context, context.vector_components); }
void xrstor(Context& context) { xrstor(context, context.vector_components); }

}  // namespace

void flush_tlb(Context& context, const FlushRequest& request) { context.runtime->flush_tlb(request); }

void change_view(Context& context) {
  call_with_vectors_saved(
      context, [](void* runtime) { static_cast<Runtime*>(runtime)->see_ranges(); }, context.runtime);
}

void* tlb_lookup(Context& context, uint64_t linear, unsigned size_bytes, Access access, MmuIndex mmu) {
  if ((linear & 0xfff) + size_bytes > memory::kPageSize) return nullptr;
  const DataTlb& tlb = context.data_tlb[static_cast<unsigned>(mmu)];
  const uint32_t index = (linear >> 12) & (kTlbEntries - 1);
  const uint64_t tag = access == Access::kWrite ? tlb.write_tag[index] : tlb.read_tag[index];
  if (tag + (linear & ~uint64_t{0xfff}) != 0 || access == Access::kExecute) return nullptr;
  return reinterpret_cast<void*>(linear + tlb.addend[index]);
}

void note_store(Context& context, uint64_t physical, unsigned size_bytes) {
  context.runtime->invalidate(physical, size_bytes);
}

void Runtime::invalidate(uint64_t physical, uint64_t length) {
  if (space_->invalidate(physical, length)) context_.code_invalidated = 1;
}

void call_with_vectors_saved(Context& context, void (*function)(void*), void* argument) {
  if (context.vectors_saved) {  // nested: already in the context, and the live registers are ours
    function(argument);
    return;
  }
  xsave(context);
  context.vectors_saved = 1;
  asm volatile("fninit\n\tldmxcsr %0" : : "m"(kDefaultMxcsr));
  function(argument);
  context.vectors_saved = 0;
  xrstor(context);
  if (injected(context, 67)) asm volatile("ldmxcsr %0" : : "m"(kDefaultMxcsr));
}

void save_vectors(Context& context) {
  if (!context.vectors_saved) xsave(context);
  context.runtime->latch_x87_pointers();
}

void load_vectors(Context& context) {
  context.x87_last_fop = context.fpu_fop;
  context.x87_last_fdp = context.fpu_fdp;
  if (!context.vectors_saved) xrstor(context);
}

// Components that XCR0 turns on hold what the guest had in them when it turned them off, at first their initial state:
// never what the host's own code left there.
void follow_xcr0(Context& context) {
  const uint32_t old = context.vector_components, now = vector_components(context.state.xcr0);
  if (!context.vectors_saved) {
    if (old & ~now) xsave(context, old & ~now);
    if (now & ~old) xrstor(context, now & ~old);
  }
  context.vector_components = now;
}

// [SDM-1 8.1.8, 8.1.9] FIP follows every x87 instruction; FOP and FDP only those with unmasked exceptions where
// CPUID.(7,0):EBX[6] says so.
void Runtime::latch_x87_pointers() {
  const auto status = static_cast<uint8_t>(context_.state.xsave[2]);
  if (!x87_pointers_always_ && !(status & 0x80)) return;
  context_.fpu_fop = context_.x87_last_fop;
  context_.fpu_fdp = context_.x87_last_fdp;
}

ThunkResult Runtime::native_fault() {
  ++counters_.native_faults;
  bounce_.active = bounce_.code_store = false;
  set_rip_from_host(native_.pc + 1);
  Exception exception{.vector = native_.vector};
  if (native_.vector == kSimdError && !(context_.state.cr4 & cpu::cr4::kOsxmmexcpt)) exception.vector = kInvalidOpcode;
  // Addresses are checked before any access, so what is left for the host to refuse is a misaligned vector operand.
  if (native_.vector == kGeneralProtection || native_.vector == kAlignmentCheck) exception.has_error_code = true;
  return resume_with(exception);
}

ThunkResult entry_native_fault(Context* context) { return context->runtime->native_fault(); }

}  // namespace rhea::dbt
