// SPDX-License-Identifier: Apache-2.0
// A processor, RAM, ports and a device around an engine: 64-bit mode, RAM mapped one to one, every exception and
// interrupt recorded. Guests end by writing to the exit port, which stops the vCPU.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "base/event_loop.h"
#include "base/fd.h"
#include "cpu/lapic.h"
#include "io/host_clock.h"
#include "io/instruction_clock.h"
#include "machine/pc/apic_bus.h"
#include "tests/engine/assembly.h"
#include "tests/engine/engines.h"

namespace rhea::tests::engine {

class Guest {
 public:
  static constexpr uint64_t kRamBytes = 16 << 20;
  static constexpr uint64_t kGdt = 0x1000, kIdt = 0x2000, kTables = 0x10000, kHandlers = 0x20000;
  static constexpr uint64_t kCode = 0x100000, kData = 0x180000, kStack = 0x1f0000;
  static constexpr uint32_t kVector = 0x9000, kCount = 0x9008;  // where handlers leave their vector, where they count
  static constexpr uint64_t kMmio = 0xd0000000, kApic = 0xfee00000, kRom = 0xfffff000;
  static constexpr uint16_t kPorts = 0x200;

  explicit Guest(const EngineKind& kind);
  ~Guest();

  cpu::Vcpu& vcpu() { return *vcpu_; }
  cpu::Lapic& lapic() { return *lapic_; }
  io::IrqRouter& router() { return router_; }
  io::Clock& clock() { return *clock_; }
  const cpu::CpuModel& model() const { return *model_; }

  void put(uint64_t physical, const Bytes& bytes) {
    ASSERT_TRUE(memory_->write({physical}, std::as_bytes(std::span(bytes))));
  }
  void put64(uint64_t physical, uint64_t value) { put(physical, assembly::little_endian(value, 8)); }
  uint64_t get64(uint64_t physical) const {
    uint64_t value = 0;
    EXPECT_TRUE(memory_->read({physical}, std::as_writable_bytes(std::span(&value, 1))));
    return value;
  }
  uint32_t get32(uint64_t physical) const { return static_cast<uint32_t>(get64(physical)); }
  std::byte* ram() { return memory_->regions()[0].host; }
  std::span<uint8_t> rom() { return {static_cast<uint8_t*>(rom_.get()), 4096}; }

  cpu::CpuState state() const {
    cpu::CpuState state;
    vcpu_->get_state(state);
    return state;
  }
  uint64_t gpr(unsigned index) const { return state().gpr[index]; }

  // Runs `code` (then the exit) from the initial state, until something stops it.
  cpu::StopReason run(const Bytes& code) {
    put(kCode, code + assembly::exit() + assembly::spin());
    vcpu_->set_state(initial_state());
    put64(kVector, kNoVector);
    return go_on();
  }
  // Fails the test, with the engine's words, if the engine cannot go on.
  cpu::StopReason go_on() {
    const cpu::StopReason reason = vcpu_->run();
    EXPECT_EQ(vcpu_->failure(), "");
    return reason;
  }
  static constexpr uint64_t kNoVector = 0xffff;
  // The vector whose handler ended the run, or kNoVector.
  uint64_t vector() const { return get32(kVector); }
  // Replaces a vector's handler, whose default leaves the vector at kVector and exits.
  void handler(unsigned vector, const Bytes& code) { put(kHandlers + 64 * vector, code); }
  uint64_t stacked(unsigned word) const { return get64(gpr(cpu::kRsp) + 8 * word); }
  static cpu::CpuState initial_state();
  // Software-enables the local APIC.
  void enable_apic() { lapic_->io_write(0xf0, 0x1ff, 4); }

  struct Access {
    uint64_t offset, value;
    unsigned size;
    bool operator==(const Access&) const = default;
  };
  // Remembers what it is asked; a read gives `answer`, whole.
  struct Device final : io::IoHandler {
    uint64_t io_read(uint64_t offset, unsigned size) override {
      reads.push_back({offset, 0, size});
      const uint64_t value =
          answers.empty() ? answer : answers[reads.size() - 1 < answers.size() ? reads.size() - 1 : answers.size() - 1];
      return size == 8 ? value : value & ((uint64_t{1} << (8 * size)) - 1);
    }
    void io_write(uint64_t offset, uint64_t value, unsigned size) override {
      writes.push_back({offset, value, size});
      if (on_write) on_write();
    }
    std::vector<Access> reads, writes;
    uint64_t answer = 0x8877665544332211;
    std::vector<uint64_t> answers;
    std::function<void()> on_write;
  } device, ports;

 private:
  struct ExitPort final : io::IoHandler {
    uint64_t io_read(uint64_t, unsigned) override { return 0; }
    void io_write(uint64_t, uint64_t, unsigned) override { stop(); }
    std::function<void()> stop;
  } exit_port_;

  void write_tables();

