// SPDX-License-Identifier: Apache-2.0
#include "tests/hostile/program.h"

#include <algorithm>

#include "isa/x86/rows.h"
#include "tests/hostile/world.h"

namespace rhea::tests::hostile {
namespace {

using isa::x86::CpuMode;
using isa::x86::Rng;
using Bytes = std::vector<uint8_t>;

enum Register : uint8_t { kAx, kCx, kDx, kBx };

// Writes short sequences in the code size of a mode; addresses are linear, and reached where segments are flat.
class Writer {
 public:
  Writer(CpuMode mode, Rng& random, Bytes& out) : mode_(mode), random_(random), out_(out) {}

  void any();

 private:
  void bytes(std::initializer_list<uint8_t> list) { out_.insert(out_.end(), list); }
  void number(uint64_t value, unsigned size) {
    for (unsigned i = 0; i < size; ++i) out_.push_back(static_cast<uint8_t>(value >> (8 * i)));
  }
  void wide() {
    if (mode_ == CpuMode::k16) out_.push_back(0x66);
  }
  void wide_address() {
    if (mode_ == CpuMode::k16) out_.push_back(0x67);
  }
  void set(Register reg, uint32_t value) {
    wide();
    out_.push_back(static_cast<uint8_t>(0xb8 + reg));
    number(value, 4);
  }
  // MOV [EBX], EAX, or EAX, [EBX]; also byte-wide, locked, read-modify-write.
  void access() {
    static constexpr uint8_t kOpcodes[] = {0x89, 0x8b, 0x88, 0x8a, 0x01, 0x87, 0x31, 0x21};
    if (random_.chance(1, 4)) out_.push_back(0xf0);
    wide();
    wide_address();
    bytes({kOpcodes[random_.below(std::size(kOpcodes))], 0x03});
  }
  uint32_t value() {
    switch (random_.below(4)) {
      case 0: return random_.below(256);
      case 1: return 1u << random_.below(32);
      case 2: return static_cast<uint32_t>(kShared + random_.below(0x1000));
      default: return static_cast<uint32_t>(random_.next());
    }
  }
  void store(uint64_t address, uint32_t what) {
    set(kBx, static_cast<uint32_t>(address));
    set(kAx, what);
    wide();
    wide_address();
    bytes({0x89, 0x03});
  }

  void table_instruction();
  void other_code();
  void interprocessor_interrupt();
  void port();
  void device_memory();
  void pci();
  void virtio();
  void control_register();
  void model_specific();
  void page_table();
  void far_transfer();
  void repeated_string();
  void noise();

