// SPDX-License-Identifier: Apache-2.0
// CPUID, model-specific registers, control registers, reset.
#include "tests/engine/guest.h"

namespace rhea::tests::engine {
namespace {

using namespace assembly;
using cpu::StopReason;

class ProcessorTest : public EngineTest {
 protected:
  cpu::CpuidResult cpuid(uint32_t leaf, uint32_t subleaf = 0, const Bytes& before = {}) {
    guest.run(before + mov32(kRax, leaf) + mov32(kRcx, subleaf) + Bytes{0x0f, 0xa2});
    const cpu::CpuState s = guest.state();
    return {static_cast<uint32_t>(s.gpr[kRax]), static_cast<uint32_t>(s.gpr[kRbx]), static_cast<uint32_t>(s.gpr[kRcx]),
            static_cast<uint32_t>(s.gpr[kRdx])};
  }
};
RHEA_ENGINE_SUITE(ProcessorTest);

TEST_P(ProcessorTest, CpuidIsTheModels) {
  for (const uint32_t leaf : {0u, 2u, 0x40000000u, 0x40000001u, 0x80000000u, 0x80000001u, 0x80000002u, 0x80000008u})
    EXPECT_EQ(cpuid(leaf), guest.model().cpuid(leaf, 0)) << std::hex << leaf;
  const cpu::CpuidResult one = cpuid(1), model = guest.model().cpuid(1, 0);
  constexpr uint32_t kOsxsave = 1u << 27;
  EXPECT_EQ(one.eax, model.eax);
  EXPECT_EQ(one.edx, model.edx);
  EXPECT_EQ(one.ecx & ~kOsxsave, model.ecx & ~kOsxsave);
}

TEST_P(ProcessorTest, CpuidShowsOsxsaveAsCr4HasIt) {
  constexpr uint32_t kOsxsave = 1u << 27;
  EXPECT_TRUE(cpuid(1).ecx & kOsxsave);
  const Bytes clear =
      Bytes{0x0f, 0x20, 0xe0, 0x0f, 0xba, 0xf0, 18, 0x0f, 0x22, 0xe0};  // mov rax,cr4; btr eax,18; mov cr4,rax
  EXPECT_FALSE(cpuid(1, 0, clear).ecx & kOsxsave);
}

TEST_P(ProcessorTest, CpuidSizesTheXsaveAreaByXcr0) {
  const auto set_xcr0 = [](uint32_t value) {
    return mov32(kRcx, 0) + mov32(kRdx, 0) + mov32(kRax, value) + Bytes{0x0f, 0x01, 0xd1};
  };
  EXPECT_EQ(cpuid(0xd, 0, set_xcr0(7)).ebx, 832u);
  EXPECT_EQ(cpuid(0xd, 0, set_xcr0(3)).ebx, 576u);
}

TEST_P(ProcessorTest, MsrsReadBackWhatWasWritten) {
  const struct {
    uint32_t index;
    uint64_t value;
    uint64_t cpu::CpuState::* field;
  } kMsrs[] = {{0xc0000081, 0x0023001000000000, &cpu::CpuState::star},
               {0xc0000082, 0xffffffff81a00000, &cpu::CpuState::lstar},
               {0xc0000083, 0xffffffff81a01000, &cpu::CpuState::cstar},
               {0xc0000084, 0x47700, &cpu::CpuState::sfmask},
               {0xc0000102, 0xffff888000000000, &cpu::CpuState::kernel_gs_base},
               {0xc0000103, 0x5, &cpu::CpuState::tsc_aux},
               {0x174, 0x10, &cpu::CpuState::sysenter_cs},
               {0x175, 0xffff800000001000, &cpu::CpuState::sysenter_esp},
               {0x176, 0xffff800000002000, &cpu::CpuState::sysenter_eip},
               {0x277, 0x0407050600070106, &cpu::CpuState::pat}};
  for (const auto& msr : kMsrs) {
    if (msr.field == &cpu::CpuState::tsc_aux && !guest.model().has("rdtscp") && !guest.model().has("rdpid")) continue;
    guest.run(wrmsr(msr.index, msr.value) + rdmsr(msr.index));
    EXPECT_EQ(guest.vector(), Guest::kNoVector) << std::hex << msr.index;
    EXPECT_EQ(guest.gpr(kRax), msr.value) << std::hex << msr.index;
    EXPECT_EQ(guest.state().*msr.field, msr.value) << std::hex << msr.index;
  }
}

TEST_P(ProcessorTest, SegmentBaseMsrsAreTheBases) {
  guest.put64(Guest::kData + 0x10, 0x1122334455667788);
  guest.run(wrmsr(0xc0000100, Guest::kData) + Bytes{0x64, 0x48, 0x8b, 0x1c, 0x25, 0x10, 0, 0, 0});  // mov rbx,fs:[0x10]
  EXPECT_EQ(guest.gpr(kRbx), 0x1122334455667788u);
  EXPECT_EQ(guest.state().segment[cpu::kFs].base, Guest::kData);
  guest.run(wrmsr(0xc0000101, Guest::kData) + wrmsr(0xc0000102, Guest::kData + 8) + Bytes{0x0f, 0x01, 0xf8} +  // swapgs
            Bytes{0x65, 0x48, 0x8b, 0x1c, 0x25, 0x08, 0, 0, 0});
  EXPECT_EQ(guest.gpr(kRbx), 0x1122334455667788u);
  EXPECT_EQ(guest.state().kernel_gs_base, Guest::kData);
}

TEST_P(ProcessorTest, UnknownMsrsAndBadValuesFault) {
  guest.run(rdmsr(0x12345678));
  EXPECT_EQ(guest.vector(), 13u);
  EXPECT_EQ(guest.stacked(0), 0u);                   // error code
  guest.run(wrmsr(0xc0000082, 0x0001000000000000));  // not canonical
  EXPECT_EQ(guest.vector(), 13u);
  guest.run(wrmsr(0xc0000080, 0x500 | 1u << 20));  // EFER, reserved bit
  EXPECT_EQ(guest.vector(), 13u);
}

TEST_P(ProcessorTest, TscAdjustMovesTheTsc) {
  // The difference of two readings around a write of 1 << 40.
  guest.run(Bytes{0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0x48, 0x89, 0xc3} +
            wrmsr(0x3b, uint64_t{1} << 40) +
            Bytes{0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0x48, 0x29, 0xd8});
  EXPECT_GE(guest.gpr(kRax), uint64_t{1} << 40);
  EXPECT_LT(guest.gpr(kRax), (uint64_t{1} << 40) + (uint64_t{1} << 36));
}

TEST_P(ProcessorTest, ControlRegistersCheckWhatTheyAreGiven) {
  guest.run(mov(kRax, uint64_t{1} << 40) + Bytes{0x0f, 0x22, 0xe0});  // CR4, reserved bit
  EXPECT_EQ(guest.vector(), 13u);
  guest.run(Bytes{0x0f, 0x20, 0xc0, 0x0f, 0xba, 0xf0, 0, 0x0f, 0x22, 0xc0});  // CR0.PE off with paging on
  EXPECT_EQ(guest.vector(), 13u);
  guest.run(Bytes{0x0f, 0x20, 0xe0, 0x0f, 0xba, 0xf0, 5, 0x0f, 0x22, 0xe0});  // CR4.PAE off in long mode
  EXPECT_EQ(guest.vector(), 13u);
}

TEST_P(ProcessorTest, TaskSwitchedMakesVectorAndX87CodeUnavailable) {
  const Bytes set_ts{0x0f, 0x20, 0xc0, 0x0f, 0xba, 0xe8, 3, 0x0f, 0x22, 0xc0};
  guest.run(set_ts + Bytes{0x0f, 0x57, 0xc0});
  EXPECT_EQ(guest.vector(), 7u);
  guest.run(set_ts + Bytes{0xd9, 0xe8});
  EXPECT_EQ(guest.vector(), 7u);
  guest.run(set_ts + Bytes{0x0f, 0x06, 0xd9, 0xe8});  // clts
  EXPECT_EQ(guest.vector(), Guest::kNoVector);
}

TEST_P(ProcessorTest, WriteProtectionAndDirtyBitsOfThePageTables) {
  const uint64_t entry = Guest::kTables + 0x2000 + 8 * 3;  // the page at 6 MiB
  guest.put64(entry, (uint64_t{3} << 21) | 0x81);
  guest.run(mov(kRdi, 0x600000) + Bytes{0x8b, 0x07, 0x89, 0x07});
  EXPECT_EQ(guest.vector(), 14u);
  EXPECT_EQ(guest.stacked(0), 3u);  // a write to a present page
  EXPECT_EQ(guest.state().cr2, 0x600000u);
  EXPECT_EQ(guest.get64(entry) & 0x60, 0x20u);
  guest.put64(entry, (uint64_t{3} << 21) | 0x83);
  guest.run(mov(kRdi, 0x600000) + Bytes{0x89, 0x07});
  EXPECT_EQ(guest.vector(), Guest::kNoVector);
  EXPECT_EQ(guest.get64(entry) & 0x60, 0x60u);
}

TEST_P(ProcessorTest, ResetStartsAtTheVectorInRealMode) {
  // At F000:FFF0, 16 bytes below 4 GiB: mov al,0x5a; out 0xf4,al; jmp $.
  const Bytes code{0xb0, 0x5a, 0xe6, 0xf4, 0xeb, 0xfe};
  std::copy(code.begin(), code.end(), guest.rom().begin() + 0xff0);
  guest.run(mov32(kRbx, 1));  // something else before
  cpu::CpuState reset;
  cpu::reset_to_power_on(reset);
  guest.vcpu().set_state(reset);
  EXPECT_EQ(guest.go_on(), StopReason::kStopped);
  const cpu::CpuState s = guest.state();
  EXPECT_EQ(s.gpr[kRax] & 0xff, 0x5au);
  EXPECT_EQ(s.gpr[kRbx], 0u);
  EXPECT_EQ(s.segment[cpu::kCs].selector, 0xf000u);
  EXPECT_EQ(s.segment[cpu::kCs].base, 0xffff0000u);
  EXPECT_EQ(s.rip, 0xfff4u);
  EXPECT_EQ(s.cr0 & 1, 0u);
}

TEST_P(ProcessorTest, RealModeCodeUsesSegmentsAndTheVectorTable) {
  guest.run(nop());
  // INT 0x21 at 0000:0x84 points to 0100:0000, which does mov bx,0x1234; out 0xf4,al.
  guest.put(0x84, {0x00, 0x00, 0x00, 0x01});
  guest.put(0x1000, {0xbb, 0x34, 0x12, 0xe6, 0xf4, 0xeb, 0xfe});
  guest.put(0x30000, {0xcd, 0x21});
  cpu::CpuState s;
  cpu::reset_to_power_on(s);
  s.segment[cpu::kCs] = {.base = 0x30000, .limit = 0xffff, .selector = 0x3000, .attributes = 0x9b};
  s.segment[cpu::kSs].base = 0x40000;
  s.segment[cpu::kSs].selector = 0x4000;
  s.gpr[kRsp] = 0x100;
  s.rip = 0;
  guest.vcpu().set_state(s);
  EXPECT_EQ(guest.go_on(), StopReason::kStopped);
  EXPECT_EQ(guest.gpr(kRbx), 0x1234u);
  EXPECT_EQ(guest.gpr(kRsp), 0xfau);
  EXPECT_EQ(guest.get64(0x400fa) & 0xffffffff, 0x30000002u);  // IP, CS
  EXPECT_EQ(guest.state().segment[cpu::kCs].base, 0x1000u);
}

TEST_P(ProcessorTest, DebugTranslationFollowsThePageTables) {
  guest.run(nop());
  uint64_t physical = 0;
  EXPECT_TRUE(guest.vcpu().translate_for_debug(Guest::kData + 5, physical));
  EXPECT_EQ(physical, Guest::kData + 5);
  guest.put64(Guest::kTables + 0x2000 + 8 * 4, (uint64_t{5} << 21) | 0x83);
  EXPECT_TRUE(guest.vcpu().translate_for_debug(0x800123, physical));
  EXPECT_EQ(physical, 0xa00123u);
  EXPECT_FALSE(guest.vcpu().translate_for_debug(uint64_t{1} << 40, physical));
}

TEST_P(ProcessorTest, StatisticsAreText) {
  guest.run(nop());
  EXPECT_FALSE(guest.vcpu().statistics().empty());
}

}  // namespace
}  // namespace rhea::tests::engine
