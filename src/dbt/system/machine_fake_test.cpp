// SPDX-License-Identifier: Apache-2.0
// The fake runtime behind machine_fake.h.
#include "dbt/system/machine_fake.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>

#include "cpu/lapic.h"
#include "dbt/inject_bug.h"
#include "testing/clock_fake.h"
#include "testing/guest_memory_fake.h"

namespace rhea::dbt {

namespace {

class RecordingHandler final : public io::IoHandler {
 public:
  explicit RecordingHandler(std::vector<FakeMachine::PortAccess>& accesses) : accesses_(accesses) {}
  uint64_t io_read(uint64_t offset, unsigned size_bytes) override {
    uint64_t value = (offset * 0x01010101) & size_mask(size_bytes);
    accesses_.push_back({offset, value, size_bytes, false});
    return value;
  }
  void io_write(uint64_t offset, uint64_t value, unsigned size_bytes) override {
    accesses_.push_back({offset, value, size_bytes, true});
  }

 private:
  std::vector<FakeMachine::PortAccess>& accesses_;
};

class RecordingBus final : public cpu::LapicBus {
 public:
  explicit RecordingBus(FakeMachine& machine) : machine_(machine) {}
  void send_ipi(unsigned, uint64_t) override {}
  void broadcast_eoi(uint8_t) override {}
  bool send_to(uint32_t apic_id, uint8_t mode, uint8_t vector) override {
    machine_.messages.push_back({apic_id, mode, vector});
    return apic_id < FakeMachine::kProcessors;
  }
  void wake(uint32_t apic_id) override { machine_.woken.push_back(apic_id); }

