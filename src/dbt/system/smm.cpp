// SPDX-License-Identifier: Apache-2.0
// System management mode: what an SMI does, and RSM. [SDM-3C 32; APM-2 10]
//
// The state-save area has AMD64's layout [APM-2 10.2.3] whatever the vendor: it holds all of the segment registers,
// of which Intel's for 64-bit processors leaves parts undocumented, and it is the one that firmware for virtual
// machines knows. State that it has no room for (CR2, DR0-DR3, x87 and vector registers, MSRs) stays in the processor.
#include "dbt/system/internal.h"

namespace rhea::dbt {

using cpu::Segment;

namespace {

namespace c0 = cpu::cr0;
namespace c4 = cpu::cr4;
namespace fer = cpu::efer;
namespace rf = cpu::rflags;

// Offsets within the last 512 bytes of the 64 KiB from SMBASE.
constexpr unsigned kAreaStart = 0xfe00, kAreaBytes = 0x200;
constexpr unsigned kSegments = 0x00, kGdtr = 0x60, kLdtr = 0x70, kIdtr = 0x80, kTr = 0x90, kRestartRip = 0xa0,
                   kRestartRcx = 0xa8, kRestartRsi = 0xb0, kRestartRdi = 0xb8, kIoTrap = 0xc0, kIoRestart = 0xc8,
                   kHaltRestart = 0xc9, kEfer = 0xd0, kRevision = 0xfc, kSmbase = 0x100, kCr4 = 0x148, kCr3 = 0x150,
                   kCr0 = 0x158, kDr7 = 0x160, kDr6 = 0x168, kRflags = 0x170, kRip = 0x178, kRegisters = 0x1f8;
constexpr uint32_t kRevisionId = 0x30064;  // I/O restart and SMBASE relocation
constexpr uint64_t kHandlerOffset = 0x8000;
constexpr unsigned kSegmentOrder[6] = {cpu::kEs, cpu::kCs, cpu::kSs, cpu::kDs, cpu::kFs, cpu::kGs};

struct Area {
  std::byte bytes[kAreaBytes];

