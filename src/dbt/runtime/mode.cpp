// SPDX-License-Identifier: Apache-2.0
// The mode word of a processor state. General registers only.
#include "dbt/mode.h"

namespace rhea::dbt::mode {

namespace {

using cpu::Segment;

// Base 0, limit 4 GiB, expand-up: nothing to add, nothing to check, in the given direction.
bool plain(const Segment& segment) {
  constexpr unsigned kWritableUp = 0x90 | 2, kMask = 0x90 | 8 | 4 | 2;
  return segment.limit == 0xffffffff && (segment.attributes & kMask) == kWritableUp;
}
bool flat(const Segment& segment) { return segment.base == 0 && plain(segment); }

}  // namespace

uint32_t current(const Context& context) {
  const cpu::CpuState& s = context.state;
  uint32_t word = 0;
  const bool real = !s.protected_mode() || s.virtual8086();
  const unsigned cpl = !s.protected_mode() ? 0 : s.virtual8086() ? 3 : s.cpl();
  if (s.code64()) {
    word |= 2 | kStackBig | kFlat | kFsPlain | kGsPlain;
  } else {
    if (s.segment[cpu::kCs].default_big()) word |= 1;
    if (s.segment[cpu::kSs].default_big()) word |= kStackBig;
    const Segment& cs = s.segment[cpu::kCs];
    // CS: base and limit only; reads through it (CS override) need it readable.
    const bool cs_flat = cs.base == 0 && cs.limit == 0xffffffff && (cs.attributes & 0x9a) == 0x9a;
    if (cs_flat && flat(s.segment[cpu::kDs]) && flat(s.segment[cpu::kEs]) && flat(s.segment[cpu::kSs]) && !real)
      word |= kFlat;
    if (plain(s.segment[cpu::kFs])) word |= kFsPlain;
    if (plain(s.segment[cpu::kGs])) word |= kGsPlain;
  }
  if (real) word |= kReal;
  const bool smap = s.cr4 & cpu::cr4::kSmap;
  MmuIndex index = MmuIndex::kUser;
  if (cpl != 3) index = smap && !(s.rflags & cpu::rflags::kAc) ? MmuIndex::kSupervisor : MmuIndex::kSupervisorAc;
  word |= static_cast<uint32_t>(index) << kMmuShift;
  if (cpl == 3) word |= kCplUser;
  if (cpl == 0) word |= kCplZero;
  if (smap && cpl != 3) word |= kSmap;
  if (s.cr0 & (cpu::cr0::kTs | cpu::cr0::kEm)) word |= kFpuUnavailable;
  if (s.cr0 & cpu::cr0::kEm) word |= kX87Emulated;
  if ((s.cr0 & cpu::cr0::kEm) || !(s.cr4 & cpu::cr4::kOsfxsr)) word |= kSseUndefined;
  if (!(s.cr4 & cpu::cr4::kOsxsave) || (s.xcr0 & 6) != 6) word |= kAvxUndefined;
  if (!(s.cr4 & cpu::cr4::kOsxsave) || (s.xcr0 & 0xe6) != 0xe6) word |= kAvx512Undefined;
  if (s.cr0 & cpu::cr0::kTs) word |= kSseTaskSwitched;
  if ((s.cr0 & cpu::cr0::kMp) && (s.cr0 & cpu::cr0::kTs)) word |= kWaitChecksTs;
  if (s.rflags & cpu::rflags::kTf) word |= kTrap;
  if (cpl == 3 && (s.cr0 & cpu::cr0::kAm) && (s.rflags & cpu::rflags::kAc)) word |= kAlignCheck;
  if ((s.cr4 & cpu::cr4::kTsd) && cpl != 0) word |= kTscRestricted;
  if (s.in_smm) word |= kSmm;
  return word;
}

}  // namespace rhea::dbt::mode
