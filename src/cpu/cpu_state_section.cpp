// SPDX-License-Identifier: Apache-2.0
// CpuState as a section: one description for both directions, and the checks of what a file may claim.
#include "cpu/cpu_state_section.h"

#include <fmt/format.h>

#include "base/endian.h"
#include "base/strings.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::cpu {

namespace {

constexpr std::string_view kSegmentNames[kSegmentCount] = {"es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"};

template <class Archive>
void describe_segment(Archive& archive, auto& self) {
  archive.field("base", self.base);
  archive.field("limit", self.limit);
  archive.field("selector", self.selector);
  archive.field("attributes", self.attributes);
}

template <class Archive>
void describe_table(Archive& archive, auto& self) {
  archive.field("base", self.base);
  archive.field("limit", self.limit);
}

template <class Archive>
void describe_msrs(Archive& archive, auto& self) {
  archive.field("star", self.star);
  archive.field("lstar", self.lstar);
  archive.field("cstar", self.cstar);
  archive.field("sfmask", self.sfmask);
  archive.field("kernel_gs_base", self.kernel_gs_base);
  archive.field("sysenter_cs", self.sysenter_cs);
  archive.field("sysenter_esp", self.sysenter_esp);
  archive.field("sysenter_eip", self.sysenter_eip);
  archive.field("tsc_adjust", self.tsc_adjust);
  archive.field("tsc_aux", self.tsc_aux);
  archive.field("pat", self.pat);
  archive.field("misc_enable", self.misc_enable);
  archive.field("spec_ctrl", self.spec_ctrl);
  archive.field("xss", self.xss);
  archive.field("bios_sign_id", self.bios_sign_id);
  archive.field("mtrr_def_type", self.mtrr_def_type);
  archive.field("mtrr_fixed", self.mtrr_fixed);
  archive.field("mtrr_base", self.mtrr_base);
  archive.field("mtrr_mask", self.mtrr_mask);
  archive.field("mcg_status", self.mcg_status);
  archive.field("kvm_system_time", self.kvm_system_time);
  archive.field("kvm_wall_clock", self.kvm_wall_clock);
  archive.field("kvm_async_pf", self.kvm_async_pf);
  archive.field("kvm_steal_time", self.kvm_steal_time);
  archive.field("kvm_pv_eoi", self.kvm_pv_eoi);
  archive.field("kvm_poll_control", self.kvm_poll_control);
}

template <class Archive>
void describe_cpu(Archive& archive, auto& self) {
  archive.field("gpr", self.gpr);
  archive.field("rip", self.rip);
  archive.field("rflags", self.rflags);
  for (unsigned i = 0; i < kSegmentCount; ++i)
    archive.section(kSegmentNames[i], 1, [&](auto& nested) { describe_segment(nested, self.segment[i]); });
  archive.section("gdtr", 1, [&](auto& nested) { describe_table(nested, self.gdtr); });
  archive.section("idtr", 1, [&](auto& nested) { describe_table(nested, self.idtr); });
  archive.field("cr0", self.cr0);
  archive.field("cr2", self.cr2);
  archive.field("cr3", self.cr3);
  archive.field("cr4", self.cr4);
  archive.field("efer", self.efer);
  archive.field("xcr0", self.xcr0);
  archive.field("dr", self.dr);
  archive.field_since(3, "pdpte", self.pdpte);
  archive.section("msr", 1, [&](auto& nested) { describe_msrs(nested, self); });
  archive.field("sti_shadow", self.sti_shadow);
  archive.field("mov_ss_shadow", self.mov_ss_shadow);
  archive.field("nmi_blocked", self.nmi_blocked);
  archive.field("nmi_pending", self.nmi_pending);
  archive.field("halted", self.halted);
  archive.field_since(2, "wait_for_sipi", self.wait_for_sipi);
  archive.field_since(3, "debug_pending", self.debug_pending);
  archive.field_since(4, "interrupt_taken", self.interrupt_taken);
  archive.field_since(5, "smbase", self.smbase);
  archive.field_since(5, "smi_count", self.smi_count);
  archive.field_since(5, "in_smm", self.in_smm);
  archive.field_since(5, "smi_pending", self.smi_pending);
  archive.field_since(5, "smm_nmi_blocked", self.smm_nmi_blocked);
  archive.field("xsave", self.xsave);
}

bool canonical(uint64_t address) {
  int64_t top = static_cast<int64_t>(address) >> 47;
  return top == 0 || top == -1;
}

// The host's XRSTOR faults on these; they must never reach it. [SDM-1 13.8.1]
void check_xsave(state::StateReader& reader, const CpuModel& model, const CpuState& state) {
  constexpr size_t kMxcsr = 24, kXstateBv = 512, kHeaderReserved = 520, kHeaderEnd = 576;
  reader.validate((base::load_le<uint32_t>(&state.xsave[kMxcsr]) & ~0xffffu) == 0, "MXCSR has reserved bits set");
  uint64_t allowed = model.supported_xcr0() | 0b11;
  reader.validate((base::load_le<uint64_t>(&state.xsave[kXstateBv]) & ~allowed) == 0,
                  "XSTATE_BV names state that the CPU model lacks");
  bool zero = true;
  for (size_t i = kHeaderReserved; i < kHeaderEnd; ++i) zero = zero && state.xsave[i] == std::byte{0};
  reader.validate(zero, "the XSAVE header is not of the standard format");
}

void check_state(state::StateReader& reader, const CpuModel& model, const CpuState& state) {
  constexpr uint64_t kCr0Bits = cr0::kPe | cr0::kMp | cr0::kEm | cr0::kTs | cr0::kEt | cr0::kNe | cr0::kWp | cr0::kAm |
                                cr0::kNw | cr0::kCd | cr0::kPg;
  constexpr uint64_t kEferBits = efer::kSce | efer::kLme | efer::kLma | efer::kNxe;
  constexpr uint64_t kRflagsBits = 0x3f7fd7;
  reader.validate((state.cr0 & ~kCr0Bits) == 0, "CR0 has reserved bits set");
  reader.validate(!(state.cr0 & cr0::kPg) || (state.cr0 & cr0::kPe), "CR0 has paging without protection");
  reader.validate((state.cr4 & ~model.supported_cr4()) == 0, "CR4 has bits set that the CPU model lacks");
  reader.validate((state.efer & ~kEferBits) == 0, "EFER has reserved bits set");
  bool long_mode = (state.efer & efer::kLme) && (state.cr0 & cr0::kPg);
  reader.validate(long_mode == state.long_mode_active(), "EFER.LMA does not follow from EFER.LME and CR0.PG");
  reader.validate(!long_mode || (state.cr4 & cr4::kPae), "long mode without CR4.PAE");
  reader.validate((state.rflags & ~kRflagsBits) == 0 && (state.rflags & rflags::kFixed1),
                  "RFLAGS has reserved bits set");
  uint64_t cr3_limit = uint64_t{1} << model.physical_address_bits();
  reader.validate(state.cr3 < cr3_limit, "CR3 is beyond physical memory");
  constexpr uint32_t kDr6Traps = 0xc00f;
  reader.validate((state.debug_pending & ~kDr6Traps) == 0, "a debug trap is pending that DR6 has no bit for");
  constexpr uint16_t kFirstTaken = CpuState::kInterruptTaken | 0x10, kLastTaken = CpuState::kInterruptTaken | 0xff;
  reader.validate(
      state.interrupt_taken == 0 || (state.interrupt_taken >= kFirstTaken && state.interrupt_taken <= kLastTaken),
      "the interrupt that was taken has no possible vector");
  uint64_t allowed_xcr0 = model.supported_xcr0() | 1;
  reader.validate((state.xcr0 & 1) && (state.xcr0 & ~allowed_xcr0) == 0 && ((state.xcr0 & 4) == 0 || (state.xcr0 & 2)),
                  "XCR0 enables state that the CPU model lacks");
  bool bases = canonical(state.kernel_gs_base) && canonical(state.gdtr.base) && canonical(state.idtr.base) &&
               canonical(state.rip) && canonical(state.lstar) && canonical(state.cstar) &&
               canonical(state.sysenter_esp) && canonical(state.sysenter_eip);
  for (const Segment& segment : state.segment) bases = bases && canonical(segment.base);
  reader.validate(bases, "an address is not canonical");
  check_xsave(reader, model, state);
}

}  // namespace

