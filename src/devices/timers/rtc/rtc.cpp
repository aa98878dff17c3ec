// SPDX-License-Identifier: Apache-2.0
// The real-time clock. Nothing ticks while nobody looks: the time registers are computed from the wall clock, flags
// are brought up to date at each access, and a host timer is armed only for an interrupt that the guest enabled
// and that is not pending already.
#include "devices/timers/rtc/rtc.h"

#include <algorithm>
#include <chrono>

#include "base/numeric.h"
#include "devices/timers/rtc/rtc_regs.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices {

using namespace rtc_regs;

namespace {

constexpr int64_t kSecondNs = 1'000'000'000;
constexpr int64_t kDaySeconds = 86'400;
constexpr uint64_t kCrystalHz = 32'768;
constexpr uint64_t kKib = 1024, kMib = 1024 * kKib;

int64_t floor_div(int64_t value, int64_t by) { return value / by - (value % by < 0 ? 1 : 0); }

}  // namespace

Rtc::Rtc(const Options& options, const Context& context)
    : options_(options),
      clock_(context.clock),
      set_nmi_masked_(context.set_nmi_masked),
      irq_(context.irq),
      timer_(context.clock.create_timer([this] { on_timer(); })) {
  cmos_[kRegisterA] = kDividerNormal | 6;  // 1.024 kHz
  cmos_[kRegisterB] = k24Hour;
  reset();
}

Rtc::~Rtc() = default;

void Rtc::map_into(io::AddressSpace& ports) {
  ports.map({.start = kIndexPort, .size_bytes = 2, .handler = this, .handler_offset = kIndexPort, .name = "rtc"});
}

// The RESET pin clears enables and flags; time and CMOS are battery-backed. [MC146818 "RESET"]
void Rtc::reset() {
  const std::lock_guard lock(mutex_);
  cmos_[kRegisterB] &= static_cast<uint8_t>(~(kPeriodicEnable | kAlarmEnable | kUpdateEnable | kSquareWave));
  cmos_[kRegisterC] = 0;
  cmos_[kRegisterD] = kValidRamAndTime;
  index_ = 0;
  nmi_masked_ = false;
  irq_.set(false);
  write_memory_size();
  last_second_ = floor_div(guest_time_ns(), kSecondNs);
  last_period_ = period_ticks() ? crystal_ticks() / *period_ticks() : 0;
  schedule();
}

// What a firmware leaves for those who still look there.
void Rtc::write_memory_size() {
  const auto put = [this](unsigned index, uint64_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; ++i) cmos_[index + i] = static_cast<uint8_t>(value >> (8 * i));
  };
  const uint64_t below = options_.memory_below_4g_bytes, above = options_.memory_above_4g_bytes;
  const uint64_t extended_kib = below > kMib ? std::min<uint64_t>((below - kMib) / kKib, 63 * 1024) : 0;
  put(kBaseMemoryLow, std::min<uint64_t>(below / kKib, 640), 2);
  put(kExtendedMemoryLow, extended_kib, 2);
  put(kExtendedMemoryLow2, extended_kib, 2);
  put(kMemoryAbove16mLow, below > 16 * kMib ? std::min<uint64_t>((below - 16 * kMib) / (64 * kKib), 0xffff) : 0, 2);
  put(kMemoryAbove4gLow, std::min<uint64_t>(above / (64 * kKib), 0xffffff), 3);
  cmos_[kEquipment] = 0x06;  // coprocessor, PS/2 mouse; no floppy, no display
}

bool Rtc::stopped() const { return (cmos_[kRegisterB] & kSet) || (cmos_[kRegisterA] & kDividerMask) >= kDividerReset; }

int64_t Rtc::guest_time_ns() const { return clock_.wall_time_ns() + offset_ns_; }

int64_t Rtc::phase_ns() const {
  const int64_t now = guest_time_ns();
  return now - floor_div(now, kSecondNs) * kSecondNs;
}

