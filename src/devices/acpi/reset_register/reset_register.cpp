// SPDX-License-Identifier: Apache-2.0
// The chipset's reset control register.
#include "devices/acpi/reset_register/reset_register.h"

#include <utility>

#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices {

ResetRegister::ResetRegister(Context context) : request_reset_(std::move(context.request_reset)) { reset(); }

void ResetRegister::reset() {
  const std::lock_guard lock(mutex_);
  value_ = 0;
}

uint64_t ResetRegister::io_read(uint64_t, unsigned) {
  const std::lock_guard lock(mutex_);
  return value_;
}

// [ICH9 13.7.4] RST_CPU going from 0 to 1 resets: the processor alone or, with SYS_RST, the platform. There is no
// difference for a machine without firmware.
void ResetRegister::io_write(uint64_t, uint64_t value, unsigned) {
  bool reset_asked = false;
  {
    const std::lock_guard lock(mutex_);
    reset_asked = (value & kResetCpu) && !(value_ & kResetCpu);
    value_ = static_cast<uint8_t>(value & (kHardReset | kResetCpu | kFullReset));
  }
  if (reset_asked && request_reset_) request_reset_();
}

void ResetRegister::save_state(state::StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  writer.field("value", value_);
}

Status ResetRegister::load_state(state::StateReader& reader) {
  const std::lock_guard lock(mutex_);
  reader.field("value", value_);
  return reader.status();
}

}  // namespace rhea::devices
