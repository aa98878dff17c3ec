// SPDX-License-Identifier: Apache-2.0
// System control port A (0x92): fast A20 and fast reset.
// Spec: [ICH9 13.7.2]. Threads: any; own lock.
#pragma once

#include <functional>
#include <mutex>

#include "io/address_space.h"
#include "io/device.h"
#include "io/device_spec.h"

namespace rhea::devices {

inline constexpr io::DeviceSpec kPort92Spec = {.name = "port92", .help = "system control port A", .state_version = 1};

class Port92 final : public io::Device, public io::IoHandler {
 public:
  static constexpr uint16_t kPort = 0x92;
  struct Context {
    std::function<void()> request_reset;           // vCPU thread, outside the lock
    std::function<void(bool level)> set_a20 = {};  // the fast A20 bit, whenever it may have changed; under the lock
  };
  explicit Port92(Context context);

  void map_into(io::AddressSpace& ports);

  std::string_view name() const override { return "port92"; }
  void reset() override;
  void save_state(state::StateWriter& writer) const override;
  Status load_state(state::StateReader& reader) override;
  uint64_t io_read(uint64_t offset, unsigned size_bytes) override;
  void io_write(uint64_t offset, uint64_t value, unsigned size_bytes) override;

 private:
  void drive_a20() const;

  mutable std::mutex mutex_;
  std::function<void()> request_reset_;
  std::function<void(bool)> set_a20_;
  uint8_t value_ = 0;
};

}  // namespace rhea::devices