uint8_t Rtc::encode(unsigned value) const {
  return static_cast<uint8_t>((cmos_[kRegisterB] & kBinary) ? value : value / 10 << 4 | value % 10);
}
unsigned Rtc::decode(uint8_t value) const {
  return (cmos_[kRegisterB] & kBinary) ? value : (value >> 4) * 10u + (value & 15);
}
// [MC146818 table 3] 12-hour mode counts 12, 1 ... 11, with PM in bit 7.
uint8_t Rtc::encode_hour(unsigned hour) const {
  if (cmos_[kRegisterB] & k24Hour) return encode(hour);
  const unsigned shown = hour % 12 == 0 ? 12 : hour % 12;
  return static_cast<uint8_t>(encode(shown) | (hour >= 12 ? kPm : 0));
}
unsigned Rtc::decode_hour(uint8_t value) const {
  if (cmos_[kRegisterB] & k24Hour) return decode(value);
  return decode(value & static_cast<uint8_t>(~kPm)) % 12 + ((value & kPm) ? 12 : 0);
}

void Rtc::store_time() {
  using namespace std::chrono;
  const int64_t second = floor_div(guest_time_ns(), kSecondNs);
  const int64_t day_number = floor_div(second, kDaySeconds);
  const auto of_day = static_cast<unsigned>(second - day_number * kDaySeconds);
  const sys_days days{std::chrono::days{day_number}};
  const year_month_day date{days};
  const auto year = static_cast<unsigned>(static_cast<int>(date.year()));
  cmos_[kSeconds] = encode(of_day % 60);
  cmos_[kMinutes] = encode(of_day / 60 % 60);
  cmos_[kHours] = encode_hour(of_day / 3600);
  cmos_[kDayOfWeek] = encode(weekday{days}.c_encoding() + 1);
  cmos_[kDayOfMonth] = encode(static_cast<unsigned>(date.day()));
  cmos_[kMonth] = encode(static_cast<unsigned>(date.month()));
  cmos_[kYear] = encode(year % 100);
  cmos_[kCentury] = encode(year / 100);
}

void Rtc::load_time(int64_t phase_ns) {
  using namespace std::chrono;
  // GUEST-CONTROLLED: any byte may stand anywhere; out-of-range fields are brought into the range that 64 bits of
  // nanoseconds can hold.
  const int full_year = std::clamp(static_cast<int>(decode(cmos_[kCentury]) * 100 + decode(cmos_[kYear])), 1900, 2199);
  const unsigned full_month = std::clamp(decode(cmos_[kMonth]), 1u, 12u);
  const unsigned day_of_month = std::clamp(decode(cmos_[kDayOfMonth]), 1u, 31u);
  const sys_days first{year{full_year} / month{full_month} / day{1}};
  const int64_t day_number = first.time_since_epoch().count() + day_of_month - 1;
  const int64_t second = day_number * kDaySeconds + decode_hour(cmos_[kHours]) * int64_t{3600} +
                         decode(cmos_[kMinutes]) * int64_t{60} + decode(cmos_[kSeconds]);
  offset_ns_ = second * kSecondNs + phase_ns - clock_.wall_time_ns();
  last_second_ = second;
}

bool Rtc::alarm_matches(uint8_t index, unsigned value) const {
  const uint8_t alarm = cmos_[index];
  if ((alarm & kAlarmDontCare) == kAlarmDontCare) return true;
  return (index == kHoursAlarm ? decode_hour(alarm) : decode(alarm)) == value;
}

// The first second after `after_second` whose time of day matches; they repeat daily.
std::optional<int64_t> Rtc::next_alarm(int64_t after_second) const {
  const int64_t start = after_second + 1;
  const int64_t midnight = floor_div(start, kDaySeconds) * kDaySeconds;
  for (int64_t at = start; at < midnight + 2 * kDaySeconds;) {
    const auto of_day = static_cast<unsigned>((at - midnight) % kDaySeconds);
    if (!alarm_matches(kHoursAlarm, of_day / 3600)) {
      at += 3600 - of_day % 3600;
    } else if (!alarm_matches(kMinutesAlarm, of_day / 60 % 60)) {
      at += 60 - of_day % 60;
    } else if (!alarm_matches(kSecondsAlarm, of_day % 60)) {
      ++at;
    } else {
      return at;
    }
  }
  return std::nullopt;
}

// [MC146818 table 5] With the 32.768 kHz time base rates 1 and 2 repeat 8 and 9.
std::optional<uint64_t> Rtc::period_ticks() const {
  const unsigned rate = cmos_[kRegisterA] & kRateMask;
  if (rate == 0 || (cmos_[kRegisterA] & kDividerMask) != kDividerNormal) return std::nullopt;
  return uint64_t{1} << (rate <= 2 ? rate + 6 : rate - 1);
}

