// SPDX-License-Identifier: Apache-2.0
// The dispatcher: finds or makes the block for state.rip, takes requests and interrupts in between.
//
// General registers only: runs with the guest's vector registers in place.
#include <utility>

#include "cpu/cpu_model.h"
#include "cpu/lapic.h"
#include "dbt/inject_bug.h"
#include "dbt/runtime/entry_points.h"
#include "dbt/runtime/runtime.h"
#include "dbt/system/debug_registers.h"
#include "io/instruction_clock.h"
#include "isa/x86/rows.h"

#include <sys/syscall.h>

namespace rhea::dbt {

using cpu::kCs;

namespace {

// 16-bit code runs on behind offset 0xffff, into the segment's limit as a rule. [SDM-3B 23.34.1]
uint64_t mask_ip(uint64_t rip, uint32_t word) { return mode::code64(word) ? rip : rip & 0xffffffff; }

// Whether the code segment holds all of the block at `rip`. [SDM-3A 5.3]
bool within_code_limit(const Block& block, uint64_t rip, uint32_t limit) {
  if (limit == 0xffffffff || rip + block.guest_bytes - 1 <= limit) return true;
  uint32_t end = 0;  // guest_bytes may have bytes that were only looked at
  for (uint32_t i = 0; i < block.point_count; ++i)
    end = std::max(end, uint32_t{block.points[i].guest_offset} + block.points[i].guest_length);
  return rip + end - (block.physical & 0xfff) - 1 <= limit;
}

constexpr uint64_t kApicBaseBootstrap = 1u << 8;  // IA32_APIC_BASE.BSP

bool canonical(uint64_t address) { return static_cast<uint64_t>(static_cast<int64_t>(address << 16) >> 16) == address; }

}  // namespace

uint64_t Runtime::linear_ip(uint64_t rip) const {
  if (context_.state.code64()) return rip;
  return (rip + context_.state.segment[kCs].base) & 0xffffffff;
}

uint64_t Runtime::next_page(uint64_t linear) const {
  const uint64_t next = (linear | 0xfff) + 1;
  return context_.state.code64() ? next : next & 0xffffffff;
}

void Runtime::deliver_pending_interrupt() {
  struct Request {
    Context* context;
    int vector = -1;
    int start_vector = -1;
    bool initialise = false;
    bool system_management = false;
    bool nmi = false;
    bool more = false;
  } request{&context_};
  // The local APIC is ordinary code; the decision and the acknowledge cycle are made in one call.
  call_with_vectors_saved(
      context_,
      [](void* argument) {
        auto& r = *static_cast<Request*>(argument);
        Context& c = *r.context;
        // One SMI is kept while another is handled, or while the processor waits for a start-up IPI.
        while (c.lapic->pending() == cpu::LapicEvent::kSmi && c.lapic->take_smi()) c.state.smi_pending = true;
        if (c.state.smi_pending && !c.state.in_smm && !c.state.wait_for_sipi) {
          r.system_management = true;
          return;
        }
        // INIT waits for the end of SMM. [SDM-3C 32.6]
        if (!c.state.in_smm && c.lapic->pending() == cpu::LapicEvent::kInit && c.lapic->take_init()) {
          // Of the boot processor it is a reset, as a triple fault is on a PC.
          if (c.lapic->apic_base() & kApicBaseBootstrap)
            c.exit_reason = ExitReason::kShutdown;
          else
            r.initialise = true;
          return;
        }
        // A start-up IPI means something to a processor that waits for one. [SDM-3A 9.4.3]
        while (c.lapic->pending() == cpu::LapicEvent::kSipi) {
          const auto vector = c.lapic->take_sipi();
          if (vector && c.state.wait_for_sipi) {
            r.start_vector = *vector;
            return;
          }
        }
        if (c.state.wait_for_sipi) return;
        // A blocked NMI waits in the processor, where it does not hide interrupts.
        while (c.lapic->pending() == cpu::LapicEvent::kNmi && c.lapic->take_nmi()) c.state.nmi_pending = true;
        if (c.state.nmi_pending && !c.state.nmi_blocked) {
          c.state.nmi_pending = false;
          r.nmi = true;
          r.more = c.lapic->pending() != cpu::LapicEvent::kNone;
          return;
        }
        if (c.state.interrupt_taken) {  // by the engine that ran the guest before
          r.vector = static_cast<uint8_t>(std::exchange(c.state.interrupt_taken, 0));
          r.more = true;
          return;
        }
        switch (c.lapic->pending()) {
          case cpu::LapicEvent::kInterrupt:
            if (c.interrupt_flag) r.vector = c.lapic->acknowledge_interrupt();
            break;
          case cpu::LapicEvent::kExtInt:
            if (c.interrupt_flag) r.vector = c.irq->acknowledge_ext_int();
            break;
          default: break;
        }
        r.more = c.lapic->pending() != cpu::LapicEvent::kNone;
      },
      &request);
  if (request.system_management || request.initialise || request.start_vector >= 0) {
    if (request.system_management)
      enter_smm(context_);
    else if (request.initialise)
      initialise();
    else
      start_up(static_cast<uint8_t>(request.start_vector));
    request_exit();  // look again: more may be pending
    return;
  }
  std::atomic_ref(context_.irq_pending).store(request.more, std::memory_order_release);
  if (request.vector < 0 && !request.nmi) return;
  ++counters_.interrupts;
  context_.state.halted = false;
  const Next next =
      deliver_interrupt(context_, request.nmi ? static_cast<uint8_t>(kNmi) : static_cast<uint8_t>(request.vector));
  if (next == Next::kShutdown) context_.exit_reason = ExitReason::kShutdown;
}

// INIT: the state that the manual's table gives, then waiting for a start-up IPI. [SDM-3A 9.1.1]
void Runtime::initialise() {
  Context& c = context_;
  c.state.rflags = c.rflags();
  call_with_vectors_saved(  // ordinary C++; the vector registers stay as they are
      c,
      [](void* argument) {
        auto& context = *static_cast<Context*>(argument);
        cpu::reset_by_init(context.state, context.cpu_model->cpuid(1, 0).eax);
      },
      &c);
  c.set_rflags(c.state.rflags);
  c.state.wait_for_sipi = true;
  c.step_pending = 0;
  flush_tlb({.kind = FlushRequest::Kind::kAll});
}

void Runtime::start_up(uint8_t vector) { cpu::start_by_sipi(context_.state, vector); }

bool Runtime::handle_requests(ThunkResult& result) {
  std::atomic_ref(context_.exit_request).store(0, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (view_changed_.load(std::memory_order_acquire) || space_->smp())
    call_with_vectors_saved(
        context_,
        [](void* argument) {
          auto& self = *static_cast<Runtime*>(argument);
          self.space_->rendezvous().safepoint(self.member_);
          self.take_requests();
        },
        this);
  if (std::atomic_ref(stop_requested).load(std::memory_order_acquire)) {
    result = leave(ExitReason::kStopped);
    return true;
  }
  if (std::atomic_ref(context_.regrant).load(std::memory_order_relaxed)) {  // timers, then the rest of the budget
    result = leave(ExitReason::kInstructionLimit);
    return true;
  }
  ++counters_.polls;
  deliver_pending_interrupt();
  if (context_.exit_reason != ExitReason::kNone) {
    result = leave(context_.exit_reason);
    return true;
  }
  return false;
}

// The debug traps of the instruction just finished: single step, data and I/O breakpoints, a task switch. True: leave
// with `result`.
bool Runtime::take_trap(ThunkResult& result) {
  Context& c = context_;
  uint32_t bits = std::exchange(c.state.debug_pending, 0);
  const bool stepped = std::exchange(c.step_pending, 0);
  if (stepped && std::exchange(step_guest_, false)) bits |= kDr6SingleStep;  // TF as it was when the instruction began
  // A data breakpoint's trap reports an instruction breakpoint at the same boundary, too; a single step's does not.
  if ((bits & kDr6Breakpoints) && !(bits & kDr6SingleStep) && !(c.state.rflags & cpu::rflags::kRf))
    bits |= instruction_breakpoints(c, linear_ip(c.state.rip));
  if (bits) {
    ++counters_.exceptions;
    if (deliver_exception(c, Exception{.vector = kDebugException, .dr6_bits = bits}) == Next::kShutdown) {
      result = leave(ExitReason::kShutdown);
      return true;
    }
  }
  if (stepped && debugger_step) result = leave(ExitReason::kDebug);
  return stepped && debugger_step;
}

// The fault of an instruction breakpoint at `linear`, unless RF holds it back. True: delivered, or leave with a result
// other than none.
bool Runtime::take_instruction_breakpoint(uint64_t linear, ThunkResult& result) {
  Context& c = context_;
  if (c.state.rflags & cpu::rflags::kRf) return false;
  const uint32_t bits = instruction_breakpoints(c, linear);
  if (!bits) return false;
  ++counters_.exceptions;
  if (deliver_exception(c, Exception{.vector = kDebugException, .dr6_bits = bits}) == Next::kShutdown)
    result = leave(ExitReason::kShutdown);
  return true;
}

// True once for each arrival at a breakpoint: the next call lets the instruction run.
bool Runtime::at_breakpoint(uint64_t linear) {
  const bool skip = skip_breakpoint_ == linear;
  skip_breakpoint_ = ~uint64_t{0};
  if (skip) return false;
  for (const uint64_t breakpoint : breakpoints_)
    if (breakpoint == linear) {
      skip_breakpoint_ = linear;
      return true;
    }
  return false;
}

// The block at `rip` for mode word `word`, translated if need be; the exception that fetching it raises otherwise.
Fallible<Block*> Runtime::obtain_block(uint64_t rip, uint32_t word) {
  Context& c = context_;
  const uint64_t linear = linear_ip(rip);
  const bool code64 = mode::code64(word);
  const uint32_t limit = c.state.segment[kCs].limit;
  const bool outside = code64 ? !canonical(rip) : rip > limit;
  if (outside || virtual_interrupt_due(c)) [[unlikely]]
    return raise(kGeneralProtection, 0);
  for (;;) {
    const auto physical = fetch_address(linear);
    if (!physical) return std::unexpected(physical.error());
    Block* block = find_block(rip, *physical, word);
    if (!block) {
      struct Request {
        Runtime* runtime;
        uint64_t rip, physical;
        uint32_t word;
        Block* block;
      } request{this, rip, *physical, word, nullptr};
      call_with_vectors_saved(
          c,
          [](void* argument) {
            auto& r = *static_cast<Request*>(argument);
            r.block = r.runtime->translate(r.rip, r.physical, r.word);
          },
          &request);
      block = request.block;
    }
    if (block) {
      if (code64 || within_code_limit(*block, rip, limit)) return block;
      // The limit is within the block: up to there it is run by single instructions, of which one may cross it.
      if (block->instruction_count == 1) return raise(kGeneralProtection, 0);
      word |= mode::kOneInstruction;
      continue;
    }
    if (!code64 && rip + (next_page(linear) - linear) > limit) return raise(kGeneralProtection, 0);
    // The first instruction crosses into a page that could not be fetched.
    if (const auto second = fetch_address(next_page(linear)); !second) return std::unexpected(second.error());
  }
}

// What the instruction just finished leaves to do.
void Runtime::settle_previous() {
  if (exclusive_)
    call_with_vectors_saved(context_, [](void* self) { static_cast<Runtime*>(self)->end_exclusive_step(); }, this);
  if (!context_.yield_wanted) return;
  context_.yield_wanted = 0;
  context_.pauses_left = kPausesBeforeYield;
  ++counters_.yields;
  uint64_t result = SYS_sched_yield;
  asm volatile("syscall" : "+a"(result) : : "rcx", "r11", "memory");
}

ThunkResult Runtime::dispatch() {
  Context& c = context_;
  ThunkResult result;
  for (;;) {
    ++counters_.dispatches;
    if (exclusive_ || c.yield_wanted) [[unlikely]]
      settle_previous();
    // MOV SS and POP SS hold breakpoints off, too, for one instruction. [SDM-3A 6.8.3]
    if ((c.step_pending || (c.state.debug_pending && !c.state.mov_ss_shadow)) && take_trap(result)) [[unlikely]]
      return result;
    const bool sti_shadow = c.state.sti_shadow;
    const bool shadow = c.state.sti_shadow || (c.state.mov_ss_shadow && !injected(c, 47));
    const bool requested = std::atomic_ref(c.exit_request).load(std::memory_order_acquire) ||
                           (std::atomic_ref(c.irq_pending).load(std::memory_order_relaxed) && c.interrupt_flag);
    if (!shadow && requested && handle_requests(result)) return result;
    in_ss_shadow_ = c.state.mov_ss_shadow;
    c.state.sti_shadow = c.state.mov_ss_shadow = false;
    if (c.state.halted || c.state.wait_for_sipi) [[unlikely]]
      return leave(ExitReason::kHalted);  // nothing has woken it
    if (exclusive_wanted_) [[unlikely]]
      call_with_vectors_saved(context_, [](void* self) { static_cast<Runtime*>(self)->begin_exclusive_step(); }, this);

    uint32_t word = mode::current(c);
    if (shadow || exclusive_ || alone_wanted_) word |= mode::kOneInstruction;
    alone_wanted_ = false;
    if (options_.instruction_clock) {
      if (c.instructions_left <= 0) {
        c.state.sti_shadow = sti_shadow;
        c.state.mov_ss_shadow = in_ss_shadow_;
        return leave(ExitReason::kInstructionLimit);
      }
      if (exact_budget) word |= mode::kOneInstruction;
    }
    if (debugger_step) word |= mode::kTrap;
    const uint64_t rip = c.state.rip = mask_ip(c.state.rip, word);
    if (!breakpoints_.empty() && at_breakpoint(linear_ip(rip))) [[unlikely]]
      return leave(ExitReason::kDebug);
    if (breakpoints_enabled(c)) [[unlikely]] {
      const uint64_t linear = linear_ip(rip);
      result = {};
      if (!in_ss_shadow_ && take_instruction_breakpoint(linear, result)) {
        if (result.value) return result;
        continue;
      }
      if (code_page_watched(c, linear)) word |= mode::kOneInstruction;
    }
    // Blocks of 32-bit code are linked within their page: not in one that the limit of CS cuts.
    if ((word & mode::kCodeSizeMask) == 1 && rip + (~linear_ip(rip) & 0xfff) > c.state.segment[kCs].limit)
      word |= mode::kOneInstruction;
    const auto block = obtain_block(rip, word);
    if (!block) {
      ++counters_.exceptions;
      if (deliver_exception(c, block.error()) == Next::kShutdown) return leave(ExitReason::kShutdown);
      continue;
    }
    c.mode = word = (*block)->mode;
    c.state.rflags &= ~cpu::rflags::kRf;  // holds for one instruction, and only matters to what it would be stopped by
    step_guest_ = c.state.rflags & cpu::rflags::kTf;
    const bool cacheable =
        options_.opt_level > 0 && (*block)->valid.load(std::memory_order_relaxed) && breakpoints_.empty();
    if (cacheable && !(word & (mode::kOneInstruction | mode::kTrap))) fill_jump_cache(rip, word, *block);
    return {kActionResume, (*block)->indirect_entry};
  }
}

Block* Runtime::find_block(uint64_t rip, uint64_t physical, uint32_t word) {
  Block* block = space_->blocks().find(physical, word);
  if (block) return block;
  // A straddling instruction's translation also depends on where the next page lies.
  if ((physical & 0xfff) <= 0x1000 - 15) return nullptr;
  const auto second = fetch_address(next_page(linear_ip(rip)));
  return second ? space_->blocks().find(physical, word, *second & ~uint64_t{0xfff}) : nullptr;
}

ThunkResult Runtime::dispatch_link(Link* link) {
  Context& c = context_;
  c.state.rip = c.code_base + static_cast<int64_t>(link->target_offset);
  c.mode = link->mode;
  const uint32_t generation = space_->flush_generation();
  const ThunkResult result = dispatch();
  // Link only if what is about to run is this link's target, reached without an event in between.
  if (generation == space_->flush_generation() && options_.opt_level > 0 && cache().contains_exec(result.value) &&
      c.exit_reason == ExitReason::kNone) {
    Block* target = block_of_host(result.value);
    if (target && target->indirect_entry == result.value && target->mode == link->mode &&
        (target->physical & 0xfff) == static_cast<uint64_t>(link->target_offset) &&
        (target->physical & ~uint64_t{0xfff}) == (link->from->physical & ~uint64_t{0xfff}) &&
        link->from->second_page == kNoPage && (target->second_page == kNoPage || (target->mode & mode::kFlat))) {
      ++counters_.links;
      space_->link(link, target);
    }
  }
  return result;
}

// Takes back what a branch that faults has done: the stack pointer's change, or the count of LOOP.
void Runtime::undo_branch(uint32_t info) {
  cpu::CpuState& s = context_.state;
  const int undo = static_cast<int32_t>(info) >> kBranchPoppedShift;
  const auto add = [&](unsigned reg, unsigned width, int value) {
    const uint64_t mask = width == 8 ? ~uint64_t{0} : (uint64_t{1} << width * 8) - 1;
    s.gpr[reg] = (s.gpr[reg] & ~mask) | ((s.gpr[reg] + static_cast<uint64_t>(int64_t{value})) & mask);
  };
  if (undo >= kBranchCounted)
    add(cpu::kRcx, static_cast<unsigned>(undo - kBranchCounted), 1);
  else
    add(cpu::kRsp, s.code64() ? 8 : s.segment[cpu::kSs].default_big() ? 4 : 2, -undo);
}

// A near branch to a non-canonical address, or beyond the limit of CS, faults itself, with registers as before.
// [SDM-2A CALL, JMP, Jcc, LOOP; SDM-2B RET]
ThunkResult Runtime::dispatch_branch(uint64_t rip, uint32_t info) {
  Context& c = context_;
  ++counters_.indirect_misses;
  const bool wide = mode::code64(c.mode);
  if (wide ? !canonical(rip) : !(c.mode & mode::kFlat) && rip > c.state.segment[kCs].limit) [[unlikely]] {
    const uint64_t fault_rip = mask_ip(c.code_base + (info & kBranchOffsetMask), c.mode);
    c.state.rip = fault_rip;
    if (fault_rip != rip) {  // else the code ran there by itself
      if (!injected(c, 46)) undo_branch(info);
      if (options_.instruction_clock) c.instructions_left += 1;
    }
    return resume_with(Exception{.vector = kGeneralProtection, .has_error_code = true});
  }
  c.state.rip = rip;
  return dispatch();
}

ThunkResult Runtime::resume_with(const Exception& exception) {
  ++counters_.exceptions;
  context_.step_pending = 0;
  context_.state.debug_pending = 0;
  context_.state.rip = mask_ip(context_.state.rip, mode::current(context_));
  if (deliver_exception(context_, exception) == Next::kShutdown) return leave(ExitReason::kShutdown);
  return dispatch();
}

void Runtime::set_rip_from_host(uint64_t return_address) {
  const Block* block = block_of_host(return_address - 1);
  if (!block) return;
  const HostPoint* point = point_of_host(*block, return_address - 1);
  context_.state.rip =
      context_.code_base + point->guest_offset + (injected(context_, 45) && point->index ? point->guest_length : 0);
  if (options_.instruction_clock) correct_instruction_count(*block, *point, point->index);
}

void Runtime::correct_instruction_count(const Block& block, const HostPoint&, unsigned executed) {
  context_.instructions_left += static_cast<int64_t>(block.instruction_count) - executed;
}

void Runtime::settle_clock(int64_t not_executed) {
  Context& c = context_;
  const int64_t left = c.instructions_left + not_executed;
  c.instruction_clock->advance(static_cast<uint64_t>(c.instructions_settled - left));
  c.instructions_settled = left;
}

ThunkResult Runtime::fault_at(const Exception& exception, uint64_t return_address) {
  set_rip_from_host(return_address);
  return resume_with(exception);
}

ThunkResult Runtime::raise_at(uint32_t info, uint64_t return_address) {
  return fault_at(
      Exception{.vector = static_cast<uint8_t>(info), .has_error_code = (info & 0x100) != 0, .error_code = info >> 16},
      return_address);
}

// What a system function means for a single-step trap and a held-back NMI.
void Runtime::settle_trap(isa::x86::RowId row) {
  using isa::x86::RowId;
  switch (row) {
    case RowId::INT3:
    case RowId::INT_Ib:
    case RowId::INT1:
    case RowId::INTO:
      // Delivery has cleared TF; the trap is dropped. INTO traps unless it delivered. [SDM-3B 18.3.1.4]
      if (row != RowId::INTO || !(context_.state.rflags & cpu::rflags::kTf)) context_.step_pending = 0;
      break;
    case RowId::SYSCALL:
    case RowId::SYSENTER:
      if (!(context_.state.rflags & cpu::rflags::kTf)) context_.step_pending = 0;
      break;
    case RowId::SYSRET:
      // TF is looked at when it is done: where it loads TF the trap comes before the next instruction, unlike with
      // IRET.
      step_guest_ = context_.state.rflags & cpu::rflags::kTf;
      if (step_guest_) context_.step_pending = 1;
      break;
    case RowId::RSM:
      context_.step_pending = 0;  // TF is that of the code returned to
      request_exit();             // what SMM has held back
      break;
    case RowId::IRET:
      if (context_.state.nmi_pending && !context_.state.nmi_blocked) request_exit();
      break;
    default: break;
  }
}

namespace {

// After these, code that another processor has written before is what runs. [SDM-3A 8.3]
bool serialises(isa::x86::RowId row) {
  using isa::x86::RowId;
  switch (row) {
    case RowId::CPUID:
    case RowId::INVLPG:
    case RowId::INVPCID:
    case RowId::INVD:
    case RowId::WBINVD:
    case RowId::WRMSR:
    case RowId::LGDT:
    case RowId::LIDT:
    case RowId::LLDT:
    case RowId::LTR: return true;
    default: return false;  // moves to control registers, IRET and RSM end their block anyway
  }
}

}  // namespace

ThunkResult Runtime::run_system(const InsnRecord* record, uint64_t) {
  Context& c = context_;
  ++counters_.system_calls;
  c.state.rip = c.code_base + record->guest_offset;
  if (!mode::code64(c.mode)) c.state.rip &= 0xffffffff;
  c.code_invalidated = 0;
  if (options_.instruction_clock) settle_clock(1);
  const bool masked = record->masked_memory;
  const auto next = masked ? execute_masked_memory(c, record->insn) : execute_system(c, record->insn);
  if (!next) {
    // The instruction ends its block, so everything before it was counted and it was not executed.
    if (options_.instruction_clock) c.instructions_left += 1;
    return resume_with(next.error());
  }
  settle_trap(record->insn.row);
  // Loads to come do not pass the stores before a serialising instruction (IRET and moves to control registers among
  // them) as seen by other processors. [SDM-3A 8.3]
  if (space_->ordered() && (*next == Next::kDispatch || serialises(record->insn.row)))
    std::atomic_thread_fence(std::memory_order_seq_cst);
  switch (*next) {
    case Next::kContinue:
      if (!c.code_invalidated && !c.step_pending && !c.state.debug_pending &&
          !(space_->smp() && serialises(record->insn.row)) &&
          !std::atomic_ref(c.exit_request).load(std::memory_order_relaxed) &&
          !(c.interrupt_flag && std::atomic_ref(c.irq_pending).load(std::memory_order_relaxed)))
        return {kActionContinue, 0};
      return dispatch();
    case Next::kHalt:
      if (c.step_pending && step_guest_) return dispatch();  // the trap comes before the halt
      c.state.halted = true;
      ++counters_.halts;
      return leave(ExitReason::kHalted);
    case Next::kShutdown: return leave(ExitReason::kShutdown);
    case Next::kInterruptShadow:
      // Of two such instructions in a row only the first holds events off. [SDM-2B MOV]
      if (in_ss_shadow_) c.state.mov_ss_shadow = false;
      if (c.state.mov_ss_shadow && !injected(c, 48)) c.step_pending = 0;
      return dispatch();
    case Next::kDispatch:
      // A repeated instruction that an event has interrupted counts once, when it ends.
      if (options_.instruction_clock && (record->insn.rep || record->insn.repne) &&
          c.state.rip == mask_ip(c.code_base + record->guest_offset, c.mode))
        c.instructions_left += 1;
      break;
  }
  return dispatch();
}

ThunkResult Runtime::check_segment(uint64_t offset, uint32_t info, uint64_t return_address) {
  if (info & kInfoAlignCheck) {  // `offset` is linear already; ten-byte reals align as eight [SDM-3A 6.15 #AC]
    const unsigned size = info & kInfoSizeMask;
    if (mode::code64(context_.mode) && !canonical(offset)) return {kActionContinue, offset};  // that fault comes first
    if (offset & ((size == 10 ? 8 : size) - 1))
      return fault_at(Exception{.vector = kAlignmentCheck, .has_error_code = true}, return_address);
    return {kActionContinue, offset};
  }
  const auto linear = linear_address(context_, (info >> kInfoSegmentShift) & 7, offset, info & kInfoSizeMask,
                                     info & kInfoWrite ? Access::kWrite : Access::kRead);
  if (linear) return {kActionContinue, *linear};
  if (!(info & (kInfoX87Store | kInfoMasked))) return fault_at(linear.error(), return_address);
  // The access may turn out not to happen (refuse_access, masked_access), and cannot hit the TLB: it decides itself.
  segment_refusal_ = linear.error();
  return {kActionContinue, kRefusedLinear};
}

const HostPoint* Runtime::point_of_host(const Block& block, uint64_t exec_address) const {
  const auto offset = static_cast<uint32_t>(exec_address - block.code_start);
  uint32_t low = 0, high = block.point_count;
  while (low < high) {
    const uint32_t middle = (low + high) / 2;
    if (block.points[middle].host_offset <= offset)
      low = middle + 1;
    else
      high = middle;
  }
  return &block.points[low ? low - 1 : 0];
}

// ---- entry points of the thunks ----

ThunkResult entry_dispatch(Context* context, uint64_t rip) {
  context->state.rip = rip;
  ++context->runtime->counters().indirect_misses;
  return context->runtime->dispatch();
}

ThunkResult entry_branch(Context* context, uint64_t rip, uint32_t info) {
  return context->runtime->dispatch_branch(rip, info);
}

ThunkResult entry_link(Context* context, Link* link) { return context->runtime->dispatch_link(link); }

ThunkResult entry_budget(Context* context, uint64_t rip, uint32_t instructions) {
  context->state.rip = rip;
  context->instructions_left += instructions;
  context->runtime->exact_budget = true;  // too few left for a whole block: one at a time from here
  return context->runtime->dispatch();
}

ThunkResult entry_system(Context* context, const InsnRecord* record, uint64_t, uint64_t return_address) {
  return context->runtime->run_system(record, return_address);
}

ThunkResult entry_segment(Context* context, uint64_t offset, uint32_t info, uint64_t return_address) {
  return context->runtime->check_segment(offset, info, return_address);
}

ThunkResult entry_raise(Context* context, uint32_t info, uint64_t, uint64_t return_address) {
  return context->runtime->raise_at(info, return_address);
}

}  // namespace rhea::dbt
