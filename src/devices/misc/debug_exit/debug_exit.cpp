// SPDX-License-Identifier: Apache-2.0
// The debug-exit port.
#include "devices/misc/debug_exit/debug_exit.h"

#include <utility>

#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices {

DebugExit::DebugExit(const Options& options, Context context) : options_(options), exit_(std::move(context.exit)) {}

void DebugExit::map_into(io::AddressSpace& ports) {
  ports.map({.start = options_.port, .size_bytes = 4, .handler = this, .name = "debug-exit"});
}

uint64_t DebugExit::io_read(uint64_t, unsigned) { return 0; }

void DebugExit::io_write(uint64_t, uint64_t value, unsigned) {
  if (exit_) exit_(static_cast<uint32_t>(value) << 1 | 1);
}

void DebugExit::save_state(state::StateWriter&) const {}  // it remembers nothing
Status DebugExit::load_state(state::StateReader& reader) { return reader.status(); }

}  // namespace rhea::devices
