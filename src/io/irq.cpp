// SPDX-License-Identifier: Apache-2.0
// Wired-OR of interrupt lines and their ordered delivery without locks held.
#include "io/irq.h"

namespace rhea::io {

// Levels alternate, so what the sinks have not seen is a number of edges. More than two or three of them say
// nothing that two or three do not: an edge, and the final level.
void IrqRouter::change_level_locked(Line& line, int delta) {
  const bool before = line.asserted != 0;
  line.asserted += delta;
  if (before == (line.asserted != 0)) return;
  ++line.changes;
  if (line.changes > 3) line.changes -= 2;
}

void IrqRouter::deliver(unsigned gsi) {
  Line& line = lines_[gsi];
  std::unique_lock lock(mutex_);
  if (line.delivering) return;  // that thread, or our own caller further up, takes the changes along
  line.delivering = true;
  while (line.changes != 0) {
    --line.changes;
    line.told_level = !line.told_level;
    const bool level = line.told_level;
    lock.unlock();
    for (GsiSink* sink : gsi_sinks_) sink->set_gsi(gsi, level);
    lock.lock();
  }
  line.delivering = false;
}

void IrqRouter::change_level(unsigned gsi, int delta) {
  if (gsi >= kGsiCount) return;
  {
    const std::lock_guard lock(mutex_);
    change_level_locked(lines_[gsi], delta);
    if (lines_[gsi].changes == 0) return;
  }
  deliver(gsi);
}

void IrqRouter::set_gsi(unsigned gsi, bool level) {
  if (gsi >= kGsiCount) return;
  {
    const std::lock_guard lock(mutex_);
    Line& line = lines_[gsi];
    if (line.plain_level == level) return;
    line.plain_level = level;
    change_level_locked(line, level ? 1 : -1);
    if (line.changes == 0) return;
  }
  deliver(gsi);
}

bool IrqRouter::gsi_level(unsigned gsi) const {
  if (gsi >= kGsiCount) return false;
  const std::lock_guard lock(mutex_);
  return lines_[gsi].asserted != 0;
}

void IrqRouter::send_msi(const MsiMessage& message) {
  if (msi_sink_ != nullptr) msi_sink_->deliver_msi(message);
}

void IrqRouter::broadcast_eoi(uint8_t vector) {
  for (EoiListener* listener : eoi_listeners_) listener->on_eoi(vector);
}

void IrqRouter::set_ext_int(bool level) {
  for (ExtIntSink* sink : ext_int_sinks_) sink->set_ext_int(level);
}

bool IrqRouter::ext_int_pending() const { return ext_int_source_ != nullptr && ext_int_source_->ext_int_pending(); }

uint8_t IrqRouter::acknowledge_ext_int() {
  return ext_int_source_ != nullptr ? ext_int_source_->acknowledge_ext_int() : 0xff;  // an open bus
}

}  // namespace rhea::io
