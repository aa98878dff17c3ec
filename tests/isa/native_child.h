// SPDX-License-Identifier: Apache-2.0
// Memory shared between NativeExecutor and its child process, and the child's entry.
#pragma once

#include <atomic>
#include <cstdint>

#include "tests/isa/executor.h"
#include "tests/isa/machine_state.h"

namespace rhea::tests::isa {

inline constexpr uint32_t kRingSlots = Executor::kMaxBatch;

// A ring of cases: the parent counts `submitted`, the child `completed`; slot = counter % kRingSlots.
struct NativeRing {
  std::atomic<uint32_t> submitted;
  std::atomic<uint32_t> completed;
  std::atomic<uint32_t> parent_waits;
  std::atomic<uint32_t> child_waits;
  std::atomic<uint32_t> give_up;  // 1 + number of the case that the next SIGALRM ends
  Input input[kRingSlots];
  Output output[kRingSlots];
};

// Turns the calling process into the one that executes cases; never returns. `backing_fd` is a memfd of
// kImageBytes that becomes the arena.
[[noreturn]] void native_child_main(NativeRing& ring, int backing_fd);

}  // namespace rhea::tests::isa
