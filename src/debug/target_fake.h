// SPDX-License-Identifier: Apache-2.0
// A machine for the debugger's tests: its processors execute nothing but one-byte NOPs.
#pragma once

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <vector>

#include "debug/debug_target.h"

namespace rhea::debug {

class FakeVcpu final : public cpu::Vcpu {
 public:
  // Linear addresses below kRamBytes are physical ones; kHigh + x is x, too; the rest is not mapped.
  static constexpr uint64_t kRamBytes = 64 * 1024;
  static constexpr uint64_t kHigh = 0xffffffff80000000;

  FakeVcpu() {
    cpu::reset_to_power_on(state);
    state.segment[cpu::kCs] = {.base = 0, .limit = 0xffffffff, .selector = 8, .attributes = 0xa09b};
    state.efer = cpu::efer::kLme | cpu::efer::kLma;
    state.rip = 0x1000;
  }

  // True: stopped at a breakpoint or after a step.
  bool execute_one() {
    state.rip = (state.rip + 1) % kRamBytes;
    return single_step || std::ranges::binary_search(breakpoints, state.rip);
  }

  cpu::StopReason run(uint64_t) override { return cpu::StopReason::kStopped; }
  void kick() override {}
  void request_stop() override {}
  void get_state(cpu::CpuState& out) const override { out = state; }
  void set_state(const cpu::CpuState& in) override { state = in; }
  bool translate_for_debug(uint64_t linear, uint64_t& physical) const override {
    physical = linear >= kHigh ? linear - kHigh : linear;
    return physical < 2 * kRamBytes;  // mapped, but not all of it is RAM
  }
  void set_breakpoints(const std::vector<uint64_t>& addresses) override { breakpoints = addresses; }
  void set_single_step(bool on) override { single_step = on; }
  std::string statistics() const override { return "no statistics\n"; }

  cpu::CpuState state;
  std::vector<uint64_t> breakpoints;
  bool single_step = false;
};

class FakeTarget : public DebugTarget {
 public:
  explicit FakeTarget(unsigned vcpus = 1) : vcpus_(vcpus) {
    const memory::GuestMemory::Extent extent{{0}, FakeVcpu::kRamBytes};
    memory_ = memory::GuestMemory::create(std::span(&extent, 1), {}).value();
    std::vector<std::byte> nops(FakeVcpu::kRamBytes, std::byte{0x90});
    memory_->write({0}, nops);
  }
  unsigned vcpu_count() const override { return static_cast<unsigned>(vcpus_.size()); }
  cpu::Vcpu& vcpu(unsigned index) override { return vcpus_[index]; }
  FakeVcpu& fake_vcpu(unsigned index = 0) { return vcpus_[index]; }
  memory::GuestMemory& memory() override { return *memory_; }
  void stop() override { calls += "stop "; }
  void resume() override { calls += "resume "; }
  void step(unsigned index) override { calls += "step" + std::to_string(index) + " "; }
  void kill() override { calls += "kill "; }

  std::string calls;

 private:
  std::vector<FakeVcpu> vcpus_;
  std::unique_ptr<memory::GuestMemory> memory_;
};

}  // namespace rhea::debug
