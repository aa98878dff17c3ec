// SPDX-License-Identifier: Apache-2.0
#include "tests/hostile/world.h"

#include <algorithm>
#include <cstring>

#include "isa/x86/generate.h"

namespace rhea::tests::hostile {
namespace {

using isa::x86::Rng;
namespace cr0 = cpu::cr0;
namespace cr4 = cpu::cr4;
namespace efer = cpu::efer;
using Bytes = std::vector<uint8_t>;

constexpr uint64_t kPresent = 1, kWritable = 2, kUser = 4, kLarge = 0x80, kNoExecute = uint64_t{1} << 63;
constexpr uint16_t kSelCode0 = 0x08, kSelData0 = 0x10, kSelCode3 = 0x18, kSelData3 = 0x20, kSelTss = 0x30,
                   kSelLdt = 0x70;
constexpr size_t kGdtBytes = 0xc0;
constexpr unsigned kHandlerBytes = 16, kVectors = 256;

void put(Bytes& ram, uint64_t at, uint64_t value, unsigned size) { std::memcpy(ram.data() + at, &value, size); }

bool is_long(Mode mode) { return mode == Mode::kCompatibility || mode == Mode::kLongUser || mode == Mode::kLongKernel; }
bool is_user(Mode mode) {
  return mode == Mode::kVirtual8086 || mode == Mode::kCompatibility || mode == Mode::kLongUser;
}

// Tables exist once for all vCPUs. Mixed cases are all in long mode or all outside it.
bool uses_long_tables(const Case& value) { return is_long(mode_of(value, 0)); }

// [SDM-3A 6.13]
bool has_error_code(unsigned vector) {
  return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21;
}

// Moves the saved IP on by one, or acknowledges the interrupt.
Bytes handler(unsigned vector, unsigned bits) {
  const bool interrupt = vector >= 32;
  if (bits == 16) {
    if (interrupt) return {0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf};  // out 0x20, 0x20
    return {0x55, 0x89, 0xe5, 0xff, 0x46, 0x02, 0x5d, 0xcf};           // inc word [bp+2]
  }
  Bytes code;
  if (interrupt) {
    code = {0x50, 0xb8, 0xb0, 0x00, 0xe0, 0xfe, 0x89, 0x00, 0x58};  // mov [0xfee000b0], eax
  } else {
    const Bytes pop = bits == 64 ? Bytes{0x48, 0x83, 0xc4, 0x08} : Bytes{0x83, 0xc4, 0x04};
    if (has_error_code(vector)) code = pop;
    if (bits == 64) code.push_back(0x48);
    code.insert(code.end(), {0x83, 0x04, 0x24, 0x01});  // add [rsp], 1
  }
  if (bits == 64) code.push_back(0x48);
  code.push_back(0xcf);
  return code;
}

uint64_t descriptor(uint64_t base, uint32_t limit, uint16_t attributes) {
  return (limit & 0xffff) | (base & 0xffffff) << 16 | uint64_t{attributes & 0xffu} << 40 |
         uint64_t{limit >> 16 & 0xf} << 48 | uint64_t{(attributes >> 12) & 0xfu} << 52 | (base >> 24 & 0xff) << 56;
}

uint64_t gate(uint64_t target, uint16_t selector, uint8_t attributes) {
  return (target & 0xffff) | uint64_t{selector} << 16 | uint64_t{attributes} << 40 | (target >> 16 & 0xffff) << 48;
}

void write_gdt(const Case& value, Bytes& ram) {
  const bool long_mode = uses_long_tables(value);
  const uint16_t code = long_mode ? 0xa09b : mode_of(value, 0) == Mode::kProtected16 ? 0x809b : 0xc09b;
  put(ram, kGdt + kSelCode0, descriptor(0, 0xfffff, code), 8);
  put(ram, kGdt + kSelData0, descriptor(0, 0xfffff, 0xc093), 8);
  put(ram, kGdt + kSelCode3, descriptor(0, 0xfffff, long_mode ? 0xa0fb : 0xc0fb), 8);
  put(ram, kGdt + kSelData3, descriptor(0, 0xfffff, 0xc0f3), 8);
  put(ram, kGdt + 0x28, descriptor(0, 0xfffff, 0xc0fb), 8);
  for (unsigned i = 0; i < kVcpus; ++i) put(ram, kGdt + kSelTss + 16 * i, descriptor(kTss + 0x800 * i, 0x7ff, 0x89), 8);
  put(ram, kGdt + kSelLdt, descriptor(kLdt, 0xfff, 0x82), 8);
  put(ram, kGdt + 0x80, gate(kCode + 0x80, kSelCode0, long_mode ? 0xec : 0xe4), 8);  // call gates
  put(ram, kGdt + 0x90, gate(0, kSelTss + 16, 0xe5), 8);                             // a task gate
  put(ram, kGdt + 0x98, descriptor(kCode, 0xffff, 0x009b), 8);
  put(ram, kGdt + 0xa0, descriptor(kShared, 0xffff, 0x0093), 8);
  put(ram, kGdt + 0xa8, descriptor(0, 0xfffff, 0xa09b), 8);
  put(ram, kGdt + 0xb0, descriptor(0, 0xfffff, 0xc09b), 8);
  for (unsigned i = 0; i < 8; ++i) put(ram, kLdt + 8 * i, descriptor(kShared, 0xfffff, i % 2 ? 0xc0fb : 0xc0f3), 8);
}

void write_interrupt_tables(const Case& value, Bytes& ram) {
  const bool long_mode = uses_long_tables(value);
  const Mode mode = mode_of(value, 0);
  const bool real = mode == Mode::kReal;
  for (unsigned vector = 0; vector < kVectors; ++vector) {
    const uint64_t address = kHandlers + kHandlerBytes * vector;
    const Bytes code = handler(vector, long_mode ? 64 : real ? 16 : 32);
    std::ranges::copy(code, ram.begin() + static_cast<std::ptrdiff_t>(address));
    put(ram, 4 * vector, (kHandlers >> 4) << 16 | kHandlerBytes * vector, 4);
    const uint16_t selector = mode == Mode::kProtected16 ? 0xb0 : kSelCode0;
    const uint64_t entry = gate(address, selector, 0xee);
    put(ram, kIdt + (long_mode ? 16 : 8) * vector, entry, 8);
    if (long_mode) put(ram, kIdt + 16 * vector + 8, 0, 8);
  }
}

void write_tss(const Case& value, Bytes& ram, Rng& random) {
  for (unsigned i = 0; i < kVcpus; ++i) {
    const uint64_t tss = kTss + 0x800 * i, stack = kKernelStacks + kStackStep * (i + 1);
    std::fill_n(ram.begin() + static_cast<std::ptrdiff_t>(tss), 0x800, uint8_t{0});
    put(ram, tss + 4, stack, 4);
    put(ram, tss + 8, uses_long_tables(value) ? 0 : kSelData0, 4);
    put(ram, tss + 0x66, random.chance(1, 2) ? 0x68 : 0x800, 2);  // all ports below 0x3cc0, or none
  }
}

// What user code may reach: its code, its stacks, what is shared. All the rest is the kernel's.
uint64_t rights(const Case& value, uint64_t physical) {
  const bool reachable = (physical >= kCode && physical < kCode + kVcpus * kCodeStep) ||
                         (physical >= kStacks && physical < kStacks + kVcpus * kStackStep) ||
                         (physical >= kShared && physical < kShared + kSharedBytes);
  const bool user = is_user(mode_of(value, 0)) || value.mode == Mode::kMixed;
  return kPresent | kWritable | (user && reachable ? kUser : 0);
}

// Maps the first 4 GiB one to one, the first 2 MiB of it by small pages.
void write_page_tables(const Case& value, Bytes& ram, Rng& random) {
  const uint64_t device_rights = kPresent | kWritable | kLarge | (random.chance(1, 2) ? kUser : 0);
  const uint64_t all = kPresent | kWritable | kUser;
  auto small = [&](uint64_t table, unsigned size) {
    for (uint64_t i = 0; i < 4096 / size; ++i) put(ram, table + size * i, i << 12 | rights(value, i << 12), size);
  };
  // [SDM-3A 4.5]: page map, pointers, four directories, one table
  put(ram, kLongTables, (kLongTables + 0x1000) | all, 8);
  put(ram, kLongTables + 8 * 511, (kLongTables + 0x1000) | all, 8);
  for (const uint64_t tables : {kLongTables + 0x1000, kPaeTables}) {
    for (uint64_t i = 0; i < 4; ++i)
      put(ram, tables + 8 * i, (tables + 0x1000 * (i + 1)) | (tables == kPaeTables ? kPresent : all), 8);
    for (uint64_t i = 0; i < 4 * 512; ++i) put(ram, tables + 0x1000 + 8 * i, i << 21 | device_rights, 8);
    put(ram, tables + 0x1000, (tables + 0x5000) | all, 8);
    small(tables + 0x5000, 8);
  }
  // [SDM-3A 4.3]: a directory, whose first entry is for small pages
  for (uint64_t i = 0; i < 1024; ++i) put(ram, kPagingTables + 4 * i, i << 22 | device_rights, 4);
  put(ram, kPagingTables, (kPagingTables + 0x1000) | all, 4);
  small(kPagingTables + 0x1000, 4);
}

void damage_tables(Bytes& ram, Rng& random) {
  const struct {
    uint64_t start, bytes;
  } kTables[] = {{kGdt, kGdtBytes},
                 {kIdt, 0x1000},
                 {kTss, 0x2000},
                 {kLdt, 64},
                 {kLongTables, 0x2000},
                 {kLongTables, 0x7000},
                 {kPaeTables, 0x6000},
                 {kLongTables + 0x6000, 512},
                 {kPaeTables + 0x5000, 512},
                 {kPagingTables + 0x1000, 256}};
  for (unsigned count = 1 + random.below(24); count > 0; --count) {
    const auto& table = kTables[random.below(std::size(kTables))];
    const uint64_t at = table.start + 8 * random.below(static_cast<uint32_t>(table.bytes / 8));
    uint64_t word = 0;
    std::memcpy(&word, ram.data() + at, 8);
    switch (random.below(6)) {
      case 0: word ^= uint64_t{1} << random.below(64); break;
      case 1: word ^= uint64_t{1} << random.below(12); break;
      case 2: word = (word & 0xfff) | uint64_t{random.below(0x60)} << 12; break;  // another page, tables among them
      case 3: word = (word & 0xfff) | 0xfee00000; break;                          // a device
      case 4: word |= kNoExecute; break;
      default: word = random.next(); break;
    }
    put(ram, at, word, 8);
  }
}

uint64_t interesting(Rng& random, unsigned index) {
  static constexpr uint64_t kPlaces[] = {0xfee00000, 0xfec00000, 0xfed00000, 0xe0000000, kBars,      0xa0000,
                                         0xe0000,    kGdt,       kIdt,       kTss,       0xfffffff0, kRamBytes - 8};
  static constexpr uint16_t kPorts[] = {0x20, 0x21, 0xa0,  0xa1,  0x40,  0x43,  0x60,  0x61,  0x64,  0x70,
                                        0x71, 0x92, 0xcf8, 0xcfc, 0x3f8, 0x2f8, 0x402, 0x600, 0x608, 0x80};
  switch (random.below(12)) {
    case 0: return kCode + kCodeStep * random.below(kVcpus) + random.below(512);
    case 1: return kCode + kCodeStep * index + random.below(64);
    case 2: return kLongTables + random.below(0x10000);
    case 3: return kPlaces[random.below(std::size(kPlaces))] + random.below(0x400);
    case 4: return kPorts[random.below(std::size(kPorts))];
    case 5: return random.below(256);
    case 6: return ~uint64_t{0} - random.below(64);
    case 7: return random.next();
    case 8: return 0xffff'8000'0000'0000 + kShared + random.below(0x1000);
    default: return kShared + random.below(kSharedBytes);
  }
}

cpu::Segment flat(uint16_t selector, uint16_t attributes, uint64_t base = 0) {
  const bool granular = attributes & 0x8000;
  return {.base = base, .limit = granular ? 0xffffffffu : 0xffffu, .selector = selector, .attributes = attributes};
}

void set_segments(cpu::CpuState& s, Mode mode) {
  const std::initializer_list<unsigned> data{cpu::kSs, cpu::kDs, cpu::kEs, cpu::kFs, cpu::kGs};
  auto all = [&](const cpu::Segment& code, const cpu::Segment& other) {
    s.segment[cpu::kCs] = code;
    for (const unsigned i : data) s.segment[i] = other;
  };
  switch (mode) {
    case Mode::kReal:
      all(flat(kCode >> 4, 0x93, kCode), flat(kShared >> 4, 0x93, kShared));
      s.segment[cpu::kSs] = flat(kStacks >> 4, 0x93, kStacks);
      break;
    case Mode::kVirtual8086:
      all(flat(kCode >> 4, 0xf3, kCode), flat(kShared >> 4, 0xf3, kShared));
      s.segment[cpu::kSs] = flat(kStacks >> 4, 0xf3, kStacks);
      break;
    case Mode::kProtected16: all(flat(0x98, 0x9b, kCode), flat(kSelData0, 0xc093)); break;
    case Mode::kProtected32:
    case Mode::kPaging32:
    case Mode::kPae: all(flat(kSelCode0, 0xc09b), flat(kSelData0, 0xc093)); break;
    case Mode::kCompatibility: all(flat(0x2b, 0xc0fb), flat(kSelData3 | 3, 0xc0f3)); break;
    case Mode::kLongUser: all(flat(kSelCode3 | 3, 0xa0fb), flat(kSelData3 | 3, 0xc0f3)); break;
    case Mode::kLongKernel:
    case Mode::kMixed:
    case Mode::kCount: all(flat(kSelCode0, 0xa09b), flat(kSelData0, 0xc093)); break;
  }
}

void set_mode(cpu::CpuState& s, Mode mode, unsigned index) {
  s.gdtr = {.base = kGdt, .limit = kGdtBytes - 1};
  s.idtr = {.base = kIdt, .limit = static_cast<uint16_t>(is_long(mode) ? 0xfff : 0x7ff)};
  s.segment[cpu::kTr] = {.base = kTss + 0x800 * index,
                         .limit = 0x7ff,
                         .selector = static_cast<uint16_t>(kSelTss + 16 * index),
                         .attributes = 0x8b};
  s.segment[cpu::kLdtr] = {.base = kLdt, .limit = 0xfff, .selector = kSelLdt, .attributes = 0x82};
  s.cr0 = cr0::kEt | cr0::kNe | cr0::kMp;
  s.cr4 = cr4::kOsfxsr | cr4::kOsxmmexcpt | cr4::kOsxsave;
  if (mode == Mode::kReal) {
    s.idtr = {.base = 0, .limit = 0x3ff};
    return;
  }
  s.cr0 |= cr0::kPe;
  if (mode == Mode::kVirtual8086) s.rflags |= cpu::rflags::kVm;
  if (mode == Mode::kProtected16 || mode == Mode::kProtected32) return;
  s.cr0 |= cr0::kPg | cr0::kWp;
  s.cr4 |= cr4::kPse;
  s.cr3 = kPagingTables;
  if (mode == Mode::kPae || is_long(mode)) s.cr4 |= cr4::kPae;
  if (mode == Mode::kPae) s.cr3 = kPaeTables;
  if (is_long(mode)) {
    s.cr3 = kLongTables;
    s.efer |= efer::kLme | efer::kLma;
  }
}

uint64_t canonical(uint64_t address) { return static_cast<uint64_t>(static_cast<int64_t>(address << 16) >> 16); }

// Whatever a system could have set before the guest's code runs, and few would.
void make_strange(cpu::CpuState& s, Mode mode, const cpu::CpuModel& model, Rng& random) {
  s.cr0 ^= random.next() & (cr0::kMp | cr0::kEm | cr0::kTs | cr0::kNe | cr0::kAm | cr0::kWp | cr0::kCd);
  uint64_t flips = random.next() & random.next() & model.supported_cr4() & ~(cr4::kPae | cr4::kPcide | cr4::kLa57);
  if (is_long(mode) && random.chance(1, 4)) flips |= model.supported_cr4() & cr4::kPcide;
  s.cr4 ^= flips;
  s.efer |= random.next() & (efer::kSce | efer::kNxe);
  if (!is_long(mode) && !(s.cr0 & cr0::kPg) && random.chance(1, 4)) s.efer |= efer::kLme;
  static constexpr uint64_t kXcr0[] = {1, 3, 7};
  s.xcr0 = kXcr0[random.below(3)] & (model.supported_xcr0() | 1);
  s.star = random.next() & 0x00ff'00ff'0000'0000;
  s.lstar = canonical(interesting(random, 0));
  s.cstar = canonical(interesting(random, 1));
  s.sfmask = random.next() & 0xffffffff;
  s.kernel_gs_base = canonical(interesting(random, 2));
  s.sysenter_cs = random.chance(1, 2) ? kSelCode0 : random.below(0x10000);
  s.sysenter_eip = canonical(interesting(random, 3));
  s.sysenter_esp = canonical(interesting(random, 3));
  for (unsigned i = 0; i < 4; ++i) s.dr[i] = random.chance(1, 2) ? kCode + random.below(0x1000) : kShared + 8 * i;
  if (random.chance(1, 3)) s.dr[7] = (random.next() & 0xffff23ff) | 0x400;
  if (mode == Mode::kReal || mode == Mode::kVirtual8086) return;
  for (const unsigned i : {cpu::kDs, cpu::kEs, cpu::kFs, cpu::kGs}) {
    if (!random.chance(1, 3)) continue;
    cpu::Segment& segment = s.segment[i];
    segment.base = interesting(random, i) & 0xffffffff;
    if (is_long(mode) && (i == cpu::kFs || i == cpu::kGs)) segment.base = canonical(interesting(random, i));
    segment.limit = random.chance(1, 2) ? random.below(0x20000) : 0xffffffff;
    segment.attributes = static_cast<uint16_t>((segment.attributes & ~0xfu) | random.below(4) << 1 | 1);
    if (!is_long(mode) && random.chance(1, 8)) segment.attributes = 0;
  }
  if (!is_long(mode) && random.chance(1, 3)) s.segment[cpu::kCs].limit = 0x10000 + random.below(0x4000);
}

}  // namespace

// The top bits are set: no process has such an address, and it is not canonical.
uint64_t pattern_at(uint64_t physical) { return 0xa5c3'0000'0000'0000 | physical * 0x9e3779b1 >> 3; }

Mode mode_of(const Case& value, unsigned index) {
  if (value.mode != Mode::kMixed) return value.mode;
  static constexpr Mode kLong[] = {Mode::kLongKernel, Mode::kLongUser, Mode::kCompatibility};
  static constexpr Mode kOther[] = {Mode::kProtected32, Mode::kPaging32, Mode::kPae, Mode::kVirtual8086};
  Rng random(value.seed ^ 0x6d69786564);
  const bool in_long = random.chance(1, 2);
  for (unsigned i = 0; i < index; ++i) random.next();
  return in_long ? kLong[random.below(std::size(kLong))] : kOther[random.below(std::size(kOther))];
}

void build_memory(const Case& value, std::vector<uint8_t>& ram) {
  Rng random(value.seed);
  write_gdt(value, ram);
  write_interrupt_tables(value, ram);
  write_tss(value, ram, random);
  write_page_tables(value, ram, random);
  if (value.choices & kRandomTables) damage_tables(ram, random);
  for (unsigned i = 0; i < kVcpus; ++i) {
    const auto code = code_of(value, value.choices & kSameCode ? 0 : i);
    const uint64_t at = kCode + kCodeStep * i;
    std::copy_n(code.begin(), std::min<size_t>(code.size(), kCodeStep), ram.begin() + static_cast<std::ptrdiff_t>(at));
    // Back to the start, where there is room: E9 with a displacement of the mode's size.
    if (code.size() + 5 <= kCodeStep) {
      const bool wide = mode_of(value, i) >= Mode::kProtected32 && mode_of(value, i) != Mode::kVirtual8086;
      const unsigned length = wide ? 5 : 3;
      ram[at + code.size()] = 0xe9;
      put(ram, at + code.size() + 1, -(code.size() + length), length - 1);
    }
  }
}

cpu::CpuState initial_state(const Case& value, unsigned index, const cpu::CpuModel& model) {
  Rng random(value.seed + 0x9e3779b97f4a7c15 * (index + 1));
  const Mode mode = mode_of(value, index);
  cpu::CpuState s;
  cpu::reset_to_power_on(s, model.cpuid(1, 0).eax);
  s.rflags = cpu::rflags::kFixed1 | (random.next() & (cpu::rflags::kArithmetic | cpu::rflags::kIf));
  if (random.chance(1, 4)) s.rflags |= cpu::rflags::kIopl;
  if (random.chance(1, 16)) s.rflags |= cpu::rflags::kTf;
  if (random.chance(1, 8)) s.rflags |= cpu::rflags::kDf;
  if (random.chance(1, 8)) s.rflags |= cpu::rflags::kAc;
  s.xcr0 = 7 & model.supported_xcr0();
  set_mode(s, mode, index);
  set_segments(s, mode);
  if (value.choices & kStrangeRegisters) make_strange(s, mode, model, random);
  for (uint64_t& reg : s.gpr) {
    reg = interesting(random, index);
    if (!is_long(mode) || mode == Mode::kCompatibility) reg &= 0xffffffff;
  }
  const bool based = s.segment[cpu::kCs].base == kCode;
  s.rip = (based ? 0 : kCode) + kCodeStep * index;
  const bool stack_based = s.segment[cpu::kSs].base == kStacks;
  s.gpr[cpu::kRsp] = (stack_based ? 0 : kStacks) + kStackStep * (index + 1) - 16;
  return s;
}

}  // namespace rhea::tests::hostile
