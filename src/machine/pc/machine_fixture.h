// SPDX-License-Identifier: Apache-2.0
// For tests: a whole machine under an engine whose "guest" is a C++ function that uses the machine's buses.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/log.h"
#include "io/host_clock.h"
#include "machine/byte_image.h"
#include "machine/pc/machine.h"

namespace rhea::machine {

class FakeVcpu;
using Program = std::function<cpu::StopReason(FakeVcpu&)>;

// Runs the program on each run(); but while the state says so it waits for its start-up interrupt, or for a stop.
class FakeVcpu final : public cpu::Vcpu {
 public:
  FakeVcpu(const cpu::EngineContext& context, unsigned index, cpu::Lapic& lapic, Program program)
      : context_(context), index_(index), lapic_(lapic), program_(std::move(program)) {}

  cpu::StopReason run(uint64_t) override {
    ++runs;
    const cpu::StopReason reason = started() ? program_(*this) : cpu::StopReason::kStopped;
    std::lock_guard lock(mutex_);
    stop_ = false;
    return reason;
  }
  // What a HLT loop does.
  cpu::StopReason wait_for_stop() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stop_; });
    return cpu::StopReason::kStopped;
  }
  // HLT: until the local APIC has something. False: asked to stop.
  bool halt() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stop_ || lapic_.pending() != cpu::LapicEvent::kNone; });
    return !stop_;
  }
  bool stop_requested() {
    std::lock_guard lock(mutex_);
    return stop_;
  }

  unsigned index() const { return index_; }
  cpu::Lapic& lapic() { return lapic_; }
  io::IrqRouter& router() { return context_.irq; }
  io::Clock& clock() { return context_.clock; }
  void out(uint16_t port, uint32_t value, unsigned size = 1) { context_.ports.write(port, value, size); }
  uint32_t in(uint16_t port, unsigned size = 1) { return static_cast<uint32_t>(context_.ports.read(port, size)); }
  void write(uint64_t address, uint64_t value, unsigned size = 4) { context_.physical.write(address, value, size); }
  uint64_t read(uint64_t address, unsigned size = 4) { return context_.physical.read(address, size); }

  void kick() override {
    std::lock_guard lock(mutex_);
    ++kicks;
    changed_.notify_all();
  }
  void request_stop() override {
    std::lock_guard lock(mutex_);
    stop_ = true;
    changed_.notify_all();
  }
  void get_state(cpu::CpuState& state) const override { state = state_; }
  void set_state(const cpu::CpuState& state) override { state_ = state; }
  bool translate_for_debug(uint64_t, uint64_t&) const override { return false; }
  void set_breakpoints(const std::vector<uint64_t>&) override {}
  void set_single_step(bool on) override { single_step = on; }
  std::string statistics() const override { return "fake\n"; }

  std::atomic<int> runs{0}, kicks{0};
  std::atomic<bool> single_step{false};

 private:
  // [SDM-3A 9.4.3]
  bool started() {
    while (state_.wait_for_sipi) {
      if (!halt()) return false;
      lapic_.take_init();
      if (const auto vector = lapic_.take_sipi()) cpu::start_by_sipi(state_, *vector);
    }
    return true;
  }

  cpu::EngineContext context_;
  unsigned index_;
  cpu::Lapic& lapic_;
  Program program_;
  cpu::CpuState state_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
};

class FakeEngine final : public cpu::Engine {
 public:
  FakeEngine(const cpu::EngineContext& context, Program program) : context_(context), program_(std::move(program)) {}
  std::string_view name() const override { return "fake"; }
  Result<std::unique_ptr<cpu::Vcpu>> create_vcpu(unsigned index, cpu::Lapic& lapic) override {
    return std::make_unique<FakeVcpu>(context_, index, lapic, program_);
  }

 private:
  cpu::EngineContext context_;
  Program program_;
};

constexpr uint16_t kPm1Control = 0x604, kResetPort = 0xcf9, kDebugExitPort = 0xf4;

class MachineTest : public testing::Test {
 protected:
  static constexpr uint64_t kKernelEntry = 0x100040;

  MachineTest() {
    folder_ = (std::filesystem::temp_directory_path() / "rhea-machine-XXXXXX").string();
    EXPECT_NE(mkdtemp(folder_.data()), nullptr);
    ByteImage kernel;
    kernel.u32(0x1badb002).u32(0x10000).u32(-(0x1badb002 + 0x10000u));
    kernel.u32(0x100000).u32(0x100000).u32(0).u32(0).u32(kKernelEntry);
    kernel.zeros(256);
    write_file("kernel", kernel.span());
    loop_ = std::move(*base::EventLoop::create());
    options_.kernel_path = folder_ + "/kernel";
    options_.memory_bytes = 16u << 20;
  }
  ~MachineTest() override { std::filesystem::remove_all(folder_); }

  void write_file(const std::string& name, std::span<const std::byte> data) {
    std::ofstream(folder_ + "/" + name, std::ios::binary)
        .write(reinterpret_cast<const char*>(data.data()), static_cast<long>(data.size()));
  }
  Result<std::unique_ptr<Machine>> create(Program program) {
    auto model =
        cpu::CpuModel::create({.name = "max", .tsc_frequency_hz = 1'000'000'000, .cpu_count = options_.cpu_count});
    EXPECT_TRUE(model);
    return Machine::create(
        options_,
        {.loop = *loop_,
         .log = log_,
         .clock = std::move(*io::HostClock::create(*loop_)),
         .cpu_model = *model,
         .create_engine = [program](const cpu::EngineContext& context) -> Result<std::unique_ptr<cpu::Engine>> {
           return std::make_unique<FakeEngine>(context, program);
         }});
  }
  MachineExit run(Program program) {
    auto machine = create(std::move(program));
    if (!machine) return {.kind = MachineExit::Kind::kHostError, .text = machine.error().to_string()};
    return (*machine)->run();
  }

  std::string folder_;
  base::Log log_;
  std::unique_ptr<base::EventLoop> loop_;
  Machine::Options options_;
};

inline cpu::StopReason power_off(FakeVcpu& vcpu) {
  vcpu.out(kPm1Control, (1u << 13) | (7u << 10), 2);
  return vcpu.wait_for_stop();
}

}  // namespace rhea::machine
