// SPDX-License-Identifier: Apache-2.0
// The software local APIC.
//
// Registers are written by the vCPU that owns the APIC and read by any thread that delivers to it, so each is
// an atomic word and there is no lock (the timer has its own). What decides whether the vCPU must be kicked is a
// race between two threads: one sets a request bit and then looks at the processor priority, the other lowers
// the priority and then looks at the request bits. Both steps are sequentially consistent on both sides, so
// at least one of them sees the other and kicks.
//
// Spec: [SDM-3A 11]. Not implemented: the APIC bus arbitration (APR and RRD read 0), CMCI (no such LVT entry),
// lowest-priority IPIs with more than one candidate choose by the bus.
#include "cpu/lapic.h"

#include <bit>
#include <utility>

#include "cpu/lapic_regs.h"
#include "cpu/lapic_timer.h"

namespace rhea::cpu {

using namespace lapic_regs;

namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

// 256 bits, one per vector. Any thread.
class VectorSet {
 public:
  bool set(uint8_t vector) {  // true: was clear
    const uint32_t bit = 1u << (vector & 31);
    return !(words_[vector >> 5].fetch_or(bit) & bit);
  }
  bool clear(uint8_t vector) {  // true: was set
    const uint32_t bit = 1u << (vector & 31);
    return words_[vector >> 5].fetch_and(~bit) & bit;
  }
  bool test(uint8_t vector) const { return (words_[vector >> 5].load(kRelaxed) >> (vector & 31)) & 1; }
  int highest() const {  // -1: empty
    for (int word = 7; word >= 0; --word)
      if (const uint32_t bits = words_[word].load(); bits) return word * 32 + 31 - std::countl_zero(bits);
    return -1;
  }
  uint32_t word(unsigned index) const { return words_[index].load(kRelaxed); }
  void set_word(unsigned index, uint32_t value) { words_[index].store(value); }
  void clear_all() {
    for (auto& word : words_) word.store(0);
  }

 private:
  std::array<std::atomic<uint32_t>, 8> words_{};
};

constexpr std::array<uint32_t, platform::kLvtCount> kLvtWritable = {
    kLvtVector | kLvtMasked | kLvtTimerMode,
    kLvtVector | kLvtMode | kLvtMasked,
    kLvtVector | kLvtMode | kLvtMasked,
    kLvtVector | kLvtMode | kLvtActiveLow | kLvtLevel | kLvtMasked,
    kLvtVector | kLvtMode | kLvtActiveLow | kLvtLevel | kLvtMasked,
    kLvtVector | kLvtMasked,
};
// Bits that may be written as anything without being reserved: delivery status, remote IRR.
constexpr std::array<uint32_t, platform::kLvtCount> kLvtReadOnly = {kLvtDeliveryPending,
                                                                    kLvtDeliveryPending,
                                                                    kLvtDeliveryPending,
                                                                    kLvtDeliveryPending | kLvtRemoteIrr,
                                                                    kLvtDeliveryPending | kLvtRemoteIrr,
                                                                    kLvtDeliveryPending};

constexpr uint32_t kSvrWritable = kSvrVector | kSvrEnable | kSvrFocusDisable;

constexpr int priority_class(int vector) { return vector >> 4; }

}  // namespace

struct Lapic::Impl {
  Impl(const Options& o, io::Clock& clock, LapicBus& b)
      : options(o), bus(b), timer(clock, [this] { deliver_local(platform::kLvtTimer); }) {}

  const Options options;
  LapicBus& bus;
  std::function<void()> kick;

  std::atomic<uint64_t> apic_base{0};
  std::atomic<uint32_t> tpr{0}, ppr{0}, ldr{0}, dfr{0xffffffff}, svr{0xff}, esr{0}, esr_pending{0};
  std::atomic<uint64_t> icr{0};
  std::array<std::atomic<uint32_t>, platform::kLvtCount> lvt{};
  VectorSet irr, isr, tmr;
  std::atomic<bool> ext_int{false}, nmi{false}, smi{false}, init{false}, woken{false};
  std::atomic<int> sipi{-1};
  LapicTimer timer;  // last: it must be gone before the rest

