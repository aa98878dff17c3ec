// SPDX-License-Identifier: Apache-2.0
// Destination matching on the APIC bus.
#include "machine/pc/apic_bus.h"

#include <algorithm>

namespace rhea::machine {
namespace {

constexpr uint8_t kFixed = 0, kLowestPriority = 1, kInit = 5, kSipi = 6, kExtInt = 7;
constexpr uint64_t kX2apicEnabled = 1u << 10;  // IA32_APIC_BASE.EXTD
enum Shorthand : unsigned { kNone, kSelf, kAllIncludingSelf, kAllExcludingSelf };

constexpr uint32_t kBroadcast8 = 0xff, kBroadcast = 0xffffffff;

// Eight bits, as xAPICs and messages have them; all ones reach every APIC, whatever mode it is in.
uint32_t widen(uint32_t destination, bool logical) {
  return destination == kBroadcast8 && !logical ? kBroadcast : destination;
}

}  // namespace

// Not all APICs need be asked: a physical destination is an ID, a logical one of more than eight bits that of a
// cluster of 16 in x2APIC mode. [SDM-3A 11.12.10.2]
ApicBus::Candidates ApicBus::candidates(const Delivery& delivery) const {
  const size_t all = lapics_.size();
  if (delivery.destination == kBroadcast) return {0, all};
  if (!delivery.logical) {
    // An xAPIC takes 255 for a broadcast even where an x2APIC sent it.
    if (delivery.destination == kBroadcast8) return {0, all};
    return delivery.destination < all ? Candidates{delivery.destination, 1} : Candidates{0, 0};
  }
  if (delivery.destination <= 0xff) return {0, all};
  const size_t first = size_t{delivery.destination >> 16} * 16;
  return first < all ? Candidates{first, std::min<size_t>(16, all - first)} : Candidates{0, 0};
}

void ApicBus::deliver(const Delivery& delivery) {
  if (delivery.mode == kLowestPriority && deliver_lowest_priority(delivery)) return;
  const auto [first, count] = candidates(delivery);
  for (size_t i = first; i < first + count; ++i) {
    if (lapics_[i]->matches(delivery.destination, delivery.logical))
      lapics_[i]->deliver(delivery.mode, delivery.vector, delivery.level_triggered);
  }
}

// Arbitration takes matching, enabled processors in turn: what current processors do as well, where the priority
// registers are equal. [SDM-3A 11.6.2.4]
bool ApicBus::deliver_lowest_priority(const Delivery& delivery) {
  const auto [first, count] = candidates(delivery);
  const uint32_t turn = next_.fetch_add(1, std::memory_order_relaxed);
  for (size_t i = 0; i < count; ++i) {
    cpu::Lapic* lapic = lapics_[first + (turn + i) % count];
    if (!lapic->enabled() || !lapic->matches(delivery.destination, delivery.logical)) continue;
    lapic->deliver(kFixed, delivery.vector, delivery.level_triggered);
    return true;
  }
  return false;
}

// [SDM-3A 11.6.1] GUEST-CONTROLLED: icr
void ApicBus::send_ipi(unsigned source, uint64_t icr) {
  if (source >= lapics_.size()) return;
  const bool x2apic = lapics_[source]->apic_base() & kX2apicEnabled;
  const bool asserted = icr & (1u << 14), level = icr & (1u << 15);
  const bool logical = icr & (1u << 11);
  Delivery delivery{.destination = x2apic ? static_cast<uint32_t>(icr >> 32) : widen(icr >> 56 & 0xff, logical),
                    .logical = logical,
                    .mode = static_cast<uint8_t>((icr >> 8) & 7),
                    .vector = static_cast<uint8_t>(icr),
                    .level_triggered = false};
  // INIT level de-assert only ever synchronised arbitration IDs.
  if (delivery.mode == kInit && level && !asserted) return;
  if (delivery.mode == kExtInt) return;  // not a valid IPI
  const auto shorthand = static_cast<Shorthand>((icr >> 18) & 3);
  if (shorthand == kNone) {
    deliver(delivery);
    return;
  }
  for (size_t i = 0; i < lapics_.size(); ++i) {
    bool self = i == source;
    if ((shorthand == kSelf && !self) || (shorthand == kAllExcludingSelf && self)) continue;
    if (self && (delivery.mode == kInit || delivery.mode == kSipi)) continue;
    lapics_[i]->deliver(delivery.mode == kLowestPriority ? kFixed : delivery.mode, delivery.vector, false);
  }
}

// GUEST-CONTROLLED: all three
bool ApicBus::send_to(uint32_t apic_id, uint8_t delivery_mode, uint8_t vector) {
  if (apic_id >= lapics_.size()) return false;
  lapics_[apic_id]->deliver(delivery_mode, vector, false);
  return true;
}

void ApicBus::wake(uint32_t apic_id) {
  if (apic_id < lapics_.size()) lapics_[apic_id]->wake();
}

void ApicBus::deliver_msi(const io::MsiMessage& message) {
  if ((message.address >> 20) != 0xfee) return;
  const bool redirection_hint = message.address & (1u << 3), logical = message.address & (1u << 2);
  const bool level = message.data & (1u << 15), asserted = message.data & (1u << 14);
  if (level && !asserted) return;
  Delivery delivery{.destination = widen((message.address >> 12) & 0xff, logical),
                    .logical = logical,
                    .mode = static_cast<uint8_t>((message.data >> 8) & 7),
                    .vector = static_cast<uint8_t>(message.data),
                    .level_triggered = level};
  if (redirection_hint && delivery.mode == kFixed) delivery.mode = kLowestPriority;
  if (delivery.mode == kExtInt) {
    // The I/O APIC's virtual-wire mode: the vector comes from the 8259s by an acknowledge cycle, over LINT0 here.
    return;
  }
  deliver(delivery);
}

void ApicBus::set_ext_int(bool level) {
  if (!lapics_.empty()) lapics_.front()->set_ext_int(level);
}

}  // namespace rhea::machine
