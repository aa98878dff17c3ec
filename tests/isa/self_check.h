// SPDX-License-Identifier: Apache-2.0
// Executors that judge the harness itself.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "tests/isa/executor.h"

namespace rhea::tests::isa {

// Runs on another executor and then falsifies one thing, as a wrong translation would.
class CorruptingExecutor final : public Executor {
 public:
  static constexpr unsigned kKinds = 19;
  static unsigned kinds() { return vector_layout().avx512 ? kKinds : kKinds - 3; }  // that this host can show
  CorruptingExecutor(std::unique_ptr<Executor> inner, unsigned kind) : inner_(std::move(inner)), kind_(kind) {}

  std::string_view name() const override { return "corrupted"; }
  void run(const Input& input, Output& output) override;

  static std::string_view kind_name(unsigned kind);

 private:
  std::unique_ptr<Executor> inner_;
  unsigned kind_;
};

}  // namespace rhea::tests::isa