  bool hardware_enabled() const { return apic_base.load(kRelaxed) & kBaseEnable; }
  bool x2apic() const { return apic_base.load(kRelaxed) & kBaseX2apic; }
  bool software_enabled() const { return svr.load(kRelaxed) & kSvrEnable; }
  uint32_t lvt_value(unsigned index) const { return lvt[index].load(kRelaxed); }

  void kick_vcpu() {
    if (kick) kick();
  }
  bool interrupt_deliverable() const {
    const int vector = irr.highest();
    return vector >= 0 && priority_class(vector) > priority_class(static_cast<int>(ppr.load()));
  }
  bool ext_int_deliverable() const {
    if (!ext_int.load()) return false;
    if (!hardware_enabled()) return true;  // LINT0 is then the processor's INTR pin. [SDM-3A 11.4.3]
    const uint32_t lint0 = lvt_value(platform::kLvtLint0);
    return !(lint0 & kLvtMasked) && (lint0 & kLvtMode) >> 8 == kExtInt;
  }

  void reset_registers();
  void update_ppr();
  void request(uint8_t vector, bool level);
  void deliver_local(unsigned index);
  void resample_lint0();
  void report_error(uint32_t bits);
  void eoi();
  void write_lvt(unsigned index, uint32_t value);
  void write_svr(uint32_t value);
  void send(uint64_t value);
  bool set_apic_base(uint64_t value);
  uint32_t x2apic_ldr() const { return (options.id >> 4) << 16 | 1u << (options.id & 15); }
  uint32_t read(uint8_t reg);
  void write(uint8_t reg, uint32_t value);
  bool write_x2apic(uint8_t reg, uint64_t value);
};

// [SDM-3A 11.4.7.1]
void Lapic::Impl::reset_registers() {
  tpr = 0;
  ppr = 0;
  ldr = 0;
  dfr = 0xffffffff;
  svr = 0xff;
  esr = 0;
  esr_pending = 0;
  icr = 0;
  for (auto& entry : lvt) entry = kLvtMasked;
  irr.clear_all();
  isr.clear_all();
  tmr.clear_all();
  timer.reset();
}

// [SDM-3A 11.8.3.1]
void Lapic::Impl::update_ppr() {
  const int in_service = isr.highest();
  const auto task = static_cast<int>(tpr.load(kRelaxed));
  const int isr_class = in_service < 0 ? 0 : priority_class(in_service);
  ppr.store(static_cast<uint32_t>(priority_class(task) >= isr_class ? task : isr_class << 4));
}

void Lapic::Impl::request(uint8_t vector, bool level) {
  if (vector < kFirstLegalVector) {
    report_error(kEsrReceiveIllegalVector);
    return;
  }
  if (level)
    tmr.set(vector);
  else
    tmr.clear(vector);
  if (!irr.set(vector)) return;  // whoever set it first has kicked
  if (priority_class(vector) > priority_class(static_cast<int>(ppr.load()))) kick_vcpu();
}

// An interrupt from the local vector table. [SDM-3A 11.5.1]
void Lapic::Impl::deliver_local(unsigned index) {
  const uint32_t entry = lvt_value(index);
  if ((entry & kLvtMasked) || !hardware_enabled()) return;
  const bool has_mode = kLvtWritable[index] & kLvtMode;
  switch (has_mode ? (entry & kLvtMode) >> 8 : 0u) {
    case kFixed: {
      const bool level = index == platform::kLvtLint0 && (entry & kLvtLevel);
      if (level) {
        if (lvt[index].fetch_or(kLvtRemoteIrr) & kLvtRemoteIrr) return;
      }
      request(static_cast<uint8_t>(entry & kLvtVector), level);
      return;
    }
    case kSmi:
      if (!smi.exchange(true)) kick_vcpu();
      return;
    case kNmi:
      if (!nmi.exchange(true)) kick_vcpu();
      return;
    case kInit:
      if (!init.exchange(true)) kick_vcpu();
      return;
    default: return;  // ExtINT is looked at by its level
  }
}

