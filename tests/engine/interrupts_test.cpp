// SPDX-License-Identifier: Apache-2.0
// Interrupts by every route, timers, HLT, stops.
#include <chrono>

#include "tests/engine/guest.h"

namespace rhea::tests::engine {
namespace {

using namespace assembly;
using cpu::StopReason;

class InterruptTest : public EngineTest {
 protected:
  InterruptTest() { guest.enable_apic(); }
  static Bytes apic_write(uint32_t offset, uint32_t value) {
    return mov(kRdi, Guest::kApic + offset) + Bytes{0xc7, 0x07} + little_endian(value, 4);
  }
  // A handler that counts, acknowledges and returns.
  static Bytes counting_handler() {
    return increment(Guest::kCount) + Bytes{0x57} + apic_write(0xb0, 0) + Bytes{0x5f} + iretq();
  }
  // Enables interrupts and spins until kCount has reached `count`; interrupts off again.
  static Bytes wait_for(uint8_t count) {
    return sti() + Bytes{0x83, 0x3c, 0x25} + little_endian(Guest::kCount, 4) + Bytes{count, 0x72, 0xf6} +
           cli();  // cmp dword; jb
  }
};
RHEA_ENGINE_SUITE(InterruptTest);

TEST_P(InterruptTest, DeliveredBeforeTheGuestStarts) {
  guest.lapic().deliver(0, 0x40, false);
  EXPECT_EQ(guest.run(sti() + inc_ebx() + spin()), StopReason::kStopped);
  EXPECT_EQ(guest.vector(), 0x40u);
  EXPECT_EQ(guest.gpr(kRbx), 1u);  // STI's shadow
}

TEST_P(InterruptTest, NotWhileDisabled) {
  guest.lapic().deliver(0, 0x40, false);
  guest.run(nop() + inc_ebx());
  EXPECT_EQ(guest.vector(), Guest::kNoVector);
  EXPECT_EQ(guest.gpr(kRbx), 1u);
}

TEST_P(InterruptTest, FromAnotherThreadIntoALoop) {
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    guest.lapic().deliver(0, 0x51, false);
  });
  guest.run(sti() + spin());
  other.join();
  EXPECT_EQ(guest.vector(), 0x51u);
}

TEST_P(InterruptTest, FromAnotherThreadIntoHlt) {
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    guest.lapic().deliver(0, 0x52, false);
  });
  guest.run(sti() + hlt() + inc_ebx() + spin());
  other.join();
  EXPECT_EQ(guest.vector(), 0x52u);
  EXPECT_EQ(guest.gpr(kRbx), 0u);
  EXPECT_EQ(guest.stacked(0), Guest::kCode + 2);  // returns behind HLT
}

TEST_P(InterruptTest, SelfIpiThroughTheIcr) {
  guest.run(sti() + apic_write(0x300, 0x40045) + spin());  // shorthand self, fixed
  EXPECT_EQ(guest.vector(), 0x45u);
}

TEST_P(InterruptTest, IpiToItsOwnId) {
  guest.run(sti() + apic_write(0x310, 0) + apic_write(0x300, 0x46) + spin());
  EXPECT_EQ(guest.vector(), 0x46u);
}

TEST_P(InterruptTest, SelfIpiInX2apicMode) {
  guest.run(wrmsr(0x1b, Guest::kApic | 0xd00) + sti() + wrmsr(0x83f, 0x47) + spin());
  EXPECT_EQ(guest.vector(), 0x47u);
}

TEST_P(InterruptTest, MessageSignalled) {
  guest.router().send_msi({.address = 0xfee00000, .data = 0x48});
  guest.run(sti() + nop() + spin());
  EXPECT_EQ(guest.vector(), 0x48u);
}

// The 8259 pair: a source that has one vector to give.
class OneExtInt final : public io::ExtIntSource {
 public:
  bool ext_int_pending() const override { return pending; }
  uint8_t acknowledge_ext_int() override {
    pending = false;
    return 0x33;
  }
  bool pending = true;
};

TEST_P(InterruptTest, ExternalThroughLint0) {
  OneExtInt source;
  guest.router().connect_ext_int_source(&source);
  guest.lapic().io_write(0x350, 0x700, 4);  // LINT0: ExtINT
  guest.router().set_ext_int(true);
  guest.run(sti() + nop() + spin());
  EXPECT_EQ(guest.vector(), 0x33u);
  EXPECT_FALSE(source.pending);
}

