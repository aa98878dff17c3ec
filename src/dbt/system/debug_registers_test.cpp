// SPDX-License-Identifier: Apache-2.0
// What the debug registers match, and what DR6 becomes.
#include "dbt/system/debug_registers.h"

#include <gtest/gtest.h>

#include "cpu/cpu_model.h"
#include "dbt/system/expect.h"
#include "dbt/system/machine_fake.h"

namespace rhea::dbt {
namespace {

enum Kind : unsigned { kExecute, kWrite, kPort, kReadWrite };

class DebugRegistersTest : public ::testing::Test {
 protected:
  FakeMachine machine;
  cpu::CpuState& state = machine.state;
  Context& context = machine.context;

  void set(unsigned index, uint64_t address, Kind kind, unsigned length, unsigned enable = 1) {
    const uint64_t code = length == 8 ? 2 : length - 1;
    state.dr[index] = address;
    state.dr[7] &= ~(uint64_t{15} << (16 + 4 * index) | uint64_t{3} << (2 * index));
    state.dr[7] |= (kind | code << 2) << (16 + 4 * index) | uint64_t{enable} << (2 * index);
  }
};

TEST_F(DebugRegistersTest, AnyByteOfTheAccessInTheAlignedRange) {
  for (const uint64_t base : {uint64_t{0x1000}, uint64_t{0x7ffffffffff8}, uint64_t{0xfffffffffffffff8}})
    for (const unsigned length : {1u, 2u, 4u, 8u})
      for (unsigned low = 0; low < 8; ++low) {
        set(0, base + low, kWrite, length);
        const uint64_t start = base + low / length * length;
        for (const unsigned size : {1u, 2u, 4u, 8u, 10u, 16u, 32u})
          for (int64_t offset = -40; offset < 40; ++offset) {
            const bool overlaps = offset < int64_t{length} && offset + int64_t{size} > 0;
            const uint64_t linear = start + static_cast<uint64_t>(offset);
            ASSERT_EQ(data_breakpoints(context, linear, size, true), overlaps ? 1u : 0u)
                << base << " " << length << " " << low << " " << size << " " << offset;
            ASSERT_EQ(data_breakpoints(context, linear, size, false), 0u);
          }
      }
}

TEST_F(DebugRegistersTest, KindsAndEnables) {
  set(0, 0x1000, kWrite, 4, 2);
  set(1, 0x1000, kReadWrite, 4, 1);
  set(2, 0x1000, kExecute, 1, 3);
  set(3, 0x1000, kPort, 4, 1);
  EXPECT_EQ(data_breakpoints(context, 0x1003, 1, true), 3u);
  EXPECT_EQ(data_breakpoints(context, 0x1003, 1, false), 2u);
  EXPECT_EQ(instruction_breakpoints(context, 0x1000), 4u);
  EXPECT_EQ(instruction_breakpoints(context, 0x1001), 0u);
  EXPECT_EQ(port_breakpoints(context, 0x1000, 1), 0u) << "without CR4.DE";
  state.cr4 |= cpu::cr4::kDe;
  EXPECT_EQ(port_breakpoints(context, 0xfff, 2), 8u);
  EXPECT_EQ(port_breakpoints(context, 0xffe, 2), 0u);
  state.dr[7] &= ~uint64_t{0xff};
  EXPECT_FALSE(breakpoints_enabled(context));
  EXPECT_EQ(data_breakpoints(context, 0x1000, 4, true) | instruction_breakpoints(context, 0x1000), 0u);
}

TEST_F(DebugRegistersTest, Pages) {
  set(0, 0x5ffc, kWrite, 4);
  set(1, 0x9000, kReadWrite, 1);
  set(2, 0xb123, kExecute, 1);
  EXPECT_TRUE(data_page_watched(context, 0x5000, true));
  EXPECT_FALSE(data_page_watched(context, 0x5000, false));
  EXPECT_FALSE(data_page_watched(context, 0x6000, true));
  EXPECT_TRUE(data_page_watched(context, 0x9fff, false) && data_page_watched(context, 0x9fff, true));
  EXPECT_TRUE(code_page_watched(context, 0xbfff));
  EXPECT_FALSE(code_page_watched(context, 0x9000));
}

TEST_F(DebugRegistersTest, SystemFunctionsNoteTheirAccesses) {
  machine.enter_protected_mode(0);
  set(0, 0x30000, kWrite, 4);
  set(1, 0x30100, kReadWrite, 4);
  state.gpr[cpu::kRsp] = 0x30004;
  EXPECT_RUNS(machine.run({0x9c}));  // pushf
  EXPECT_EQ(state.debug_pending, 1u);
  state.debug_pending = 0;
  state.gpr[cpu::kRsp] = 0x30100;
  EXPECT_RUNS(machine.run({0x9d}));  // popf
  EXPECT_EQ(state.debug_pending, 2u);
  // A repeated string stops behind the element that is watched.
  state.debug_pending = 0;
  state.gpr[cpu::kRdi] = 0x300f8;
  state.gpr[cpu::kRcx] = 8;
  EXPECT_NEXT(machine.run({0xf3, 0xab}), Next::kDispatch);  // rep stosd
  EXPECT_EQ(state.debug_pending, 2u);
  EXPECT_EQ(state.gpr[cpu::kRcx], 5u);
  EXPECT_EQ(state.gpr[cpu::kRdi], 0x30104u);
  EXPECT_TRUE(state.rflags & cpu::rflags::kRf);
  EXPECT_EQ(state.rip, FakeMachine::kCode + 2);  // pushf and popf
}

TEST_F(DebugRegistersTest, PortsTrapAfterTheIteration) {
  machine.enter_protected_mode(0);
  state.cr4 |= cpu::cr4::kDe;
  set(0, 0x80, kPort, 1);
  state.gpr[cpu::kRdx] = 0x80;
  EXPECT_RUNS(machine.run({0xec}));
  EXPECT_EQ(state.debug_pending, 1u);
  state.debug_pending = 0;
  state.gpr[cpu::kRsi] = 0x30000;
  state.gpr[cpu::kRcx] = 3;
  EXPECT_RUNS(machine.run({0xf3, 0x6e}));
  EXPECT_EQ(state.gpr[cpu::kRcx], 2u);
  EXPECT_EQ(state.debug_pending, 1u);
}

TEST_F(DebugRegistersTest, WritesFlushOnlyWhatIsWatched) {
  machine.enter_long_mode(0);
  auto mov_dr = [&](uint8_t index, uint64_t value) {
    state.gpr[cpu::kRax] = value;
    machine.flushes.clear();
    EXPECT_RUNS(machine.run({0x0f, 0x23, static_cast<uint8_t>(0xc0 | index << 3)}));
    return machine.flushes.size();
  };
  EXPECT_EQ(mov_dr(0, 0x5000), 0u);
  EXPECT_EQ(mov_dr(7, 0x400 | 0xd0000), 0u) << "nothing is enabled";
  EXPECT_EQ(mov_dr(7, 0x400 | 0xd0001), 1u);
  EXPECT_EQ(mov_dr(7, 0x400 | 0xd0001), 0u) << "nothing changes";
  EXPECT_EQ(mov_dr(0, 0x6000), 1u);
  EXPECT_EQ(mov_dr(6, 0xffff0ff0), 0u);
  EXPECT_EQ(mov_dr(7, 0x400), 0u) << "nothing is enabled any more";
}

TEST_F(DebugRegistersTest, TheReport) {
  state.dr[6] = 0xffff0ff0 | kDr6SingleStep | 1;
  state.dr[7] = 0x400 | kDr7GeneralDetect;
  report_debug_exception(context, 4);
  const uint64_t old = context.cpu_model->intel() ? 0 : 1;
  EXPECT_EQ(state.dr[6], 0xffff0ff0u | kDr6SingleStep | 4 | old);
  EXPECT_EQ(state.dr[7], 0x400u);
}

}  // namespace
}  // namespace rhea::dbt
