// SPDX-License-Identifier: Apache-2.0
// System control port A.
#include "devices/input/port92/port92.h"

#include <utility>

#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices {
namespace {

constexpr uint8_t kFastReset = 0x01, kA20 = 0x02;

}  // namespace

Port92::Port92(Context context)
    : request_reset_(std::move(context.request_reset)), set_a20_(std::move(context.set_a20)) {
  reset();
}

void Port92::map_into(io::AddressSpace& ports) {
  ports.map({.start = kPort, .size_bytes = 1, .handler = this, .name = "port92"});
}

void Port92::drive_a20() const {
  if (set_a20_) set_a20_(value_ & kA20);
}

// As a firmware leaves it: the gate open.
void Port92::reset() {
  const std::lock_guard lock(mutex_);
  value_ = kA20;
  drive_a20();
}

uint64_t Port92::io_read(uint64_t, unsigned) {
  const std::lock_guard lock(mutex_);
  return value_;
}

void Port92::io_write(uint64_t, uint64_t value, unsigned) {
  bool reset_asked = false;
  {
    const std::lock_guard lock(mutex_);
    reset_asked = (value & kFastReset) && !(value_ & kFastReset);  // on the rising edge only
    value_ = static_cast<uint8_t>(value & (kFastReset | kA20));
    drive_a20();
  }
  if (reset_asked && request_reset_) request_reset_();
}

void Port92::save_state(state::StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  writer.field("value", value_);
}

Status Port92::load_state(state::StateReader& reader) {
  const std::lock_guard lock(mutex_);
  reader.field("value", value_);
  RHEA_TRY(reader.status());
  drive_a20();
  return {};
}

}  // namespace rhea::devices