TEST_P(InterruptTest, NmiComesWhileDisabledAndNotAgainBeforeIret) {
  guest.handler(2, increment(Guest::kCount) + Bytes{0x57} + apic_write(0x310, 0) + apic_write(0x300, 0x400) + nop() +
                       nop() + Bytes{0x5f, 0x83, 0x3c, 0x25} + little_endian(Guest::kCount, 4) + Bytes{2, 0x74, 0x02} +
                       iretq() + exit() + spin());
  guest.put64(Guest::kCount, 0);
  guest.lapic().deliver(4, 0, false);
  EXPECT_EQ(guest.run(nop() + nop() + nop() + spin()), StopReason::kStopped);
  EXPECT_EQ(guest.get32(Guest::kCount), 2u);
  // The second came after the first's IRET: at the guest's own code.
  EXPECT_GE(guest.stacked(0), Guest::kCode);
  EXPECT_LT(guest.stacked(0), Guest::kCode + 0x100);
}

TEST_P(InterruptTest, NmiEndsHltWhileDisabled) {
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    guest.lapic().deliver(4, 0, false);
  });
  guest.run(hlt() + spin());
  other.join();
  EXPECT_EQ(guest.vector(), 2u);
}

TEST_P(InterruptTest, TheHigherVectorFirstTheOtherAtItsEoi) {
  guest.put64(Guest::kCount, 0);
  guest.handler(0x60, counting_handler());
  guest.lapic().deliver(0, 0x50, false);
  guest.lapic().deliver(0, 0x60, false);
  guest.run(sti() + nop() + spin());
  EXPECT_EQ(guest.get32(Guest::kCount), 1u);
  EXPECT_EQ(guest.vector(), 0x50u);
}

TEST_P(InterruptTest, TheTaskPriorityHoldsBackUntilItIsLowered) {
  guest.lapic().deliver(0, 0x50, false);
  // mov cr8, 5 hides class 5; lowering it lets it in.
  guest.run(mov32(kRax, 5) + Bytes{0x44, 0x0f, 0x22, 0xc0} + sti() + nop() + inc_ebx() + mov32(kRax, 4) +
            Bytes{0x44, 0x0f, 0x22, 0xc0} + nop() + spin());
  EXPECT_EQ(guest.vector(), 0x50u);
  EXPECT_EQ(guest.gpr(kRbx), 1u);
}

TEST_P(InterruptTest, PopfAndIretEnableAtOnce) {
  guest.lapic().deliver(0, 0x50, false);
  guest.run(Bytes{0x68, 0x02, 0x02, 0x00, 0x00, 0x9d} + inc_ebx() + spin());  // push 0x202; popfq
  EXPECT_EQ(guest.vector(), 0x50u);
  EXPECT_EQ(guest.gpr(kRbx), 0u);
}

TEST_P(InterruptTest, MovSsHoldsOneInstruction) {
  guest.lapic().deliver(0, 0x50, false);
  guest.run(mov32(kRax, 0x10) + sti() + Bytes{0x8e, 0xd0} + inc_ebx() + inc_ebx() +
            spin());  // mov ss,eax in STI's shadow
  EXPECT_EQ(guest.vector(), 0x50u);
  EXPECT_EQ(guest.gpr(kRbx), 1u);
}

TEST_P(InterruptTest, SoftwareInterruptsPushTheNextInstruction) {
  guest.run(Bytes{0xcd, 0x77} + spin());
  EXPECT_EQ(guest.vector(), 0x77u);
  EXPECT_EQ(guest.stacked(0), Guest::kCode + 2);
  guest.run(Bytes{0xcc} + spin());
  EXPECT_EQ(guest.vector(), 3u);
  EXPECT_EQ(guest.stacked(0), Guest::kCode + 1);
}

TEST_P(InterruptTest, ExceptionsPushTheInstructionItself) {
  guest.run(nop() + Bytes{0x0f, 0x0b});
  EXPECT_EQ(guest.vector(), 6u);
  EXPECT_EQ(guest.stacked(0), Guest::kCode + 1);
}

// ---- timers ----

constexpr uint32_t kLvtTimer = 0x320, kDivide = 0x3e0, kInitialCount = 0x380;

TEST_P(InterruptTest, OneShotTimerEndsHlt) {
  guest.run(apic_write(kDivide, 0xb) + apic_write(kLvtTimer, 0x61) + apic_write(kInitialCount, 2'000'000) + sti() +
            hlt() + spin());
  EXPECT_EQ(guest.vector(), 0x61u);
}

