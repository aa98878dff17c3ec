// SPDX-License-Identifier: Apache-2.0
// Runs cases on the host CPU, in a confined child process.
#pragma once

#include <sys/types.h>

#include <memory>

#include "base/error.h"
#include "tests/isa/executor.h"

namespace rhea::tests::isa {

struct NativeRing;

class NativeExecutor final : public Executor {
 public:
  // Errors: kUnsupported if the kernel does not let user code set segment bases (FSGSBASE).
  static Result<std::unique_ptr<NativeExecutor>> create();
  ~NativeExecutor() override;

  std::string_view name() const override { return "native"; }
  void start(std::span<const Input> inputs, std::span<Output> outputs) override;
  void finish() override;
  void run(const Input& input, Output& output) override;

 private:
  NativeExecutor() = default;
  bool start_child();
  void stop_child();
  void wait_for(uint32_t target);
  void recover();

  NativeRing* ring_ = nullptr;
  int backing_fd_ = -1;
  pid_t child_ = -1;
  uint32_t first_ = 0;
  std::span<Output> outputs_;
};

}  // namespace rhea::tests::isa
