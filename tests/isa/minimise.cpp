// SPDX-License-Identifier: Apache-2.0
// Greedy reduction: halves first, then one by one until nothing more can go.
#include "tests/isa/minimise.h"

#include <algorithm>

namespace rhea::tests::isa {

TestCase minimise(const TestCase& test_case, const std::function<bool(const TestCase&)>& fails) {
  TestCase best = test_case;
  const size_t count = best.program.items.size();
  for (size_t piece = std::max<size_t>(count / 2, 1);; piece = std::max<size_t>(piece / 2, 1)) {
    bool changed = false;
    for (size_t from = 0; from < count; from += piece) {
      TestCase candidate = best;
      bool any = false;
      for (size_t i = from; i < std::min(from + piece, count); ++i) {
        any |= !candidate.program.items[i].dropped;
        candidate.program.items[i].dropped = true;
      }
      if (!any || !fails(candidate)) continue;
      best = std::move(candidate);
      changed = true;
    }
    if (piece == 1 && !changed) return best;
  }
}

}  // namespace rhea::tests::isa
