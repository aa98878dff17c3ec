// SPDX-License-Identifier: Apache-2.0
// The HPET's registers, matches and interrupts.
//
// Nothing ticks: the counter is computed from the machine's clock, and each comparator remembers up to which value of
// the counter its matches have been dealt with. A host timer is armed only for a match that interrupts.
#include "devices/timers/hpet/hpet.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices {

using namespace hpet_regs;

namespace {

// GUEST-CONTROLLED: shorter periods than this merge; no guest could take that many interrupts.
constexpr uint64_t kShortestRearmNs = 50'000;
// A comparator written this little behind the counter matches at once. Hardware would match after the counter's next
// wrap, in 43 seconds or never; but there nothing comes between software's look at the counter and its write, where a
// vCPU may lose its processor for that long.
constexpr uint64_t kLateTicks = 50'000'000 / kTickNs;
// Matches farther away than this (in ticks: 365 years) are never waited for.
constexpr uint64_t kNever = uint64_t{1} << 60;

constexpr unsigned kLegacyIrq[] = {0, 8};
constexpr unsigned kFirstFreeGsi = 16;  // below: also inputs of the 8259 pair

uint64_t width_mask(uint64_t config) { return (config & k32Bit) ? 0xffffffff : ~uint64_t{0}; }

}  // namespace

template <class Archive>
void Hpet::TimerState::describe(Archive& archive, auto& self) {
  archive.field("config", self.config);
  archive.field("comparator", self.comparator);
  archive.field("period", self.period);
  archive.field("fsb_route", self.fsb_route);
  archive.field("settled", self.settled);
}

template <class Archive>
void Hpet::State::describe(Archive& archive, auto& self) {
  archive.field("config", self.config);
  archive.field("status", self.status);
  archive.field("counter", self.counter);
  archive.field("raised", self.raised);
  archive.field("timer", self.timer);
}

Hpet::Hpet(const Context& context)
    : clock_(context.clock), router_(context.router), set_legacy_replacement_(context.set_legacy_replacement) {
  for (unsigned i = 0; i < kTimers; ++i) timer_[i] = clock_.create_timer([this, i] { on_timer(i); });
}

Hpet::~Hpet() = default;

void Hpet::map_into(io::AddressSpace& physical) {
  physical.map({.start = kBase, .size_bytes = kSizeBytes, .handler = this, .name = "hpet"}, 1);
}

void Hpet::reset() {
  const std::lock_guard lock(mutex_);
  state_ = State{};
  apply();
}

// Lines, legacy timers and host timers as the state has them.
void Hpet::apply() {
  if (set_legacy_replacement_) set_legacy_replacement_(legacy());
  for (unsigned i = 0; i < kTimers; ++i) {
    route(i);
    update_line(i);
    schedule(i);
  }
}

// ---- matches ----

// Deals with all matches up to now; several that were missed are one. True: there was one.
bool Hpet::settle(unsigned index) {
  if (!running()) return false;
  TimerState& timer = state_.timer[index];
  const uint64_t mask = width_mask(timer.config), now = counter();
  const uint64_t elapsed = now - timer.settled;
  const uint64_t before = (timer.comparator - timer.settled - 1) & mask;  // values between the settled and the match
  timer.settled = now;
  if (before >= elapsed) return false;
  if (const uint64_t period = timer.period & mask; (timer.config & kPeriodic) && period != 0) {
    const uint64_t matches = (elapsed - 1 - before) / period + 1;
    timer.comparator = (timer.comparator + matches * period) & mask;
  }
  fire(index);
  return true;
}

void Hpet::fire(unsigned index) {
  const TimerState& timer = state_.timer[index];
  if (timer.config & kLevel) state_.status |= uint64_t{1} << index;
  if (!(timer.config & kInterruptEnable)) return;
  if (timer.config & kFsbEnable) {
    router_.send_msi({.address = timer.fsb_route >> 32, .data = static_cast<uint32_t>(timer.fsb_route)});
  } else if (timer.config & kLevel) {
    update_line(index);
  } else {
    // An 8259 input must stay up until it is acknowledged: there the line falls just before it rises again.
    line_[index].set(false);
    line_[index].set(true);
    if (line_[index].gsi() >= kFirstFreeGsi) line_[index].set(false);
  }
}