void Lapic::Impl::resample_lint0() {
  if (!ext_int.load()) return;
  if (ext_int_deliverable())
    kick_vcpu();
  else if (lvt_value(platform::kLvtLint0) & kLvtLevel)
    deliver_local(platform::kLvtLint0);
}

void Lapic::Impl::report_error(uint32_t bits) {
  const uint32_t before = esr_pending.fetch_or(bits);
  if (bits & ~before) deliver_local(platform::kLvtError);
}

// [SDM-3A 11.8.5]
void Lapic::Impl::eoi() {
  const int vector = isr.highest();
  if (vector < 0) return;
  const auto retired = static_cast<uint8_t>(vector);
  isr.clear(retired);
  update_ppr();
  if (tmr.test(retired)) {
    const uint32_t lint0 = lvt_value(platform::kLvtLint0);
    if ((lint0 & kLvtRemoteIrr) && (lint0 & kLvtVector) == retired) {
      lvt[platform::kLvtLint0].fetch_and(~kLvtRemoteIrr);
      resample_lint0();
    }
    bus.broadcast_eoi(retired);
  }
  if (interrupt_deliverable()) kick_vcpu();
}

void Lapic::Impl::write_lvt(unsigned index, uint32_t value) {
  value &= kLvtWritable[index];
  if (!software_enabled()) value |= kLvtMasked;
  const uint32_t kept = (value & kLvtLevel) ? kLvtRemoteIrr : 0;
  uint32_t before = lvt_value(index);  // the thread that raises the pin may set the remote IRR meanwhile
  while (!lvt[index].compare_exchange_weak(before, value | (before & kept))) {
  }
  if (index == platform::kLvtTimer) timer.set_mode(static_cast<LapicTimer::Mode>((value & kLvtTimerMode) >> 17));
  if (index == platform::kLvtLint0) resample_lint0();
}

void Lapic::Impl::write_svr(uint32_t value) {
  svr.store(value & kSvrWritable);
  if (value & kSvrEnable) return;
  for (auto& entry : lvt) entry.fetch_or(kLvtMasked);  // [SDM-3A 11.4.7.2]
}

// [SDM-3A 11.6.1]
void Lapic::Impl::send(uint64_t value) {
  const auto vector = static_cast<uint8_t>(value);
  const auto mode = static_cast<uint8_t>((value >> 8) & 7);
  const auto shorthand = (value >> kIcrShorthandShift) & 3;
  const bool deassert = (value & kIcrLevel) && !(value & kIcrAssert);
  if (mode == kInit && deassert) return;  // only the older APIC bus knew this message
  if (mode == kExtInt || mode == 3) return;
  if ((mode == kFixed || mode == kLowestPriority) && vector < kFirstLegalVector) {
    report_error(kEsrSendIllegalVector);
    return;
  }
  constexpr uint64_t kSelf = 1;
  if (shorthand != kSelf) {
    bus.send_ipi(options.id, value);
    return;
  }
  if (mode == kFixed || mode == kLowestPriority)
    request(vector, false);
  else if (mode == kNmi && !nmi.exchange(true))
    kick_vcpu();
}

