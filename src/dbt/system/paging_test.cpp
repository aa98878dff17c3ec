// SPDX-License-Identifier: Apache-2.0
// Page walks against the access rules of SDM-3A 4.6 and 4.7, written down here a second time as a table.
#include <gtest/gtest.h>

#include "dbt/system/expect.h"
#include "dbt/system/machine_fake.h"

namespace rhea::dbt {
namespace {

constexpr uint64_t kP = 1, kW = 2, kU = 4, kA = 0x20, kD = 0x40, kPs = 0x80, kG = 0x100, kNx = uint64_t{1} << 63;
constexpr uint64_t kTables = 0x100000;  // where this test builds its tables
constexpr uint64_t kTarget = 0x400000;

enum class Paging { kNarrow4k, kNarrow4m, kPae4k, kPae2m, kLong4k, kLong2m, kLong1g };

struct Shape {
  Paging paging;
  unsigned levels;  // entries with A bits
  unsigned entry_bytes;
  uint64_t page_size;
};
constexpr Shape kShapes[] = {
    {Paging::kNarrow4k, 2, 4, 1 << 12}, {Paging::kNarrow4m, 1, 4, 1 << 22}, {Paging::kPae4k, 2, 8, 1 << 12},
    {Paging::kPae2m, 1, 8, 1 << 21},    {Paging::kLong4k, 4, 8, 1 << 12},   {Paging::kLong2m, 3, 8, 1 << 21},
    {Paging::kLong1g, 2, 8, 1 << 30},
};

bool is_narrow(const Shape& shape) { return shape.entry_bytes == 4; }
bool is_long(const Shape& shape) { return shape.paging >= Paging::kLong4k; }

class PagingTest : public ::testing::Test {
 protected:
  FakeMachine machine;
  uint64_t linear = 0x40201123;  // index 1, 1 in the middle levels, 1 and an offset

  void configure(const Shape& shape) {
    machine.enter_protected_mode(0);
    machine.state.cr0 |= cpu::cr0::kPg;
    machine.state.cr4 = is_narrow(shape) ? cpu::cr4::kPse : cpu::cr4::kPae;
    machine.state.efer = is_long(shape) ? cpu::efer::kLme | cpu::efer::kLma : 0;
    machine.state.cr3 = kTables;
  }

  // Address of the entry of one step (0 at the top of those with A bits).
  uint64_t entry_address(const Shape& shape, unsigned step) const {
    uint64_t table = kTables + 0x1000 * step;
    if (is_narrow(shape)) return table + ((linear >> (22 - 10 * step)) & 0x3ff) * 4;
    if (!is_long(shape)) return table + 0x1000 + ((linear >> (21 - 9 * step)) & 0x1ff) * 8;
    return table + ((linear >> (39 - 9 * step)) & 0x1ff) * 8;
  }

