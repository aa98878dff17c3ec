// SPDX-License-Identifier: Apache-2.0
// The list of what is to be covered: every row in every form, size, prefix and mode.
#pragma once

#include <string_view>
#include <vector>

#include "isa/x86/generate.h"
#include "isa/x86/rows.h"

namespace rhea::tests::isa {

struct Combo {
  rhea::isa::x86::RowId row{};
  rhea::isa::x86::FormSpec form;
  rhea::isa::x86::CpuMode mode = rhea::isa::x86::CpuMode::k64;
  std::string_view skip;  // why the host cannot judge it; empty if it can
  bool filler = false;    // fit to stand among others in a sequence
  bool everyday = false;  // ... and what ordinary code consists of
};

// All combinations, 64-bit mode first. The order is the table's, so a case number stays valid as long as
// the table does.
std::vector<Combo> all_combos();

}  // namespace rhea::tests::isa
