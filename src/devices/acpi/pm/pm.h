// SPDX-License-Identifier: Apache-2.0
// ACPI power management: PM1 event and control blocks, PM timer, GPE0 block, SMI command port, SCI.
// Spec: [ACPI-6.5 4.8, ICH9 13.8.3]. Not implemented: sleep states other than S5 (not offered by the DSDT), PM1b; of
// SMIs all sources but the SMI command port (which turns ACPI on and off by itself, whether or not SMIs are on), and
// EOS. Threads: any; own lock.
#pragma once

#include <functional>
#include <memory>
#include <mutex>

#include "devices/acpi/pm/pm_regs.h"
#include "io/address_space.h"
#include "io/clock.h"
#include "io/device.h"
#include "io/device_spec.h"
#include "io/irq.h"

namespace rhea::devices {

inline constexpr io::DeviceSpec kAcpiPmSpec = {
    .name = "acpi-pm", .help = "ACPI power management block", .state_version = 2};

class AcpiPm final : public io::Device, public io::IoHandler {
 public:
  struct Options {
    uint16_t base = pm_regs::kDefaultBase;
    bool timer_32bit = true;  // FADT TMR_VAL_EXT
  };
  struct Context {
    io::Clock& clock;
    io::IrqLine sci;                  // GSI 9
    std::function<void()> power_off;  // SLP_EN with the S5 type; vCPU thread, outside the lock
    std::function<void()> smi = {};   // to all processors; vCPU thread, outside the lock
  };
  AcpiPm(const Options& options, Context context);
  ~AcpiPm() override;

  void map_into(io::AddressSpace& ports);  // the block and 0xb2-0xb3

  std::string_view name() const override { return "acpi-pm"; }
  void reset() override;
  void save_state(state::StateWriter& writer) const override;
  Status load_state(state::StateReader& reader) override;

  // Offsets are port numbers for 0xb2-0xb3; the block starts at kBlockFlag.
  uint64_t io_read(uint64_t offset, unsigned size_bytes) override;
  void io_write(uint64_t offset, uint64_t value, unsigned size_bytes) override;

  // Any thread. Sets PWRBTN_STS; without ACPI enabled by the guest it only stays recorded.
  void press_power_button();
  bool acpi_enabled() const;  // SCI_EN
  // Raises general-purpose event `event` (0-63). Any thread.
  void raise_gpe(unsigned event);

 private:
  static constexpr uint64_t kBlockFlag = 0x10000;
  uint8_t read_byte(uint64_t offset);
  void write_byte(uint64_t offset, uint8_t value);
  uint64_t timer_ticks() const;
  unsigned timer_bits() const { return options_.timer_32bit ? 32 : 24; }
  uint64_t timer_flips() const;  // how often the timer's most significant bit has changed
  void collect_timer_status();
  void update();  // SCI line and timer, after any change
  void on_timer();

  Options options_;
  io::Clock& clock_;
  std::function<void()> power_off_, smi_;
  mutable std::mutex mutex_;
  io::IrqLine sci_;
  uint16_t pm1_status_ = 0, pm1_enable_ = 0, pm1_control_ = 0;
  uint64_t gpe_status_ = 0, gpe_enable_ = 0;
  uint8_t smi_command_ = 0, smi_data_ = 0;
  uint32_t smi_enable_ = 0, smi_status_ = 0;
  uint64_t reported_flips_ = 0;
  std::unique_ptr<io::Timer> timer_;
};

}  // namespace rhea::devices
