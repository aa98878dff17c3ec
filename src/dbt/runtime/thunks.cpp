// SPDX-License-Identifier: Apache-2.0
// Emission of the thunks. The register conventions are in thunks.h.
#include "dbt/runtime/thunks.h"

#include "dbt/inject_bug.h"
#include "dbt/runtime/entry_points.h"
#include "dbt/runtime/runtime.h"

namespace rhea::dbt {
namespace {

constexpr size_t kXsaveOffset = offsetof(Context, state) + offsetof(cpu::CpuState, xsave);
constexpr uint32_t kDefaultMxcsr = 0x1f80;

// Instrumented code calls the sanitizers' runtime, whose memcpy and the like use vector registers: there the guest's
// are put away around every function that translated code calls, not only around those that need it.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define RHEA_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define RHEA_SANITIZED 1
#endif
#endif
#ifdef RHEA_SANITIZED
template <auto function>
struct Guarded;
template <class... Arguments, ThunkResult (*function)(Context*, Arguments...)>
struct Guarded<function> {
  __attribute__((no_sanitize("address", "thread", "undefined"))) static ThunkResult call(Context* context,
                                                                                         Arguments... arguments) {
    asm volatile("xsave64 %0" : "+m"(context->state.xsave) : "a"(context->vector_components), "d"(0) : "memory");
    context->vectors_saved = 1;
    asm volatile("ldmxcsr %0" : : "m"(kDefaultMxcsr));  // x87 stays: memory_after() asks it
    const ThunkResult result = function(context, arguments...);
    context->vectors_saved = 0;
    asm volatile("xrstor64 %0" : : "m"(context->state.xsave), "a"(context->vector_components), "d"(0) : "memory");
    return result;
  }
};
template <auto function>
uint64_t address() {
  return reinterpret_cast<uint64_t>(&Guarded<function>::call);
}
#else
template <auto function>
uint64_t address() {
  return reinterpret_cast<uint64_t>(function);
}
#endif

// A context field while `pushed` bytes lie on the stack below it.
HostMem field(size_t offset, int pushed) {
  return {.base = kHRsp, .displacement = static_cast<int32_t>(offset) + pushed};
}
HostMem slot(unsigned gpr, int pushed) {
  HostMem mem = gpr_slot(gpr);
  mem.displacement += pushed;
  return mem;
}

constexpr uint8_t kPinned[] = {cpu::kRax, cpu::kRcx, cpu::kRdx, cpu::kRbx, cpu::kRsp, cpu::kRbp,
                               cpu::kRsi, cpu::kRdi, cpu::kR8,  cpu::kR9,  cpu::kR10, cpu::kR11};

// Pinned registers and arithmetic flags to the context; clobbers RAX.
void save_registers(Emitter& e, int pushed) {
  for (const uint8_t gpr : kPinned) e.store64(slot(gpr, pushed), host_register(gpr));
  e.u8(0x9f);                                      // lahf
  e.op_reg({.map = 1, .opcode = 0x90}, 0, kHRax);  // seto al
  e.store32(field(offsetof(Context, arith_flags), pushed), kHRax);
}

void load_flags(Emitter& e, int pushed) {
  e.load32(kHRax, field(offsetof(Context, arith_flags), pushed));
  e.u8(0x04);
  e.u8(0x7f);  // add al, 127: overflows exactly if OF was set
  e.u8(0x9e);  // sahf
}

void load_registers(Emitter& e, int pushed) {
  load_flags(e, pushed);
  for (const uint8_t gpr : kPinned) e.load64(host_register(gpr), slot(gpr, pushed));
}

// Only what a C++ function clobbers; nothing of the guest's state changed.
void load_caller_saved(Emitter& e, int pushed) {
  load_flags(e, pushed);
  for (const uint8_t gpr : {cpu::kRax, cpu::kRdx, cpu::kRsi, cpu::kRdi, cpu::kR8, cpu::kR9, cpu::kR10, cpu::kR11})
    e.load64(host_register(gpr), slot(gpr, pushed));
}

void call_function(Emitter& e, uint64_t function) {
  e.mov_imm64(kHRax, function);
  e.op_reg({.opcode = 0xff}, 2, kHRax);
}

// All registers from the context, r14 = state.rip, jump to the address in RDX.
void emit_resume(Emitter& e) {
  e.mov64(kScratchB, kHRdx);
  e.load64(kScratchA, field(offsetof(Context, state) + offsetof(cpu::CpuState, rip), 0));
  load_registers(e, 0);
  e.jmp_reg(kScratchB);
}

uint64_t emit_exit(Emitter& e) {
  const uint64_t start = e.exec_position();
  e.load32(kHRax, context_field(offsetof(Context, vector_components)));
  e.mov_imm32(kHRdx, 0);
  e.op_mem({.map = 1, .opcode = 0xae, .rex_w = true}, 4, context_field(kXsaveOffset));  // xsave64
  e.u8(0xdb);
  e.u8(0xe3);  // fninit
  e.store32_imm(context_field(offsetof(Context, scratch)), kDefaultMxcsr);
  e.op_mem({.map = 1, .opcode = 0xae}, 2, context_field(offsetof(Context, scratch)));  // ldmxcsr
  e.load64(kHRsp, context_field(offsetof(Context, host_stack)));
  for (const uint8_t reg : {kHR15, kHR14, kHR13, kHR12}) {
    e.u8(0x41);
    e.u8(static_cast<uint8_t>(0x58 | (reg & 7)));
  }
  e.u8(0x5d);  // pop rbp
  e.u8(0x5b);  // pop rbx
  e.u8(0xc3);
  return start;
}

uint64_t emit_enter(Emitter& e) {
  const uint64_t start = e.exec_position();
  e.u8(0x53);  // push rbx
  e.u8(0x55);  // push rbp
  for (const uint8_t reg : {kHR12, kHR13, kHR14, kHR15}) {
    e.u8(0x41);
    e.u8(static_cast<uint8_t>(0x50 | (reg & 7)));
  }
  e.store64({.base = kHRdi, .displacement = offsetof(Context, host_stack)}, kHRsp);
  e.mov64(kHRsp, kHRdi);
  e.mov64(kHR9, kHRsi);
  e.load32(kHRax, context_field(offsetof(Context, vector_components)));
  e.mov_imm32(kHRdx, 0);
  e.op_mem({.map = 1, .opcode = 0xae, .rex_w = true}, 5, context_field(kXsaveOffset));  // xrstor64
  e.mov64(kHRdx, kHR9);
  emit_resume(e);
  return start;
}

// A thunk reached by jmp whose function always resumes elsewhere. Arguments: rsi, edx as set by `arguments`.
template <class Arguments>
uint64_t emit_jump_thunk(Emitter& e, uint64_t function, Arguments arguments) {
  const uint64_t start = e.exec_position();
  save_registers(e, 0);
  arguments();
  e.mov64(kHRdi, kHRsp);
  call_function(e, function);
  emit_resume(e);
  return start;
}

// A thunk reached by call: function(context, a, b, return address). `on_continue` runs with one word (the
// return address) on the stack and RDX holding the result's value.
template <class Arguments, class OnContinue>
uint64_t emit_call_thunk(Emitter& e, uint64_t function, Arguments arguments, OnContinue on_continue) {
  const uint64_t start = e.exec_position();
  save_registers(e, 8);
  arguments();
  e.load64(kHRcx, {.base = kHRsp});
  e.lea64(kHRdi, {.base = kHRsp, .displacement = 8});
  e.lea64(kHRsp, {.base = kHRsp, .displacement = -8});
  call_function(e, function);
  e.lea64(kHRsp, {.base = kHRsp, .displacement = 8});
  e.op_reg({.opcode = 0x83}, 7, kHRax);  // cmp eax, kActionResume
  e.u8(kActionResume);
  uint8_t* resume = e.jcc8_open(4);
  on_continue();
  e.u8(0xc3);
  e.bind8(resume);
  e.lea64(kHRsp, {.base = kHRsp, .displacement = 8});
  emit_resume(e);
  return start;
}

}  // namespace

Thunks emit_thunks(Emitter& e, [[maybe_unused]] const Context& context) {
  Thunks thunks;
  thunks.exit = emit_exit(e);
  e.align(16);
  thunks.enter = reinterpret_cast<void (*)(Context*, uint64_t)>(emit_enter(e));
  e.align(16);
  thunks.dispatch = emit_jump_thunk(e, address<&entry_dispatch>(), [&] { e.mov64(kHRsi, kScratchA); });
  e.align(16);
  thunks.branch = emit_jump_thunk(e, address<&entry_branch>(), [&] {
    e.mov64(kHRsi, kScratchA);
    e.mov32(kHRdx, kHRcx);
  });
  e.align(16);
  thunks.link = emit_jump_thunk(e, address<&entry_link>(), [&] { e.mov64(kHRsi, kScratchB); });
  e.align(16);
  thunks.budget = emit_jump_thunk(e, address<&entry_budget>(), [&] {
    e.mov64(kHRsi, kScratchA);
    e.mov32(kHRdx, kHRcx);
  });
  e.align(16);
  thunks.native_fault = e.exec_position();  // the signal handler has saved the registers already
  e.mov64(kHRdi, kHRsp);
  call_function(e, address<&entry_native_fault>());
  emit_resume(e);
  e.align(16);
  thunks.memory = emit_call_thunk(
      e, address<&entry_memory>(),
      [&] {
        e.mov64(kHRsi, kScratchA);
        e.mov32(kHRdx, kHRcx);
      },
      [&] {
        e.mov64(kHRcx, kHRax);
        e.mov64(kScratchB, kHRdx);
        load_caller_saved(e, 8);
        if (injected(context, 68)) e.u8(0xf8);  // clc
      });
  e.align(16);
  thunks.memory_after = emit_call_thunk(
      e, address<&entry_memory_after>(), [&] { e.mov32(kHRdx, kHRcx); },
      [&] {
        load_caller_saved(e, 8);
        if (injected(context, 69)) e.mov_imm32(kHR11, 0);
      });
  e.align(16);
  thunks.system = emit_call_thunk(
      e, address<&entry_system>(), [&] { e.mov64(kHRsi, kScratchB); },
      [&] {
        load_registers(e, 8);
        if (injected(context, 70)) e.u8(0x9f), e.u8(0x9e);  // lahf, sahf: AH is gone
      });
  e.align(16);
  thunks.segment = emit_call_thunk(
      e, address<&entry_segment>(),
      [&] {
        e.mov64(kHRsi, kScratchA);
        e.mov32(kHRdx, kHRcx);
      },
      [&] {
        e.mov64(kScratchA, kHRdx);
        load_caller_saved(e, 8);
      });
  e.align(16);
  thunks.raise = emit_call_thunk(e, address<&entry_raise>(), [&] { e.mov32(kHRsi, kHRcx); }, [] {});
  e.align(16);
  return thunks;
}

}  // namespace rhea::dbt