// [SDM-3A 11.12.5.1] False: #GP.
bool Lapic::Impl::set_apic_base(uint64_t value) {
  uint64_t allowed = kBaseBootstrap | kBaseEnable | 0xfffff000;
  if (options.physical_address_bits > 32)
    allowed |= ((uint64_t{1} << options.physical_address_bits) - 1) & ~uint64_t{0xfff};
  if (options.x2apic_supported) allowed |= kBaseX2apic;
  if (value & ~allowed) return false;
  const uint64_t before = apic_base.load(kRelaxed);
  const bool to_x2apic = value & kBaseX2apic, to_enabled = value & kBaseEnable;
  if (to_x2apic && !to_enabled) return false;
  if (to_x2apic && !(before & kBaseEnable)) return false;
  if (!to_x2apic && to_enabled && (before & kBaseX2apic)) return false;
  if (!to_enabled && (before & kBaseEnable)) reset_registers();
  apic_base.store(value);
  if (to_x2apic && !(before & kBaseX2apic)) icr.store(icr.load() & 0xffffffff);
  if (!to_enabled && ext_int.load()) kick_vcpu();
  return true;
}

uint32_t Lapic::Impl::read(uint8_t reg) {
  if (reg >= kIsr0 && reg < kTmr0) return isr.word(reg - kIsr0);
  if (reg >= kTmr0 && reg < kIrr0) return tmr.word(reg - kTmr0);
  if (reg >= kIrr0 && reg < kEsr) return irr.word(reg - kIrr0);
  if (reg >= kLvtTimerRegister && reg <= kLvtErrorRegister) return lvt_value(reg - kLvtTimerRegister);
  switch (reg) {
    case kId: return x2apic() ? options.id : (options.id & 0xff) << 24;
    case kVersion: return kVersionValue;
    case kTpr: return tpr.load(kRelaxed);
    case kPpr: return ppr.load(kRelaxed);
    case kApr:
    case kRrd:
    case kEoi: return 0;
    case kLdr: return x2apic() ? x2apic_ldr() : ldr.load(kRelaxed);
    case kDfr: return dfr.load(kRelaxed);
    case kSvr: return svr.load(kRelaxed);
    case kEsr: return esr.load(kRelaxed);
    case kIcrLow: return static_cast<uint32_t>(icr.load(kRelaxed));
    case kIcrHigh: return static_cast<uint32_t>(icr.load(kRelaxed) >> 32);
    case kInitialCount: return timer.initial_count();
    case kCurrentCount: return timer.current_count();
    case kDivideConfig: return timer.divide_config();
    default: report_error(kEsrIllegalRegister); return 0;
  }
}

// A register write with reserved bits already dropped (xAPIC) or refused (x2APIC).
void Lapic::Impl::write(uint8_t reg, uint32_t value) {
  if (reg >= kLvtTimerRegister && reg <= kLvtErrorRegister) {
    write_lvt(reg - kLvtTimerRegister, value);
    return;
  }
  switch (reg) {
    case kTpr:
      tpr.store(value & 0xff);
      update_ppr();
      if (interrupt_deliverable()) kick_vcpu();
      break;
    case kEoi: eoi(); break;
    case kLdr: ldr.store(value & 0xff000000); break;
    case kDfr: dfr.store(value | 0x0fffffff); break;
    case kSvr: write_svr(value); break;
    case kEsr: esr.store(esr_pending.exchange(0)); break;
    case kIcrHigh: icr.store((icr.load() & 0xffffffff) | uint64_t{value & 0xff000000} << 32); break;
    case kIcrLow: {
      const uint64_t high = icr.load() >> 56;
      icr.store(high << 56 | (value & kIcrWritable));
      send(icr.load());
      break;
    }
    case kInitialCount: timer.set_initial_count(value); break;
    case kDivideConfig: timer.set_divide_config(value); break;
    case kId:  // read-only here: whether software may change it is model-specific [SDM-3A 11.4.6]
    case kVersion:
    case kApr:
    case kPpr:
    case kRrd:
    case kCurrentCount: break;
    default:
      if (reg < kIsr0 || reg >= kEsr) report_error(kEsrIllegalRegister);
      break;
  }
}

