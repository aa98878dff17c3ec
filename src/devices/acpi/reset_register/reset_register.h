// SPDX-License-Identifier: Apache-2.0
// The reset control register of the chipset (port 0xcf9), which the FADT names as RESET_REG.
// Spec: [ICH9 13.7.4], [ACPI-6.5 4.8.3.6]. Threads: any; own lock.
#pragma once

#include <functional>
#include <mutex>

#include "io/address_space.h"
#include "io/device.h"
#include "io/device_spec.h"

namespace rhea::devices {

inline constexpr io::DeviceSpec kResetRegisterSpec = {
    .name = "reset-register", .help = "reset control register 0xcf9", .state_version = 1};

// The port lies inside the PCI configuration address register: the host bridge forwards byte accesses of
// 0xcf9 here, so this device maps nothing itself (see HostBridge::Context::reset_register).
class ResetRegister final : public io::Device, public io::IoHandler {
 public:
  static constexpr uint16_t kPort = 0xcf9;
  static constexpr uint8_t kHardReset = 0x02, kResetCpu = 0x04, kFullReset = 0x08;
  static constexpr uint8_t kResetValue = kHardReset | kResetCpu;  // FADT RESET_VALUE

  struct Context {
    std::function<void()> request_reset;  // vCPU thread, outside the lock
  };
  explicit ResetRegister(Context context);

  std::string_view name() const override { return "reset-register"; }
  void reset() override;
  void save_state(state::StateWriter& writer) const override;
  Status load_state(state::StateReader& reader) override;
  uint64_t io_read(uint64_t offset, unsigned size_bytes) override;
  void io_write(uint64_t offset, uint64_t value, unsigned size_bytes) override;

 private:
  mutable std::mutex mutex_;
  std::function<void()> request_reset_;
  uint8_t value_ = 0;
};

}  // namespace rhea::devices
