// SPDX-License-Identifier: Apache-2.0
// The ACPI fixed hardware block.
#include "devices/acpi/pm/pm.h"

#include <utility>

#include "base/numeric.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices {

using namespace pm_regs;

namespace {

constexpr uint64_t kNanosecondsPerSecond = 1'000'000'000;

// One byte of a register of several.
template <class T>
uint8_t byte_of(T value, uint64_t index) {
  return static_cast<uint8_t>(value >> (8 * index));
}
template <class T>
T with_byte(T value, uint64_t index, uint8_t byte) {
  return static_cast<T>((value & ~(T{0xff} << (8 * index))) | static_cast<T>(T{byte} << (8 * index)));
}

}  // namespace

AcpiPm::AcpiPm(const Options& options, Context context)
    : options_(options),
      clock_(context.clock),
      power_off_(std::move(context.power_off)),
      smi_(std::move(context.smi)),
      sci_(context.sci),
      timer_(context.clock.create_timer([this] { on_timer(); })) {
  reset();
}

AcpiPm::~AcpiPm() = default;

void AcpiPm::map_into(io::AddressSpace& ports) {
  ports.map({.start = options_.base,
             .size_bytes = kBlockBytes,
             .handler = this,
             .handler_offset = kBlockFlag,
             .name = "acpi-pm"});
  ports.map({.start = kSmiCommandPort,
             .size_bytes = 2,
             .handler = this,
             .handler_offset = kSmiCommandPort,
             .name = "acpi-smi"});
}

void AcpiPm::reset() {
  const std::lock_guard lock(mutex_);
  pm1_status_ = pm1_enable_ = pm1_control_ = 0;
  gpe_status_ = gpe_enable_ = 0;
  smi_command_ = smi_data_ = 0;
  smi_enable_ = smi_status_ = 0;
  reported_flips_ = timer_flips();
  update();
}

uint64_t AcpiPm::timer_ticks() const { return base::mul_div(clock_.now_ns(), kTimerHz, kNanosecondsPerSecond); }
uint64_t AcpiPm::timer_flips() const { return timer_ticks() >> (timer_bits() - 1); }

// TMR_STS is set whenever the most significant bit changes. [ACPI-6.5 4.8.3.3]
void AcpiPm::collect_timer_status() {
  const uint64_t flips = timer_flips();
  if (flips != reported_flips_) pm1_status_ |= kTimerStatus;
  reported_flips_ = flips;
}

void AcpiPm::update() {
  collect_timer_status();
  const bool event = (pm1_status_ & pm1_enable_) != 0 || (gpe_status_ & gpe_enable_) != 0;
  sci_.set((pm1_control_ & kSciEnable) && event);
  if ((pm1_enable_ & kTimerStatus) && !(pm1_status_ & kTimerStatus)) {
    const uint64_t tick = (reported_flips_ + 1) << (timer_bits() - 1);
    timer_->arm(base::mul_div(tick, kNanosecondsPerSecond, kTimerHz) + 1);
  } else {
    timer_->cancel();
  }
}

void AcpiPm::on_timer() {
  const std::lock_guard lock(mutex_);
  update();
}

uint8_t AcpiPm::read_byte(uint64_t offset) {
  if (offset == kSmiCommandPort) return smi_command_;
  if (offset == kSmiDataPort) return smi_data_;
  const uint64_t block = offset - kBlockFlag;
  if (block < kPm1Event + 2) return byte_of(pm1_status_, block - kPm1Event);
  if (block < kPm1Event + 4) return byte_of(pm1_enable_, block - kPm1Event - 2);
  if (block < kPm1Control + 2) return byte_of(pm1_control_, block - kPm1Control);
  if (block >= kTimer && block < kTimer + 4) {
    const uint64_t value = timer_ticks() & ((uint64_t{1} << timer_bits()) - 1);
    return byte_of(value, block - kTimer);
  }
  if (block >= kGpe0 && block < kGpe0 + 8) return byte_of(gpe_status_, block - kGpe0);
  if (block >= kGpe0 + 8 && block < kGpe0 + kGpe0Bytes) return byte_of(gpe_enable_, block - kGpe0 - 8);
  if (block >= kSmiEnable && block < kSmiEnable + 4) return byte_of(smi_enable_, block - kSmiEnable);
  if (block >= kSmiStatus && block < kSmiStatus + 4) return byte_of(smi_status_, block - kSmiStatus);
  return 0;
}

