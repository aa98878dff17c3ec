// SPDX-License-Identifier: Apache-2.0
// The I/O APIC: redirection entries to messages.
#include "devices/irqchip/ioapic/ioapic.h"

#include "devices/irqchip/ioapic/ioapic_regs.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices {

using namespace ioapic_regs;
using platform::kIoapicPins;

namespace {

constexpr unsigned delivery_mode(uint64_t entry) {
  return static_cast<unsigned>((entry & kDeliveryModeMask) >> kDeliveryModeShift);
}
// Only fixed and lowest-priority interrupts can be level-triggered: the other modes have no EOI.
constexpr bool is_level(uint64_t entry) { return (entry & kLevel) && delivery_mode(entry) <= kModeLowest; }

// [SDM-3A 11.11.1, 11.11.2] [82093AA 3.2.4]
io::MsiMessage message_of(uint64_t entry) {
  constexpr uint64_t kMsiBase = 0xfee00000;
  constexpr uint32_t kMsiAssert = 1u << 14, kMsiLevel = 1u << 15;
  const unsigned mode = delivery_mode(entry);
  uint64_t address = kMsiBase | (entry >> 56) << 12;
  if (entry & kLogical) address |= 1u << 2;
  if (mode == kModeLowest) address |= 1u << 3;
  uint32_t data = static_cast<uint32_t>(entry & 0xff) | mode << 8 | kMsiAssert;
  if (is_level(entry)) data |= kMsiLevel;
  return {.address = address, .data = data};
}

}  // namespace

Ioapic::Ioapic(const Context& context) : router_(context.router) { reset(); }

void Ioapic::map_into(io::AddressSpace& physical) {
  physical.map({.start = kBase, .size_bytes = kSizeBytes, .handler = this, .name = "ioapic"}, 1);
}

void Ioapic::reset() {
  const std::lock_guard lock(mutex_);
  const uint32_t lines = state_.lines;
  state_ = platform::IoapicState{};
  state_.lines = lines;
  state_.redirection.fill(kMasked);
}

// A pin has something to say: send it unless masked, or unless its last level interrupt waits for its EOI.
void Ioapic::service(unsigned pin) {
  uint64_t& entry = state_.redirection[pin];
  if (entry & kMasked) return;
  if (is_level(entry)) {
    if (!((state_.lines >> pin) & 1) || (entry & kRemoteIrr)) return;
    entry |= kRemoteIrr;
  }
  router_.send_msi(message_of(entry));
}

void Ioapic::set_gsi(unsigned gsi, bool level) {
  if (gsi == 2 || gsi >= kIoapicPins) return;
  const unsigned pin = gsi == 0 ? 2 : gsi;
  const std::lock_guard lock(mutex_);
  const uint32_t mask = 1u << pin;
  const bool rising = level && !(state_.lines & mask);
  state_.lines = level ? state_.lines | mask : state_.lines & ~mask;
  // An edge on a masked pin is not held. [82093AA 3.2.4, bit 16]
  if (rising) service(pin);
}

void Ioapic::eoi_locked(uint8_t vector) {
  for (unsigned pin = 0; pin < kIoapicPins; ++pin) {
    uint64_t& entry = state_.redirection[pin];
    if (!(entry & kRemoteIrr) || (entry & 0xff) != vector) continue;
    entry &= ~kRemoteIrr;
    service(pin);
  }
}

void Ioapic::on_eoi(uint8_t vector) {
  const std::lock_guard lock(mutex_);
  eoi_locked(vector);
}

uint32_t Ioapic::read_register(uint8_t index) const {
  switch (index) {
    case kIdRegister: return state_.id << 24;
    case kVersionRegister: return (kIoapicPins - 1) << 16 | kVersion;
    case kArbitrationRegister: return 0;
    default: break;
  }
  const unsigned pin = (index - kRedirectionTable) / 2u;
  if (index < kRedirectionTable || pin >= kIoapicPins) return 0;
  return static_cast<uint32_t>(state_.redirection[pin] >> ((index & 1) * 32));
}

void Ioapic::write_redirection(unsigned pin, uint64_t mask, uint64_t value) {
  mask &= kWritable;
  uint64_t& entry = state_.redirection[pin];
  entry = (entry & ~mask) | (value & mask);
  // An edge-triggered entry has no remote IRR; switching to edge and back is how software drops a stuck one.
  if (!is_level(entry))
    entry &= ~kRemoteIrr;
  else
    service(pin);
}

void Ioapic::write_register(uint8_t index, uint32_t value) {
  if (index == kIdRegister) {
    state_.id = (value >> 24) & 0xf;
    return;
  }
  const unsigned pin = (index - kRedirectionTable) / 2u;
  if (index < kRedirectionTable || pin >= kIoapicPins) return;
  const unsigned shift = (index & 1) * 32;
  write_redirection(pin, uint64_t{0xffffffff} << shift, uint64_t{value} << shift);
}

// [ICH9 13.5.1] Registers are 32 bits wide at 16-byte strides; narrow reads see their bytes.
uint64_t Ioapic::io_read(uint64_t offset, unsigned size_bytes) {
  const unsigned byte = offset & 15;
  if (byte >= 4) return 0;
  const std::lock_guard lock(mutex_);
  uint64_t value = 0;
  switch (offset & 0xff0) {
    case kRegisterSelect: value = state_.register_select; break;
    case kWindow: value = read_register(static_cast<uint8_t>(state_.register_select)); break;
    default: break;
  }
  value >>= byte * 8;
  return size_bytes >= 4 ? value : value & ((1u << (size_bytes * 8)) - 1);
}

void Ioapic::io_write(uint64_t offset, uint64_t value, unsigned size_bytes) {
  const std::lock_guard lock(mutex_);
  switch (offset & 0xfff) {
    case kRegisterSelect: state_.register_select = value & 0xff; break;
    case kWindow:
      if (size_bytes >= 4) write_register(static_cast<uint8_t>(state_.register_select), static_cast<uint32_t>(value));
      break;
    case kEoi: eoi_locked(static_cast<uint8_t>(value)); break;
    default: break;
  }
}

platform::IoapicState Ioapic::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

void Ioapic::set_state(const platform::IoapicState& state) {
  const std::lock_guard lock(mutex_);
  state_ = state;
  state_.id &= 0xf;
  state_.register_select &= 0xff;
  for (uint64_t& entry : state_.redirection) {
    entry &= kWritable | kRemoteIrr;
    if (!is_level(entry)) entry &= ~kRemoteIrr;
  }
}

void Ioapic::save_state(state::StateWriter& writer) const {
  const platform::IoapicState saved = state();
  platform::IoapicState::describe(writer, saved);
}

Status Ioapic::load_state(state::StateReader& reader) {
  platform::IoapicState loaded;
  platform::IoapicState::describe(reader, loaded);
  RHEA_TRY(reader.status());
  set_state(loaded);
  return {};
}

}  // namespace rhea::devices
