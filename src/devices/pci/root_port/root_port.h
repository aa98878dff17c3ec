// SPDX-License-Identifier: Apache-2.0
// A PCI Express root port: a bridge from bus 0 to a bus with one slot. Spec: [PCIe-4.0 7.5], [PCI-BRIDGE-1.2 3.2].
// Not implemented: hot plug (the slot says that it cannot), AER, MSI of the port itself: it has nothing to report.
// Threads: as for PciFunction.
#pragma once

#include <cstdint>
#include <string>

#include "devices/pci/pci_bus.h"
#include "devices/pci/pci_function.h"

namespace rhea::devices {

class RootPort final : public PciFunction, public PciUpstream {
 public:
  struct Options {
    std::string name = "port0";
    uint8_t number = 0;          // of the port, and of its slot less one
    bool multifunction = false;  // other ports share its device number
  };
  RootPort(const Options& options, const PciBus::Context& context);

  PciBus& secondary_bus() { return bus_behind_; }
  void set_occupied();  // a device is in the slot

  // PciFunction
  void reset() override;
  Status load_state(state::StateReader& reader) override;
  PciBus* bus_behind(uint8_t bus) override;

  // PciUpstream
  uint8_t secondary_number() const override;
  bool forwards(bool io, uint64_t address, uint64_t size_bytes) const override;
  bool forwards_upstream() const override { return bus_master(); }
  unsigned gsi(uint8_t device_number, uint8_t pin) const override;

 protected:
  void on_config_written(uint16_t offset, unsigned size_bytes) override;
  void on_upstream_changed() override;

 private:
  void add_express_capability(const Options& options);

  PciBus bus_behind_;
  uint16_t express_ = 0;
  bool held_in_reset_ = false;
};

}  // namespace rhea::devices
