// SPDX-License-Identifier: Apache-2.0
// Readable processor state.
#include "machine/pc/cpu_dump.h"

#include <fmt/format.h>

#include <iterator>
#include <string_view>
#include <utility>

namespace rhea::machine {
namespace {

constexpr std::string_view kGprNames[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                            "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
constexpr std::string_view kSegmentNames[cpu::kSegmentCount] = {"es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"};
constexpr std::pair<uint64_t, std::string_view> kFlagNames[] = {
    {cpu::rflags::kCf, "CF"}, {cpu::rflags::kPf, "PF"}, {cpu::rflags::kAf, "AF"}, {cpu::rflags::kZf, "ZF"},
    {cpu::rflags::kSf, "SF"}, {cpu::rflags::kTf, "TF"}, {cpu::rflags::kIf, "IF"}, {cpu::rflags::kDf, "DF"},
    {cpu::rflags::kOf, "OF"}, {cpu::rflags::kNt, "NT"}, {cpu::rflags::kRf, "RF"}, {cpu::rflags::kVm, "VM"},
    {cpu::rflags::kAc, "AC"}};

std::string_view mode_name(const cpu::CpuState& state) {
  if (state.code64()) return "64-bit";
  if (state.long_mode_active()) return "compatibility";
  if (!state.protected_mode()) return "real";
  if (state.virtual8086()) return "virtual-8086";
  return state.segment[cpu::kCs].default_big() ? "32-bit protected" : "16-bit protected";
}

}  // namespace

std::string summarise_cpu_state(const cpu::CpuState& state) {
  if (state.wait_for_sipi) return "waits for its start-up interrupt";
  return fmt::format("mode {} CPL {} rip {:016x} rsp {:016x} cr3 {:016x}{}", mode_name(state), state.cpl(), state.rip,
                     state.gpr[cpu::kRsp], state.cr3, state.halted ? ", halted" : "");
}

std::string dump_cpu_state(const cpu::CpuState& state) {
  std::string text;
  auto out = std::back_inserter(text);
  fmt::format_to(out, "  mode {} CPL {}{}\n", mode_name(state), state.cpl(), state.halted ? ", halted" : "");
  for (size_t i = 0; i < 16; ++i)
    fmt::format_to(out, "  {:<3} {:016x}{}", kGprNames[i], state.gpr[i], i % 4 == 3 ? "\n" : "");
  fmt::format_to(out, "  rip {:016x}  rflags {:08x} [", state.rip, state.rflags);
  std::string_view separator;
  for (const auto& [bit, name] : kFlagNames) {
    if (!(state.rflags & bit)) continue;
    fmt::format_to(out, "{}{}", separator, name);
    separator = " ";
  }
  fmt::format_to(out, "]\n");
  for (size_t i = 0; i < cpu::kSegmentCount; ++i) {
    const cpu::Segment& segment = state.segment[i];
    fmt::format_to(out, "  {:<4} {:04x} base {:016x} limit {:08x} attributes {:04x}\n", kSegmentNames[i],
                   segment.selector, segment.base, segment.limit, segment.attributes);
  }
  fmt::format_to(out, "  gdtr base {:016x} limit {:04x}   idtr base {:016x} limit {:04x}\n", state.gdtr.base,
                 state.gdtr.limit, state.idtr.base, state.idtr.limit);
  fmt::format_to(out, "  cr0 {:016x}  cr2 {:016x}  cr3 {:016x}  cr4 {:016x}\n", state.cr0, state.cr2, state.cr3,
                 state.cr4);
  fmt::format_to(out, "  efer {:016x}  xcr0 {:016x}  dr6 {:016x}  dr7 {:016x}\n", state.efer, state.xcr0, state.dr[6],
                 state.dr[7]);
  return text;
}

}  // namespace rhea::machine
