// SPDX-License-Identifier: Apache-2.0
// Destination matching on the APIC bus.
#include "machine/pc/apic_bus.h"

namespace rhea::machine {
namespace {

constexpr uint8_t kFixed = 0, kLowestPriority = 1, kInit = 5, kSipi = 6, kExtInt = 7;
constexpr uint64_t kX2apicEnabled = 1u << 10;  // IA32_APIC_BASE.EXTD
enum Shorthand : unsigned { kNone, kSelf, kAllIncludingSelf, kAllExcludingSelf };

}  // namespace

void ApicBus::deliver(const Delivery& delivery) {
  if (delivery.mode == kLowestPriority && deliver_lowest_priority(delivery)) return;
  for (cpu::Lapic* lapic : lapics_) {
    if (lapic->matches(delivery.destination, delivery.logical))
      lapic->deliver(delivery.mode, delivery.vector, delivery.level_triggered);
  }
}

// Arbitration takes matching, enabled processors in turn: what current processors do as well, where the priority
// registers are equal. [SDM-3A 11.6.2.4]
bool ApicBus::deliver_lowest_priority(const Delivery& delivery) {
  const size_t count = lapics_.size();
  const uint32_t first = next_.fetch_add(1, std::memory_order_relaxed);
  for (size_t i = 0; i < count; ++i) {
    cpu::Lapic* lapic = lapics_[(first + i) % count];
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
  Delivery delivery{.destination = static_cast<uint32_t>(x2apic ? icr >> 32 : icr >> 56),
                    .logical = (icr & (1u << 11)) != 0,
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

void ApicBus::deliver_msi(const io::MsiMessage& message) {
  if ((message.address >> 20) != 0xfee) return;
  const bool redirection_hint = message.address & (1u << 3), logical = message.address & (1u << 2);
  const bool level = message.data & (1u << 15), asserted = message.data & (1u << 14);
  if (level && !asserted) return;
  Delivery delivery{.destination = static_cast<uint32_t>((message.address >> 12) & 0xff),
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
