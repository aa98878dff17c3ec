// SPDX-License-Identifier: Apache-2.0
// The 8259A pair. The secondary's output is a level on the primary's IR2: while the secondary has something to
// say the primary has it pending, whatever edges there were, so a second request behind a first is never lost.
#include "devices/irqchip/pic/pic.h"

#include "devices/irqchip/pic/pic_regs.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices {

using namespace pic_regs;
using platform::PicChipState;

namespace {

constexpr unsigned kPrimary = 0, kSecondary = 1;
constexpr uint8_t kCascadeBit = 1u << kCascade;

constexpr uint8_t bit(unsigned input) { return static_cast<uint8_t>(1u << input); }

// Distance from the highest priority, 0-7; 8 if no bit is set. [8259A "Automatic Rotation"]
unsigned best_priority(const PicChipState& chip, uint8_t bits) {
  for (unsigned priority = 0; priority < 8; ++priority)
    if (bits & bit((chip.lowest_priority + 1 + priority) & 7)) return priority;
  return 8;
}
unsigned input_of(const PicChipState& chip, unsigned priority) { return (chip.lowest_priority + 1 + priority) & 7; }

bool level_triggered(const PicChipState& chip, unsigned input) { return chip.level_mode || (chip.elcr & bit(input)); }

}  // namespace

Pic::Pic(const Context& context) : router_(context.router) { reset(); }

void Pic::map_into(io::AddressSpace& ports) {
  const auto map = [&](uint16_t port) {
    ports.map({.start = port, .size_bytes = 2, .handler = this, .handler_offset = port, .name = "pic"});
  };
  map(kPrimaryCommand);
  map(kSecondaryCommand);
  map(kPrimaryElcr);
}

void Pic::reset() {
  const std::lock_guard lock(mutex_);
  for (PicChipState& chip : state_.chip) {
    const uint8_t lines = chip.lines;  // input pins: their drivers have their own reset
    chip = PicChipState{};
    chip.lines = lines;
  }
  update_output();
}

// The input to be acknowledged next, or -1. [8259A "Interrupt Sequence", "Special Mask Mode"]
int Pic::pending_input(unsigned index) const {
  const PicChipState& chip = state_.chip[index];
  const unsigned requested = best_priority(chip, chip.irr & static_cast<uint8_t>(~chip.imr));
  if (requested == 8) return -1;
  uint8_t in_service = chip.isr;
  if (chip.special_mask) in_service &= static_cast<uint8_t>(~chip.imr);
  if (chip.special_fully_nested && index == kPrimary) in_service &= static_cast<uint8_t>(~kCascadeBit);
  if (requested >= best_priority(chip, in_service)) return -1;
  return static_cast<int>(input_of(chip, requested));
}

void Pic::update_output() {
  PicChipState& primary = state_.chip[kPrimary];
  const bool cascade = pending_input(kSecondary) >= 0;
  primary.irr = static_cast<uint8_t>(cascade ? primary.irr | kCascadeBit : primary.irr & ~kCascadeBit);
  const bool output = pending_input(kPrimary) >= 0;
  if (output == output_) return;
  output_ = output;
  router_.set_ext_int(output);
}

void Pic::set_line(unsigned index, unsigned input, bool level) {
  PicChipState& chip = state_.chip[index];
  const uint8_t mask = bit(input);
  const bool rising = level && !(chip.lines & mask);
  chip.lines = static_cast<uint8_t>(level ? chip.lines | mask : chip.lines & ~mask);
  if (level_triggered(chip, input))
    chip.irr = static_cast<uint8_t>(level ? chip.irr | mask : chip.irr & ~mask);
  else if (rising)
    chip.irr |= mask;
}

void Pic::set_gsi(unsigned gsi, bool level) {
  if (gsi >= 16 || gsi == kCascade) return;
  const std::lock_guard lock(mutex_);
  set_line(gsi >> 3, gsi & 7, level);
  update_output();
}

bool Pic::ext_int_pending() const {
  const std::lock_guard lock(mutex_);
  return output_;
}

