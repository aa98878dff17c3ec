// SPDX-License-Identifier: Apache-2.0
// One block: fetch and decode, the dispatch to translation functions, prologue and end.
#include "dbt/x86/block_builder.h"
#include "dbt/inject_bug.h"

#include <algorithm>
#include <cstring>

namespace rhea::dbt {

using isa::x86::CpuMode;
using isa::x86::DecodeStatus;
using isa::x86::row_info;
using isa::x86::RowId;
using How = isa::x86::Translation;

namespace {
constexpr unsigned kMaxLength = 15;
CpuMode cpu_mode(uint32_t word) { return static_cast<CpuMode>(word & mode::kCodeSizeMask); }
}  // namespace

BlockBuilder::BlockBuilder(Runtime& runtime, const Translator& translator, const BlockRequest& request)
    : runtime_(runtime),
      translator_(translator),
      context_(runtime.context()),
      rip_(request.rip),
      physical_(request.physical),
      next_page_(request.second_page),
      mode_(request.mode),
      page_offset_(static_cast<uint32_t>(request.physical & 0xfff)),
      e_(runtime.cache().position(), runtime.cache().exec_delta()),
      block_(nullptr),
      offset_(page_offset_) {}

void BlockBuilder::defer(std::function<void()> emit) {
  deferred_.push_back({std::move(emit), insn_, offset_, static_cast<uint8_t>(count_ - 1)});
}

void BlockBuilder::point() {
  const auto host = static_cast<uint32_t>(e_.exec_position() - block_->code_start);
  points_.push_back({.host_offset = host,
                     .guest_offset = static_cast<uint16_t>(offset_),
                     .guest_length = insn_->length,
                     .index = static_cast<uint8_t>(count_ - 1)});
}

BlockBuilder::Fetch BlockBuilder::fetch(Insn& insn) {
  const uint64_t page = physical_ & ~uint64_t{0xfff};
  uint8_t bytes[16] = {};
  const auto in_page = offset_ < memory::kPageSize ? static_cast<unsigned>(memory::kPageSize - offset_) : 0u;
  if (in_page == 0) return Fetch::kStop;
  const auto read = [this](uint64_t physical, unsigned part, uint8_t* out, unsigned size) {
    if (const Runtime::RamPiece* piece = runtime_.find_ram(physical); piece && piece->end - physical >= size) {
      std::memcpy(out, piece->host + (physical - piece->start), size);
      return;
    }
    one_shot_ = true;  // a device may answer differently next time
    std::memcpy(out, runtime_.device_code(part), size);
  };
  unsigned available = std::min(in_page, kMaxLength);
  read(page + offset_, 0, bytes, available);
  DecodeStatus status = isa::x86::decode({bytes, available}, cpu_mode(mode_), insn);
  if (status == DecodeStatus::kNeedMore && available < kMaxLength) {
    if (count_ > 0) return Fetch::kStop;  // a straddling instruction is a block of its own
    if (next_page_ == kNoPage) return Fetch::kNoSecondPage;
    if (!runtime_.space().prepared(next_page_, runtime_.exclusive())) {
      runtime_.need_page(next_page_);
      return Fetch::kNoSecondPage;
    }
    second_page_ = next_page_;
    read(second_page_, 1, bytes + available, kMaxLength - available);
    status = isa::x86::decode({bytes, kMaxLength}, cpu_mode(mode_), insn);
  }
  if (status == DecodeStatus::kOk) {
    if (!translator_.facts(insn.row).offered) isa::x86::substitute_without_feature(insn);
    return Fetch::kOk;
  }
  insn = Insn{};
  insn.length = 1;  // for the limit of CS: up to the byte that made it invalid
  while (insn.length < available) {
    Insn part;
    if (isa::x86::decode({bytes, insn.length}, cpu_mode(mode_), part) != DecodeStatus::kNeedMore) break;
    ++insn.length;
  }
  examined_ = kMaxLength;  // all of them decided that this is no instruction
  return status == DecodeStatus::kInvalid ? Fetch::kInvalid : Fetch::kTooLong;
}

void BlockBuilder::emit_straddle_check() {
  // The second page must still be where it was: its virtual page's entry in the code TLB says so.
  const auto field = [](size_t array) {
    return HostMem{.base = kHRsp,
                   .index = kHRcx,
                   .scale = 8,
                   .displacement = static_cast<int32_t>(offsetof(Context, code_tlb) + array)};
  };
  const bool flat = mode_ & mode::kFlat;
  e_.load64(kScratchC, context_field(offsetof(Context, code_base)));
  e_.lea64(kScratchA, {.base = kScratchC, .displacement = 0x1000});
  if (!flat) return;  // never linked: the dispatcher has just checked
  e_.rorx64(kScratchC, kScratchA, 12);
  e_.movzx16(kScratchC, kScratchC);
  e_.load64(kScratchB, field(offsetof(CodeTlb, tag)));
  e_.lea64(kScratchB, {.base = kScratchB, .index = kScratchA, .displacement = (mode_ & mode::kCplUser) ? 1 : 0});
  e_.store64(context_field(offsetof(Context, scratch)), kScratchB);
  e_.load64(kScratchB, field(offsetof(CodeTlb, page)));
  e_.mov_imm64(kScratchC, second_page_);
  e_.lea64(kScratchC, {.base = kScratchC, .index = kScratchB});
  e_.jrcxz_skip(5);
  uint8_t* const wrong_page = e_.jmp_open();
  e_.load64(kScratchC, context_field(offsetof(Context, scratch)));
  e_.jrcxz_skip(5);
  uint8_t* const wrong_tag = e_.jmp_open();
  defer([this, wrong_page, wrong_tag] {
    e_.bind32(wrong_page);
    e_.bind32(wrong_tag);
    emit_target_ip(page_offset_);
    e_.jmp(runtime_.thunks().dispatch);
  });
}

void BlockBuilder::emit_prologue() {
  block_->indirect_entry = e_.exec_position();  // 16-byte aligned
  // Seven bytes whatever the displacement: one store of eight closes the entry (CodeSpace::close_entry).
  e_.lea64_long(kScratchC, kScratchA, -static_cast<int32_t>(page_offset_));
  e_.store64(context_field(offsetof(Context, code_base)), kScratchC);
  if (mode_ & (mode::kTrap | mode::kOneInstruction)) {
    if (mode_ & mode::kTrap) e_.store8_imm(context_field(offsetof(Context, step_pending)), 1);
  } else {
    e_.load32(kScratchC, context_field(offsetof(Context, exit_request)));
    e_.jrcxz_skip(5);
    e_.jmp(runtime_.thunks().dispatch);
  }
  block_->direct_entry = e_.exec_position();
  if (second_page_ != kNoPage && !injected(context_, 30)) emit_straddle_check();
  if (runtime_.options().instruction_clock) {
    // instructions_left -= count; below zero, the dispatcher takes over. The count is patched in at the end.
    const HostMem left = context_field(offsetof(Context, instructions_left));
    e_.load64(kScratchB, left);
    e_.lea64(kScratchB, {.base = kScratchB, .displacement = -0x7fffff});
    budget_site_[0] = e_.position() - 4;
    e_.store64(left, kScratchB);
    e_.pext64(kScratchC, kScratchB, context_field(offsetof(Context, sign_mask)));
    e_.jrcxz_skip(5);
    uint8_t* const spent = e_.jmp_open();
    defer([this, spent] {
      e_.bind32(spent);
      emit_target_ip(page_offset_);
      e_.mov_imm32(kScratchC, block_->instruction_count);
      e_.jmp(runtime_.thunks().budget);
    });
  }
}

FpuClass BlockBuilder::fpu_class_of(const Insn& insn) const {
  const FpuClass fpu = translator_.facts(insn.row).fpu;
  if (fpu != FpuClass::kMmx || !insn.has_memory) return fpu;
  // CVTPI2PS and CVTPI2PD from memory name no MMX register and are plain SSE. [SDM-2A CVTPI2PD]
  for (unsigned i = 0; i < insn.operand_count; ++i)
    if (insn.operands[i].kind == isa::x86::OperandKind::kMmx) return fpu;
  return FpuClass::kSse;
}

bool BlockBuilder::emit_availability(const Insn& insn) {
  const Translator::RowFacts& facts = translator_.facts(insn.row);
  if (!facts.offered) {
    raise_here(kInvalidOpcode);
    return false;
  }
  int vector = -1;
  switch (fpu_class_of(insn)) {
    case FpuClass::kNone: break;
    case FpuClass::kX87:
      if (mode_ & mode::kFpuUnavailable) vector = kDeviceNotAvailable;
      break;
    case FpuClass::kWait:
      if (mode_ & mode::kWaitChecksTs) vector = kDeviceNotAvailable;
      break;
    case FpuClass::kMmx:
      vector = (mode_ & mode::kX87Emulated)       ? kInvalidOpcode
               : (mode_ & mode::kSseTaskSwitched) ? kDeviceNotAvailable
                                                  : -1;
      break;
    case FpuClass::kSse:
      vector = (mode_ & mode::kSseUndefined)      ? kInvalidOpcode
               : (mode_ & mode::kSseTaskSwitched) ? kDeviceNotAvailable
                                                  : -1;
      break;
    case FpuClass::kAvx:
      vector = (mode_ & (mode::kAvxUndefined | mode::kReal))                 ? kInvalidOpcode
               : (mode_ & mode::kSseTaskSwitched) && !injected(context_, 31) ? kDeviceNotAvailable
                                                                             : -1;
      break;
    case FpuClass::kAvx512:
      vector = (mode_ & (mode::kAvx512Undefined | mode::kReal)) ? kInvalidOpcode
               : (mode_ & mode::kSseTaskSwitched)               ? kDeviceNotAvailable
                                                                : -1;
      break;
    case FpuClass::kVexGpr:
      if (mode_ & mode::kReal) vector = kInvalidOpcode;
      break;
  }
  if (vector < 0) return true;
  raise_here(static_cast<uint8_t>(vector));
  return false;
}

void BlockBuilder::emit_instruction(const Insn& insn) {
  if (!emit_availability(insn)) return;
  const auto end_with = [this](auto&& emit) {
    emit();
    ended_ = true;
  };
  switch (row_info(insn.row).translation) {
    case How::kCopy:
      // Deterministic runs draw their random numbers from the instruction count.
      if (runtime_.options().instruction_clock && (insn.row == RowId::RDRAND || insn.row == RowId::RDSEED))
        system(insn);
      else
        copy(insn);
      // What another processor has written before is looked up anew. [SDM-2B SERIALIZE]
      if (insn.row == RowId::SERIALIZE && runtime_.space().smp())
        end_with([&] { emit_exit(static_cast<int64_t>(offset_) + insn.length, mode_); });
      break;
    case How::kCopyX87:
    case How::kShiftCl:
    case How::kCopyRcx:
    case How::kFlagOps: copy(insn); break;
    case How::kNop: insn.row == RowId::PAUSE ? pause() : no_operation(insn); break;
    case How::kLea: load_effective_address(insn); break;
    case How::kBitString: bit_string(insn); break;
    case How::kMovGpr: move_gpr(insn); break;
    case How::kXchgAcc: exchange_accumulator(insn); break;
    case How::kPush: push(insn); break;
    case How::kPop: pop(insn); break;
    case How::kLeave: leave(insn); break;
    case How::kJmpRel: end_with([&] { emit_branch(insn); }); break;
    case How::kJcc: end_with([&] { jump_conditional(insn); }); break;
    case How::kJcxz:
    case How::kLoop: end_with([&] { loop(insn); }); break;
    case How::kCallRel: end_with([&] { call_relative(insn); }); break;
    case How::kJmpInd: end_with([&] { jump_indirect(insn); }); break;
    case How::kCallInd: end_with([&] { call_indirect(insn); }); break;
    case How::kRet: end_with([&] { ret(insn); }); break;
    case How::kCld: e_.store8_imm(context_field(offsetof(Context, direction_flag)), 0); break;
    case How::kStd: e_.store8_imm(context_field(offsetof(Context, direction_flag)), 1); break;
    case How::kCli:
    case How::kSti: interrupt_flag(insn); break;
    case How::kStac:
    case How::kClac: access_control(insn); break;
    case How::kRdtsc:
    case How::kRdtscp: read_tsc(insn); break;
    case How::kPusha:
    case How::kPopa:
    case How::kPushf:
    case How::kPopf:
    case How::kEnter:
    case How::kString:
    case How::kRdpid:
    case How::kXgetbv:
    case How::kMaskMem:
    case How::kFpuEnv:
    case How::kSystem: system(insn); break;
    case How::kUndefined: raise_here(kInvalidOpcode); break;
  }
}

void BlockBuilder::flush_deferred() {
  // A deferred piece may defer more (it does not today); index, not iterator.
  for (size_t i = 0; i < deferred_.size(); ++i) {
    insn_ = deferred_[i].insn;
    offset_ = deferred_[i].offset;
    const unsigned saved = count_;
    count_ = deferred_[i].index + 1u;
    point();
    deferred_[i].emit();
    count_ = saved;
  }
}

void BlockBuilder::finish() {
  block_->instruction_count = static_cast<uint16_t>(count_);
  if (budget_site_[0]) {
    const auto displacement = -static_cast<int32_t>(count_);
    std::memcpy(budget_site_[0], &displacement, 4);
  }
  block_->guest_bytes = static_cast<uint16_t>(offset_ - page_offset_ + (examined_ ? examined_ - 1 : 0));
  flush_deferred();
  block_->second_page = second_page_;
  block_->code_end = e_.exec_position();
  block_->point_count = static_cast<uint32_t>(points_.size());
  block_->points = runtime_.arena().make<HostPoint>(points_.size());
  std::copy(points_.begin(), points_.end(), block_->points);
  block_->valid = !one_shot_;
  runtime_.cache().commit(e_.position());
  runtime_.space().register_block(block_);
}

Block* BlockBuilder::build() {
  const bool single = (mode_ & (mode::kOneInstruction | mode::kTrap)) || runtime_.options().opt_level == 0;
  const unsigned limit = single ? 1 : kMaxInstructions;
  Fetch status = fetch(insns_[0]);
  if (status == Fetch::kNoSecondPage) return nullptr;

  block_ = runtime_.arena().make<Block>();
  block_->physical = physical_;
  block_->mode = mode_;
  e_.align(16);
  block_->code_start = e_.exec_position();
  insn_ = &insns_[0];
  count_ = 1;
  point();
  emit_prologue();
  for (;;) {
    insn_ = &insns_[count_ - 1];
    point();
    shadow_open_ = false;
    if (status == Fetch::kInvalid)
      raise_here(kInvalidOpcode);
    else if (status == Fetch::kTooLong)
      raise_here(kGeneralProtection, true);
    else
      emit_instruction(*insn_);
    offset_ += insn_->length;
    if (ended_) break;
    bool stop = count_ == limit || second_page_ != kNoPage || one_shot_;
    if (!stop && runtime_.has_breakpoints())
      stop = runtime_.is_breakpoint(runtime_.linear_ip(rip_ + (offset_ - page_offset_)));
    if (!stop) {
      status = fetch(insns_[count_]);
      stop = status == Fetch::kStop;
    }
    if (stop) {
      const uint32_t next = offset_;
      offset_ -= insn_->length;
      if (shadow_open_)
        emit_shadow(next);
      else
        emit_exit(next, mode_);
      offset_ = next;
      break;
    }
    ++count_;
  }
  finish();
  return block_;
}

}  // namespace rhea::dbt
