// SPDX-License-Identifier: Apache-2.0
// Makes the test case of a number: single instructions and sequences.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/isa/combos.h"
#include "tests/isa/test_case.h"
#include "tests/isa/values.h"

namespace rhea::tests::isa {

// Case numbers: number % combos = what is tested, number / combos = round; odd rounds are sequences.
class CaseGenerator {
 public:
  explicit CaseGenerator(uint64_t seed);

  const std::vector<Combo>& combos() const { return combos_; }
  uint64_t number_of(size_t combo, uint64_t round) const { return round * combos_.size() + combo; }
  size_t combo_of(uint64_t number) const { return number % combos_.size(); }

  // False if the combination cannot be generated.
  bool make(uint64_t number, TestCase& test_case, Input& input) const;

 private:
  uint64_t seed_;
  std::vector<Combo> combos_;
  std::vector<size_t> fillers_[2], everyday_[2];  // indices of combos, by mode: 64-bit, 32-bit
};

}  // namespace rhea::tests::isa
