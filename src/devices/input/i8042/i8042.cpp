// SPDX-License-Identifier: Apache-2.0
// The keyboard controller. Its own answers go through a small queue of their own, before what the devices send.
#include "devices/input/i8042/i8042.h"

#include <utility>

#include "devices/input/i8042/i8042_regs.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices {

using namespace i8042_regs;

namespace {

// Scan code set 2 to set 1, as the controller translates with XLATE set. [PS/2 table "Scan Code Translation"]
// Codes from 0x80 on pass unchanged, but for 0x83 (F7) and 0x84 (SysRq).
constexpr std::array<uint8_t, 128> kSet2ToSet1 = {
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, 0x65, 0x38, 0x2a,
    0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, 0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05,
    0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, 0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a,
    0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, 0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26,
    0x27, 0x19, 0x0c, 0x61, 0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63,
    0x76, 0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, 0x52, 0x53,
    0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54};
constexpr uint8_t kBreakPrefix = 0xf0;

}  // namespace

I8042::I8042(Context context)
    : keyboard_irq_(context.keyboard_irq),
      mouse_irq_(context.mouse_irq),
      request_reset_(std::move(context.request_reset)),
      set_a20_(std::move(context.set_a20)) {
  reset();
}

void I8042::map_into(io::AddressSpace& ports) {
  ports.map({.start = kDataPort, .size_bytes = 1, .handler = this, .handler_offset = kDataPort, .name = "i8042-data"});
  ports.map({.start = kCommandPort,
             .size_bytes = 1,
             .handler = this,
             .handler_offset = kCommandPort,
             .name = "i8042-command"});
}

// As a firmware leaves it after its self test: devices enabled, translation on, interrupts off, A20 open.
void I8042::reset() {
  const std::lock_guard lock(mutex_);
  config_ = kConfigSystemFlag | kConfigTranslate;
  pending_command_ = 0;
  last_write_was_command_ = false;
  output_full_ = output_from_aux_ = output_from_controller_ = false;
  output_ = 0;
  set_a20(true);
  translate_break_ = false;
  keyboard_.reset();
  mouse_.reset();
  update_irqs();
}

uint8_t I8042::status() const {
  return static_cast<uint8_t>((output_full_ ? kStatusOutputFull : 0) | (config_ & kConfigSystemFlag) |
                              (last_write_was_command_ ? kStatusCommand : 0) | kStatusUnlocked |
                              (output_full_ && output_from_aux_ ? kStatusAuxData : 0));
}

void I8042::update_irqs() {
  keyboard_irq_.set(output_full_ && !output_from_aux_ && (config_ & kConfigKeyboardInterrupt));
  mouse_irq_.set(output_full_ && output_from_aux_ && (config_ & kConfigAuxInterrupt));
}

// An answer of the controller: replaces what the host did not read. [PS/2]
void I8042::put_output(uint8_t value, bool aux) {
  output_full_ = false;
  update_irqs();
  output_ = value;
  output_full_ = true;
  output_from_aux_ = aux;
  output_from_controller_ = true;
  update_irqs();
}

uint8_t I8042::translate(uint8_t code) {
  uint8_t translated = code < 0x80 ? kSet2ToSet1[code] : code == 0x83 ? 0x41 : code == 0x84 ? 0x54 : code;
  if (translate_break_) translated |= 0x80;
  translate_break_ = false;
  return translated;
}

// Moves the next byte of an enabled device to the output buffer.
void I8042::fill_output() {
  while (!output_full_ && !(config_ & kConfigKeyboardDisable)) {
    const auto byte = keyboard_.queue().pop();
    if (!byte) break;
    if ((config_ & kConfigTranslate) && *byte == kBreakPrefix) {
      translate_break_ = true;
      continue;
    }
    output_ = (config_ & kConfigTranslate) ? translate(*byte) : *byte;
    output_full_ = true;
    output_from_aux_ = output_from_controller_ = false;
  }
  if (!output_full_ && !(config_ & kConfigAuxDisable)) {
    if (const auto byte = mouse_.queue().pop()) {
      output_ = *byte;
      output_full_ = true;
      output_from_aux_ = true;
      output_from_controller_ = false;
    }
  }
  update_irqs();
}

uint8_t I8042::read_data() {
  const uint8_t value = output_;
  output_full_ = false;
  update_irqs();  // the line falls between two bytes: its input is edge-triggered
  fill_output();
  return value;
}

void I8042::set_a20(bool level) {
  a20_ = level;
  if (set_a20_) set_a20_(level);
}

uint8_t I8042::output_port() const {
  return static_cast<uint8_t>(kOutputPortNotReset | (a20_ ? kOutputPortA20 : 0) |
                              (output_full_ && !output_from_aux_ ? kOutputPortKeyboardFull : 0) |
                              (output_full_ && output_from_aux_ ? kOutputPortAuxFull : 0));
}

bool I8042::write_output_port(uint8_t value) {
  set_a20(value & kOutputPortA20);
  return !(value & kOutputPortNotReset);
}

