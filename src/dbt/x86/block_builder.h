// SPDX-License-Identifier: Apache-2.0
// The state of one block under translation, and the emission steps that the translation functions share.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "dbt/mode.h"
#include "dbt/runtime/runtime.h"
#include "dbt/x86/emitter.h"
#include "dbt/x86/translator.h"
#include "isa/x86/insn.h"

namespace rhea::dbt {

enum class AccessKind : uint8_t { kRead, kWrite, kReadWrite };

class BlockBuilder {
 public:
  static constexpr unsigned kMaxInstructions = 48;

  BlockBuilder(Runtime& runtime, const Translator& translator, const BlockRequest& request);
  Block* build();

 private:
  using Insn = isa::x86::Insn;
  using MemoryRef = isa::x86::MemoryRef;
  using Body = std::function<void(const HostMem&)>;

  // ---- the block (block_builder.cpp) ----
  enum class Fetch : uint8_t { kOk, kInvalid, kTooLong, kNoSecondPage, kStop };
  Fetch fetch(Insn& insn);
  void emit_prologue();
  void emit_straddle_check();
  void emit_instruction(const Insn& insn);   // sets ended_ if the block ends with it
  bool emit_availability(const Insn& insn);  // false: raised instead
  void finish();
  void point();  // host code from here belongs to the current instruction
  void flush_deferred();
  bool linkable() const;
  uint8_t code_size() const { return static_cast<uint8_t>(mode_ & mode::kCodeSizeMask); }
  bool code64() const { return mode::code64(mode_); }

  // ---- addresses and accesses (access.cpp) ----
  // Offset of a memory operand (before segmentation) into `scratch A`, or a pinned register that holds it as it is.
  uint8_t emit_offset(const MemoryRef& mem, int64_t extra = 0);
  // Linear address of an operand of `size` bytes; checks segments where that is not plain.
  uint8_t emit_linear(const Insn& insn, unsigned size, AccessKind kind, int64_t extra = 0);
  uint8_t emit_segment(uint8_t reg, unsigned segment, unsigned size, AccessKind kind);
  void emit_align_check(uint8_t reg, unsigned size);
  bool is_locked() const;     // the instruction's memory access is a locked one
  bool is_x87_store() const;  // of an access that only writes: FST and kin, which an exception may suppress
  // One access of `size` bytes at the linear address in `reg`: translated inline, `body` emits the instruction
  // with the host memory operand it is given (and is called twice: for the fast path and for the slow one).
  // The body may use scratch C, and scratch B after folding the operand (fold()).
  void access(uint8_t reg, unsigned size, AccessKind kind, const Body& body, AfterStore after = AfterStore::kMayLeave);
  void access_operand(const Insn& insn, unsigned size, AccessKind kind, const Body& body);
  uint32_t required_alignment() const;
  bool masked_memory() const;
  void emit_access_mask();
  HostMem fold(const HostMem& mem);  // the operand as [scratch A], which frees scratch B

  // ---- copying (copy.cpp) ----
  void copy(const Insn& insn);
  void copy_with(const Insn& insn, const HostMem* mem);
  // One field of an encoding that names a general register.
  struct CopyField {
    const isa::x86::Operand* operand = nullptr;
    uint8_t host = 0;
    bool spilled = false;  // the guest register lives in the context
  };
  struct CopyFields {
    CopyField reg, rm, vvvv;
    unsigned spilled = 0;
  };
  CopyFields map_fields(const Insn& insn, HostOpcode& code) const;
  void load_spilled(CopyFields& fields, std::span<const uint8_t> temporaries);
  void store_spilled(const CopyFields& fields);
  void emit_copied(const Insn& insn, HostOpcode code, const CopyFields& fields, const HostMem* mem);
  void copy_high_byte(const Insn& insn, const HostMem* mem);
  HostOpcode opcode_of(const Insn& insn) const;
  void emit_immediate(const Insn& insn);
  void record_x87(const Insn& insn, bool has_operand);
  void latch_x87_before_clear();
  void settle_x87_pointers();
  FpuClass fpu_class_of(const Insn& insn) const;
  void no_operation(const Insn& insn);
  void clear_upper_vectors(const Insn& insn);
  void move_gpr(const Insn& insn);
  void load_effective_address(const Insn& insn);
  void bit_string(const Insn& insn);
  void exchange_accumulator(const Insn& insn);

