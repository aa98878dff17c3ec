// SPDX-License-Identifier: Apache-2.0
// What a debugger needs of a running VM.
#pragma once

#include "cpu/engine.h"
#include "memory/guest_memory.h"

namespace rhea::debug {

// Why the VM stopped, as told to GdbServer::on_stopped().
struct StopEvent {
  enum class Reason {
    kInterrupted,  // stop() was asked for
    kDebug,        // a breakpoint or the end of a single step
    kShutdown,     // the guest died (triple fault); the VM stays as it is
  };
  Reason reason = Reason::kInterrupted;
  unsigned vcpu = 0;
};

// Implemented by whoever owns the vCPU threads. All calls come from the thread of the server's event loop and
// return at once; a stop is announced, once per resume() or step(), through GdbServer::on_stopped().
//
//   running --stop()----------------------> stopped   (kInterrupted)
//   running --breakpoint, triple fault----> stopped   (kDebug, kShutdown)
//   stopped --resume()--> running
//   stopped --step(i)---> running, one instruction of vCPU i only --> stopped (kDebug)
//
// stop() while stopped announces kInterrupted again. While stopped no vCPU executes, so that get_state(), set_state(),
// translate_for_debug(), set_breakpoints() and set_single_step() may be called.
class DebugTarget {
 public:
  virtual ~DebugTarget() = default;
  virtual unsigned vcpu_count() const = 0;
  virtual cpu::Vcpu& vcpu(unsigned index) = 0;
  virtual memory::GuestMemory& memory() = 0;
  virtual void stop() = 0;
  virtual void resume() = 0;
  virtual void step(unsigned index) = 0;
  virtual void kill() = 0;  // end the VM
};

}  // namespace rhea::debug