TEST_P(InterruptTest, PeriodicTimerComesAgain) {
  guest.put64(Guest::kCount, 0);
  guest.handler(0x62, counting_handler());
  EXPECT_EQ(guest.run(apic_write(kDivide, 0xb) + apic_write(kLvtTimer, 0x20062) + apic_write(kInitialCount, 500'000) +
                      wait_for(4) + apic_write(kInitialCount, 0)),
            StopReason::kStopped);
  EXPECT_GE(guest.get32(Guest::kCount), 4u);
}

TEST_P(InterruptTest, TimerInterruptsALoopWithoutExits) {
  guest.run(apic_write(kDivide, 0xb) + apic_write(kLvtTimer, 0x63) + apic_write(kInitialCount, 1'000'000) + sti() +
            spin());
  EXPECT_EQ(guest.vector(), 0x63u);
}

TEST_P(InterruptTest, TscDeadline) {
  if (!guest.model().has("tsc_deadline_timer")) GTEST_SKIP() << "not offered";
  // now + 1,000,000 ticks into the MSR: rdtsc; shl rdx,32; or rax,rdx; add rax,imm; mov rdx,rax; shr rdx,32; mov
  // ecx,0x6e0; wrmsr
  guest.run(apic_write(kLvtTimer, 0x40064) + Bytes{0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0x48, 0x05} +
            little_endian(1'000'000, 4) + Bytes{0x48, 0x89, 0xc2, 0x48, 0xc1, 0xea, 0x20} + mov32(kRcx, 0x6e0) +
            Bytes{0x0f, 0x30} + sti() + hlt() + spin());
  EXPECT_EQ(guest.vector(), 0x64u);
}

TEST_P(InterruptTest, ADeadlineInThePastFiresAtOnce) {
  if (!guest.model().has("tsc_deadline_timer")) GTEST_SKIP() << "not offered";
  guest.run(apic_write(kLvtTimer, 0x40065) + nop() + nop() + wrmsr(0x6e0, 1) + sti() + nop() + spin());
  EXPECT_EQ(guest.vector(), 0x65u);
}

TEST_P(InterruptTest, TheTscMovesAndNeverGoesBack) {
  // rdtsc; mov ebx,eax; nop; rdtsc; sub eax,ebx
  guest.run(Bytes{0x0f, 0x31, 0x89, 0xc3, 0x90, 0x0f, 0x31, 0x29, 0xd8});
  EXPECT_GT(guest.gpr(kRax), 0u);
  EXPECT_LT(guest.gpr(kRax), 1u << 31);
}

// ---- stops ----

TEST_P(InterruptTest, StopsInALoopAndGoesOn) {
  for (int i = 0; i < 3; ++i) {
    std::thread other([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      guest.vcpu().request_stop();
    });
    EXPECT_EQ(i == 0 ? guest.run(inc_ebx() + jump_back(2)) : guest.go_on(), StopReason::kStopped);
    other.join();
  }
  EXPECT_GT(guest.gpr(kRbx), 0u);
}

TEST_P(InterruptTest, StopsInHlt) {
  for (int i = 0; i < 3; ++i) {
    std::thread other([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      guest.vcpu().request_stop();
    });
    EXPECT_EQ(i == 0 ? guest.run(hlt() + inc_ebx() + spin()) : guest.go_on(), StopReason::kStopped);
    other.join();
    EXPECT_EQ(guest.gpr(kRbx), 0u);
  }
}

TEST_P(InterruptTest, KicksWithoutReasonChangeNothing) {
  std::atomic<bool> done{false};
  std::thread other([&] {
    while (!done) {
      guest.vcpu().kick();
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  });
  // ecx = 2,000,000: inc ebx; dec ecx; jnz
  EXPECT_EQ(guest.run(mov32(kRcx, 2'000'000) + inc_ebx() + Bytes{0xff, 0xc9, 0x75, 0xfa}), StopReason::kStopped);
  done = true;
  other.join();
  EXPECT_EQ(guest.gpr(kRbx), 2'000'000u);
}

TEST_P(InterruptTest, TripleFaultIsAShutdown) {
  // lidt with limit 0, then #UD
  guest.put64(Guest::kData, 0);
  guest.put64(Guest::kData + 8, 0);
  EXPECT_EQ(guest.run(mov(kRdi, Guest::kData) + Bytes{0x0f, 0x01, 0x1f, 0x0f, 0x0b}), StopReason::kShutdown);
}

}  // namespace
}  // namespace rhea::tests::engine