  CpuMode mode_;
  Rng& random_;
  Bytes& out_;
};

// Any row of the table that exists in the mode, system instructions among them.
void Writer::table_instruction() {
  for (unsigned tries = 0; tries < 8; ++tries) {
    const auto row = static_cast<isa::x86::RowId>(random_.below(isa::x86::row_count()));
    const auto forms = isa::x86::forms(row, mode_);
    if (forms.empty()) continue;
    isa::x86::GenerateOptions options{.mode = mode_,
                                      .form = forms[random_.below(static_cast<uint32_t>(forms.size()))],
                                      .allowed_indexes = 0xffef,
                                      .allow_rip_relative = true,
                                      .redundant_prefixes = random_.chance(1, 8)};
    if (random_.chance(1, 8)) options.displacement_min = -0x10000, options.displacement_max = 0x10000;
    if (random_.chance(1, 8)) options.segment = static_cast<uint8_t>(random_.below(6));
    if (isa::x86::generate(row, options, random_, out_)) return;
  }
}

// A store into the code of any vCPU, that of this one included. [SDM-3A 8.1.3]
void Writer::other_code() {
  const uint64_t target = kCode + kCodeStep * random_.below(kVcpus) + random_.below(256);
  static constexpr uint32_t kCodes[] = {0x90909090, 0xcccccccc, 0xfeebfeeb, 0x0b0f0b0f, 0xc3c3c3c3, 0xf4f4f4f4};
  store(target, random_.chance(1, 2) ? kCodes[random_.below(std::size(kCodes))] : value());
}

void Writer::interprocessor_interrupt() {
  static constexpr uint32_t kCommands[] = {0x4000, 0x4400, 0x4500, 0x4600, 0x44000, 0x84000, 0xc4000, 0xc4500, 0xc4610};
  if (random_.chance(1, 4)) store(0xfee000f0, 0x1ff);
  if (random_.chance(1, 2)) store(0xfee00310, random_.below(kVcpus + 1) << 24);
  store(0xfee00300,
        kCommands[random_.below(std::size(kCommands))] | (random_.chance(3, 4) ? 32 + random_.below(224) : 0));
}

void Writer::port() {
  static constexpr uint16_t kPorts[] = {0x20,  0x21,  0xa0,  0xa1,  0x40,  0x42,  0x43,  0x60,  0x61,  0x64,  0x70,
                                        0x71,  0x80,  0x92,  0xcf8, 0xcfc, 0xcfd, 0x3f8, 0x3f9, 0x3fb, 0x2f8, 0x402,
                                        0x4d0, 0x4d1, 0x600, 0x602, 0x604, 0x608, 0xf4,  0xcf9, 0xb2,  0x0};
  set(kDx, kPorts[random_.below(std::size(kPorts))] + (random_.chance(1, 8) ? random_.below(8) : 0));
  set(kAx, value());
  static constexpr uint8_t kOpcodes[] = {0xec, 0xed, 0xee, 0xef, 0x6c, 0x6d, 0x6e, 0x6f};
  if (random_.chance(1, 3)) out_.push_back(0x66);
  const uint8_t opcode = kOpcodes[random_.below(std::size(kOpcodes))];
  if (opcode < 0x70 && random_.chance(1, 2)) {
    set(kCx, random_.below(64));
    out_.push_back(0xf3);
  }
  out_.push_back(opcode);
}

void Writer::device_memory() {
  static constexpr uint64_t kDevices[] = {0xfee00000, 0xfec00000, 0xfed00000, 0xe0000000, kBars, 0xffff0000, 0xa0000};
  const uint64_t offset = random_.chance(1, 2) ? 16 * random_.below(64) : random_.below(0x1000);
  set(kBx, static_cast<uint32_t>(kDevices[random_.below(std::size(kDevices))] + offset));
  set(kAx, value());
  access();
  if (random_.chance(1, 4)) {  // across the end of a register or of a page, by a vector
    wide_address();
    bytes({0x0f, 0x11, 0x03});
  }
}

void Writer::pci() {
  static constexpr uint8_t kRegisters[] = {0x04, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x34, 0x3c, 0x40, 0x60, 0x84};
  const uint32_t reg = random_.chance(3, 4) ? kRegisters[random_.below(std::size(kRegisters))] : 4 * random_.below(64);
  set(kDx, 0xcf8);
  set(kAx, 0x80000000 | random_.below(8) << 11 | reg);
  wide();
  out_.push_back(0xef);
  set(kDx, 0xcfc);
  set(kAx, reg == 4 ? 7 | random_.below(0x800) : random_.chance(1, 2) ? kBars + (random_.below(8) << 14) : value());
  wide();
  out_.push_back(random_.chance(3, 4) ? 0xef : 0xed);
}

// Puts a card's memory where the programs look for it, and uses its registers: status, features, queues, doorbells.
void Writer::virtio() {
  const uint32_t device = random_.below(4);
  set(kDx, 0xcf8);
  set(kAx, 0x80000000 | (2 + device) << 11 | (0x10 + 4 * random_.below(6)));
  wide();
  out_.push_back(0xef);
  set(kDx, 0xcfc);
  set(kAx, static_cast<uint32_t>(kBars + 0x8000 * device));
  wide();
  out_.push_back(0xef);
  for (unsigned count = 1 + random_.below(6); count > 0; --count)
    store(kBars + 0x8000 * device + 0x1000 * random_.below(4) + 4 * random_.below(16),
          random_.chance(1, 2) ? static_cast<uint32_t>(kShared + 0x1000 * random_.below(4)) : random_.below(16));
}

void Writer::control_register() {
  static constexpr uint8_t kRegisters[] = {0, 0, 3, 4, 4, 8, 2};
  const uint8_t reg = kRegisters[random_.below(std::size(kRegisters))];
  if (reg == 8 && mode_ != CpuMode::k64) return;
  const auto modrm = static_cast<uint8_t>(0xc0 | (reg & 7) << 3);
  auto prefix = [&] {
    if (reg == 8) out_.push_back(0x44);
  };
  prefix();
  bytes({0x0f, 0x20, modrm});  // MOV EAX, CRn
  if (reg == 3 && random_.chance(1, 2)) {
    static constexpr uint32_t kTables[] = {kLongTables, kPagingTables, kPaeTables};
    set(kAx, kTables[random_.below(3)] + random_.below(16));
  } else {
    wide();
    bytes({0x0f, 0xba, 0xf8, static_cast<uint8_t>(random_.below(32))});  // BTC EAX, n
  }
  prefix();
  bytes({0x0f, 0x22, modrm});
}

void Writer::model_specific() {
  static constexpr uint32_t kMsrs[] = {
      0x10,       0x1b,       0x3a,       0x3b,       0x174,      0x175,      0x176,      0x1a0,
      0x200,      0x201,      0x250,      0x277,      0x2ff,      0x6e0,      0x802,      0x80f,
      0x830,      0x838,      0xda0,      0x8b,       0x48,       0xc0000080, 0xc0000081, 0xc0000082,
      0xc0000083, 0xc0000084, 0xc0000100, 0xc0000101, 0xc0000102, 0xc0000103, 0x4b564d00, 0x4b564d01,
      0x4b564d02, 0x4b564d03, 0x4b564d04, 0x4b564d05, 0x11,       0x12};
  set(kCx, random_.chance(7, 8) ? kMsrs[random_.below(std::size(kMsrs))] : static_cast<uint32_t>(random_.next()));
  const bool xcr = random_.chance(1, 8);
  if (xcr) set(kCx, 0);
  if (random_.chance(1, 3) && !xcr)
    bytes({0x0f, 0x32});  // change a bit of what it holds
  else
    set(kAx, value());
  if (random_.chance(1, 2)) set(kDx, random_.chance(1, 2) ? 0 : value());
  wide();
  bytes({0x0f, 0xba, 0xf8, static_cast<uint8_t>(random_.below(32))});
  if (xcr)
    bytes({0x0f, 0x01, 0xd1});
  else
    bytes({0x0f, 0x30});
}

void Writer::page_table() {
  static constexpr uint64_t kTables[] = {kLongTables + 0x6000, kPagingTables + 0x1000, kPaeTables + 0x5000};
  const uint64_t page = random_.chance(1, 2) ? kShared >> 12 : kCode >> 12;
  const uint64_t table = kTables[random_.below(3)];
  const uint64_t entry = table + (table == kTables[1] ? 4 : 8) * (page + random_.below(4));
  static constexpr uint32_t kFrames[] = {0x50000, 0x10000, 0x20000, 0xfee00000, 0xd0000000, 0x51000};
  store(entry, kFrames[random_.below(std::size(kFrames))] | random_.below(0x200));
  if (random_.chance(2, 3)) {
    set(kBx, static_cast<uint32_t>(page << 12));
    wide_address();
    bytes({0x0f, 0x01, 0x3b});  // INVLPG [EBX]
  }
}

void Writer::far_transfer() {
  static constexpr uint16_t kSelectors[] = {0x08, 0x18, 0x1b, 0x28, 0x2b, 0x30, 0x40,  0x80,
                                            0x83, 0x90, 0x98, 0xa8, 0xb0, 0x0c, 0x1000};
  const uint16_t selector = kSelectors[random_.below(std::size(kSelectors))];
  const uint32_t offset = static_cast<uint32_t>(kCode + kCodeStep * random_.below(kVcpus) + random_.below(32));
  switch (random_.below(4)) {
    case 0: bytes({0xcd, static_cast<uint8_t>(random_.chance(1, 2) ? random_.below(34) : random_.below(256))}); return;
    case 1: bytes({0x0f, static_cast<uint8_t>(random_.chance(1, 2) ? 0x05 : 0x34)}); return;  // SYSCALL, SYSENTER
    case 2: {  // RETF or IRET to what is pushed
      if (mode_ == CpuMode::k16) out_.push_back(0x66);
      out_.push_back(0x68);
      number(selector, 4);
      if (mode_ == CpuMode::k16) out_.push_back(0x66);
      out_.push_back(0x68);
      number(offset, 4);
      if (mode_ == CpuMode::k64) out_.push_back(0x48);
      wide();
      out_.push_back(random_.chance(3, 4) ? 0xcb : 0xcf);
      return;
    }
    default:
      if (mode_ == CpuMode::k64) {
        bytes({0x8e, static_cast<uint8_t>(0xc0 | random_.below(6) << 3)});  // MOV Sreg, AX
        return;
      }
      wide();
      out_.push_back(random_.chance(1, 2) ? 0xea : 0x9a);
      number(offset, 4);
      number(selector, 2);
  }
}

void Writer::repeated_string() {
  static constexpr uint8_t kOpcodes[] = {0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf};
  set(kCx, random_.chance(1, 4) ? value() : random_.below(0x2000));
  bytes({static_cast<uint8_t>(random_.chance(1, 2) ? 0xf3 : 0xf2), kOpcodes[random_.below(std::size(kOpcodes))]});
}

void Writer::noise() {
  for (unsigned count = 1 + random_.below(15); count > 0; --count) out_.push_back(static_cast<uint8_t>(random_.next()));
}

void Writer::any() {
  switch (random_.below(32)) {
    case 0:
    case 1: return other_code();
    case 2: return interprocessor_interrupt();
    case 3: return port();
    case 4: return device_memory();
    case 5: return pci();
    case 6: return virtio();
    case 7: return control_register();
    case 8: return model_specific();
    case 9: return page_table();
    case 10: return far_transfer();
    case 11: return repeated_string();
    case 12:
    case 13: return noise();
    default: return table_instruction();
  }
}

CpuMode code_mode(Mode mode) {
  switch (mode) {
    case Mode::kReal:
    case Mode::kVirtual8086:
    case Mode::kProtected16: return CpuMode::k16;
    case Mode::kLongUser:
    case Mode::kLongKernel: return CpuMode::k64;
    default: return CpuMode::k32;
  }
}

void flip_bits(Bytes& code, Rng& random, unsigned count) {
  for (; count > 0 && !code.empty(); --count)
    code[random.below(static_cast<uint32_t>(code.size()))] ^= static_cast<uint8_t>(1 << random.below(8));
}

}  // namespace

Case make_case(Rng& random, std::optional<Mode> mode) {
  Case value;
  value.mode = mode ? *mode : static_cast<Mode>(random.below(static_cast<uint32_t>(Mode::kCount)));
  value.seed = random.next();
  value.choices = static_cast<uint8_t>(random.next() & random.next());
  if (random.chance(1, 16)) {  // nothing but noise
    for (unsigned i = random.below(512); i > 0; --i) value.code.push_back(static_cast<uint8_t>(random.next()));
    return value;
  }
  Writer writer(code_mode(mode_of(value, 0)), random, value.code);
  const size_t wanted = 32 + random.below(random.chance(1, 8) ? 3000 : 500);
  while (value.code.size() < wanted) writer.any();
  value.code.resize(std::min(value.code.size(), kMaxCodeBytes));
  if (random.chance(3, 4)) flip_bits(value.code, random, 1 + random.below(static_cast<uint32_t>(wanted / 16 + 1)));
  return value;
}

void mutate(Case& value, Rng& random, bool keep_mode) {
  Bytes& code = value.code;
  auto position = [&] { return code.empty() ? 0 : random.below(static_cast<uint32_t>(code.size())); };
  switch (random.below(8)) {
    case 0: value.seed = random.chance(1, 2) ? random.next() : value.seed ^ uint64_t { 1 } << random.below(64); break;
    case 1: value.choices ^= static_cast<uint8_t>(1 << random.below(8)); break;
    case 2:
      if (!keep_mode) value.mode = static_cast<Mode>(random.below(static_cast<uint32_t>(Mode::kCount)));
      break;
    case 3: flip_bits(code, random, 1 + random.below(8)); break;
    case 4: {
      const size_t at = position();
      const size_t count = std::min<size_t>(1 + random.below(16), code.size() - at);
      code.erase(code.begin() + static_cast<std::ptrdiff_t>(at),
                 code.begin() + static_cast<std::ptrdiff_t>(at + count));
      break;
    }
    default: {
      Bytes piece;
      Writer writer(code_mode(mode_of(value, 0)), random, piece);
      for (unsigned count = 1 + random.below(4); count > 0; --count) writer.any();
      code.insert(code.begin() + position(), piece.begin(), piece.end());
    }
  }
  if (code.size() > kMaxCodeBytes) code.resize(kMaxCodeBytes);
}

}  // namespace rhea::tests::hostile
