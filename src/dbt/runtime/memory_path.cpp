// SPDX-License-Identifier: Apache-2.0
// What happens when an access of translated code misses its TLB: fill, fault, page crossing, devices,
// and stores to pages that hold translated code.
//
// An access that no single host page serves runs against Context::bounce instead: filled before the
// instruction if it reads, written back after it (memory_after) if it writes. The bounce slot keeps the low
// six address bits, so that instructions that demand alignment still fault as they should.
//
// General registers only: runs with the guest's vector registers in place.
#include "dbt/inject_bug.h"
#include "dbt/runtime/entry_points.h"
#include "dbt/runtime/runtime.h"
#include "dbt/system/debug_registers.h"

namespace rhea::dbt {

namespace {

// libc's memcpy may use vector registers.
void copy_bytes(std::byte* to, const std::byte* from, unsigned size) {
  for (unsigned i = 0; i < size; ++i) reinterpret_cast<volatile std::byte*>(to)[i] = from[i];
}

struct BusAccess {
  Context* context;
  uint64_t address;
  std::byte* data;
  unsigned size;
  bool write;
};

// Devices see naturally sized accesses where the instruction makes one, else bytes in ascending order.
void bus_access(void* argument) {
  const auto& access = *static_cast<BusAccess*>(argument);
  for (unsigned done = 0; done < access.size;) {
    unsigned piece = access.size - done >= 8 ? 8 : access.size - done >= 4 ? 4 : access.size - done >= 2 ? 2 : 1;
    uint64_t value = 0;
    if (access.write) {
      __builtin_memcpy(&value, access.data + done, piece);
      bus_write(*access.context, access.address + done, value, piece);
    } else {
      value = bus_read(*access.context, access.address + done, piece);
      __builtin_memcpy(access.data + done, &value, piece);
    }
    done += piece;
  }
}

}  // namespace

const Runtime::RamPiece* Runtime::find_ram(uint64_t physical) const {
  for (unsigned i = 0; i < ram_count_; ++i)
    if (physical - ram_[i].start < ram_[i].end - ram_[i].start) return &ram_[i];
  return nullptr;
}

// An access that must fault. A store of the x87 that raises an unmasked exception does not happen at all, and
// then nothing faults: such a store runs against the bounce buffer first. [SDM-1 8.5, 8.6]
ThunkResult Runtime::refuse_access(const Exception& exception, uint64_t linear, uint32_t info,
                                   uint64_t return_address) {
  if (!(info & kInfoX87Store)) return fault_at(exception, return_address);
  Context& c = context_;
  save_vectors(c);
  const uint64_t offset = linear & 63;
  bounce_ = {.active = true,
             .size = static_cast<uint8_t>(info & kInfoSizeMask),
             .offset = offset,
             .x87_store = true,
             .refused = true,
             .exception = exception,
             .fop = c.x87_last_fop,
             .fip = c.fpu_fip,
             .fdp = c.x87_last_fdp};
  return {kActionProceed, reinterpret_cast<uint64_t>(c.bounce.data() + offset) - linear};
}

ThunkResult Runtime::memory_access(uint64_t linear, uint32_t info, uint64_t return_address) {
  Context& c = context_;
  const unsigned size = info & kInfoSizeMask;
  const bool write = info & kInfoWrite;
  const auto mmu = static_cast<MmuIndex>((info >> kInfoMmuShift) & 3);
  bounce_.active = bounce_.code_store = false;  // of an instruction that faulted natively after it was armed
  const bool refused = linear == kRefusedLinear && !mode::code64(c.mode);
  if ((info & kInfoMasked) && !(refused && selects_any(size))) return masked_access(linear, info, return_address);
  ++counters_.tlb_misses;
  access_return_ = return_address;
  c.code_invalidated = 0;
  if (refused) return refuse_access(segment_refusal_, linear, info, return_address);
  if (const uint64_t alignment = (info >> kInfoAlignmentShift) & kInfoAlignmentMask;
      alignment && (linear & (alignment - 1)))
    return fault_at(Exception{.vector = kGeneralProtection, .has_error_code = true}, return_address);
  const auto canonical = [](uint64_t address) {
    return static_cast<uint64_t>(static_cast<int64_t>(address << 16) >> 16) == address;
  };
  const Exception outside{
      .vector = info & kInfoStack ? static_cast<uint8_t>(kStackFault) : static_cast<uint8_t>(kGeneralProtection),
      .has_error_code = true};
  const bool checked = mode::code64(c.mode);
  if (checked && !canonical(linear)) return refuse_access(outside, linear, info, return_address);
  if (info & kInfoAlignCheck && (linear & ((size == 10 ? 8 : size) - 1)))
    return refuse_access(Exception{.vector = kAlignmentCheck, .has_error_code = true}, linear, info, return_address);
  if (checked && !canonical(linear + size - 1)) {
    // Ten bytes are accessed as eight and two: the first part may fault before the second is looked at.
    if (size == 10 && canonical(linear + 7))
      if (const auto first = dbt::translate(c, linear, write ? Access::kWrite : Access::kRead, mmu); !first)
        return refuse_access(first.error(), linear, info, return_address);
    return refuse_access(outside, linear, info, return_address);
  }
  if (breakpoints_enabled(c)) [[unlikely]] {
    // The trap comes after the instruction, so that one must end its block: it starts over as a block of its own.
    const uint32_t bits = data_breakpoints(c, linear, size, write);
    if (bits && !runs_alone()) return restart_alone(return_address);
    c.state.debug_pending |= bits;
  }
  if ((linear & 0xfff) + size > memory::kPageSize) return cross_page_access(linear, info, return_address);
  const auto translation = dbt::translate(c, linear, write ? Access::kWrite : Access::kRead, mmu);
  if (!translation) return refuse_access(translation.error(), linear, info, return_address);

  const RamPiece* piece = is_local_apic(translation->physical) ? nullptr : find_ram(translation->physical);
  if (!piece || (write && !piece->meta) ||
      ((translation->physical & 0xfff) + size > piece->end - (translation->physical & ~uint64_t{0xfff}))) {
    if ((info & kInfoLocked) && space_->smp() && !exclusive_) return restart_exclusively(return_address);
    return device_access(linear, translation->physical, size, info);
  }
  std::byte* host = piece->host + (translation->physical - piece->start);
  if (piece->meta) {
    auto& meta = piece->meta[(translation->physical >> 12) - (piece->start >> 12)];
    if (write && (meta.load(std::memory_order_relaxed) & memory::kPageHasCode) && !(injected(c, 53) && size == 1)) {
      ++counters_.code_page_stores;
      return code_store(translation->physical, size, host, linear);
    }
  }
  const bool unseen = fill_data_tlb(linear, *translation, host, mmu, write);
  // An access that always comes this way (alignment checked here, or a breakpoint on the page) is served here, not by
  // another try.
  if (!(info & kInfoAlways) && !data_page_watched(c, linear, write)) return {kActionContinue, 0};
  if (write && !unseen) return code_store(translation->physical, size, host, linear);
  return {kActionProceed, reinterpret_cast<uint64_t>(host) - linear};
}

// The access goes to the page itself and is announced when it is done (memory_after).
ThunkResult Runtime::code_store(uint64_t physical, unsigned size, std::byte* host, uint64_t linear) {
  bounce_.code_store = true;
  bounce_.size = static_cast<uint8_t>(size);
  bounce_.physical[0] = physical;
  return {kActionProceed, reinterpret_cast<uint64_t>(host) - linear};
}

// Whether the instruction being run ends its block.
bool Runtime::runs_alone() const {
  return (context_.mode & (mode::kOneInstruction | mode::kTrap)) || options_.opt_level == 0;
}

ThunkResult Runtime::restart_alone(uint64_t return_address) {
  set_rip_from_host(return_address);
  alone_wanted_ = true;
  return dispatch();
}

// Devices see the time of the instruction that reaches them, though its whole block is counted already.
void Runtime::settle_clock_at_access() {
  const Block* block = block_of_host(access_return_ - 1);
  if (block) settle_clock(int64_t{block->instruction_count} - point_of_host(*block, access_return_ - 1)->index);
}

// Reads or writes one piece of a bounced access.
void Runtime::copy_piece(uint64_t physical, std::byte* data, unsigned size, bool to_guest) {
  if (size == 0) return;
  const RamPiece* piece = is_local_apic(physical) ? nullptr : find_ram(physical);
  if (piece && piece->end - physical >= size && (piece->meta || !to_guest)) {
    std::byte* host = piece->host + (physical - piece->start);
    if (to_guest) {
      copy_bytes(host, data, size);
      invalidate(physical, size);
    } else {
      copy_bytes(data, host, size);
    }
    return;
  }
  ++counters_.mmio;
  if (options_.instruction_clock) settle_clock_at_access();
  BusAccess access{&context_, physical, data, size, to_guest};
  call_with_vectors_saved(context_, bus_access, &access);
  if (injected(context_, 55)) asm volatile("vzeroupper");
}

ThunkResult Runtime::device_access(uint64_t linear, uint64_t physical, unsigned size, uint32_t info) {
  const uint64_t offset = linear & 63;
  bounce_ = {.active = (info & kInfoWrite) != 0,
             .size = static_cast<uint8_t>(size),
             .first_size = static_cast<uint8_t>(size),
             .physical = {physical, 0},
             .offset = offset,
             .x87_store = (info & kInfoX87Store) != 0};
  if ((info & kInfoRead) && !(injected(context_, 52) && (info & kInfoWrite)))
    copy_piece(physical, context_.bounce.data() + offset, size, false);
  return {kActionProceed, reinterpret_cast<uint64_t>(context_.bounce.data() + offset) - linear};
}

// A locked access that one host instruction cannot make: the instruction is run again while all other vCPUs stand.
ThunkResult Runtime::restart_exclusively(uint64_t return_address) {
  set_rip_from_host(return_address);
  context_.step_pending = 0;
  exclusive_wanted_ = true;
  return dispatch();
}

ThunkResult Runtime::cross_page_access(uint64_t linear, uint32_t info, uint64_t return_address) {
  Context& c = context_;
  ++counters_.page_crossings;
  const unsigned size = info & kInfoSizeMask;
  const auto mmu = static_cast<MmuIndex>((info >> kInfoMmuShift) & 3);
  const Access access = info & kInfoWrite ? Access::kWrite : Access::kRead;
  const auto first_size = static_cast<unsigned>(memory::kPageSize - (linear & 0xfff));
  uint64_t second_linear = linear + first_size;
  if (!mode::code64(c.mode)) second_linear &= 0xffffffff;
  const auto first = dbt::translate(c, linear, access, mmu);
  if (!first) return refuse_access(first.error(), linear, info, return_address);
  const auto second = dbt::translate(c, second_linear, access, mmu);
  if (!second && injected(c, 49))
    return fault_at(
        Exception{
            .vector = kPageFault, .has_error_code = true, .error_code = second.error().error_code, .address = linear},
        return_address);
  if (!second) return refuse_access(second.error(), linear, info, return_address);
  if ((info & kInfoLocked) && space_->smp() && !exclusive_) return restart_exclusively(return_address);
  const uint64_t offset = linear & 63;
  bounce_ = {.active = (info & kInfoWrite) != 0,
             .size = static_cast<uint8_t>(size),
             .first_size = static_cast<uint8_t>(first_size),
             .physical = {first->physical, second->physical},
             .offset = offset,
             .x87_store = (info & kInfoX87Store) != 0};
  if (info & kInfoRead) {
    copy_piece(first->physical, c.bounce.data() + offset, first_size, false);
    copy_piece(second->physical, c.bounce.data() + offset + first_size, size - first_size, false);
  }
  return {kActionProceed, reinterpret_cast<uint64_t>(c.bounce.data() + offset) - linear};
}

ThunkResult Runtime::memory_after(uint64_t return_address, AfterStore after) {
  Context& c = context_;
  access_return_ = return_address;
  if (bounce_.active && bounce_.x87_store) {
    // Invalid operation, overflow and underflow suppress the store; an inexact result is stored. [SDM-1 8.5]
    uint16_t status, control;
    asm volatile("fnstsw %0" : "=m"(status));
    asm volatile("fnstcw %0" : "=m"(control));
    const bool suppressed = status & ~control & 0x1f;
    if (suppressed) bounce_.active = false;
    if (bounce_.refused && !suppressed) {  // the store would have happened: undo the instruction and fault
      bounce_.active = false;
      asm volatile("xrstor64 %0" : : "m"(c.state.xsave), "a"(1), "d"(0) : "memory");
      c.x87_last_fop = bounce_.fop;
      c.fpu_fip = bounce_.fip;
      c.x87_last_fdp = bounce_.fdp;
      return fault_at(bounce_.exception, return_address);
    }
  }
  if (bounce_.active && !(injected(c, 51) && bounce_.size == 16)) {
    bounce_.active = false;
    if (bounce_.masked) {
      copy_selected(true);
    } else {
      std::byte* data = c.bounce.data() + bounce_.offset;
      copy_piece(bounce_.physical[0], data, bounce_.first_size, true);
      if (!injected(c, 50))
        copy_piece(bounce_.physical[1], data + bounce_.first_size, bounce_.size - bounce_.first_size, true);
    }
  }
  if (bounce_.code_store) {
    bounce_.code_store = false;
    invalidate(bounce_.physical[0], bounce_.size);
  }
  if (after == AfterStore::kStay) return {kActionContinue, 0};
  if ((!c.code_invalidated || injected(c, 54)) && !std::atomic_ref(c.exit_request).load(std::memory_order_relaxed))
    return {kActionContinue, 0};
  // The rest of this block may be stale, or a device wants attention: go on after this instruction.
  const Block* block = block_of_host(return_address - 1);
  if (!block) return {kActionContinue, 0};
  const HostPoint* point = point_of_host(*block, return_address - 1);
  c.state.rip = c.code_base + point->guest_offset + point->guest_length;
  if (options_.instruction_clock) correct_instruction_count(*block, *point, point->index + 1u);
  return dispatch();
}

ThunkResult entry_memory(Context* context, uint64_t linear, uint32_t info, uint64_t return_address) {
  return context->runtime->memory_access(linear, info, return_address);
}

ThunkResult entry_memory_after(Context* context, uint64_t, uint32_t after, uint64_t return_address) {
  return context->runtime->memory_after(return_address, static_cast<AfterStore>(after));
}

}  // namespace rhea::dbt
