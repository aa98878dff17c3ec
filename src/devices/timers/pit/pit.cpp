// SPDX-License-Identifier: Apache-2.0
// The 8254's registers, port 0x61, and channel 0's interrupt.
//
// The IRQ line shows the output's rising edges at their time; that it falls before the next one is shown just
// before that edge, not when it happens: a guest that is late in taking the interrupt still finds it, and a square
// wave costs one host timer per period, not two.
#include "devices/timers/pit/pit.h"

#include <algorithm>

#include "base/numeric.h"
#include "devices/timers/pit/pit_channel.h"
#include "devices/timers/pit/pit_regs.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices {

using namespace pit_regs;
using platform::kPitHz;
using platform::PitChannelState;

namespace {

constexpr uint64_t kNanosecondsPerSecond = 1'000'000'000;
// GUEST-CONTROLLED: shorter periods than this merge; no guest could take that many interrupts.
constexpr uint64_t kShortestRearmNs = 50'000;
constexpr unsigned kSpeaker = 2;

uint64_t tick_to_ns(uint64_t tick) {
  return base::mul_div(tick, kNanosecondsPerSecond, kPitHz) + 1;  // at or after the tick, never before
}

}  // namespace

Pit::Pit(const Context& context)
    : clock_(context.clock), irq_(context.irq), timer_(context.clock.create_timer([this] { on_timer(); })) {
  reset();
}

Pit::~Pit() = default;

void Pit::map_into(io::AddressSpace& ports) {
  ports.map({.start = kChannel0, .size_bytes = 4, .handler = this, .handler_offset = kChannel0, .name = "pit"});
  ports.map({.start = kPort61, .size_bytes = 1, .handler = this, .handler_offset = kPort61, .name = "port61"});
}

void Pit::reset() {
  const std::lock_guard lock(mutex_);
  state_ = platform::PitState{};
  state_.channel[kSpeaker].gate = false;
  set_irq(false);
  schedule(now_tick());
}

void Pit::set_irq_replaced(bool replaced) {
  const std::lock_guard lock(mutex_);
  if (irq_replaced_ == replaced) return;
  irq_replaced_ = replaced;
  const uint64_t now = now_tick();
  pit_channel::advance(state_.channel[0], now);
  set_irq(pit_channel::output(state_.channel[0], now));
  schedule(now);
}

uint64_t Pit::now_tick() const { return base::mul_div(clock_.now_ns(), kPitHz, kNanosecondsPerSecond); }

void Pit::schedule(uint64_t now) {
  next_edge_ = irq_replaced_ ? std::nullopt : pit_channel::next_rising_edge(state_.channel[0], now);
  if (next_edge_)
    timer_->arm(tick_to_ns(*next_edge_));
  else
    timer_->cancel();
}

void Pit::on_timer() {
  const std::lock_guard lock(mutex_);
  if (!next_edge_) return;
  const uint64_t now = now_tick();
  if (now < *next_edge_) {  // moved while this callback was on its way
    timer_->arm(tick_to_ns(*next_edge_));
    return;
  }
  pit_channel::advance(state_.channel[0], now);
  set_irq(false);
  set_irq(true);
  next_edge_ = pit_channel::next_rising_edge(state_.channel[0], now);
  if (next_edge_) timer_->arm(std::max(tick_to_ns(*next_edge_), clock_.now_ns() + kShortestRearmNs));
}

void Pit::write_control(uint8_t value, uint64_t now) {
  const unsigned select = value >> kSelectShift;
  if (select == kSelectReadBack) {
    for (unsigned index = 0; index < 3; ++index) {
      if (!(value & (2u << index))) continue;
      PitChannelState& channel = state_.channel[index];
      if (!(value & kReadBackNoCount) && !channel.count_latched) {
        channel.count_latched = true;
        channel.latched_count = pit_channel::count(channel, now);
      }
      if (!(value & kReadBackNoStatus) && !channel.status_latched) {
        channel.status_latched = true;
        channel.latched_status = pit_channel::status(channel, now);
      }
    }
    return;
  }
  PitChannelState& channel = state_.channel[select];
  if (((value >> kAccessShift) & 3) == 0) {  // counter latch command
    if (channel.count_latched) return;
    channel.count_latched = true;
    channel.latched_count = pit_channel::count(channel, now);
    return;
  }
  pit_channel::program(channel, value);
  if (select == 0) {
    set_irq(pit_channel::output(channel, now));
    schedule(now);
  }
}

