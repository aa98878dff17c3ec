// SPDX-License-Identifier: Apache-2.0
// Signal actions, alternate stacks and the hand-over to the thread's handler.
#include "base/fault_dispatcher.h"

#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <mutex>

#include "base/check.h"

namespace rhea::base {
namespace {

constexpr size_t kStackBytes = 64 * 1024;  // for handlers; the frame with the vector state comes on top
constexpr size_t kGuardBytes = 4096;
constexpr std::array kSignals = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};

// constinit: a thread_local without dynamic initialisation is a plain load, safe in a signal handler.
constinit thread_local FaultHandler* current_handler = nullptr;
constinit thread_local int guards_of_thread = 0;

// What stood before us (SIG_DFL, or the handler of a sanitizer). Written once, before any action is ours.
std::array<struct sigaction, kSignals.size()>& previous_actions() {
  static std::array<struct sigaction, kSignals.size()> actions;
  return actions;
}

// Nobody took the fault: put back what stood before and let it happen again, so that the process ends with the
// registers of the fault in its core. What does not repeat itself is raised.
void give_back(int signo, const siginfo_t* info) {
  for (size_t i = 0; i < kSignals.size(); ++i) {
    if (kSignals[i] == signo) ::sigaction(signo, &previous_actions()[i], nullptr);
  }
  const bool sent_by_process = info->si_code <= 0;            // kill, tgkill, sigqueue
  const bool repeats = !sent_by_process && signo != SIGTRAP;  // after INT3 the instruction pointer is behind it
  if (!repeats) ::raise(signo);                               // blocked now; arrives as the handler returns
}

void on_signal(int signo, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  FaultHandler* handler = current_handler;
  if (handler == nullptr || !handler->on_fault(signo, info, static_cast<ucontext_t*>(context))) give_back(signo, info);
  errno = saved_errno;
}

Status install_actions() {
  static std::once_flag once;
  static int problem = 0;
  std::call_once(once, [] {
    struct sigaction action{};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < kSignals.size(); ++i) {
      if (::sigaction(kSignals[i], nullptr, &previous_actions()[i]) != 0) problem = errno;
    }
    for (int signo : kSignals) {
      if (problem == 0 && ::sigaction(signo, &action, nullptr) != 0) problem = errno;
    }
  });
  if (problem != 0) return fail(Error::from_errno(problem, "cannot install the fault handlers"));
  return {};
}

}  // namespace

Result<std::unique_ptr<FaultGuard>> FaultGuard::create(FaultHandler& handler) {
  RHEA_TRY(install_actions());
  std::unique_ptr<FaultGuard> guard(new FaultGuard);
  if (guards_of_thread == 0) {
    // AT_MINSIGSTKSZ covers the signal frame with all of this host's XSAVE components.
    const size_t frame_bytes = std::max<size_t>(::getauxval(AT_MINSIGSTKSZ), 4096);
    const size_t size_bytes = kGuardBytes + kStackBytes + (frame_bytes + 4095) / 4096 * 4096;
    UniqueMapping stack = RHEA_TRY(UniqueMapping::create(
        size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0, "a signal stack"));
    if (::mprotect(stack.get(), kGuardBytes, PROT_NONE) != 0) {
      return fail(Error::from_errno(errno, "cannot protect the guard page of a signal stack"));
    }
    stack_t description{};
    description.ss_sp = stack.bytes() + kGuardBytes;
    description.ss_size = size_bytes - kGuardBytes;
    if (::sigaltstack(&description, &guard->previous_stack_) != 0) {
      return fail(Error::from_errno(errno, "cannot install a signal stack"));
    }
    guard->stack_ = std::move(stack);
  }
  ++guards_of_thread;
  guard->handler_ = &handler;
  guard->previous_handler_ = current_handler;
  current_handler = &handler;
  return guard;
}

FaultGuard::~FaultGuard() {
  if (handler_ == nullptr) return;  // create() failed half-way
  RHEA_CHECK(current_handler == handler_);
  current_handler = previous_handler_;
  --guards_of_thread;
  if (stack_) {
    RHEA_CHECK(guards_of_thread == 0);
    RHEA_CHECK(::sigaltstack(&previous_stack_, nullptr) == 0);
  }
}

}  // namespace rhea::base
