// SPDX-License-Identifier: Apache-2.0
// Ends of the interrupt wiring that write down what reaches them.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "io/irq.h"

namespace rhea::testing {

// Everything a router can be connected to, recording. For single-threaded tests.
class FakeIrqSinks final : public io::GsiSink, public io::MsiSink, public io::EoiListener, public io::ExtIntSink {
 public:
  struct GsiChange {
    unsigned gsi;
    bool level;
    bool operator==(const GsiChange&) const = default;
  };

  FakeIrqSinks() = default;
  explicit FakeIrqSinks(io::IrqRouter& router) {
    router.connect_gsi_sink(this);
    router.connect_msi_sink(this);
    router.connect_eoi_listener(this);
    router.connect_ext_int_sink(this);
  }

  void set_gsi(unsigned gsi, bool level) override {
    gsi_changes.push_back({gsi, level});
    if (gsi >= io::kGsiCount) return;
    if (level && !levels[gsi]) ++rising_edges[gsi];
    levels[gsi] = level;
  }
  void deliver_msi(const io::MsiMessage& message) override { msis.push_back(message); }
  void on_eoi(uint8_t vector) override { eois.push_back(vector); }
  void set_ext_int(bool level) override { ext_int = level; }

  std::vector<GsiChange> gsi_changes;
  std::array<bool, io::kGsiCount> levels{};
  std::array<unsigned, io::kGsiCount> rising_edges{};
  std::vector<io::MsiMessage> msis;
  std::vector<uint8_t> eois;
  bool ext_int = false;
};

}  // namespace rhea::testing
