// SPDX-License-Identifier: Apache-2.0
// A tiny 64-bit guest over the runtime alone, for the tests of this folder: RAM mapped one to one by 2 MiB pages (the
// first 2 MiB by 4 KiB pages, which tests may change), flat segments, an IDT whose handlers halt, code given as bytes.
#pragma once

#include <sys/mman.h>

#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <vector>

#include "base/fault_dispatcher.h"
#include "cpu/cpu_model.h"
#include "cpu/lapic.h"
#include "dbt/inject_bug.h"
#include "dbt/runtime/runtime.h"
#include "io/instruction_clock.h"
#include "memory/guest_memory.h"

namespace rhea::dbt {

class RuntimeGuest final : private base::FaultHandler {
 public:
  static constexpr uint64_t kRamBytes = 16 << 20;
  static constexpr uint64_t kGdt = 0x1000, kIdt = 0x2000, kTables = 0x10000, kHandlers = 0x20000, kSmallTable = 0x13000;
  static constexpr uint64_t kCode = 0x100000, kData = 0x180000, kStack = 0x1f0000, kFar = 0x800000;
  static constexpr uint64_t kMmio = 0xd0000000;
  static constexpr uint64_t kPresent = 1, kWritable = 2, kLarge = 0x80;
  static constexpr uint64_t kLimit = 100000;  // instructions after which a run is given up

