// SPDX-License-Identifier: Apache-2.0
// System functions, exceptions raised by decoding, flags outside the arithmetic ones, time stamps.
#include "dbt/inject_bug.h"
#include "dbt/runtime/entry_points.h"
#include "dbt/x86/block_builder.h"

namespace rhea::dbt {

using isa::x86::RowId;

void BlockBuilder::system(const Insn& insn) {
  auto* record = runtime_.arena().make<InsnRecord>();
  record->insn = insn;
  record->guest_offset = static_cast<uint16_t>(offset_);
  record->masked_memory = isa::x86::row_info(insn.row).translation == isa::x86::Translation::kMaskMem;
  e_.mov_imm64(kScratchB, reinterpret_cast<uint64_t>(record));
  e_.call(runtime_.thunks().system);
  // Whatever the function changed that translations depend on, it did not return here.
  emit_exit(static_cast<int64_t>(offset_) + insn.length, mode_);
  ended_ = true;
}

void BlockBuilder::raise_here(uint8_t vector, bool with_error_code) {
  e_.mov_imm32(kScratchC, vector | (with_error_code ? 0x100u : 0));
  e_.call(runtime_.thunks().raise);
  ended_ = true;
}

void BlockBuilder::interrupt_flag(const Insn& insn) {
  if (!(mode_ & mode::kCplZero) || linkable() == false) {
    system(insn);
    return;
  }
  if (insn.row == RowId::CLI) {
    e_.store8_imm(context_field(offsetof(Context, interrupt_flag)), 0);
    return;
  }
  // An interrupt may come after the next instruction at the earliest: that one belongs to the same block, where nothing
  // is polled before it. With one waiting already, the dispatcher sees to that.
  e_.load8(kScratchC, context_field(offsetof(Context, interrupt_flag)));
  e_.store8(context_field(offsetof(Context, scratch) + 40), kScratchC);
  e_.store8_imm(context_field(offsetof(Context, interrupt_flag)), 1);
  e_.load32(kScratchC, context_field(offsetof(Context, irq_pending)));
  e_.jrcxz_skip(5);
  uint8_t* const waiting = e_.jmp_open();
  shadow_open_ = true;
  defer([this, waiting, next = static_cast<int64_t>(offset_) + insn.length] {
    e_.bind32(waiting);
    if (runtime_.options().instruction_clock) {  // the rest of the block was counted
      const HostMem left = context_field(offsetof(Context, instructions_left));
      e_.load64(kScratchB, left);
      e_.lea64(kScratchB,
               {.base = kScratchB, .displacement = static_cast<int32_t>(block_->instruction_count - count_)});
      e_.store64(left, kScratchB);
    }
    emit_shadow(next);
  });
}

// After STI: holds interrupts off for the instruction at `next_offset`, unless they were enabled before.
void BlockBuilder::emit_shadow(int64_t next_offset) {
  e_.load8(kScratchC, context_field(offsetof(Context, scratch) + 40));
  e_.op_reg({.opcode = 0xf7}, 2, kScratchC);  // not: 1 - x is ~x + 2, and leaves the flags alone
  e_.lea32(kScratchC, {.base = kScratchC, .displacement = 2});
  if (injected(context_, 43)) e_.mov_imm32(kScratchC, 0);
  e_.store8(context_field(offsetof(Context, state) + offsetof(cpu::CpuState, sti_shadow)), kScratchC);
  emit_target_ip(next_offset);
  e_.jmp(runtime_.thunks().dispatch);
}

// PAUSE. Where there are more vCPUs than processors, a guest that spins waits for one that cannot run while it does.
void BlockBuilder::pause() {
  e_.u8(0xf3);
  e_.u8(0x90);
  if (!runtime_.space().crowded() || !linkable()) return;
  const HostMem left = context_field(offsetof(Context, pauses_left));
  e_.load32(kScratchC, left);
  uint8_t* const none = e_.jrcxz_open();
  e_.lea32(kScratchC, {.base = kScratchC, .displacement = -1});
  e_.store32(left, kScratchC);
  e_.u8(0xeb);
  uint8_t* const go = e_.position();
  e_.u8(0);
  e_.bind8(none);
  e_.store8_imm(context_field(offsetof(Context, yield_wanted)), 1);
  emit_target_ip(static_cast<int64_t>(offset_) + insn_->length);
  e_.jmp(runtime_.thunks().dispatch);
  e_.bind8(go);
}

void BlockBuilder::access_control(const Insn& insn) {
  if (!(mode_ & mode::kCplZero)) {
    raise_here(kInvalidOpcode);
    return;
  }
  if (!(mode_ & mode::kSmap)) {  // the MMU index does not tell AC
    system(insn);
    return;
  }
  const bool set = insn.row == RowId::STAC;
  const MmuIndex after = set ? MmuIndex::kSupervisorAc : MmuIndex::kSupervisor;
  if (mode::mmu(mode_) == after) return;
  // AC is bit 18, and the mode word knows its value: adding or subtracting it needs no flags.
  const HostMem byte = context_field(offsetof(Context, state) + offsetof(cpu::CpuState, rflags) + 2);
  e_.load8(kScratchC, byte);
  e_.lea32(kScratchC, {.base = kScratchC, .displacement = set ? 4 : -4});
  e_.store8(byte, kScratchC);
  emit_exit(static_cast<int64_t>(offset_) + insn.length, mode::with_mmu(mode_, after));
  ended_ = true;
}

void BlockBuilder::read_tsc(const Insn& insn) {
  if ((mode_ & mode::kTscRestricted) || runtime_.options().instruction_clock || !context_.clock->tsc_is_host_tsc()) {
    system(insn);
    return;
  }
  e_.u8(0x0f);
  e_.u8(0x31);  // rdtsc
  e_.rorx64(kHRdx, kHRdx, 32);
  e_.lea64(kHRax, {.base = kHRax, .index = kHRdx});
  e_.load64(kScratchC, context_field(offsetof(Context, tsc_offset)));
  e_.lea64(kHRax, {.base = kHRax, .index = kScratchC});
  e_.rorx64(kHRdx, kHRax, 32);
  e_.mov32(kHRdx, kHRdx);
  e_.mov32(kHRax, kHRax);
  if (insn.row == RowId::RDTSCP && !injected(context_, 44))
    e_.load32(kGuestRcx, context_field(offsetof(Context, state) + offsetof(cpu::CpuState, tsc_aux)));
}

}  // namespace rhea::dbt
