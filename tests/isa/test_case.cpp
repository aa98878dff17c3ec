// SPDX-License-Identifier: Apache-2.0
// Lays a program out in the code pages and builds the memory image that a case starts with.
#include "tests/isa/test_case.h"

#include <algorithm>
#include <cstring>

#include "tests/isa/values.h"

namespace rhea::tests::isa {

std::optional<size_t> image_offset_of(uint64_t linear) {
  for (const ArenaMapping& mapping : kArena)
    if (linear - mapping.linear < kPage) return image_offset(mapping.page) + (linear - mapping.linear);
  return std::nullopt;
}

std::vector<uint64_t> layout(const Program& program) {
  std::vector<uint64_t> addresses(program.items.size() + 1);
  std::array<uint64_t, 2> at{program.sections[0].linear + program.sections[0].start,
                             program.sections[1].linear + program.sections[1].start};
  for (size_t i = 0; i < program.items.size(); ++i) {
    const Item& item = program.items[i];
    addresses[i] = at[item.section];
    if (!item.dropped) at[item.section] += item.length;
  }
  addresses.back() = at[0];
  return addresses;
}

namespace {

// Memory as every case finds it, before its patches: much of it values on which arithmetic has its corners.
const Image& base_image() {
  static const Image image = [] {
    Image bytes;
    rhea::isa::x86::Rng random(1);
    for (size_t i = 0; i < kImageBytes; i += 32) {
      const VectorValue value = random_vector(random);
      std::memcpy(bytes.data() + i, value.data(), 32);
    }
    return bytes;
  }();
  return image;
}

bool is_code(BackingPage page) {
  return page == BackingPage::kCode0 || page == BackingPage::kCode1 || page == BackingPage::kSelfModifying;
}

// An instruction that ends beyond the code pages is cut off: its fetch faults.
bool place(const Program& program, const Item& item, uint64_t address, const std::vector<uint64_t>& addresses,
           Image& image) {
  const Section& section = program.sections[item.section];
  const uint64_t offset = address - section.linear;
  std::array<uint8_t, 16> bytes = item.bytes;
  if (item.fixup != Fixup::kNone) {
    const uint64_t wanted = item.fixup == Fixup::kLinear ? item.address : addresses[item.target] + item.addend;
    const uint64_t value = item.fixup == Fixup::kLabelAbsolute ? wanted : wanted - (address + item.length);
    const auto distance = static_cast<int64_t>(value);
    if (item.fixup_size == 1 && (distance < -128 || distance > 127)) return false;
    std::memcpy(bytes.data() + item.fixup_offset, &value, item.fixup_size);
  }
  if (offset < section.room)
    std::memcpy(image.data() + section.image_start + offset, bytes.data(),
                std::min<uint64_t>(item.length, section.room - offset));
  return true;
}

}  // namespace

std::span<const uint8_t> code_at(const Program& program, const Input& input, uint64_t linear) {
  for (const Section& section : program.sections) {
    const uint64_t offset = linear - section.linear;
    if (offset < section.room)
      return {reinterpret_cast<const uint8_t*>(input.image.data()) + section.image_start + offset,
              section.room - offset};
  }
  return {};
}

bool build_input(const TestCase& test_case, Input& input) {
  const Program& program = test_case.program;
  input.mode32 = program.mode32;
  input.state = test_case.state;
  std::memcpy(input.image.data(), base_image().data(), kImageBytes);
  for (size_t page = 0; page < kBackingPages; ++page)
    if (is_code(static_cast<BackingPage>(page))) std::memset(input.image.data() + page * kPage, kFill, kPage);
  const std::vector<uint64_t> addresses = layout(program);
  for (size_t i = 0; i < program.items.size(); ++i)
    if (!program.items[i].dropped && !place(program, program.items[i], addresses[i], addresses, input.image))
      return false;
  input.state.rip = program.sections[0].linear + program.sections[0].start;
  for (const Patch& patch : test_case.patches) {
    const size_t room = kImageBytes - std::min<size_t>(patch.image_offset, kImageBytes);
    if (patch.label >= 0)
      std::memcpy(input.image.data() + patch.image_offset, &addresses[static_cast<size_t>(patch.label)],
                  std::min<size_t>(8, room));
    else
      std::memcpy(input.image.data() + patch.image_offset, patch.bytes.data(), std::min(patch.bytes.size(), room));
  }
  return true;
}

}  // namespace rhea::tests::isa
