// SPDX-License-Identifier: Apache-2.0
// The 16550A UART.
//
// A byte written to THR leaves at once, so THR is empty again as soon as it is full: the THRE interrupt falls and
// rises with each write, which edge-triggered inputs and drivers that never read IIR need. Bytes go to the backend
// outside the lock.
#include "devices/serial/uart16550/uart16550.h"

#include <utility>

#include "base/numeric.h"
#include "devices/serial/uart16550/uart16550_regs.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices {

using namespace uart_regs;

namespace {

constexpr uint8_t kLsrErrors = kLsrOverrun | kLsrParity | kLsrFraming | kLsrBreak;
constexpr uint8_t kCharacterErrors = kLsrParity | kLsrFraming | kLsrBreak;
constexpr uint8_t kMsrDeltas = kMsrDeltaCts | kMsrDeltaDsr | kMsrTrailingRing | kMsrDeltaDcd;

}  // namespace

Uart16550::Uart16550(const Options& options, const Context& context)
    : options_(options),
      clock_(context.clock),
      backend_(context.backend),
      irq_(context.irq),
      timer_(context.clock.create_timer([this] { on_timeout(); })) {
  reset();
  if (backend_ != nullptr) backend_->set_receiver(this);
}

Uart16550::~Uart16550() {
  if (backend_ != nullptr) backend_->set_receiver(nullptr);
}

void Uart16550::map_into(io::AddressSpace& ports) {
  ports.map({.start = options_.port, .size_bytes = kPortCount, .handler = this, .name = options_.name});
}

// [PC16550D table IV]
void Uart16550::reset() {
  {
    const std::lock_guard lock(mutex_);
    ier_ = lcr_ = mcr_ = fcr_ = scr_ = 0;
    divisor_ = 12;  // 9600 baud; unknown on the chip
    lsr_ = kLsrThrEmpty | kLsrTransmitterEmpty;
    msr_ = modem_lines();
    thr_interrupt_ = false;
    clear_receive_fifo();
    update_irq();
  }
  if (backend_ != nullptr) backend_->on_receive_ready();
}

bool Uart16550::fifo_enabled() const { return fcr_ & kFcrEnable; }

unsigned Uart16550::trigger_level() const {
  constexpr std::array<unsigned, 4> kLevels = {1, 4, 8, 14};
  return fifo_enabled() ? kLevels[fcr_ >> 6] : 1;
}

size_t Uart16550::capacity_locked() const {
  if (mcr_ & kMcrLoop) return 0;
  const unsigned size = fifo_enabled() ? kFifoBytes : 1;
  return fifo_count_ < size ? size - fifo_count_ : 0;
}

