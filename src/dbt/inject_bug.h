// SPDX-License-Identifier: Apache-2.0
// Seeded bugs: in a build with RHEA_INJECT_BUGS each number is a realistic mistake of the translator or its runtime
// that the test suites must catch (docs/seeded-bugs.md); in any other build they are constants that vanish.
#pragma once

#ifdef RHEA_INJECT_BUGS
#include <cstdlib>
#endif

#include "dbt/context.h"

namespace rhea::dbt {

#ifdef RHEA_INJECT_BUGS
inline bool injected(const Context& context, int bug) { return context.inject_bug == bug; }
// For programs without an option for it: the number in RHEA_INJECT_BUG, or 0.
inline int injected_by_environment() {
  const char* number = std::getenv("RHEA_INJECT_BUG");
  return number ? std::atoi(number) : 0;
}
#else
constexpr bool injected(const Context&, int) { return false; }
#endif

}  // namespace rhea::dbt
