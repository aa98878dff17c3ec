// SPDX-License-Identifier: Apache-2.0
// A test case: a small program, the state it starts in, and where both came from.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "isa/x86/generate.h"
#include "isa/x86/rows.h"
#include "tests/isa/machine_state.h"

namespace rhea::tests::isa {

// Bytes of an instruction that depend on where things end up.
enum class Fixup : uint8_t {
  kNone,
  kLabel,          // relative to the next instruction: the item `target`
  kLinear,         // relative to the next instruction: the linear address `address`
  kLabelAbsolute,  // linear address of the item `target`
};

// One instruction of a program. Items keep their index when others are dropped, so labels stay valid.
struct Item {
  std::array<uint8_t, 16> bytes{};
  uint8_t length = 0;
  Fixup fixup = Fixup::kNone;
  uint8_t fixup_offset = 0, fixup_size = 0;
  uint16_t target = 0;   // kLabel*: index of an item; its number of items for the end of the program
  uint64_t address = 0;  // kLinear
  uint8_t addend = 0;    // kLabel*: bytes behind the label
  uint8_t section = 0;
  bool dropped = false;
};

// Where a run of code lies.
struct Section {
  uint64_t linear = 0;     // of the first page, in the view that the code runs in
  size_t image_start = 0;  // the same in the image
  size_t room = 0;         // bytes from there that may hold code
  uint16_t start = 0;      // offset of the first instruction
};

// Two runs of code: the main one and a subroutine.
struct Program {
  bool mode32 = false;
  std::array<Section, 2> sections{};
  std::vector<Item> items;
};

struct Patch {
  uint32_t image_offset = 0;
  std::vector<uint8_t> bytes{};
  int label = -1;  // not negative: the bytes are the linear address of this item
};

struct TestCase {
  uint64_t seed = 0, number = 0;
  rhea::isa::x86::RowId row{};  // what the case is about
  rhea::isa::x86::FormSpec form;
  bool sequence = false;
  Program program{};
  MachineState state{};
  std::vector<Patch> patches{};
};

// Where each item of a program starts; dropped ones where the next one does.
std::vector<uint64_t> layout(const Program& program);

// Writes the complete input of an executor. False if the code does not fit its pages.
bool build_input(const TestCase& test_case, Input& input);

// The code bytes from a linear address to the end of its section; empty if no section is there.
std::span<const uint8_t> code_at(const Program& program, const Input& input, uint64_t linear);

// The arena page that holds a linear address, as an offset into the image.
std::optional<size_t> image_offset_of(uint64_t linear);

}  // namespace rhea::tests::isa
