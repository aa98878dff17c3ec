// SPDX-License-Identifier: Apache-2.0
// State of the I/O APIC.
#pragma once

#include <array>
#include <cstdint>

namespace rhea::platform {

inline constexpr unsigned kIoapicPins = 24;

struct IoapicState {
  static constexpr uint32_t kStateVersion = 1;

  uint32_t id = 0;  // 4 bits
  uint32_t register_select = 0;
  std::array<uint64_t, kIoapicPins> redirection{};  // as the guest reads them, remote IRR in bit 14
  uint32_t lines = 0;                               // input levels

  template <class Archive>
  static void describe(Archive& archive, auto& self) {
    archive.field("id", self.id);
    archive.field("register_select", self.register_select);
    archive.field("redirection", self.redirection);
    archive.field("lines", self.lines);
  }
};

}  // namespace rhea::platform