void Pit::write_count(unsigned index, uint8_t value, uint64_t now) {
  PitChannelState& channel = state_.channel[index];
  pit_channel::write_count_byte(channel, value, now);
  if (index != 0) return;
  if (channel.mode == 0) set_irq(false);
  schedule(now);
}

uint8_t Pit::read_count(unsigned index, uint64_t now) {
  PitChannelState& channel = state_.channel[index];
  if (channel.status_latched) {
    channel.status_latched = false;
    return channel.latched_status;
  }
  const uint16_t value = channel.count_latched ? channel.latched_count : pit_channel::count(channel, now);
  const bool high = channel.access == 2 || (channel.access == 3 && channel.read_high_next);
  if (channel.access == 3) channel.read_high_next = !channel.read_high_next;
  if (channel.access != 3 || high) channel.count_latched = false;
  return static_cast<uint8_t>(high ? value >> 8 : value);
}

void Pit::write_port61(uint8_t value, uint64_t now) {
  state_.port61 = value & kPort61Writable;
  pit_channel::set_gate(state_.channel[kSpeaker], value & kPort61Gate2, now);
}

uint8_t Pit::read_byte(uint16_t port) {
  const uint64_t now = now_tick();
  for (PitChannelState& channel : state_.channel) pit_channel::advance(channel, now);
  if (port == kPort61) {
    const bool refresh = (clock_.now_ns() / kRefreshHalfPeriodNs) & 1;
    return static_cast<uint8_t>(state_.port61 | (refresh ? kPort61Refresh : 0) |
                                (pit_channel::output(state_.channel[kSpeaker], now) ? kPort61Output2 : 0));
  }
  if (port >= kChannel0 && port < kControl) return read_count(port - kChannel0, now);
  return 0xff;  // the control word cannot be read
}

void Pit::write_byte(uint16_t port, uint8_t value) {
  const uint64_t now = now_tick();
  for (PitChannelState& channel : state_.channel) pit_channel::advance(channel, now);
  if (port == kPort61)
    write_port61(value, now);
  else if (port == kControl)
    write_control(value, now);
  else if (port >= kChannel0 && port < kControl)
    write_count(port - kChannel0, value, now);
}

uint64_t Pit::io_read(uint64_t port, unsigned size_bytes) {
  const std::lock_guard lock(mutex_);
  uint64_t value = 0;
  for (unsigned i = 0; i < size_bytes; ++i) value |= uint64_t{read_byte(static_cast<uint16_t>(port + i))} << (8 * i);
  return value;
}

void Pit::io_write(uint64_t port, uint64_t value, unsigned size_bytes) {
  const std::lock_guard lock(mutex_);
  for (unsigned i = 0; i < size_bytes; ++i)
    write_byte(static_cast<uint16_t>(port + i), static_cast<uint8_t>(value >> (8 * i)));
}

platform::PitState Pit::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

void Pit::set_state(const platform::PitState& state) {
  const std::lock_guard lock(mutex_);
  state_ = state;
  const uint64_t now = now_tick();
  for (PitChannelState& channel : state_.channel) pit_channel::advance(channel, now);
  set_irq(state_.channel[0].mode != 0 || pit_channel::output(state_.channel[0], now));
  schedule(now);
}

void Pit::save_state(state::StateWriter& writer) const {
  const platform::PitState saved = state();
  platform::PitState::describe(writer, saved);
}

Status Pit::load_state(state::StateReader& reader) {
  platform::PitState loaded;
  platform::PitState::describe(reader, loaded);
  const uint64_t now = now_tick();
  for (const PitChannelState& channel : loaded.channel) {
    const uint32_t limit = channel.bcd ? 10000 : 65536;
    reader.validate(channel.mode <= 5 && channel.access >= 1 && channel.access <= 3, "has an impossible control word");
    reader.validate(channel.count_register <= limit && channel.count <= limit, "has an impossible count");
    reader.validate(!channel.running || channel.count != 0, "runs without a count");
    reader.validate(!channel.load_pending || channel.count_register != 0, "loads without a count");
    // Half periods of 65536 ticks at most lie between now and a load.
    reader.validate(channel.start_tick <= now + 65537 && channel.load_tick <= now + 65537, "runs in the future");
  }
  RHEA_TRY(reader.status());
  loaded.port61 &= kPort61Writable;
  set_state(loaded);
  return {};
}

}  // namespace rhea::devices
