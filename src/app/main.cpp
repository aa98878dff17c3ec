// SPDX-License-Identifier: Apache-2.0
// The program `rhea`.
#include <fmt/format.h>

#include <cstdio>

#include "app/options.h"
#include "app/run.h"

int main(int argc, char** argv) {
  auto invocation = rhea::app::parse_command_line(argc, argv);
  if (!invocation) {
    fmt::print(stderr, "rhea: {}\n", invocation.error().to_string());
    return rhea::app::kExitUsage;
  }
  if (invocation->run) return rhea::app::run_command(*invocation->run);
  if (invocation->image) return rhea::app::run_image_command(*invocation->image);
  fmt::print("{}", invocation->print);
  return std::fflush(stdout) == 0 ? 0 : rhea::app::kExitHostError;
}