uint64_t Rtc::crystal_ticks() const { return base::mul_div(clock_.now_ns(), kCrystalHz, kSecondNs); }

// Sets the flags of everything that happened since the last call, and the interrupt line.
void Rtc::collect_events() {
  uint8_t flags = cmos_[kRegisterC] & (kPeriodicFlag | kAlarmFlag | kUpdateFlag);
  if (!stopped()) {
    const int64_t second = floor_div(guest_time_ns(), kSecondNs);
    if (second > last_second_) {
      flags |= kUpdateFlag;
      const auto alarm = next_alarm(last_second_);
      if (alarm && *alarm <= second) flags |= kAlarmFlag;
    }
    last_second_ = second;  // also backwards, when the host's clock was set
  }
  if (const auto period = period_ticks()) {
    const uint64_t number = crystal_ticks() / *period;
    if (number != last_period_) flags |= kPeriodicFlag;
    last_period_ = number;
  }
  const bool request = flags & cmos_[kRegisterB] & (kPeriodicFlag | kAlarmFlag | kUpdateFlag);
  cmos_[kRegisterC] = static_cast<uint8_t>(flags | (request ? kInterruptRequest : 0));
  update_irq();
}

void Rtc::update_irq() { irq_.set((cmos_[kRegisterC] & kInterruptRequest) && !irq_replaced_); }

void Rtc::set_irq_replaced(bool replaced) {
  const std::lock_guard lock(mutex_);
  irq_replaced_ = replaced;
  update_irq();
}

void Rtc::schedule() {
  constexpr uint64_t kNever = ~uint64_t{0};
  uint64_t deadline = kNever;
  const uint8_t enabled = cmos_[kRegisterB];
  if (!(cmos_[kRegisterC] & kInterruptRequest)) {
    const uint64_t now = clock_.now_ns();
    if (const auto period = period_ticks(); period && (enabled & kPeriodicEnable))
      deadline = base::mul_div((last_period_ + 1) * *period, kSecondNs, kCrystalHz) + 1;
    if (!stopped() && (enabled & (kUpdateEnable | kAlarmEnable))) {
      std::optional<int64_t> second;
      if (enabled & kUpdateEnable)
        second = last_second_ + 1;
      else
        second = next_alarm(last_second_);
      if (second) {
        // The wall clock may be set: an hour from now at the latest, look again.
        const int64_t wait = std::clamp<int64_t>(*second * kSecondNs - guest_time_ns(), 0, 3600 * kSecondNs);
        deadline = std::min(deadline, now + static_cast<uint64_t>(wait) + 1);
      }
    }
  }
  if (deadline == kNever)
    timer_->cancel();
  else
    timer_->arm(deadline);
}

void Rtc::on_timer() {
  const std::lock_guard lock(mutex_);
  collect_events();
  schedule();
}

uint8_t Rtc::read_register(uint8_t index) {
  switch (index) {
    case kSeconds:
    case kMinutes:
    case kHours:
    case kDayOfWeek:
    case kDayOfMonth:
    case kMonth:
    case kYear:
    case kCentury:
      if (!stopped()) store_time();
      return cmos_[index];
    case kRegisterA: {
      uint8_t value = cmos_[kRegisterA];
      if (!stopped() && phase_ns() >= kSecondNs - kUipLeadNs) value |= kUpdateInProgress;
      return value;
    }
    case kRegisterC: {
      collect_events();
      const uint8_t value = cmos_[kRegisterC];
      cmos_[kRegisterC] = 0;
      irq_.set(false);
      schedule();
      return value;
    }
    default: return cmos_[index];
  }
}

void Rtc::write_register_a(uint8_t value) {
  value &= static_cast<uint8_t>(~kUpdateInProgress);
  const bool was_stopped = stopped();
  const bool was_held = (cmos_[kRegisterA] & kDividerMask) >= kDividerReset;
  if (!was_stopped) store_time();
  cmos_[kRegisterA] = value;
  last_period_ = period_ticks() ? crystal_ticks() / *period_ticks() : 0;
  // Out of divider reset the first update comes half a second later; the phase is kept in the offset, for SET may
  // hold the time longer than that. [MC146818 "Register A"]
  const bool held = (value & kDividerMask) >= kDividerReset;
  if (was_held && !held) offset_ns_ += kSecondNs / 2 - phase_ns();
  if (was_stopped && !stopped()) load_time(phase_ns());
}

