// SPDX-License-Identifier: Apache-2.0
// Control and debug registers, XCR0, MSRs, kvmclock and the short system instructions.
#include <gtest/gtest.h>

#include "dbt/system/expect.h"
#include "dbt/system/machine_fake.h"

namespace rhea::dbt {
namespace {

namespace c0 = cpu::cr0;
namespace c4 = cpu::cr4;

class ControlTest : public ::testing::Test {
 protected:
  FakeMachine machine;
  cpu::CpuState& state = machine.state;
  Context& context = machine.context;

  Fallible<Next> write_cr(unsigned index, uint64_t value) {
    state.gpr[cpu::kRax] = value;
    if (index == 8) return machine.run({0x44, 0x0f, 0x22, 0xc0});
    return machine.run({0x0f, 0x22, uint8_t(0xc0 | index << 3)});
  }
  Fallible<Next> write_dr(unsigned index, uint64_t value) {
    state.gpr[cpu::kRax] = value;
    return machine.run({0x0f, 0x23, uint8_t(0xc0 | index << 3)});
  }
  Fallible<Next> write_msr(uint32_t index, uint64_t value) {
    state.gpr[cpu::kRcx] = index;
    state.gpr[cpu::kRax] = value & 0xffffffff;
    state.gpr[cpu::kRdx] = value >> 32;
    return machine.run({0x0f, 0x30});
  }
  Fallible<uint64_t> read_msr(uint32_t index) {
    state.gpr[cpu::kRcx] = index;
    auto result = machine.run({0x0f, 0x32});
    if (!result) return std::unexpected(result.error());
    return state.gpr[cpu::kRdx] << 32 | state.gpr[cpu::kRax];
  }
  cpu::CpuidResult cpuid(uint32_t leaf, uint32_t subleaf = 0) {
    state.gpr[cpu::kRax] = leaf;
    state.gpr[cpu::kRcx] = subleaf;
    EXPECT_RUNS(machine.run({0x0f, 0xa2}));
    return {uint32_t(state.gpr[cpu::kRax]), uint32_t(state.gpr[cpu::kRbx]), uint32_t(state.gpr[cpu::kRcx]),
            uint32_t(state.gpr[cpu::kRdx])};
  }
};

TEST_F(ControlTest, Cr0Rules) {
  machine.enter_protected_mode(0);
  EXPECT_RAISES(write_cr(0, c0::kPg), kGeneralProtection, 0);
  EXPECT_RAISES(write_cr(0, c0::kPe | c0::kNw), kGeneralProtection, 0);
  EXPECT_NEXT(write_cr(0, c0::kPe | c0::kNw | c0::kCd | 0x1ffaffc0), Next::kDispatch);
  EXPECT_EQ(state.cr0, c0::kPe | c0::kNw | c0::kCd | c0::kEt) << "reserved bits ignored, ET fixed";
  state.efer = cpu::efer::kLme;
  EXPECT_RAISES(write_cr(0, c0::kPe | c0::kPg), kGeneralProtection, 0);  // no PAE
  state.cr4 = c4::kPae;
  state.cr3 = FakeMachine::kPageTables;
  EXPECT_NEXT(write_cr(0, c0::kPe | c0::kPg), Next::kDispatch);
  EXPECT_TRUE(state.efer & cpu::efer::kLma);
  EXPECT_FALSE(machine.flushes.empty());
  EXPECT_NEXT(write_cr(0, c0::kPe), Next::kDispatch);
  EXPECT_FALSE(state.efer & cpu::efer::kLma);
  machine.enter_long_mode(0);
  EXPECT_RAISES(write_cr(0, c0::kPe), kGeneralProtection, 0);  // 64-bit code
  EXPECT_RAISES(write_cr(0, state.cr0 | uint64_t{1} << 32), kGeneralProtection, 0);
  machine.set_cpl(3);
  EXPECT_RAISES(write_cr(0, state.cr0), kGeneralProtection, 0);
}

TEST_F(ControlTest, PaePointersAreChecked) {
  machine.enter_protected_mode(0);
  state.cr4 = c4::kPae;
  machine.write(0x9000, 0x9001 | 2, 8);  // bit 1 is reserved
  state.cr3 = 0x9000;
  EXPECT_RAISES(write_cr(0, state.cr0 | c0::kPg), kGeneralProtection, 0);
  machine.write(0x9000, 0x9001, 8);
  machine.write(0x9008, 0x1e6, 8);  // not present: reserved bits do not matter
  EXPECT_NEXT(write_cr(0, state.cr0 | c0::kPg), Next::kDispatch);
  machine.write(0xa018, uint64_t{1} << 63 | 1, 8);
  EXPECT_RAISES(write_cr(3, 0xa000), kGeneralProtection, 0);
  EXPECT_EQ(state.cr3, 0x9000u);
}

TEST_F(ControlTest, Cr3AndPcid) {
  machine.enter_long_mode(0);
  EXPECT_RAISES(write_cr(3, uint64_t{1} << 63), kGeneralProtection, 0);
  EXPECT_RAISES(write_cr(3, uint64_t{1} << context.cpu_model->physical_address_bits()), kGeneralProtection, 0);
  machine.flushes.clear();
  EXPECT_NEXT(write_cr(3, FakeMachine::kPageTables), Next::kDispatch);
  ASSERT_EQ(machine.flushes.size(), 1u);
  EXPECT_EQ(machine.flushes[0].kind, FlushRequest::Kind::kNonGlobal);
  if (!(context.cpu_model->supported_cr4() & c4::kPcide)) GTEST_SKIP() << "no PCID";
  state.cr3 |= 8;
  EXPECT_RAISES(write_cr(4, state.cr4 | c4::kPcide), kGeneralProtection, 0);  // CR3[11:0] must be zero
  state.cr3 &= ~uint64_t{0xfff};
  EXPECT_NEXT(write_cr(4, state.cr4 | c4::kPcide), Next::kDispatch);
  machine.flushes.clear();
  EXPECT_NEXT(write_cr(3, uint64_t{1} << 63 | FakeMachine::kPageTables), Next::kDispatch);
  EXPECT_TRUE(machine.flushes.empty()) << "same address space, no flush asked";
  EXPECT_EQ(state.cr3, FakeMachine::kPageTables);
  EXPECT_NEXT(write_cr(3, uint64_t{1} << 63 | FakeMachine::kPageTables | 1), Next::kDispatch);
  EXPECT_EQ(machine.flushes.size(), 1u) << "the TLB holds one address space";
  EXPECT_RAISES(write_cr(0, state.cr0 & ~c0::kPg), kGeneralProtection, 0);
}

TEST_F(ControlTest, Cr4Rules) {
  machine.enter_long_mode(0);
  EXPECT_RAISES(write_cr(4, state.cr4 & ~c4::kPae), kGeneralProtection, 0);
  for (unsigned bit = 0; bit < 64; ++bit) {
    uint64_t value = state.cr4 | uint64_t{1} << bit;
    if ((context.cpu_model->supported_cr4() >> bit) & 1) continue;
    EXPECT_RAISES(write_cr(4, value), kGeneralProtection, 0);
  }
  EXPECT_RAISES(write_cr(4, state.cr4 | c4::kLa57), kGeneralProtection, 0);
  machine.flushes.clear();
  EXPECT_NEXT(write_cr(4, state.cr4 | c4::kPge), Next::kDispatch);
  ASSERT_EQ(machine.flushes.size(), 1u);
  EXPECT_EQ(machine.flushes[0].kind, FlushRequest::Kind::kAll);
}

TEST_F(ControlTest, Cr8IsTheTaskPriority) {
  machine.enter_long_mode(0);
  EXPECT_NEXT(write_cr(8, 5), Next::kDispatch);
  EXPECT_NEXT(machine.run({0x44, 0x0f, 0x20, 0xc3}), Next::kContinue);  // mov rbx, cr8
  EXPECT_EQ(state.gpr[cpu::kRbx], 5u);
  EXPECT_RAISES(write_cr(8, 16), kGeneralProtection, 0);
}

TEST_F(ControlTest, MachineStatusWord) {
  machine.enter_protected_mode(0);
  state.gpr[cpu::kRax] = 0xfff0;  // PE clear: stays
  EXPECT_NEXT(machine.run({0x0f, 0x01, 0xf0}), Next::kDispatch);
  EXPECT_TRUE(state.cr0 & c0::kPe);
  state.gpr[cpu::kRax] = 0xe;
  EXPECT_NEXT(machine.run({0x0f, 0x01, 0xf0}), Next::kDispatch);
  EXPECT_EQ(state.cr0 & 0xf, 0xfu);
  EXPECT_NEXT(machine.run({0x0f, 0x06}), Next::kDispatch);  // clts
  EXPECT_EQ(state.cr0 & 0xf, 0x7u);
  EXPECT_RUNS(machine.run({0x0f, 0x01, 0xe3}));  // smsw ebx
  EXPECT_EQ(state.gpr[cpu::kRbx], state.cr0);
}

TEST_F(ControlTest, DebugRegisters) {
  machine.enter_long_mode(0);
  EXPECT_NEXT(write_dr(7, 0), Next::kDispatch);
  EXPECT_EQ(state.dr[7], 0x400u);
  EXPECT_NEXT(write_dr(6, 0xffffffff), Next::kDispatch);
  EXPECT_EQ(state.dr[6], 0xffffefffu & (0xffff0ff0u | 0xe00f));
  EXPECT_RAISES(write_dr(7, uint64_t{1} << 32), kGeneralProtection, 0);
  EXPECT_NEXT(write_dr(4, 0), Next::kDispatch);  // alias of DR6
  EXPECT_EQ(state.dr[6], 0xffff0ff0u);
  state.cr4 |= c4::kDe;
  EXPECT_UNDEFINED(write_dr(4, 0));
  state.dr[7] = 0x2400;
  auto result = write_dr(0, 0);
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().vector, kDebugException);
  EXPECT_EQ(result.error().dr6_bits, 0x2000u);
  machine.set_cpl(3);
  EXPECT_RAISES(write_dr(0, 0), kGeneralProtection, 0);
}

TEST_F(ControlTest, Xcr0) {
  machine.enter_long_mode(0);
  auto xsetbv = [&](uint64_t value, uint64_t index = 0) {
    state.gpr[cpu::kRcx] = index;
    state.gpr[cpu::kRax] = value & 0xffffffff;
    state.gpr[cpu::kRdx] = value >> 32;
    return machine.run({0x0f, 0x01, 0xd1});
  };
  EXPECT_UNDEFINED(xsetbv(1));
  state.cr4 |= c4::kOsxsave;
  EXPECT_NEXT(xsetbv(3), Next::kDispatch);
  EXPECT_EQ(state.xcr0, 3u);
  EXPECT_RAISES(xsetbv(2), kGeneralProtection, 0);
  EXPECT_RAISES(xsetbv(5), kGeneralProtection, 0);
  EXPECT_RAISES(xsetbv(1, 1), kGeneralProtection, 0);
  EXPECT_RAISES(xsetbv(uint64_t{1} << 62 | 3), kGeneralProtection, 0);
  if (context.cpu_model->supported_xcr0() & 4) EXPECT_NEXT(xsetbv(7), Next::kDispatch);
  state.gpr[cpu::kRcx] = 0;
  EXPECT_RUNS(machine.run({0x0f, 0x01, 0xd0}));
  EXPECT_EQ(state.gpr[cpu::kRax], state.xcr0);
  EXPECT_TRUE(cpuid(1).ecx & 1u << 27) << "OSXSAVE";
  machine.set_cpl(3);
  EXPECT_RAISES(xsetbv(3), kGeneralProtection, 0);
}

TEST_F(ControlTest, MsrRoundTripsAndReservedBits) {
  machine.enter_long_mode(0);
  struct Case {
    uint32_t index;
    uint64_t good, bad;  // bad: 0 if every value is good
  };
  const uint64_t noncanonical = uint64_t{1} << 47;
  const Case cases[] = {
      {0xc0000081, 0x0023001000000000, 0},
      {0xc0000082, 0xffffffff81000000, noncanonical},
      {0xc0000083, 0x1000, noncanonical},
      {0xc0000084, 0x47700, uint64_t{1} << 32},
      {0xc0000100, 0x7fff12345678, noncanonical},
      {0xc0000101, 0xffff888000000000, noncanonical},
      {0xc0000102, 0x1234, noncanonical},
      {0x174, 0x10, 0},
      {0x175, 0xfffffe0000001000, noncanonical},
      {0x176, 0xffffffff81001000, noncanonical},
      {0x277, 0x0007040600070406, 0x0207040600070406},
      {0x2ff, 0xc06, 0x1000},
      {0x2ff, 0, 2},
      {0x200, 0x80000006, 0x80000002},
      {0x201, 0xff80000800, 0xff80000001},
      {0x250, 0x0606060606060606, 0x0206060606060606},
      {0x26f, 0x0505050505050505, 0xff},
      {0x3b, 0x1000, 0},
      {0x17a, 0, 0x100},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.index);
    EXPECT_RUNS(write_msr(c.index, c.good));
    EXPECT_EQ(read_msr(c.index).value_or(~c.good), c.good);
    if (!c.bad) continue;
    EXPECT_RAISES(write_msr(c.index, c.bad), kGeneralProtection, 0);
    EXPECT_EQ(read_msr(c.index).value_or(~c.good), c.good);
  }
  for (uint32_t index : {0x3fu, 0xe7u, 0x480u, 0x40000000u, 0xc0000085u, 0xc0010000u, 0x4b564d20u}) {
    EXPECT_RAISES(write_msr(index, 0), kGeneralProtection, 0);
    EXPECT_RAISES(read_msr(index), kGeneralProtection, 0);
  }
  EXPECT_EQ(*read_msr(0xfe), 0x508u);
  machine.set_cpl(3);
  EXPECT_RAISES(read_msr(0x10), kGeneralProtection, 0);
}

