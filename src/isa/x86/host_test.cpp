// SPDX-License-Identifier: Apache-2.0
// The decoder against the processor itself: a traced child executes one instruction that ends where its page does.
// A fetch from the next page means that the instruction is longer than what stands there, SIGILL that the processor
// knows no such instruction. Skipped where tracing is forbidden.
#include <cpuid.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "isa/x86/cpuid_names.h"
#include "isa/x86/generate.h"
#include "isa/x86/rows.h"

namespace rhea::isa::x86 {
namespace {

constexpr size_t kPageBytes = 4096;
constexpr uint64_t kCodePage = 0x30000000;  // below 4 GiB for 32-bit code; the page after it is not mapped
constexpr uint64_t kStackPage = 0x31000000;
constexpr uint64_t kUserCode64 = 0x33, kUserCode32 = 0x23, kUserData = 0x2b;  // Linux's selectors

enum class Outcome { kUndefined, kExecutedOrFaulted, kFailed };
struct Probe {
  Outcome outcome = Outcome::kFailed;
  unsigned length = 0;
};

class HostProcessor {
 public:
  HostProcessor() {
    const int file = memfd_create("rhea-isa", MFD_CLOEXEC);
    if (file < 0) return;
    if (ftruncate(file, kPageBytes) == 0) {
      writable_ = map(nullptr, PROT_READ | PROT_WRITE, MAP_SHARED, file);
      ready_ = writable_ && map(at(kCodePage), PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED_NOREPLACE, file) &&
               map(at(kCodePage + kPageBytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1) &&
               map(at(kStackPage), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1) && start();
    }
    close(file);
  }
  ~HostProcessor() {
    stop();
    if (writable_) munmap(writable_, kPageBytes);
    for (uint64_t page : {kCodePage, kCodePage + kPageBytes, kStackPage}) munmap(at(page), kPageBytes);
  }
  bool ready() const { return ready_; }

  // How many of the bytes the processor fetches before it executes, faults or finds them undefined.
  Probe probe(const std::vector<uint8_t>& bytes, CpuMode mode) {
    for (unsigned length = 1; length <= 15 && length <= bytes.size(); ++length) {
      const std::optional<siginfo_t> signal = step(bytes.data(), length, mode);
      if (!signal) return {};
      const bool fetched_beyond = signal->si_signo == SIGSEGV && signal->si_code != SI_KERNEL && signal->si_addr == at(kCodePage + kPageBytes);
      if (fetched_beyond) continue;
      return {signal->si_signo == SIGILL ? Outcome::kUndefined : Outcome::kExecutedOrFaulted, length};
    }
    return {};
  }

 private:
  static void* at(uint64_t address) { return reinterpret_cast<void*>(address); }
  static uint8_t* map(void* address, int protection, int flags, int file) {
    void* page = mmap(address, kPageBytes, protection, flags, file, 0);
    return page == MAP_FAILED ? nullptr : static_cast<uint8_t*>(page);
  }

  bool start() {
    child_ = fork();
    if (child_ < 0) return false;
    if (child_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0) raise(SIGSTOP);
      _exit(1);
    }
    int status = 0;
    if (waitpid(child_, &status, 0) != child_ || !WIFSTOPPED(status)) return false;
    return ptrace(PTRACE_SETOPTIONS, child_, nullptr, PTRACE_O_EXITKILL) == 0 && ptrace(PTRACE_GETREGS, child_, nullptr, &registers_) == 0 &&
           ptrace(PTRACE_GETFPREGS, child_, nullptr, &fp_registers_) == 0;
  }
  void stop() {
    if (child_ <= 0) return;
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
    child_ = -1;
  }

  // Runs one instruction from a defined state; the signal that stopped it.
  std::optional<siginfo_t> step(const uint8_t* bytes, unsigned length, CpuMode mode) {
    std::memcpy(writable_ + kPageBytes - length, bytes, length);
    user_regs_struct state = registers_;
    state.rax = state.rbx = state.rcx = state.rdx = state.rsi = state.rdi = state.rbp = 0;
    state.r8 = state.r9 = state.r10 = state.r11 = state.r12 = state.r13 = state.r14 = state.r15 = 0;
    state.rip = kCodePage + kPageBytes - length;
    state.rsp = kStackPage + kPageBytes / 2;
    state.orig_rax = ~0ull;
    state.eflags = 0x202;
    state.cs = mode == CpuMode::k64 ? kUserCode64 : kUserCode32;
    state.ss = kUserData;
    state.ds = state.es = mode == CpuMode::k64 ? 0 : kUserData;
    state.fs = state.gs = 0;
    state.fs_base = state.gs_base = 0;
    int status = 0;
    if (ptrace(PTRACE_SETREGS, child_, nullptr, &state) != 0 || ptrace(PTRACE_SETFPREGS, child_, nullptr, &fp_registers_) != 0 ||
        ptrace(PTRACE_SINGLESTEP, child_, nullptr, nullptr) != 0 || waitpid(child_, &status, 0) != child_ || !WIFSTOPPED(status)) {
      stop();
      start();
      return std::nullopt;
    }
    siginfo_t signal{};
    if (ptrace(PTRACE_GETSIGINFO, child_, nullptr, &signal) != 0) return std::nullopt;
    return signal;
  }

