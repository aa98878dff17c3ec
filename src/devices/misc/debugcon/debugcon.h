// SPDX-License-Identifier: Apache-2.0
// The debug console: every byte written to the port goes to a sink; reads return the port's low byte.
// Threads: vCPU threads; stateless.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "io/address_space.h"
#include "io/device.h"
#include "io/device_spec.h"

namespace rhea::devices {

inline constexpr io::PropertySpec kDebugconProperties[] = {
    {.name = "port", .type = io::PropertyType::kUint, .help = "first I/O port", .default_value = "0xe9", .max = 0xffff},
};
inline constexpr io::DeviceSpec kDebugconSpec = {
    .name = "debugcon", .help = "debug console port", .state_version = 1, .properties = kDebugconProperties};

class Debugcon final : public io::Device, public io::IoHandler {
 public:
  struct Options {
    uint16_t port = 0xe9;
  };
  struct Context {
    std::function<void(std::span<const std::byte>)> sink;  // vCPU thread
  };
  Debugcon(const Options& options, Context context);

  void map_into(io::AddressSpace& ports);

  std::string_view name() const override { return "debugcon"; }
  void reset() override {}
  void save_state(state::StateWriter& writer) const override;
  Status load_state(state::StateReader& reader) override;
  uint64_t io_read(uint64_t offset, unsigned size_bytes) override;
  void io_write(uint64_t offset, uint64_t value, unsigned size_bytes) override;

 private:
  Options options_;
  std::function<void(std::span<const std::byte>)> sink_;
};

}  // namespace rhea::devices