  // One flags word per step; the last maps kTarget (or 0 for 1 GiB).
  void build(const Shape& shape, const std::vector<uint64_t>& flags) {
    if (!is_narrow(shape) && !is_long(shape))
      machine.write(kTables + ((linear >> 30) & 3) * 8, (kTables + 0x1000) | kP, 8);
    for (unsigned step = 0; step < shape.levels; ++step) {
      bool leaf = step + 1 == shape.levels;
      uint64_t next = kTables + 0x1000 * (step + 1) + (!is_narrow(shape) && !is_long(shape) ? 0x1000 : 0);
      uint64_t value = flags[step] | (leaf ? shape.page_size == 1 << 30 ? 0 : kTarget : next);
      if (leaf && shape.page_size > 4096) value |= kPs;
      machine.write(entry_address(shape, step), value, shape.entry_bytes);
    }
  }
  uint64_t entry(const Shape& shape, unsigned step) {
    return machine.read(entry_address(shape, step), shape.entry_bytes);
  }
  uint64_t expected_physical(const Shape& shape) const {
    return (shape.page_size == 1 << 30 ? 0 : kTarget) + (linear & (shape.page_size - 1));
  }
};

// SDM-3A 4.6.1, sentence by sentence.
struct Rules {
  bool user_page, read_write, execute_disable;
  bool wp, smep, smap, nxe, ac_clear;
  bool allowed(Access access, bool user_mode) const {
    if (user_mode) {
      // "Access rights depend on the mode of the linear address: no access to supervisor-mode addresses."
      if (!user_page) return false;
      if (access == Access::kRead) return true;
      if (access == Access::kWrite) return read_write;
      return !(nxe && execute_disable);
    }
    switch (access) {
      case Access::kRead:  // "If CR4.SMAP = 1 ... explicit accesses to user-mode addresses only if EFLAGS.AC = 1"
        return !(user_page && smap && ac_clear);
      case Access::kWrite:
        if (user_page && smap && ac_clear) return false;
        return !wp || read_write;
      default:
        if (user_page && smep) return false;
        return !(nxe && execute_disable);
    }
  }
};

TEST_F(PagingTest, PermissionMatrix) {
  unsigned cases = 0;
  for (const Shape& shape : kShapes) {
    configure(shape);
    // Which step (or none) lacks U, W; which has NX.
    for (unsigned no_user = 0; no_user <= shape.levels; ++no_user)
      for (unsigned no_write = 0; no_write <= shape.levels; ++no_write)
        for (unsigned nx_step = 0; nx_step <= (is_narrow(shape) ? 0 : shape.levels); ++nx_step)
          for (unsigned bits = 0; bits < 16; ++bits) {
            bool wp = bits & 1, smep = bits & 2, smap = bits & 4, nxe = bits & 8;
            if (nx_step && !nxe) continue;  // reserved then: another test
            machine.state.cr0 = (machine.state.cr0 & ~cpu::cr0::kWp) | (wp ? cpu::cr0::kWp : 0);
            machine.state.cr4 = (machine.state.cr4 & ~(cpu::cr4::kSmep | cpu::cr4::kSmap)) |
                                (smep ? cpu::cr4::kSmep : 0) | (smap ? cpu::cr4::kSmap : 0);
            machine.state.efer = (machine.state.efer & ~cpu::efer::kNxe) | (nxe ? cpu::efer::kNxe : 0);
            std::vector<uint64_t> flags;
            for (unsigned step = 0; step < shape.levels; ++step)
              flags.push_back(kP | (no_user == step + 1 ? 0 : kU) | (no_write == step + 1 ? 0 : kW) |
                              (nx_step == step + 1 ? kNx : 0));
            for (MmuIndex mmu : {MmuIndex::kUser, MmuIndex::kSupervisor, MmuIndex::kSupervisorAc})
              for (Access access : {Access::kRead, Access::kWrite, Access::kExecute}) {
                build(shape, flags);
                bool user = mmu == MmuIndex::kUser;
                Rules rules{no_user == 0, no_write == 0, nx_step != 0, wp,
                            smep,         smap,          nxe,          mmu == MmuIndex::kSupervisor};
                auto result = translate(machine.context, linear, access, mmu);
                ++cases;
                SCOPED_TRACE(::testing::Message() << "paging " << int(shape.paging) << " no_user " << no_user
                                                  << " no_write " << no_write << " nx " << nx_step << " bits " << bits
                                                  << " mmu " << int(mmu) << " access " << int(access));
                ASSERT_EQ(result.has_value(), rules.allowed(access, user));
                if (result) {
                  ASSERT_EQ(result->physical, expected_physical(shape));
                  ASSERT_EQ(result->page_size, shape.page_size);
                  ASSERT_EQ(result->writable, access == Access::kWrite);
                  for (unsigned step = 0; step < shape.levels; ++step) {
                    ASSERT_TRUE(entry(shape, step) & kA);
                    ASSERT_EQ(bool(entry(shape, step) & kD), access == Access::kWrite && step + 1 == shape.levels);
                  }
                } else {
                  // [SDM-3A 4.7] P set: not caused by a non-present page; I/D only if NXE (and PAE) or SMEP.
                  bool reports_fetch = (nxe && !is_narrow(shape)) || smep;
                  uint32_t code = 1 | (access == Access::kWrite ? 2 : 0) | (user ? 4 : 0) |
                                  (access == Access::kExecute && reports_fetch ? 16 : 0);
                  ASSERT_EQ(result.error().vector, kPageFault);
                  ASSERT_EQ(result.error().error_code, code);
                  ASSERT_EQ(result.error().address, linear);
                }
              }
          }
  }
  EXPECT_GT(cases, 10000u);
}

TEST_F(PagingTest, NotPresentAtEachLevel) {
  for (const Shape& shape : kShapes)
    for (unsigned missing = 0; missing < shape.levels; ++missing) {
      configure(shape);
      std::vector<uint64_t> flags(shape.levels, kP | kW | kU);
      flags[missing] &= ~kP;
      build(shape, flags);
      EXPECT_RAISES(translate(machine.context, linear, Access::kWrite, MmuIndex::kUser), kPageFault, 6);
      EXPECT_RAISES(translate(machine.context, linear, Access::kRead, MmuIndex::kSupervisor), kPageFault, 0);
      for (unsigned step = 0; step < shape.levels; ++step) EXPECT_FALSE(entry(shape, step) & kD);
    }
}

TEST_F(PagingTest, ReservedBits) {
  unsigned width = machine.context.cpu_model->physical_address_bits();
  for (const Shape& shape : kShapes) {
    for (unsigned step = 0; step < shape.levels; ++step) {
      bool leaf = step + 1 == shape.levels;
      uint64_t reserved = 0;
      if (!is_narrow(shape)) {
        for (unsigned bit = width; bit < 52; ++bit) reserved |= uint64_t{1} << bit;
        reserved |= kNx;  // NXE is off
        if (!is_long(shape)) reserved |= 0x7ff0000000000000;
        if (is_long(shape) && step == 0) reserved |= kPs;
        if (leaf && shape.page_size > 4096) reserved |= shape.page_size - 0x2000;
      } else if (leaf && shape.page_size > 4096) {
        reserved = 1 << 21;
        for (unsigned bit = width; bit < 40; ++bit) reserved |= uint64_t{1} << (bit - 32 + 13);
      }
      for (unsigned bit = 0; bit < shape.entry_bytes * 8; ++bit) {
        if (!((reserved >> bit) & 1)) continue;
        configure(shape);
        std::vector<uint64_t> flags(shape.levels, kP | kW | kU);
        flags[step] |= uint64_t{1} << bit;
        build(shape, flags);
        SCOPED_TRACE(::testing::Message() << "paging " << int(shape.paging) << " step " << step << " bit " << bit);
        EXPECT_RAISES(translate(machine.context, linear, Access::kRead, MmuIndex::kUser), kPageFault, 0xd);
      }
      if (!is_narrow(shape)) {  // bits that are ignored or mean something else
        configure(shape);
        std::vector<uint64_t> flags(shape.levels, kP | kW | kU);
        flags[step] |= 0xe18;  // available, PWT, PCD
        if (is_long(shape)) flags[step] |= 0x7ff0000000000000;
        build(shape, flags);
        EXPECT_TRUE(translate(machine.context, linear, Access::kRead, MmuIndex::kUser).has_value());
      }
    }
  }
}

TEST_F(PagingTest, GlobalNeedsPge) {
  for (const Shape& shape : kShapes) {
    configure(shape);
    std::vector<uint64_t> flags(shape.levels, kP | kW | kU);
    flags.back() |= kG;
    build(shape, flags);
    EXPECT_FALSE(translate(machine.context, linear, Access::kRead, MmuIndex::kUser)->global);
    machine.state.cr4 |= cpu::cr4::kPge;
    EXPECT_TRUE(translate(machine.context, linear, Access::kRead, MmuIndex::kUser)->global);
  }
}

TEST_F(PagingTest, WritableFollowsDirtyBit) {
  const Shape& shape = kShapes[4];
  configure(shape);
  build(shape, {kP | kW | kU, kP | kW | kU, kP | kW | kU, kP | kW | kU});
  EXPECT_FALSE(translate(machine.context, linear, Access::kRead, MmuIndex::kUser)->writable);
  EXPECT_TRUE(translate(machine.context, linear, Access::kWrite, MmuIndex::kUser)->writable);
  EXPECT_TRUE(translate(machine.context, linear, Access::kRead, MmuIndex::kUser)->writable);
  EXPECT_EQ(machine.noted_stores.size(), 5u);  // four A bits with the first read, one D bit with the write
}

TEST_F(PagingTest, Pse36) {
  const Shape& shape = kShapes[1];
  configure(shape);
  machine.write(entry_address(shape, 0), kP | kPs | (uint64_t{5} << 13), 4);
  EXPECT_EQ(translate(machine.context, linear, Access::kRead, MmuIndex::kSupervisor)->physical,
            (uint64_t{5} << 32) + (linear & 0x3fffff));
  machine.state.cr4 = 0;  // without PSE the PS bit is ignored and this is a table at an odd place
  EXPECT_RAISES(translate(machine.context, linear, Access::kRead, MmuIndex::kSupervisor), kPageFault, 0);
}

TEST_F(PagingTest, TablesOutsideRam) {
  const Shape& shape = kShapes[4];
  configure(shape);
  machine.state.cr3 = 0x3f'0000'0000;
  EXPECT_RAISES(translate(machine.context, linear, Access::kRead, MmuIndex::kUser), kPageFault, 4);
  machine.state.cr3 = FakeMachine::kMmio;
  EXPECT_RAISES(translate(machine.context, linear, Access::kRead, MmuIndex::kUser), kPageFault, 4);
  EXPECT_TRUE(machine.mmio_accesses.empty());
}

TEST_F(PagingTest, DebugTranslationLeavesNoTrace) {
  for (const Shape& shape : kShapes) {
    configure(shape);
    build(shape, std::vector<uint64_t>(shape.levels, kP));
    uint64_t physical = 0;
    ASSERT_TRUE(translate_for_debug(machine.context, linear, physical));
    EXPECT_EQ(physical, expected_physical(shape));
    for (unsigned step = 0; step < shape.levels; ++step) EXPECT_FALSE(entry(shape, step) & kA);
  }
}

TEST_F(PagingTest, LinearAccessesCrossPages) {
  const Shape& shape = kShapes[4];
  configure(shape);
  build(shape, {kP | kW | kU, kP | kW | kU, kP | kW | kU, kP | kW | kU});
  // The next page maps elsewhere.
  uint64_t second = 0x600000;
  machine.write(entry_address(shape, 3) + 8, second | kP | kW | kU, 8);
  uint64_t at = (linear & ~uint64_t{0xfff}) + 0xffd;
  EXPECT_RUNS(write_linear(machine.context, at, 0x1122334455667788, 8, MmuIndex::kUser));
  EXPECT_EQ(machine.read(kTarget + 0xffd, 3), 0x667788u);
  EXPECT_EQ(machine.read(second, 5), 0x1122334455u);
  EXPECT_EQ(*read_linear(machine.context, at, 8, MmuIndex::kUser), 0x1122334455667788u);
  // A fault on the second page leaves the first alone.
  machine.write(entry_address(shape, 3) + 8, second | kP | kU, 8);
  EXPECT_RAISES(write_linear(machine.context, at, 0, 8, MmuIndex::kUser), kPageFault, 7);
  EXPECT_EQ(machine.read(kTarget + 0xffd, 3), 0x667788u);
  auto fault = write_linear(machine.context, at, 0, 8, MmuIndex::kUser);
  EXPECT_EQ(fault.error().address, (linear & ~uint64_t{0xfff}) + 0x1000);
}

TEST_F(PagingTest, DevicesSeeWholeAccesses) {
  machine.enter_protected_mode(0);
  EXPECT_EQ(*read_linear(machine.context, FakeMachine::kMmio + 0x10, 4, MmuIndex::kSupervisor), 0x10101010u);
  EXPECT_RUNS(write_linear(machine.context, FakeMachine::kMmio + 0x20, 0xabcd, 2, MmuIndex::kSupervisor));
  ASSERT_EQ(machine.mmio_accesses.size(), 2u);
  EXPECT_EQ(machine.mmio_accesses[0].size_bytes, 4u);
  EXPECT_EQ(machine.mmio_accesses[1].value, 0xabcdu);
  EXPECT_TRUE(machine.mmio_accesses[1].write);
  // Holes read as ones and swallow writes.
  EXPECT_EQ(*read_linear(machine.context, 0xe0000000, 4, MmuIndex::kSupervisor), 0xffffffffu);
  EXPECT_RUNS(write_linear(machine.context, 0xe0000000, 1, 4, MmuIndex::kSupervisor));
}

}  // namespace
}  // namespace rhea::dbt
