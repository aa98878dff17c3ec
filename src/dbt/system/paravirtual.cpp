// SPDX-License-Identifier: Apache-2.0
// The KVM paravirtual registers: kvmclock, steal time, PV EOI and halt polling, as far as CPUID offers them.
//
// Spec: Linux Documentation/virt/kvm/x86/msr.rst, cpuid.rst. The structures lie in guest RAM; what lies
// elsewhere is not written. PV EOI never sets the "no EOI needed" bit, steal time never grows.
#include "dbt/system/msr.h"

namespace rhea::dbt {

namespace {

enum ParavirtualMsr : uint32_t {
  kWallClockOld = 0x11,
  kSystemTimeOld = 0x12,
  kWallClock = 0x4b564d00,
  kSystemTime = 0x4b564d01,
  kAsyncPf = 0x4b564d02,
  kStealTime = 0x4b564d03,
  kPvEoi = 0x4b564d04,
  kPollControl = 0x4b564d05,
};
enum FeatureBit : unsigned {
  kClockOld = 0,
  kClock = 3,
  kAsyncPfBit = 4,
  kStealTimeBit = 5,
  kPvEoiBit = 6,
  kPollControlBit = 12
};

constexpr uint32_t kFeatureLeaf = 0x40000001;
constexpr uint8_t kTscStable = 1;

bool offered(const Context& context, FeatureBit bit) { return (static_cpuid(context, kFeatureLeaf).eax >> bit) & 1; }

// Nanoseconds from TSC ticks: ((ticks << shift) * mul) >> 32, a negative shift shifting right.
struct TscScale {
  uint32_t mul = 0;
  int8_t shift = 0;
};

TscScale tsc_scale(uint64_t frequency_hz) {
  TscScale scale;
  if (frequency_hz == 0) return scale;
  // Bring 10^9 / f into [1/2, 1), so that mul uses its 32 bits.
  uint64_t numerator = 1'000'000'000, denominator = frequency_hz;
  while (numerator >= denominator) {
    denominator <<= 1;
    ++scale.shift;
  }
  while (numerator < denominator - numerator) {
    numerator <<= 1;
    --scale.shift;
  }
  uint64_t fraction = 0;  // numerator * 2^64 / denominator: a quotient below 2^64, as numerator < denominator
  asm("divq %[denominator]" : "=a"(fraction), "+d"(numerator) : "a"(0), [denominator] "r"(denominator) : "cc");
  scale.mul = static_cast<uint32_t>(fraction >> 32);
  return scale;
}

uint64_t scaled_ns(const TscScale& scale, uint64_t ticks) {
  ticks = scale.shift >= 0 ? ticks << scale.shift : ticks >> -scale.shift;
  return static_cast<uint64_t>((static_cast<unsigned __int128>(ticks) * scale.mul) >> 32);
}

// Readers retry while the version is odd or has changed. [msr.rst, MSR_KVM_SYSTEM_TIME_NEW]
template <class Body>
void write_versioned(Context& context, uint64_t physical, unsigned size_bytes, Body body) {
  std::byte* host = ram_pointer(context, physical, size_bytes);
  if (host == nullptr) return;
  auto version = static_cast<uint32_t>(load_host(host, 4));
  store_host(host, (version | 1) + (version & 1 ? 2 : 0), 4);
  version = static_cast<uint32_t>(load_host(host, 4));
  __atomic_thread_fence(__ATOMIC_RELEASE);
  body(host);
  __atomic_thread_fence(__ATOMIC_RELEASE);
  store_host(host, version + 1, 4);
  note_store(context, physical, size_bytes);
}

// All processors get the same moment to count from: the guest is told that it need not compare what they compute.
void write_system_time(Context& context, uint64_t value) {
  io::Clock::Moment reference;
  uint64_t frequency_hz = 0;
  with_vectors_saved(context, [&] {
    reference = context.clock->tsc_reference();
    frequency_hz = context.clock->tsc_frequency_hz();
  });
  TscScale scale = tsc_scale(frequency_hz);
  write_versioned(context, value & ~uint64_t{1}, 32, [&](std::byte* time) {
    store_host(time + 4, 0, 4);
    store_host(time + 8, reference.tsc + context.state.tsc_adjust, 8);
    store_host(time + 16, reference.ns, 8);
    store_host(time + 24, scale.mul, 4);
    store_host(time + 28, static_cast<uint8_t>(scale.shift), 1);
    store_host(time + 29, kTscStable, 1);
    store_host(time + 30, 0, 2);
  });
}

// Wall-clock time at the moment when the system time, as the guest computes it, was zero.
void write_wall_clock(Context& context, uint64_t physical) {
  io::Clock::Moment reference;
  uint64_t frequency_hz = 0, tsc = 0, wall_ns = 0;
  with_vectors_saved(context, [&] {
    reference = context.clock->tsc_reference();
    frequency_hz = context.clock->tsc_frequency_hz();
    tsc = context.clock->tsc();
    wall_ns = static_cast<uint64_t>(context.clock->wall_time_ns());
  });
  const uint64_t boot_ns = wall_ns - reference.ns - scaled_ns(tsc_scale(frequency_hz), tsc - reference.tsc);
  write_versioned(context, physical, 12, [&](std::byte* wall) {
    store_host(wall + 4, boot_ns / 1'000'000'000, 4);
    store_host(wall + 8, boot_ns % 1'000'000'000, 4);
  });
}

void write_steal_time(Context& context, uint64_t physical) {
  write_versioned(context, physical + 8, 4, [](std::byte*) {});
  if (std::byte* host = ram_pointer(context, physical, 64)) {
    store_host(host, 0, 8);       // steal
    store_host(host + 12, 0, 4);  // flags
    store_host(host + 16, 0, 1);  // preempted
    note_store(context, physical, 64);
  }
}

bool write_enabled(uint64_t& slot, uint64_t value, uint64_t reserved) {
  if (value & reserved) return false;
  slot = value;
  return true;
}

FeatureBit feature_of(uint32_t index) {
  switch (index) {
    case kWallClockOld:
    case kSystemTimeOld: return kClockOld;
    case kWallClock:
    case kSystemTime: return kClock;
    case kAsyncPf: return kAsyncPfBit;
    case kStealTime: return kStealTimeBit;
    case kPvEoi: return kPvEoiBit;
    default: return kPollControlBit;
  }
}

}  // namespace

bool is_paravirtual_msr(uint32_t index) {
  return index == kWallClockOld || index == kSystemTimeOld || (index >= kWallClock && index <= kPollControl);
}

std::optional<uint64_t> read_paravirtual_msr(Context& context, uint32_t index) {
  if (!offered(context, feature_of(index))) return std::nullopt;
  const cpu::CpuState& state = context.state;
  switch (index) {
    case kWallClockOld:
    case kWallClock: return state.kvm_wall_clock;
    case kSystemTimeOld:
    case kSystemTime: return state.kvm_system_time;
    case kStealTime: return state.kvm_steal_time;
    case kPvEoi: return state.kvm_pv_eoi;
    case kPollControl: return state.kvm_poll_control;
    default: return std::nullopt;  // asynchronous page faults
  }
}

bool write_paravirtual_msr(Context& context, uint32_t index, uint64_t value) {
  if (!offered(context, feature_of(index))) return false;
  cpu::CpuState& state = context.state;
  switch (index) {
    case kWallClockOld:
    case kWallClock:
      state.kvm_wall_clock = value;
      write_wall_clock(context, value);
      return true;
    case kSystemTimeOld:
    case kSystemTime:
      state.kvm_system_time = value;
      update_system_time(context);
      return true;
    case kStealTime:
      if (!write_enabled(state.kvm_steal_time, value, 0x3e)) return false;
      if (value & 1) write_steal_time(context, value & ~uint64_t{0x3f});
      return true;
    case kPvEoi: return write_enabled(state.kvm_pv_eoi, value, 2);
    case kPollControl: return write_enabled(state.kvm_poll_control, value, ~uint64_t{1});
    default: return false;
  }
}

void update_system_time(Context& context) {
  if (context.state.kvm_system_time & 1) write_system_time(context, context.state.kvm_system_time);
}

}  // namespace rhea::dbt
