// SPDX-License-Identifier: Apache-2.0
// The engines under test.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "cpu/engine.h"

namespace rhea::tests::engine {

struct EngineKind {
  std::string name;
  bool counts_instructions;  // runs by an io::InstructionClock, and then knows limits
  std::function<Result<std::unique_ptr<cpu::Engine>>(const cpu::EngineContext&)> create;
  std::vector<std::string> withheld = {};  // CPU features that its guests do without
  // Tests that it cannot pass for no fault of Rhea's, each with the reason. They are skipped aloud.
  std::map<std::string, std::string> beyond = {};
};
inline void PrintTo(const EngineKind& kind, std::ostream* out) { *out << kind.name; }

const std::vector<EngineKind>& engine_kinds();

}  // namespace rhea::tests::engine