// The first INTA pulse for one controller; its vector. [8259A "Interrupt Sequence"]
uint8_t Pic::acknowledge(unsigned index, int input) {
  PicChipState& chip = state_.chip[index];
  // Nothing pending any more: the default is IR7, without an in-service bit.
  if (input < 0) return static_cast<uint8_t>(chip.vector_base | 7);
  const auto number = static_cast<unsigned>(input);
  if (!level_triggered(chip, number)) chip.irr &= static_cast<uint8_t>(~bit(number));
  if (!chip.auto_eoi)
    chip.isr |= bit(number);
  else if (chip.rotate_on_auto_eoi)
    chip.lowest_priority = static_cast<uint8_t>(number);
  return static_cast<uint8_t>(chip.vector_base | number);
}

uint8_t Pic::acknowledge_ext_int() {
  const std::lock_guard lock(mutex_);
  const int input = pending_input(kPrimary);
  uint8_t vector = 0;
  if (input == static_cast<int>(kCascade)) {
    const int secondary_input = pending_input(kSecondary);
    acknowledge(kPrimary, input);
    vector = acknowledge(kSecondary, secondary_input);
  } else {
    vector = acknowledge(kPrimary, input);
  }
  // INT goes low during the acknowledge: what is still pending shows as a new edge.
  if (output_) {
    output_ = false;
    router_.set_ext_int(false);
  }
  update_output();
  return vector;
}

// [8259A "Operation Command Words", OCW2]
void Pic::write_ocw2(unsigned index, uint8_t value) {
  PicChipState& chip = state_.chip[index];
  const unsigned level = value & 7;
  const auto command = static_cast<Ocw2>(value >> 5);
  switch (command) {
    case Ocw2::kClearRotateOnAutoEoi: chip.rotate_on_auto_eoi = false; break;
    case Ocw2::kSetRotateOnAutoEoi: chip.rotate_on_auto_eoi = true; break;
    case Ocw2::kEoi:
    case Ocw2::kRotateOnEoi: {
      // In special mask mode a masked in-service bit is out of reach of the non-specific EOI.
      const uint8_t candidates = chip.special_mask ? chip.isr & static_cast<uint8_t>(~chip.imr) : chip.isr;
      const unsigned priority = best_priority(chip, candidates);
      if (priority == 8) break;
      const unsigned input = input_of(chip, priority);
      chip.isr &= static_cast<uint8_t>(~bit(input));
      if (command == Ocw2::kRotateOnEoi) chip.lowest_priority = static_cast<uint8_t>(input);
      break;
    }
    case Ocw2::kRotateOnSpecificEoi: chip.lowest_priority = static_cast<uint8_t>(level); [[fallthrough]];
    case Ocw2::kSpecificEoi: chip.isr &= static_cast<uint8_t>(~bit(level)); break;
    case Ocw2::kSetPriority: chip.lowest_priority = static_cast<uint8_t>(level); break;
    case Ocw2::kNop: break;
  }
}

void Pic::write_command(unsigned index, uint8_t value) {
  PicChipState& chip = state_.chip[index];
  if (value & kIcw1) {
    // [8259A "Initialization Command Words"] ICW1 clears the edge sense, the masks and the special modes.
    PicChipState fresh;
    fresh.lines = chip.lines;
    fresh.elcr = chip.elcr;
    fresh.vector_base = chip.vector_base;
    fresh.level_mode = value & kIcw1Level;
    fresh.expect_icw4 = value & kIcw1Icw4;
    fresh.single = value & kIcw1Single;
    fresh.init_step = 2;
    chip = fresh;
    for (unsigned input = 0; input < 8; ++input)
      if (level_triggered(chip, input)) chip.irr |= chip.lines & bit(input);
    return;
  }
  if (!(value & kOcw3)) {
    write_ocw2(index, value);
    return;
  }
  chip.poll = value & kOcw3Poll;
  if (value & kOcw3ReadRegister) chip.read_isr = value & kOcw3ReadIsr;
  if (value & kOcw3SpecialMaskEnable) chip.special_mask = value & kOcw3SpecialMask;
}

