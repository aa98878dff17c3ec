// SPDX-License-Identifier: Apache-2.0
// IN, OUT, INS and OUTS, with the I/O permission bitmap of the TSS. [SDM-1 19.5] [SDM-2A IN]
#include "cpu/lapic.h"
#include "dbt/system/internal.h"
#include "dbt/system/repeat.h"

namespace rhea::dbt {

namespace {

// Ports are open by privilege, else by the TSS's bitmap; two bytes are always read of it. [SDM-1 19.5.2]
Fallible<void> check_port(Context& context, uint16_t port, unsigned size_bytes) {
  const cpu::CpuState& state = context.state;
  if (!state.protected_mode()) return {};
  if (!state.virtual8086() && state.cpl() <= ((state.rflags >> 12) & 3)) return {};
  const cpu::Segment& tss = state.segment[cpu::kTr];
  constexpr unsigned kMapOffset = 0x66;
  if (!tss.usable() || !(tss.type() & 8) || tss.limit < kMapOffset + 1) return gp0();
  auto read_word = [&](uint64_t offset) {
    return read_linear(context, wrap_linear(context, tss.base + offset), 2, MmuIndex::kSupervisor);
  };
  uint64_t offset = GUEST_TRY(read_word(kMapOffset)) + port / 8;
  if (offset + 1 > tss.limit) return gp0();
  uint64_t bits = GUEST_TRY(read_word(offset)) >> (port & 7);
  if (bits & ((1u << size_bytes) - 1)) return gp0();
  return {};
}

// Which instruction accesses a port, for an SMI that it raises. [APM-2 10.2.6]
enum PortKind : uint32_t { kPortOut = 0, kPortIn = 1, kPortString = 4 };

// The handler of an SMI that the access just made has raised is told of it. Vectors saved.
void note_smi(Context& context, const Insn& insn, uint16_t port, unsigned size_bytes, uint32_t kind) {
  if (!std::atomic_ref(context.irq_pending).load(std::memory_order_relaxed) || context.state.in_smm) return;
  if (context.lapic->pending() != cpu::LapicEvent::kSmi) return;
  constexpr uint32_t kValid = 2, kRepeated = 8, kSizeShift = 4;
  const cpu::CpuState& s = context.state;
  if ((kind & kPortString) && repeats(insn)) kind |= kRepeated;
  context.port_trap = {.rip = s.rip,
                       .rcx = s.gpr[cpu::kRcx],
                       .rsi = s.gpr[cpu::kRsi],
                       .rdi = s.gpr[cpu::kRdi],
                       .word = uint32_t{port} << 16 | size_bytes << kSizeShift | kValid | kind};
}

uint64_t read_port(Context& context, const Insn& insn, uint16_t port, unsigned size_bytes, uint32_t kind = 0) {
  uint64_t value = 0;
  note_port_access(context, port, size_bytes);
  with_vectors_saved(context, [&] {
    value = context.ports->read(port, size_bytes);
    note_smi(context, insn, port, size_bytes, kind | kPortIn);
  });
  return value;
}

uint16_t dx(const Context& context) { return static_cast<uint16_t>(context.state.gpr[cpu::kRdx]); }

uint16_t port_of(const Context& context, const Insn& insn) {
  return insn.imm_bytes ? static_cast<uint8_t>(insn.imm) : dx(context);
}

void write_port(Context& context, const Insn& insn, uint64_t value, unsigned size_bytes, uint32_t kind = kPortOut) {
  const uint16_t port = kind & kPortString ? dx(context) : port_of(context, insn);
  note_port_access(context, port, size_bytes);
  with_vectors_saved(context, [&] {
    context.ports->write(port, value, size_bytes);
    note_smi(context, insn, port, size_bytes, kind);
  });
}

unsigned io_size(const Insn& insn) { return insn.operand_size > 4 ? 4 : insn.operand_size; }

Fallible<void> ins_element(Context& context, const Insn& insn, unsigned size) {
  const unsigned address_size = insn.mem.address_size;
  uint64_t offset = read_register(context, cpu::kRdi, address_size);
  uint64_t linear = GUEST_TRY(linear_address(context, cpu::kEs, offset, size, Access::kWrite));
  GUEST_TRY(check_alignment(context, linear, size));
  // The device must not lose data to a fault of ours.
  GUEST_TRY(probe_write(context, linear, size, current_mmu(context)));
  GUEST_TRY(write_linear(context, linear, read_port(context, insn, dx(context), size, kPortString), size,
                         current_mmu(context)));
  advance_register(context, cpu::kRdi, address_size, size);
  return {};
}

Fallible<void> outs_element(Context& context, const Insn& insn, unsigned size) {
  const unsigned address_size = insn.mem.address_size;
  uint64_t offset = read_register(context, cpu::kRsi, address_size);
  uint64_t linear = GUEST_TRY(linear_address(context, insn.mem.segment, offset, size, Access::kRead));
  GUEST_TRY(check_alignment(context, linear, size));
  uint64_t value = GUEST_TRY(read_linear(context, linear, size, current_mmu(context)));
  write_port(context, insn, value, size, kPortString);
  advance_register(context, cpu::kRsi, address_size, size);
  return {};
}

template <class Element>
Fallible<Next> repeat_io(Context& context, const Insn& insn, Element element) {
  const unsigned size = io_size(insn);
  GUEST_TRY(check_port(context, dx(context), size));
  if (!repeats(insn)) {
    GUEST_TRY(element(context, insn, size));
    return finish(context, insn);
  }
  uint64_t count = read_register(context, cpu::kRcx, insn.mem.address_size);
  while (count != 0) {
    GUEST_TRY(element(context, insn, size));
    write_register(context, cpu::kRcx, insn.mem.address_size, --count);
    if (count != 0 && must_leave_repeat(context)) return leave_repeat(context);
  }
  return finish(context, insn);
}

}  // namespace

namespace op {

RHEA_SYSTEM_FUNCTION(in) {
  uint16_t port = port_of(context, insn);
  unsigned size = io_size(insn);
  GUEST_TRY(check_port(context, port, size));
  write_register(context, cpu::kRax, size, read_port(context, insn, port, size));
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(out) {
  uint16_t port = port_of(context, insn);
  unsigned size = io_size(insn);
  GUEST_TRY(check_port(context, port, size));
  write_port(context, insn, read_register(context, cpu::kRax, size), size);
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(ins) { return repeat_io(context, insn, ins_element); }
RHEA_SYSTEM_FUNCTION(outs) { return repeat_io(context, insn, outs_element); }

}  // namespace op

}  // namespace rhea::dbt
