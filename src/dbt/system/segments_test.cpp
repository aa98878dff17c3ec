// SPDX-License-Identifier: Apache-2.0
// Segment loads, limits and types in every mode. [SDM-2B MOV, SDM-3A 5.3-5.6]
#include <gtest/gtest.h>

#include "dbt/system/expect.h"
#include "dbt/system/machine_fake.h"

namespace rhea::dbt {
namespace {

constexpr uint16_t kFree = FakeMachine::kFreeSelector;
constexpr unsigned kSegmentRegisters[] = {cpu::kEs, cpu::kSs, cpu::kDs, cpu::kFs, cpu::kGs};

class SegmentsTest : public ::testing::Test {
 protected:
  FakeMachine machine;
  Fallible<void> load(unsigned segment, uint16_t selector) { return load_segment(machine.context, segment, selector); }
};

// Every descriptor type x DPL x RPL x CPL x P, against the conditions of MOV's pseudo-code.
TEST_F(SegmentsTest, LoadMatrix) {
  for (unsigned cpl = 0; cpl < 4; ++cpl)
    for (unsigned type = 0; type < 32; ++type)  // S and the type field
      for (unsigned dpl = 0; dpl < 4; ++dpl)
        for (unsigned rpl = 0; rpl < 4; ++rpl)
          for (unsigned present = 0; present < 2; ++present)
            for (unsigned segment : kSegmentRegisters) {
              machine.enter_protected_mode(cpl);
              unsigned access = type | dpl << 5 | present << 7;
              machine.set_gdt(kFree, FakeMachine::descriptor(0x12345678, 0x9abcd, access, 0x4));
              auto selector = static_cast<uint16_t>(kFree | rpl);
              bool s = type & 16, code = type & 8, conforming = code && (type & 4), readable = !code || (type & 2);
              int vector = -1;
              if (segment == cpu::kSs) {
                bool writable_data = s && !code && (type & 2);
                if (rpl != cpl || !writable_data || dpl != cpl)
                  vector = kGeneralProtection;
                else if (!present)
                  vector = kStackFault;
              } else {
                if (!s || !readable)
                  vector = kGeneralProtection;
                else if (!conforming && (rpl > dpl || cpl > dpl))
                  vector = kGeneralProtection;
                else if (!present)
                  vector = kSegmentNotPresent;
              }
              cpu::Segment before = machine.state.segment[segment];
              auto result = load(segment, selector);
              SCOPED_TRACE(::testing::Message() << "cpl " << cpl << " type " << type << " dpl " << dpl << " rpl " << rpl
                                                << " present " << present << " segment " << segment);
              if (vector >= 0) {
                ASSERT_FALSE(result.has_value());
                ASSERT_EQ(int{result.error().vector}, vector);
                ASSERT_EQ(result.error().error_code, uint32_t{kFree});
                ASSERT_EQ(machine.state.segment[segment], before);
              } else {
                ASSERT_TRUE(result.has_value());
                const cpu::Segment& loaded = machine.state.segment[segment];
                ASSERT_EQ(loaded.selector, selector);
                ASSERT_EQ(loaded.base, 0x12345678u);
                ASSERT_EQ(loaded.limit, 0x9abcdu);
                ASSERT_EQ(loaded.attributes, (access | 1) | 0x4000);
                ASSERT_TRUE(machine.read(FakeMachine::kGdt + kFree + 5, 1) & 1) << "accessed bit in memory";
              }
            }
}

TEST_F(SegmentsTest, NullSelectors) {
  for (unsigned cpl = 0; cpl < 4; ++cpl)
    for (unsigned rpl = 0; rpl < 4; ++rpl) {
      auto null = static_cast<uint16_t>(rpl);
      machine.enter_protected_mode(cpl);
      EXPECT_RAISES(load(cpu::kSs, null), kGeneralProtection, 0);
      EXPECT_RUNS(load(cpu::kDs, null));
      EXPECT_RAISES(linear_address(machine.context, cpu::kDs, 0, 1, Access::kRead), kGeneralProtection, 0);
      machine.enter_long_mode(cpl);
      if (cpl < 3 && rpl == cpl) {
        EXPECT_RUNS(load(cpu::kSs, null));
        EXPECT_EQ(machine.state.cpl(), cpl);
      } else {
        EXPECT_RAISES(load(cpu::kSs, null), kGeneralProtection, 0);
      }
      EXPECT_RUNS(load(cpu::kGs, null));
      EXPECT_TRUE(linear_address(machine.context, cpu::kDs, 0x1000, 8, Access::kWrite).has_value());
      machine.enter_compatibility_mode(cpl);
      EXPECT_RAISES(load(cpu::kSs, null), kGeneralProtection, 0);
    }
}

TEST_F(SegmentsTest, TableLimits) {
  machine.enter_protected_mode(0);
  machine.state.gdtr.limit = kFree + 6;
  EXPECT_RAISES(load(cpu::kDs, kFree), kGeneralProtection, kFree);
  machine.state.gdtr.limit = kFree + 7;
  machine.set_gdt(kFree, FakeMachine::descriptor(0, 0xfffff, 0x93, 0xc));
  EXPECT_RUNS(load(cpu::kDs, kFree));
  // LDT: entry 1.
  machine.write(FakeMachine::kLdt + 8, FakeMachine::descriptor(0x5000, 0xff, 0x93, 0x4), 8);
  EXPECT_RUNS(load(cpu::kEs, 0xc));
  EXPECT_EQ(machine.state.segment[cpu::kEs].base, 0x5000u);
  EXPECT_RAISES(load(cpu::kEs, 0x104), kGeneralProtection, 0x104);
  machine.state.segment[cpu::kLdtr].attributes = 0;
  EXPECT_RAISES(load(cpu::kEs, 0xc), kGeneralProtection, 0xc);
}

TEST_F(SegmentsTest, LimitsUpAndDown) {
  machine.enter_protected_mode(0);
  struct Case {
    unsigned access, flags;
    uint32_t limit;
    uint64_t first, last;  // valid offsets of one byte
  };
  for (const Case& c : {Case{0x93, 4, 0xfff, 0, 0xfff}, Case{0x93, 0xc, 0xf, 0, 0xffff},
                        Case{0x93, 0xc, 0xfffff, 0, 0xffffffff}, Case{0x97, 4, 0xfff, 0x1000, 0xffffffff},
                        Case{0x97, 0, 0xfff, 0x1000, 0xffff}, Case{0x97, 0xc, 0xf, 0x10000, 0xffffffff}}) {
    machine.set_gdt(kFree, FakeMachine::descriptor(0x100, c.limit, c.access, c.flags));
    EXPECT_RUNS(load(cpu::kDs, kFree));
    auto at = [&](uint64_t offset, unsigned size) {
      return linear_address(machine.context, cpu::kDs, offset, size, Access::kWrite);
    };
    EXPECT_EQ(*at(c.first, 1), (c.first + 0x100) & 0xffffffff);
    EXPECT_EQ(*at(c.last, 1), (c.last + 0x100) & 0xffffffff);
    EXPECT_TRUE(at(c.last - 3, 4).has_value());
    if (c.limit == 0xfffff) {
      EXPECT_TRUE(at(c.last, 4).has_value()) << "wraps within 4 GiB";
      continue;
    }
    EXPECT_RAISES(at(c.last - 2, 4), kGeneralProtection, 0);
    EXPECT_RAISES(at(c.last + 1, 1), kGeneralProtection, 0);
    if (c.first) EXPECT_RAISES(at(c.first - 1, 1), kGeneralProtection, 0);
  }
}

TEST_F(SegmentsTest, TypesOfAccess) {
  machine.enter_protected_mode(0);
  auto try_access = [&](unsigned access, Access kind) {
    machine.state.segment[cpu::kEs] = {
        .base = 0, .limit = 0xffff, .selector = 8, .attributes = static_cast<uint16_t>(access)};
    return linear_address(machine.context, cpu::kEs, 0, 4, kind).has_value();
  };
  EXPECT_TRUE(try_access(0x91, Access::kRead));
  EXPECT_FALSE(try_access(0x91, Access::kWrite));
  EXPECT_TRUE(try_access(0x93, Access::kWrite));
  EXPECT_FALSE(try_access(0x99, Access::kRead));  // execute-only
  EXPECT_TRUE(try_access(0x9b, Access::kRead));
  EXPECT_FALSE(try_access(0x9b, Access::kWrite));
  machine.state.segment[cpu::kSs].limit = 0xff;
  EXPECT_RAISES(linear_address(machine.context, cpu::kSs, 0xfe, 4, Access::kRead), kStackFault, 0);
}

TEST_F(SegmentsTest, Canonical64BitAddresses) {
  machine.enter_long_mode(0);
  machine.state.segment[cpu::kGs].base = 0xffff800000000000;
  machine.state.segment[cpu::kDs].base = 0x1000;  // ignored
  EXPECT_EQ(*linear_address(machine.context, cpu::kDs, 0x2000, 8, Access::kWrite), 0x2000u);
  EXPECT_EQ(*linear_address(machine.context, cpu::kGs, 0x2000, 8, Access::kWrite), 0xffff800000002000u);
  EXPECT_EQ(*linear_address(machine.context, cpu::kDs, 0x7ffffffffff8, 8, Access::kRead), 0x7ffffffffff8u);
  EXPECT_RAISES(linear_address(machine.context, cpu::kDs, 0x7ffffffffff9, 8, Access::kRead), kGeneralProtection, 0);
  EXPECT_RAISES(linear_address(machine.context, cpu::kSs, 0x800000000000, 1, Access::kRead), kStackFault, 0);
}

TEST_F(SegmentsTest, RealModeKeepsLimits) {
  machine.state.segment[cpu::kDs] = {.base = 0, .limit = 0xffffffff, .selector = 0x10, .attributes = 0xc093};
  EXPECT_RUNS(load(cpu::kDs, 0xb800));
  EXPECT_EQ(machine.state.segment[cpu::kDs].base, 0xb8000u);
  EXPECT_EQ(machine.state.segment[cpu::kDs].limit, 0xffffffffu);
  EXPECT_RUNS(load(cpu::kEs, 0x1000));
  EXPECT_TRUE(linear_address(machine.context, cpu::kEs, 0xffff, 1, Access::kWrite).has_value());
  EXPECT_RAISES(linear_address(machine.context, cpu::kEs, 0xffff, 2, Access::kWrite), kGeneralProtection, 0);
}

TEST_F(SegmentsTest, MoveAndPop) {
  machine.enter_protected_mode(0);
  machine.state.gpr[cpu::kRax] = FakeMachine::data(0);
  EXPECT_NEXT(machine.run({0x8e, 0xd0}), Next::kInterruptShadow);  // mov ss, ax
  EXPECT_TRUE(machine.state.mov_ss_shadow);
  EXPECT_EQ(machine.state.rip, FakeMachine::kCode + 2);
  EXPECT_NEXT(machine.run({0x8e, 0xd8}), Next::kDispatch);  // mov ds, ax
  machine.state.gpr[cpu::kRbx] = ~uint64_t{0};
  EXPECT_NEXT(machine.run({0x8c, 0xdb}), Next::kContinue);  // mov ebx, ds
  EXPECT_EQ(machine.state.gpr[cpu::kRbx], uint64_t{FakeMachine::data(0)});
  uint64_t rsp = machine.state.gpr[cpu::kRsp];
  EXPECT_RUNS(machine.run({0x1e}));  // push ds
  EXPECT_EQ(machine.state.gpr[cpu::kRsp], rsp - 4);
  EXPECT_EQ(machine.read(rsp - 4, 2), FakeMachine::data(0));
  EXPECT_RUNS(machine.run({0x07}));  // pop es
  EXPECT_EQ(machine.state.gpr[cpu::kRsp], rsp);
  machine.write(rsp, 0x1234, 4);
  EXPECT_RAISES(machine.run({0x17}), kGeneralProtection,
                0x1234);  // pop ss of nonsense (TI clear, out of limit is 0xfff)
  EXPECT_EQ(machine.state.gpr[cpu::kRsp], rsp);
}

TEST_F(SegmentsTest, SelectorQueries) {
  machine.enter_protected_mode(3);
  machine.set_gdt(kFree, FakeMachine::descriptor(0, 0x12345, 0x91, 0xc));  // read-only data, DPL 0
  machine.state.gpr[cpu::kRcx] = kFree;
  machine.state.gpr[cpu::kRax] = 0x55;
  EXPECT_RUNS(machine.run({0x0f, 0x02, 0xc1}));  // lar eax, ecx: not visible
  EXPECT_FALSE(flag(machine.context, cpu::rflags::kZf));
  EXPECT_EQ(machine.state.gpr[cpu::kRax], 0x55u);
  machine.set_gdt(kFree, FakeMachine::descriptor(0, 0x12345, 0xf1, 0xc));
  EXPECT_RUNS(machine.run({0x0f, 0x02, 0xc1}));
  EXPECT_TRUE(flag(machine.context, cpu::rflags::kZf));
  EXPECT_EQ(machine.state.gpr[cpu::kRax], 0x00c1f100u);
  EXPECT_RUNS(machine.run({0x0f, 0x03, 0xc1}));  // lsl
  EXPECT_EQ(machine.state.gpr[cpu::kRax], 0x12345fffu);
  EXPECT_RUNS(machine.run({0x0f, 0x00, 0xe1}));  // verr cx
  EXPECT_TRUE(flag(machine.context, cpu::rflags::kZf));
  EXPECT_RUNS(machine.run({0x0f, 0x00, 0xe9}));  // verw cx
  EXPECT_FALSE(flag(machine.context, cpu::rflags::kZf));
  machine.enter_real_mode();
  EXPECT_UNDEFINED(machine.run({0x0f, 0x02, 0xc1}));
}

TEST_F(SegmentsTest, TaskAndLocalTableRegisters) {
  machine.enter_long_mode(0);
  machine.set_gdt(kFree, FakeMachine::descriptor(0x3000, 0x67, 0x89, 0), 0xffff8880);
  machine.state.gpr[cpu::kRax] = kFree;
  EXPECT_RUNS(machine.run({0x0f, 0x00, 0xd8}));  // ltr ax
  EXPECT_EQ(machine.state.segment[cpu::kTr].base, 0xffff888000003000u);
  EXPECT_EQ(machine.read(FakeMachine::kGdt + kFree + 5, 1), 0x8bu) << "busy";
  EXPECT_RAISES(machine.run({0x0f, 0x00, 0xd8}), kGeneralProtection, kFree);  // busy now
  machine.state.gpr[cpu::kRbx] = 0;
  EXPECT_RUNS(machine.run({0x0f, 0x00, 0xd3}));  // lldt bx: null
  EXPECT_FALSE(machine.state.segment[cpu::kLdtr].usable());
  EXPECT_RUNS(machine.run({0x0f, 0x00, 0xc8}));  // str eax
  EXPECT_EQ(machine.state.gpr[cpu::kRax], uint64_t{kFree});
  machine.set_cpl(3);
  EXPECT_RAISES(machine.run({0x0f, 0x00, 0xd8}), kGeneralProtection, 0);
  EXPECT_RUNS(machine.run({0x0f, 0x00, 0xc8}));
  machine.state.cr4 |= cpu::cr4::kUmip;
  EXPECT_RAISES(machine.run({0x0f, 0x00, 0xc8}), kGeneralProtection, 0);
}

}  // namespace
}  // namespace rhea::dbt
