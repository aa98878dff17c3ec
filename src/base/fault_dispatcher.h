// SPDX-License-Identifier: Apache-2.0
// Hardware faults (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP) of a thread, handed to the handler it has set.
//
// The one piece of process-wide state in Rhea: signal actions belong to the process. Everything else about a
// fault belongs to the thread that runs into it.
#pragma once

#include <signal.h>
#include <ucontext.h>

#include <memory>

#include "base/error.h"
#include "base/fd.h"

namespace rhea::base {

class FaultHandler {
 public:
  virtual ~FaultHandler() = default;
  // In signal context, on the thread's alternate stack, with the signal blocked: async-signal-safe calls only.
  // True: the context, possibly changed, is resumed. False: not ours; the process dies as if nobody had looked.
  virtual bool on_fault(int signo, siginfo_t* info, ucontext_t* context) = 0;
};

// While it lives, faults of the thread that created it go to `handler`. Guards of one thread nest and are
// destroyed in reverse order, on the same thread. The first guard of a thread installs its alternate signal
// stack (with a guard page below), the first of the process the signal actions.
class FaultGuard {
 public:
  static Result<std::unique_ptr<FaultGuard>> create(FaultHandler& handler);
  ~FaultGuard();
  FaultGuard(const FaultGuard&) = delete;
  FaultGuard& operator=(const FaultGuard&) = delete;

 private:
  FaultGuard() = default;

  FaultHandler* handler_ = nullptr;
  FaultHandler* previous_handler_ = nullptr;
  UniqueMapping stack_;  // empty where an outer guard has one
  stack_t previous_stack_{};
};

}  // namespace rhea::base
