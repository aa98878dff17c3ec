// SPDX-License-Identifier: Apache-2.0
// String and port instructions against a model that moves one byte at a time through the page tables.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "dbt/system/expect.h"
#include "dbt/system/machine_fake.h"
#include "dbt/system/repeat.h"

namespace rhea::dbt {
namespace {

namespace rf = cpu::rflags;

constexpr uint64_t kWindow = 0x40000000;  // eight virtual pages, some unmapped, read-only, device or aliased
constexpr unsigned kPages = 8;

// One-element steps over a byte map, with the page's kind deciding faults.
class Model {
 public:
  explicit Model(FakeMachine& machine) : machine_(machine) {}

  enum class Outcome { kDone, kFault };
  uint64_t fault_address = 0;

  Outcome run(const Insn& insn) {
    bool repeat = repeats(insn);
    uint64_t flags = machine_.context.rflags();
    for (;;) {
      uint64_t count = machine_.state.gpr[cpu::kRcx] & mask(insn);
      if (repeat && count == 0) return Outcome::kDone;
      if (!step(insn)) {
        machine_.context.set_rflags(flags);  // [SDM-2B REP]
        return Outcome::kFault;
      }
      if (!repeat) return Outcome::kDone;
      set(cpu::kRcx, insn, count - 1);
      bool compares = insn.opcode == 0xa6 || insn.opcode == 0xa7 || insn.opcode == 0xae || insn.opcode == 0xaf;
      if (compares && bool(machine_.context.rflags() & rf::kZf) == insn.repne) return Outcome::kDone;
    }
  }

 private:
  static uint64_t mask(const Insn& insn) { return size_mask(insn.mem.address_size); }
  void set(unsigned reg, const Insn& insn, uint64_t value) {
    write_register(machine_.context, reg, insn.mem.address_size, value);
  }
  void advance(unsigned reg, const Insn& insn) {
    uint64_t size = insn.operand_size;
    set(reg, insn, machine_.state.gpr[reg] + (machine_.context.direction_flag ? -size : size));
  }
  bool physical(uint64_t linear, Access access, uint64_t& out) {
    auto result = translate(machine_.context, linear, access, MmuIndex::kSupervisorAc);
    if (!result) {
      fault_address = result.error().address;
      return false;
    }
    out = result->physical;
    return true;
  }
  // CR2 of an access that crosses into a bad page is that page's first byte.
  bool reachable(uint64_t linear, unsigned size, Access access) {
    uint64_t at = 0, last = linear + size - 1;
    if (!physical(linear, access, at)) return false;
    return (linear & ~uint64_t{4095}) == (last & ~uint64_t{4095}) || physical(last & ~uint64_t{4095}, access, at);
  }
  bool load(uint64_t linear, unsigned size, uint64_t& value) {
    value = 0;
    uint64_t at = 0;
    if (!reachable(linear, size, Access::kRead)) return false;
    for (unsigned i = 0; i < size; ++i) {
      physical(linear + i, Access::kRead, at);
      value |= machine_.read(at, 1) << (8 * i);
    }
    return true;
  }
  bool store(uint64_t linear, unsigned size, uint64_t value) {
    uint64_t at = 0;
    if (!reachable(linear, size, Access::kWrite)) return false;
    for (unsigned i = 0; i < size; ++i) {
      physical(linear + i, Access::kWrite, at);
      machine_.write(at, value >> (8 * i), 1);
    }
    return true;
  }
  bool step(const Insn& insn) {
    unsigned size = insn.operand_size;
    uint64_t si = machine_.state.gpr[cpu::kRsi] & mask(insn), di = machine_.state.gpr[cpu::kRdi] & mask(insn);
    uint64_t left = machine_.state.gpr[cpu::kRax] & size_mask(size), right = 0;
    switch (insn.opcode & 0xfe) {
      case 0xa4:
        if (!load(si, size, left) || !store(di, size, left)) return false;
        break;
      case 0xaa:
        if (!store(di, size, left)) return false;
        break;
      case 0xac:
        if (!load(si, size, left)) return false;
        write_register(machine_.context, cpu::kRax, size, left);
        break;
      default:
        if (!load(di, size, right)) return false;
        if ((insn.opcode & 0xfe) == 0xa6 && !load(si, size, left)) return false;
        compare(left, right, size);
    }
    unsigned op = insn.opcode & 0xfe;
    if (op == 0xa4 || op == 0xac || op == 0xa6) advance(cpu::kRsi, insn);
    if (op != 0xac) advance(cpu::kRdi, insn);
    return true;
  }
  // By the host's own CMP.
  void compare(uint64_t left, uint64_t right, unsigned size) {
    uint64_t flags = 0;
    switch (size) {
      case 1: asm("cmpb %b2, %b1\n\tpushfq\n\tpop %0" : "=r"(flags) : "q"(left), "q"(right) : "cc", "memory"); break;
      case 2: asm("cmpw %w2, %w1\n\tpushfq\n\tpop %0" : "=r"(flags) : "r"(left), "r"(right) : "cc", "memory"); break;
      case 4: asm("cmpl %k2, %k1\n\tpushfq\n\tpop %0" : "=r"(flags) : "r"(left), "r"(right) : "cc", "memory"); break;
      default: asm("cmpq %q2, %q1\n\tpushfq\n\tpop %0" : "=r"(flags) : "r"(left), "r"(right) : "cc", "memory"); break;
    }
    machine_.context.set_rflags((machine_.context.rflags() & ~rf::kArithmetic) | (flags & rf::kArithmetic));
  }