// [SDM-3A table 11-6] False: #GP for registers that do not exist, read-only ones and reserved bits.
bool Lapic::Impl::write_x2apic(uint8_t reg, uint64_t value) {
  uint64_t allowed = 0;
  if (reg >= kLvtTimerRegister && reg <= kLvtErrorRegister) {
    allowed = kLvtWritable[reg - kLvtTimerRegister] | kLvtReadOnly[reg - kLvtTimerRegister];
  } else {
    switch (reg) {
      case kTpr:
      case kSelfIpi: allowed = 0xff; break;
      case kEoi:
      case kEsr: allowed = 0; break;
      case kSvr: allowed = kSvrWritable; break;
      case kIcrLow: allowed = 0xffffffff00000000 | kIcrWritable | kIcrBusy; break;
      case kInitialCount: allowed = 0xffffffff; break;
      case kDivideConfig: allowed = 0xb; break;
      default: return false;
    }
  }
  if (value & ~allowed) return false;
  if (reg == kIcrLow) {
    value &= ~uint64_t{kIcrBusy};
    icr.store(value);
    send(value);
  } else if (reg == kSelfIpi) {
    if (value < kFirstLegalVector)
      report_error(kEsrSendIllegalVector);
    else
      request(static_cast<uint8_t>(value), false);
  } else {
    write(reg, static_cast<uint32_t>(value));
  }
  return true;
}

Lapic::Lapic(const Options& options, io::Clock& clock, LapicBus& bus)
    : impl_(std::make_unique<Impl>(options, clock, bus)) {
  reset();
}

Lapic::~Lapic() = default;

void Lapic::reset() {
  impl_->reset_registers();
  impl_->apic_base = kDefaultBase | kBaseEnable | (impl_->options.bootstrap ? kBaseBootstrap : 0);
  impl_->nmi = false;
  impl_->smi = false;
  impl_->init = false;
  impl_->woken = false;
  impl_->sipi = -1;
  // ext_int is an input pin: its level is the 8259's affair.
}

uint64_t Lapic::io_read(uint64_t offset, unsigned size_bytes) {
  if (!impl_->hardware_enabled() || impl_->x2apic()) return ~uint64_t{0};
  const unsigned byte = offset & 15;
  if (byte >= 4) return 0;
  // Anything but an aligned 32-bit access is undefined; narrow reads see their bytes of the register.
  const uint64_t value = uint64_t{impl_->read(static_cast<uint8_t>((offset >> 4) & 0xff))} >> (byte * 8);
  return size_bytes >= 4 ? value : value & ((1u << (size_bytes * 8)) - 1);
}

void Lapic::io_write(uint64_t offset, uint64_t value, unsigned size_bytes) {
  if (!impl_->hardware_enabled() || impl_->x2apic()) return;
  if ((offset & 15) != 0 || size_bytes < 4) return;
  impl_->write(static_cast<uint8_t>((offset >> 4) & 0xff), static_cast<uint32_t>(value));
}

bool Lapic::read_msr(uint32_t index, uint64_t& value) {
  if (index == kMsrApicBase) {
    value = impl_->apic_base.load(kRelaxed);
    return true;
  }
  if (index == kMsrTscDeadline) {
    value = impl_->timer.tsc_deadline();
    return true;
  }
  if (index < kMsrX2apicFirst || index > kMsrX2apicLast || !impl_->x2apic()) return false;
  const auto reg = static_cast<uint8_t>(index - kMsrX2apicFirst);
  const bool bitmap = reg >= kIsr0 && reg < kEsr;
  const bool lvt = reg >= kLvtTimerRegister && reg <= kLvtErrorRegister;
  switch (reg) {
    case kIcrLow: value = impl_->icr.load(kRelaxed); return true;
    case kId:
    case kVersion:
    case kTpr:
    case kPpr:
    case kLdr:
    case kSvr:
    case kEsr:
    case kInitialCount:
    case kCurrentCount:
    case kDivideConfig: break;
    default:
      if (!bitmap && !lvt) return false;
  }
  value = impl_->read(reg);
  return true;
}

