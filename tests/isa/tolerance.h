// SPDX-License-Identifier: Apache-2.0
// What the architecture leaves open: where processors differ, the host is no judge.
#pragma once

#include <cstdint>

#include "tests/isa/test_case.h"

namespace rhea::tests::isa {

struct Tolerance {
  uint64_t flags = 0;              // RFLAGS bits that are undefined and come from an emulation
  bool any_fault_address = false;  // which part of a large operand a page fault is reported for
  bool partial_stores = false;     // memory need not be as before a fault
  bool partial_loads = false;      // nor general registers, but for RSP
  bool mxcsr = false;              // sticky flags of an instruction whose store faulted
  bool x87_stack = false;          // an MMX instruction that faulted may have emptied it
  bool x87_pointers = false;       // FIP, FDP and FOP: only while looking for something else
  bool not_judged = false;         // the order of two faults of one instruction is the processor's own
};

// Derived from the instruction at which the host's run ended. `ignore_x87_pointers`: FIP, FDP and FOP do not count.
Tolerance tolerance_for(const TestCase& test_case, const Input& input, const Output& native, const Output& actual,
                        bool ignore_x87_pointers);

}  // namespace rhea::tests::isa