void save(state::StateWriter& writer, const CpuState& state) { describe_cpu(writer, state); }

Status load(state::StateReader& reader, const CpuModel& model, CpuState& state) {
  CpuState loaded;
  describe_cpu(reader, loaded);
  if (reader.ok()) check_state(reader, model, loaded);
  if (reader.ok()) state = loaded;
  return reader.status();
}

void save_offer(state::StateWriter& writer, const CpuModel& model) {
  writer.field("model", model.name());
  writer.field("intel", model.intel());
  writer.field("physical_address_bits", static_cast<uint32_t>(model.physical_address_bits()));
  writer.field("features", fmt::format("{}", fmt::join(model.feature_names(), " ")));
}

Status load_offer(state::StateReader& reader, const CpuModel& model) {
  std::string name, features;
  bool intel = false;
  uint32_t bits = 0;
  reader.field("model", name);
  reader.field("intel", intel);
  reader.field("physical_address_bits", bits);
  reader.field("features", features);
  if (!reader.ok()) return reader.status();
  std::vector<std::string_view> missing;
  for (std::string_view feature : base::split(features, ' '))
    if (!model.has(feature)) missing.push_back(feature.substr(0, 32));
  if (missing.size() > 32) missing.resize(32);
  if (!missing.empty())
    return fail(ErrorCode::kUnsupported,
                fmt::format("the saved guest uses CPU features that this VM lacks: {}", fmt::join(missing, " ")));
  if (intel != model.intel())
    return fail(ErrorCode::kUnsupported,
                fmt::format("the saved guest runs on an {} processor", intel ? "Intel" : "AMD"));
  if (bits > model.physical_address_bits())
    return fail(ErrorCode::kUnsupported, fmt::format("the saved guest has {} physical address bits, this VM {}", bits,
                                                     model.physical_address_bits()));
  return {};
}

}  // namespace rhea::cpu