// A level-triggered line follows its status bit; an edge-triggered one has been shown by fire().
void Hpet::update_line(unsigned index) {
  const uint64_t config = state_.timer[index].config;
  if (!(config & kLevel)) return;
  line_[index].set(running() && (config & kInterruptEnable) && !(config & kFsbEnable) &&
                   ((state_.status >> index) & 1));
}

// [IA-PC-HPET 2.3.5] In legacy replacement timers 0 and 1 have the lines of PIT and RTC, whatever their routes say.
void Hpet::route(unsigned index) {
  const uint64_t config = state_.timer[index].config;
  const auto input = static_cast<unsigned>((config & kRouteMask) >> kRouteShift);
  const bool replaces = legacy() && index < std::size(kLegacyIrq);
  const bool connected = replaces || ((kRoutes >> input) & 1);
  const unsigned gsi = replaces ? kLegacyIrq[index] : input;
  if (connected && line_[index].connected() && gsi == line_[index].gsi()) return;
  line_[index].set(false);
  line_[index] = connected ? io::IrqLine(&router_, gsi) : io::IrqLine();
}

void Hpet::schedule(unsigned index, uint64_t earliest_ns) {
  const TimerState& timer = state_.timer[index];
  const uint64_t before = (timer.comparator - timer.settled - 1) & width_mask(timer.config);
  if (!running() || !(timer.config & kInterruptEnable) || before >= kNever) {
    timer_[index]->cancel();
    return;
  }
  const uint64_t tick = timer.settled + 1 + before - state_.counter;
  timer_[index]->arm(std::max(tick * kTickNs, earliest_ns));
}

void Hpet::on_timer(unsigned index) {
  const std::lock_guard lock(mutex_);
  const bool matched = settle(index);
  schedule(index, matched ? clock_.now_ns() + kShortestRearmNs : 0);
}

// ---- registers ----

uint64_t Hpet::read_register(uint64_t offset) {
  switch (offset) {
    case kCapabilitiesRegister: return kCapabilities;
    case kConfiguration: return state_.config;
    case kMainCounter: return counter();
    case kInterruptStatus:
      for (unsigned i = 0; i < kTimers; ++i) settle(i);
      return state_.status;
    default: break;
  }
  if (offset < kTimerBlocks) return 0;
  const uint64_t index = (offset - kTimerBlocks) / kTimerBlockBytes;
  if (index >= kTimers) return 0;
  const TimerState& timer = state_.timer[index];
  switch ((offset - kTimerBlocks) % kTimerBlockBytes) {
    case kTimerConfiguration: return timer.config | kTimerCapabilities;
    case kTimerComparator: settle(static_cast<unsigned>(index)); return timer.comparator;
    case kTimerFsbRoute: return timer.fsb_route;
    default: return 0;
  }
}

// `mask`: the bits that the access covers; `value` has no others.
void Hpet::write_register(uint64_t offset, uint64_t mask, uint64_t value) {
  for (unsigned i = 0; i < kTimers; ++i) settle(i);
  switch (offset) {
    case kConfiguration: return write_configuration((state_.config & ~mask) | value);
    case kMainCounter: return write_counter((counter() & ~mask) | value);
    case kInterruptStatus:
      state_.status &= ~value;
      for (unsigned i = 0; i < kTimers; ++i) update_line(i);
      return;
    default: break;
  }
  if (offset < kTimerBlocks) return;
  const uint64_t block = (offset - kTimerBlocks) / kTimerBlockBytes;
  if (block >= kTimers) return;
  const auto index = static_cast<unsigned>(block);
  TimerState& timer = state_.timer[index];
  switch ((offset - kTimerBlocks) % kTimerBlockBytes) {
    case kTimerConfiguration: write_timer_configuration(index, (timer.config & ~mask) | value); break;
    case kTimerComparator: write_comparator(index, mask, value); break;
    case kTimerFsbRoute: timer.fsb_route = (timer.fsb_route & ~mask) | value; break;
    default: break;
  }
}