  // ---- control flow (control.cpp) ----
  // To IP code_base + target_offset. `undo` of a branch: see emit_indirect(); none: the code just goes on there.
  void emit_exit(int64_t target_offset, uint32_t mode_after, std::optional<int> undo = {});
  void emit_branch(const Insn& insn, int undo = 0);  // to a relative branch's target
  void emit_link(int64_t target_offset, uint32_t mode_after);
  void emit_target_ip(int64_t target_offset);  // scratch A = IP
  // Jumps to the IP in scratch A; `undo`: bytes the instruction has taken off the stack, or kBranchCounted + width.
  void emit_indirect(uint32_t mode_after, int undo = 0) { emit_indirect(mode_after, offset_, undo); }
  void emit_indirect(uint32_t mode_after, uint32_t fault_offset, int undo);
  void emit_poll(int64_t target_offset);
  void jump_conditional(const Insn& insn);
  void loop(const Insn& insn);
  void push_return_ip(const Insn& insn);  // of the instruction after a CALL
  void call_relative(const Insn& insn);
  void jump_indirect(const Insn& insn);
  void call_indirect(const Insn& insn);
  void ret(const Insn& insn);
  int64_t branch_offset(const Insn& insn) const;

  // ---- stack (stack.cpp) ----
  uint8_t emit_stack_offset(int displacement, unsigned size, AccessKind kind);  // linear address of SP + displacement
  void adjust_stack(int delta);
  void push_with(unsigned size, const std::function<void(const HostMem&)>& store, AfterStore after);
  void push(const Insn& insn);
  void pop(const Insn& insn);
  void leave(const Insn& insn);

  // ---- the rest (misc.cpp) ----
  void system(const Insn& insn);
  void raise_here(uint8_t vector, bool with_error_code = false);
  void interrupt_flag(const Insn& insn);
  void emit_shadow(int64_t next_offset);
  void pause();
  void access_control(const Insn& insn);  // STAC, CLAC
  void read_tsc(const Insn& insn);
  void load_gpr(uint8_t host, unsigned gpr);  // any guest register into a host one
  void store_gpr(unsigned gpr, uint8_t host);
  void emit_sized_load(uint8_t reg, const HostMem& mem, unsigned size);  // 2, 4 or 8 bytes, zero-extended
  void emit_sized_store(const HostMem& mem, uint8_t reg, unsigned size);

  Runtime& runtime_;
  const Translator& translator_;
  Context& context_;
  const uint64_t rip_, physical_, next_page_;
  const uint32_t mode_;
  const uint32_t page_offset_;
  Emitter e_;
  Block* block_;

  std::array<Insn, kMaxInstructions> insns_;
  unsigned count_ = 0;
  uint32_t offset_ = 0;         // guest offset of the current instruction from code_base
  const Insn* insn_ = nullptr;  // the current one
  bool ended_ = false;
  bool one_shot_ = false;
  unsigned examined_ = 0;     // bytes that made the last instruction undecodable
  bool shadow_open_ = false;  // the instruction before was STI
  bool through_ss_ = false;   // the access being emitted goes through SS
  uint64_t second_page_ = kNoPage;
  std::vector<HostPoint> points_;
  struct Deferred {
    std::function<void()> emit;
    const Insn* insn;
    uint32_t offset;
    uint8_t index;
  };
  std::vector<Deferred> deferred_;
  unsigned links_ = 0;
  void defer(std::function<void()> emit);
  uint8_t* budget_site_[2] = {};
};

}  // namespace rhea::dbt
