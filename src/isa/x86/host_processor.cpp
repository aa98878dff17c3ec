// SPDX-License-Identifier: Apache-2.0
// A traced child that executes single instructions on the host's processor.
#include "isa/x86/host_processor.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

namespace rhea::isa::x86 {
namespace {

constexpr uint64_t kUserCode64 = 0x33, kUserCode32 = 0x23, kUserData = 0x2b;  // Linux's selectors

void* at(uint64_t address) { return reinterpret_cast<void*>(address); }

uint8_t* map(void* address, int protection, int flags, int file) {
  void* page = mmap(address, HostProcessor::kPageBytes, protection, flags, file, 0);
  return page == MAP_FAILED ? nullptr : static_cast<uint8_t*>(page);
}

}  // namespace

HostProcessor::HostProcessor() {
  const int file = memfd_create("rhea-isa", MFD_CLOEXEC);
  if (file < 0) return;
  if (ftruncate(file, kPageBytes) == 0) {
    code_ = map(nullptr, PROT_READ | PROT_WRITE, MAP_SHARED, file);
    data_ = map(at(kDataPage), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1);
    ready_ = code_ && data_ && map(at(kCodePage), PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED_NOREPLACE, file) &&
             map(at(kCodePage + kPageBytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1) &&
             start();
  }
  close(file);
}

HostProcessor::~HostProcessor() {
  stop();
  if (code_) munmap(code_, kPageBytes);
  for (uint64_t page : {kCodePage, kCodePage + kPageBytes, kDataPage}) munmap(at(page), kPageBytes);
}

bool HostProcessor::start() {
  child_ = fork();
  if (child_ < 0) return false;
  if (child_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0) raise(SIGSTOP);
    _exit(1);
  }
  int status = 0;
  if (waitpid(child_, &status, 0) != child_ || !WIFSTOPPED(status)) return false;
  return ptrace(PTRACE_SETOPTIONS, child_, nullptr, PTRACE_O_EXITKILL) == 0 &&
         ptrace(PTRACE_GETREGS, child_, nullptr, &registers_) == 0 &&
         ptrace(PTRACE_GETFPREGS, child_, nullptr, &fp_registers_) == 0;
}

void HostProcessor::stop() {
  if (child_ <= 0) return;
  kill(child_, SIGKILL);
  waitpid(child_, nullptr, 0);
  child_ = -1;
}

user_regs_struct HostProcessor::initial_state(CpuMode mode) const {
  user_regs_struct state = registers_;
  state.rax = state.rbx = state.rcx = state.rdx = state.rsi = state.rdi = state.rbp = 0;
  state.r8 = state.r9 = state.r10 = state.r11 = state.r12 = state.r13 = state.r14 = state.r15 = 0;
  state.rsp = kDataPage + kPageBytes / 2;
  state.orig_rax = ~0ull;
  state.eflags = 0x202;
  state.cs = mode == CpuMode::k64 ? kUserCode64 : kUserCode32;
  state.ss = kUserData;
  state.ds = state.es = mode == CpuMode::k64 ? 0 : kUserData;
  state.fs = state.gs = 0;
  state.fs_base = state.gs_base = 0;
  return state;
}

HostProcessor::Probe HostProcessor::probe(std::span<const uint8_t> bytes, CpuMode mode) {
  for (unsigned length = 1; length <= 15 && length <= bytes.size(); ++length) {
    user_regs_struct state = initial_state(mode);
    const std::optional<siginfo_t> signal = step(bytes.first(length), state);
    if (!signal) return {};
    const bool fetched_beyond =
        signal->si_signo == SIGSEGV && signal->si_code != SI_KERNEL && signal->si_addr == at(kCodePage + kPageBytes);
    if (fetched_beyond) continue;
    return {signal->si_signo == SIGILL ? Outcome::kUndefined : Outcome::kExecutedOrFaulted, length};
  }
  return {};
}

std::optional<siginfo_t> HostProcessor::step(std::span<const uint8_t> bytes, user_regs_struct& state) {
  if (bytes.size() > kPageBytes) return std::nullopt;
  std::memcpy(code_ + kPageBytes - bytes.size(), bytes.data(), bytes.size());
  state.rip = kCodePage + kPageBytes - bytes.size();
  int status = 0;
  siginfo_t signal{};
  if (ptrace(PTRACE_SETREGS, child_, nullptr, &state) == 0 &&
      ptrace(PTRACE_SETFPREGS, child_, nullptr, &fp_registers_) == 0 &&
      ptrace(PTRACE_SINGLESTEP, child_, nullptr, nullptr) == 0 && waitpid(child_, &status, 0) == child_ &&
      WIFSTOPPED(status) && ptrace(PTRACE_GETSIGINFO, child_, nullptr, &signal) == 0 &&
      ptrace(PTRACE_GETREGS, child_, nullptr, &state) == 0)
    return signal;
  stop();
  start();
  return std::nullopt;
}

}  // namespace rhea::isa::x86
