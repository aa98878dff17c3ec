// SPDX-License-Identifier: Apache-2.0
// VMCALL and VMMCALL: the hypercalls of KVM's paravirtual interface, as far as CPUID offers them. Either instruction
// will do, as under KVM: which one a guest uses follows the vendor that it knows.
//
// Spec: Linux Documentation/virt/kvm/x86/hypercalls.rst. Number in RAX, arguments in RBX, RCX, RDX, RSI, result in RAX;
// 32 bits of each outside 64-bit mode.
#include "cpu/lapic.h"
#include "dbt/system/internal.h"

namespace rhea::dbt {

namespace {

enum Hypercall : uint64_t { kVapicPollIrq = 1, kKickCpu = 5, kSendIpi = 10 };
enum FeatureBit : unsigned { kPvUnhalt = 7, kPvSendIpi = 11 };
constexpr uint32_t kFeatureLeaf = 0x40000001;

constexpr uint64_t kNotPermitted = static_cast<uint64_t>(-1), kInvalid = static_cast<uint64_t>(-22),
                   kUnknown = static_cast<uint64_t>(-1000);

struct Arguments {
  uint64_t number, a0, a1, a2, a3;
  bool wide;  // 64-bit mode
};

bool offered(const Context& context, FeatureBit bit) { return (static_cpuid(context, kFeatureLeaf).eax >> bit) & 1; }

// a1: APIC ID of a processor that is to leave the HLT it is in, or executes next.
uint64_t kick_cpu(Context& context, const Arguments& call) {
  with_vectors_saved(context, [&] { context.lapic->bus().wake(static_cast<uint32_t>(call.a1)); });
  return 0;
}

// a0, a1: two words of destination bits; a2: the APIC ID of the lowest; a3: the ICR's lower half. Returns how many
// processors it reached. GUEST-CONTROLLED: all of it
uint64_t send_ipi(Context& context, const Arguments& call) {
  constexpr uint64_t kLogical = 1u << 11, kShorthand = 3u << 18;
  if (call.a3 & (kLogical | kShorthand)) return kInvalid;
  const auto mode = static_cast<uint8_t>((call.a3 >> 8) & 7);
  const auto vector = static_cast<uint8_t>(call.a3);
  const auto first = static_cast<uint32_t>(call.a2);
  const unsigned word_bits = call.wide ? 64 : 32;
  uint64_t reached = 0;
  with_vectors_saved(context, [&] {
    cpu::LapicBus& bus = context.lapic->bus();
    for (unsigned word = 0; word < 2; ++word) {
      for (uint64_t bits = word == 0 ? call.a0 : call.a1; bits != 0; bits &= bits - 1) {
        const uint64_t id = uint64_t{first} + word * word_bits + static_cast<unsigned>(__builtin_ctzll(bits));
        if (id <= UINT32_MAX && bus.send_to(static_cast<uint32_t>(id), mode, vector)) ++reached;
      }
    }
  });
  return reached;
}

uint64_t dispatch(Context& context, const Arguments& call) {
  if (context.state.cpl() != 0) return kNotPermitted;
  switch (call.number) {
    case kVapicPollIrq: return 0;  // interrupts are looked at anyway before the next instruction
    case kKickCpu: return offered(context, kPvUnhalt) ? kick_cpu(context, call) : kUnknown;
    case kSendIpi: return offered(context, kPvSendIpi) ? send_ipi(context, call) : kUnknown;
    default: return kUnknown;
  }
}

}  // namespace

namespace op {

RHEA_SYSTEM_FUNCTION(vmcall) {
  const bool wide = context.state.code64();
  const unsigned size_bytes = wide ? 8 : 4;
  const Arguments call{.number = read_register(context, cpu::kRax, size_bytes),
                       .a0 = read_register(context, cpu::kRbx, size_bytes),
                       .a1 = read_register(context, cpu::kRcx, size_bytes),
                       .a2 = read_register(context, cpu::kRdx, size_bytes),
                       .a3 = read_register(context, cpu::kRsi, size_bytes),
                       .wide = wide};
  write_register(context, cpu::kRax, size_bytes, dispatch(context, call));
  return finish(context, insn);
}

}  // namespace op

}  // namespace rhea::dbt
