// SPDX-License-Identifier: Apache-2.0
// The power-on state, and CpuState through a state file and back.
#include "cpu/cpu_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cpu/cpu_state_section.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::cpu {
namespace {

using ::testing::HasSubstr;

CpuModel model(const char* name = "max") { return CpuModel::create({.name = name}).value(); }

std::vector<std::byte> saved(const CpuState& state, uint32_t version = kCpuStateVersion) {
  state::StateWriter writer("cpu", version);
  save(writer, state);
  return std::move(writer).finish();
}

Status loaded(const CpuState& from, CpuState& to, uint32_t version = kCpuStateVersion) {
  std::vector<std::byte> file = saved(from, version);
  auto reader = state::StateReader::open(file, kCpuStateVersion);
  if (!reader) return std::unexpected(reader.error());
  return load(*reader, model(), to);
}

TEST(CpuState, PowerOn) {
  CpuState state;
  state.gpr[kRax] = 5;
  reset_to_power_on(state);
  EXPECT_EQ(state.gpr[kRax], 0u);
  EXPECT_EQ(state.segment[kCs].base + state.rip, 0xfffffff0u);
  EXPECT_EQ(state.rflags, rflags::kFixed1);
  EXPECT_EQ(state.cr0, 0x60000010u);
  EXPECT_EQ(state.dr[6], 0xffff0ff0u);
  EXPECT_FALSE(state.protected_mode());
  EXPECT_EQ(state.cpl(), 0u);
  EXPECT_EQ(static_cast<uint8_t>(state.xsave[0]), 0x40);
}

// [SDM-3A 10.1.1 table 10-1]
TEST(CpuState, Init) {
  CpuState power_on, state;
  reset_to_power_on(power_on, 0xa0671);
  reset_to_power_on(state);
  for (uint64_t& gpr : state.gpr) gpr = 5;
  for (uint64_t& dr : state.dr) dr = 6;
  state.segment[kCs] = {.base = 0x1000, .limit = 0xfffff, .selector = 8, .attributes = 0xa09b};
  state.gdtr = state.idtr = {.base = 0x5000, .limit = 24};
  state.rip = 0x1234;
  state.rflags |= rflags::kIf | rflags::kDf;
  state.cr0 = cr0::kPg | cr0::kPe | cr0::kWp | cr0::kNw;
  state.cr2 = state.cr3 = 0x2000;
  state.cr4 = cr4::kPae;
  state.efer = efer::kLme | efer::kLma;
  state.xcr0 = 7;
  state.xsave[160] = std::byte{0x5a};
  state.star = state.pat = state.mtrr_def_type = state.tsc_aux = state.kvm_poll_control = 7;
  state.kvm_system_time = state.kvm_pv_eoi = 0x3001;
  state.nmi_blocked = state.nmi_pending = state.halted = state.sti_shadow = state.wait_for_sipi = true;
  reset_by_init(state, 0xa0671);

  EXPECT_EQ(state.gpr, power_on.gpr) << "the signature in EDX, nothing else";
  EXPECT_EQ(state.segment, power_on.segment);
  EXPECT_EQ(state.gdtr, power_on.gdtr);
  EXPECT_EQ(state.idtr, power_on.idtr);
  EXPECT_EQ(state.dr, power_on.dr);
  EXPECT_EQ(state.rip, 0xfff0u);
  EXPECT_EQ(state.rflags, rflags::kFixed1);
  EXPECT_EQ(state.cr0, cr0::kNw | cr0::kEt) << "CD and NW stay as they were";
  EXPECT_EQ(state.cr2 | state.cr3 | state.cr4 | state.efer, 0u);
  EXPECT_EQ(state.xcr0, 7u);
  EXPECT_EQ(static_cast<uint8_t>(state.xsave[160]), 0x5a);
  for (uint64_t kept : {state.star, state.pat, state.mtrr_def_type, state.tsc_aux, state.kvm_poll_control})
    EXPECT_EQ(kept, 7u);
  EXPECT_EQ(state.kvm_system_time | state.kvm_pv_eoi, 0u);
  EXPECT_FALSE(state.nmi_blocked || state.nmi_pending || state.halted || state.sti_shadow || state.wait_for_sipi);
}

TEST(CpuStateSection, RoundTrip) {
  CpuState before, after;
  reset_to_power_on(before);
  for (unsigned i = 0; i < 16; ++i) before.gpr[i] = 0x0123456789abcdef * (i + 1);
  before.segment[kFs].base = 0xffff888000000000;
  before.star = 0x23001000000000;
  before.mtrr_fixed[10] = 6;
  before.kvm_poll_control = 0;
  before.nmi_blocked = true;
  before.halted = true;
  before.xsave[160] = std::byte{0x5a};
  Status status = loaded(before, after);
  ASSERT_TRUE(status) << status.error().to_string();
  EXPECT_EQ(after.gpr, before.gpr);
  EXPECT_EQ(after.segment, before.segment);
  EXPECT_EQ(after.xsave, before.xsave);
  EXPECT_EQ(after.mtrr_fixed, before.mtrr_fixed);
  EXPECT_TRUE(after.nmi_blocked && after.halted && !after.sti_shadow);
  EXPECT_EQ(saved(after), saved(before));
}

TEST(CpuStateSection, EveryRegisterIsSaved) {
  constexpr uint64_t CpuState::* kRegisters[] = {&CpuState::cr2,
                                                 &CpuState::star,
                                                 &CpuState::lstar,
                                                 &CpuState::cstar,
                                                 &CpuState::sfmask,
                                                 &CpuState::kernel_gs_base,
                                                 &CpuState::sysenter_cs,
                                                 &CpuState::sysenter_esp,
                                                 &CpuState::sysenter_eip,
                                                 &CpuState::tsc_adjust,
                                                 &CpuState::tsc_aux,
                                                 &CpuState::pat,
                                                 &CpuState::misc_enable,
                                                 &CpuState::spec_ctrl,
                                                 &CpuState::xss,
                                                 &CpuState::bios_sign_id,
                                                 &CpuState::mtrr_def_type,
                                                 &CpuState::mcg_status,
                                                 &CpuState::kvm_system_time,
                                                 &CpuState::kvm_wall_clock,
                                                 &CpuState::kvm_async_pf,
                                                 &CpuState::kvm_steal_time,
                                                 &CpuState::kvm_pv_eoi,
                                                 &CpuState::kvm_poll_control};
  CpuState before, after;
  reset_to_power_on(before);
  uint64_t value = 0x100;
  for (auto member : kRegisters) before.*member = ++value;
  for (uint64_t& dr : before.dr) dr = ++value;
  for (uint64_t& mtrr : before.mtrr_base) mtrr = ++value;
  for (uint64_t& mtrr : before.mtrr_mask) mtrr = ++value;
  before.gdtr = {.base = 24, .limit = 25};
  before.idtr = {.base = 26, .limit = 27};
  before.mov_ss_shadow = before.sti_shadow = before.nmi_pending = before.wait_for_sipi = true;
  ASSERT_TRUE(loaded(before, after));
  for (auto member : kRegisters) EXPECT_EQ(after.*member, before.*member);
  EXPECT_EQ(after.dr, before.dr);
  EXPECT_EQ(after.mtrr_base, before.mtrr_base);
  EXPECT_EQ(after.mtrr_mask, before.mtrr_mask);
  EXPECT_EQ(after.gdtr, before.gdtr);
  EXPECT_EQ(after.idtr, before.idtr);
  EXPECT_TRUE(after.mov_ss_shadow && after.sti_shadow && after.nmi_pending && after.wait_for_sipi);
}

TEST(CpuStateSection, TheFirstVersionLoads) {
  CpuState before, after;
  reset_to_power_on(before);
  before.rip = 0x777;
  before.wait_for_sipi = true;
  ASSERT_TRUE(loaded(before, after, 1));
  EXPECT_EQ(after.rip, 0x777u);
  EXPECT_FALSE(after.wait_for_sipi) << "the first version did not know it";
}

TEST(CpuStateSection, ImpossibleStatesAreRefused) {
  struct Case {
    const char* what;
    void (*spoil)(CpuState&);
  };
  const Case cases[] = {
      {"CR0", [](CpuState& s) { s.cr0 |= 1ull << 40; }},
      {"paging without protection", [](CpuState& s) { s.cr0 |= cr0::kPg; }},
      {"CR4", [](CpuState& s) { s.cr4 |= cr4::kLa57; }},
      {"EFER", [](CpuState& s) { s.efer |= 1ull << 12; }},
      {"LMA", [](CpuState& s) { s.efer |= efer::kLma; }},
      {"RFLAGS", [](CpuState& s) { s.rflags = 0; }},
      {"CR3", [](CpuState& s) { s.cr3 = 1ull << 60; }},
      {"XCR0", [](CpuState& s) { s.xcr0 = 0x1000; }},
      {"XCR0", [](CpuState& s) { s.xcr0 = 5; }},
      {"canonical", [](CpuState& s) { s.lstar = 1ull << 50; }},
      {"canonical", [](CpuState& s) { s.segment[kGs].base = 1ull << 63; }},
      {"MXCSR", [](CpuState& s) { s.xsave[26] = std::byte{1}; }},
      {"XSTATE_BV", [](CpuState& s) { s.xsave[513] = std::byte{2}; }},
      {"header", [](CpuState& s) { s.xsave[527] = std::byte{0x80}; }},
  };
  for (const Case& test : cases) {
    CpuState before, after;
    reset_to_power_on(before);
    test.spoil(before);
    after.rip = 42;
    Status status = loaded(before, after);
    ASSERT_FALSE(status) << test.what;
    EXPECT_THAT(status.error().to_string(), HasSubstr(test.what));
    EXPECT_EQ(after.rip, 42u);
  }
}

TEST(CpuStateSection, OfferMustBeMet) {
  state::StateWriter writer;
  save_offer(writer, model("max"));
  std::vector<std::byte> file = std::move(writer).finish();
  auto reader = state::StateReader::open(file);
  ASSERT_TRUE(reader);
  EXPECT_TRUE(load_offer(*reader, model("max")));
  Status refused = load_offer(*reader, model("x86-64-v2"));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message(), HasSubstr("lacks"));
}

}  // namespace
}  // namespace rhea::cpu
