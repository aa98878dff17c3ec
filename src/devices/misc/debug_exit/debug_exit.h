// SPDX-License-Identifier: Apache-2.0
// The debug-exit port: a guest test ends its VM by writing v, and the process exits with (v << 1) | 1.
// Threads: vCPU threads; stateless.
#pragma once

#include <cstdint>
#include <functional>

#include "io/address_space.h"
#include "io/device.h"
#include "io/device_spec.h"

namespace rhea::devices {

inline constexpr io::PropertySpec kDebugExitProperties[] = {
    {.name = "port", .type = io::PropertyType::kUint, .help = "first I/O port", .default_value = "0xf4", .max = 0xfffc},
};
inline constexpr io::DeviceSpec kDebugExitSpec = {.name = "debug-exit",
                                                  .help = "port by which a guest ends its VM with a status",
                                                  .state_version = 1,
                                                  .properties = kDebugExitProperties};

class DebugExit final : public io::Device, public io::IoHandler {
 public:
  struct Options {
    uint16_t port = 0xf4;
  };
  struct Context {
    std::function<void(uint32_t status)> exit;  // status is (v << 1) | 1 already; vCPU thread
  };
  DebugExit(const Options& options, Context context);

  void map_into(io::AddressSpace& ports);  // 4 ports, so that 1-, 2- and 4-byte writes arrive whole

  std::string_view name() const override { return "debug-exit"; }
  void reset() override {}
  void save_state(state::StateWriter& writer) const override;
  Status load_state(state::StateReader& reader) override;
  uint64_t io_read(uint64_t offset, unsigned size_bytes) override;
  void io_write(uint64_t offset, uint64_t value, unsigned size_bytes) override;

 private:
  Options options_;
  std::function<void(uint32_t)> exit_;
};

}  // namespace rhea::devices