  FakeMachine& machine_;
};

class StringsTest : public ::testing::Test {
 protected:
  void map_window(FakeMachine& machine, unsigned seed) {
    machine.enter_long_mode(0);
    // Entry 1 of the second level: 1 GiB at kWindow, one table of 4 KiB pages.
    constexpr uint64_t kDirectory = 0x18000, kTable = 0x19000;
    machine.write(FakeMachine::kPageTables + 0x1000 + 8, kDirectory | 3, 8);
    machine.write(kDirectory, kTable | 3, 8);
    for (unsigned page = 0; page < kPages; ++page) {
      uint64_t frame = 0x200000 + 0x2000 * page;
      uint64_t entry = frame | 3;
      if (page == 5) entry = 0x200000 | 3;  // an alias of page 0
      if (page == 3 && (seed & 1)) entry = 0;
      if (page == 6) entry = frame | 1;
      machine.write(kTable + page * 8, entry, 8);
    }
    std::mt19937 random(seed);
    for (unsigned page = 0; page < kPages; ++page)
      for (unsigned i = 0; i < 4096; i += 8) {
        // Long equal stretches, so that comparisons get somewhere.
        uint64_t value = random() % 8 ? 0x4141414141414141 : uint64_t{random()} << 32 | random();
        machine.write(0x200000 + 0x2000 * page + i, value, 8);
      }
  }
};

TEST_F(StringsTest, RandomAgainstModel) {
  std::mt19937 random(1);
  FakeMachine real, reference;
  unsigned faults = 0;
  for (unsigned round = 0; round < 4000; ++round) {
    unsigned seed = random();
    for (FakeMachine* machine : {&real, &reference}) map_window(*machine, seed);
    static constexpr uint8_t kOpcodes[] = {0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf};
    std::vector<uint8_t> bytes;
    if (random() % 8 == 0) bytes.push_back(0x67);
    if (random() % 3 == 0) bytes.push_back(0x66);
    if (unsigned prefix = random() % 4) bytes.push_back(prefix == 1 ? 0xf2 : 0xf3);
    if (random() % 2) bytes.push_back(0x48);
    bytes.push_back(kOpcodes[random() % 10]);
    uint64_t si = kWindow + random() % (kPages * 4096), di = kWindow + random() % (kPages * 4096);
    if (random() % 3 == 0) di = si + random() % 33 - 16;  // overlapping
    uint64_t count = random() % 4 ? random() % 64 : random() % 3000;
    uint64_t ax = random() % 2 ? 0x4141414141414141 : random();
    uint64_t flags = rf::kFixed1 | (random() % 2 ? rf::kDf : 0) | (random() & rf::kArithmetic);
    for (FakeMachine* machine : {&real, &reference}) {
      machine->state.gpr[cpu::kRsi] = si;
      machine->state.gpr[cpu::kRdi] = di;
      machine->state.gpr[cpu::kRcx] = count;
      machine->state.gpr[cpu::kRax] = ax;
      machine->context.set_rflags(flags);
    }
    Insn insn = real.decode(bytes);
    Model model(reference);
    Model::Outcome expected = model.run(insn);
    auto result = execute_system(real.context, insn);
    SCOPED_TRACE(::testing::Message() << "round " << round << " opcode " << std::hex << int(insn.opcode) << " size "
                                      << insn.operand_size << " si " << si << " di " << di << " count " << count
                                      << " flags " << flags);
    ASSERT_EQ(result.has_value(), expected == Model::Outcome::kDone);
    if (!result) {
      ++faults;
      ASSERT_EQ(result.error().vector, kPageFault);
      ASSERT_EQ(result.error().address, model.fault_address);
      ASSERT_EQ(real.state.rip, FakeMachine::kCode);
    } else {
      ASSERT_EQ(real.state.rip, FakeMachine::kCode + bytes.size());
    }
    ASSERT_EQ(real.context.rflags(), reference.context.rflags());
    ASSERT_EQ(real.state.gpr, reference.state.gpr);
    for (unsigned page = 0; page < kPages; ++page)
      for (unsigned i = 0; i < 4096; i += 8)
        ASSERT_EQ(real.read(0x200000 + 0x2000 * page + i, 8), reference.read(0x200000 + 0x2000 * page + i, 8))
            << "page " << page << " + " << i;
  }
  EXPECT_GT(faults, 100u);
}

TEST_F(StringsTest, StopsForInterruptsBetweenRuns) {
  FakeMachine machine;
  map_window(machine, 2);
  machine.state.gpr[cpu::kRdi] = kWindow + 0x800;
  machine.state.gpr[cpu::kRcx] = 0x2000;
  machine.context.exit_request = 1;
  EXPECT_NEXT(machine.run({0xf3, 0xaa}), Next::kDispatch);
  EXPECT_EQ(machine.state.rip, FakeMachine::kCode) << "again from the same instruction";
  EXPECT_EQ(machine.state.gpr[cpu::kRdi], kWindow + 0x1000);
  EXPECT_EQ(machine.state.gpr[cpu::kRcx], 0x1800u);
  machine.context.exit_request = 0;
  EXPECT_NEXT(machine.run({0xf3, 0xaa}), Next::kContinue);
  EXPECT_EQ(machine.state.gpr[cpu::kRcx], 0u);
  // With TF each iteration is one step.
  machine.context.set_rflags(rf::kFixed1 | rf::kTf);
  machine.state.gpr[cpu::kRdi] = kWindow;
  machine.state.gpr[cpu::kRcx] = 3;
  EXPECT_NEXT(machine.run({0xf3, 0xaa}), Next::kDispatch);
  EXPECT_EQ(machine.state.gpr[cpu::kRcx], 2u);
  EXPECT_TRUE(machine.context.rflags() & rf::kRf) << "iterations remain";
  EXPECT_NEXT(machine.run({0xf3, 0xaa}), Next::kDispatch);
  EXPECT_NEXT(machine.run({0xf3, 0xaa}), Next::kContinue);
  EXPECT_FALSE(machine.context.rflags() & rf::kRf);
  // Comparisons set the flags only when they are over.
  machine.state.gpr[cpu::kRdi] = kWindow;
  machine.state.gpr[cpu::kRcx] = 2;
  machine.state.gpr[cpu::kRax] = machine.read(0x200000, 1) + 1;
  machine.write(0x200001, machine.read(0x200000, 1), 1);
  machine.context.set_rflags(rf::kFixed1 | rf::kTf | rf::kZf | rf::kOf);
  EXPECT_NEXT(machine.run({0xf2, 0xae}), Next::kDispatch);
  EXPECT_EQ(machine.context.rflags() & rf::kArithmetic, rf::kZf | rf::kOf);
  EXPECT_NEXT(machine.run({0xf2, 0xae}), Next::kContinue);
  EXPECT_EQ(machine.context.rflags() & (rf::kZf | rf::kOf), 0u);
}

TEST_F(StringsTest, ThirtyTwoBitCountsAndAlignment) {
  FakeMachine machine;
  map_window(machine, 2);
  if (machine.context.cpu_model->intel()) {
    for (uint64_t count : {0, 3}) {
      machine.state.gpr[cpu::kRcx] = 0xabcd00000000 | count;
      machine.state.gpr[cpu::kRsi] = 0x123450000000;  // not mapped
      machine.state.gpr[cpu::kRdi] = 0x567850000000;
      EXPECT_EQ(machine.run({0xf3, 0x67, 0xa4}).has_value(), count == 0);
      EXPECT_EQ(machine.state.gpr[cpu::kRcx], count);
      EXPECT_EQ(machine.state.gpr[cpu::kRsi], 0x50000000u);
      EXPECT_EQ(machine.state.gpr[cpu::kRdi], 0x50000000u);
      machine.state.gpr[cpu::kRsi] = 0x123450000000;
      machine.state.gpr[cpu::kRcx] = 0xabcd00000000 | count;
      EXPECT_EQ(machine.run({0xf3, 0x67, 0xac}).has_value(), count == 0);
      EXPECT_EQ(machine.state.gpr[cpu::kRcx], count);
      EXPECT_EQ(machine.state.gpr[cpu::kRsi], 0x123450000000u);
    }
  }
  machine.enter_long_mode(3);
  machine.state.cr0 |= cpu::cr0::kAm;
  machine.context.set_rflags(rf::kFixed1 | rf::kAc);
  machine.state.gpr[cpu::kRdi] = 0x8001;
  EXPECT_RUNS(machine.run({0xaa}));
  EXPECT_RAISES(machine.run({0xab}), kAlignmentCheck, 0);  // four bytes at 0x8002
  EXPECT_RUNS(machine.run({0x66, 0xab}));
  machine.state.gpr[cpu::kRsp] = 0x8004;
  EXPECT_RAISES(machine.run({0x9c}), kAlignmentCheck, 0);
}

TEST_F(StringsTest, StoresAreAnnounced) {
  FakeMachine machine;
  map_window(machine, 2);
  machine.noted_stores.clear();
  machine.state.gpr[cpu::kRdi] = kWindow + 0xfff;
  machine.state.gpr[cpu::kRcx] = 0x800;
  machine.context.set_rflags(rf::kFixed1 | rf::kDf);
  EXPECT_RUNS(machine.run({0xf3, 0xaa}));
  // A and D bits of the walk, then the lowest byte of the run.
  EXPECT_EQ(machine.noted_stores.back(), 0x200800u);
}

TEST_F(StringsTest, DevicesSeeElements) {
  FakeMachine machine;
  machine.enter_protected_mode(0);
  machine.state.gpr[cpu::kRsi] = FakeMachine::kMmio + 0x10;
  machine.state.gpr[cpu::kRdi] = 0x8000;
  machine.state.gpr[cpu::kRcx] = 3;
  EXPECT_RUNS(machine.run({0xf3, 0x66, 0xa5}));
  ASSERT_EQ(machine.mmio_accesses.size(), 3u);
  EXPECT_EQ(machine.mmio_accesses[2].port, 0x14u);
  EXPECT_EQ(machine.mmio_accesses[2].size_bytes, 2u);
  EXPECT_EQ(machine.read(0x8004, 2), 0x1414u);
}

TEST_F(StringsTest, SixteenBitOffsetsWrap) {
  FakeMachine machine;  // real mode
  machine.state.gpr[cpu::kRdi] = 0xfff0;
  machine.state.gpr[cpu::kRcx] = 0x20;
  machine.state.gpr[cpu::kRax] = 0x5a;
  machine.state.segment[cpu::kEs].base = 0x50000;
  EXPECT_RUNS(machine.run({0xf3, 0xaa}));
  EXPECT_EQ(machine.read(0x5fff0, 8), 0x5a5a5a5a5a5a5a5au);
  EXPECT_EQ(machine.read(0x50008, 8), 0x5a5a5a5a5a5a5a5au);
  EXPECT_EQ(machine.read(0x60000, 8), 0u);
  EXPECT_EQ(machine.state.gpr[cpu::kRdi], 0x10u);
  // A word at 0xffff is beyond the segment: the fault leaves the count there.
  machine.state.gpr[cpu::kRdi] = 0xfffd;
  machine.state.gpr[cpu::kRcx] = 4;
  EXPECT_RAISES(machine.run({0xf3, 0xab}), kGeneralProtection, 0);
  EXPECT_EQ(machine.state.gpr[cpu::kRcx], 3u);
}

class PortsTest : public ::testing::Test {
 protected:
  FakeMachine machine;
  cpu::CpuState& state = machine.state;
};

TEST_F(PortsTest, SizesAndRegisters) {
  machine.enter_long_mode(0);
  state.gpr[cpu::kRdx] = 0x70;
  state.gpr[cpu::kRax] = 0xffffffffffffffff;
  EXPECT_RUNS(machine.run({0xec}));
  EXPECT_EQ(state.gpr[cpu::kRax], 0xffffffffffffff70u);
  EXPECT_RUNS(machine.run({0xe5, 0x10}));
  EXPECT_EQ(state.gpr[cpu::kRax], 0x10101010u);
  EXPECT_RUNS(machine.run({0x66, 0xef}));
  ASSERT_EQ(machine.port_accesses.size(), 3u);
  EXPECT_EQ(machine.port_accesses[2].port, 0x70u);
  EXPECT_EQ(machine.port_accesses[2].size_bytes, 2u);
  EXPECT_EQ(machine.port_accesses[2].value, 0x1010u);
}

// IOPL and the bitmap of the TSS.
TEST_F(PortsTest, PermissionBitmap) {
  constexpr unsigned kMap = 0x68;
  for (bool long_mode : {false, true}) {
    long_mode ? machine.enter_long_mode(3) : machine.enter_protected_mode(3);
    machine.write(FakeMachine::kTss + 0x66, kMap, 2);
    for (unsigned i = 0; i < 0x40; ++i) machine.write(FakeMachine::kTss + kMap + i, 0, 1);
    machine.write(FakeMachine::kTss + kMap + 2, 0x10, 1);  // port 0x14 is closed
    state.segment[cpu::kTr].limit = kMap + 0x20;
    auto in = [&](uint16_t port, unsigned size) {
      state.gpr[cpu::kRdx] = port;
      return size == 1 ? machine.run({0xec}) : size == 2 ? machine.run({0x66, 0xed}) : machine.run({0xed});
    };
    EXPECT_RUNS(in(0x13, 1));
    EXPECT_RAISES(in(0x14, 1), kGeneralProtection, 0);
    EXPECT_RAISES(in(0x13, 2), kGeneralProtection, 0);
    EXPECT_RAISES(in(0x11, 4), kGeneralProtection, 0);
    EXPECT_RUNS(in(0x10, 4));
    EXPECT_RUNS(in(0xff, 1));  // byte 0x1f; 0x20 is still inside
    EXPECT_RAISES(in(0x100, 1), kGeneralProtection, 0);
    state.segment[cpu::kTr].limit = 0x66;
    EXPECT_RAISES(in(0x10, 1), kGeneralProtection, 0);
    machine.context.set_rflags(rf::kFixed1 | rf::kIopl);
    EXPECT_RUNS(in(0x14, 1));
    machine.context.set_rflags(rf::kFixed1);
  }
}

TEST_F(PortsTest, RepeatedInputStopsAtFaultWithoutLosingData) {
  machine.enter_long_mode(0);
  state.gpr[cpu::kRdx] = 0x1f0;
  state.gpr[cpu::kRdi] = FakeMachine::kRamBytes - 4;  // mapped up to there
  state.gpr[cpu::kRcx] = 4;
  EXPECT_RAISES(machine.run({0xf3, 0x66, 0x6d}), kPageFault, 2);
  EXPECT_EQ(machine.port_accesses.size(), 2u) << "no read for the element that faults";
  EXPECT_EQ(state.gpr[cpu::kRcx], 2u);
  EXPECT_EQ(state.gpr[cpu::kRdi], FakeMachine::kRamBytes);
  EXPECT_EQ(machine.read(FakeMachine::kRamBytes - 4, 4), 0xf1f0f1f0u);
  state.gpr[cpu::kRsi] = 0x8000;
  state.gpr[cpu::kRcx] = 2;
  machine.write(0x8000, 0x1234, 2);
  EXPECT_RUNS(machine.run({0xf3, 0x6e}));
  EXPECT_EQ(machine.port_accesses.back().value, 0x12u);
  EXPECT_EQ(state.gpr[cpu::kRsi], 0x8002u);
}

}  // namespace
}  // namespace rhea::dbt
