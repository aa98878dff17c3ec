// SPDX-License-Identifier: Apache-2.0
#include "engine/kvm/kick_signal.h"

#include <signal.h>

#include <cerrno>

namespace rhea::engine_kvm {

namespace {
int kick_signal() { return SIGRTMIN + 1; }
}  // namespace

Status install_kick_signal() {
  struct sigaction action{};
  action.sa_handler = [](int) {};
  sigemptyset(&action.sa_mask);
  if (sigaction(kick_signal(), &action, nullptr) != 0)
    return fail(Error::from_errno(errno, "taking the signal that interrupts guests"));
  return {};
}

void send_kick_signal(pthread_t thread) { pthread_kill(thread, kick_signal()); }

}  // namespace rhea::engine_kvm
