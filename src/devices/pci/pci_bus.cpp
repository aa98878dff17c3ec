// SPDX-License-Identifier: Apache-2.0
// Functions on a bus, and the way to them.
#include "devices/pci/pci_bus.h"

#include <algorithm>

#include "base/numeric.h"

namespace rhea::devices {
namespace {

constexpr unsigned kFunctionsPerDevice = 8, kDevices = 32;

bool valid_access(uint16_t offset, unsigned size_bytes) {
  return (size_bytes == 1 || size_bytes == 2 || size_bytes == 4) && offset % size_bytes == 0 &&
         offset + size_bytes <= pci_regs::kConfigBytes;
}

}  // namespace

Status PciBus::add(PciFunction& function, uint8_t device_number, uint8_t function_number) {
  if (device_number >= kDevices || function_number >= kFunctionsPerDevice)
    return fail(ErrorCode::kInvalidArgument, "pci: there is no such slot");
  const std::lock_guard lock(mutex_);
  PciFunction*& slot = functions_[device_number * kFunctionsPerDevice + function_number];
  if (slot != nullptr) return fail(ErrorCode::kBusy, "pci: the slot holds another function already");
  slot = &function;
  function.attach(this, device_number, function_number);
  return {};
}

void PciBus::remove(PciFunction& function) {
  const std::lock_guard lock(mutex_);
  std::ranges::replace(functions_, &function, nullptr);
  function.detach();
}

PciFunction* PciBus::find(uint8_t bus, uint8_t device_function) {
  if (bus == (bridge_ ? bridge_->secondary_number() : 0)) return functions_[device_function];
  for (PciFunction* function : functions_) {
    PciBus* const behind = function == nullptr ? nullptr : function->bus_behind(bus);
    if (behind != nullptr) return behind->find(bus, device_function);
  }
  return nullptr;
}

void PciBus::upstream_changed() {
  for (PciFunction* function : functions_)
    if (function != nullptr) function->upstream_changed();
}

void PciBus::reset_functions() {
  for (PciFunction* function : functions_)
    if (function != nullptr) function->reset();
}

uint32_t PciBus::config_read(uint8_t bus, uint8_t device_function, uint16_t offset, unsigned size_bytes) {
  const auto none = static_cast<uint32_t>(base::byte_mask(size_bytes));
  if (!valid_access(offset, size_bytes)) return none;
  const std::lock_guard lock(mutex_);
  PciFunction* const function = find(bus, device_function);
  return function == nullptr ? none : function->config_read(offset, size_bytes);
}

void PciBus::config_write(uint8_t bus, uint8_t device_function, uint16_t offset, uint32_t value, unsigned size_bytes) {
  if (!valid_access(offset, size_bytes)) return;
  const std::lock_guard lock(mutex_);
  if (PciFunction* const function = find(bus, device_function)) function->config_write(offset, value, size_bytes);
}

}  // namespace rhea::devices