uint64_t Uart16550::character_time_ns() const {
  const uint64_t bits = 1 + 5 + (lcr_ & kLcrWordLength) + ((lcr_ & kLcrParity) ? 1 : 0) + ((lcr_ & kLcrStop) ? 2 : 1);
  return base::mul_div(bits * 16 * (divisor_ == 0 ? 1 : divisor_), 1'000'000'000, kClockHz);
}

// The other end is always there: carrier, ready, clear to send. In loopback MCR's outputs come back instead.
uint8_t Uart16550::modem_lines() const {
  if (!(mcr_ & kMcrLoop)) return kMsrDcd | kMsrDsr | kMsrCts;
  return static_cast<uint8_t>(((mcr_ & kMcrRts) ? kMsrCts : 0) | ((mcr_ & kMcrDtr) ? kMsrDsr : 0) |
                              ((mcr_ & kMcrOut1) ? kMsrRing : 0) | ((mcr_ & kMcrOut2) ? kMsrDcd : 0));
}

// [PC16550D table III] Highest priority first.
uint8_t Uart16550::interrupt_id() const {
  if ((ier_ & kIerLineStatus) && (lsr_ & kLsrErrors)) return kIirLineStatus;
  if (ier_ & kIerReceive) {
    if (fifo_count_ >= trigger_level()) return kIirReceive;
    if (timeout_pending_) return kIirTimeout;
  }
  if ((ier_ & kIerTransmitEmpty) && thr_interrupt_) return kIirTransmitEmpty;
  if ((ier_ & kIerModemStatus) && (msr_ & kMsrDeltas)) return kIirModemStatus;
  return kIirNone;
}

// On a PC OUT2 connects the interrupt; in loopback the pin is inactive.
void Uart16550::update_irq() {
  const bool connected = (mcr_ & kMcrOut2) && !(mcr_ & kMcrLoop);
  irq_.set(connected && interrupt_id() != kIirNone);
}

void Uart16550::clear_receive_fifo() {
  fifo_head_ = fifo_count_ = 0;
  timeout_pending_ = false;
  timeout_deadline_ns_ = 0;
  refresh_line_status();
}

// Data ready, and "any error in the FIFO".
void Uart16550::refresh_line_status() {
  bool error = false;
  for (unsigned i = 0; i < fifo_count_; ++i) error |= fifo_[(fifo_head_ + i) % kFifoBytes].errors != 0;
  lsr_ &= static_cast<uint8_t>(~(kLsrDataReady | kLsrFifoError));
  if (fifo_count_ != 0) lsr_ |= kLsrDataReady;
  if (error && fifo_enabled()) lsr_ |= kLsrFifoError;
}

bool Uart16550::push(Received character) {
  const unsigned size = fifo_enabled() ? kFifoBytes : 1;
  if (fifo_count_ >= size) {
    lsr_ |= kLsrOverrun;
    // The shift register is lost; without FIFO it replaces what was there. [PC16550D 8.6.3 bit 1]
    if (!fifo_enabled()) fifo_[fifo_head_] = character;
    refresh_line_status();
    return false;
  }
  fifo_[(fifo_head_ + fifo_count_) % kFifoBytes] = character;
  if (fifo_count_++ == 0) lsr_ |= character.errors;  // errors show when their character is at the top
  refresh_line_status();
  arm_timeout();
  return true;
}

// Four character times without traffic in either direction, with something in the FIFO. [PC16550D 8.5]
void Uart16550::arm_timeout() {
  timeout_pending_ = false;
  if (!fifo_enabled() || fifo_count_ == 0) {
    timeout_deadline_ns_ = 0;
    return;
  }
  timeout_deadline_ns_ = clock_.now_ns() + 4 * character_time_ns();
  // At or above the trigger level the interrupt is there already; reads bring us back here.
  if (fifo_count_ < trigger_level()) timer_->arm(timeout_deadline_ns_);
}

void Uart16550::on_timeout() {
  const std::lock_guard lock(mutex_);
  if (timeout_deadline_ns_ == 0 || fifo_count_ == 0 || timeout_pending_) return;
  if (clock_.now_ns() < timeout_deadline_ns_) {
    timer_->arm(timeout_deadline_ns_);
    return;
  }
  timeout_pending_ = true;
  update_irq();
}

uint8_t Uart16550::read_data() {
  if (fifo_count_ == 0) return fifo_[fifo_head_].data;
  const uint8_t data = fifo_[fifo_head_].data;
  fifo_head_ = (fifo_head_ + 1) % kFifoBytes;
  --fifo_count_;
  if (fifo_count_ != 0) lsr_ |= fifo_[fifo_head_].errors;
  refresh_line_status();
  arm_timeout();
  return data;
}

uint8_t Uart16550::read_iir() {
  const uint8_t id = interrupt_id();
  if (id == kIirTransmitEmpty) thr_interrupt_ = false;
  return id | (fifo_enabled() ? kIirFifos : 0);
}

void Uart16550::write_fcr(uint8_t value) {
  const bool toggled = (value ^ fcr_) & kFcrEnable;
  // Other bits are only taken while the FIFOs are enabled by the same write. [PC16550D 8.4]
  fcr_ = (value & kFcrEnable) ? value & (kFcrEnable | kFcrDmaMode | kFcrTrigger) : 0;
  if (toggled || ((value & kFcrEnable) && (value & kFcrClearReceive))) clear_receive_fifo();
  if (toggled || ((value & kFcrEnable) && (value & kFcrClearTransmit))) thr_interrupt_ = true;
  if (fifo_count_ != 0) arm_timeout();
}

void Uart16550::write_mcr(uint8_t value) {
  mcr_ = value & (kMcrDtr | kMcrRts | kMcrOut1 | kMcrOut2 | kMcrLoop);
  const uint8_t lines = modem_lines();
  const uint8_t changed = (msr_ ^ lines) & (kMsrCts | kMsrDsr | kMsrDcd);
  uint8_t deltas = static_cast<uint8_t>((msr_ & kMsrDeltas) | changed >> 4);
  if ((msr_ & kMsrRing) && !(lines & kMsrRing)) deltas |= kMsrTrailingRing;
  msr_ = lines | deltas;
}

uint8_t Uart16550::read_byte(uint8_t offset, bool& wake_backend) {
  const bool divisor_access = lcr_ & kLcrDlab;
  uint8_t value = 0xff;
  switch (offset) {
    case kData:
      if (divisor_access) return static_cast<uint8_t>(divisor_);
      wake_backend |= fifo_count_ != 0;
      value = read_data();
      break;
    case kIer: return divisor_access ? static_cast<uint8_t>(divisor_ >> 8) : ier_;
    case kIir: value = read_iir(); break;
    case kLcr: return lcr_;
    case kMcr: return mcr_;
    case kLsr:
      value = lsr_;
      lsr_ &= static_cast<uint8_t>(~kLsrErrors);
      break;
    case kMsr:
      value = msr_;
      msr_ &= static_cast<uint8_t>(~kMsrDeltas);
      break;
    default: return scr_;
  }
  update_irq();
  return value;
}

void Uart16550::write_byte(uint8_t offset, uint8_t value, bool& transmit, bool& wake_backend) {
  const bool divisor_access = lcr_ & kLcrDlab;
  switch (offset) {
    case kData:
      if (divisor_access) {
        divisor_ = static_cast<uint16_t>((divisor_ & 0xff00) | value);
        break;
      }
      thr_interrupt_ = false;
      update_irq();
      if (mcr_ & kMcrLoop)
        push({.data = value});
      else
        transmit = true;
      thr_interrupt_ = true;
      break;
    case kIer: {
      if (divisor_access) {
        divisor_ = static_cast<uint16_t>((divisor_ & 0x00ff) | value << 8);
        break;
      }
      const bool enabled_now = (value & kIerTransmitEmpty) && !(ier_ & kIerTransmitEmpty);
      ier_ = value & (kIerReceive | kIerTransmitEmpty | kIerLineStatus | kIerModemStatus);
      if (enabled_now) thr_interrupt_ = true;  // enabling it with THR empty raises it
      break;
    }
    case kFcr:
      write_fcr(value);
      wake_backend = true;
      break;
    case kLcr:
      // A break sent in loopback is received at once.
      if ((mcr_ & kMcrLoop) && (value & kLcrBreak) && !(lcr_ & kLcrBreak))
        push({.data = 0, .errors = kLsrBreak | kLsrFraming});
      lcr_ = value;
      break;
    case kMcr:
      write_mcr(value);
      wake_backend = true;
      break;
    case kScr: scr_ = value; break;
    default: break;  // LSR and MSR: factory test only
  }
  update_irq();
}

uint64_t Uart16550::io_read(uint64_t offset, unsigned size_bytes) {
  bool wake_backend = false;
  uint64_t value = 0;
  {
    const std::lock_guard lock(mutex_);
    for (unsigned i = 0; i < size_bytes; ++i)
      value |= uint64_t{read_byte(static_cast<uint8_t>((offset + i) & 7), wake_backend)} << (8 * i);
  }
  if (wake_backend && backend_ != nullptr) backend_->on_receive_ready();
  return value;
}

void Uart16550::io_write(uint64_t offset, uint64_t value, unsigned size_bytes) {
  for (unsigned i = 0; i < size_bytes; ++i) {
    const auto byte = static_cast<uint8_t>(value >> (8 * i));
    bool transmit = false, wake_backend = false;
    {
      const std::lock_guard lock(mutex_);
      write_byte(static_cast<uint8_t>((offset + i) & 7), byte, transmit, wake_backend);
    }
    if (backend_ == nullptr) continue;
    if (transmit) {
      const auto data = static_cast<std::byte>(byte);
      backend_->write({&data, 1});
    }
    if (wake_backend) backend_->on_receive_ready();
  }
}

size_t Uart16550::receive_capacity() const {
  const std::lock_guard lock(mutex_);
  return capacity_locked();
}

size_t Uart16550::receive(std::span<const std::byte> data) {
  const std::lock_guard lock(mutex_);
  const size_t taken = std::min(data.size(), capacity_locked());
  for (size_t i = 0; i < taken; ++i) push({.data = std::to_integer<uint8_t>(data[i])});
  if (taken != 0) update_irq();
  return taken;
}

void Uart16550::receive_break() {
  const std::lock_guard lock(mutex_);
  if (mcr_ & kMcrLoop) return;
  push({.data = 0, .errors = kLsrBreak});
  update_irq();
}

void Uart16550::save_state(state::StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  std::array<uint8_t, kFifoBytes> data{}, errors{};
  for (unsigned i = 0; i < kFifoBytes; ++i) {
    data[i] = fifo_[(fifo_head_ + i) % kFifoBytes].data;
    errors[i] = fifo_[(fifo_head_ + i) % kFifoBytes].errors;
  }
  writer.field("ier", ier_);
  writer.field("lcr", lcr_);
  writer.field("mcr", mcr_);
  writer.field("lsr", lsr_);
  writer.field("msr", msr_);
  writer.field("scr", scr_);
  writer.field("fcr", fcr_);
  writer.field("divisor", divisor_);
  writer.field("thr_interrupt", thr_interrupt_);
  writer.field("timeout_pending", timeout_pending_);
  writer.field("timeout_deadline_ns", timeout_deadline_ns_);
  writer.field("fifo_data", data);
  writer.field("fifo_errors", errors);
  writer.field("fifo_count", fifo_count_);
}

Status Uart16550::load_state(state::StateReader& reader) {
  {
    const std::lock_guard lock(mutex_);
    std::array<uint8_t, kFifoBytes> data{}, errors{};
    reader.field("ier", ier_);
    reader.field("lcr", lcr_);
    reader.field("mcr", mcr_);
    reader.field("lsr", lsr_);
    reader.field("msr", msr_);
    reader.field("scr", scr_);
    reader.field("fcr", fcr_);
    reader.field("divisor", divisor_);
    reader.field("thr_interrupt", thr_interrupt_);
    reader.field("timeout_pending", timeout_pending_);
    reader.field("timeout_deadline_ns", timeout_deadline_ns_);
    reader.field("fifo_data", data);
    reader.field("fifo_errors", errors);
    unsigned count = 0;
    reader.field("fifo_count", count);
    reader.validate(count <= ((fcr_ & kFcrEnable) ? kFifoBytes : 1), "has an overfull FIFO");
    RHEA_TRY(reader.status());
    fifo_head_ = 0;
    fifo_count_ = count;
    for (unsigned i = 0; i < kFifoBytes; ++i)
      fifo_[i] = {.data = data[i], .errors = static_cast<uint8_t>(errors[i] & kCharacterErrors)};
    ier_ &= 0x0f;
    mcr_ &= 0x1f;
    refresh_line_status();
    if (timeout_deadline_ns_ != 0 && !timeout_pending_) timer_->arm(timeout_deadline_ns_);
    update_irq();
  }
  if (backend_ != nullptr) backend_->on_receive_ready();
  return {};
}

}  // namespace rhea::devices