bool I8042::write_command(uint8_t value) {
  last_write_was_command_ = true;
  pending_command_ = 0;
  if (value >= kPulseOutputPort) return !(value & kOutputPortNotReset);  // low bits at 0 are pulsed
  switch (value) {
    case kReadConfig: put_output(config_, false); break;
    case kDisableAux: config_ |= kConfigAuxDisable; break;
    case kEnableAux: config_ &= static_cast<uint8_t>(~kConfigAuxDisable); break;
    case kTestAux:
    case kTestKeyboard: put_output(kInterfaceTestPassed, false); break;
    case kSelfTest:
      config_ |= kConfigSystemFlag;
      put_output(kSelfTestPassed, false);
      break;
    case kDisableKeyboard: config_ |= kConfigKeyboardDisable; break;
    case kEnableKeyboard: config_ &= static_cast<uint8_t>(~kConfigKeyboardDisable); break;
    case kReadInputPort:
      put_output(0x80, false);  // keyboard not locked
      break;
    case kReadOutputPort: put_output(output_port(), false); break;
    case kDisableA20:
    case kEnableA20: set_a20(value == kEnableA20); break;
    case kWriteConfig:
    case kWriteOutputPort:
    case kWriteKeyboardOutput:
    case kWriteAuxOutput:
    case kWriteAux: pending_command_ = value; break;
    default:
      if (value > kReadConfig && value < kWriteConfig - 0x20) put_output(0, false);  // RAM of the controller: unused
      if (value > kWriteConfig && value < kWriteConfig + 0x20) pending_command_ = value;
      break;
  }
  fill_output();
  return false;
}

bool I8042::write_data(uint8_t value) {
  last_write_was_command_ = false;
  const uint8_t command = std::exchange(pending_command_, 0);
  bool reset_asked = false;
  switch (command) {
    case 0:
      // Writing to the keyboard enables its interface. [PS/2]
      config_ &= static_cast<uint8_t>(~kConfigKeyboardDisable);
      keyboard_.write(value);
      break;
    case kWriteConfig: config_ = value; break;
    case kWriteOutputPort: reset_asked = write_output_port(value); break;
    case kWriteKeyboardOutput: put_output(value, false); break;
    case kWriteAuxOutput: put_output(value, true); break;
    case kWriteAux:
      config_ &= static_cast<uint8_t>(~kConfigAuxDisable);
      mouse_.write(value);
      break;
    default: break;
  }
  fill_output();
  return reset_asked;
}

uint64_t I8042::io_read(uint64_t port, unsigned size_bytes) {
  (void)size_bytes;  // both ranges are one port long
  const std::lock_guard lock(mutex_);
  return port == kDataPort ? read_data() : status();
}

void I8042::io_write(uint64_t port, uint64_t value, unsigned size_bytes) {
  (void)size_bytes;
  bool reset_asked = false;
  {
    const std::lock_guard lock(mutex_);
    const auto byte = static_cast<uint8_t>(value);
    reset_asked = port == kDataPort ? write_data(byte) : write_command(byte);
  }
  if (reset_asked && request_reset_) request_reset_();
}

void I8042::key(std::span<const uint8_t> scan_code_set2) {
  const std::lock_guard lock(mutex_);
  keyboard_.key(scan_code_set2);
  fill_output();
}

void I8042::move_mouse(int dx, int dy, int dz, uint8_t buttons) {
  const std::lock_guard lock(mutex_);
  mouse_.move(dx, dy, dz, buttons);
  fill_output();
}

void I8042::save_state(state::StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  writer.field("config", config_);
  writer.field("pending_command", pending_command_);
  writer.field("last_write_was_command", last_write_was_command_);
  writer.field("output", output_);
  writer.field("output_full", output_full_);
  writer.field("output_from_aux", output_from_aux_);
  writer.field("output_from_controller", output_from_controller_);
  writer.field("a20", a20_);
  writer.field("translate_break", translate_break_);
  writer.section("keyboard", 1, [this](state::StateWriter& section) { keyboard_.save(section); });
  writer.section("mouse", 1, [this](state::StateWriter& section) { mouse_.save(section); });
}

Status I8042::load_state(state::StateReader& reader) {
  const std::lock_guard lock(mutex_);
  reader.field("config", config_);
  reader.field("pending_command", pending_command_);
  reader.field("last_write_was_command", last_write_was_command_);
  reader.field("output", output_);
  reader.field("output_full", output_full_);
  reader.field("output_from_aux", output_from_aux_);
  reader.field("output_from_controller", output_from_controller_);
  reader.field("a20", a20_);
  reader.field("translate_break", translate_break_);
  // A field that fails is remembered by the reader, of nested sections too: status() reports it.
  reader.section("keyboard", 1, [this](state::StateReader& section) { (void)keyboard_.load(section); });
  reader.section("mouse", 1, [this](state::StateReader& section) { (void)mouse_.load(section); });
  RHEA_TRY(reader.status());
  set_a20(a20_);
  update_irqs();
  return {};
}

}  // namespace rhea::devices
