// SPDX-License-Identifier: Apache-2.0
// Something that can run test cases: the host CPU, or the engine under test.
#pragma once

#include <span>
#include <string_view>

#include "tests/isa/machine_state.h"

namespace rhea::tests::isa {

class Executor {
 public:
  virtual ~Executor() = default;
  virtual std::string_view name() const = 0;

  // Starts the cases and may return before they are done; `inputs` and `outputs` (same length, at most
  // kMaxBatch) live until finish(). Default: runs them in finish().
  virtual void start(std::span<const Input> inputs, std::span<Output> outputs) {
    inputs_ = inputs;
    outputs_ = outputs;
  }
  // Completes what start() began.
  virtual void finish() {
    for (size_t i = 0; i < inputs_.size(); ++i) run(inputs_[i], outputs_[i]);
  }
  virtual void run(const Input& input, Output& output) = 0;

  static constexpr size_t kMaxBatch = 64;

 private:
  std::span<const Input> inputs_;
  std::span<Output> outputs_;
};

}  // namespace rhea::tests::isa
