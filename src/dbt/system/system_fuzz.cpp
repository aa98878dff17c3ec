// SPDX-License-Identifier: Apache-2.0
// Hostile guest against the system functions: random tables, registers and instructions. Whatever comes, they
// neither crash nor hang nor leave the processor in a state that it cannot have.
#include <cstring>

#include "base/check.h"
#include "dbt/system/machine_fake.h"

namespace rhea::dbt {
namespace {

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return at_ >= size_; }
  uint8_t byte() { return empty() ? 0 : data_[at_++]; }
  uint64_t number(unsigned bytes) {
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; ++i) value |= uint64_t{byte()} << (8 * i);
    return value;
  }
  // Interesting registers: small, near the ends, addresses of tables, anything.
  uint64_t reg() {
    uint8_t kind = byte();
    switch (kind & 7) {
      case 0: return kind >> 3;
      case 1: return number(2);
      case 2: return FakeMachine::kGdt + number(2);
      case 3: return FakeMachine::kMmio - 8 + (kind >> 3);
      case 4: return ~uint64_t{0} - (kind >> 3);
      case 5: return (uint64_t{1} << 47) - 16 + (kind >> 3);
      case 6: return number(4);
      default: return number(8);
    }
  }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
};

void set_up(FakeMachine& machine, Input& input) {
  uint8_t mode = input.byte();
  unsigned cpl = mode >> 6;
  switch (mode & 3) {
    case 0: machine.enter_real_mode(); break;
    case 1: machine.enter_protected_mode(cpl); break;
    case 2: machine.enter_long_mode(cpl); break;
    default: machine.enter_compatibility_mode(cpl); break;
  }
  cpu::CpuState& state = machine.state;
  for (uint64_t& reg : state.gpr) reg = input.reg();
  if (mode & 4) state.gpr[cpu::kRsp] = FakeMachine::kStack[cpl] - 0x100;
  state.cr4 |= input.number(3) & machine.context.cpu_model->supported_cr4() & ~cpu::cr4::kPcide;
  if (!(state.efer & cpu::efer::kLma)) state.cr4 &= ~cpu::cr4::kPae;
  state.xcr0 = input.byte() & 4 ? 7 : 3;
  uint64_t allowed = 0x3f7fd5 & ~(cpu::rflags::kVm);
  machine.context.set_rflags((input.number(3) & allowed) | cpu::rflags::kFixed1);
  // Descriptors and gates at random places.
  for (unsigned count = input.byte() & 15; count > 0; --count) {
    uint8_t where = input.byte();
    uint64_t table = where & 0x80   ? FakeMachine::kIdt
                     : where & 0x40 ? FakeMachine::kPageTables + 0x2000
                                    : FakeMachine::kGdt;
    machine.write(table + (where & 0x3f) * 8, input.number(8), 8);
  }
  if (mode & 8) machine.write(FakeMachine::kTss + input.byte(), input.number(8), 8);
  machine.context.exit_request = 1;  // one run of a string instruction at a time
}

// What must hold of any state that the processor can be in.
void check_state(const Context& context) {
  const cpu::CpuState& state = context.state;
  RHEA_CHECK(!(state.cr0 & cpu::cr0::kPg) || (state.cr0 & cpu::cr0::kPe));
  bool lma = state.efer & cpu::efer::kLma;
  RHEA_CHECK(lma == ((state.cr0 & cpu::cr0::kPg) && (state.efer & cpu::efer::kLme)));
  RHEA_CHECK(!lma || (state.cr4 & cpu::cr4::kPae));
  RHEA_CHECK((state.cr4 & ~context.cpu_model->supported_cr4()) == 0);
  RHEA_CHECK((state.xcr0 & ~context.cpu_model->supported_xcr0()) == 0);
  RHEA_CHECK(state.protected_mode() || state.cpl() == 0);
  RHEA_CHECK(!lma || !state.virtual8086());
  RHEA_CHECK(!state.virtual8086() || state.cpl() == 3);
  RHEA_CHECK(!state.code64() || is_canonical(state.rip) || state.rip == (uint64_t{1} << 47));
  for (unsigned segment : {cpu::kFs, cpu::kGs}) RHEA_CHECK(is_canonical(state.segment[segment].base));
  for (uint64_t msr : {state.lstar, state.cstar, state.kernel_gs_base}) RHEA_CHECK(is_canonical(msr));
}

void run_input(Input& input) {
  FakeMachine machine;
  set_up(machine, input);
  Context& context = machine.context;
  for (unsigned steps = 0; steps < 16 && !input.empty(); ++steps) {
    uint8_t bytes[15];
    for (uint8_t& byte : bytes) byte = input.byte();
    unsigned size = code_address_size(context);
    auto mode = size == 8 ? isa::x86::CpuMode::k64 : size == 4 ? isa::x86::CpuMode::k32 : isa::x86::CpuMode::k16;
    Insn insn;
    if (isa::x86::decode(bytes, mode, insn) != isa::x86::DecodeStatus::kOk || !has_system_function(insn.row)) continue;
    Fallible<Next> result = execute_system(context, insn);
    Next next = result ? *result : deliver_exception(context, result.error());
    check_state(context);
    if (next == Next::kShutdown) return;
  }
}

}  // namespace
}  // namespace rhea::dbt

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  rhea::dbt::Input input(data, size);
  rhea::dbt::run_input(input);
  return 0;
}