  uint8_t* writable_ = nullptr;
  bool ready_ = false;
  pid_t child_ = -1;
  user_regs_struct registers_{};
  user_fpregs_struct fp_registers_{};
};

bool host_has(std::string_view features) {
  while (!features.empty()) {
    const size_t end = std::min(features.find('+'), features.size());
    const CpuidFeature* feature = find_cpuid_feature(features.substr(0, end));
    unsigned out[4] = {};
    if (!feature || !__get_cpuid_count(feature->leaf, feature->subleaf, &out[0], &out[1], &out[2], &out[3])) return false;
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
    case RowId::SYSCALL: case RowId::SYSENTER: case RowId::INT_Ib: case RowId::VMCALL: case RowId::VMMCALL:
    case RowId::SGDT: case RowId::SIDT: case RowId::SLDT: case RowId::STR: case RowId::SMSW:
    case RowId::RDFSBASE: case RowId::RDGSBASE: case RowId::WRFSBASE: case RowId::WRGSBASE:
    case RowId::POP_SS: case RowId::MOV_Sw_Ew:
    case RowId::CLAC: case RowId::STAC: case RowId::RSM:
      return true;
    default: break;
  }
  if (insn.has_memory && insn.mem.base == kRipBase) return true;  // may touch the page boundary itself
  if (!host_is_intel() && insn.operand_size_prefix && row_info(insn).encoding.size() == 2) return true;  // near branches
  return row_info(insn).translation == Translation::kUndefined || !host_has(row_info(insn).feature);
}

// Opcodes that later extensions give a meaning which the table does not have: TSX, MPX, AVX-512's mask registers,
// VNNI and AMX in VEX form, direct stores, key locker, user interrupts ...
bool claimed_by_other_extensions(const std::vector<uint8_t>& bytes) {
  size_t at = 0;
  const auto is_prefix = [](uint8_t b) { return b == 0x66 || b == 0x67 || b == 0xf0 || b == 0xf2 || b == 0xf3 || (b & 0xe7) == 0x26 || b == 0x64 || b == 0x65 || (b & 0xf0) == 0x40; };
  while (at + 4 < bytes.size() && is_prefix(bytes[at])) ++at;
  const uint8_t first = bytes[at], second = bytes[at + 1], third = bytes[at + 2];
  if (first == 0x62 || first == 0xc6 || first == 0xc7 || first == 0x8f || first == 0xd5) return true;
  if (first == 0xc4) return (second & 0x1f) != 1 || (bytes[at + 3] & 0xf0) == 0x40 || (bytes[at + 3] & 0xf0) == 0x90;
  if (first == 0xc5) return (third & 0xf0) == 0x40 || (third & 0xf0) == 0x90;
  if (first != 0x0f) return false;
  switch (second) {
    case 0x01: case 0x1a: case 0x1b: case 0x24: case 0x26: case 0x37: case 0x78: case 0x79: case 0xae: case 0xc7: return true;
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

class Host : public testing::TestWithParam<CpuMode> {
 protected:
  void SetUp() override {
    if (!processor_.ready()) GTEST_SKIP() << "cannot trace a child";
    if (processor_.probe({0x90}, GetParam()).outcome != Outcome::kExecutedOrFaulted) GTEST_SKIP() << "no code of this size";
  }
  std::optional<std::vector<uint8_t>> random_encoding() {
    const auto row = static_cast<RowId>(random_.below(row_count()));
    const std::vector<FormSpec> specs = forms(row, GetParam());
    if (specs.empty()) return std::nullopt;
    GenerateOptions options{.mode = GetParam(), .form = specs[random_.below(static_cast<uint32_t>(specs.size()))], .allowed_indexes = 0xffff};
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
    const Probe host = processor_.probe(*bytes, GetParam());
    if (host.outcome == Outcome::kFailed) continue;
    ++compared;
    if (host.outcome == Outcome::kUndefined || host.length != insn.length) {
      if (shown[insn.row]++ == 0)
        ADD_FAILURE() << row_info(insn).name << ": " << hex(*bytes) << " ours " << unsigned{insn.length} << " host " << host.length
                      << (host.outcome == Outcome::kUndefined ? " undefined" : "");
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
    const Probe host = processor_.probe(*bytes, GetParam());
    if (host.outcome == Outcome::kFailed) continue;
    invalid += status != DecodeStatus::kOk;
    const bool agree = status == DecodeStatus::kOk ? host.outcome != Outcome::kUndefined && host.length == insn.length
                                                   : host.outcome == Outcome::kUndefined;
    if (!agree && shown++ < 20)
      ADD_FAILURE() << hex(*bytes) << " ours " << (status == DecodeStatus::kOk ? row_info(insn).name : "invalid") << " " << unsigned{insn.length}
                    << " host " << host.length << (host.outcome == Outcome::kUndefined ? " undefined" : "");
  }
  EXPECT_GT(invalid, 500u);
}

INSTANTIATE_TEST_SUITE_P(Modes, Host, testing::Values(CpuMode::k32, CpuMode::k64),
                         [](const auto& test) { return test.param == CpuMode::k64 ? "k64" : "k32"; });

}  // namespace
}  // namespace rhea::isa::x86