bool Lapic::write_msr(uint32_t index, uint64_t value) {
  if (index == kMsrApicBase) return impl_->set_apic_base(value);
  if (index == kMsrTscDeadline) {
    impl_->timer.set_tsc_deadline(value);
    return true;
  }
  if (index < kMsrX2apicFirst || index > kMsrX2apicLast || !impl_->x2apic()) return false;
  return impl_->write_x2apic(static_cast<uint8_t>(index - kMsrX2apicFirst), value);
}

uint64_t Lapic::apic_base() const { return impl_->apic_base.load(kRelaxed); }
bool Lapic::enabled() const { return impl_->hardware_enabled() && impl_->software_enabled(); }
uint8_t Lapic::cr8() const { return static_cast<uint8_t>(impl_->tpr.load(kRelaxed) >> 4); }
void Lapic::set_cr8(uint8_t value) { impl_->write(kTpr, (value & 15u) << 4); }
void Lapic::set_tsc_adjust(uint64_t value) { impl_->timer.set_tsc_adjust(value); }
void Lapic::set_kick(std::function<void()> kick) { impl_->kick = std::move(kick); }

void Lapic::deliver(uint8_t delivery_mode, uint8_t vector, bool level_triggered) {
  switch (delivery_mode) {
    case kFixed:
    case kLowestPriority:
      if (enabled()) impl_->request(vector, level_triggered);
      break;
    case kSmi:
      if (!impl_->smi.exchange(true)) impl_->kick_vcpu();
      break;
    case kNmi:
      if (!impl_->nmi.exchange(true)) impl_->kick_vcpu();
      break;
    case kInit:
      if (!impl_->init.exchange(true)) impl_->kick_vcpu();
      break;
    case kStartup:
      impl_->sipi.store(vector);
      impl_->kick_vcpu();
      break;
    default: break;  // ExtINT messages: the 8259s are wired to LINT0, see set_ext_int()
  }
}

// [SDM-3A 11.6.2, 11.12.10]
bool Lapic::matches(uint32_t destination, bool logical) const {
  if (!impl_->hardware_enabled()) return false;
  const uint32_t id = impl_->options.id;
  if (destination == kBroadcast) return true;
  if (!logical) return destination == id || (destination == 0xff && !impl_->x2apic());
  if (impl_->x2apic()) {
    const uint32_t own = impl_->x2apic_ldr();
    return destination >> 16 == own >> 16 && (destination & own & 0xffff);
  }
  if (destination > 0xff) return false;
  const uint32_t own = impl_->ldr.load(kRelaxed) >> 24;
  if (impl_->dfr.load(kRelaxed) >> 28 == 0xf) return destination & own;  // flat
  if (destination == 0xff) return true;
  return destination >> 4 == own >> 4 && (destination & own & 0xf);  // cluster
}

void Lapic::set_ext_int(bool level) {
  const bool before = impl_->ext_int.exchange(level);
  if (!level || before) return;
  if (impl_->ext_int_deliverable())
    impl_->kick_vcpu();
  else
    impl_->deliver_local(platform::kLvtLint0);
}

void Lapic::wake() {
  impl_->woken = true;
  impl_->kick_vcpu();
}

bool Lapic::take_wake() { return impl_->woken.exchange(false); }

LapicBus& Lapic::bus() const { return impl_->bus; }

LapicEvent Lapic::pending() const {
  if (impl_->smi.load()) return LapicEvent::kSmi;
  if (impl_->init.load()) return LapicEvent::kInit;
  if (impl_->sipi.load() >= 0) return LapicEvent::kSipi;
  if (impl_->nmi.load()) return LapicEvent::kNmi;
  if (impl_->ext_int_deliverable()) return LapicEvent::kExtInt;
  if (impl_->hardware_enabled() && impl_->interrupt_deliverable()) return LapicEvent::kInterrupt;
  return LapicEvent::kNone;
}

