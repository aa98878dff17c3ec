// SPDX-License-Identifier: Apache-2.0
// Further vCPUs of the tiny guest of runtime_fake.h, each on a thread of its own.
#pragma once

#include <sys/mman.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <new>
#include <vector>

#include "base/fault_dispatcher.h"
#include "dbt/runtime/runtime_fake.h"

namespace rhea::dbt {

class SmpVcpu final : private base::FaultHandler {
 public:
  SmpVcpu(RuntimeGuest& guest, unsigned index) : lapic_({.id = index, .bootstrap = index == 0}, guest.clock(), bus_) {
    mapping_ = static_cast<std::byte*>(
        mmap(nullptr, kMappingBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    RHEA_CHECK(mapping_ != MAP_FAILED);
    context_ = new (mapping_ + kStackBytes) Context;
    guest.wire(*context_, lapic_);
    runtime = std::move(*Runtime::create(*context_, guest.space(), index));
    lapic_.set_kick([this] { kick(); });
    context_->state = guest.state();
    context_->set_rflags(cpu::rflags::kFixed1);
    context_->state.gpr = {};
    context_->state.gpr[cpu::kRsp] = RuntimeGuest::kStack - 0x1000 * index;
  }
  ~SmpVcpu() override {
    lapic_.set_kick({});
    runtime.reset();
    munmap(mapping_, kMappingBytes);
  }
  SmpVcpu(const SmpVcpu&) = delete;
  SmpVcpu& operator=(const SmpVcpu&) = delete;

  Context& context() { return *context_; }
  uint64_t& gpr(unsigned index) { return context_->state.gpr[index]; }

  ExitReason run(uint64_t rip) {
    context_->state.rip = rip;
    context_->state.halted = false;
    auto guard = base::FaultGuard::create(*this);
    RHEA_CHECK(guard.has_value());
    std::atomic_ref(context_->exit_request).store(1);
    return runtime->run();
  }
  void kick() {
    std::atomic_ref(context_->irq_pending).store(1);
    std::atomic_ref(context_->exit_request).store(1);
  }
  void request_stop() {
    std::atomic_ref(runtime->stop_requested).store(true);
    kick();
  }

  std::unique_ptr<Runtime> runtime;

 private:
  static constexpr size_t kStackBytes = size_t{1} << 20, kMappingBytes = kStackBytes + sizeof(Context);
  bool on_fault(int signo, siginfo_t* info, ucontext_t* uc) override { return runtime->on_fault(signo, info, uc); }

  struct Bus final : cpu::LapicBus {
    void send_ipi(unsigned, uint64_t) override {}
    void broadcast_eoi(uint8_t) override {}
  } bus_;
  cpu::Lapic lapic_;
  std::byte* mapping_ = nullptr;
  Context* context_ = nullptr;
};

// A guest of several vCPUs. The guest's own (vCPU 0 of RuntimeGuest) only makes the tables; it never runs.
class SmpGuest {
 public:
  explicit SmpGuest(unsigned vcpus, uint64_t code_cache_bytes = 4 << 20)
      : guest({.code_cache_bytes = code_cache_bytes, .vcpus = vcpus + 1}) {
    for (unsigned i = 1; i <= vcpus; ++i) cpus_.push_back(std::make_unique<SmpVcpu>(guest, i));
  }
  SmpVcpu& cpu(unsigned index) { return *cpus_[index]; }

  // The vCPU runs from `rip` until it halts, on a thread of its own.
  void start(unsigned index, uint64_t rip) {
    running_.push_back(std::async(std::launch::async, [this, index, rip] { return cpu(index).run(rip); }));
  }
  // Waits for all that were started; true if all halted. vCPUs that wait for each other for ever cannot be ended.
  bool join() {
    bool halted = true;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(90);
    for (auto& thread : running_) {
      if (thread.wait_until(deadline) != std::future_status::ready) {
        std::fputs("the vCPUs of the test hang\n", stderr);
        std::abort();
      }
      halted &= thread.get() == ExitReason::kHalted;
    }
    running_.clear();
    return halted;
  }

  RuntimeGuest guest;

 private:
  std::vector<std::unique_ptr<SmpVcpu>> cpus_;
  std::vector<std::future<ExitReason>> running_;
};

}  // namespace rhea::dbt