  std::unique_ptr<base::EventLoop> loop_;
  std::thread loop_thread_;
  std::unique_ptr<io::Clock> clock_;
  std::unique_ptr<cpu::CpuModel> model_;
  std::unique_ptr<memory::GuestMemory> memory_;
  base::UniqueMapping rom_ = std::move(*base::UniqueMapping::anonymous(4096, "test-rom"));  // page to page
  io::AddressSpace physical_{"physical", uint64_t{1} << 52}, ports_space_{"ports", 65536};
  io::IrqRouter router_;
  machine::ApicBus bus_{router_};
  std::unique_ptr<cpu::Lapic> lapic_;
  std::unique_ptr<cpu::Engine> engine_;
  std::unique_ptr<cpu::Vcpu> vcpu_;
};

inline Guest::Guest(const EngineKind& kind) {
  if (kind.counts_instructions) {
    clock_ = std::make_unique<io::InstructionClock>();
  } else {
    loop_ = std::move(*base::EventLoop::create());
    clock_ = std::move(*io::HostClock::create(*loop_));
    loop_thread_ = std::thread([this] { loop_->run(); });
  }
  model_ = std::make_unique<cpu::CpuModel>(*cpu::CpuModel::create(
      {.name = "max", .tsc_frequency_hz = clock_->tsc_frequency_hz(), .cpu_count = 1, .withheld = kind.withheld}));
  memory_ = std::move(
      *memory::GuestMemory::create(std::vector<memory::GuestMemory::Extent>{{{0}, kRamBytes}}, {.name = "test-ram"}));
  physical_.map({.start = 0, .size_bytes = kRamBytes, .kind = io::RangeKind::kRam, .host = ram(), .name = "ram"});
  physical_.map(
      {.start = kMmio, .size_bytes = 0x2000, .kind = io::RangeKind::kMmio, .handler = &device, .name = "device"});
  physical_.map(
      {.start = kRom, .size_bytes = 0x1000, .kind = io::RangeKind::kRom, .host = rom_.bytes(), .name = "rom"});
  ports_space_.map(
      {.start = kPorts, .size_bytes = 0x100, .kind = io::RangeKind::kMmio, .handler = &ports, .name = "ports"});
  ports_space_.map({.start = assembly::kExitPort,
                    .size_bytes = 1,
                    .kind = io::RangeKind::kMmio,
                    .handler = &exit_port_,
                    .name = "exit"});
  lapic_ = std::make_unique<cpu::Lapic>(cpu::Lapic::Options{}, *clock_, bus_);
  bus_.add(*lapic_);
  router_.connect_msi_sink(&bus_);
  router_.connect_ext_int_sink(&bus_);
  physical_.map(
      {.start = kApic, .size_bytes = 0x1000, .kind = io::RangeKind::kMmio, .handler = lapic_.get(), .name = "lapic"});
  engine_ = std::move(*kind.create({.memory = *memory_,
                                    .physical = physical_,
                                    .ports = ports_space_,
                                    .clock = *clock_,
                                    .irq = router_,
                                    .cpu_model = *model_}));
  vcpu_ = std::move(*engine_->create_vcpu(0, *lapic_));
  lapic_->set_kick([this] { vcpu_->kick(); });
  exit_port_.stop = [this] { vcpu_->request_stop(); };
  write_tables();
}

inline Guest::~Guest() {
  lapic_->set_kick({});
  vcpu_.reset();
  engine_.reset();
  lapic_.reset();
  if (loop_) {
    loop_->quit();
    loop_thread_.join();
  }
}

inline void Guest::write_tables() {
  constexpr uint64_t kPresentWritable = 7, kLarge = 0x80;  // and for user mode
  put64(kTables, (kTables + 0x1000) | kPresentWritable);
  for (uint64_t i = 0; i < 4; ++i) put64(kTables + 0x1000 + 8 * i, (kTables + 0x2000 + 0x1000 * i) | kPresentWritable);
  for (uint64_t i = 0; i < 4 * 512; ++i) put64(kTables + 0x2000 + 8 * i, (i << 21) | kPresentWritable | kLarge);
  put64(kGdt + 0x08, 0x00af9b000000ffff);
  put64(kGdt + 0x10, 0x00cf93000000ffff);
  for (uint64_t v = 0; v < 256; ++v) {
    const uint64_t address = kHandlers + 64 * v;
    put(address, assembly::store_imm32(kVector, static_cast<uint32_t>(v)) + assembly::exit() + assembly::spin());
    put64(kIdt + 16 * v, (address & 0xffff) | 0x08 << 16 | uint64_t{0x8e00} << 32 | (address >> 16 & 0xffff) << 48);
    put64(kIdt + 16 * v + 8, address >> 32);
  }
}

inline cpu::CpuState Guest::initial_state() {
  cpu::CpuState s;
  cpu::reset_to_power_on(s);
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
  s.rip = kCode;
  s.rflags = cpu::rflags::kFixed1;
  return s;
}

class EngineTest : public testing::TestWithParam<EngineKind> {
 protected:
  void SetUp() override {
    std::string name = testing::UnitTest::GetInstance()->current_test_info()->name();
    name.resize(name.find('/'));
    const auto beyond = GetParam().beyond.find(name);
    if (beyond != GetParam().beyond.end())
      GTEST_SKIP() << "beyond this host's " << GetParam().name << ": " << beyond->second;
  }
  Guest guest{GetParam()};
};

// In an anonymous namespace of each file: the suite of the engines there are.
#define RHEA_ENGINE_SUITE(suite)                                              \
  INSTANTIATE_TEST_SUITE_P(Engines, suite, testing::ValuesIn(engine_kinds()), \
                           [](const auto& kind) { return kind.param.name; })

}  // namespace rhea::tests::engine