 private:
  FakeMachine& machine_;
};

// SAFETY: the context's runtime is only ever passed to the services below; here it is the test's machine.
FakeMachine& machine_of(Context& context) { return *reinterpret_cast<FakeMachine*>(context.runtime); }

Context& new_context() {
  void* memory =
      mmap(nullptr, sizeof(Context), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  RHEA_CHECK(memory != MAP_FAILED);
  auto* context = static_cast<Context*>(memory);
  // The tables are as large as they are zero: construct only what comes before them.
  new (&context->state) cpu::CpuState{};
  context->address_mask = ~uint64_t{0};
  context->vector_components = kBaseComponents;
  return *context;
}

}  // namespace

// ---- services ----

void flush_tlb(Context& context, const FlushRequest& request) { machine_of(context).flushes.push_back(request); }
void change_view(Context& context) { machine_of(context).flushes.push_back({.kind = FlushRequest::Kind::kAll}); }
void* tlb_lookup(Context&, uint64_t, unsigned, Access, MmuIndex) { return nullptr; }
void note_store(Context& context, uint64_t physical, unsigned) { machine_of(context).noted_stores.push_back(physical); }
void call_with_vectors_saved(Context&, void (*function)(void*), void* argument) { function(argument); }
void save_vectors(Context&) {}
void load_vectors(Context&) {}
void follow_xcr0(Context&) {}

// ---- the machine ----

struct FakeMachine::Parts {
  explicit Parts(FakeMachine& machine)
      : port_handler(machine.port_accesses), mmio_handler(machine.mmio_accesses), bus(machine) {}
  testing::FakeGuestMemory ram{kRamBytes};
  io::AddressSpace physical{"physical", uint64_t{1} << 46};
  io::AddressSpace ports{"ports", 65536};
  testing::FakeClock clock;
  RecordingHandler port_handler, mmio_handler;
  RecordingBus bus;
  cpu::Lapic lapic{{}, clock, bus};
  std::optional<cpu::CpuModel> model;
};

FakeMachine::FakeMachine() : context(new_context()), state(context.state), parts_(std::make_unique<Parts>(*this)) {
  context.runtime = reinterpret_cast<Runtime*>(this);
#ifdef RHEA_INJECT_BUGS
  context.inject_bug = injected_by_environment();
#endif
  auto model = cpu::CpuModel::create({.name = "max", .tsc_frequency_hz = 1'000'000'000});
  RHEA_CHECK(model.has_value());
  parts_->model.emplace(std::move(*model));
  const memory::RamRegion& region = parts_->ram->regions()[0];
  parts_->physical.map(
      {.start = 0, .size_bytes = region.size_bytes, .kind = io::RangeKind::kRam, .host = region.host, .name = "ram"});
  parts_->physical.map({.start = kMmio, .size_bytes = kMmioBytes, .handler = &parts_->mmio_handler, .name = "mmio"}, 1);
  parts_->ports.map({.start = 0, .size_bytes = 65536, .handler = &parts_->port_handler, .name = "ports"});
  parts_->lapic.reset();
  context.memory = &parts_->ram.get();
  context.physical = &parts_->physical;
  context.ports = &parts_->ports;
  context.clock = &parts_->clock;
  context.cpu_model = &*parts_->model;
  context.lapic = &parts_->lapic;
  cpu::reset_to_power_on(state);
  context.set_rflags(2);
  for (unsigned cpl = 0; cpl < 4; ++cpl) {
    set_gdt(code32(cpl), descriptor(0, 0xfffff, 0x9b | cpl << 5, 0xc));
    set_gdt(data(cpl), descriptor(0, 0xfffff, 0x93 | cpl << 5, 0xc));
    set_gdt(code64(cpl), descriptor(0, 0xfffff, 0x9b | cpl << 5, 0xa));
  }
  state.gdtr = {kGdt, 0xfff};
  state.idtr = {kIdt, 0xfff};
  enter_real_mode();
}

FakeMachine::~FakeMachine() { munmap(&context, sizeof(Context)); }

std::byte* FakeMachine::host(uint64_t physical) { return parts_->ram->host_pointer({physical}, 1); }
uint64_t FakeMachine::read(uint64_t physical, unsigned size_bytes) const {
  uint64_t value = 0;
  std::memcpy(&value, parts_->ram->host_pointer({physical}, size_bytes), size_bytes);
  return value;
}
void FakeMachine::write(uint64_t physical, uint64_t value, unsigned size_bytes) {
  std::memcpy(parts_->ram->host_pointer({physical}, size_bytes), &value, size_bytes);
}
void FakeMachine::advance_clock(uint64_t ns) { parts_->clock.advance(ns); }

uint64_t FakeMachine::descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags) {
  return (limit & 0xffff) | (uint64_t{base & 0xffffff} << 16) | (uint64_t{access} << 40) |
         (uint64_t{limit >> 16 & 0xf} << 48) | (uint64_t{flags} << 52) | (uint64_t{base >> 24} << 56);
}
void FakeMachine::set_gdt(uint16_t selector, uint64_t low, uint64_t high) {
  write(kGdt + (selector & 0xfff8), low, 8);
  if (high) write(kGdt + (selector & 0xfff8) + 8, high, 8);
}
void FakeMachine::set_gate32(unsigned vector, uint16_t selector, uint32_t offset, unsigned type_and_dpl) {
  write(
      kIdt + vector * 8,
      (offset & 0xffff) | (uint64_t{selector} << 16) | (uint64_t{type_and_dpl} << 40) | (uint64_t{offset >> 16} << 48),
      8);
}
void FakeMachine::set_gate64(unsigned vector, uint16_t selector, uint64_t offset, unsigned type_and_dpl, unsigned ist) {
  write(kIdt + vector * 16,
        (offset & 0xffff) | (uint64_t{selector} << 16) | (uint64_t{ist} << 32) | (uint64_t{type_and_dpl} << 40) |
            (uint64_t{(offset >> 16) & 0xffff} << 48),
        8);
  write(kIdt + vector * 16 + 8, offset >> 32, 8);
}

void FakeMachine::enter_real_mode() {
  state.cr0 = cpu::cr0::kEt;
  state.cr4 = state.efer = 0;
  for (cpu::Segment& segment : state.segment) segment = {.base = 0, .limit = 0xffff, .selector = 0, .attributes = 0x93};
  state.rip = 0x7c00;
  state.gpr[cpu::kRsp] = 0x7000;
}

void FakeMachine::enter_protected_mode(unsigned cpl) {
  state.cr0 = cpu::cr0::kEt | cpu::cr0::kPe | cpu::cr0::kNe;
  state.cr4 = state.efer = 0;
  state.segment[cpu::kTr] = {.base = kTss, .limit = 0x2fff, .selector = kTssSelector, .attributes = 0x8b};
  state.segment[cpu::kLdtr] = {.base = kLdt, .limit = 0xff, .selector = 0x98, .attributes = 0x82};
  for (unsigned level = 0; level < 3; ++level) {
    write(kTss + 4 + level * 8, kStack[level], 4);
    write(kTss + 8 + level * 8, data(level), 4);
  }
  set_cpl(cpl);
}

void FakeMachine::enter_long_mode(unsigned cpl) {
  enter_protected_mode(cpl);
  state.cr0 |= cpu::cr0::kPg | cpu::cr0::kWp;
  state.cr4 = cpu::cr4::kPae | cpu::cr4::kOsfxsr;
  state.efer = cpu::efer::kLme | cpu::efer::kLma | cpu::efer::kSce | cpu::efer::kNxe;
  write(kPageTables, (kPageTables + 0x1000) | 7, 8);
  write(kPageTables + 0x1000, (kPageTables + 0x2000) | 7, 8);
  for (uint64_t i = 0; i < 8; ++i) write(kPageTables + 0x2000 + i * 8, (i << 21) | 0xe7, 8);
  state.cr3 = kPageTables;
  for (unsigned level = 0; level < 3; ++level) write(kTss + 4 + level * 8, kStack[level], 8);
  for (unsigned ist = 1; ist < 8; ++ist) write(kTss + 36 + (ist - 1) * 8, kIst[ist], 8);
  set_cpl(cpl);
}

void FakeMachine::enter_compatibility_mode(unsigned cpl) {
  enter_long_mode(cpl);
  state.segment[cpu::kCs] = {
      .base = 0, .limit = 0xffffffff, .selector = code32(cpl), .attributes = static_cast<uint16_t>(0xc09b | cpl << 5)};
}

void FakeMachine::set_cpl(unsigned cpl) {
  bool wide = state.efer & cpu::efer::kLma;
  auto dpl = static_cast<uint16_t>(cpl << 5);
  state.segment[cpu::kCs] = {.base = 0,
                             .limit = 0xffffffff,
                             .selector = wide ? code64(cpl) : code32(cpl),
                             .attributes = static_cast<uint16_t>((wide ? 0xa09b : 0xc09b) | dpl)};
  for (unsigned segment : {cpu::kEs, cpu::kSs, cpu::kDs, cpu::kFs, cpu::kGs})
    state.segment[segment] = {
        .base = 0, .limit = 0xffffffff, .selector = data(cpl), .attributes = static_cast<uint16_t>(0xc093 | dpl)};
  state.rip = kCode;
  state.gpr[cpu::kRsp] = kStack[cpl] - 0x800;
}

isa::x86::Insn FakeMachine::decode(const std::vector<uint8_t>& bytes) const {
  isa::x86::Insn insn;
  unsigned size = code_address_size(context);
  auto mode = size == 8 ? isa::x86::CpuMode::k64 : size == 4 ? isa::x86::CpuMode::k32 : isa::x86::CpuMode::k16;
  EXPECT_EQ(isa::x86::decode(bytes, mode, insn), isa::x86::DecodeStatus::kOk);
  EXPECT_EQ(insn.length, bytes.size());
  return insn;
}

Fallible<Next> FakeMachine::run(std::initializer_list<uint8_t> bytes) {
  isa::x86::Insn insn = decode(bytes);
  EXPECT_TRUE(has_system_function(insn.row));
  return execute_system(context, insn);
}

}  // namespace rhea::dbt