void AcpiPm::write_byte(uint64_t offset, uint8_t value) {
  if (offset == kSmiDataPort) {
    smi_data_ = value;
    return;
  }
  if (offset == kSmiCommandPort) {
    smi_command_ = value;
    if (value == kAcpiEnable) pm1_control_ |= kSciEnable;
    if (value == kAcpiDisable) pm1_control_ &= static_cast<uint16_t>(~kSciEnable);
    if (smi_enable_ & kApmSmiEnable) smi_status_ |= kApmSmiStatus;
    return;
  }
  const uint64_t block = offset - kBlockFlag;
  if (block < kPm1Event + 2) {
    const auto clear = static_cast<uint16_t>(value << (8 * (block - kPm1Event)));
    pm1_status_ &= static_cast<uint16_t>(~clear);
  } else if (block < kPm1Event + 4) {
    pm1_enable_ = with_byte(pm1_enable_, block - kPm1Event - 2, value) & kPm1EnableBits;
  } else if (block < kPm1Control + 2) {
    // SCI_EN belongs to the SMI handler, SLP_EN reads 0. [ACPI-6.5 4.8.3.2.1]
    constexpr uint16_t kWritable = kBusMasterReload | kSleepTypeMask;
    const uint16_t written = with_byte(pm1_control_, block - kPm1Control, value);
    pm1_control_ = static_cast<uint16_t>((written & kWritable) | (pm1_control_ & kSciEnable));
  } else if (block >= kGpe0 && block < kGpe0 + 8) {
    gpe_status_ &= ~(uint64_t{value} << (8 * (block - kGpe0)));
  } else if (block >= kGpe0 + 8 && block < kGpe0 + kGpe0Bytes) {
    gpe_enable_ = with_byte(gpe_enable_, block - kGpe0 - 8, value);
  } else if (block >= kSmiEnable && block < kSmiEnable + 4) {
    smi_enable_ = with_byte(smi_enable_, block - kSmiEnable, value) & (kGlobalSmiEnable | kApmSmiEnable);
  } else if (block >= kSmiStatus && block < kSmiStatus + 4) {
    smi_status_ &= ~(uint32_t{value} << (8 * (block - kSmiStatus)));
  }
}

uint64_t AcpiPm::io_read(uint64_t offset, unsigned size_bytes) {
  // The timer is what guests read all the time: it needs no lock.
  if (offset == kBlockFlag + kTimer && size_bytes == 4) return timer_ticks() & ((uint64_t{1} << timer_bits()) - 1);
  const std::lock_guard lock(mutex_);
  collect_timer_status();
  uint64_t value = 0;
  for (unsigned i = 0; i < size_bytes; ++i) value |= uint64_t{read_byte(offset + i)} << (8 * i);
  return value;
}

void AcpiPm::io_write(uint64_t offset, uint64_t value, unsigned size_bytes) {
  bool power_off = false, smi = false;
  {
    const std::lock_guard lock(mutex_);
    collect_timer_status();
    for (unsigned i = 0; i < size_bytes; ++i) {
      const auto byte = static_cast<uint8_t>(value >> (8 * i));
      write_byte(offset + i, byte);
      constexpr uint32_t kBoth = kGlobalSmiEnable | kApmSmiEnable;
      smi = smi || (offset + i == kSmiCommandPort && (smi_enable_ & kBoth) == kBoth);
      // SLP_EN takes the sleep type that was written with it. [ACPI-6.5 4.8.3.2.1]
      if (offset + i == kBlockFlag + kPm1Control + 1 && (byte & (kSleepEnable >> 8)))
        power_off = (pm1_control_ & kSleepTypeMask) >> kSleepTypeShift == kSleepTypeS5;
    }
    update();
  }
  if (power_off && power_off_) power_off_();
  if (smi && smi_) smi_();
}

void AcpiPm::press_power_button() {
  const std::lock_guard lock(mutex_);
  pm1_status_ |= kPowerButton;
  update();
}

bool AcpiPm::acpi_enabled() const {
  const std::lock_guard lock(mutex_);
  return pm1_control_ & kSciEnable;
}

void AcpiPm::raise_gpe(unsigned event) {
  if (event >= kGpe0Events) return;
  const std::lock_guard lock(mutex_);
  gpe_status_ |= uint64_t{1} << event;
  update();
}

void AcpiPm::save_state(state::StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  writer.field("pm1_status", pm1_status_);
  writer.field("pm1_enable", pm1_enable_);
  writer.field("pm1_control", pm1_control_);
  writer.field("gpe_status", gpe_status_);
  writer.field("gpe_enable", gpe_enable_);
  writer.field("smi_command", smi_command_);
  writer.field("smi_data", smi_data_);
  writer.field("reported_flips", reported_flips_);
  writer.field("smi_enable", smi_enable_);
  writer.field("smi_status", smi_status_);
}

Status AcpiPm::load_state(state::StateReader& reader) {
  const std::lock_guard lock(mutex_);
  reader.field("pm1_status", pm1_status_);
  reader.field("pm1_enable", pm1_enable_);
  reader.field("pm1_control", pm1_control_);
  reader.field("gpe_status", gpe_status_);
  reader.field("gpe_enable", gpe_enable_);
  reader.field("smi_command", smi_command_);
  reader.field("smi_data", smi_data_);
  reader.field("reported_flips", reported_flips_);
  smi_enable_ = smi_status_ = 0;
  reader.field_since(2, "smi_enable", smi_enable_);
  reader.field_since(2, "smi_status", smi_status_);
  smi_enable_ &= kGlobalSmiEnable | kApmSmiEnable;
  smi_status_ &= kApmSmiStatus;
  pm1_status_ &= kPm1StatusBits;
  pm1_enable_ &= kPm1EnableBits;
  pm1_control_ &= kSciEnable | kBusMasterReload | kSleepTypeMask;
  RHEA_TRY(reader.status());
  update();
  return {};
}

}  // namespace rhea::devices
