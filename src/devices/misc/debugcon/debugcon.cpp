// SPDX-License-Identifier: Apache-2.0
// The debug console port.
#include "devices/misc/debugcon/debugcon.h"

#include <array>
#include <utility>

#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices {

Debugcon::Debugcon(const Options& options, Context context) : options_(options), sink_(std::move(context.sink)) {}

void Debugcon::map_into(io::AddressSpace& ports) {
  ports.map({.start = options_.port, .size_bytes = 1, .handler = this, .name = "debugcon"});
}

// Guests recognise the device by this answer.
uint64_t Debugcon::io_read(uint64_t, unsigned) { return options_.port & 0xff; }

void Debugcon::io_write(uint64_t, uint64_t value, unsigned size_bytes) {
  std::array<std::byte, 8> bytes{};
  for (unsigned i = 0; i < size_bytes && i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(value >> (8 * i));
  if (sink_) sink_(std::span(bytes).first(size_bytes));
}

void Debugcon::save_state(state::StateWriter&) const {}  // it remembers nothing
Status Debugcon::load_state(state::StateReader& reader) { return reader.status(); }

}  // namespace rhea::devices