void Pic::write_data(unsigned index, uint8_t value) {
  PicChipState& chip = state_.chip[index];
  switch (chip.init_step) {
    case 2:
      chip.vector_base = value & 0xf8;
      chip.init_step = chip.single ? (chip.expect_icw4 ? 4 : 0) : 3;
      break;
    case 3:  // the wiring is what it is
      chip.init_step = chip.expect_icw4 ? 4 : 0;
      break;
    case 4:
      chip.auto_eoi = value & kIcw4AutoEoi;
      chip.special_fully_nested = value & kIcw4SpecialFullyNested;
      chip.init_step = 0;
      break;
    default: chip.imr = value; break;
  }
}

// [8259A "Reading the 8259A Status", "Poll Command"]
uint8_t Pic::read_command(unsigned index) {
  PicChipState& chip = state_.chip[index];
  if (!chip.poll) return chip.read_isr ? chip.isr : chip.irr;
  chip.poll = false;
  const int input = pending_input(index);
  if (input < 0) return 0;
  acknowledge(index, input);
  update_output();
  return static_cast<uint8_t>(0x80 | input);
}

uint8_t Pic::read_byte(uint16_t port) {
  switch (port) {
    case kPrimaryElcr: return state_.chip[kPrimary].elcr;
    case kSecondaryElcr: return state_.chip[kSecondary].elcr;
    case kPrimaryCommand: return read_command(kPrimary);
    case kSecondaryCommand: return read_command(kSecondary);
    case kPrimaryData:
    case kSecondaryData: {
      const unsigned index = port == kPrimaryData ? kPrimary : kSecondary;
      return state_.chip[index].poll ? read_command(index) : state_.chip[index].imr;
    }
    default: return 0xff;
  }
}

void Pic::write_byte(uint16_t port, uint8_t value) {
  switch (port) {
    case kPrimaryElcr: state_.chip[kPrimary].elcr = value & kPrimaryElcrMask; break;
    case kSecondaryElcr: state_.chip[kSecondary].elcr = value & kSecondaryElcrMask; break;
    case kPrimaryCommand: write_command(kPrimary, value); break;
    case kSecondaryCommand: write_command(kSecondary, value); break;
    case kPrimaryData: write_data(kPrimary, value); break;
    case kSecondaryData: write_data(kSecondary, value); break;
    default: return;
  }
  update_output();
}

uint64_t Pic::io_read(uint64_t port, unsigned size_bytes) {
  const std::lock_guard lock(mutex_);
  uint64_t value = 0;
  for (unsigned i = 0; i < size_bytes; ++i) value |= uint64_t{read_byte(static_cast<uint16_t>(port + i))} << (8 * i);
  return value;
}

void Pic::io_write(uint64_t port, uint64_t value, unsigned size_bytes) {
  const std::lock_guard lock(mutex_);
  for (unsigned i = 0; i < size_bytes; ++i)
    write_byte(static_cast<uint16_t>(port + i), static_cast<uint8_t>(value >> (8 * i)));
}

platform::PicState Pic::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

void Pic::set_state(const platform::PicState& state) {
  const std::lock_guard lock(mutex_);
  state_ = state;
  output_ = false;
  router_.set_ext_int(false);
  update_output();
}

void Pic::save_state(state::StateWriter& writer) const {
  const platform::PicState saved = state();
  platform::PicState::describe(writer, saved);
}

Status Pic::load_state(state::StateReader& reader) {
  platform::PicState loaded;
  platform::PicState::describe(reader, loaded);
  for (const PicChipState& chip : loaded.chip) {
    reader.validate(chip.init_step == 0 || (chip.init_step >= 2 && chip.init_step <= 4), "has an impossible step");
    reader.validate(chip.lowest_priority < 8 && (chip.vector_base & 7) == 0, "has an impossible priority or vector");
  }
  RHEA_TRY(reader.status());
  set_state(loaded);
  return {};
}

}  // namespace rhea::devices
