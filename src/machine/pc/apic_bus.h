// SPDX-License-Identifier: Apache-2.0
// The bus between local APICs, I/O APIC and devices: destination matching for IPIs and MSIs. [SDM-3A 11.6, 11.11]
// Threads: any; the set of APICs is fixed before the VM runs.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "cpu/lapic.h"
#include "io/irq.h"

namespace rhea::machine {

class ApicBus final : public cpu::LapicBus, public io::MsiSink, public io::ExtIntSink {
 public:
  explicit ApicBus(io::IrqRouter& router) : router_(router) {}

  // In the order of APIC IDs, which are 0, 1, 2, ...; the first is the boot processor's.
  void add(cpu::Lapic& lapic) { lapics_.push_back(&lapic); }

  // cpu::LapicBus
  void send_ipi(unsigned source, uint64_t icr) override;
  void broadcast_eoi(uint8_t vector) override { router_.broadcast_eoi(vector); }
  bool send_to(uint32_t apic_id, uint8_t delivery_mode, uint8_t vector) override;
  void wake(uint32_t apic_id) override;
  // io::MsiSink: [SDM-3A 11.11]. Messages outside 0xfeexxxxx are dropped.
  void deliver_msi(const io::MsiMessage& message) override;
  // io::ExtIntSink: the 8259s' INTR goes to the boot processor's LINT0 alone.
  void set_ext_int(bool level) override;

 private:
  struct Delivery {
    uint32_t destination;
    bool logical;
    uint8_t mode;
    uint8_t vector;
    bool level_triggered;
  };
  // APICs that may match a destination: [first, first + count).
  struct Candidates {
    size_t first, count;
  };
  Candidates candidates(const Delivery& delivery) const;
  void deliver(const Delivery& delivery);
  bool deliver_lowest_priority(const Delivery& delivery);

  io::IrqRouter& router_;
  std::vector<cpu::Lapic*> lapics_;
  std::atomic<uint32_t> next_{0};  // where the arbitration of lowest-priority messages starts
};

}  // namespace rhea::machine