TEST_F(ControlTest, Efer) {
  machine.enter_long_mode(0);
  uint64_t efer = state.efer;
  EXPECT_RAISES(write_msr(0xc0000080, efer | 2), kGeneralProtection, 0);
  EXPECT_RAISES(write_msr(0xc0000080, efer & ~cpu::efer::kLme), kGeneralProtection, 0);  // paging is on
  machine.flushes.clear();
  EXPECT_NEXT(write_msr(0xc0000080, efer & ~cpu::efer::kNxe & ~cpu::efer::kLma), Next::kDispatch);
  EXPECT_EQ(state.efer, efer & ~cpu::efer::kNxe) << "LMA is not software's";
  EXPECT_EQ(machine.flushes.size(), 1u);
}

TEST_F(ControlTest, TimeStampCounter) {
  machine.enter_long_mode(0);
  machine.advance_clock(1000);
  EXPECT_EQ(*read_msr(0x10), 1000u);
  EXPECT_RUNS(write_msr(0x10, 5000));
  EXPECT_EQ(*read_msr(0x10), 5000u);
  EXPECT_EQ(*read_msr(0x3b), 4000u) << "TSC_ADJUST moves along";
  EXPECT_EQ(context.tsc_offset, 4000u);
  EXPECT_RUNS(write_msr(0x3b, 0));
  machine.advance_clock(10);
  EXPECT_RUNS(machine.run({0x0f, 0x31}));
  EXPECT_EQ(state.gpr[cpu::kRax], 1010u);
  state.cr4 |= c4::kTsd;
  EXPECT_RUNS(machine.run({0x0f, 0x31}));
  machine.set_cpl(3);
  EXPECT_RAISES(machine.run({0x0f, 0x31}), kGeneralProtection, 0);
}

