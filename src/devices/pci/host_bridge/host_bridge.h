// SPDX-License-Identifier: Apache-2.0
// The host bridge 8086:29c0 at 00:00.0: configuration mechanism #1 (ports 0xcf8/0xcfc) and the ECAM window.
// Spec: [Q35 5], [PCI-3.0 3.2.2.3.2], [PCIe-4.0 7.2.2]. SMRAM at A0000 and TSEG at the end of low RAM. Not implemented:
// PAM and TOLUD (there is no firmware to shadow; their registers do not exist), and of SMRAM D_CLS, the high segment
// and E_SMERR; DMA reaches SMRAM. Threads: vCPU threads; the bus's lock.
#pragma once

#include <mutex>

#include "devices/pci/host_bridge/host_bridge_regs.h"
#include "devices/pci/pci_bus.h"
#include "devices/pci/pci_function.h"
#include "io/device_spec.h"

namespace rhea::devices {

inline constexpr io::DeviceSpec kHostBridgeSpec = {.name = "host-bridge",
                                                   .help = "Q35 host bridge 8086:29c0",
                                                   .state_version = 2,
                                                   .pci = io::PciIds{.vendor = host_bridge_regs::kVendor,
                                                                     .device = host_bridge_regs::kDevice,
                                                                     .class_code = host_bridge_regs::kHostBridgeClass}};

class HostBridge final : public PciFunction {
 public:
  struct Options {
    uint64_t ecam_base = host_bridge_regs::kDefaultEcamBase;  // 256 MiB-aligned; where reset leaves PCIEXBAR, enabled
  };
  struct Context {
    PciBus& bus;
    io::IoHandler* reset_register = nullptr;  // byte accesses of port 0xcf9; see ResetRegister
    std::byte* low_ram = nullptr;             // host address of RAM at 0, of `low_ram_bytes`; nullptr: no SMRAM
    uint64_t low_ram_bytes = 0;
  };
  HostBridge(const Options& options, const Context& context);
  ~HostBridge() override;

  // Maps 0xcf8-0xcff and the ECAM window into the bus's address spaces and puts itself at 00:00.0.
  Status install();

  void reset() override;
  void save_state(state::StateWriter& writer) const override;
  Status load_state(state::StateReader& reader) override;

 protected:
  void on_config_written(uint16_t offset, unsigned size_bytes) override;

 private:
  class ConfigPorts final : public io::IoHandler {
   public:
    explicit ConfigPorts(HostBridge& bridge) : bridge_(bridge) {}
    uint64_t io_read(uint64_t port, unsigned size_bytes) override;
    void io_write(uint64_t port, uint64_t value, unsigned size_bytes) override;

   private:
    HostBridge& bridge_;
  };
  class Ecam final : public io::IoHandler {
   public:
    explicit Ecam(HostBridge& bridge) : bridge_(bridge) {}
    uint64_t io_read(uint64_t offset, unsigned size_bytes) override;
    void io_write(uint64_t offset, uint64_t value, unsigned size_bytes) override;

   private:
    HostBridge& bridge_;
  };
  void update_ecam();
  void update_smram();
  void lock_smram();

  Options options_;
  PciBus& bus_;
  io::IoHandler* reset_register_;
  ConfigPorts config_ports_{*this};
  Ecam ecam_{*this};
  mutable std::mutex address_mutex_;
  uint32_t config_address_ = 0;
  std::byte* const low_ram_;
  const uint64_t low_ram_bytes_;
  struct Shown {  // what of SMRAM is mapped
    bool segment = false, open = false;
    uint64_t tseg_bytes = 0;
    bool operator==(const Shown&) const = default;
  } shown_;
  io::AddressSpace::MappingId segment_mapping_ = 0, tseg_mapping_ = 0;
  bool installed_ = false;
  io::AddressSpace::MappingId ports_mapping_ = 0;
  bool ecam_mapped_ = false;
  uint64_t ecam_address_ = 0, ecam_bytes_ = 0;
  io::AddressSpace::MappingId ecam_mapping_ = 0;
};

}  // namespace rhea::devices
