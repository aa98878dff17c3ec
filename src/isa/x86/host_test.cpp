// SPDX-License-Identifier: Apache-2.0
// The decoder and the table's effect columns against the processor itself. Skipped where tracing is forbidden.
#include <cpuid.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "isa/x86/cpuid_names.h"
#include "isa/x86/generate.h"
#include "isa/x86/host_processor.h"
#include "isa/x86/rows.h"

namespace rhea::isa::x86 {
namespace {

bool host_has(std::string_view features) {
  while (!features.empty()) {
    const size_t end = std::min(features.find('+'), features.size());
    const CpuidFeature* feature = find_cpuid_feature(features.substr(0, end));
    unsigned out[4] = {};
    if (!feature || !__get_cpuid_count(feature->leaf, feature->subleaf, &out[0], &out[1], &out[2], &out[3]))
      return false;
    if (!(out[static_cast<unsigned>(feature->output)] >> feature->bit & 1)) return false;
    features.remove_prefix(std::min(end + 1, features.size()));
  }
  return true;
}

bool host_is_intel() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(0, &eax, &ebx, &ecx, &edx) && ebx == signature_INTEL_ebx;
}

// What cannot be tried: system calls, what depends on the kernel or a hypervisor below (SGDT and kin are emulated
// under UMIP), what shadows the trap that ends the step, and what user mode knows only as undefined.
bool untestable(const Insn& insn) {
  switch (insn.row) {
    case RowId::SYSCALL:
    case RowId::SYSENTER:
    case RowId::INT_Ib:
    case RowId::VMCALL:
    case RowId::VMMCALL:
    case RowId::SGDT:
    case RowId::SIDT:
    case RowId::SLDT:
    case RowId::STR:
    case RowId::SMSW:
    case RowId::RDFSBASE:
    case RowId::RDGSBASE:
    case RowId::WRFSBASE:
    case RowId::WRGSBASE:
    case RowId::POP_SS:
    case RowId::MOV_Sw_Ew:
    case RowId::CLAC:
    case RowId::STAC:
    case RowId::RSM: return true;
    default: break;
  }
  if (insn.has_memory && insn.mem.base == kRipBase) return true;  // may touch the page boundary itself
  if (!host_is_intel() && insn.operand_size_prefix && row_info(insn).encoding.size() == 2)
    return true;  // near branches
  return row_info(insn).translation == Translation::kUndefined || !host_has(row_info(insn).feature);
}

// Opcodes that later extensions give a meaning which the table does not have: TSX, MPX, AVX-512's mask registers,
// VNNI and AMX in VEX form, direct stores, key locker, user interrupts ...
bool claimed_by_other_extensions(const std::vector<uint8_t>& bytes) {
  size_t at = 0;
  const auto is_prefix = [](uint8_t b) {
    return b == 0x66 || b == 0x67 || b == 0xf0 || b == 0xf2 || b == 0xf3 || (b & 0xe7) == 0x26 || b == 0x64 ||
           b == 0x65 || (b & 0xf0) == 0x40;
  };
  while (at + 4 < bytes.size() && is_prefix(bytes[at])) ++at;
  const uint8_t first = bytes[at], second = bytes[at + 1], third = bytes[at + 2];
  if (first == 0xc6 || first == 0xc7 || first == 0x8f || first == 0xd5) return true;
  if (first == 0xc4) return (second & 0x1f) != 1 || (bytes[at + 3] & 0xf0) == 0x40 || (bytes[at + 3] & 0xf0) == 0x90;
  if (first == 0xc5) return (third & 0xf0) == 0x40 || (third & 0xf0) == 0x90;
  if (first != 0x0f) return false;
  switch (second) {
    case 0x01:
    case 0x1a:
    case 0x1b:
    case 0x24:
    case 0x26:
    case 0x37:
    case 0x78:
    case 0x79:
    case 0xae:
    case 0xc7: return true;
    case 0x38: return third >= 0x80;
    case 0x3a: return third >= 0xc0;
    default: return false;
  }
}

std::string hex(const std::vector<uint8_t>& bytes) {
  std::string text;
  for (uint8_t byte : bytes) text += fmt::format("{:02x} ", byte);
  return text;
}

constexpr uint8_t kNop[] = {0x90};

class Host : public testing::TestWithParam<CpuMode> {
 protected:
  void SetUp() override {
    if (!processor_.ready()) GTEST_SKIP() << "cannot trace a child";
    if (processor_.probe(kNop, GetParam()).outcome != HostProcessor::Outcome::kExecutedOrFaulted)
      GTEST_SKIP() << "no code of this size";
  }
  std::optional<std::vector<uint8_t>> random_encoding() {
    const auto row = static_cast<RowId>(random_.below(row_count()));
    const std::vector<FormSpec> specs = forms(row, GetParam());
    if (specs.empty()) return std::nullopt;
    GenerateOptions options{.mode = GetParam(),
                            .form = specs[random_.below(static_cast<uint32_t>(specs.size()))],
                            .allowed_indexes = 0xffff};
    options.redundant_prefixes = true;
    std::vector<uint8_t> bytes;
    if (!generate(row, options, random_, bytes)) return std::nullopt;
    return bytes;
  }
  HostProcessor processor_;
  Rng random_{99};
};

TEST_P(Host, ExecutesWhatTheTableHolds) {
  unsigned compared = 0;
  std::map<RowId, int> shown;
  for (int i = 0; i < 12000; ++i) {
    auto bytes = random_encoding();
    if (!bytes) continue;
    Insn insn;
    ASSERT_EQ(decode(*bytes, GetParam(), insn), DecodeStatus::kOk);
    if (untestable(insn)) continue;
    bytes->resize(16, 0xcc);
    const HostProcessor::Probe host = processor_.probe(*bytes, GetParam());
    if (host.outcome == HostProcessor::Outcome::kFailed) continue;
    ++compared;
    if (host.outcome == HostProcessor::Outcome::kUndefined || host.length != insn.length) {
      if (shown[insn.row]++ == 0)
        ADD_FAILURE() << row_info(insn).name << ": " << hex(*bytes) << " ours " << unsigned{insn.length} << " host "
                      << host.length << (host.outcome == HostProcessor::Outcome::kUndefined ? " undefined" : "");
    }
  }
  EXPECT_GT(compared, 5000u);
}

// One bit of a valid encoding flipped: what we call invalid the processor must too, and the other way round.
TEST_P(Host, AgreesOnWhatIsInvalid) {
  unsigned invalid = 0;
  int shown = 0;
  for (int i = 0; i < 20000; ++i) {
    auto bytes = random_encoding();
    if (!bytes) continue;
    const uint32_t bit = random_.below(static_cast<uint32_t>(bytes->size() * 8));
    (*bytes)[bit / 8] = static_cast<uint8_t>((*bytes)[bit / 8] ^ 1u << (bit % 8));
    while (bytes->size() < 16) bytes->push_back(static_cast<uint8_t>(random_.next()));
    Insn insn;
    const DecodeStatus status = decode(*bytes, GetParam(), insn);
    if (status == DecodeStatus::kOk ? untestable(insn) : claimed_by_other_extensions(*bytes)) continue;
    const HostProcessor::Probe host = processor_.probe(*bytes, GetParam());
    if (host.outcome == HostProcessor::Outcome::kFailed) continue;
    invalid += status != DecodeStatus::kOk;
    const bool agree = status == DecodeStatus::kOk
                           ? host.outcome != HostProcessor::Outcome::kUndefined && host.length == insn.length
                           : host.outcome == HostProcessor::Outcome::kUndefined;
    if (!agree && shown++ < 20)
      ADD_FAILURE() << hex(*bytes) << " ours " << (status == DecodeStatus::kOk ? row_info(insn).name : "invalid") << " "
                    << unsigned{insn.length} << " host " << host.length
                    << (host.outcome == HostProcessor::Outcome::kUndefined ? " undefined" : "");
  }
  EXPECT_GT(invalid, 500u);
}

// ---- effect columns ----

class HostEffects : public testing::Test {
 protected:
  void SetUp() override {
    if (!processor_.ready()) GTEST_SKIP() << "cannot trace a child";
  }
  HostProcessor processor_;
  Rng random_{5};
};

constexpr unsigned kBase = 3;  // RBX holds the address of memory operands
constexpr uint64_t kOperandAddress = HostProcessor::kDataPage + 256;

unsigned long long& gpr(user_regs_struct& state, unsigned index) {
  unsigned long long* const registers[16] = {&state.rax, &state.rcx, &state.rdx, &state.rbx, &state.rsp, &state.rbp,
                                             &state.rsi, &state.rdi, &state.r8,  &state.r9,  &state.r10, &state.r11,
                                             &state.r12, &state.r13, &state.r14, &state.r15};
  return *registers[index];
}

// GPRs an instruction may read and write, and how many low bytes of each it writes, according to the table.
struct Effects {
  uint16_t read = 0, written = 0;
  FlagEffects flags;
};

Effects effects_of(const Insn& insn) {
  const RowInfo& info = row_info(insn);
  Effects effects{.read = info.implicit_read, .written = info.implicit_write, .flags = flag_effects(insn)};
  for (const Operand& operand : insn.operands) {
    if (operand.kind != OperandKind::kGpr) continue;
    const auto bit = static_cast<uint16_t>(1u << operand.reg);
    const auto access = static_cast<unsigned>(operand.access);
    // A byte or word written leaves the rest of the register: it counts as read.
    if ((access & 1) || operand.size_bytes < 4) effects.read |= bit;
    if (access & 2) effects.written |= bit;
  }
  if (insn.has_memory) effects.read |= 1u << kBase;
  // The accumulator of CBW, AAM and the byte forms of MUL and DIV is written in part.
  effects.read |= info.implicit_write;
  return effects;
}

bool effects_testable(const Insn& insn) {
  switch (row_info(insn).translation) {
    case Translation::kCopy:
    case Translation::kCopyX87:
    case Translation::kShiftCl:
    case Translation::kCopyRcx:
    case Translation::kMovGpr:
    case Translation::kXchgAcc:
    case Translation::kLea:
    case Translation::kFlagOps:
    case Translation::kBitString: break;
    default: return false;
  }
  const bool random_by_nature = insn.row == RowId::RDRAND || insn.row == RowId::RDSEED;
  return !random_by_nature && !untestable(insn);
}

struct Run {
  user_regs_struct state;
  std::vector<uint8_t> memory;
};

std::optional<Run> run_once(HostProcessor& processor, const std::vector<uint8_t>& bytes, user_regs_struct state,
                            uint8_t fill) {
  for (size_t i = 0; i < HostProcessor::kPageBytes; ++i)
    processor.data()[i] = fill < 32 ? 0 : static_cast<uint8_t>(fill + i * 37);
  const auto signal = processor.step(bytes, state);
  if (!signal || signal->si_signo != SIGTRAP) return std::nullopt;
  return Run{state, {processor.data().begin(), processor.data().end()}};
}

std::string check_effects(HostProcessor& processor, const std::vector<uint8_t>& bytes, const Insn& insn, Rng& random) {
  const Effects effects = effects_of(insn);
  user_regs_struct first = processor.initial_state(CpuMode::k64);
  for (unsigned i = 0; i < 16; ++i)
    if (i != 4) gpr(first, i) = random.chance(1, 6) ? 0 : random.chance(1, 3) ? random.below(64) : random.next();
  gpr(first, kBase) = kOperandAddress;
  // Bit offsets in registers must stay within the page.
  if (row_info(insn).translation == Translation::kBitString) gpr(first, insn.operands[1].reg) = random.below(1024);
  first.eflags = 0x202 | (random.next() & kFlagAll);
  // The second run differs in all that the table says is not read.
  user_regs_struct second = first;
  for (unsigned i = 0; i < 16; ++i)
    if (i != 4 && !(effects.read >> i & 1)) gpr(second, i) = random.next();
  second.eflags ^= kFlagAll & ~effects.flags.read;
  const auto fill = static_cast<uint8_t>(random.next());
  const auto a = run_once(processor, bytes, first, fill), b = run_once(processor, bytes, second, fill);
  if (!a || !b) return a.has_value() == b.has_value() ? "" : "one run faults, the other does not";
  user_regs_struct after_a = a->state, after_b = b->state;
  for (unsigned i = 0; i < 16; ++i) {
    const bool written = effects.written >> i & 1;
    if (!written && gpr(after_a, i) != gpr(first, i)) return fmt::format("register {} changed", i);
    if (written && gpr(after_a, i) != gpr(after_b, i))
      return fmt::format("register {} depends on something not read", i);
  }
  const uint64_t changed = (after_a.eflags ^ first.eflags) & kFlagAll;
  if (changed & ~static_cast<uint64_t>(effects.flags.written | effects.flags.undefined))
    return fmt::format("flags {:#x} changed", changed);
  if ((after_a.eflags ^ after_b.eflags) & effects.flags.written) return "flags depend on something not read";
  if (a->memory != b->memory) return "memory depends on something not read";
  return "";
}

TEST_F(HostEffects, OperandFlagAndImplicitColumnsHold) {
  unsigned compared = 0;
  for (unsigned id = 0; id < row_count(); ++id)
    for (const FormSpec& form : forms(static_cast<RowId>(id), CpuMode::k64))
      for (int round = 0; round < 6; ++round) {
        GenerateOptions options{.mode = CpuMode::k64, .form = form};
        options.allowed_gprs = 0xffff & ~(1u << kBase | 1u << 4);
        options.allowed_bases = 1u << kBase;
        options.displacement_min = 0;
        options.displacement_max = 0;
        std::vector<uint8_t> bytes;
        Insn insn;
        if (!generate(static_cast<RowId>(id), options, random_, bytes)) continue;
        ASSERT_EQ(decode(bytes, CpuMode::k64, insn), DecodeStatus::kOk);
        if (!effects_testable(insn) || (insn.has_memory && insn.mem.base != kBase)) break;
        const std::string problem = check_effects(processor_, bytes, insn, random_);
        ++compared;
        if (problem.empty()) continue;
        ADD_FAILURE() << row_info(insn).name << ": " << problem << ": " << hex(bytes);
        break;
      }
  EXPECT_GT(compared, 5000u);
}

INSTANTIATE_TEST_SUITE_P(Modes, Host, testing::Values(CpuMode::k32, CpuMode::k64),
                         [](const auto& test) { return test.param == CpuMode::k64 ? "k64" : "k32"; });

}  // namespace
}  // namespace rhea::isa::x86