  uint64_t get(unsigned offset, unsigned size) const { return load_host(bytes + offset, size); }
  void put(unsigned offset, uint64_t value, unsigned size) { store_host(bytes + offset, value, size); }
  void put_segment(unsigned offset, const Segment& segment) {
    put(offset, segment.selector, 2);
    put(offset + 2, segment.attributes, 2);
    put(offset + 4, segment.limit, 4);
    put(offset + 8, segment.base, 8);
  }
  Segment segment(unsigned offset) const {
    return {.base = get(offset + 8, 8),
            .limit = static_cast<uint32_t>(get(offset + 4, 4)),
            .selector = static_cast<uint16_t>(get(offset, 2)),
            .attributes = static_cast<uint16_t>(get(offset + 2, 2) & 0xf0ff)};
  }
};

// Each piece of the area that lies in one page; SMBASE may be any number.
template <class Piece>
void for_each_piece(uint32_t smbase, Piece piece) {
  for (unsigned done = 0; done < kAreaBytes;) {
    const uint64_t physical = (smbase + kAreaStart + done) & 0xffffffffu;
    const auto room = static_cast<unsigned>(memory::kPageSize - (physical & (memory::kPageSize - 1)));
    const unsigned size = kAreaBytes - done < room ? kAreaBytes - done : room;
    piece(physical, done, size);
    done += size;
  }
}

void save(const Context& context, bool halted, Area& area) {
  const cpu::CpuState& s = context.state;
  for (unsigned i = 0; i < 6; ++i) area.put_segment(kSegments + 16 * i, s.segment[kSegmentOrder[i]]);
  area.put_segment(kLdtr, s.segment[cpu::kLdtr]);
  area.put_segment(kTr, s.segment[cpu::kTr]);
  area.put(kGdtr + 4, s.gdtr.limit, 2);
  area.put(kGdtr + 8, s.gdtr.base, 8);
  area.put(kIdtr + 4, s.idtr.limit, 2);
  area.put(kIdtr + 8, s.idtr.base, 8);
  const PortTrap& port = context.port_trap;
  if (port.word) {
    area.put(kRestartRip, port.rip, 8);
    area.put(kRestartRcx, port.rcx, 8);
    area.put(kRestartRsi, port.rsi, 8);
    area.put(kRestartRdi, port.rdi, 8);
    area.put(kIoTrap, port.word, 4);
  }
  area.put(kHaltRestart, halted, 1);
  area.put(kEfer, s.efer, 8);
  area.put(kRevision, kRevisionId, 4);
  area.put(kSmbase, s.smbase, 4);
  area.put(kCr4, s.cr4, 8);
  area.put(kCr3, s.cr3, 8);
  area.put(kCr0, s.cr0, 8);
  area.put(kDr7, s.dr[7], 8);
  area.put(kDr6, s.dr[6], 8);
  area.put(kRflags, context.rflags(), 8);
  area.put(kRip, s.rip, 8);
  for (unsigned reg = 0; reg < 16; ++reg) area.put(kRegisters - 8 * reg, s.gpr[reg], 8);
}

// What the handler starts with. [APM-2 10.3.1; SDM-3C 32.5.1]
void start_handler(Context& context) {
  cpu::CpuState& s = context.state;
  constexpr uint16_t kAttributes = 0x8093;
  for (const unsigned segment : kSegmentOrder) s.segment[segment] = {.limit = 0xffffffff, .attributes = kAttributes};
  s.segment[cpu::kCs].selector = static_cast<uint16_t>(s.smbase >> 4);
  s.segment[cpu::kCs].base = s.smbase;
  s.cr0 &= ~(c0::kPe | c0::kEm | c0::kTs | c0::kPg);
  s.cr4 = s.efer = 0;
  s.dr[7] = 0x400;
  s.rip = kHandlerOffset;
  s.sti_shadow = s.mov_ss_shadow = false;
  s.smm_nmi_blocked = s.nmi_blocked;
  s.nmi_blocked = true;
  context.set_rflags(rf::kFixed1);
}

// An address as the saved mode has it.
uint64_t base_of(uint64_t saved, bool long_mode) {
  return long_mode ? static_cast<uint64_t>(static_cast<int64_t>(saved << 16) >> 16) : saved & 0xffffffff;
}

// Whether the control registers can be as the area says: if not, the processor shuts down. [SDM-3C 32.3.2]
bool valid_control(const Context& context, const Area& area) {
  const uint64_t cr0 = area.get(kCr0, 8), cr4 = area.get(kCr4, 8), efer = area.get(kEfer, 8);
  const bool long_mode = (efer & fer::kLme) && (cr0 & c0::kPg);
  uint64_t known = fer::kSce | fer::kLme | fer::kLma;
  if ((static_cpuid(context, 0x80000001).edx >> 20) & 1) known |= fer::kNxe;
  if (cr0 >> 32 || ((cr0 & c0::kPg) && !(cr0 & c0::kPe)) || ((cr0 & c0::kNw) && !(cr0 & c0::kCd))) return false;
  if ((cr4 & ~context.cpu_model->supported_cr4()) || (efer & ~known)) return false;
  if (long_mode ? !(cr4 & c4::kPae) : (cr4 & c4::kPcide) != 0) return false;
  if (long_mode && (area.get(kRflags, 8) & rf::kVm)) return false;
  const Segment code = area.segment(kSegments + 16);
  return !long_mode || !code.long_mode() || !code.default_big();
}

void load_segments(cpu::CpuState& s, const Area& area, bool long_mode) {
  for (unsigned i = 0; i < 6; ++i) s.segment[kSegmentOrder[i]] = area.segment(kSegments + 16 * i);
  s.segment[cpu::kLdtr] = area.segment(kLdtr);
  s.segment[cpu::kTr] = area.segment(kTr);
  for (Segment& segment : s.segment) segment.base = base_of(segment.base, long_mode);
  s.gdtr = {.base = base_of(area.get(kGdtr + 8, 8), long_mode), .limit = static_cast<uint16_t>(area.get(kGdtr + 4, 2))};
  s.idtr = {.base = base_of(area.get(kIdtr + 8, 8), long_mode), .limit = static_cast<uint16_t>(area.get(kIdtr + 4, 2))};
  // The privilege level is that of SS, which real and virtual-8086 mode fix.
  if (!s.protected_mode() || s.virtual8086())
    s.segment[cpu::kSs].attributes =
        static_cast<uint16_t>((s.segment[cpu::kSs].attributes & ~0x60) | (s.virtual8086() ? 0x60 : 0));
}

// False: shut down. The processor has left SMM already.
bool load(Context& context, const Area& area) {
  if (!valid_control(context, area)) return false;
  cpu::CpuState& s = context.state;
  constexpr uint64_t kCr0Bits =
      c0::kPe | c0::kMp | c0::kEm | c0::kTs | c0::kNe | c0::kWp | c0::kAm | c0::kNw | c0::kCd | c0::kPg;
  constexpr uint64_t kRflagsBits = 0x3f7fd5, kDr6Bits = 0xe00f, kDr7Bits = 0xffff23ff;
  s.cr0 = (area.get(kCr0, 8) & kCr0Bits) | c0::kEt;
  s.cr4 = area.get(kCr4, 8);
  const bool long_mode = (area.get(kEfer, 8) & fer::kLme) && (s.cr0 & c0::kPg);
  s.efer = (area.get(kEfer, 8) & ~fer::kLma) | (long_mode ? fer::kLma : 0);
  s.cr3 = area.get(kCr3, 8) & ((uint64_t{1} << context.cpu_model->physical_address_bits()) - 1);
  if (!long_mode) s.cr3 &= 0xffffffff;
  s.dr[6] = 0xffff0ff0 | (area.get(kDr6, 8) & kDr6Bits);
  s.dr[7] = 0x400 | (area.get(kDr7, 8) & kDr7Bits);
  uint64_t flags = (area.get(kRflags, 8) & kRflagsBits) | rf::kFixed1;
  if (!s.protected_mode()) flags &= ~rf::kVm;
  context.set_rflags(flags);
  load_segments(s, area, long_mode);
  for (unsigned reg = 0; reg < 16; ++reg) s.gpr[reg] = area.get(kRegisters - 8 * reg, 8);
  s.rip = area.get(kRip, 8);
  if (area.get(kIoRestart, 1)) {  // [SDM-3C 32.12; APM-2 10.2.5]
    s.rip = area.get(kRestartRip, 8);
    s.gpr[cpu::kRcx] = area.get(kRestartRcx, 8);
    s.gpr[cpu::kRsi] = area.get(kRestartRsi, 8);
    s.gpr[cpu::kRdi] = area.get(kRestartRdi, 8);
  }
  if (!s.code64()) s.rip &= 0xffffffff;
  if (!pae_paging(s)) return true;
  const auto pointers = read_pdptes(context, s.cr3);
  if (pointers) s.pdpte = *pointers;
  return pointers.has_value();
}

}  // namespace

void enter_smm(Context& context) {
  cpu::CpuState& s = context.state;
  const bool halted = s.halted;
  s.halted = s.smi_pending = false;
  s.in_smm = true;
  ++s.smi_count;
  change_view(context);
  Area area;
  zero_bytes(&area, sizeof area);
  save(context, halted, area);
  context.port_trap = {};
  for_each_piece(s.smbase, [&](uint64_t physical, unsigned offset, unsigned size) {
    write_physical(context, physical, area.bytes + offset, size);
  });
  start_handler(context);
}

namespace op {

RHEA_SYSTEM_FUNCTION(rsm) {
  cpu::CpuState& s = context.state;
  if (!s.in_smm) return undefined();
  (void)insn;
  Area area;
  for_each_piece(s.smbase, [&](uint64_t physical, unsigned offset, unsigned size) {
    read_physical(context, physical, area.bytes + offset, size);
  });
  s.smbase = static_cast<uint32_t>(area.get(kSmbase, 4));
  s.in_smm = false;
  s.nmi_blocked = s.smm_nmi_blocked;
  s.sti_shadow = s.mov_ss_shadow = false;
  s.debug_pending = 0;
  change_view(context);
  if (!load(context, area)) return Next::kShutdown;
  return area.get(kHaltRestart, 1) & 1 ? Next::kHalt : Next::kDispatch;
}

}  // namespace op

}  // namespace rhea::dbt
