// SPDX-License-Identifier: Apache-2.0
// Comparison of processor states, field by field.
#include "app/state_difference.h"

#include <fmt/format.h>

#include <cstring>
#include <span>
#include <string_view>

#include "cpu/xsave_layout.h"

namespace rhea::app {
namespace {

using cpu::CpuState;

constexpr std::string_view kGprNames[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                            "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
constexpr std::string_view kSegmentNames[cpu::kSegmentCount] = {"es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"};

// The standard XSAVE area. [SDM-1 13.4]
constexpr size_t kMxcsr = 24, kX87Registers = 32, kXmm = 160, kSoftware = 416, kXstateBv = 512, kYmmHigh = 576,
                 kYmmHighEnd = 832;
constexpr uint16_t kInitialFcw = 0x37f;

struct Differences {
  std::vector<std::string> lines;
  void value(std::string_view name, uint64_t left, uint64_t right) {
    if (left != right) lines.push_back(fmt::format("{}: {:016x} against {:016x}", name, left, right));
  }
  void values(std::string_view name, std::span<const uint64_t> left, std::span<const uint64_t> right) {
    for (size_t i = 0; i < left.size(); ++i) value(fmt::format("{}[{}]", name, i), left[i], right[i]);
  }
  void table(std::string_view name, const cpu::DescriptorTable& left, const cpu::DescriptorTable& right) {
    value(fmt::format("{}.base", name), left.base, right.base);
    value(fmt::format("{}.limit", name), left.limit, right.limit);
  }
  void bytes(std::string_view name, std::span<const std::byte> left, std::span<const std::byte> right) {
    for (size_t i = 0; i < left.size(); i += 8) {
      const size_t count = std::min<size_t>(8, left.size() - i);
      uint64_t a = 0, b = 0;
      std::memcpy(&a, left.data() + i, count);
      std::memcpy(&b, right.data() + i, count);
      value(fmt::format("{}+{}", name, i), a, b);
    }
  }
};

using Image = decltype(CpuState::xsave);

struct Part {
  uint64_t component;
  size_t offset, bytes;
  std::string_view name;
};
std::vector<Part> avx512_parts() {
  const cpu::Avx512Layout& layout = cpu::host_avx512_layout();
  if (!layout.present()) return {};
  return {{cpu::kMaskComponent, layout.masks, 64, "k"},
          {cpu::kUpperZmmComponent, layout.upper_zmm, 512, "zmm upper halves"},
          {cpu::kHighZmmComponent, layout.high_zmm, 1024, "zmm16 and up"}};
}

// Components that are marked as initial hold their initial values. The x87 pointers are kept as they are: the
// engine keeps them apart.
Image normalised(const Image& image) {
  Image result = image;
  uint64_t components = 0;
  std::memcpy(&components, image.data() + kXstateBv, 8);
  if (!(components & 1)) {
    std::memcpy(result.data(), &kInitialFcw, 2);
    std::memset(result.data() + 2, 0, 4);  // FSW, FTW
    std::memset(result.data() + kX87Registers, 0, kXmm - kX87Registers);
  }
  if (!(components & 2)) std::memset(result.data() + kXmm, 0, kSoftware - kXmm);
  if (!(components & 4)) std::memset(result.data() + kYmmHigh, 0, kYmmHighEnd - kYmmHigh);
  for (const auto& [component, offset, bytes, name] : avx512_parts())
    if (!(components & component)) std::memset(result.data() + offset, 0, bytes);
  for (size_t i = 0; i < 8; ++i) std::memset(result.data() + kX87Registers + 16 * i + 10, 0, 6);
  return result;
}

void compare_vectors(Differences& differences, const CpuState& left, const CpuState& right) {
  const Image a = normalised(left.xsave), b = normalised(right.xsave);
  const auto part = [](const Image& image, size_t start, size_t end) {
    return std::span<const std::byte>(image).subspan(start, end - start);
  };
  differences.bytes("x87 environment", part(a, 0, kMxcsr), part(b, 0, kMxcsr));
  differences.bytes("mxcsr", part(a, kMxcsr, kMxcsr + 4), part(b, kMxcsr, kMxcsr + 4));
  differences.bytes("x87 registers", part(a, kX87Registers, kXmm), part(b, kX87Registers, kXmm));
  differences.bytes("xmm", part(a, kXmm, kSoftware), part(b, kXmm, kSoftware));
  differences.bytes("ymm high halves", part(a, kYmmHigh, kYmmHighEnd), part(b, kYmmHigh, kYmmHighEnd));
  for (const Part& p : avx512_parts())
    differences.bytes(p.name, part(a, p.offset, p.offset + p.bytes), part(b, p.offset, p.offset + p.bytes));
}

}  // namespace

std::vector<std::string> state_differences(const CpuState& a, const CpuState& b) {
  Differences out;
  for (size_t i = 0; i < 16; ++i) out.value(kGprNames[i], a.gpr[i], b.gpr[i]);
  out.value("rip", a.rip, b.rip);
  out.value("rflags", a.rflags, b.rflags);
  for (size_t i = 0; i < cpu::kSegmentCount; ++i) {
    out.value(fmt::format("{}.selector", kSegmentNames[i]), a.segment[i].selector, b.segment[i].selector);
    out.value(fmt::format("{}.base", kSegmentNames[i]), a.segment[i].base, b.segment[i].base);
    out.value(fmt::format("{}.limit", kSegmentNames[i]), a.segment[i].limit, b.segment[i].limit);
    out.value(fmt::format("{}.attributes", kSegmentNames[i]), a.segment[i].attributes, b.segment[i].attributes);
  }
  out.table("gdtr", a.gdtr, b.gdtr);
  out.table("idtr", a.idtr, b.idtr);
  const struct {
    std::string_view name;
    uint64_t CpuState::* field;
  } kRegisters[] = {{"cr0", &CpuState::cr0},
                    {"cr2", &CpuState::cr2},
                    {"cr3", &CpuState::cr3},
                    {"cr4", &CpuState::cr4},
                    {"efer", &CpuState::efer},
                    {"xcr0", &CpuState::xcr0},
                    {"star", &CpuState::star},
                    {"lstar", &CpuState::lstar},
                    {"cstar", &CpuState::cstar},
                    {"sfmask", &CpuState::sfmask},
                    {"kernel_gs_base", &CpuState::kernel_gs_base},
                    {"sysenter_cs", &CpuState::sysenter_cs},
                    {"sysenter_esp", &CpuState::sysenter_esp},
                    {"sysenter_eip", &CpuState::sysenter_eip},
                    {"tsc_adjust", &CpuState::tsc_adjust},
                    {"tsc_aux", &CpuState::tsc_aux},
                    {"pat", &CpuState::pat},
                    {"misc_enable", &CpuState::misc_enable},
                    {"spec_ctrl", &CpuState::spec_ctrl},
                    {"xss", &CpuState::xss},
                    {"bios_sign_id", &CpuState::bios_sign_id},
                    {"mtrr_def_type", &CpuState::mtrr_def_type},
                    {"mcg_status", &CpuState::mcg_status},
                    {"kvm_system_time", &CpuState::kvm_system_time},
                    {"kvm_wall_clock", &CpuState::kvm_wall_clock},
                    {"kvm_async_pf", &CpuState::kvm_async_pf},
                    {"kvm_steal_time", &CpuState::kvm_steal_time},
                    {"kvm_pv_eoi", &CpuState::kvm_pv_eoi},
                    {"kvm_poll_control", &CpuState::kvm_poll_control}};
  for (const auto& [name, field] : kRegisters) out.value(name, a.*field, b.*field);
  out.values("dr", a.dr, b.dr);
  out.values("pdpte", a.pdpte, b.pdpte);
  out.values("mtrr_fixed", a.mtrr_fixed, b.mtrr_fixed);
  out.values("mtrr_base", a.mtrr_base, b.mtrr_base);
  out.values("mtrr_mask", a.mtrr_mask, b.mtrr_mask);
  out.value("sti_shadow", a.sti_shadow, b.sti_shadow);
  out.value("mov_ss_shadow", a.mov_ss_shadow, b.mov_ss_shadow);
  out.value("nmi_blocked", a.nmi_blocked, b.nmi_blocked);
  out.value("nmi_pending", a.nmi_pending, b.nmi_pending);
  out.value("halted", a.halted, b.halted);
  out.value("interrupt_taken", a.interrupt_taken, b.interrupt_taken);
  out.value("debug_pending", a.debug_pending, b.debug_pending);
  compare_vectors(out, a, b);
  return out.lines;
}

}  // namespace rhea::app