void Rtc::write_register_b(uint8_t value) {
  const bool was_stopped = stopped();
  if (!was_stopped) store_time();
  if (value & kSet) value &= static_cast<uint8_t>(~kUpdateEnable);  // [MC146818 "Register B"]
  cmos_[kRegisterB] = value;
  // SET does not stop the divider: the second goes on where it was.
  if (was_stopped && !stopped()) load_time(phase_ns());
}

void Rtc::write_register(uint8_t index, uint8_t value) {
  collect_events();
  switch (index) {
    case kSeconds:
    case kMinutes:
    case kHours:
    case kDayOfWeek:
    case kDayOfMonth:
    case kMonth:
    case kYear:
    case kCentury: {
      if (stopped()) {
        cmos_[index] = value;
        break;
      }
      store_time();
      cmos_[index] = value;
      load_time(phase_ns());
      break;
    }
    case kRegisterA: write_register_a(value); break;
    case kRegisterB: write_register_b(value); break;
    case kRegisterC:
    case kRegisterD: break;  // read-only
    default: cmos_[index] = value; break;
  }
  collect_events();
  schedule();
}

uint8_t Rtc::read_byte(uint16_t port) {
  if (port == kDataPort) return read_register(index_);
  return 0xff;  // the index cannot be read back
}

bool Rtc::write_byte(uint16_t port, uint8_t value) {
  if (port == kDataPort) {
    write_register(index_, value);
    return false;
  }
  if (port != kIndexPort) return false;
  index_ = value & (kCmosBytes - 1);
  const bool masked = value & kNmiDisable;
  const bool changed = masked != nmi_masked_;
  nmi_masked_ = masked;
  return changed;
}

uint64_t Rtc::io_read(uint64_t port, unsigned size_bytes) {
  const std::lock_guard lock(mutex_);
  uint64_t value = 0;
  for (unsigned i = 0; i < size_bytes; ++i) value |= uint64_t{read_byte(static_cast<uint16_t>(port + i))} << (8 * i);
  return value;
}

void Rtc::io_write(uint64_t port, uint64_t value, unsigned size_bytes) {
  bool nmi_changed = false, nmi_masked = false;
  {
    const std::lock_guard lock(mutex_);
    for (unsigned i = 0; i < size_bytes; ++i)
      nmi_changed |= write_byte(static_cast<uint16_t>(port + i), static_cast<uint8_t>(value >> (8 * i)));
    nmi_masked = nmi_masked_;
  }
  if (nmi_changed && set_nmi_masked_) set_nmi_masked_(nmi_masked);
}

void Rtc::save_state(state::StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  writer.field("cmos", cmos_);
  writer.field("index", index_);
  writer.field("nmi_masked", nmi_masked_);
  writer.field("offset_ns", offset_ns_);
  writer.field("last_second", last_second_);
  writer.field("last_period", last_period_);
}

Status Rtc::load_state(state::StateReader& reader) {
  std::array<uint8_t, kCmosBytes> cmos{};
  uint8_t index = 0;
  bool nmi_masked = false;
  int64_t offset_ns = 0, last_second = 0;
  uint64_t last_period = 0;
  reader.field("cmos", cmos);
  reader.field("index", index);
  reader.field("nmi_masked", nmi_masked);
  reader.field("offset_ns", offset_ns);
  reader.field("last_second", last_second);
  reader.field("last_period", last_period);
  // What load_time() can make of years 1900 to 2199, and far from overflow.
  constexpr int64_t kFarthestNs = int64_t{180} * 366 * kDaySeconds * kSecondNs;
  constexpr int64_t kFarthestSecond = 8'000'000'000;
  reader.validate(offset_ns >= -kFarthestNs && offset_ns <= kFarthestNs, "is centuries away");
  reader.validate(last_second >= -kFarthestSecond && last_second <= kFarthestSecond, "is centuries away");
  reader.validate(index < kCmosBytes, "has an impossible index");
  RHEA_TRY(reader.status());
  {
    const std::lock_guard lock(mutex_);
    cmos_ = cmos;
    index_ = index;
    nmi_masked_ = nmi_masked;
    offset_ns_ = offset_ns;
    last_second_ = last_second;
    last_period_ = period_ticks() ? std::min(last_period, crystal_ticks() / *period_ticks()) : 0;
    update_irq();
    schedule();
  }
  if (set_nmi_masked_) set_nmi_masked_(nmi_masked);
  return {};
}

}  // namespace rhea::devices
