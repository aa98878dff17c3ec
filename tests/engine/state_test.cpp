// SPDX-License-Identifier: Apache-2.0
// The processor's state: what is set comes back, and a guest moved between engines goes on as if nothing had been.
#include "app/state_difference.h"
#include "tests/engine/guest.h"

namespace rhea::tests::engine {
namespace {

using namespace assembly;
using cpu::StopReason;

class StateTest : public EngineTest {};
RHEA_ENGINE_SUITE(StateTest);

// Only engines that count instructions know limits.
std::vector<EngineKind> counting_kinds() {
  std::vector<EngineKind> kinds;
  for (const EngineKind& kind : engine_kinds())
    if (kind.counts_instructions) kinds.push_back(kind);
  return kinds;
}
class SliceTest : public testing::TestWithParam<EngineKind> {};
INSTANTIATE_TEST_SUITE_P(Engines, SliceTest, testing::ValuesIn(counting_kinds()),
                         [](const auto& kind) { return kind.param.name; });

// Something else in everything that may hold anything.
cpu::CpuState busy_state() {
  cpu::CpuState s = Guest::initial_state();
  for (unsigned i = 0; i < 16; ++i) s.gpr[i] = 0x0123456789abcdef * (i + 1);
  s.rip = 0xffffffff81000123;
  s.rflags = 0x2 | 0x8d5 | cpu::rflags::kDf | cpu::rflags::kIf | cpu::rflags::kAc | cpu::rflags::kId | cpu::rflags::kNt;
  s.segment[cpu::kFs].base = 0x7fff12345000;
  s.segment[cpu::kGs].base = 0xffff888011110000;
  s.segment[cpu::kTr] = {.base = 0xfffffe0000003000, .limit = 0x4087, .selector = 0x40, .attributes = 0x8b};
  s.cr2 = 0xffffc90000001234;
  s.cr4 |= cpu::cr4::kPge | cpu::cr4::kFsgsbase;
  s.dr = {0x1000, 0x2000, 0x3000, 0x4000, 0, 0, 0xffff4ff0, 0x455};
  s.star = 0x0023001000000000;
  s.lstar = 0xffffffff81a00000;
  s.sfmask = 0x47700;
  s.kernel_gs_base = 0x7fff0000;
  s.sysenter_cs = 0x10;
  s.sysenter_eip = 0xffffffff81a01000;
  s.tsc_adjust = 12345;
  s.tsc_aux = 7;
  s.pat = 0x0407050600070106;
  s.mtrr_def_type = 0xc06;
  s.mtrr_base[2] = 0xc0000000;
  s.mtrr_mask[2] = 0xfffc0000800;
  s.nmi_blocked = true;
  s.sti_shadow = true;
  auto put16 = [&](size_t at, uint16_t value) { std::memcpy(s.xsave.data() + at, &value, 2); };
  put16(0, 0x27f);   // FCW
  put16(2, 0x3800);  // FSW: top 7
  s.xsave[4] = std::byte{0x80};
  put16(6, 0x123);  // FOP
  const uint32_t mxcsr = 0x9fc0;
  std::memcpy(s.xsave.data() + 24, &mxcsr, 4);
  for (size_t i = 0; i < 10; ++i) s.xsave[32 + i] = static_cast<std::byte>(i + 1);
  for (size_t i = 160; i < 416; ++i) s.xsave[i] = static_cast<std::byte>(i);
  for (size_t i = 576; i < 832; ++i) s.xsave[i] = static_cast<std::byte>(i * 3);
  s.xsave[512] = std::byte{7};
  return s;
}

TEST_P(StateTest, WhatIsSetComesBack) {
  const cpu::CpuState before = busy_state();
  guest.vcpu().set_state(before);
  EXPECT_EQ(app::state_differences(before, guest.state()), std::vector<std::string>{});
}

TEST_P(StateTest, EveryDifferenceIsNamed) {
  const cpu::CpuState before = busy_state();
  cpu::CpuState other = before;
  other.gpr[kRbx] ^= 1;
  other.xsave[170] ^= std::byte{1};
  other.halted = true;
  EXPECT_EQ(app::state_differences(before, other).size(), 3u);
}

// The first half leaves something in every kind of register, exits, and the second half uses it.
Bytes long_program() {
  Bytes code;
  for (uint8_t i = 0; i < 16; ++i) {  // mov r64, imm64, but RSP
    if (i == 4) continue;
    code += Bytes{static_cast<uint8_t>(0x48 | i >> 3), static_cast<uint8_t>(0xb8 | (i & 7))} +
            little_endian(0x1111111111111111 * i + i, 8);
  }
  code +=
      mov(kRdi, Guest::kData) + Bytes{0xdb, 0xe3, 0xd9, 0xe8, 0xd9, 0xeb, 0xde, 0xc1};  // fninit; fld1; fldpi; faddp
  code += Bytes{0x66, 0x48, 0x0f, 0x6e, 0xc1, 0x66, 0x4c, 0x0f, 0x6e, 0xfa};            // movq xmm0,rcx; movq xmm15,rdx
  code += Bytes{0xc4, 0xe3, 0x7d, 0x18, 0xd0, 0x01};                                    // vinsertf128 ymm2,ymm0,xmm0,1
  code += Bytes{0x0f, 0xae, 0x5f, 0x40, 0x81, 0x67, 0x40} + little_endian(0xffff9fff, 4) + Bytes{0x81, 0x4f, 0x40} +
          little_endian(0x4000, 4) + Bytes{0x0f, 0xae, 0x57, 0x40};  // stmxcsr; round up; ldmxcsr
  code += Bytes{0xfd, 0x48, 0x83, 0xc0, 0xff, 0xf9};                 // std; add rax,-1; stc
  code += exit();
  code += Bytes{0x48, 0x11, 0xcb, 0x9c, 0x5e, 0xfc};  // adc rbx,rcx; pushfq; pop rsi; cld
  code += Bytes{0xdb, 0x3f};                          // fstp tbyte [rdi]
  code += Bytes{0xc5, 0xfd, 0x11, 0x57, 0x10, 0x66, 0x44, 0x0f,
                0xd6, 0x7f, 0x30, 0x0f, 0xae, 0x5f, 0x38};  // vmovupd [rdi+16],ymm2; movq [rdi+48],xmm15; stmxcsr
  code += Bytes{0x4d, 0x01, 0xc1, 0x4d, 0x01, 0xca, 0x4d, 0x01, 0xd3, 0x4d, 0x01,
                0xdc, 0x4d, 0x01, 0xe5, 0x4d, 0x01, 0xee, 0x4d, 0x01, 0xf7};  // add r9,r8 ... r15,r14
  return code;
}

void expect_equal_ram(Guest& left, Guest& right) {
  EXPECT_EQ(std::memcmp(left.ram(), right.ram(), Guest::kRamBytes), 0);
}

TEST_P(StateTest, AGuestMovedToAnotherEngineEndsAlike) {
  const Bytes code = long_program();
  Guest stays(GetParam());
  ASSERT_EQ(stays.run(code), StopReason::kStopped);
  ASSERT_EQ(stays.vector(), Guest::kNoVector);
  ASSERT_EQ(stays.go_on(), StopReason::kStopped);
  for (const EngineKind& kind : engine_kinds()) {
    if (kind.beyond.contains("AGuestMovedToAnotherEngineEndsAlike")) continue;
    Guest source(GetParam()), target(kind);
    ASSERT_EQ(source.run(code), StopReason::kStopped);
    std::memcpy(target.ram(), source.ram(), Guest::kRamBytes);
    target.vcpu().set_state(source.state());
    ASSERT_EQ(target.go_on(), StopReason::kStopped);
    EXPECT_EQ(app::state_differences(stays.state(), target.state()), std::vector<std::string>{}) << kind.name;
    expect_equal_ram(stays, target);
  }
}

// Exact slices: a program cut anywhere ends as it does in one piece, on whatever engine each piece runs.
TEST_P(SliceTest, AGuestMovedAfterAnyInstructionEndsAlike) {
  // Fills 64 qwords with a mix, through memory, calls and string instructions.
  const Bytes code = mov(kRdi, Guest::kData) + mov32(kRcx, 6) + mov32(kRax, 1) +  // 3
                     Bytes{0x48, 0x6b, 0xc0, 0x0d, 0x48, 0xab, 0x50, 0x58, 0x48, 0x31,
                           0xc8, 0x48, 0xc1, 0xc0, 0x07, 0xff, 0xc9, 0x75, 0xed} +
                     mov(kRsi, Guest::kData) + mov32(kRcx, 6) + Bytes{0xf3, 0x48, 0xa5} +
                     Bytes{0xf7, 0xf1};  // ..., div ecx by zero
  Guest whole(GetParam());
  ASSERT_EQ(whole.run(code), StopReason::kStopped);
  ASSERT_EQ(whole.vector(), 0u);
  const EngineKind other = counting_kinds()[GetParam().name == counting_kinds()[0].name ? 1 : 0];
  for (uint64_t cut = 1; cut < 56; ++cut) {
    Guest first(GetParam()), second(other);
    first.put(Guest::kCode, code + exit() + spin());
    first.put64(Guest::kVector, Guest::kNoVector);
    first.vcpu().set_state(Guest::initial_state());
    const StopReason reason = first.vcpu().run(cut);
    if (reason == StopReason::kStopped) break;  // the program is shorter
    ASSERT_EQ(reason, StopReason::kInstructionLimit);
    std::memcpy(second.ram(), first.ram(), Guest::kRamBytes);
    second.vcpu().set_state(first.state());
    ASSERT_EQ(second.go_on(), StopReason::kStopped);
    ASSERT_EQ(app::state_differences(whole.state(), second.state()), std::vector<std::string>{}) << cut;
    ASSERT_EQ(std::memcmp(whole.ram(), second.ram(), Guest::kRamBytes), 0) << cut;
  }
}

TEST_P(SliceTest, ARunEndsAtItsLimitExactly) {
  Guest guest(GetParam());
  guest.put(Guest::kCode, inc_ebx() + jump_back(2));
  guest.vcpu().set_state(Guest::initial_state());
  uint64_t total = 0;
  for (const uint64_t limit : {1, 2, 3, 100, 47, 48, 49, 1001}) {
    ASSERT_EQ(guest.vcpu().run(limit), StopReason::kInstructionLimit);
    total += limit;
    EXPECT_EQ(guest.gpr(kRbx), (total + 1) / 2) << limit;
    EXPECT_EQ(guest.clock().now_ns(), total);
  }
}

// A timer armed for sooner than the end of the slice fires when it is due, whatever armed it.
TEST_P(SliceTest, ATimerArmedInsideASliceIsOnTime) {
  Guest guest(GetParam());
  guest.enable_apic();
  // divide by 1; vector 0x66; initial count 1000; then a loop that counts.
  const auto apic_write = [](uint32_t offset, uint32_t value) {
    return mov(kRdi, Guest::kApic + offset) + Bytes{0xc7, 0x07} + little_endian(value, 4);
  };
  ASSERT_EQ(guest.run(sti() + apic_write(0x3e0, 0xb) + apic_write(0x320, 0x66) + apic_write(0x380, 1000) + inc_ebx() +
                      jump_back(2)),
            StopReason::kStopped);
  EXPECT_EQ(guest.vector(), 0x66u);
  EXPECT_EQ(guest.gpr(kRbx), 500u);
}

TEST_P(StateTest, AHaltedProcessorStaysHalted) {
  guest.enable_apic();
  guest.run(nop());
  cpu::CpuState s = guest.state();
  s.halted = true;
  s.rflags |= cpu::rflags::kIf;
  s.rip = Guest::kCode;
  guest.put(Guest::kCode, inc_ebx() + exit() + spin());
  guest.vcpu().set_state(s);
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    guest.lapic().deliver(0, 0x44, false);
  });
  EXPECT_EQ(guest.go_on(), StopReason::kStopped);
  other.join();
  EXPECT_EQ(guest.vector(), 0x44u);
  EXPECT_EQ(guest.gpr(kRbx), 0u);
  EXPECT_FALSE(guest.state().halted);
}

}  // namespace
}  // namespace rhea::tests::engine