uint8_t Lapic::acknowledge_interrupt() {
  if (!impl_->interrupt_deliverable()) return static_cast<uint8_t>(impl_->svr.load(kRelaxed) & kSvrVector);
  const auto vector = static_cast<uint8_t>(impl_->irr.highest());
  impl_->irr.clear(vector);
  impl_->isr.set(vector);
  impl_->update_ppr();
  return vector;
}

bool Lapic::take_nmi() { return impl_->nmi.exchange(false); }
bool Lapic::take_smi() { return impl_->smi.exchange(false); }

bool Lapic::take_init() {
  if (!impl_->init.exchange(false)) return false;
  impl_->reset_registers();
  impl_->woken = false;
  return true;
}

std::optional<uint8_t> Lapic::take_sipi() {
  const int vector = impl_->sipi.exchange(-1);
  if (vector < 0) return std::nullopt;
  return static_cast<uint8_t>(vector);
}

platform::LapicState Lapic::state() const {
  platform::LapicState state;
  state.id = impl_->options.id;
  state.apic_base = impl_->apic_base;
  state.tpr = impl_->tpr;
  state.ldr = impl_->ldr;
  state.dfr = impl_->dfr;
  state.svr = impl_->svr;
  state.esr = impl_->esr;
  state.esr_pending = impl_->esr_pending;
  state.icr = impl_->icr;
  for (unsigned word = 0; word < 8; ++word) {
    state.irr[word] = impl_->irr.word(word);
    state.isr[word] = impl_->isr.word(word);
    state.tmr[word] = impl_->tmr.word(word);
  }
  for (unsigned index = 0; index < platform::kLvtCount; ++index) state.lvt[index] = impl_->lvt_value(index);
  state.ext_int_level = impl_->ext_int;
  state.nmi_pending = impl_->nmi;
  state.smi_pending = impl_->smi;
  state.init_pending = impl_->init;
  state.woken = impl_->woken;
  const int sipi = impl_->sipi;
  state.sipi_pending = sipi >= 0;
  state.sipi_vector = static_cast<uint8_t>(sipi < 0 ? 0 : sipi);
  impl_->timer.save(state);
  return state;
}

void Lapic::set_state(const platform::LapicState& state) {
  impl_->apic_base = state.apic_base;
  impl_->tpr = state.tpr & 0xff;
  impl_->ldr = state.ldr & 0xff000000;
  impl_->dfr = state.dfr | 0x0fffffff;
  impl_->svr = state.svr & kSvrWritable;
  impl_->esr = state.esr;
  impl_->esr_pending = state.esr_pending;
  impl_->icr = state.icr;
  constexpr uint32_t kIllegalVectors = (1u << kFirstLegalVector) - 1;
  for (unsigned word = 0; word < 8; ++word) {
    const uint32_t legal = word == 0 ? ~kIllegalVectors : ~0u;
    impl_->irr.set_word(word, state.irr[word] & legal);
    impl_->isr.set_word(word, state.isr[word] & legal);
    impl_->tmr.set_word(word, state.tmr[word] & legal);
  }
  for (unsigned index = 0; index < platform::kLvtCount; ++index)
    impl_->lvt[index] = state.lvt[index] & (kLvtWritable[index] | kLvtReadOnly[index]);
  impl_->update_ppr();
  impl_->ext_int = state.ext_int_level;
  impl_->nmi = state.nmi_pending;
  impl_->smi = state.smi_pending;
  impl_->init = state.init_pending;
  impl_->woken = state.woken;
  impl_->sipi = state.sipi_pending ? state.sipi_vector : -1;
  impl_->timer.load(state, static_cast<LapicTimer::Mode>((state.lvt[platform::kLvtTimer] & kLvtTimerMode) >> 17));
  if (pending() != LapicEvent::kNone) impl_->kick_vcpu();
}

}  // namespace rhea::cpu