  explicit RuntimeGuest(RuntimeOptions options = {}) : options_(options) {
    memory_ = std::move(
        *memory::GuestMemory::create(std::vector<memory::GuestMemory::Extent>{{{0}, kRamBytes}}, {.name = "test-ram"}));
    physical_.map({.start = 0,
                   .size_bytes = kRamBytes,
                   .kind = io::RangeKind::kRam,
                   .host = memory_->regions()[0].host,
                   .name = "ram"});
    physical_.map(
        {.start = kMmio, .size_bytes = 0x1000, .kind = io::RangeKind::kMmio, .handler = &device, .name = "device"});
    ports_.map(
        {.start = 0x100, .size_bytes = 0x100, .kind = io::RangeKind::kMmio, .handler = &device, .name = "ports"});
    auto* base = static_cast<std::byte*>(
        mmap(nullptr, kMappingBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    RHEA_CHECK(base != MAP_FAILED);
    mapping_ = base;
    context_ = new (base + kStackBytes) Context;  // the stack of the C++ code that translated code calls lies below
    Context& c = *context_;
    wire(c, lapic_);
    if (options_.instruction_clock) c.instruction_clock = &clock_;
#ifdef RHEA_INJECT_BUGS
    c.inject_bug = options_.inject_bug ? options_.inject_bug : injected_by_environment();
#endif
    space_ = *CodeSpace::create(*memory_, model_, options_, c);
    runtime = std::move(*Runtime::create(c, space_, 0));
    lapic_.set_kick([this] { kick(); });
    cpu::reset_to_power_on(c.state);
    enter_long_mode();
  }
  ~RuntimeGuest() override {
    lapic_.set_kick({});
    runtime.reset();
    munmap(mapping_, kMappingBytes);
  }

  // What the contexts of all vCPUs share.
  void wire(Context& c, cpu::Lapic& lapic) {
    c.memory = memory_.get();
    c.physical = &physical_;
    c.ports = &ports_;
    c.clock = &clock_;
    c.irq = &irq_;
    c.cpu_model = &model_;
    c.lapic = &lapic;
  }

  Context& context() { return *context_; }
  const std::shared_ptr<CodeSpace>& space() { return space_; }
  io::AddressSpace& physical() { return physical_; }
  cpu::CpuState& state() { return context_->state; }
  uint64_t& gpr(unsigned index) { return context_->state.gpr[index]; }
  cpu::Lapic& lapic() { return lapic_; }
  io::InstructionClock& clock() { return clock_; }
  memory::GuestMemory& memory() { return *memory_; }
  std::byte* host(uint64_t physical) { return memory_->regions()[0].host + physical; }

  void put(uint64_t physical, const std::vector<uint8_t>& bytes) {
    RHEA_CHECK(memory_->write({physical}, std::as_bytes(std::span(bytes))));
  }
  void put64(uint64_t physical, uint64_t value) {
    RHEA_CHECK(memory_->write({physical}, std::as_bytes(std::span(&value, 1))));
  }
  uint64_t get64(uint64_t physical) {
    uint64_t value = 0;
    std::memcpy(&value, host(physical), 8);
    return value;
  }
  // Maps the 4 KiB page at `linear` (below 2 MiB) elsewhere. The guest's TLB is not told.
  void map_page(uint64_t linear, uint64_t physical, uint64_t flags = kPresent | kWritable) {
    put64(kSmallTable + (linear >> 12) * 8, physical | flags);
  }

  // Runs from `rip` until HLT, the end of the budget or a stop. With exact counting `instructions` is the budget.
  ExitReason run(uint64_t rip, int64_t instructions = kLimit) {
    context_->state.rip = rip;
    context_->state.halted = false;
    return go_on(instructions);
  }
  ExitReason go_on(int64_t instructions = kLimit) {
    auto guard = base::FaultGuard::create(*this);
    RHEA_CHECK(guard.has_value());
    context_->instructions_left = context_->instructions_settled = instructions;
    runtime->exact_budget = false;
    context_->exit_request = 1;
    return runtime->run();
  }
  int64_t executed(int64_t budget = kLimit) const { return budget - context_->instructions_left; }
  void kick() {
    std::atomic_ref(context_->irq_pending).store(1);
    std::atomic_ref(context_->exit_request).store(1);
  }
  void request_stop() {
    std::atomic_ref(runtime->stop_requested).store(true);
    kick();
  }
  // Which exception's handler halted, or -1. The handlers are HLTs, one for each vector; error codes stay on the stack.
  int vector() const {
    const uint64_t rip = context_->state.rip;
    return rip > kHandlers && rip <= kHandlers + 256 * 16 ? static_cast<int>((rip - 1 - kHandlers) / 16) : -1;
  }
  uint64_t stacked(unsigned word) { return get64(context_->state.gpr[cpu::kRsp] + 8 * word); }

  // Remembers accesses; reads give `answer`.
  struct Device final : io::IoHandler {
    uint64_t io_read(uint64_t offset, unsigned size) override {
      reads.push_back({offset, size});
      return answer;
    }
    void io_write(uint64_t offset, uint64_t value, unsigned size) override {
      writes.push_back({offset, size});
      last = value;
      if (on_write) on_write();
    }
    std::vector<std::pair<uint64_t, unsigned>> reads, writes;
    uint64_t answer = 0, last = 0;
    std::function<void()> on_write;
  } device;

  std::unique_ptr<Runtime> runtime;

 private:
  static constexpr size_t kStackBytes = size_t{1} << 20, kMappingBytes = kStackBytes + sizeof(Context);

  bool on_fault(int signo, siginfo_t* info, ucontext_t* uc) override { return runtime->on_fault(signo, info, uc); }

  void enter_long_mode() {
    cpu::CpuState& s = context_->state;
    put64(kTables, (kTables + 0x1000) | kPresent | kWritable);
    for (uint64_t i = 0; i < 4; ++i)
      put64(kTables + 0x1000 + 8 * i, (kTables + 0x4000 + 0x1000 * i) | kPresent | kWritable);
    for (uint64_t i = 0; i < 4 * 512; ++i) put64(kTables + 0x4000 + 8 * i, (i << 21) | kPresent | kWritable | kLarge);
    put64(kTables + 0x4000, kSmallTable | kPresent | kWritable);
    for (uint64_t page = 0; page < 512; ++page) put64(kSmallTable + 8 * page, page << 12 | kPresent | kWritable);
    put64(kGdt + 0x08, 0x00af9b000000ffff);
    put64(kGdt + 0x10, 0x00cf93000000ffff);
    for (uint64_t v = 0; v < 256; ++v) {
      const uint64_t handler = kHandlers + 16 * v;
      put(handler, {0xf4});
      put64(kIdt + 16 * v, (handler & 0xffff) | 0x08 << 16 | uint64_t{0x8e00} << 32 | (handler >> 16 & 0xffff) << 48);
      put64(kIdt + 16 * v + 8, handler >> 32);
    }
    s.gdtr = {.base = kGdt, .limit = 0x17};
    s.idtr = {.base = kIdt, .limit = 0xfff};
    s.segment[cpu::kCs] = {.base = 0, .limit = 0xffffffff, .selector = 0x08, .attributes = 0xa09b};
    for (const unsigned i : {cpu::kSs, cpu::kDs, cpu::kEs, cpu::kFs, cpu::kGs})
      s.segment[i] = {.base = 0, .limit = 0xffffffff, .selector = 0x10, .attributes = 0xc093};
    s.cr0 = cpu::cr0::kPe | cpu::cr0::kPg | cpu::cr0::kNe | cpu::cr0::kWp | cpu::cr0::kEt | cpu::cr0::kMp;
    s.cr3 = kTables;
    s.cr4 = cpu::cr4::kPae | cpu::cr4::kOsfxsr | cpu::cr4::kOsxmmexcpt | cpu::cr4::kOsxsave;
    s.xcr0 = 7;
    s.efer = cpu::efer::kLme | cpu::efer::kLma | cpu::efer::kSce;
    s.gpr = {};
    s.gpr[cpu::kRsp] = kStack;
    context_->set_rflags(cpu::rflags::kFixed1);
    runtime->flush_tlb({.kind = FlushRequest::Kind::kAll});
  }

  struct Bus final : cpu::LapicBus {
    void send_ipi(unsigned, uint64_t) override {}
    void broadcast_eoi(uint8_t) override {}
  } bus_;
  RuntimeOptions options_;
  std::unique_ptr<memory::GuestMemory> memory_;
  std::shared_ptr<CodeSpace> space_;
  io::AddressSpace physical_{"physical", uint64_t{1} << 40}, ports_{"ports", 65536};
  io::IrqRouter irq_;
  io::InstructionClock clock_;
  cpu::CpuModel model_ = *cpu::CpuModel::create({.name = "max", .tsc_frequency_hz = 1'000'000'000, .cpu_count = 1});
  cpu::Lapic lapic_{{}, clock_, bus_};
  std::byte* mapping_ = nullptr;
  Context* context_ = nullptr;
};

}  // namespace rhea::dbt