TEST_F(ControlTest, KvmClock) {
  machine.enter_long_mode(0);
  if (!((context.cpu_model->cpuid(0x40000001, 0).eax >> 3) & 1)) GTEST_SKIP() << "kvmclock not offered";
  machine.advance_clock(123456);
  EXPECT_RUNS(write_msr(0x4b564d01, 0x5000 | 1));
  auto field = [&](unsigned offset, unsigned size) { return machine.read(0x5000 + offset, size); };
  auto check = [&] {
    EXPECT_EQ(field(0, 4) & 1, 0u);
    // The guest's own computation must give the clock's time.
    int shift = static_cast<int8_t>(field(28, 1));
    uint64_t tsc = *read_msr(0x10);
    uint64_t delta = tsc - field(8, 8);
    delta = shift >= 0 ? delta << shift : delta >> -shift;
    return static_cast<uint64_t>((static_cast<unsigned __int128>(delta) * field(24, 4)) >> 32) + field(16, 8);
  };
  EXPECT_EQ(field(29, 1), 1u) << "stable";
  EXPECT_EQ(check(), 123456u);
  uint64_t version = field(0, 4);
  machine.advance_clock(1'000'000'000);
  EXPECT_NEAR(double(check()), 1'000'123'456.0, 2.0);
  EXPECT_RUNS(write_msr(0x10, 0));  // the structure follows the TSC
  EXPECT_GT(field(0, 4), version);
  EXPECT_NEAR(double(check()), 1'000'123'456.0, 2.0);
  EXPECT_RUNS(write_msr(0x4b564d00, 0x5100));
  EXPECT_EQ(machine.read(0x5104, 4), 1'704'067'200u);
  EXPECT_EQ(*read_msr(0x4b564d01), 0x5001u);
  EXPECT_RUNS(write_msr(0x4b564d01, 0x3f'ffff'f001));  // outside RAM: ignored
}

// Time must not go back from one processor to the next, whenever each was told where it counts from.
TEST_F(ControlTest, KvmClockIsTheSameOnAllProcessors) {
  machine.enter_long_mode(0);
  EXPECT_RUNS(write_msr(0x4b564d01, 0x5000 | 1));
  machine.advance_clock(987'654'321);
  EXPECT_RUNS(write_msr(0x4b564d01, 0x6000 | 1));
  for (unsigned offset = 8; offset < 32; offset += 8)
    EXPECT_EQ(machine.read(0x5000 + offset, 8), machine.read(0x6000 + offset, 8)) << offset;
}

TEST_F(ControlTest, Hypercalls) {
  const auto smp = cpu::CpuModel::create({.name = "max", .tsc_frequency_hz = 1'000'000'000, .cpu_count = 100});
  ASSERT_TRUE(smp);
  auto call = [&](uint64_t number, uint64_t a0, uint64_t a1, uint64_t a2 = 0, uint64_t a3 = 0) {
    state.gpr[cpu::kRax] = number;
    state.gpr[cpu::kRbx] = a0;
    state.gpr[cpu::kRcx] = a1;
    state.gpr[cpu::kRdx] = a2;
    state.gpr[cpu::kRsi] = a3;
    const bool amd = (number ^ a0) & 1;  // one or the other
    EXPECT_RUNS(amd ? machine.run({0x0f, 0x01, 0xd9}) : machine.run({0x0f, 0x01, 0xc1}));
    return static_cast<int64_t>(state.gpr[cpu::kRax]);
  };
  constexpr uint64_t kPoll = 1, kKick = 5, kSendIpi = 10;
  using Messages = std::vector<FakeMachine::Message>;
  const cpu::CpuModel* alone = context.cpu_model;
  machine.enter_long_mode(0);
  EXPECT_EQ(call(kKick, 0, 3), -1000) << "not offered to one processor";
  EXPECT_EQ(call(kSendIpi, 1, 0, 0, 0x40), -1000);

  context.cpu_model = &*smp;
  EXPECT_EQ(call(kPoll, 0, 0), 0);
  EXPECT_EQ(call(77, 0, 0), -1000);
  EXPECT_EQ(call(kKick, 0, 3), 0);
  EXPECT_EQ(call(kKick, 0, 0xdeadbeef), 0) << "nobody, and no harm";
  EXPECT_EQ(machine.woken, (std::vector<uint32_t>{3, 0xdeadbeef}));
  EXPECT_EQ(call(kSendIpi, 1u << 2 | uint64_t{1} << 63, 1, 20, 0x41), 3);
  EXPECT_EQ(machine.messages, (Messages{{22, 0, 0x41}, {83, 0, 0x41}, {84, 0, 0x41}}));
  machine.messages.clear();
  EXPECT_EQ(call(kSendIpi, 3, 0, 99, 0x400), 1) << "of two one exists";
  EXPECT_EQ(machine.messages, (Messages{{99, 4, 0}, {100, 4, 0}}));
  machine.messages.clear();
  EXPECT_EQ(call(kSendIpi, 2, 1, 0xffffffff, 0x41), 0) << "beyond the last ID";
  EXPECT_EQ(call(kSendIpi, 1, 0, 0, 0x841), -22) << "logical";
  EXPECT_EQ(call(kSendIpi, 1, 0, 0, 0x80041), -22) << "shorthand";
  EXPECT_EQ(machine.messages, Messages{});

  machine.enter_protected_mode(0);
  state.gpr[cpu::kRax] = 0;
  EXPECT_EQ(call(uint64_t{1} << 32 | kSendIpi, uint64_t{1} << 40 | 1, 1, 0, 0x41), 2) << "words of 32 bits";
  EXPECT_EQ(machine.messages, (Messages{{0, 0, 0x41}, {32, 0, 0x41}}));
  machine.enter_long_mode(3);
  EXPECT_EQ(call(kKick, 0, 3), -1) << "not for programs";
  context.cpu_model = alone;
}

TEST_F(ControlTest, CpuidFollowsState) {
  machine.enter_long_mode(0);
  EXPECT_FALSE(cpuid(1).ecx & 1u << 27);
  EXPECT_EQ(cpuid(1).ebx >> 24, 0u);
  if (context.cpu_model->intel()) {
    EXPECT_TRUE(cpuid(0x80000001).edx & 1u << 11);
    machine.enter_protected_mode(0);
    EXPECT_FALSE(cpuid(0x80000001).edx & 1u << 11) << "SYSCALL only in 64-bit mode";
  }
}

TEST_F(ControlTest, TlbInstructions) {
  machine.enter_long_mode(0);
  state.gpr[cpu::kRax] = 0x7000;
  EXPECT_RUNS(machine.run({0x0f, 0x01, 0x38}));  // invlpg [rax]
  ASSERT_EQ(machine.flushes.size(), 1u);
  EXPECT_EQ(machine.flushes[0].kind, FlushRequest::Kind::kPage);
  EXPECT_EQ(machine.flushes[0].linear, 0x7000u);
  state.gpr[cpu::kRax] = uint64_t{1} << 47;
  EXPECT_RUNS(machine.run({0x0f, 0x01, 0x38}));
  EXPECT_EQ(machine.flushes.size(), 1u) << "not canonical: no operation";
  auto invpcid = [&](uint64_t type, uint64_t pcid, uint64_t linear) {
    machine.flushes.clear();
    machine.write(0x8000, pcid, 8);
    machine.write(0x8008, linear, 8);
    state.gpr[cpu::kRax] = 0x8000;
    state.gpr[cpu::kRbx] = type;
    return machine.run({0x66, 0x0f, 0x38, 0x82, 0x18});
  };
  EXPECT_RUNS(invpcid(2, 0, 0));
  EXPECT_EQ(machine.flushes.at(0).kind, FlushRequest::Kind::kAll);
  EXPECT_RUNS(invpcid(3, 0, 0));
  EXPECT_EQ(machine.flushes.at(0).kind, FlushRequest::Kind::kNonGlobal);
  EXPECT_RUNS(invpcid(0, 0, 0x9000));
  EXPECT_EQ(machine.flushes.at(0).linear, 0x9000u);
  EXPECT_RAISES(invpcid(4, 0, 0), kGeneralProtection, 0);
  EXPECT_RAISES(invpcid(2, 0x1000, 0), kGeneralProtection, 0);
  EXPECT_RAISES(invpcid(1, 1, 0), kGeneralProtection, 0);  // CR4.PCIDE is clear
  EXPECT_RAISES(invpcid(0, 0, uint64_t{1} << 47), kGeneralProtection, 0);
  machine.set_cpl(3);
  EXPECT_RAISES(invpcid(2, 0, 0), kGeneralProtection, 0);
}

TEST_F(ControlTest, BasesAndHalt) {
  machine.enter_long_mode(0);
  EXPECT_UNDEFINED(machine.run({0xf3, 0x48, 0x0f, 0xae, 0xc0}));
  state.cr4 |= c4::kFsgsbase;
  state.gpr[cpu::kRax] = 0xffff888012345678;
  EXPECT_RUNS(machine.run({0xf3, 0x48, 0x0f, 0xae, 0xd8}));  // wrgsbase rax
  state.kernel_gs_base = 0x1000;
  EXPECT_RUNS(machine.run({0x0f, 0x01, 0xf8}));
  EXPECT_EQ(state.segment[cpu::kGs].base, 0x1000u);
  EXPECT_EQ(state.kernel_gs_base, 0xffff888012345678u);
  state.gpr[cpu::kRax] = uint64_t{1} << 47;
  EXPECT_RAISES(machine.run({0xf3, 0x48, 0x0f, 0xae, 0xd0}), kGeneralProtection, 0);
  EXPECT_RUNS(machine.run({0xf3, 0x0f, 0xae, 0xd0}));  // 32-bit: zero-extended
  EXPECT_EQ(state.segment[cpu::kFs].base, 0u);
  uint64_t rip = state.rip;
  EXPECT_NEXT(machine.run({0xf4}), Next::kHalt);
  EXPECT_EQ(state.rip, rip + 1);
  EXPECT_RUNS(machine.run({0x0f, 0x01, 0xc1}));  // vmcall
  EXPECT_EQ(state.gpr[cpu::kRax], static_cast<uint64_t>(-1000));
  machine.set_cpl(3);
  EXPECT_RAISES(machine.run({0xf4}), kGeneralProtection, 0);
  EXPECT_RAISES(machine.run({0x0f, 0x01, 0xf8}), kGeneralProtection, 0);
  EXPECT_UNDEFINED(machine.run({0x0f, 0x0b}));
}

TEST_F(ControlTest, InterruptFlag) {
  for (unsigned cpl = 0; cpl < 4; ++cpl)
    for (unsigned iopl = 0; iopl < 4; ++iopl) {
      machine.enter_protected_mode(cpl);
      context.set_rflags(2 | iopl << 12);
      if (cpl <= iopl) {
        EXPECT_NEXT(machine.run({0xfb}), Next::kInterruptShadow);
        EXPECT_TRUE(state.sti_shadow);
        state.sti_shadow = false;
        EXPECT_NEXT(machine.run({0xfb}), Next::kContinue);
        EXPECT_NEXT(machine.run({0xfa}), Next::kContinue);
        EXPECT_FALSE(context.interrupt_flag);
      } else {
        EXPECT_RAISES(machine.run({0xfb}), kGeneralProtection, 0);
        EXPECT_RAISES(machine.run({0xfa}), kGeneralProtection, 0);
      }
    }
}

TEST_F(ControlTest, DescriptorTableRegisters) {
  machine.enter_long_mode(0);
  machine.write(0x8000, 0x1234, 2);
  machine.write(0x8002, 0xffff888000001000, 8);
  state.gpr[cpu::kRax] = 0x8000;
  EXPECT_RUNS(machine.run({0x0f, 0x01, 0x10}));  // lgdt [rax]
  EXPECT_EQ(state.gdtr, (cpu::DescriptorTable{0xffff888000001000, 0x1234}));
  machine.write(0x8002, uint64_t{1} << 47, 8);
  EXPECT_RAISES(machine.run({0x0f, 0x01, 0x18}), kGeneralProtection, 0);
  state.gpr[cpu::kRax] = 0x8100;
  EXPECT_RUNS(machine.run({0x0f, 0x01, 0x00}));
  EXPECT_EQ(machine.read(0x8100, 2), 0x1234u);
  EXPECT_EQ(machine.read(0x8102, 8), 0xffff888000001000u);
  machine.enter_real_mode();
  machine.write(0x8000, 0xffff, 2);
  machine.write(0x8002, 0xab123456, 4);
  state.gpr[cpu::kRbx] = 0x8000;
  EXPECT_RUNS(machine.run({0x0f, 0x01, 0x17}));  // lgdt [bx]: 24 bits of base
  EXPECT_EQ(state.gdtr.base, 0x123456u);
  EXPECT_RUNS(machine.run({0x66, 0x0f, 0x01, 0x17}));
  EXPECT_EQ(state.gdtr.base, 0xab123456u);
}

}  // namespace
}  // namespace rhea::dbt