void Hpet::write_configuration(uint64_t value) {
  const uint64_t now = counter(), tick = now_tick();
  state_.config = value & (kEnable | kLegacyReplacement);
  state_.counter = running() ? now - tick : now;
  apply();
}

void Hpet::write_counter(uint64_t value) {
  state_.counter = running() ? value - now_tick() : value;
  for (unsigned i = 0; i < kTimers; ++i) {
    state_.timer[i].settled = value - 1;
    schedule(i);
  }
}

void Hpet::write_timer_configuration(unsigned index, uint64_t value) {
  TimerState& timer = state_.timer[index];
  const auto input = static_cast<unsigned>((value & kRouteMask) >> kRouteShift);
  if (!((kRoutes >> input) & 1)) value = (value & ~kRouteMask) | (timer.config & kRouteMask);  // not taken
  if ((timer.config ^ value) & (kLevel | kInterruptEnable | kFsbEnable)) line_[index].set(false);
  timer.config = value & kTimerWritable;
  timer.comparator &= width_mask(timer.config);
  timer.period &= width_mask(timer.config);
  route(index);
  update_line(index);
  schedule(index);
}

// [IA-PC-HPET 2.3.9.2] In periodic mode a write sets the period, and the comparator itself only where software has
// asked for that just before.
void Hpet::write_comparator(unsigned index, uint64_t mask, uint64_t value) {
  TimerState& timer = state_.timer[index];
  const uint64_t width = width_mask(timer.config);
  if (timer.config & kPeriodic) timer.period = ((timer.period & ~mask) | value) & width;
  if (!(timer.config & kPeriodic) || (timer.config & kSetAccumulator)) {
    timer.comparator = ((timer.comparator & ~mask) | value) & width;
    const uint64_t now = counter(), behind = (now - timer.comparator) & width;
    timer.settled = now - 1 - (running() && behind <= kLateTicks ? behind : 0);
  }
  timer.config &= ~kSetAccumulator;
  settle(index);
  schedule(index);
}

uint64_t Hpet::io_read(uint64_t offset, unsigned size_bytes) {
  const std::lock_guard lock(mutex_);
  const uint64_t value = read_register(offset & ~uint64_t{7}) >> ((offset & 7) * 8);
  return size_bytes >= 8 ? value : value & ((uint64_t{1} << (size_bytes * 8)) - 1);
}

void Hpet::io_write(uint64_t offset, uint64_t value, unsigned size_bytes) {
  if (size_bytes < 4 || offset % size_bytes != 0) return;
  const unsigned shift = (offset & 4) * 8;
  const uint64_t mask = size_bytes >= 8 ? ~uint64_t{0} : uint64_t{0xffffffff} << shift;
  const std::lock_guard lock(mutex_);
  write_register(offset & ~uint64_t{7}, mask, (value << shift) & mask);
}

// ---- state ----

void Hpet::save_state(state::StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  State saved = state_;
  for (unsigned i = 0; i < kTimers; ++i) saved.raised |= line_[i].level() ? 1u << i : 0;
  State::describe(writer, std::as_const(saved));
}

Status Hpet::load_state(state::StateReader& reader) {
  State loaded;
  State::describe(reader, loaded);
  RHEA_TRY(reader.status());
  loaded.config &= kEnable | kLegacyReplacement;
  loaded.status &= (1u << kTimers) - 1;
  for (TimerState& timer : loaded.timer) {
    timer.config &= kTimerWritable;
    timer.comparator &= width_mask(timer.config);
    timer.period &= width_mask(timer.config);
  }
  const std::lock_guard lock(mutex_);
  state_ = loaded;
  // A counter that ran through the settled values of a damaged file is as if it had been there all along.
  for (TimerState& timer : state_.timer)
    if (counter() - timer.settled >= kNever) timer.settled = counter() - 1;
  apply();
  // An edge-triggered line of the 8259 pair stands where it stood: the chip's own state knows its last level.
  const uint32_t raised = std::exchange(state_.raised, 0);
  for (unsigned i = 0; i < kTimers; ++i)
    if (!(state_.timer[i].config & kLevel)) line_[i].set((raised >> i) & 1);
  return {};
}

}  // namespace rhea::devices
