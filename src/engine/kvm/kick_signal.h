// SPDX-License-Identifier: Apache-2.0
// The signal that takes a thread out of guest mode. Its handler does nothing: that it arrives is enough. [kvm-api
// KVM_RUN]
#pragma once

#include <pthread.h>

#include "base/error.h"

namespace rhea::engine_kvm {

// Takes the signal for the process, once; signal actions belong to the process, so it is not given back.
Status install_kick_signal();
void send_kick_signal(pthread_t thread);

}  // namespace rhea::engine_kvm
